"""The log: each line exactly once, stamped, rotated, whoever is killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.conftest import Tree, wait_for

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ")
COUNT = "i=0\nwhile [ $i -lt {n} ]; do i=$((i+1)); echo line $i; done\necho done\nexec sleep 1000"


def all_lines(tree: Tree, name: str) -> list[str]:
    """Every line of the log and its rotated files, oldest first, stamps checked and removed."""
    current = Path(tree.detail(name)["log"])
    numbers = sorted((int(p.suffix[1:]) for p in current.parent.glob("current.*")), reverse=True)
    lines = []
    for path in (*(current.with_name(f"current.{n}") for n in numbers), current):
        for line in path.read_text().splitlines() if path.exists() else ():
            assert STAMP.match(line), line
            lines.append(line.partition("Z ")[2])
    return lines


def expected(count: int) -> list[str]:
    return [*(f"line {number}" for number in range(1, count + 1)), "done"]


def test_output_of_both_streams_is_stamped(scanning: Tree) -> None:
    """Standard output and error; /dev/stdout and /dev/stderr can be opened, whoever the service is."""
    scanning.add("a", "echo one\necho two >&2\necho three > /dev/stdout\necho four > /dev/stderr\nprintf unfinished\nexec sleep 1000")
    wait_for(lambda: "unfinished" in scanning.log("a"), "all of it")
    assert all_lines(scanning, "a") == ["one", "two", "three", "four", "unfinished"]


def test_each_line_once_when_the_supervisor_is_killed_again_and_again(scanning: Tree) -> None:
    """Nothing is lost, nothing is written twice."""
    count = 30_000
    scanning.add("a", COUNT.format(n=count))
    kills = 0
    while "done" not in scanning.log("a")[-10:] and kills < 400:
        supervisor = scanning.supervisor_pid("a")
        if supervisor:
            try:
                os.kill(supervisor, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    wait_for(lambda: scanning.log("a").endswith("done"), "the last line", 120)
    assert kills > 3
    assert all_lines(scanning, "a") == expected(count)


def test_last_words_of_a_service_are_kept(scanning: Tree) -> None:
    """What it wrote just before its end is in the log, also when nobody supervised at that moment."""
    scanning.add("a", "trap 'echo last words; exit 0' TERM\necho begun\nwhile :; do sleep 0.02; done")
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    pid, supervisor = scanning.pid("a"), scanning.supervisor_pid("a")
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{pid}/root").exists() or True, "a moment")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: "last words" in scanning.log("a"), "its last words")
    assert all_lines(scanning, "a").count("last words") == 1


def test_rotation_keeps_every_line_and_a_bounded_number_of_files(scanning: Tree) -> None:
    """max_size and keep are honoured; no line is torn apart."""
    count = 25_000
    scanning.add("a", COUNT.format(n=count), policy='[log]\nmax_size = "16K"\nkeep = 1000\n')
    wait_for(lambda: scanning.log("a").endswith("done"), "the last line", 60)
    assert all_lines(scanning, "a") == expected(count)
    directory = Path(scanning.detail("a")["log"]).parent
    assert len(list(directory.iterdir())) > 1
    scanning.add("b", COUNT.format(n=count), policy='[log]\nmax_size = "16K"\nkeep = 2\n')
    wait_for(lambda: scanning.log("b").endswith("done"), "the last line", 60)
    names = sorted(path.name for path in Path(scanning.detail("b")["log"]).parent.iterdir())
    assert set(names) <= {"current", "current.1", "current.2"}


def test_log_to_none(scanning: Tree) -> None:
    """Nothing is kept."""
    scanning.add("a", "echo secret\nexec sleep 1000", policy='[log]\nto = "none"\n')
    scanning.wait_state("a", "ready")
    assert scanning.log("a") == ""


def test_follow_goes_over_a_rotation(scanning: Tree) -> None:
    """`logs -f` shows each line once, also when the file is rotated under it."""
    count = 3000
    scanning.add("a", "trap : USR1\necho begun\nsleep 1000 &\nwait\n" + COUNT.format(n=count), policy='[log]\nmax_size = "16K"\nkeep = 100\n')
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    follower = scanning.start("ljsv", "logs", "-f", "a")
    try:
        assert follower.stdout is not None
        lines = [follower.stdout.readline()]
        scanning.ljsv("usr1", "a")
        while not lines[-1].endswith("done\n"):
            lines.append(follower.stdout.readline())
        assert [line.partition("Z ")[2].strip() for line in lines[1:]] == expected(count)
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=10)

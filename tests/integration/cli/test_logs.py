"""`ljsv logs` and `ljsv events`: over rotations, of several services in the order of time, and live."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ljsv.cli.logs_verb import LogReader, Wanted
from ljsv.cli.options import Options
from tests.conftest import Tree, wait_for

PREFIXED = re.compile(r"([a-z]+): (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (.*)")
COUNT = "i=0\nwhile [ $i -lt {n} ]; do i=$((i+1)); echo line $i; done\necho done\nexec sleep 1000"
SMALL = '[log]\nmax_size = "16K"\nkeep = 1000\n'
ROTATE = """
import itertools, sys
from ljsv.supervise.logfile import LogFile
log = LogFile(sys.argv[1], 64, 2000)
log.open()
for number in itertools.count(1):
    log.append(b"%d\\n" % number)
    if number % 8 == 0:
        log.rotate()
"""
ON_SIGNAL = "trap 'echo again' USR1\necho begun\nwhile :; do sleep 0.02; done"


def test_a_renamed_service_is_followed(scanning: Tree) -> None:
    """Over rotations, under its new name; and so are what its log service says and does."""
    path = scanning.add("web", "i=0\nwhile :; do i=$((i+1)); echo line $i; sleep 0.02; done", policy='[log]\nmax_size = "4K"\n')
    scanning.wait_state("web", "ready")
    with subprocess.Popen(["ljsv", "logs", "-f", "web"], env=scanning.env, stdout=subprocess.PIPE, text=True, **scanning._as_user()) as following:
        try:
            assert following.stdout
            following.stdout.readline()
            path.rename(scanning.sv / "shop")
            wait_for(lambda: scanning.detail("shop").get("state") == "ready", "its new name")
            wait_for(lambda: scanning.log("shop"), "a line")
            last = int(scanning.log("shop").splitlines()[-1].split()[1])
            for line in following.stdout:
                if int(line.split()[-1]) > last + 300:  # 4,096 bytes are 110 lines
                    break
        finally:
            following.kill()


def test_a_log_service_follows_a_rename(scanning: Tree) -> None:
    """In the journal, too."""
    path = scanning.write("web")
    (path / "log").mkdir()
    (path / "log/run").write_text("#!/bin/sh\nexec cat >/dev/null\n")
    (path / "log/run").chmod(0o755)
    scanning.own(path)
    path = path.rename(scanning.sv / "web")
    scanning.wait_state("web", "ready")
    wait_for(lambda: scanning.state("web/log") == "ready", "its log service")
    path.rename(scanning.sv / "shop")
    wait_for(lambda: "renamed" in scanning.events(), "the rename")
    scanning.ljsv("restart", "shop/log")
    assert '"service": "shop/log"' in scanning.ljsv("events", "shop").stdout


@pytest.mark.parametrize("since", ["0001-01-01T00:00+14:00", "9" * 30 + "d", "0999-01-01T00:00"])
def test_since_the_beginning_of_time(scanning: Tree, since: str) -> None:
    """All of it, or a usage error."""
    scanning.add("web", "echo begun; exec sleep 1000")
    wait_for(lambda: "begun" in scanning.log("web"), "its line")
    done = scanning.ljsv("logs", "web", "--since", since, code=None)
    assert "begun" in done.stdout if since == "0999-01-01T00:00" else done.returncode == 100 and "--since: found" in done.stderr


def write_log(tree: Tree, name: str, text: str, file: str = "current") -> Path:
    """A log of a service that does not run."""
    base = Path("/var/log/ljsv") if not tree.uid else tree.home / ".local/state/ljsv/log"
    path = base / f"sv-{tree.scan_hash()}/{name}/{file}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if tree.uid:
        tree.own(tree.home / ".local")
    return path


def stamp(second: int) -> str:
    return f"2026-11-24T10:00:{second:02}.000000Z"


def test_several_services_in_the_order_of_time(tree: Tree) -> None:
    """Each line with its service's name; a line without a stamp stays behind the one before it."""
    tree.add("a")
    tree.add("b")
    tree.add("quiet")
    write_log(tree, "a", f"{stamp(1)} a one\n{stamp(4)} a two\n  more of two\n{stamp(7)} a three\n")
    write_log(tree, "b", f"{stamp(2)} b one\n{stamp(5)} b two\n{stamp(9)} b unfinished")
    expected = [f"a: {stamp(1)} a one", f"b: {stamp(2)} b one", f"a: {stamp(4)} a two", "a:   more of two", f"b: {stamp(5)} b two", f"a: {stamp(7)} a three", f"b: {stamp(9)} b unfinished"]
    assert tree.ljsv("logs", "a", "b").stdout.splitlines() == expected
    assert tree.ljsv("logs").stdout.splitlines() == expected, "without names: all"
    assert tree.ljsv("logs", "a", "b", "-n", "3").stdout.splitlines() == expected[-3:]
    assert tree.ljsv("logs", "a", "b", "-n", "all").stdout.splitlines() == expected
    assert tree.ljsv("logs", "a", "-n", "1").stdout == f"{stamp(7)} a three\n", "one service: as it is in the file"
    assert tree.ljsv("logs", "a", "-n", "0").stdout == ""


def test_merging_goes_over_rotations(scanning: Tree) -> None:
    """Every line of two services with many rotated files, once and in order."""
    for name in ("a", "b"):
        scanning.add(name, COUNT.format(n=25000), policy=SMALL)
    for name in ("a", "b"):
        wait_for(lambda name=name: scanning.ljsv("logs", name, "-n", "1", code=None).stdout.endswith("done\n"), "its last line", 60)
    assert len(list(Path(scanning.detail("a")["log"]).parent.iterdir())) > 2
    lines = scanning.ljsv("logs", "a", "b", "-n", "all").stdout.splitlines()
    found = [match.groups() for match in map(PREFIXED.fullmatch, lines) if match]
    assert len(found) == len(lines) == 2 * 25001
    assert [time for _, time, _ in found] == sorted(time for _, time, _ in found)
    for name in ("a", "b"):
        assert [text for who, _, text in found if who == name] == [*(f"line {n}" for n in range(1, 25001)), "done"]
    assert scanning.ljsv("logs", "a", "b", "-n", "700").stdout.splitlines() == lines[-700:]
    assert scanning.ljsv("logs", "a", "-n", "1500").stdout.count("\n") == 1500


def test_since(tree: Tree) -> None:
    """`--since` takes a length of time or a time in UTC, and shows all from there on; -n still bounds it."""
    tree.add("a")
    write_log(tree, "a", "2020-01-01T00:00:00.000000Z old\n", "current.1")
    write_log(tree, "a", f"2020-01-02T00:00:00.000000Z older\n{stamp(5)} five\ncontinued\n2999-01-01T00:00:00.000000Z future\n")
    assert tree.ljsv("logs", "a", "--since", "10m").stdout == "2999-01-01T00:00:00.000000Z future\n"
    later = f"{stamp(5)} five\ncontinued\n2999-01-01T00:00:00.000000Z future\n"
    for text in ("2026-11-24T10:00:05", "2026-11-24 10:00", "2026-11-24", "2026-11-24T11:00:05+01:00"):
        assert tree.ljsv("logs", "a", "--since", text).stdout == later
    assert tree.ljsv("logs", "a", "--since", "2026-11-24", "-n", "1").stdout.endswith("future\n")
    done = tree.ljsv("logs", "a", "--since", "yesterday", code=100)
    assert "--since: found 'yesterday'" in done.stderr and "10m" in done.stderr


def test_following_several(scanning: Tree) -> None:
    """The past, then what comes, whole lines with names; nothing between the two is lost or told twice."""
    for name in ("a", "b"):
        scanning.add(name, ON_SIGNAL)
        wait_for(lambda name=name: "begun" in scanning.log(name), "its first line")
    follower = scanning.start("ljsv", "logs", "-f", "a", "b")
    try:
        assert follower.stdout is not None
        first = sorted(PREFIXED.match(follower.stdout.readline())[1] for _ in range(2))  # type: ignore[index]
        assert first == ["a", "b"]
        for name in ("b", "a", "b"):
            scanning.ljsv("usr1", name)
            line = PREFIXED.match(follower.stdout.readline())
            assert line and line[1] == name and line[3] == "again"
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=10)


def test_following_begins_where_the_past_ends(scanning: Tree) -> None:
    """A service that writes all the time, rotating often: each line once, from the past into what comes."""
    scanning.add("a", "i=0\nwhile [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done\necho done\nexec sleep 1000", policy=SMALL)
    wait_for(lambda: scanning.log("a"), "its first lines")
    follower = scanning.start("ljsv", "logs", "-f", "a", "-n", "5")
    lines = []
    try:
        assert follower.stdout is not None
        while not lines or not lines[-1].endswith("done\n"):
            lines.append(follower.stdout.readline())
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=10)
    numbers = [int(line.split()[-1]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 40001))


def test_none_is_missed_in_a_rotation(tmp_path: Path) -> None:
    """Whenever a reader begins while a log is rotated all the time: from the past into what comes, each line once."""
    path = tmp_path / "current"
    writer = subprocess.Popen([sys.executable, "-c", ROTATE, str(tmp_path)], stdin=subprocess.DEVNULL)
    try:
        wait_for((tmp_path / "current.3").exists, "its first rotations")
        for number in range(60):
            log = LogReader(str(path), "")
            lines = log.last(30) if number % 2 else list(log.lines(Wanted(Options({"-n": "all"}, []))))
            for _ in range(20):
                lines += log.new_lines()
            assert log.file
            log.file.close()
            numbers = [int(line) for line in lines]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), number
    finally:
        writer.kill()
        writer.wait()


def test_following_before_the_service_is_there(scanning: Tree) -> None:
    """`logs -f` of a service that has not written yet waits for its first line."""
    scanning.add("a", "echo first; exec sleep 1000", down="")
    scanning.wait_state("a", "down")
    follower = scanning.start("ljsv", "logs", "-f", "a")
    try:
        scanning.ljsv("up", "a")
        assert follower.stdout is not None
        assert follower.stdout.readline().endswith("first\n")
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=10)


def test_no_log_is_explained(tree: Tree) -> None:
    """Nothing written yet, nothing kept, or kept by a log service: each says so, exit 1."""
    tree.add("a")
    assert "it has written nothing" in tree.ljsv("logs", "a", code=1).stderr
    tree.add("b", policy='[log]\nto = "none"\n')
    assert 'log.to = "none"' in tree.ljsv("logs", "b", code=1).stderr
    tree.add("c", log__run="#!/bin/sh\nexec svlogd -tt /srv/log\n")
    done = tree.ljsv("logs", "c", code=1)
    assert "its log is kept by its log service" in done.stderr and "exec svlogd -tt /srv/log" in done.stderr
    assert "no logs of services" in tree.ljsv("logs", code=1).stderr
    tree.ljsv("logs", "nosuch", code=4)


def test_what_svlogd_wrote_is_shown(tree: Tree) -> None:
    """Its rotated files come first, and its stamps are put in order with ours."""
    tree.add("c", log__run="#!/bin/sh\nexec svlogd -tt .\n")
    tree.add("d")
    write_log(tree, "c", "2026-11-24_10:00:01.00000 c old\n", "@400000006744000000000000.s")
    write_log(tree, "c", "2026-11-24_10:00:03.00000 c new\n")
    write_log(tree, "d", f"{stamp(2)} d\n")
    done = tree.ljsv("logs", "c")
    assert done.stdout == "2026-11-24_10:00:01.00000 c old\n2026-11-24_10:00:03.00000 c new\n"
    assert "shown here: " in done.stderr
    assert [line[0] for line in tree.ljsv("logs", "c", "d").stdout.splitlines()] == ["c", "d", "c"]


def test_events_of_some_services(scanning: Tree) -> None:
    """`events NAME` tells what concerns it, also when it is gone; -f goes on."""
    for name in ("web", "db"):
        scanning.add(name)
        scanning.wait_state(name, "ready")
    wait_for(lambda: "ready" in scanning.run("ljsv", "events", "web").stdout and "ready" in scanning.run("ljsv", "events", "db").stdout, "the journal to have begun")
    events = [json.loads(line) for line in scanning.ljsv("events", "web", "-n", "all").stdout.splitlines()]
    assert {event["service"] for event in events} == {"web"} and "ready" in [event["event"] for event in events]
    assert len(scanning.ljsv("events", "web", "--since", "1h").stdout.splitlines()) >= len(events)
    assert scanning.ljsv("events", "web", "--since", "2999-01-01").stdout == ""
    both = [json.loads(line)["service"] for line in scanning.ljsv("events", "web", "db").stdout.splitlines()]
    assert set(both) == {"web", "db"}
    follower = scanning.start("ljsv", "events", "-f", "-n", "0", "db")
    try:
        scanning.ljsv("down", "web")
        scanning.ljsv("down", "db")
        assert follower.stdout is not None
        event = json.loads(follower.stdout.readline())
        assert event["service"] == "db"
    finally:
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=10)
    shutil.rmtree(scanning.sv / "web", ignore_errors=True)
    wait_for(lambda: not os.path.exists(scanning.sv / "web"), "it to go")
    assert '"service": "web"' in scanning.ljsv("events", "web").stdout
    assert "no such service" in scanning.ljsv("events", "nosuch", code=4).stderr


def test_a_log_service_that_nobody_can_supervise(scanning: Tree) -> None:
    """It is told, its service writes into our log, and what is mended is taken up."""
    path = scanning.write("a", "echo said; exec sleep 1000", log__run="#!/bin/sh\nexec cat >/dev/null\n", log__supervise__control="")
    path.rename(scanning.sv / "a")
    scanning.wait_state("a", "ready")
    shown = scanning.ljsv("status", "a").stdout
    assert "its log service does not run" in shown and "log/supervise/control" in shown
    wait_for(lambda: "said" in scanning.log("a"), "its line")
    shutil.rmtree(scanning.sv / "a/log/supervise")
    wait_for(lambda: "log_fault" not in scanning.detail("a"), "the log service")
    assert "run: log:" in scanning.ljsv("status", "a").stdout

"""What was decided before something was killed, upgraded or edited still holds after it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ljsv import status
from tests.conftest import Tree, is_alive, wait_for
from tests.integration.survive.test_survive import scanner_pid

GIVES_UP = '[restart]\ndelay = "50ms"\ngive_up_after = 2\nstable_after = "10s"\n'
COUNTING = "i=0\nwhile :; do i=$((i + 1)); echo line $i; sleep 0.001; done"
SVLOGD = "#!/bin/sh\nexec svlogd -tt /run/log\n"


def kill_scanner(tree: Tree) -> None:
    os.kill(scanner_pid(tree), signal.SIGKILL)
    tree.ljsv("scan", "--daemon")


def test_a_service_that_gave_up_stays_so(scanning: Tree) -> None:
    """A new scanner makes everybody look at his files: only a file that has changed starts it again."""
    scanning.add("a", "while ! test -e /run/go; do sleep 0.02; done; exit 4", policy=GIVES_UP.replace("= 2", "= 1"))
    scanning.wait_state("a", "ready")
    (scanning.sv / "a/policy").write_text(GIVES_UP.replace("= 2", "= 1") + "# changed while it ran\n")
    wait_for(lambda: scanning.detail("a").get("changed") == "policy", "the change")
    scanning.ljsv("enter", "a", "touch", "/run/go", code=None)  # the jail may end before that has
    scanning.wait_state("a", "failed")
    before = scanning.detail("a")
    for _ in range(2):
        kill_scanner(scanning)
        time.sleep(0.5)
        after = scanning.detail("a")
        assert (after["state"], after["restarts"], after["since"]) == ("failed", before["restarts"], before["since"])
    (scanning.sv / "a/policy").write_text(GIVES_UP + "# changed\n")
    wait_for(lambda: scanning.detail("a")["since"] != before["since"], "another try")


def test_an_exit_lasts(scanning: Tree) -> None:
    """Until `ljsv up`, over an upgrade and over a scanner that is killed; a tree that was ended whole begins whole."""
    for name in ("a", "b"):
        scanning.add(name)
        scanning.wait_state(name, "ready")
    scanning.ljsv("exit", "a")
    scanning.ljsv("upgrade")
    kill_scanner(scanning)
    time.sleep(0.5)
    assert "supervisor was told to exit" in scanning.ljsv("status", "a", code=None).stdout
    assert not is_alive(scanning.pid("a"))
    scanning.ljsv("up", "a")
    scanning.ljsv("exit", "a")
    scanning.ljsv("exit", "--all")
    scanning.ljsv("scan", "--daemon")
    scanning.wait_state("a", "ready")


def test_a_fault_that_was_mended_while_it_is_down(scanning: Tree) -> None:
    """A bad edit of a running service is shown, and no more once the file is good again, whatever the service does meanwhile."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    (scanning.sv / "a/limits").write_text("memory = 1\n")
    wait_for(lambda: "fault" in scanning.detail("a"), "the fault")
    scanning.ljsv("down", "a")
    (scanning.sv / "a/limits").unlink()
    wait_for(lambda: "fault" not in scanning.detail("a"), "it to be forgotten")
    assert scanning.state("a") == "down"


def test_edits_of_variables_are_noticed(scanning: Tree) -> None:
    """A new value, a file that is no variable, an env/ that comes later: as with the other files."""
    scanning.add("a", env__ONE="1\n")
    scanning.add("b")
    for name in ("a", "b"):
        scanning.wait_state(name, "ready")
    (scanning.sv / "a/env/ONE").write_text("2\n")
    wait_for(lambda: scanning.detail("a").get("changed") == "env/ONE", "the change")
    (scanning.sv / "b/env").mkdir()
    time.sleep(0.3)
    bad = scanning.sv / "b/env/TWO=3"
    bad.write_text("\n")
    wait_for(lambda: "not a variable's name" in scanning.detail("b").get("fault", ""), "the fault")
    bad.unlink()
    wait_for(lambda: "fault" not in scanning.detail("b"), "it to be forgotten")


def test_upgrades_one_into_the_other(scanning: Tree) -> None:
    """Whoever asks meanwhile, `sv` too, never hears that nobody supervises, or that no scanner runs."""
    for number in range(6):
        scanning.add(f"s{number}")
        scanning.wait_state(f"s{number}", "ready")
    pids = [scanning.pid(f"s{number}") for number in range(6)]
    wrong: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            done = scanning.run("sv", "status", *(str(scanning.sv / f"s{number}") for number in range(6)))
            wrong.extend(line for line in done.stdout.splitlines() if not line.startswith("run: "))
            said = scanning.ljsv("status", code=None)
            wrong.extend(line for line in (said.stdout + said.stderr).splitlines() if "no scanner" in line or "nobody" in line)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for pause in (0.05, 0.1, 0.15, 0.2):
            commands = []
            for _ in range(3):
                commands.append(scanning.start("ljsv", "upgrade"))
                time.sleep(pause)
            for command in commands:
                said = command.communicate(timeout=60)[0]
                assert command.returncode == 0, said
    finally:
        is_over.set()
        asking.join()
    assert not wrong, wrong[:5]
    assert [scanning.pid(f"s{number}") for number in range(6)] == pids


def test_an_exit_beside_an_upgrade(scanning: Tree) -> None:
    """Read together, or while an upgrade waits for the one before it: the exit is carried out."""
    for name in ("a", "b", "c"):
        scanning.add(name)
        scanning.wait_state(name, "ready")
    old = scanner_pid(scanning)
    folder = scanning.env.get("XDG_RUNTIME_DIR", "/run") if scanning.uid else "/run"
    with open(f"{folder}/ljsv/sv-{scanning.scan_hash()}/.scanner/control", "w") as control:
        control.write("upgrade\nupgrade\nexit\n")
    wait_for(lambda: not is_alive(old), "the scanner's end")
    assert not any(is_alive(scanning.pid(name)) for name in ("a", "b", "c") if scanning.pid(name))


def numbers(tree: Tree) -> list[int]:
    """Of the lines of the log, whoever has stamped them; a torn one is none."""
    try:
        text = Path(tree.detail("a")["log"]).read_text()
    except FileNotFoundError:  # svlogd gives it another name, and begins a new one
        return []
    return [int(number) for number in re.findall(r"^\S+ line (\d+)$", text, re.MULTILINE)]


def test_a_log_service_that_loses_its_directory_while_nobody_looks(scanning: Tree) -> None:
    """Supervisor killed, `log/` moved away: its svlogd ends before the supervisor reads the log, so each line is there once and in order.

    But perhaps for one that svlogd had read half of when it was told to end: it leaves the other half.
    """
    lose_log_service(scanning, scanner_pid(scanning), scanning.sv / ".log")


def lose_log_service(tree: Tree, scanner: int, moved_to: Path) -> None:
    """Supervisor killed, `log/` moved away: see above."""
    tree.add("a", COUNTING, log__run=SVLOGD)
    tree.wait_state("a", "ready")
    wait_for(lambda: len(numbers(tree)) > 100, "svlogd's lines")
    reader = int(status.read_detail(str(tree.sv / "a/log/supervise"))["pid"])
    os.kill(scanner, signal.SIGSTOP)
    os.kill(tree.supervisor_pid("a"), signal.SIGKILL)
    (tree.sv / "a/log").rename(moved_to)
    os.kill(scanner, signal.SIGCONT)
    wait_for(lambda: not is_alive(reader), "svlogd's end")
    last = len(numbers(tree))
    wait_for(lambda: len(numbers(tree)) > last + 100, "more lines")
    tree.ljsv("down", "a")
    found = numbers(tree)
    assert found == sorted(set(found)) and found[-1] - len(found) <= 1


def log_state(tree: Tree) -> str:
    return status.read_detail(str(tree.sv / "a/log/supervise")).get("state", "")


def test_a_supervisor_killed_while_its_log_service_ends(scanning: Tree) -> None:
    """`exit`, and a kill at any moment of it: the log service never runs twice, and an `up` that comes then counts."""
    scanning.add("a", "trap 'exit 0' TERM; while :; do echo line; sleep 0.02; done", log__run="#!/bin/sh\necho begun >&2\nexec svlogd -tt /run/log\n")
    for pause_ms in range(1, 17, 2):
        scanning.wait_state("a", "ready")
        wait_for(lambda: log_state(scanning) == "ready", "its log service")
        supervisor = scanning.supervisor_pid("a")
        with open(scanning.supervise("a") / "control", "w") as control:
            control.write("x")
        time.sleep(pause_ms / 1000)
        with suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGKILL)
        time.sleep(0.2)
        scanning.ljsv("up", "a", "-w", "15")
    starts = [json.loads(line) for line in scanning.events().splitlines() if '"a/log"' in line]
    ends = [event.get("end") for event in starts if "end" in event]
    assert "exit 111" not in ends, starts


def test_up_while_it_is_exiting(scanning: Tree) -> None:
    """A log service that takes its time to read the rest: an `up` meanwhile is carried out by another supervisor."""
    scanning.add("a", log__run="#!/bin/sh\ncat >/dev/null\nsleep 1\n")
    scanning.wait_state("a", "ready")
    wait_for(lambda: log_state(scanning) == "ready", "its log service")
    supervisor = scanning.supervisor_pid("a")
    with open(scanning.supervise("a") / "control", "w") as control:
        control.write("x")
    scanning.wait_state("a", "down")
    scanning.ljsv("up", "a")
    assert scanning.supervisor_pid("a") != supervisor
    assert scanning.state("a") == "ready"


@pytest.mark.awake
@pytest.mark.parametrize(("verb", "end"), [("kill", "SIGKILL"), ("quit", "SIGQUIT"), ("interrupt", "SIGINT")])
def test_a_signal_that_a_command_has_sent(scanning: Tree, verb: str, end: str) -> None:
    """`why` knows where it came from, and does not look for the kernel's reasons; a second death of the same kind is told in the journal as well."""
    scanning.add("a", policy='[restart]\nstable_after = "0s"\nfirst_delay = "300ms"\ndelay = "300ms"\n')
    for number in (1, 2):
        pid = int(scanning.wait_state("a", "ready")["pid"])
        scanning.ljsv(verb, "a")
        wait_for(lambda pid=pid: scanning.pid("a") not in {0, pid}, "its replacement")
        said = scanning.ljsv("why", "a").stdout
        assert end in said and "a command had sent it that signal" in said and "out of memory" not in said
        wait_for(lambda number=number: count_ends(scanning, end) == number, f"death {number} in the journal: {scanning.events()}")


def count_ends(tree: Tree, end: str) -> int:
    events = [json.loads(line) for line in tree.events().splitlines()]
    return sum(event.get("end") == end and "run_time_s" in event for event in events)




@pytest.mark.parametrize("how", ["upgrade", "kill"])
def test_what_has_changed_since_the_run_began(scanning: Tree, how: str) -> None:
    """An edit is still shown by the supervisor that follows; `limits` of the control group are no change, those of processes are."""
    scanning.add("a", limits='memory = "64M"\nnofile = 100\n', env__ONE="1\n")
    scanning.wait_state("a", "ready")

    def follow() -> None:
        before = scanning.supervisor_pid("a")
        if how == "upgrade":
            scanning.ljsv("upgrade")
        else:
            with suppress(ProcessLookupError):  # it may have gone to sleep
                os.kill(before, signal.SIGKILL)
        wait_for(lambda: scanning.supervisor_pid("a") not in {0, before}, "another supervisor")

    follow()
    assert "changed" not in scanning.detail("a")
    (scanning.sv / "a/run").write_text("#!/bin/sh\n# edited\nexec sleep 1000\n")
    (scanning.sv / "a/env/ONE").write_text("2\n")
    wait_for(lambda: scanning.detail("a").get("changed") == "env/ONE run", "the edits")
    follow()
    assert scanning.detail("a")["changed"] == "env/ONE run"
    (scanning.sv / "a/limits").write_text('memory = "64M"\nnofile = 200\n')
    wait_for(lambda: scanning.detail("a")["changed"] == "env/ONE limits run", "that edit")
    scanning.ljsv("restart", "a")
    follow()
    assert "changed" not in scanning.detail("a")

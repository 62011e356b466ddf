"""A supervisor that is killed, or gives way to another, while its service is about to end: nothing is sent twice, left out, or forgotten."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ljsv import status
from tests.conftest import Tree, is_alive, wait_for
from tests.integration.ready.test_ready import add_notify
from tests.integration.survive.test_kept import SVLOGD, log_state, lose_log_service

SLOW_READER = '#!/bin/sh\nwhile read -r line; do echo "$line" >>/run/log/read; sleep 0.01; done\n'
STOPS = "echo begun\ntrap 'echo told; exit 0' TERM\nwhile :; do sleep 0.02; done"


def end_supervisor(tree: Tree, name: str, how: str) -> None:
    """By `ljsv upgrade`, or killed; until another one supervises."""
    before = tree.supervisor_pid(name)
    if how == "upgraded":
        tree.ljsv("upgrade")
    else:
        os.kill(before, signal.SIGKILL)
    wait_for(lambda: tree.supervisor_pid(name) not in {0, before}, "another supervisor")
    wait_for(lambda: status.is_supervised(str(tree.supervise(name))), "it to say so")


def write_control(tree: Tree, name: str, commands: str) -> None:
    with open(tree.supervise(name) / "control", "w") as control:
        control.write(commands)


both = pytest.mark.parametrize("how", ["upgraded", "killed"])


@both
def test_a_log_service_reads_the_rest(scanning: Tree, how: str) -> None:
    """It was told nothing but that nobody writes any more: whoever supervises next tells it nothing else."""
    scanning.add("a", 'seq -f "line %g" 200; exec sleep 1000', log__run=SLOW_READER)
    scanning.wait_state("a", "ready")
    wait_for(lambda: log_state(scanning) == "ready", "its log service")
    write_control(scanning, "a", "x")
    wait_for(lambda: log_state(scanning) == "stopping", "the end to begin")
    time.sleep(0.2)
    end_supervisor(scanning, "a", how)
    wait_for(lambda: not status.is_supervised(str(scanning.supervise("a"))), "its supervisor to exit")
    read = Path(scanning.detail("a")["log"]).parent / "read"
    assert read.read_text().split("\n")[:-1] == [f"line {number}" for number in range(1, 201)]


@both
def test_control_t_keeps_its_word(scanning: Tree, how: str) -> None:
    """It said that it had done what was to be done instead of the signal: the signal is not sent after all."""
    scanning.add("a", STOPS, policy='[stop]\ntimeout = "1500ms"\n', control__t="#!/bin/sh\nexit 0\n")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    write_control(scanning, "a", "d")
    scanning.wait_state("a", "stopping")
    time.sleep(0.3)
    end_supervisor(scanning, "a", how)
    scanning.wait_state("a", "down")
    assert not is_alive(pid)
    assert scanning.log("a") == "begun"


@both
@pytest.mark.parametrize("command", ["d", "t"])
def test_a_signal_that_waits_for_a_script(scanning: Tree, how: str, command: str) -> None:
    """The script is run again by the next supervisor, and the signal follows: `got TERM` is said then, and not before."""
    slow = "#!/bin/sh\necho x >>/run/scripts\ntest $(wc -l </run/scripts) -gt 1 || exec sleep 1000\nexit 1\n"
    scanning.add("a", STOPS, policy='[stop]\ntimeout = "20s"\n[restart]\nfirst_delay = "0s"\n', control__t=slow)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    write_control(scanning, "a", command)
    wait_for(lambda: "due" in scanning.detail("a"), "the signal to be due")
    time.sleep(0.1)
    assert "got TERM" not in scanning.run("sv", "status", str(scanning.sv / "a")).stdout
    end_supervisor(scanning, "a", how)
    wait_for(lambda: not is_alive(pid), "its end")
    scanning.wait_state("a", "down" if command == "d" else "ready")
    assert scanning.log("a").splitlines()[:2] == ["begun", "told"]


@pytest.mark.parametrize(("commands", "state"), [("u", "ready"), ("o", "ready"), ("d", "down"), ("ux", ""), ("dx", "")])
def test_commands_while_the_log_is_read(scanning: Tree, commands: str, state: str) -> None:
    """The last one counts, though the supervisor that has read them is killed; `sv` sees at once what is wanted."""
    scanning.add("a", log__run="#!/bin/sh\ncat >/dev/null\nsleep 1\n")
    scanning.wait_state("a", "ready")
    wait_for(lambda: log_state(scanning) == "ready", "its log service")
    write_control(scanning, "a", "x")
    scanning.wait_state("a", "down")
    for command in commands:
        write_control(scanning, "a", command)
        time.sleep(0.05)
    wait_for(lambda: ("exiting" in scanning.detail("a")) == (not state), "the wish to be shown")
    assert ("want up" in scanning.run("sv", "status", str(scanning.sv / "a")).stdout) == (commands == "u")
    end_supervisor(scanning, "a", "killed")
    if state:
        wait_for(lambda: log_state(scanning) == "ready", "its log service, again")
        scanning.wait_state("a", state)
    else:
        wait_for(lambda: not status.is_supervised(str(scanning.supervise("a"))), "its supervisor to exit")


def test_what_it_had_said(scanning: Tree) -> None:
    """That it reloads, and what it is doing: as it was, and no more when it is ready again."""
    add_notify(scanning, 'say("READY=1\\nSTATUS=serves")\nwait("reload")\nsay("RELOADING=1")\nwait("reloaded")\nsay("READY=1")\nwait("never")\n')
    scanning.wait_state("n", "ready")
    (scanning.root / "shared/reload").touch()
    wait_for(lambda: scanning.detail("n").get("status_text") == "reloading; serves", "the reload to be shown")
    for how in ("killed", "upgraded"):
        end_supervisor(scanning, "n", how)
        assert scanning.detail("n").get("status_text") == "reloading; serves"
    (scanning.root / "shared/reloaded").touch()
    wait_for(lambda: scanning.detail("n").get("status_text") == "serves", "the end of the reload")


def test_said_into_a_full_fifo(scanning: Tree) -> None:
    """More than the FIFO holds, while the supervisor does not read: the service waits, and its last word is heard."""
    add_notify(scanning, 'say("STATUS=begun")\nwait("go")\nfor i in range(50):\n    say("STATUS=" + "x" * 190)\nsay("READY=1\\nSTATUS=at last")\nwait("never")\n')
    wait_for(lambda: scanning.detail("n").get("status_text") == "begun", "its first word")
    supervisor = scanning.supervisor_pid("n")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        (scanning.root / "shared/go").touch()
        time.sleep(0.5)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert scanning.wait_state("n", "ready")["status_text"] == "at last"


def test_a_watchdog_counts_from_the_next_start(scanning: Tree) -> None:
    """A run that was never told of one is not ended for its silence, whoever supervises it."""
    add_notify(scanning, 'say("READY=1")\nwait("never")\n')
    pid = int(scanning.wait_state("n", "ready")["pid"])
    (scanning.sv / "n/policy").write_text('[ready]\nby = "notify"\nwatchdog = "300ms"\n')
    wait_for(lambda: scanning.detail("n").get("changed") == "policy", "the edit")
    end_supervisor(scanning, "n", "killed")
    time.sleep(0.8)
    assert scanning.pid("n") == pid
    scanning.ljsv("restart", "n")
    wait_for(lambda: scanning.pid("n") not in {0, pid}, "another run")
    pid = scanning.pid("n")
    end_supervisor(scanning, "n", "killed")
    wait_for(lambda: scanning.pid("n") not in {0, pid}, "its watchdog")


def test_a_log_service_whose_record_is_gone(plain_tree: Tree) -> None:
    """`log/` is deleted, and its plain `supervise/` with it, while nobody supervises: it ends all the same, and each line is there once."""
    plain_tree.ljsv("scan", "--daemon")
    scanner = int((plain_tree.sv / ".ljsv/pid").read_text().split()[0])
    lose_log_service(plain_tree, scanner, plain_tree.root / "log-was")


def test_a_log_service_needs_nobody(scanning: Tree) -> None:
    """`needs` in log/policy is a fault, and no log that waits for ever."""
    scanning.add("a", log__run=SVLOGD, log__policy='needs = ["b"]\n')
    wait_for(lambda: "a log service needs no other" in scanning.detail("a").get("log_fault", ""), "the fault")
    said = scanning.ljsv("lint", "a", code=None)
    assert "a log service needs no other" in said.stdout + said.stderr


def test_a_term_that_it_lives_on_with(scanning: Tree) -> None:
    """An end long after that is its own: not started again where the policy says never, and counted."""
    run = "trap 'echo heard' TERM\necho begun\ni=0; while [ $i -lt {n} ]; do i=$((i+1)); sleep 0.1; done\nexit 5"
    policy = '[restart]\nwhen = "never"\n[stop]\ntimeout = "1s"\n'
    scanning.add("late", run.format(n=30), policy=policy)
    scanning.add("soon", run.format(n=30).replace("echo heard", "exit 5"), policy=policy)
    for name in ("late", "soon"):
        wait_for(lambda name=name: "begun" in scanning.log(name), "its trap")
    scanning.ljsv("term", "late", "soon")
    wait_for(lambda: scanning.log("soon").count("begun") == 2, "soon to run again")
    assert scanning.wait_state("late", "down")["result"] == "failed"
    assert scanning.log("late").count("begun") == 1
    assert "as it was told to" not in scanning.ljsv("why", "late").stdout
    assert "as it was told to" in scanning.ljsv("why", "soon").stdout

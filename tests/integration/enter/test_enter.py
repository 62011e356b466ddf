"""`ljsv enter`: a process more in a running jail, with the rights of its service."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, find_executed, wait_for
from tests.integration.chaos.strace import needs_strace, standing_still
from tests.integration.roots import small_root
from tests.integration.terminals import Terminal

RIGHTS = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")


def start(tree: Tree, rootfs: str = "", **files: str) -> Path:
    root = small_root(tree)
    tree.ljsv("scan", "--daemon")
    tree.add("web", "#!/bin/sh\nexec sleep 1000", f'base = "{root}"\n{rootfs}', **files)
    tree.wait_state("web", "ready")
    return root


def status_of(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines()) if name in RIGHTS}


@pytest.mark.parametrize(
    "rootfs", ["", 'user = "web"', '[security]\nseccomp = "off"\ncapabilities = ["-CHOWN", "NET_RAW"]'], ids=["root", "user", "security"]
)
def test_rights_are_those_of_the_service(tree: Tree, rootfs: str) -> None:
    """Ids, capabilities, no_new_privs and filter, namespaces and cgroup: the same, line for line."""
    start(tree, rootfs)
    pid = tree.pid("web")
    service = status_of(tree.ljsv("enter", "web", "cat", "/proc/2/status").stdout)
    entered = status_of(tree.ljsv("enter", "web", "cat", "/proc/self/status").stdout)
    assert entered == service
    assert len(entered) == len(RIGHTS)
    listing = tree.ljsv("enter", "web", "--", "sh", "-c", "for n in cgroup ipc mnt net pid user uts; do stat -L -c %i /proc/self/ns/$n; done; cat /proc/self/cgroup").stdout
    assert listing.splitlines()[:7] == [str(os.stat(f"/proc/{pid}/ns/{name}").st_ino) for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")]
    assert all(line.endswith(":/") for line in listing.splitlines()[7:])


def test_limits_environment_and_place(tree: Tree) -> None:
    """nofile of limits, the variables of env/, the service directory as working directory; nothing inherited."""
    start(tree, limits="nofile = 77\n", env__COLOUR="blue\n")
    text = tree.ljsv("enter", "web", "sh", "-c", "ulimit -n; pwd; env", env={"SECRET": "x"}).stdout
    assert text.splitlines()[:2] == ["77", "/run/service"]
    assert "COLOUR=blue" in text and "SECRET" not in text


def test_limits_after_a_bad_edit(tree: Tree) -> None:
    """They are those of before, as for the service."""
    start(tree, limits="nofile = 77\n")
    (tree.sv / "web/limits").write_text("nofile = lots\n")
    wait_for((tree.supervise("web") / "good").exists, "the bad edit to be seen")
    assert tree.ljsv("enter", "web", "sh", "-c", "ulimit -n").stdout == "77\n"


def test_exit_codes(tree: Tree) -> None:
    """The command's own, 128+N, 127 not found; 1 when the service does not run; 4 when there is none."""
    start(tree)
    for words, code in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -TERM $$"], 143), (["none"], 127), (["/etc/passwd"], 126)):
        tree.ljsv("enter", "web", *words, code=code)
    tree.ljsv("down", "web")
    refused = tree.ljsv("enter", "web", "true", code=1)
    assert "it does not run (down)" in refused.stderr and "hint: ljsv up web" in refused.stderr
    tree.ljsv("enter", "wbe", "true", code=4)
    tree.ljsv("enter", code=100)


@needs_strace
def test_killed_while_it_enters(tree: Tree) -> None:
    """While it takes its rights it has no signal at its parent's death: it looks whether that is still there."""
    start(tree)
    mark = f"/bin/busybox sleep 3{os.getpid()}"
    with standing_still(tree, tree.uid, "capset", "enter", str(tree.programs / "ljsv"), "enter", "web", *mark.split()) as pid:
        os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            assert not find_executed(mark)
            time.sleep(0.2)


def test_one_who_goes_on_writing_keeps_nobody_in(tree: Tree) -> None:
    """What was in the terminal when the command had ended is shown, and not what others in the jail go on writing to it."""
    start(tree)
    with Terminal(tree, "ljsv", "enter", "web", "sh", "-c", "trap '' HUP; yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa & sleep 0.5; exit 5") as terminal:
        assert terminal.end(pause_s=0.1) == 5
    assert len(terminal.shown) < 300_000


def test_a_caller_that_ignores_the_end_of_children(tree: Tree) -> None:
    """SIGCHLD ignored, as some daemons leave it to what they start: who waits for a child has its exit code all the same."""
    start(tree)
    deaf = ("env", "--ignore-signal=CHLD")
    assert tree.run(*deaf, "ljsv", "enter", "web", "sh", "-c", "exit 4", timeout_s=30).returncode == 4
    assert tree.run(*deaf, "ljexec", "--", "sh", "-c", "exit 5", timeout_s=30).returncode == 5
    tree.ljsv("exit", "--all")
    assert tree.run(*deaf, "ljsv", "up", "web").returncode == 0
    killed = tree.kill("web")
    wait_for(lambda: tree.pid("web") not in {0, killed}, "another run")


def test_options_after_the_name_are_the_commands(tree: Tree) -> None:
    """With and without two dashes."""
    start(tree)
    assert tree.ljsv("enter", "web", "ls", "-d", "/").stdout == "/\n"
    assert tree.ljsv("enter", "web", "--", "ls", "-d", "/").stdout == "/\n"


@pytest.mark.kernel
def test_a_shell_on_a_terminal(tree: Tree) -> None:
    """Without a command; a terminal of the jail's, job control, Ctrl-C, window size."""
    start(tree)
    with Terminal(tree, "ljsv", "enter", "web") as terminal:
        terminal.wait_for("#")
        terminal.ask("tty", "/dev/pts/0")
        terminal.ask("stty size", "33 99")
        terminal.ask("sh -c 'echo job $((1+1)); exec sleep 1000'", "job 2\n")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.ask("kill -9 %1; fg; hostname", "web")
        terminal.type("exit 6\n")
        assert terminal.end() == 6
    assert tree.state("web") == "ready"


def test_who_entered_ends_with_the_one_that_called(tree: Tree) -> None:
    """KILL of `ljsv enter`: what it started in the jail dies, the service does not."""
    start(tree)
    entered = tree.start("ljsv", "enter", "web", "sh", "-c", "echo in; exec sleep 1001")
    assert entered.stdout is not None
    assert entered.stdout.readline() == "in\n"
    entered.kill()
    entered.communicate(timeout=20)
    wait_for(lambda: "1001" not in tree.ljsv("enter", "web", "ps").stdout, "the sleep to die")
    assert tree.state("web") == "ready"


def test_signals_are_passed_on(tree: Tree) -> None:
    """TERM to `ljsv enter` is TERM for the command."""
    start(tree)
    entered = tree.start("ljsv", "enter", "web", "sh", "-c", "trap 'echo got; exit 9' TERM; echo in; while :; do sleep 0.05; done")
    assert entered.stdout is not None
    assert entered.stdout.readline() == "in\n"
    entered.send_signal(signal.SIGTERM)
    text, _ = entered.communicate(timeout=20)
    assert (text, entered.returncode) == ("got\n", 9)


def test_end_of_the_service_ends_who_entered(tree: Tree) -> None:
    """Nothing outlives its jail."""
    start(tree)
    entered = tree.start("ljsv", "enter", "web", "sh", "-c", "echo in; exec sleep 1000")
    assert entered.stdout is not None
    assert entered.stdout.readline() == "in\n"
    tree.ljsv("down", "web")
    entered.communicate(timeout=20)
    assert entered.returncode == 137


def test_a_bad_edit_keeps_nobody_out(tree: Tree) -> None:
    """The rights are those that the jail was built with."""
    start(tree, 'user = "web"')
    (tree.sv / "web/rootfs").write_text("nonsense = 1\n")
    assert tree.ljsv("enter", "web", "id", "-u").stdout == "33\n"


def test_after_the_supervisor_was_killed(tree: Tree) -> None:
    """The record tells who the service is, whoever supervises it now."""
    start(tree)
    old = tree.supervisor_pid("web")
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: tree.supervisor_pid("web") not in {0, old}, "another supervisor")
    assert tree.ljsv("enter", "web", "hostname").stdout == "web\n"


def states(tree: Tree, word: str) -> list[str]:
    """The states of the processes in the jail whose command line has that word (proc_pid_stat(5)), but for `ljsv enter` itself."""
    found = []
    for pid, text in tree.processes().items():
        if word in text and "enter" not in text:
            found.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_stopped_and_continued_without_a_terminal(tree: Tree) -> None:
    """Ctrl-Z where only our descriptors are no terminal: the command stops with its children, and goes on with them."""
    start(tree)
    command = "echo in; sleep 1001.5; exit 1"
    entered = tree.start("ljsv", "enter", "web", "env", f"MARK={tree.root}", "sh", "-c", command, start_new_session=True)
    assert entered.stdout is not None
    assert entered.stdout.readline() == "in\n"
    wait_for(lambda: len(states(tree, "1001.5")) >= 2, "its child")
    entered.send_signal(signal.SIGTSTP)
    wait_for(lambda: set(states(tree, "1001.5")) == {"T"}, "both to stop")
    entered.send_signal(signal.SIGCONT)
    wait_for(lambda: "T" not in states(tree, "1001.5"), "both to go on")
    entered.send_signal(signal.SIGINT)
    entered.communicate(timeout=20)
    assert entered.returncode == 130
    assert not states(tree, "1001.5")


def test_signals_that_arrive_early_are_not_lost(tree: Tree) -> None:
    """At whatever moment TERM comes: `ljsv enter` ends, and what it started as well."""
    start(tree)
    for turn in range(12):
        entered = tree.start("ljsv", "enter", "web", "env", f"MARK={tree.root}", "sleep", "1002.5")
        time.sleep(turn * 0.02)
        entered.send_signal(signal.SIGTERM)
        entered.communicate(timeout=20)
        assert entered.returncode in {143, -signal.SIGTERM}, turn
    wait_for(lambda: not states(tree, "1002.5"), "all to end")

"""Kills at named moments, and two things at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.marked import (
    FINISH,
    RUN,
    Marked,
    find_builders,
    find_nurseries,
    kill,
    scanner_files,
    scanner_folder,
    scanner_pid,
    write_fifo,
)
from tests.integration.chaos.strace import Traced, needs_strace
from tests.integration.chaos.test_every_moment import count, is_ready

pytestmark = pytest.mark.awake  # each is of a supervisor that is awake

SLOWLY = '[restart]\ndelay = "300ms"\nmax_delay = "300ms"\n'
AT_ONCE = '[restart]\nstable_after = "0s"\nfirst_delay = "0s"\n'
GO = '"G"'
TICKS = "trap 'echo \"last $i\" >>/mark/told; exit 0' TERM\ni=1\nwhile :; do echo \"line $i\"; i=$((i + 1)); sleep 0.01; done"


def kill_supervisor(service: Marked) -> None:
    """And wait for the next one."""
    old = service.tree.supervisor_pid(service.name)
    kill(old)
    wait_supervised(service, old)


def wait_supervised(service: Marked, old: int) -> None:
    def is_replaced() -> bool:
        write_fifo(scanner_files(service.tree) / "control", f"supervise {service.name}\n")
        pid = service.tree.supervisor_pid(service.name)
        return pid not in {0, old} and is_alive(pid)

    wait_for(is_replaced, "the next supervisor")


def assert_one_copy(service: Marked) -> None:
    """It runs, once, under the pid that is announced."""
    wait_for(lambda: is_ready(service), f"{service.name} to be ready: {service.tree.detail(service.name)}")
    (pids,) = service.jails().values()
    assert service.tree.pid(service.name) in pids
    assert "twice" not in service.told()


@needs_strace
@pytest.mark.parametrize("begin", ["down", "backoff", "ready"])
@pytest.mark.parametrize("moment", ["before the go", "after the go"])
def test_killed_beside_the_go(scanning: Tree, begin: str, moment: str) -> None:
    """Before it the jail ends and counts as never started; after it the next supervisor has it, whatever state was announced last."""
    at, runs = 0, 2 if begin != "down" else 1
    for name in ("measure", "a"):
        service = Marked(scanning, name, RUN, policy=SLOWLY if begin == "backoff" else AT_ONCE, **({"down": ""} if begin == "down" else {}))
        scanning.wait_state(name, "down" if begin == "down" else "ready")
        wait_for(lambda service=service: begin == "down" or count(service, "began"), "its traps")
        if begin == "backoff":
            service.signal(signal.SIGUSR1)
            scanning.wait_state(name, "backoff")
        traced = Traced(scanning, scanning.supervisor_pid(name), name, at, calls="sendmsg")
        if begin == "down":
            service.control("u")
        elif begin == "ready":
            service.signal(signal.SIGUSR1)
        if name == "a":
            wait_for(lambda traced=traced: traced.has_killed, "the kill")
            wait_supervised(service, traced.pid)
        else:
            wait_for(lambda service=service: count(service, "began") == runs and is_ready(service), "what is measured")
            time.sleep(0.1)
        traced.close()
        if name == "measure":
            messages = [line for line in traced.calls() if line.startswith("sendmsg")]
            at = 1 + next(number for number, line in enumerate(messages) if GO in line)
            if moment == "after the go":
                return killed_after_the_go(scanning, begin, runs, at)
    if begin == "down":  # what is adopted without its go is taken for ready until it has ended
        wait_for(lambda: service.state == "down" or count(service, "began"), "the jail without a go to end")
    if begin == "down" and service.state == "down":
        service.control("u")  # the command was lost with its reader
    wait_for(lambda: count(service, "began") == runs, f"it to run: {service.told()} {scanning.detail('a')}")
    assert_one_copy(service)
    assert service.told() == ["run", "began"] * runs
    assert scanning.detail("a")["restarts"] == str(runs - 1)
    return None


def killed_after_the_go(tree: Tree, begin: str, runs: int, at: int) -> None:
    """The supervisor is stopped when it has given the go: its next system call is delayed until it is killed."""
    service = Marked(tree, "b", RUN, policy=SLOWLY if begin == "backoff" else AT_ONCE, **({"down": ""} if begin == "down" else {}))
    tree.wait_state("b", "down" if begin == "down" else "ready")
    wait_for(lambda: begin == "down" or count(service, "began"), "its traps")
    if begin == "backoff":
        service.signal(signal.SIGUSR1)
        tree.wait_state("b", "backoff")
    supervisor = tree.supervisor_pid("b")
    traced = Traced(tree, supervisor, "b", at, calls="sendmsg", action="delay_exit=60000000")
    if begin == "down":
        service.control("u")
    elif begin == "ready":
        service.signal(signal.SIGUSR1)
    wait_for(lambda: count(service, "began") == runs, "the service to run after its go")
    pids = service.pids()
    kill(supervisor)
    traced.close()
    wait_supervised(service, supervisor)
    if begin == "down" and service.state == "down":
        service.control("u")
    assert_one_copy(service)
    assert service.told() == ["run", "began"] * runs
    assert set(pids) & set(service.pids()), "it is the one that was running"
    assert tree.detail("b")["restarts"] == str(runs - 1)
    service.control("d")
    wait_for(lambda: service.state == "down" and not service.jails(), "it to be down")


def test_renamed_then_the_supervisor_is_killed(scanning: Tree) -> None:
    """A service keeps its jail, its records and its log under its new name, also in the eyes of the next supervisor."""
    service = Marked(scanning, "a", TICKS)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    (scanning.sv / "a").rename(scanning.sv / "b")
    service.name = "b"
    wait_for(lambda: scanning.detail("b").get("directory", "").endswith("/b"), "the new name to be known")
    kill_supervisor(service)
    wait_for(lambda: scanning.state("b") == "ready", "it to be adopted")
    assert scanning.pid("b") == pid and is_alive(pid)
    assert_one_copy(service)


def test_renamed_then_its_runtime_folder_is_removed(scanning: Tree) -> None:
    """The folder has the name of before; that it is gone is noticed all the same, and it is made again."""
    service = Marked(scanning, "a", "sleep 1000")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    (scanning.sv / "a").rename(scanning.sv / "b")
    service.name = "b"
    wait_for(lambda: scanning.detail("b").get("directory", "").endswith("/b"), "the new name to be known")
    remove_runtime(service)
    assert scanning.pid("b") == pid and is_alive(pid)


def test_crash_while_the_runtime_directory_is_gone(scanning: Tree) -> None:
    """Nothing waits for the directory to be made again: finish runs, the service is replaced, and one restart is counted."""
    service = Marked(scanning, "a", RUN, finish=FINISH, policy=AT_ONCE)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: count(service, "began"), "its traps")
    shutil.rmtree(scanner_folder(scanning), ignore_errors=True)
    os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: count(service, "began") == 2 and is_ready(service), "it to run again")
    assert service.told() == ["run", "began", "finish 7 0", "run", "began"]
    assert scanning.detail("a")["restarts"] == "1"
    wait_for(lambda: scanner_pid(scanning), "the scanner's own folder")


@contextlib.contextmanager
def nursery_stopped(tree: Tree) -> Iterator[None]:
    """No jail is built meanwhile: orders wait."""
    (pid,) = wait_for(lambda: find_nurseries(tree), "the nursery")
    kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        kill(pid, signal.SIGCONT)


def is_exit_locked(service: Marked) -> bool:
    """The next jail has been ordered, or the one before it has not ended."""
    try:
        with open(service.tree.supervise(service.name) / "exit") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # there was no jail yet
        pass
    return False


def test_runtime_folder_removed_while_run_is_built(scanning: Tree) -> None:
    """How it ends is known all the same: it is recorded in the file that was there when its jail was ordered."""
    service = Marked(scanning, "a", RUN, finish=FINISH, policy=AT_ONCE, down="")
    scanning.wait_state("a", "down")
    with nursery_stopped(scanning):
        service.control("u")
        wait_for(lambda: is_exit_locked(service), "its jail to be ordered")
        shutil.rmtree(os.path.realpath(scanning.supervise("a")))
    wait_for(lambda: count(service, "began"), "it to run")
    wait_for(lambda: is_ready(service), "its supervise directory")
    os.kill(scanning.pid("a"), signal.SIGUSR1)
    wait_for(lambda: count(service, "began") == 2, "it to run again")
    assert service.told() == ["run", "began", "finish 7 0", "run", "began"]
    assert_one_copy(service)


def test_runtime_folder_removed_while_finish_is_built(scanning: Tree) -> None:
    """It runs, once."""
    service = Marked(scanning, "a", RUN, finish=FINISH, policy=AT_ONCE)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: count(service, "began"), "its traps")
    first = jail_pid(service)
    with nursery_stopped(scanning):
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: not is_alive(first) and is_exit_locked(service), "its finish script's jail to be ordered")
        shutil.rmtree(os.path.realpath(scanning.supervise("a")))
    wait_for(lambda: count(service, "began") == 2, "it to run again")
    assert service.told() == ["run", "began", "finish 7 0", "run", "began"]
    assert_one_copy(service)
    assert scanning.detail("a")["restarts"] == "1"


def test_builder_of_finish_is_killed(scanning: Tree) -> None:
    """By the kernel, for want of memory, say: finish runs all the same, once."""
    service = Marked(scanning, "a", RUN, finish=FINISH, policy=AT_ONCE)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: count(service, "began"), "its traps")
    first, supervisor = jail_pid(service), scanning.supervisor_pid("a")
    with nursery_stopped(scanning):
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: not is_alive(first) and is_exit_locked(service) and is_awaiting_answer(supervisor), "its finish script's jail to be ordered")
        kill(supervisor, signal.SIGSTOP)
    try:
        kill(wait_for(lambda: [pid for pid in find_builders(scanning) if inner_pid(pid) == 2], "the builder")[0])
    finally:
        kill(supervisor, signal.SIGCONT)
    wait_for(lambda: count(service, "began") == 2, "it to run again")
    assert service.told() == ["run", "began", "finish 7 0", "run", "began"]
    assert_one_copy(service)


def is_awaiting_answer(supervisor: int) -> bool:
    """It polls: its order is sent. Its loop waits otherwise (epoll)."""
    return Path(f"/proc/{supervisor}/wchan").read_text().startswith(("poll_", "do_sys_poll"))


def inner_pid(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[-1]) for line in text.splitlines() if line.startswith("NSpid:"))


def jail_pid(service: Marked) -> int:
    """Of pid 1 of its jail."""
    lines = (service.tree.supervise(service.name) / "jail").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("pid "))


def remove_runtime(service: Marked) -> None:
    """The service's folder, and wait until it has been made again."""
    folder = Path(service.tree.supervise(service.name)).resolve()
    shutil.rmtree(folder)
    service.tree.wait_state(service.name, "ready")


def test_log_goes_on_after_the_runtime_directory_and_then_the_supervisor_were_lost(scanning: Tree) -> None:
    """Each line once; the service never waits for a reader that does not come."""
    service = Marked(scanning, "a", TICKS)
    scanning.wait_state("a", "ready")
    wait_for(service.log_lines, "its first line")
    remove_runtime(service)
    seen = len(service.log_lines())
    wait_for(lambda: len(service.log_lines()) > seen, "the log to go on")
    kill_supervisor(service)
    seen = len(service.log_lines())
    wait_for(lambda: len(service.log_lines()) > seen, "the log to go on after the kill", 3)
    service.control("d")
    wait_for(lambda: service.state == "down", "its end")
    last = int(service.told()[-1].split()[1])
    expected = [f"line {number}" for number in range(1, last + 1)]
    assert service.log_lines() in (expected, expected[:-1])


def lose_runtime_and_scanner(tree: Tree, *, is_supervisor_killed: bool) -> tuple[Marked, list[int]]:
    """A service whose scanner was killed before the runtime directory, which is gone, was made again; pids to end if all else fails."""
    tree.ljsv("scan", "--daemon")
    service = Marked(tree, "a", RUN)
    pid = int(tree.wait_state("a", "ready")["pid"])
    wait_for(lambda: count(service, "began"), "its traps")
    supervisor, scanner = tree.supervisor_pid("a"), scanner_pid(tree)
    shutil.rmtree(scanner_folder(tree), ignore_errors=True)
    for victim in (scanner, supervisor) if is_supervisor_killed else (scanner,):
        kill(victim)
        wait_for(lambda victim=victim: not is_alive(victim), "it to end")
    tree.ljsv("up", "a", "-w", "2", code=None)
    return service, [supervisor, pid]


def end(service: Marked, pids: list[int]) -> None:
    for pid in (*pids, *service.pids()):
        kill(pid)
    wait_for(lambda: not service.pids(), "its jail to end")


def test_scanner_and_supervisor_killed_while_the_runtime_directory_is_gone(tree: Tree) -> None:
    """Nothing on disk leads to what runs. It is found all the same, ended and started again: never twice."""
    service, pids = lose_runtime_and_scanner(tree, is_supervisor_killed=True)
    try:
        tree.wait_state("a", "ready")
        assert not is_alive(pids[1])
        assert len(service.jails()) == 1
        assert_one_copy(service)
    finally:
        end(service, [])


def test_supervisor_killed_while_its_runtime_folder_is_gone(scanning: Tree) -> None:
    """The same with a scanner that lives, and with a jail of another service beside it, which goes on."""
    service = Marked(scanning, "a", RUN)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    scanning.add("b")
    other = int(scanning.wait_state("b", "ready")["pid"])
    supervisor = scanning.supervisor_pid("a")
    shutil.rmtree(os.path.realpath(scanning.supervise("a")))
    kill(supervisor)
    wait_for(lambda: scanning.pid("a") not in {0, pid}, "the next run")
    assert not is_alive(pid)
    assert_one_copy(service)
    assert is_alive(other)


def test_scanner_killed_while_the_runtime_directory_is_gone(tree: Tree) -> None:
    """The next scanner has the supervisor make its directory again."""
    service, pids = lose_runtime_and_scanner(tree, is_supervisor_killed=False)
    try:
        wait_for(lambda: is_ready(service), "its supervise directory", 5)
        assert_one_copy(service)
        assert tree.pid("a") == pids[1]
    finally:
        end(service, [] if is_ready(service) else pids)


def test_two_ups_at_once_without_a_scanner(tree: Tree) -> None:
    """Both start a scanner, one of which is refused; both services run, once, and both clients say so."""
    cast = [Marked(tree, name, RUN) for name in ("a", "b")]
    for turn in range(3):
        clients = [tree.start("ljsv", "up", service.name) for service in cast]
        said = [client.communicate(timeout=60)[0] for client in clients]
        assert [client.returncode for client in clients] == [0, 0], said
        for service in cast:
            assert_one_copy(service)
            assert count(service, "run") == 1, turn
        scanner = scanner_pid(tree)
        assert scanner
        kill(scanner)
        wait_for(lambda scanner=scanner: not is_alive(scanner), "the scanner to end")


@needs_strace
@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6])
def test_scanner_killed_while_a_directory_arrives(tree: Tree, share: float) -> None:
    """At any moment between the rename and the first supervisor's word: the next scanner brings it up, once, and what ran goes on."""
    tree.ljsv("scan", "--daemon")
    old = Marked(tree, "old", RUN)
    pid = int(tree.wait_state("old", "ready")["pid"])
    traced = Traced(tree, scanner_pid(tree), "measure")
    Marked(tree, "measure", RUN)
    tree.wait_state("measure", "ready")
    traced.close()
    total = len(traced.calls())
    traced = Traced(tree, scanner_pid(tree), "new", max(2, int(total * share)))
    new = Marked(tree, "new", RUN)
    wait_for(lambda: traced.has_killed or is_ready(new), "the scanner to be killed")
    traced.close()
    tree.ljsv("up", "new", "old")
    for service in (old, new):
        assert_one_copy(service)
        wait_for(lambda service=service: count(service, "began"), "its traps")
    assert tree.pid("old") == pid
    assert count(old, "run") == count(new, "run") == 1

"""Any process of ours may be killed: no service stops, none runs twice, none is orphaned."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ljsv.jail.pid1 import count_pending
from ljsv.supervise import log
from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.marked import find_nurseries


def copies(tree: Tree, name: str) -> int:
    """How many copies of the service run now: processes with its mark whose parent has it not."""
    mark = f"COPY_OF={tree.root}/{name}".encode()
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    return sum(parent not in parents for parent in parents.values())


def running_copies(tree: Tree, name: str) -> int:
    """The same, once there is one: a program that has just been executed has no environment for a moment."""
    return int(wait_for(lambda: copies(tree, name), f"a copy of {name}"))


def write_control(tree: Tree, name: str, text: str) -> None:
    """Bytes into the control FIFO, if somebody reads it."""
    try:
        fd = os.open(tree.supervise(name) / "control", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    with suppress(BrokenPipeError):  # it was being killed
        os.write(fd, text.encode())
    os.close(fd)


def add(tree: Tree, name: str, run: str = "exec sleep 1000", **files: str) -> None:
    tree.add(name, run, env__COPY_OF=f"{tree.root}/{name}\n", **files)


def scanner_file(tree: Tree) -> Path:
    """Where the scanner says its pid."""
    base = tree.env.get("XDG_RUNTIME_DIR", "/run") if tree.uid else "/run"
    return Path(f"{base}/ljsv/sv-{tree.scan_hash()}/.scanner/pid")


def scanner_pid(tree: Tree) -> int:
    try:
        return int(scanner_file(tree).read_text().split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def test_killed_service_is_replaced(scanning: Tree) -> None:
    """`kill -9` of the service: another one, once."""
    add(scanning, "a", policy='[restart]\nstable_after = "0s"\n')
    first = int(scanning.wait_state("a", "ready")["pid"])
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: scanning.pid("a") not in {0, first} and scanning.state("a") == "ready", "a replacement")
    assert scanning.detail("a")["end_text"] == "SIGKILL"
    assert running_copies(scanning, "a") == 1


def test_killed_supervisor_costs_nothing(scanning: Tree) -> None:
    """`kill -9` of the supervisor: the service goes on, and the next supervisor has it."""
    add(scanning, "a", "trap 'echo hup' HUP\necho begun\nwhile :; do sleep 0.02; done")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    for _ in range(3):
        supervisor = scanning.supervisor_pid("a")
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda old=supervisor: scanning.supervisor_pid("a") not in {0, old}, "the next supervisor")
        assert scanning.pid("a") == pid and is_alive(pid)
        assert running_copies(scanning, "a") == 1
    scanning.ljsv("hup", "a")
    wait_for(lambda: "hup" in scanning.log("a"), "the signal to arrive through the new supervisor")
    scanning.ljsv("down", "a")
    assert not is_alive(pid)


def test_service_that_ends_while_nobody_supervises_is_accounted_for(tree: Tree) -> None:
    """Supervisor and scanner killed, then the service ends: the next supervisor knows how."""
    scanner = start_scanner(tree)
    add(tree, "a", "trap 'exit 7' TERM\necho begun\nwhile :; do sleep 0.02; done")
    pid = int(tree.wait_state("a", "ready")["pid"])
    wait_for(lambda: "begun" in tree.log("a"), "its trap")
    os.kill(scanner_pid(tree), signal.SIGKILL)
    os.kill(tree.supervisor_pid("a"), signal.SIGKILL)
    scanner.wait(10)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not is_alive(pid), "the service to end")
    tree.ljsv("up", "a")
    wait_for(lambda: tree.detail("a").get("end_text") == "exit 7", "its end, which pid 1 of its jail may see a moment later")
    assert running_copies(tree, "a") == 1


def start_scanner(tree: Tree) -> subprocess.Popen[str]:
    """A scanner in the foreground, as a child that can be waited for."""
    scanner = tree.start("ljsv", "scan")
    wait_for(lambda: scanner_pid(tree), "the scanner")
    return scanner


@pytest.mark.awake
def test_killed_scanner_leaves_everything_running_and_the_next_one_adopts(tree: Tree) -> None:
    """`kill -9` of the scanner: services and supervisors go on; `ljsv up` brings a scanner, nothing is started twice."""
    tree.ljsv("scan", "--daemon")
    for name in ("a", "b"):
        add(tree, name)
    pids = {name: int(tree.wait_state(name, "ready")["pid"]) for name in ("a", "b")}
    supervisors = {name: tree.supervisor_pid(name) for name in pids}
    old = scanner_pid(tree)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: not is_alive(old), "the scanner to end")
    done = tree.ljsv("up", "a", "b")
    assert "started a scanner" in done.stderr
    assert {name: tree.pid(name) for name in pids} == pids
    assert {name: tree.supervisor_pid(name) for name in pids} == supervisors
    tree.add("c")
    tree.wait_state("c", "ready")
    os.kill(supervisors["a"], signal.SIGKILL)
    wait_for(lambda: tree.supervisor_pid("a") not in {0, supervisors["a"]}, "the new scanner to replace an adopted supervisor")
    assert tree.pid("a") == pids["a"]


def test_everything_killed_at_once(tree: Tree) -> None:
    """Scanner, supervisors and journal killed together: the jails live on, and are found again."""
    tree.ljsv("scan", "--daemon")
    for name in ("a", "b", "c"):
        add(tree, name)
    pids = {name: int(tree.wait_state(name, "ready")["pid"]) for name in ("a", "b", "c")}
    ours = [scanner_pid(tree), *(tree.supervisor_pid(name) for name in pids)]
    for pid in ours:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(pid) for pid in ours), "them to end")
    assert "unsupervised" in tree.ljsv("status").stdout
    tree.ljsv("up", "a", "b", "c")
    assert {name: tree.pid(name) for name in pids} == pids
    assert all(running_copies(tree, name) == 1 for name in pids)


def test_supervisor_killed_at_random_moments_never_doubles(scanning: Tree) -> None:
    """During starts, stops and restarts, over and over: at most one copy, and in the end exactly one."""
    add(scanning, "a", policy='[restart]\nstable_after = "0s"\ndelay = "20ms"\n')
    scanning.wait_state("a", "ready")
    for turn in range(25):
        write_control(scanning, "a", ("t", "k", "du")[turn % 3])
        for _ in range(turn % 7):
            assert copies(scanning, "a") <= 1
        supervisor = scanning.supervisor_pid("a")
        if supervisor:
            try:
                os.kill(supervisor, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert copies(scanning, "a") <= 1
    wait_for(lambda: scanning.state("a") == "ready" and is_alive(scanning.pid("a")), "it to run again", 90)
    assert running_copies(scanning, "a") == 1


def test_killed_journal_is_replaced(scanning: Tree) -> None:
    """Events go on."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    journal = wait_for(lambda: next((pid for pid, text in scanning.processes().items() if "ljsv.supervise.journal" in text), 0), "the journal")
    os.kill(journal, signal.SIGKILL)
    scanning.add("b")
    scanning.wait_state("b", "ready")
    wait_for(lambda: '"service": "b", "event": "ready"' in scanning.events(), "the event of b")


def test_want_down_survives_the_supervisor(scanning: Tree) -> None:
    """A service that was told to be down stays down."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    scanning.ljsv("down", "a")
    supervisor = scanning.supervisor_pid("a")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: scanning.supervisor_pid("a") not in {0, supervisor}, "the next supervisor")
    assert scanning.state("a") == "down"


def test_runtime_directory_deleted_under_a_living_tree(scanning: Tree) -> None:
    """As logind does it: everything in it is made again, and the service goes on."""
    scanning.add("a", "trap 'echo hup' HUP\necho begun\nwhile :; do sleep 0.02; done")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    shutil.rmtree(Path(os.path.realpath(scanning.supervise("a"))).parent, ignore_errors=True)
    wait_for(lambda: scanning.state("a") == "ready" and scanning.pid("a") == pid, "the supervise directory, and the same pid")
    scanning.ljsv("hup", "a")
    wait_for(lambda: "hup" in scanning.log("a"), "the log to go on")
    scanning.ljsv("restart", "a")
    assert not is_alive(pid)
    scanning.ljsv("hup", "a")
    wait_for(lambda: scanning.log("a").count("hup") == 2, "the log of the next run")
    said = [json.loads(line) for line in scanning.events().splitlines()]
    again = next(number for number, event in enumerate(said) if "made anew" in event["event"])
    assert "starting" in [event["event"] for event in said[again:]], "what the supervisor says afterwards"


def test_supervise_directory_that_cannot_be_made_whole_at_once(scanning: Tree) -> None:
    """It is tried again, however much the service writes meanwhile, until everything that belongs there is there."""
    path = scanning.add("a", "while :; do echo line; sleep 0.05; done")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    folder = Path(os.path.realpath(scanning.supervise("a")))
    shutil.rmtree(folder)
    (path / "policy").write_text("")  # so that there is something new to announce
    wait_for(lambda: scanning.pid("a") == pid, "the supervise directory", 10)
    (folder / "detail.new").mkdir()
    (path / "down").write_text("")
    wait_for(lambda: "cannot write the status" in scanning.events(), "the fault to be told")
    time.sleep(1)
    assert scanning.events().count("cannot write the status") < 5
    shutil.rmtree(folder)
    (folder / "status.new").mkdir(parents=True)
    scanning.own(folder)
    wait_for(lambda: "status.new" in scanning.events(), "the fault to be told")
    (folder / "status.new").rmdir()
    wait_for((folder / "status").exists, "the status")
    wait_for((folder / "jail").exists, "the jail's record")
    scanning.ljsv("down", "a")
    assert not is_alive(pid)


def test_scanner_folder_that_cannot_be_made_at_once(scanning: Tree) -> None:
    """It is tried again, and then the scanner hears."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    control = Path(os.path.realpath(scanning.supervise("a"))).parent / ".scanner" / "control"
    control.unlink()
    control.symlink_to("nowhere")
    wait_for(lambda: scanning.events().count("cannot make the scanner's folder") > 1, "the fault to be told")
    control.unlink()
    wait_for(control.is_fifo, "the FIFO")
    fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"rescan\n")
    wait_for(lambda: count_pending(fd) == 0, "the scanner to read")
    os.close(fd)


def test_nothing_outlives_its_jail(scanning: Tree) -> None:
    """Double-forked children and daemons with sessions of their own end with the service."""
    scanning.add("a", "setsid sleep 1000.75 &\n(setsid sleep 1000.75 & ) &\nsleep 0.2\necho spawned\nexec sleep 1000")
    wait_for(lambda: "spawned" in scanning.log("a"), "its children")
    count = "pgrep -fc 'sleep 1000.75'"
    assert int(subprocess.run(count, shell=True, capture_output=True, text=True, check=False).stdout) >= 2
    scanning.ljsv("down", "a")
    left = subprocess.run("pgrep -f '^sleep 1000.75'", shell=True, capture_output=True, text=True, check=False).stdout
    assert not left


def test_two_hundred_services(scanning: Tree) -> None:
    """All run, status shows them, and all end."""
    names = [f"s{number:03}" for number in range(200)]
    for name in names:
        scanning.add(name)
    wait_for(lambda: all(scanning.state(name) == "ready" for name in names), "200 services", 120)
    assert "200 ready" in scanning.ljsv("status").stdout
    scanning.kill("s100")
    scanning.ljsv("exit", "--all", "-w", "60")
    assert not scanning.processes()


def kill_all_that_supervises(tree: Tree, *names: str) -> None:
    """The scanner, and the supervisors of these."""
    for victim in (scanner_pid(tree), *map(tree.supervisor_pid, names)):
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: not is_alive(victim), "it to end")


def test_line_of_a_killed_supervisor_under_another_name(scanning: Tree) -> None:
    """Killed when it had written a line, and before it knew that; then the directory is given a name that had a log before: the line is there once."""
    add(scanning, "a", "echo one; exec sleep 1000")
    wait_for(lambda: scanning.log("a") == "one", "its line")
    current = Path(scanning.detail("a")["log"])
    kill_all_that_supervises(scanning, "a")
    entry = current.stat()
    (scanning.supervise("a") / "staging").write_bytes(f"{entry.st_ino:20} {entry.st_size:20}\n".encode().ljust(64, b"\0") + b"two\n")
    with current.open("ab") as file:
        file.write(log.add_stamps(b"two\n", log.stamp(time.time_ns()), at_line_start=True))
    other = current.parent.parent / "b"
    other.mkdir()
    os.chown(other, scanning.uid, scanning.uid)
    (scanning.sv / "a").rename(scanning.sv / "b")
    scanning.ljsv("up", "b")
    wait_for(lambda: scanning.log("b") == "two", "the line in the new place")
    assert current.read_text().partition("Z ")[2] == "one\n"


def kill_supervisor(tree: Tree, name: str) -> None:
    supervisor = tree.supervisor_pid(name)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: tree.supervisor_pid(name) not in {0, supervisor}, "the next supervisor")


def test_down_while_nobody_supervises_it_for_now(scanning: Tree) -> None:
    """Its supervisors were killed again and again, and the next one is to wait: it comes for the command."""
    add(scanning, "a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    killed = {0}
    for _ in range(3):
        wait_for(lambda: scanning.supervisor_pid("a") not in killed, "a supervisor", 10)
        killed.add(scanning.supervisor_pid("a"))
        os.kill(scanning.supervisor_pid("a"), signal.SIGKILL)
    for verb in ("hup", "down"):
        scanning.ljsv(verb, "a")
    assert not is_alive(pid) and scanning.state("a") == "down"


@pytest.mark.parametrize("of", ["service", "log service", "made anew"])
def test_command_that_a_killed_supervisor_had_not_read(scanning: Tree, of: str) -> None:
    """It is obeyed by the next one."""
    add(scanning, "a", log__run="#!/bin/sh\nexec cat > /dev/null\n")
    scanning.wait_state("a", "ready")
    folder = scanning.supervise("a")
    if of == "made anew":
        before = os.stat(folder / "control").st_ino
        shutil.rmtree(os.path.realpath(folder))
        wait_for(lambda: (folder / "control").exists() and os.stat(folder / "control").st_ino != before, "another FIFO", 10)
        time.sleep(1)  # for the scanner to open it
    if of == "log service":
        folder = scanning.sv / "a/log/supervise"
        wait_for(lambda: (folder / "detail").exists() and "state ready" in (folder / "detail").read_text(), "the log service")
    supervisor = scanning.supervisor_pid("a")
    os.kill(supervisor, signal.SIGSTOP)
    (folder / "control").write_text("d")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: "state down" in (folder / "detail").read_text(), "it to be obeyed")


def test_exit_all_where_nobody_knows_the_scanners_pid(scanning: Tree) -> None:
    """Its file was deleted: the lock tells."""
    add(scanning, "a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    scanner = scanner_pid(scanning)
    os.unlink(scanner_file(scanning))
    scanning.ljsv("exit", "--all")
    assert not is_alive(pid) and not is_alive(scanner)


def test_exit_all_ends_a_log_service_that_nobody_supervises(tree: Tree) -> None:
    """Its service is down, and scanner and supervisor are killed: it is found all the same."""
    tree.ljsv("scan", "--daemon")
    add(tree, "a", log__run="#!/bin/sh\nexec cat > /dev/null\n")
    tree.wait_state("a", "ready")
    tree.ljsv("down", "a")
    detail = tree.sv / "a/log/supervise/detail"
    pid = int(next(line for line in detail.read_text().splitlines() if line.startswith("pid ")).split()[1])
    kill_all_that_supervises(tree, "a")
    tree.ljsv("exit", "--all")
    assert not is_alive(pid)


def test_commands_without_a_scanner_do_not_wait_for_one(tree: Tree) -> None:
    """What runs without a supervisor needs a scanner first: said at once."""
    tree.ljsv("scan", "--daemon")
    for name in ("a", "b"):
        add(tree, name)
        tree.wait_state(name, "ready")
    kill_all_that_supervises(tree, "a", "b")
    assert "no scanner runs" in tree.ljsv("down", "a", "b", code=102).stderr
    tree.ljsv("exit", "--all")


def test_backoff_goes_on_after_the_supervisor_was_killed(scanning: Tree) -> None:
    """The next try comes at its time."""
    add(scanning, "a", "echo ran; exit 1")
    scanning.wait_state("a", "backoff")
    ran = scanning.log("a").count("ran")
    kill_supervisor(scanning, "a")
    wait_for(lambda: scanning.log("a").count("ran") > ran, "the next try", 10)


def test_stop_timeout_goes_on_after_the_supervisor_was_killed(scanning: Tree) -> None:
    """A service that ignores TERM is killed all the same."""
    add(scanning, "a", "trap '' TERM\necho deaf\nwhile :; do sleep 0.02; done", policy='[stop]\ntimeout = "1s"\n')
    wait_for(lambda: "deaf" in scanning.log("a"), "its trap")
    pid = scanning.pid("a")
    write_control(scanning, "a", "d")
    scanning.wait_state("a", "stopping")
    kill_supervisor(scanning, "a")
    wait_for(lambda: not is_alive(pid), "it to be killed", 10)
    scanning.wait_state("a", "down")


def test_finish_timeout_goes_on_after_the_supervisor_was_killed(scanning: Tree) -> None:
    """A finish script that hangs is killed, and the service starts again."""
    add(scanning, "a", "sleep 0.2", finish="#!/bin/sh\nsleep 1000\n", policy='[scripts]\nfinish = "1s"\n')
    scanning.wait_state("a", "finishing")
    kill_supervisor(scanning, "a")
    scanning.wait_state("a", "backoff", "ready")


def test_given_up_stays_given_up(scanning: Tree) -> None:
    """`failed` by give_up_after is not undone by a killed supervisor."""
    add(scanning, "a", "echo ran; exit 1", policy="[restart]\ngive_up_after = 1\n")
    scanning.wait_state("a", "failed")
    kill_supervisor(scanning, "a")
    assert scanning.state("a") == "failed"
    assert scanning.log("a").count("ran") == 1


def test_supervisor_killed_before_its_first_word_is_replaced(scanning: Tree) -> None:
    """Killed in its first milliseconds, another takes over."""
    scanner = scanner_pid(scanning)
    for turn in range(6):
        known = children(scanner)
        add(scanning, f"a{turn}")
        new = wait_for(lambda known=known: children(scanner) - known, "a new child")
        for pid in new:
            os.kill(pid, signal.SIGKILL)
    for turn in range(6):
        scanning.wait_state(f"a{turn}", "ready")
        assert running_copies(scanning, f"a{turn}") == 1


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("is_asleep", [False, True], ids=["awake", "asleep"])
def test_exit_all_whose_scanner_is_killed(tree: Tree, is_asleep: bool) -> None:  # noqa: FBT001 - a parameter
    """It is ok only when nothing runs any more; what is needed ends last all the same, and nothing is started again."""
    if is_asleep:
        tree.env["LJSV_SLEEP_AFTER"] = "100ms"
    tree.ljsv("scan", "--daemon")
    slow = "trap 'echo ending; sleep 1; echo ended; exit 0' TERM\necho began\nwhile :; do sleep 0.05; done"
    add(tree, "db", slow)
    add(tree, "web", slow, policy='needs = ["db"]\n')
    for name in ("web", "db"):
        tree.wait_state(name, "ready")
        wait_for(lambda name=name: "began" in tree.log(name), "its trap")
    pids = {name: tree.pid(name) for name in ("web", "db")}
    command = tree.start("ljsv", "exit", "--all", "-w", "30")
    wait_for(lambda: "ending" in tree.log("web"), "the first to be stopped")
    os.kill(scanner_pid(tree), signal.SIGKILL)
    said, _ = command.communicate(timeout=40)
    assert command.returncode == 0 and "have ended" in said, said
    for name in ("web", "db"):
        assert tree.log(name).count("began") == 1 and tree.log(name).count("ended") == 1, tree.log(name)
        assert not is_alive(pids[name])


def test_exit_all_without_a_scanner_ends_orphaned_jails(tree: Tree) -> None:
    """Scanner and supervisors killed: `exit --all` still ends everything."""
    tree.ljsv("scan", "--daemon")
    add(tree, "a")
    pid = int(tree.wait_state("a", "ready")["pid"])
    kill_all_that_supervises(tree, "a")
    tree.ljsv("exit", "--all")
    assert not is_alive(pid)


def test_directory_deleted_while_nobody_scans_is_swept(tree: Tree) -> None:
    """The next scanner finds supervisor or jail by the runtime folder, and ends them; the folder goes too."""
    tree.ljsv("scan", "--daemon")
    for name in ("a", "b"):
        add(tree, name)
    pids = [int(tree.wait_state(name, "ready")["pid"]) for name in ("a", "b")]
    folder = Path(os.path.realpath(tree.supervise("a")))
    for victim in (scanner_pid(tree), tree.supervisor_pid("b")):
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: not is_alive(victim), "it to end")
    for name in ("a", "b"):
        shutil.rmtree(tree.sv / name)
    tree.ljsv("scan", "--daemon")
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "the orphans to end")
    wait_for(lambda: not folder.exists() and not folder.with_name("b").exists(), "their folders to go")


def waits_for_lock(pid: int) -> bool:
    return any("->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines())


def test_a_lock_that_the_jail_takes_does_not_keep_a_supervisor_out(scanning: Tree) -> None:
    """What runs in the jail sees its service directory, and can lock it: the next supervisor comes all the same, and there is one."""
    hold = "import fcntl, os, sys, time; fd = os.open('/run/service', os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(1000)"
    scanning.add("a", f'exec /usr/bin/python3 -c "{hold}"')
    pid = int(scanning.wait_state("a", "ready")["pid"])
    wait_for(lambda: waits_for_lock(pid), "the jail to wait for the lock")
    for _ in range(3):  # the next supervisor may be faster; the one after it tries a second later
        old = scanning.supervisor_pid("a")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda old=old: scanning.supervisor_pid("a") not in {0, old}, "another supervisor")
        if not waits_for_lock(pid):
            break
    wait_for(lambda: "locked" in scanning.log("a"), "its log to be read")
    assert scanning.pid("a") == pid
    scanning.ljsv("restart", "a")
    assert scanning.pid("a") != pid


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def jail_pid(tree: Tree, name: str) -> int:
    lines = (tree.supervise(name) / "jail").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("pid ")))


@pytest.mark.awake
def test_nursery_killed_takes_no_jail_with_it(scanning: Tree) -> None:
    """Jails come from the nursery; killed, it costs no service, the next start does without it, and another is started."""
    add(scanning, "a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    (nursery,) = find_nurseries(scanning)
    assert parent_of(jail_pid(scanning, "a")) == nursery
    os.kill(nursery, signal.SIGKILL)
    wait_for(lambda: not is_alive(nursery), "the nursery's end")
    add(scanning, "b")
    scanning.wait_state("b", "ready")
    wait_for(lambda: len(find_nurseries(scanning)) == 1, "another nursery")
    scanning.ljsv("restart", "b")
    assert parent_of(jail_pid(scanning, "b")) in find_nurseries(scanning)
    assert scanning.pid("a") == pid
    assert [running_copies(scanning, name) for name in "ab"] == [1, 1]


@pytest.mark.awake
def test_nursery_that_does_not_answer_is_done_without(scanning: Tree) -> None:
    """Stopped (or without a processor for seconds), it holds no service up, and what it does afterwards starts nothing twice."""
    add(scanning, "a")
    scanning.wait_state("a", "ready")
    (nursery,) = find_nurseries(scanning)
    os.kill(nursery, signal.SIGSTOP)
    try:
        scanning.ljsv("restart", "-w", "30", "a")
        assert parent_of(jail_pid(scanning, "a")) == scanning.supervisor_pid("a")
    finally:
        os.kill(nursery, signal.SIGCONT)
    pid = scanning.pid("a")
    scanning.ljsv("restart", "a")
    assert not is_alive(pid)
    assert running_copies(scanning, "a") == 1


def test_what_a_late_nursery_begins_says_nothing_of_the_run(scanning: Tree) -> None:
    """Its order was carried out by somebody else: that it comes to nothing is not how the run has ended."""
    scanning.add("web", "trap 'exit 7' TERM; echo run; sleep 1000 & wait", finish="#!/bin/sh\necho finish $1 $2\n", policy='[restart]\nstable_after = "0s"\n')
    scanning.wait_state("web", "ready")
    (nursery,) = find_nurseries(scanning)
    os.kill(nursery, signal.SIGSTOP)
    scanning.ljsv("restart", "-w", "30", "web")
    supervisor, jail = scanning.supervisor_pid("web"), jail_pid(scanning, "web")
    os.kill(supervisor, signal.SIGSTOP)
    scanning.kill("web", signal.SIGTERM)
    exits = scanning.supervise("web") / "exit"
    wait_for(lambda: "ended" in exits.read_text().splitlines()[-1], "the end of the run")
    lines = len(exits.read_text().splitlines())
    os.kill(nursery, signal.SIGCONT)
    if scanning.uid:  # root's has ids to wait for, and ends before it could write
        wait_for(lambda: len(exits.read_text().splitlines()) > lines, "what the nursery has begun to end")
    os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: not is_alive(jail) and scanning.log("web").count("run") == 3, "the next run")
    assert [line for line in scanning.log("web").splitlines() if line.startswith("finish")] == ["finish 7 0"] * 2


@pytest.mark.awake
def test_nursery_outlives_the_scanner_and_ends_with_the_last_supervisor(tree: Tree) -> None:
    """A scanner that is killed leaves it to the supervisors; those end with the next scanner, and it with them."""
    tree.ljsv("scan", "--daemon")
    add(tree, "a")
    tree.wait_state("a", "ready")
    (nursery,) = find_nurseries(tree)
    os.kill(scanner_pid(tree), signal.SIGKILL)
    tree.ljsv("restart", "a")
    assert parent_of(jail_pid(tree, "a")) == nursery
    tree.ljsv("exit", "--all")
    wait_for(lambda: not find_nurseries(tree), "the nursery's end")


def test_finish_waits_for_a_jail_that_is_still_in_the_way(scanning: Tree) -> None:
    """Where the lock of the exit record is held by what a killed supervisor has ordered, ./finish is run later, and not left out."""
    add(scanning, "web", "echo run; trap 'exit 7' TERM; sleep 1000 & wait", finish="#!/bin/sh\necho finish $1\n", policy='[restart]\nstable_after = "0s"\n')
    wait_for(lambda: scanning.log("web") == "run", "the run")
    with (scanning.supervise("web") / "exit").open() as record:
        holder = threading.Thread(target=fcntl.flock, args=(record, fcntl.LOCK_EX), daemon=True)
        holder.start()
        inode = f":{os.fstat(record.fileno()).st_ino} "
        wait_for(lambda: [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line and inode in line], "the lock to be waited for")
        supervisor = scanning.supervisor_pid("web")
        os.kill(supervisor, signal.SIGSTOP)
        try:
            scanning.kill("web", signal.SIGTERM)
            holder.join(20)  # granted as soon as pid 1 is gone
            assert not holder.is_alive()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        time.sleep(1.5)
    wait_for(lambda: scanning.log("web").split("\n") == ["run", "finish 7", "run"], f"finish and another run: {scanning.log('web')}")

"""Supervisors with nothing to do: the dormitory waits for all of them, and nobody notices but by their memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ljsv import status
from tests.conftest import Tree, is_alive, wait_for
from tests.integration.ready.test_ready import add_notify
from tests.integration.survive.test_survive import scanner_pid

COUNTS = 'echo begun; trap "exit 7" TERM; while :; do sleep 0.05; done'
AT_ONCE = '[restart]\nstable_after = "0s"\n'


@pytest.fixture
def sleepy(tree: Tree) -> Tree:
    """Its supervisors sleep when they have been idle for 200 ms."""
    tree.env["LJSV_SLEEP_AFTER"] = "200ms"
    tree.ljsv("scan", "--daemon")
    return tree


def is_asleep(tree: Tree, name: str) -> bool:
    return tree.detail(name).get("asleep") == "yes"


def wait_asleep(tree: Tree, *names: str) -> None:
    for name in names:
        wait_for(lambda name=name: is_asleep(tree, name), f"the supervisor of {name} to sleep: {tree.detail(name)}")


def private_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty:"))


def write_control(tree: Tree, name: str, commands: str) -> None:
    with open(tree.supervise(name) / "control", "w") as control:
        control.write(commands)


def test_it_has_less_and_everything_is_as_it_was(sleepy: Tree) -> None:
    """Another process, with half the memory at most, however many sleep; the same run, and not a word in the journal."""
    sleepy.add("a", COUNTS)
    before = sleepy.wait_state("a", "ready")
    wait_for(lambda: '"ready"' in sleepy.events(), "the journal")
    memory = private_kb(int(before["supervisor"].split()[0])) if not os.geteuid() else 0
    record = (sleepy.supervise("a") / "status").read_bytes()
    events = sleepy.events()
    wait_asleep(sleepy, "a")
    after = sleepy.detail("a")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"supervisor", "asleep"}
    assert (sleepy.supervise("a") / "status").read_bytes() == record
    assert sleepy.events() == events
    assert is_alive(int(before["pid"]))
    if memory:
        assert private_kb(sleepy.supervisor_pid("a")) < memory / 2


def test_nobody_sees_a_gap(sleepy: Tree) -> None:
    """`sv status` says that it runs, whoever falls asleep or is woken meanwhile; and each command is obeyed."""
    names = ["a", "b"]
    for name in names:
        sleepy.add(name, 'trap "echo hup" HUP; while :; do sleep 0.05; done')
    for name in names:
        sleepy.wait_state(name, "ready")
    wrong: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            done = sleepy.run("sv", "status", *(str(sleepy.sv / name) for name in names))
            wrong.extend(line for line in done.stdout.splitlines() if not line.startswith("run: "))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(1, 5):
            for name in names:
                wait_asleep(sleepy, name)
                write_control(sleepy, name, "h")
                wait_for(lambda name=name, number=number: sleepy.log(name) == "\n".join(["hup"] * number), f"command {number}")
    finally:
        is_over.set()
        asking.join()
    assert not wrong, wrong[:5]


def test_what_wakes_it(sleepy: Tree) -> None:
    """A death, with its finish script and its count; a line of its log; a command; an edit; a signal of the scanner."""
    sleepy.add("a", COUNTS, policy=AT_ONCE, finish='#!/bin/sh\necho "finish $1 $2"\n')
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    pid = sleepy.kill("a", signal.SIGTERM)
    wait_for(lambda: sleepy.log("a") == "begun\nfinish 7 0\nbegun", "another run")
    assert sleepy.detail("a")["restarts"] == "1" and sleepy.pid("a") != pid
    wait_asleep(sleepy, "a")
    (sleepy.sv / "a/run").write_text(f"#!/bin/sh\n{COUNTS}\n# edited\n")
    wait_for(lambda: sleepy.detail("a").get("changed") == "run", "the edit")
    sleepy.ljsv("restart", "a")
    assert "changed" not in sleepy.detail("a")
    wait_asleep(sleepy, "a")
    sleepy.ljsv("down", "a")
    wait_asleep(sleepy, "a")
    sleepy.ljsv("up", "a")
    wait_asleep(sleepy, "a")
    sleepy.ljsv("exit", "--all")


def test_lines_of_a_log(sleepy: Tree) -> None:
    """Each once, whoever writes them down."""
    sleepy.add("a", "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.7; done")
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    wait_for(lambda: len(sleepy.log("a").splitlines()) >= 6, "lines")
    lines = sleepy.log("a").splitlines()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert float(sleepy.detail("a")["sleep_after"]) > 0.2, "it is left awake longer where its sleep was short"


def test_a_bad_edit_wakes_it(sleepy: Tree) -> None:
    """It is shown, and an automatic restart goes on with the values before it."""
    path = sleepy.add("a", COUNTS, policy=AT_ONCE, env__WHO="before\n")
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    (path / "limits").write_text("memory = 1\n")
    wait_for(lambda: "memory" in sleepy.detail("a").get("fault", ""), "the fault")
    sleepy.kill("a", signal.SIGTERM)
    wait_for(lambda: sleepy.log("a") == "begun\nbegun", "another run")
    (path / "limits").unlink()
    wait_for(lambda: "fault" not in sleepy.detail("a"), "it to be forgotten")


def test_an_edit_that_could_never_start(sleepy: Tree) -> None:
    """It is good for itself, and not for a service that runs already."""
    sleepy.add("c")
    pid = int(sleepy.wait_state("c", "ready")["pid"])
    wait_asleep(sleepy, "c")
    (sleepy.sv / "c/policy").write_text('needs = ["typo"]\n')
    wait_for(lambda: "needs what is not there: typo" in sleepy.detail("c").get("fault", ""), "the fault")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: sleepy.state("c") == "ready" and sleepy.pid("c") not in {0, pid}, "a restart without it")


def test_it_is_renamed(sleepy: Tree) -> None:
    """State and log follow, before anything else is done."""
    path = sleepy.add("a", COUNTS)
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    path.rename(sleepy.sv / "b")
    wait_for(lambda: "/b/" in sleepy.detail("b").get("log", ""), "the new name")
    assert sleepy.pid("b") == pid
    sleepy.ljsv("restart", "b")
    assert sleepy.log("b").splitlines()[:1] == ["begun"]


def test_its_runtime_directory_is_deleted(sleepy: Tree) -> None:
    """The run goes on, everything is made again, and how it ends is known."""
    sleepy.add("a", COUNTS, policy=AT_ONCE, finish='#!/bin/sh\necho "finish $1 $2"\n')
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    shutil.rmtree(os.path.realpath(sleepy.supervise("a")))
    wait_for(lambda: sleepy.pid("a") == pid, "its status")
    wait_for(lambda: status.is_supervised(str(sleepy.supervise("a"))), "its supervisor")
    wait_for(lambda: "had vanished, and was made anew" in sleepy.events(), "the journal")
    assert is_alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: sleepy.log("a") == "begun\nfinish 7 0\nbegun", "another run")


def test_without_a_scanner(sleepy: Tree) -> None:
    """It needs none to wake and to do its work."""
    sleepy.add("a", COUNTS, policy=AT_ONCE)
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    os.kill(scanner_pid(sleepy), signal.SIGKILL)
    pid = sleepy.kill("a")
    wait_for(lambda: sleepy.pid("a") not in {0, pid}, "another run")
    write_control(sleepy, "a", "d")
    sleepy.wait_state("a", "down")


def test_it_is_killed_or_upgraded(sleepy: Tree) -> None:
    """As any other."""
    sleepy.add("a", COUNTS)
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    for how in ("killed", "upgraded"):
        wait_asleep(sleepy, "a")
        before = sleepy.supervisor_pid("a")
        if how == "killed":
            os.kill(before, signal.SIGKILL)
        else:
            sleepy.ljsv("upgrade")
        wait_for(lambda before=before: not is_alive(before) and sleepy.supervisor_pid("a") not in {0, before}, "another supervisor")
        assert sleepy.pid("a") == pid
    sleepy.ljsv("restart", "a")


def test_a_word_that_comes_late(sleepy: Tree) -> None:
    """A run that says something of itself wakes it, and its reload is shown."""
    add_notify(sleepy, 'say("READY=1\\nSTATUS=serves")\nwait("go")\nsay("STATUS=more")\nwait("again")\nsay("STATUS=again")\nwait("never")\n')
    sleepy.wait_state("n", "ready")
    wait_asleep(sleepy, "n")
    (sleepy.root / "shared/go").touch()
    wait_for(lambda: sleepy.detail("n")["status_text"] == "more", "what it said")
    wait_asleep(sleepy, "n")
    shutil.rmtree(os.path.realpath(sleepy.supervise("n")))
    wait_for(lambda: sleepy.detail("n").get("status_text") == "more", "its directory, again")
    (sleepy.root / "shared/again").touch()
    wait_for(lambda: sleepy.detail("n")["status_text"] == "again", "what it says then")


def wake_without_scanner(tree: Tree) -> int:
    """A service `a` whose supervisor has slept and is awake, and will be idle; the pid of the scanner, which is stopped."""
    tree.add("a")
    tree.wait_state("a", "ready")
    scanner = scanner_pid(tree)
    wait_asleep(tree, "a")
    os.kill(scanner, signal.SIGSTOP)
    write_control(tree, "a", "c")
    return scanner


def test_told_to_exit_while_it_falls_asleep(sleepy: Tree) -> None:
    """It stays exited, also for the next scanner."""
    scanner = wake_without_scanner(sleepy)
    time.sleep(1)  # it has asked by now
    write_control(sleepy, "a", "x")
    time.sleep(0.3)
    os.kill(scanner, signal.SIGCONT)
    wait_for(lambda: "told to exit" in sleepy.ljsv("status", "a", code=None).stdout, "its exit to be known")
    sleepy.ljsv("upgrade")
    time.sleep(0.5)
    assert "told to exit" in sleepy.ljsv("status", "a", code=None).stdout


def test_an_edit_while_it_falls_asleep(sleepy: Tree) -> None:
    """Told to one that is about to end, it is noticed by the one that follows."""
    scanner = wake_without_scanner(sleepy)
    time.sleep(0.1)
    supervisor = sleepy.supervisor_pid("a")
    (sleepy.sv / "a/run").write_text("#!/bin/sh\n# edited\nexec sleep 1000\n")
    time.sleep(1)
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(scanner, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: sleepy.detail("a").get("changed") == "run", "the edit")


def test_a_scanner_that_dies_before_it_is_told(sleepy: Tree) -> None:
    """The dormitory lets go by itself, where the supervisor stays awake."""
    sleepy.add("a")
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    dormitory = sleepy.supervisor_pid("a")
    write_control(sleepy, "a", "c")
    wait_for(lambda: not is_asleep(sleepy, "a"), "it to wake")
    supervisor, scanner = sleepy.supervisor_pid("a"), scanner_pid(sleepy)
    os.kill(scanner, signal.SIGSTOP)
    time.sleep(1)
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(scanner, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(scanner, signal.SIGKILL)
    write_control(sleepy, "a", "p")
    os.kill(supervisor, signal.SIGCONT)
    sleepy.ljsv("scan", "--daemon")
    assert sleepy.supervisor_pid("a") == supervisor
    wait_for(lambda: not is_alive(dormitory), "it to go")


def test_the_dormitory_is_killed_while_one_falls_asleep(sleepy: Tree) -> None:
    """The supervisor ends all the same, another follows, and the next one sleeps."""
    sleepy.add("a")
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    for _ in range(3):
        wait_asleep(sleepy, "a")
        dormitory = sleepy.supervisor_pid("a")
        write_control(sleepy, "a", "c")
        wait_for(lambda: not is_asleep(sleepy, "a"), "it to wake")
        supervisor = sleepy.supervisor_pid("a")
        os.kill(dormitory, signal.SIGSTOP)
        time.sleep(float(sleepy.detail("a")["sleep_after"]) + 0.3)
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(dormitory, signal.SIGCONT)
        time.sleep(0.1)  # it has told the supervisor to end
        os.kill(dormitory, signal.SIGKILL)
        os.kill(supervisor, signal.SIGCONT)
        wait_for(lambda supervisor=supervisor: sleepy.supervisor_pid("a") not in {0, supervisor}, "another supervisor")
    wait_asleep(sleepy, "a")
    assert sleepy.pid("a") == pid
    assert '"error"' not in sleepy.events()


def test_commands_that_the_dormitory_had_not_seen(sleepy: Tree) -> None:
    """Killed, it takes none with it: whoever follows reads them."""
    names = ["a", "b", "c"]
    for name in names:
        sleepy.add(name, COUNTS)
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, *names)
    dormitory = sleepy.supervisor_pid("a")
    os.kill(dormitory, signal.SIGSTOP)
    for name in names:
        (sleepy.supervise(name) / "control").write_text("d")
    os.kill(dormitory, signal.SIGKILL)
    for name in names:
        sleepy.wait_state(name, "down")


def test_all_in_one_process(sleepy: Tree) -> None:
    """Each wakes alone; killed, it is followed by a supervisor for each; and it is gone with the tree."""
    names = ["a", "b", "c"]
    for name in names:
        sleepy.add(name, COUNTS)
    pids = {name: int(sleepy.wait_state(name, "ready")["pid"]) for name in names}
    wait_asleep(sleepy, *names)
    dormitory = sleepy.supervisor_pid("a")
    assert {sleepy.supervisor_pid(name) for name in names} == {dormitory}
    assert Path(f"/proc/{dormitory}/comm").read_text() == "ljsv dormitory\n"
    (sleepy.sv / "a/run").write_text("#!/bin/sh\n# edited\nexec sleep 1000\n")
    wait_for(lambda: sleepy.detail("a").get("changed") == "run", "the edit")
    assert [is_asleep(sleepy, name) for name in names] == [False, True, True]
    os.kill(dormitory, signal.SIGKILL)
    wait_for(lambda: not {dormitory, 0} & {sleepy.supervisor_pid(name) for name in names}, "their supervisors")
    wait_asleep(sleepy, "b", "c")
    assert sleepy.supervisor_pid("b") != dormitory
    assert pids == {name: sleepy.pid(name) for name in names}
    sleepy.ljsv("exit", "--all")
    assert not sleepy.processes()


@pytest.mark.parametrize("has_scanner", [True, False])
def test_a_signal_to_the_dormitory(sleepy: Tree, *, has_scanner: bool) -> None:
    """It is one to each that sleeps there, as when a machine is shut down: all stop, in order."""
    for name in ("a", "b"):
        sleepy.add(name, "trap 'echo ended; exit 0' TERM; while :; do sleep 0.05; done")
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, "a", "b")
    dormitory = sleepy.supervisor_pid("a")
    if not has_scanner:
        os.kill(scanner_pid(sleepy), signal.SIGKILL)
    os.kill(dormitory, signal.SIGTERM)
    for name in ("a", "b"):
        wait_for(lambda name=name: sleepy.log(name) == "ended" and sleepy.detail(name)["supervisor"] == "-", "its end")
    if not has_scanner:
        wait_for(lambda: not is_alive(dormitory), "it to end with the last of them")


def test_removed_while_it_sleeps(sleepy: Tree) -> None:
    """Down, and asleep: others stay where they are."""
    for name in ("a", "b"):
        sleepy.add(name)
        sleepy.wait_state(name, "ready")
    sleepy.ljsv("down", "a")
    wait_asleep(sleepy, "a", "b")
    pid = sleepy.pid("b")
    sleepy.ljsv("remove", "--yes", "a")
    assert not (sleepy.sv / "a").exists() and is_asleep(sleepy, "b") and sleepy.pid("b") == pid


def test_renamed_and_then_deleted(sleepy: Tree) -> None:
    """With its own stop signal, and no word of a directory that had vanished."""
    run = "trap 'echo INT; exit 0' INT; trap 'echo TERM; exit 0' TERM; while :; do sleep 0.05; done"
    policy = '[stop]\nsignal = "INT"\n'
    path = sleepy.add("a", run, policy=policy)
    first = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    path.rename(sleepy.sv / "b")
    sleepy.add("a", run, policy=policy)
    wait_for(lambda: sleepy.pid("a") not in {0, first} and is_asleep(sleepy, "b"), "both")
    log = sleepy.detail("b")["log"]
    shutil.rmtree(sleepy.sv / "b")
    wait_for(lambda: not is_alive(first), "its end")
    wait_for(lambda: Path(log).exists() and "INT" in Path(log).read_text(), "the signal")
    assert "vanished" not in sleepy.events()


def test_who_cannot_sleep_tries_less_and_less(sleepy: Tree) -> None:
    """Something that no supervisor knows keeps it awake: here, that its files are too many to be remembered."""
    sleepy.add("a", **{f"env__V{number:04}": "x\n" for number in range(300)})
    first = int(sleepy.wait_state("a", "ready")["supervisor"].split()[0])
    wait_for(lambda: sleepy.supervisor_pid("a") not in {0, first}, "another supervisor")
    wait_for(lambda: float(sleepy.detail("a").get("sleep_after", "0")) >= 0.8, "it to wait longer")
    assert not is_asleep(sleepy, "a") and sleepy.state("a") == "ready"


def test_ready_by_check(sleepy: Tree) -> None:
    """There is no FIFO for that."""
    sleepy.add("a", policy='[ready]\nby = "check"\n', check="#!/bin/sh\nexit 0\n")
    wait_asleep(sleepy, "a")


def test_needs(sleepy: Tree) -> None:
    """Who sleeps still counts as one that needs the other: it is named, and ends before that one does."""
    for name, needs in (("db", []), ("app", ["db"]), ("web", ["app", "db"])):
        sleepy.add(name, f"trap 'sleep 0.3; echo ended; exit 0' TERM; while :; do sleep 0.05; done # {name}", policy=f"needs = {needs}\n".replace("'", '"'))
    for name in ("db", "app", "web"):
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, "db", "app", "web")
    pid = sleepy.pid("app")
    sleepy.kill("db")
    wait_for(lambda: "others need it, and go on" in sleepy.events(), "those that need it to be named")
    assert sleepy.pid("app") == pid
    wait_asleep(sleepy, "db", "app", "web")
    sleepy.ljsv("exit", "--all")
    ends = [json.loads(line) for line in sleepy.events().splitlines()]
    assert [event["service"] for event in ends if event["event"] == "exited"] == ["web", "app", "db"]


def test_who_does_not_sleep(sleepy: Tree) -> None:
    """Something is going to happen by itself, or a fork that only waits could not see it."""
    sleepy.add("db")
    sleepy.add("logs", log__run="#!/bin/sh\nexec cat >/dev/null\n")
    sleepy.add("fails", "exit 1", policy='[restart]\ndelay = "60s"\n')
    sleepy.add("ends", "trap '' TERM; while :; do sleep 0.05; done", policy='[stop]\ntimeout = "60s"\n')
    sleepy.wait_state("ends", "ready")
    write_control(sleepy, "ends", "d")
    wait_asleep(sleepy, "db")
    sleepy.wait_state("logs", "ready")
    time.sleep(1)
    assert [name for name in ("logs", "fails", "ends") if is_asleep(sleepy, name)] == []
    sleepy.ljsv("kill", "ends")


@pytest.mark.parametrize("victim", ["scanner", "supervisor", "both"])
def test_killed_while_it_falls_asleep(tree: Tree, victim: str, pytestconfig: pytest.Config) -> None:
    """At any moment: the run goes on, it is supervised as soon as there is a scanner, and commands are obeyed."""
    tree.env["LJSV_SLEEP_AFTER"] = "100ms"
    tree.ljsv("scan", "--daemon")
    tree.add("a", COUNTS)
    pid = int(tree.wait_state("a", "ready")["pid"])
    count = 60 if pytestconfig.getoption("--long") else 12
    for number in range(count if victim != "supervisor" else 4):  # a scanner waits longer and longer where its supervisors die
        write_control(tree, "a", "c")  # awake, and idle from now on
        time.sleep(0.098 + number % 12 * 0.0008)
        victims = {"scanner": [scanner_pid(tree)], "supervisor": [tree.supervisor_pid("a")]}
        for one in victims.get(victim, [*victims["scanner"], *victims["supervisor"]]):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        if victim != "supervisor":
            wait_for(lambda: tree.ljsv("scan", "--daemon", code=None).returncode == 0, "another scanner")
        wait_for(lambda: status.is_supervised(str(tree.supervise("a"))), "a supervisor")
        assert tree.pid("a") == pid and is_alive(pid)
    tree.ljsv("restart", "a")
    assert tree.pid("a") != pid
    assert tree.detail("a")["restarts"] == "0"


def supervisors(tree: Tree, *names: str) -> set[int]:
    return {tree.supervisor_pid(name) for name in names}


def called(tree: Tree) -> list[str]:
    """What the processes of the tree are called."""
    found = []
    for pid in tree.processes():
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/comm").read_text().rstrip("\n"))
    return found


def test_few_descriptors(tree: Tree) -> None:
    """The dormitory takes as many as it has descriptors for; the others stay awake, and nobody is lost."""
    if tree.uid == 0:
        pytest.skip("root's scanner raises its limit of descriptors")
    tree.env["LJSV_SLEEP_AFTER"] = "200ms"
    names = [f"s{number}" for number in range(16)]
    for name in names:
        tree.add(name)
    done = tree.run("sh", "-c", "ulimit -n 192 && exec ljsv scan --daemon")
    assert done.returncode == 0, done.stderr
    for name in names:
        tree.wait_state(name, "ready")
    wait_for(lambda: sum(is_asleep(tree, name) for name in names) == 8, "as many to sleep as there is room for")
    (dormitory,) = {tree.supervisor_pid(name) for name in names if is_asleep(tree, name)}
    time.sleep(2)
    assert all(status.is_supervised(str(tree.supervise(name))) for name in names)
    assert is_alive(dormitory) and sum(is_asleep(tree, name) for name in names) == 8
    assert "dormitory gone" not in tree.events()
    tree.ljsv("exit", "--all")


def test_woken_while_the_scanner_has_no_fifo(sleepy: Tree) -> None:
    """The scanner hears of the supervisor all the same, and follows it when it is killed."""
    sleepy.add("a")
    sleepy.wait_state("a", "ready")
    wait_asleep(sleepy, "a")
    dormitory = sleepy.supervisor_pid("a")
    (Path(os.path.realpath(sleepy.supervise("a"))).parent / ".scanner/control").unlink()
    write_control(sleepy, "a", "\n")
    supervisor = wait_for(lambda: sleepy.supervisor_pid("a") not in {0, dormitory} and sleepy.supervisor_pid("a"), "it to wake")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: sleepy.supervisor_pid("a") not in {0, supervisor} and status.is_supervised(str(sleepy.supervise("a"))), "another supervisor")


@pytest.mark.parametrize("is_woken", [False, True])
def test_runtime_directory_and_scanner_are_gone(sleepy: Tree, *, is_woken: bool) -> None:
    """The next scanner finds who sleeps, and who has slept, by the lock alone."""
    sleepy.add("a")
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    if is_woken:
        write_control(sleepy, "a", "\n")
        wait_for(lambda: not is_asleep(sleepy, "a"), "it to wake")
    runtime = Path(os.path.realpath(sleepy.supervise("a"))).parent
    os.kill(scanner_pid(sleepy), signal.SIGKILL)
    shutil.rmtree(runtime)
    sleepy.ljsv("scan", "--daemon")
    wait_for(lambda: sleepy.pid("a") == pid and status.is_supervised(str(sleepy.supervise("a"))), "its directory")
    sleepy.ljsv("restart", "a")
    assert not is_alive(pid)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_gone_before_the_dormitory_has_taken_it(sleepy: Tree, *, is_deleted: bool) -> None:
    """It is stopped, and not started again by somebody who was late."""
    for name in ("a", "b"):
        sleepy.add(name)
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, "a", "b")
    dormitory = sleepy.supervisor_pid("a")
    for name in ("a", "b"):
        write_control(sleepy, name, "\n")
    wait_for(lambda: dormitory not in supervisors(sleepy, "a", "b"), "them to wake")
    os.kill(dormitory, signal.SIGSTOP)
    time.sleep(1)  # both have asked
    elsewhere = sleepy.root / "elsewhere"
    if is_deleted:
        shutil.rmtree(sleepy.sv / "a")
    else:
        (sleepy.sv / "a").rename(elsewhere)
    wait_for(lambda: "ljsv a" not in called(sleepy), "its end")
    os.kill(dormitory, signal.SIGCONT)
    wait_asleep(sleepy, "b")
    time.sleep(0.5)
    assert "ljsv a" not in called(sleepy)
    assert called(sleepy).count("sleep") == 1
    assert not elsewhere.exists() or not status.is_supervised(str(elsewhere / "supervise"))


def test_a_signal_that_waits_for_a_fork(sleepy: Tree) -> None:
    """TERM to the dormitory is not forgotten over HUP where the system has no room for a process."""
    if sleepy.uid == 0:
        pytest.skip("root has no limit of processes")
    names = ["a", "b"]
    for name in names:
        sleepy.add(name)
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, *names)
    dormitory = sleepy.supervisor_pid("a")
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]  # as it was inherited
    assert sleepy.run("prlimit", "--pid", str(dormitory), "--nproc=1:").returncode == 0
    os.kill(dormitory, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(dormitory, signal.SIGHUP)
    time.sleep(1.5)
    assert all(is_asleep(sleepy, name) for name in names)
    assert sleepy.run("prlimit", "--pid", str(dormitory), f"--nproc={'unlimited' if limit < 0 else limit}:").returncode == 0
    for name in names:
        wait_for(lambda name=name: sleepy.detail(name).get("supervisor") == "-", "it to end")


def test_told_to_sleep_and_stopped(sleepy: Tree) -> None:
    """Who has not heard yet that it may end still will, long after the scanner is gone: the dormitory waits for it."""
    sleepy.add("a")
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    write_control(sleepy, "a", "\n")
    wait_for(lambda: not is_asleep(sleepy, "a"), "it to wake")
    supervisor, scanner = sleepy.supervisor_pid("a"), scanner_pid(sleepy)
    os.kill(scanner, signal.SIGSTOP)
    time.sleep(float(sleepy.detail("a")["sleep_after"]) + 0.3)
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(scanner, signal.SIGCONT)
    time.sleep(0.3)
    os.kill(scanner, signal.SIGKILL)
    time.sleep(11)
    os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: is_asleep(sleepy, "a"), "the dormitory to take it")
    assert sleepy.pid("a") == pid


def test_all_of_many_sleep(sleepy: Tree) -> None:
    """Whoever asks while the scanner has other things to do asks again."""
    names = [f"s{number}" for number in range(40)]
    for name in names:
        sleepy.write(name).rename(sleepy.sv / name)
    for name in names:
        sleepy.wait_state(name, "ready")
    wait_asleep(sleepy, *names)


@pytest.mark.parametrize("then", ["wait", "upgrade", "scanner killed"])
def test_supervise_is_deleted(sleepy: Tree, then: str) -> None:
    """Only the link, of a service whose supervisor sleeps: it is there again, and its jail is never ended."""
    sleepy.add("a", COUNTS)
    pid = int(sleepy.wait_state("a", "ready")["pid"])
    wait_asleep(sleepy, "a")
    take_link_away(sleepy, then)
    wait_for(lambda: sleepy.supervise("a").is_symlink(), "the link", 20)
    wait_for(lambda: sleepy.state("a") == "ready" and sleepy.pid("a") == pid, "the service, as it was")
    sleepy.ljsv("down", "a")


@pytest.mark.awake
@pytest.mark.parametrize("kind", ["link", "directory", "log"])
@pytest.mark.parametrize("then", ["wait", "upgrade", "scanner killed"])
def test_supervise_of_one_that_is_awake_is_deleted(tree: Tree, kind: str, then: str) -> None:
    """The same, also where it is a directory, and of a log service."""
    tree.ljsv("scan", "--daemon")
    files = {"log__run": "#!/bin/sh\nexec cat >/dev/null\n"} if kind == "log" else {}
    path = tree.write("a", COUNTS, **files)
    if kind == "directory":
        (path / "supervise").mkdir(mode=0o700)
        os.chown(path / "supervise", tree.uid, tree.uid)
    path.rename(tree.sv / "a")
    pid = int(tree.wait_state("a", "ready")["pid"])
    supervise = tree.sv / "a/log/supervise" if kind == "log" else tree.supervise("a")
    if kind == "log":
        wait_for(supervise.exists, "its log service")
    take_link_away(tree, then, supervise)
    wait_for((supervise / "control").exists, "supervise", 20)
    wait_for(lambda: tree.state("a") == "ready" and tree.pid("a") == pid, "the service, as it was")
    tree.ljsv("down", "a")


def take_link_away(tree: Tree, then: str, supervise: Path | None = None) -> None:
    supervise = supervise or tree.supervise("a")
    if supervise.is_symlink():
        supervise.unlink()
    else:
        shutil.rmtree(supervise)
    if then == "upgrade":
        time.sleep(0.5)
        tree.ljsv("upgrade", code=None)
    elif then == "scanner killed":
        os.kill(scanner_pid(tree), signal.SIGKILL)
        tree.ljsv("scan", "--daemon")

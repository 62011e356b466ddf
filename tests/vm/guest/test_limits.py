"""Limits by cgroup v2: as root, and as a user in a group that was delegated to him, as systemd's Delegate=yes does it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import SLOW_S, Tree, is_alive, wait_for

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
GIVEN = ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control")
HOG = "dd if=/dev/zero of=/dev/null bs=40M count=1"
HOLD = "dd if=/dev/zero bs=30M count=1 | exec sleep 1000"  # dd holds what the pipe does not take
CRASHES = '[restart]\nfirst_delay = "300s"\ndelay = "300s"\nmax_delay = "300s"\n'


def delegate(group: Path, uid: int, controllers: tuple[str, ...] = CONTROLLERS) -> Path:
    """A group of that user's own, with controllers, as systemd gives it."""
    parents = [path for path in reversed(group.parents) if path.is_relative_to(ROOT)]
    group.mkdir(parents=True, exist_ok=True)
    for parent in parents:
        (parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    for name in GIVEN:
        os.chown(group / name, uid, uid)
    return group


def groups_below(group: Path) -> list[Path]:
    return sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))


def remove(group: Path) -> None:
    """With all groups below it; none of them may hold a process."""
    for path in (*groups_below(group), group):
        path.rmdir()


@pytest.fixture
def home(tree: Tree) -> Iterator[Path]:
    """The group in which the tree's commands begin: the root for root, a delegated one for the user. Nothing is left below it."""
    before = set(groups_below(ROOT))
    group = delegate(ROOT / "delegated", tree.uid) if tree.uid else ROOT
    tree.group = group
    yield group
    tree.ljsv("exit", "--all", "-w", "30", code=None)
    wait_for(lambda: not [path for path in groups_below(group) if path not in before], f"no group to be left: {groups_below(group)}")
    if tree.uid:
        tree.group = None
        assert (group / "cgroup.subtree_control").read_text().strip() == ""
        remove(group)


@pytest.fixture
def limited(tree: Tree, home: Path) -> Tree:
    """A tree whose scanner runs there. Only the scanner has to: commands work from anywhere."""
    tree.ljsv("scan", "--daemon")
    tree.group = None
    return tree


def group_of(tree: Tree, name: str) -> Path:
    return Path(tree.detail(name).get("cgroup", "/nowhere"))


def scanner_of(tree: Tree) -> int:
    runtime = tree.env.get("XDG_RUNTIME_DIR", "/run")
    (path,) = Path(runtime, "ljsv").glob("*/.scanner/pid")
    return int(path.read_text().split()[0])


def value(group: Path, name: str) -> str:
    return (group / name).read_text().strip()


def rewrite(path: Path, text: str) -> None:
    """A new file in its place, as an editor does it."""
    new = path.parent / f".{path.name}.new"
    new.write_text(text)
    new.rename(path)


def becomes(found: Callable[[], object], wanted: object, what: str) -> None:
    wait_for(lambda: found() == wanted, f"{what} to be {wanted!r}, it is {found()!r}")


def test_each_jail_is_in_a_group_of_its_own_with_its_limits(limited: Tree) -> None:
    """Every value arrives, the supervisor is elsewhere, the jail sees itself as the root of it all, and the group goes with it."""
    limits = 'memory = "64M"\nmemory_high = "48M"\nswap = "0"\ncpu = "25%"\ncpu_weight = 50\npids = 20\ncpus = "0"\n[[io]]\npath = "/dev/vda"\nread = "10M"\n'
    limited.add("web", "cat /proc/self/cgroup; exec sleep 1000", limits=limits)
    detail = limited.wait_state("web", "ready")
    group = group_of(limited, "web")
    assert not [key for key in detail if key.startswith("note")], detail
    wanted = {
        "memory.max": str(64 << 20), "memory.high": str(48 << 20), "cpu.max": "25000 100000", "cpu.weight": "50", "pids.max": "20",
        "cpuset.cpus": "0", "memory.oom.group": "1",
    }
    assert {name: value(group, name) for name in wanted} == wanted
    assert "rbps=10485760" in value(group, "io.max")
    pids = set(value(group, "cgroup.procs").split())
    assert len(pids) == 2 and detail["pid"] in pids
    assert group.name == "sv.web"
    assert Path(f"/proc/{limited.supervisor_pid('web')}/cgroup").read_text().strip().endswith("/.scanner")
    assert "control group: memory.max=67108864 memory.high=50331648" in limited.ljsv("explain", "web").stdout
    wait_for(lambda: limited.log("web") == "0::/", "its log")
    limited.ljsv("down", "web")
    assert not group.exists()


def test_edits_hold_at_once_and_what_is_refused_changes_nothing(limited: Tree) -> None:
    """Changed, added and removed values, without a restart; refused: no such processor, and less memory than is in use."""
    path = limited.add("web", HOLD, limits='memory = "80M"\npids = 20\n')
    pid = limited.wait_state("web", "ready")["pid"]
    group = group_of(limited, "web")
    wait_for(lambda: int(value(group, "memory.current")) > 30 << 20, "it to hold 30 MB")
    rewrite(path / "limits", 'memory = "70M"\ncpu = "50%"\n')
    becomes(lambda: [value(group, name) for name in ("memory.max", "cpu.max", "pids.max")], [str(70 << 20), "50000 100000", "max"], "the group")
    assert "changed" not in limited.detail("web")
    rewrite(path / "limits", 'memory = "8M"\ncpu = "60%"\ncpus = "77"\n')
    becomes(lambda: value(group, "cpu.max"), "60000 100000", "cpu.max")
    fault = wait_for(lambda: limited.detail("web").get("fault", ""), "the refusal")
    assert "memory: it uses" in fault and "a restart applies the new value" in fault and "cpus: the kernel refuses cpuset.cpus=77" in fault
    assert value(group, "memory.max") == str(70 << 20)
    assert "limit refused" in limited.events()
    assert "cannot change a limit" in limited.ljsv("status", "web").stdout
    rewrite(path / "limits", 'memory = "no"\n')
    wait_for(lambda: "memory: found" in limited.detail("web").get("fault", ""), "the bad edit to be told")
    (path / "limits").unlink()
    becomes(lambda: [value(group, name) for name in ("memory.max", "cpu.max")], ["max", "max 100000"], "the group")
    becomes(lambda: limited.detail("web").get("fault"), None, "the fault")
    assert limited.detail("web")["pid"] == pid and limited.detail("web")["restarts"] == "0"


def test_out_of_memory_is_a_named_death(limited: Tree) -> None:
    """Of the whole jail, or of one process only; in why, status and the journal, with a crash's wait; also when no supervisor saw it."""
    limited.add("hog", f"sleep 1000 & {HOG}; echo survived; exec sleep 1000", limits='memory = "16M"\nswap = "0"\n', policy=CRASHES)
    limited.add("one", f"{HOG}; echo survived; exec sleep 1000", limits='memory = "16M"\noom = "one"\n')
    detail = limited.wait_state("hog", "backoff")
    assert "SIGKILL" in detail["why"] and "out of memory: it used all of memory = 16M" in detail["why"]
    assert "survived" not in limited.log("hog")
    assert "out of memory: it used all of memory = 16M" in limited.ljsv("why", "hog").stdout
    assert "out of memory" in limited.ljsv("status", "hog", code=3).stdout
    wait_for(lambda: "survived" in limited.log("one"), "the service to outlive its largest process")
    wait_for(lambda: "a process was killed" in limited.events(), "the journal")
    assert limited.state("one") == "ready"
    if limited.uid:  # once it hands controllers on, nobody gets into a delegated group again but through who has delegated it
        return
    limited.add("unseen", f"read line < /run/service/go; {HOG}; exec sleep 1000", limits='memory = "16M"\nswap = "0"\n', policy=CRASHES)
    os.mkfifo(limited.sv / "unseen/go")
    limited.ljsv("restart", "unseen")
    group, pid, supervisor = group_of(limited, "unseen"), limited.pid("unseen"), limited.supervisor_pid("unseen")
    for killed in (scanner_of(limited), supervisor):
        os.kill(killed, signal.SIGKILL)
    (limited.sv / "unseen/go").write_text("go\n")
    wait_for(lambda: not is_alive(pid), "the kernel to kill it")
    assert group.exists()
    limited.group = ROOT
    limited.ljsv("scan", "--daemon")
    limited.group = None
    wait_for(lambda: "out of memory" in limited.detail("unseen").get("why", ""), "the new supervisor to tell why")
    assert not group.exists()
    limited.ljsv("down", "one")
    assert "out of memory" not in limited.detail("one").get("why", "")


def test_out_of_memory_while_its_supervisor_sleeps(tree: Tree, home: Path) -> None:
    """The kernel's number wakes it: of a process, which is told, and of the jail, whose death is named; paused and limits are as they were."""
    tree.env["LJSV_SLEEP_AFTER"] = "500ms"
    tree.ljsv("scan", "--daemon")
    tree.group = None
    wait_and_hog = f"while ! test -e /run/service/go; do sleep 0.1; done; {HOG}; rm -f /run/go"
    for name, limits in (("one", 'memory = "16M"\noom = "one"\n'), ("hog", 'memory = "16M"\nswap = "0"\n')):
        tree.add(name, f"{wait_and_hog}; echo survived; exec sleep 1000", limits=limits, policy=CRASHES)
        wait_for(lambda name=name: "asleep" in tree.detail(name), f"the supervisor of {name} to sleep")
        (tree.sv / name / "go").touch()
    wait_for(lambda: "survived" in tree.log("one"), "the service to outlive its largest process")
    wait_for(lambda: "a process was killed" in tree.events(), "the journal")
    detail = tree.wait_state("hog", "backoff")
    assert "SIGKILL" in detail["why"] and "out of memory: it used all of memory = 16M" in detail["why"]
    wait_for(lambda: "asleep" in tree.detail("one"), "it to sleep again")
    assert tree.events().count("a process was killed") == 1
    rewrite(tree.sv / "one/limits", 'memory = "32M"\noom = "one"\n')
    wait_for(lambda: value(group_of(tree, "one"), "memory.max") == str(32 << 20), "the new limit")
    tree.ljsv("down", "one")
    assert "out of memory" not in tree.detail("one").get("why", "")


def test_stuck_above_memory_high_is_killed(limited: Tree) -> None:
    """With no swap the kernel would slow down for ever what takes more and more."""
    if not limited.uid:
        pytest.skip("once is enough: the user's trigger is the one that the kernel restricts")
    limited.add("slow", "exec tail /dev/zero", limits='memory_high = "16M"\nswap = "0"\n', policy=CRASHES)
    detail = limited.wait_state("slow", "backoff", timeout_s=60)
    assert "out of memory: it was stuck for 10s above memory_high = 16M" in detail["why"]


def test_pause_freezes_the_whole_jail_and_stopping_leaves_nothing(limited: Tree) -> None:
    """A child that the signal of old would not have stopped; a supervisor that takes over; down while frozen; what ignores TERM and hides in sessions."""
    limited.add("web", "trap '' TERM; (while :; do echo tick; sleep 0.1; done) & setsid sh -c 'trap \"\" TERM; sleep 1000' & setsid sleep 1000", policy='[stop]\ntimeout = "1s"\n')
    limited.wait_state("web", "ready")
    group = group_of(limited, "web")
    wait_for(lambda: "tick" in limited.log("web"), "ticks")
    limited.ljsv("pause", "web")
    becomes(lambda: "frozen 1" in value(group, "cgroup.events"), True, "the group's being frozen")
    wait_for(lambda: limited.detail("web").get("paused") == "yes", "that to be told")
    os.kill(limited.supervisor_pid("web"), signal.SIGKILL)
    wait_for(lambda: limited.detail("web").get("supervisor") and is_alive(limited.supervisor_pid("web")), "another supervisor")
    wait_for(lambda: limited.ljsv("wait", "web", "up", code=None).returncode == 0, "it to be supervised")
    assert "frozen 1" in value(group, "cgroup.events")
    limited.ljsv("cont", "web")
    becomes(lambda: "frozen 0" in value(group, "cgroup.events"), True, "the group's being thawed")
    limited.ljsv("pause", "web")
    becomes(lambda: "frozen 1" in value(group, "cgroup.events"), True, "the group's being frozen")
    pids = value(group, "cgroup.procs").split()
    assert len(pids) >= 5
    limited.ljsv("down", "web", "-w", "30")
    assert not group.exists() and not [pid for pid in pids if is_alive(int(pid))]


def test_escape_from_limits(limited: Tree) -> None:
    """A fork bomb, a hog in tmpfs, and a jail that wants to raise its own limits: each harms itself only."""
    raising = "mount -t cgroup2 none /tmp; ls /sys/fs/cgroup; find / -name memory.max 2>/dev/null; unshare -C true; cat /proc/self/cgroup; echo done; exec sleep 1000"
    limited.add("raise", raising, limits='memory = "64M"\n')
    limited.add("bomb", "bomb() { bomb | bomb & }; bomb; exec sleep 1000", limits="pids = 30\n")
    limited.add("tmpfs", "dd if=/dev/zero of=/dev/shm/x bs=1M count=100; echo survived; exec sleep 1000", limits='memory = "16M"\nswap = "0"\n', policy=CRASHES)
    limited.wait_state("tmpfs", "backoff")
    wait_for(lambda: "done" in limited.log("raise"), "the tries of the jail")
    assert "memory.max" not in limited.log("raise") and "/sv.raise" not in limited.log("raise")
    assert value(group_of(limited, "raise"), "memory.max") == str(64 << 20)
    group = group_of(limited, "bomb")
    wait_for(lambda: int(value(group, "pids.events").split()[-1]) > 0, "the fork bomb to reach its limit")
    assert int(value(group, "pids.current")) <= 30
    limited.ljsv("down", "bomb", "-w", "30")
    assert not group.exists()


def test_groups_that_were_left_are_swept_and_a_log_service_has_its_own(tree: Tree, home: Path) -> None:
    """After all of ours was killed; the log service's limits are its own."""
    if tree.uid:
        pytest.skip("a delegated group that hands controllers on lets nobody in again: needs root")
    tree.ljsv("scan", "--daemon")
    tree.add("web", log__run="#!/bin/sh\nexec cat\n", log__limits="pids = 9\n", limits="pids = 8\n")
    tree.wait_state("web", "ready")
    group = group_of(tree, "web")
    assert value(group, "pids.max") == "8"
    becomes(lambda: [value(path, "pids.max") for path in group.parent.glob("log.web")], ["9"], "the limit of the log service")
    for pid in (*value(group.parent / ".scanner", "cgroup.procs").split(), *value(group, "cgroup.procs").split(), *value(group.parent / "log.web", "cgroup.procs").split()):
        os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: "populated 0" in value(group, "cgroup.events"), "the group to be empty")
    stale = group.parent / "sv.gone"
    tree.run("mkdir", str(stale))
    tree.ljsv("scan", "--daemon")
    tree.wait_state("web", "ready")
    wait_for(lambda: not stale.exists(), "the stale group to be swept")
    assert group.exists()


def test_where_no_limit_can_hold_the_jail_starts_and_it_is_told_once(tree: Tree) -> None:
    """A user to whom nothing was delegated."""
    if not tree.uid:
        pytest.skip("root needs no delegation")
    tree.ljsv("scan", "--daemon")
    tree.add("web", limits='memory = "64M"\npids = 7\n')
    tree.wait_state("web", "ready")
    assert "not enforced: memory, pids (the cgroup /sys/fs/cgroup is not delegated to uid" in tree.ljsv("status", "web").stdout
    tree.ljsv("restart", "web")
    os.kill(tree.supervisor_pid("web"), signal.SIGKILL)
    wait_for(lambda: tree.detail("web").get("supervisor") and is_alive(tree.supervisor_pid("web")), "another supervisor")
    tree.ljsv("restart", "web")
    assert tree.events().count("limits are not enforced") == 1
    done = tree.run("ljexec", "--mem", "64", "--", "true")
    assert done.returncode == 0 and "ljexec: not enforced: --mem (the cgroup /sys/fs/cgroup is not delegated to uid" in done.stderr
    named = tree.run("ljexec", "--mem", "64", "--", "true", env={"LJEXEC_CGROOT": "/nowhere"})
    assert "(LJEXEC_CGROOT=/nowhere: No such directory)" in named.stderr
    hint = done.stderr.partition("hint: as root: ")[2].strip()
    assert os.system(f"set -e; {hint}") == 0
    mended = tree.run("ljexec", "--mem", "64", "--", "true")
    (ROOT / "cgroup.procs").write_text(str(os.getpid()))  # it was this process's shell that was to be moved
    remove(ROOT / f"ljsv-{tree.uid}")
    assert mended.returncode == 0 and not mended.stderr


def test_limits_of_ljexec(tree: Tree, home: Path) -> None:
    """--mem, --cpu, --pids: they hold, the reason of a death is told, exit codes are the program's, and no group is left."""
    script = "cat /proc/self/cgroup; (sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait) 2>&1; exit 7"
    done = tree.run("ljexec", "--mem", "32", "--cpu", "50", "--pids", "5", "--exec", f"sh -c '{script}'")
    assert done.returncode == 7 and done.stdout.startswith("0::/\n") and "fork" in done.stdout, done
    hog = tree.run("ljexec", "--mem", "32", "--", "sh", "-c", HOG)
    assert hog.returncode == 137 and hog.stderr == "ljexec: out of memory: it used all of --mem 32\n"
    running = tree.start("ljexec", "--mem", "32", "--cpu", "50", "--", "sh", "-c", "echo begun; exec sleep 1000")
    assert running.stdout and running.stdout.readline() == "begun\n"
    (group,) = [path for path in groups_below(home) if path.name == "jail"]
    assert (value(group, "memory.max"), value(group, "cpu.max")) == (str(32 << 20), "50000 100000")
    if tree.uid:  # a killed one leaves the group handing controllers on, and so shut to the test
        running.terminate()
        running.communicate(timeout=SLOW_S)
        assert not group.exists()
        return
    running.kill()
    running.communicate()
    wait_for(lambda: "populated 0" in value(group, "cgroup.events"), "the jail to die with it")
    assert tree.run("ljexec", "--pids", "50", "--", "true").returncode == 0  # sweeps what the killed one has left
    assert not group.exists()


def test_recipes_of_the_original(tree: Tree, home: Path) -> None:
    """`+cpu +memory` in the user slice's subtree_control; a cgroup2 mounted at /tmp/mycg, chowned, named by LJEXEC_CGROOT."""
    if not tree.uid:
        pytest.skip("they are for users")
    show = "grep -h . /proc/self/cgroup; exec sleep 1000"
    slice_ = delegate(ROOT / f"user.slice/user-{tree.uid}.slice", tree.uid, ())
    session = slice_ / "session-1.scope"
    session.mkdir()
    (ROOT / "user.slice/cgroup.subtree_control").write_text("+cpu +memory")
    (slice_ / "cgroup.subtree_control").write_text("+cpu +memory")
    tree.group = session
    with tree.start("ljexec", "--mem", "32", "--cpu", "50", "--", "sh", "-c", show) as running:
        assert running.stdout and running.stdout.readline() == "0::/\n"
        found = [(value(group, "memory.max"), value(group, "cpu.max")) for group in slice_.glob("ljsv.ljexec.*/jail")]
        os.kill(running.pid, signal.SIGTERM)
    assert found == [(str(32 << 20), "50000 100000")]
    assert not list(slice_.glob("ljsv.*"))
    session.rmdir()
    remove(slice_)
    (ROOT / "user.slice").rmdir()

    mine = Path("/tmp/mycg")
    mine.mkdir()
    modes = {path: path.stat() for path in ROOT.iterdir() if path.is_file()}
    tree.group = None
    try:
        assert os.system(f"mount -t cgroup2 none {mine} && chown -R {tree.uid} {mine}") == 0
        with tree.start("env", f"LJEXEC_CGROOT={mine}", "ljexec", "--mem", "32", "--cpu", "50", "--", "sh", "-c", show) as running:
            assert running.stdout and running.stdout.readline() == "0::/\n"
            found = [(value(group, "memory.max"), value(group, "cpu.max")) for group in mine.glob("ljsv.ljexec.*/jail")]
            os.kill(running.pid, signal.SIGTERM)
        assert found == [(str(32 << 20), "50000 100000")]
        assert not list(mine.glob("ljsv.*"))
        tree.ljsv("scan", "--daemon", env={"LJSV_CGROOT": str(mine)})
        tree.add("web", limits='memory = "32M"\n')
        tree.wait_state("web", "ready")
        assert str(group_of(tree, "web")).startswith("/tmp/mycg/ljsv.sv-")
        tree.ljsv("exit", "--all", "-w", "30")
    finally:
        os.system(f"chown -R 0 {mine}; umount {mine}")
        mine.rmdir()
    assert modes.keys() == {path for path in ROOT.iterdir() if path.is_file()}


def test_who_enters_from_elsewhere_is_told(limited: Tree) -> None:
    """A user's shell outside the delegated group may not move into it; root may."""
    limited.add("web")
    limited.wait_state("web", "ready")
    done = limited.ljsv("enter", "web", "cat", "/proc/self/cgroup")
    group = group_of(limited, "web")
    if limited.uid:
        assert "outside the control group of the service" in done.stderr
    else:
        assert done.stdout == "0::/\n" and not done.stderr
    assert len(value(group, "cgroup.procs").split()) == 2


def test_scope_of_systemd(tree: Tree) -> None:
    """Where systemd runs and we have no group of our own, the scanner is started through systemd-run, whose part a script plays here."""
    if tree.uid:
        pytest.skip("the script moves itself, which only root may")
    scope = ROOT / "run-1.scope"
    scope.mkdir()
    (ROOT / "cgroup.subtree_control").write_text("+memory +pids")  # as systemd does it for what it delegates
    os.setxattr(scope, "user.delegate", b"1")
    bin_ = tree.root / "bin"
    bin_.mkdir()
    (bin_ / "systemd-run").write_text(f'#!/bin/sh\necho "$@" >> {tree.root}/asked\nwhile [ "$1" != -- ]; do shift; done; shift\n[ "$1" = true ] || echo $$ > {scope}/cgroup.procs\nexec "$@"\n')
    (bin_ / "systemd-run").chmod(0o755)
    shell = ROOT / "session-1.scope"
    shell.mkdir()
    tree.group = shell
    Path("/run/systemd/system").mkdir(parents=True)
    try:
        tree.ljsv("scan", "--daemon", env={"PATH": f"{bin_}:{tree.env['PATH']}"})
        tree.add("web", limits='memory = "64M"\n')
        tree.wait_state("web", "ready")
        assert group_of(tree, "web").is_relative_to(scope)
        asked = (tree.root / "asked").read_text().splitlines()
        assert asked[0] == "--scope --quiet --collect -p Delegate=yes -- true"
        assert "ljsv.supervise.scanner" in asked[1]
        tree.ljsv("exit", "--all", "-w", "30")
        wait_for(lambda: not groups_below(scope), "nothing to be left")
    finally:
        tree.group = None
        Path("/run/systemd/system").rmdir()
        Path("/run/systemd").rmdir()
    wait_for(lambda: not value(scope, "cgroup.procs"), "the scope to be empty")
    scope.rmdir()
    shell.rmdir()


@pytest.fixture
def swap() -> Iterator[None]:
    """A swap file of 128 MB."""
    path = Path("/swapfile")
    path.write_bytes(bytes(128 << 20))
    path.chmod(0o600)
    subprocess.run(["mkswap", path], check=True, capture_output=True)
    subprocess.run(["swapon", path], check=True)
    yield
    subprocess.run(["swapoff", path], check=True)
    path.unlink()


@pytest.mark.usefixtures("swap")
def test_swap_is_used_up_to_its_limit(limited: Tree) -> None:
    """What is over memory goes there; what is over both is out of memory."""
    hold = "exec python3 -c 'import time; held = bytes(range(256)) * 4096 * %d; print(\"held\", flush=True); time.sleep(1000)'"
    limited.add("fits", hold % 48, limits='memory = "32M"\nswap = "64M"\n')
    limited.add("over", hold % 120, limits='memory = "32M"\nswap = "16M"\n', policy=CRASHES)
    wait_for(lambda: "held" in limited.log("fits"), "it to hold 48 MB", 60)
    assert int(value(group_of(limited, "fits"), "memory.swap.current")) > 8 << 20
    (fits,) = json.loads(limited.ljsv("status", "fits", "--json").stdout)
    assert fits["swap_bytes"] > 8 << 20
    assert "out of memory" in limited.wait_state("over", "backoff", "failed", timeout_s=60)["why"]

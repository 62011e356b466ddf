"""The processes that wait for the next jail: it begins with them, sees what the host is like then, and does without where they are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ljsv.jail import nursery, spare
from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.strace import Traced, needs_strace


def called(tree: Tree, name: str) -> list[int]:
    found = []
    for pid in tree.processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().rstrip("\n") == name:
                found.append(pid)
    return sorted(found)


def spares(tree: Tree) -> list[int]:
    """(pid 1, builder) of the jail that nobody has asked for yet: both halves, each alone with its descriptors."""
    found = called(tree, spare.NAME)
    return found if len(found) == 2 and all(os.path.lexists(f"/proc/{pid}/fd/{spare.OWN_FD}") and not os.path.lexists(f"/proc/{pid}/fd/4") for pid in found) else []


def jail_pid(tree: Tree, name: str) -> int:
    lines = (tree.supervise(name) / "jail").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("pid ")))


def begin(tree: Tree, name: str = "a", run: str = "sleep 1000", **files: str) -> list[int]:
    """The spare that waits after a first jail."""
    tree.add(name, run, **files)
    tree.wait_state(name, "ready")
    if "cgroup" in tree.detail(name):
        pytest.skip("a jail is born in its control group here, and has no spare")
    return wait_for(lambda: spares(tree), "a spare")  # type: ignore[no-any-return]


def test_the_next_jail_begins_with_it(scanning: Tree) -> None:
    """Its halves become pid 1 and the service; the one after that has another, and nobody is left when all ends."""
    begin(scanning)
    for _ in range(3):
        waiting = wait_for(lambda: spares(scanning), "a spare")
        scanning.ljsv("restart", "a")
        assert [jail_pid(scanning, "a"), scanning.pid("a")] == waiting
    scanning.ljsv("exit", "--all")
    wait_for(lambda: not scanning.processes(), "all of them to end")


def test_one_for_other_namespaces_is_not_taken(scanning: Tree) -> None:
    """A jail without a network has a network namespace of its own."""
    waiting = begin(scanning)
    scanning.add("b", rootfs='base = "host"\nnetwork = "none"\n')
    pid = int(scanning.wait_state("b", "ready")["pid"])
    assert pid not in waiting
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink(f"/proc/{scanning.pid('a')}/ns/net")


def test_pid_one_is_as_in_any_jail(scanning: Tree) -> None:
    """In the jail's mount namespace, below its root, with nothing open but what it keeps, and closed to others."""
    begin(scanning)
    scanning.ljsv("restart", "a")
    pid1, pid = jail_pid(scanning, "a"), scanning.pid("a")
    if os.geteuid():
        pytest.skip("only root may look at a process that is not dumpable")
    for namespace in ("mnt", "user", "pid", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid1}/ns/{namespace}") == os.readlink(f"/proc/{pid}/ns/{namespace}"), namespace
    assert os.listdir(f"/proc/{pid1}/root") and "home" not in os.listdir(f"/proc/{pid1}/root")
    targets = [os.readlink(f"/proc/{pid1}/fd/{fd}") for fd in os.listdir(f"/proc/{pid1}/fd")]
    folder = os.path.realpath(scanning.supervise("a"))
    assert all(target.startswith(folder) or "/slots/" in target or "slot" in target for target in targets), targets


@needs_strace
def test_pid_one_joins_while_the_root_is_changed(scanning: Tree) -> None:
    """It would find the old root above the new one, and hold it with all the host's mounts: the builder waits for it before."""
    if os.geteuid():
        pytest.skip("only root may look at a process that is not dumpable")
    pid1, pid = begin(scanning)
    joining = Traced(scanning, pid1, "joining", at=1, calls="setns", action="delay_enter=150ms")
    with contextlib.closing(joining), contextlib.closing(Traced(scanning, pid, "changing", at=1, calls="pivot_root", action="delay_exit=300ms")) as changing:
        scanning.ljsv("restart", "a")
    assert any(call.startswith("setns") for call in joining.calls()) and any(call.startswith("pivot_root") for call in changing.calls())
    assert [jail_pid(scanning, "a"), scanning.pid("a")] == [pid1, pid]
    mounts = [Path(f"/proc/{one}/mountinfo").read_text() for one in (pid1, pid)]
    assert mounts[0] == mounts[1]
    assert "home" not in os.listdir(f"/proc/{pid1}/root")


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_is_killed(scanning: Tree, half: int) -> None:
    """The next start does without, and is no failure."""
    waiting = begin(scanning)
    os.kill(waiting[half], signal.SIGKILL)
    wait_for(lambda: not is_alive(waiting[half]), "its end")
    scanning.ljsv("restart", "a")
    detail = scanning.wait_state("a", "ready")
    assert int(detail["pid"]) not in waiting
    assert detail.get("failures", "0") == "0"
    wait_for(lambda: not any(is_alive(pid) for pid in waiting), "the other half to end")


def test_the_nursery_is_killed(scanning: Tree) -> None:
    """Who waits for an order that nobody could send ends."""
    waiting = begin(scanning)
    (pid,) = called(scanning, nursery.NAME)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(one) for one in waiting), "both halves to end")
    scanning.ljsv("restart", "a")


@pytest.mark.parametrize("rest", [0.0, 0.002])
def test_restarts_in_a_row(scanning: Tree, rest: float) -> None:
    """However fast they follow one another: a spare that is half made is waited for, or done without."""
    begin(scanning, policy='[restart]\nstable_after = "0s"\nfirst_delay = "0s"\n')
    for _ in range(40):
        pid = scanning.pid("a")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: scanning.pid("a") not in {0, pid}, "another run")
        signal.sigtimedwait([], rest)
    assert scanning.wait_state("a", "ready")["restarts"] == "40"


@contextlib.contextmanager
def mounted(at: Path, source: str) -> Iterator[None]:
    """A tmpfs of that name there."""
    subprocess.run(["mount", "-t", "tmpfs", source, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


def test_it_holds_no_mount_of_the_host(scanning: Tree) -> None:
    """What was mounted after it was made is seen by its jail; what was taken away is really gone."""
    if os.geteuid():
        pytest.skip("only root may mount for others to see")
    place = scanning.root / "disk"
    place.mkdir(mode=0o755)
    rootfs = f'base = "host"\n[[bind]]\nfrom = "{place}"\nto = "/disk"\n'
    run = "ls /disk; echo END; exec sleep 1000"
    begin(scanning, run=run, rootfs=rootfs)
    source = f"spare-{scanning.root.name}"
    with mounted(place, source):
        (place / "fresh").touch()
        scanning.ljsv("restart", "a")
        wait_for(lambda: scanning.log("a").splitlines() == ["END", "fresh", "END"], f"what it sees: {scanning.log('a')}")
        scanning.ljsv("down", "a")
        wait_for(lambda: spares(scanning), "a spare, made while it was mounted")
    holders = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and source in _mounts(entry)]
    assert holders == []


def _mounts(process: Path) -> str:
    try:
        return (process / "mountinfo").read_text()
    except OSError:
        return ""

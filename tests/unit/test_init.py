"""What PID 1 decides without touching anything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ljsv.init import ending
from ljsv.init.children import hold_standard_descriptors
from ljsv.init.mounts import MOUNTS, plan_mounts, read_mount_points
from ljsv.init.requests import find_request
from ljsv.init.settings import Settings, read_settings
from ljsv.linux.mountinfo import escape, unescape


def test_only_what_is_not_there_is_mounted() -> None:
    """Nothing on a machine that has all; all of it, /proc first, on one that has nothing."""
    everything = [one.at for one in MOUNTS]
    assert plan_mounts(everything, lambda _sign: False) == []
    assert [one.at for one in plan_mounts([], lambda _sign: False)] == everything
    assert everything[0] == "/proc" and everything.index("/sys") < everything.index("/sys/fs/cgroup")
    containers = plan_mounts(["/dev/shm", "/sys/fs/cgroup"], lambda sign: sign in {"/proc/self/mountinfo", "/sys/kernel", "/dev/null", "/dev/pts/ptmx"})
    assert [one.at for one in containers] == ["/run", "/tmp"]


def test_paths_of_the_kernels_tables() -> None:
    r"""A space is \040, and a backslash \134, which escapes nothing itself."""
    assert unescape("/media/a\\040b") == "/media/a b"
    assert unescape("/a\\134040b") == "/a\\040b"
    assert all(unescape(escape(path)) == path for path in ("/a b", "/a\\040b", "/a\nb\t\\", "/"))


def test_a_mount_may_have_any_name(tmp_path: Path) -> None:
    """Whoever may mount chooses the bytes: no UTF-8, a carriage return, a space of Unicode. They go back to the kernel as they came."""
    names = [b"/a\xff", b"/b\rc", "/d\N{EM SPACE}e\N{NEXT LINE}f".encode(), b"/g\\040h"]
    table = tmp_path / "mountinfo"
    table.write_bytes(b"".join(b"36 35 0:1 / %s rw - tmpfs none rw\n" % name for name in names))
    assert [os.fsencode(place) for place in read_mount_points(str(table))] == [*names[:3], b"/g h"]


def test_descriptors_that_lead_nowhere_are_handed_on() -> None:
    """What is executed has the three as well, or its first file would be its standard output."""
    pid = os.fork()
    if pid == 0:
        for fd in (0, 1, 2):
            os.close(fd)
        had_all = hold_standard_descriptors()
        os._exit(had_all or not all(map(os.get_inheritable, (0, 1, 2))))
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(("number", "machine", "container"), [
    (signal.SIGUSR1, "halt", "halt"), (signal.SIGUSR2, "poweroff", "poweroff"), (signal.SIGTERM, "reboot", "poweroff"),
    (signal.SIGINT, "reboot", "poweroff"), (signal.SIGPWR, "poweroff", "poweroff"), (37, "halt", "halt"), (38, "poweroff", "poweroff"),
    (39, "reboot", "reboot"), (signal.SIGCONT, "", ""), (signal.SIGHUP, "", ""), (signal.SIGCHLD, "", ""),
])
def test_signals(number: int, machine: str, container: str) -> None:
    """Busybox's, the kernel's, systemd's and ours."""
    for is_container, wanted in ((False, machine), (True, container)):
        assert find_request(number, is_container=is_container, is_runit_stop=False, is_runit_reboot=True) == wanted


def test_signals_of_runit() -> None:
    """CONT counts only with the file `stopit`; `reboot` tells which."""
    assert find_request(signal.SIGCONT, is_container=False, is_runit_stop=True, is_runit_reboot=False) == "poweroff"
    assert find_request(signal.SIGCONT, is_container=False, is_runit_stop=True, is_runit_reboot=True) == "reboot"


def test_settings_from_the_kernels_words() -> None:
    """What is unknown or impossible is kept to be told, and changes nothing."""
    assert read_settings([]) == Settings()
    assert read_settings(["--deadline=5", "--watchdog", "/dev/watchdog0", "--svdir", "/data/sv", "single"]) == Settings(
        svdir="/data/sv", deadline_s=5.0, watchdog="/dev/watchdog0", is_rescue=True,
    )
    assert read_settings(["splash", "--deadline=soon", "--watchdog-timeout=1", "--svdir"]) == Settings(
        ignored=("splash", "--svdir", "--deadline soon", "--watchdog-timeout 1"),
    )


def test_a_slow_swapoff_costs_no_unmount(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no swap keeps is unmounted first; what it keeps, afterwards."""
    done: list[str] = []
    swaps, mounted = ["/data/swap"], ["/data", "/other"]

    def unmount(at: str) -> bool:
        if at == "/data" and swaps:
            return False
        done.append(f"umount {at}")
        mounted.remove(at)
        return True

    def swapoff(path: str) -> None:
        done.append(f"swapoff {path}")
        swaps.remove(path)

    monkeypatch.setattr(ending, "_list_swaps", lambda: list(swaps))
    monkeypatch.setattr(ending, "_list_mounts", lambda: [(at, "ext4") for at in mounted])
    monkeypatch.setattr(ending, "_unmount", unmount)
    monkeypatch.setattr(ending, "swapoff", swapoff)
    monkeypatch.setattr(ending, "mount", lambda *_: None)
    monkeypatch.setattr(ending.os, "chdir", lambda _: None)
    monkeypatch.setattr(ending.os, "sync", lambda: done.append("sync"))
    ending.unmount_all(done.append)
    assert done == ["sync", "umount /other", "swapoff /data/swap", "umount /data", "sync"]

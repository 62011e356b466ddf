"""The machine's last steps, each in a child that PID 1 forks and does not wait for longer than its limit.

A disk that hangs holds up a child, never PID 1. What cannot be unmounted is
mounted read-only, the root too. In a container nothing is unmounted: the mounts
are its runtime's, and a read-only remount would be the host's.
"""

from __future__ import annotations

import os

from ljsv.init.mounts import read_table
from ljsv.init.requests import HALT, POWEROFF, REBOOT
from ljsv.linux.mount import MS_RDONLY, MS_REMOUNT, mount, umount2
from ljsv.linux.power import RB_AUTOBOOT, RB_DISABLE_CAD, RB_HALT_SYSTEM, RB_POWER_OFF, reboot, swapoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {POWEROFF: RB_POWER_OFF, REBOOT: RB_AUTOBOOT, HALT: RB_HALT_SYSTEM}
SYSRQ = {POWEROFF: "o", REBOOT: "b", HALT: "o"}
KEPT = frozenset({"proc", "sysfs", "devtmpfs", "devpts", "cgroup2", "cgroup", "ramfs", "rootfs"})
PASSES = 4  # what was mounted in another mount is gone after the first; a busy one may need another to go before


def catch_ctrl_alt_del() -> None:
    """From now on the kernel sends PID 1 an INT for it."""
    reboot(RB_DISABLE_CAD)


def unmount_all(say: Callable[[str], None]) -> None:
    """Everything unmounted that can be, swap off, then what only swap was in the way of; the rest read-only. Synced before and after.

    Swap comes second: to bring back what is in it may take longer than there is time.
    """
    os.sync()
    os.chdir("/")
    swaps = _list_swaps()
    if swaps:
        _let_go(lambda _text: None)
    for path in swaps:
        try:
            swapoff(path)
        except OSError as error:
            say(f"swapoff {path}: {error.strerror}")
    _let_go(say)
    os.sync()


def _let_go(say: Callable[[str], None]) -> None:
    for _ in range(PASSES):
        left = [(at, kind) for at, kind in _list_mounts() if at != "/" and kind not in KEPT and not _unmount(at)]
        if not left:
            break
    for at, kind in [*left, ("/", "")]:
        if kind == "tmpfs":
            continue
        try:
            mount("", at, "", MS_REMOUNT | MS_RDONLY)
        except OSError as error:
            say(f"mount -o remount,ro {at}: {error.strerror}")


def call(request: str) -> None:
    """reboot(2); it does not return where it works."""
    reboot(COMMANDS[request])


def press_sysrq(request: str) -> None:
    """The same through the kernel's other door, which needs no library: where a broken disk keeps ctypes from us. No return where it works."""
    with open("/proc/sysrq-trigger", "w") as file:
        file.write(SYSRQ[request])


def _unmount(at: str) -> bool:
    try:
        umount2(at, 0)
    except OSError:
        return False
    return True


def _list_mounts() -> list[tuple[str, str]]:
    """(place, type), the last mounted first. Optional words stand between the sixth and a `-`."""
    return [(words[4], words[words.index("-", 6) + 1]) for words in reversed(read_table("/proc/self/mountinfo"))]


def _list_swaps() -> list[str]:
    return [words[0] for words in read_table("/proc/swaps")[1:]]

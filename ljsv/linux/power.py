"""The end of a machine: reboot(2), swapoff(2)."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int

from ljsv.linux.libc import LIBC, check

RB_AUTOBOOT = 0x0123_4567
RB_HALT_SYSTEM = 0xCDEF_0123
RB_POWER_OFF = 0x4321_FEDC
RB_DISABLE_CAD = 0

LIBC.swapoff.argtypes = [c_char_p]
LIBC.reboot.argtypes = [c_int]


def reboot(command: int) -> None:
    """What ends the machine does not return; in another pid namespace than the first, the kernel kills its PID 1."""
    check(LIBC.reboot(command if command < 0x8000_0000 else command - 0x1_0000_0000), "reboot")


def swapoff(path: str) -> None:
    check(LIBC.swapoff(os.fsencode(path)), path)

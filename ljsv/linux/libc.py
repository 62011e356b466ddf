"""The C library, reached through ctypes: the ground of the kernel seam.

`ljsv.linux` is the only package that may import ctypes. Each system call is
wrapped once, thinly, under its man page's name, and raises
`OSError(errno, strerror, object)`. `LIBC` keeps Python's lock during a call
(PyDLL): a call of ours is short, or its process has nothing else to do, and
dropping the lock costs as much as the call.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_long, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBC = ctypes.PyDLL(None, use_errno=True)
LIBC.syscall.restype = c_long
LIBC.prctl.argtypes = [c_int, c_ulong, c_ulong, c_ulong, c_ulong]
LIBC.waitpid.argtypes = [c_int, c_void_p, c_int]

# From 424 on, system call numbers are the same on every architecture.
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

_OLDER_NUMBERS = {  # pivot_root, statx, keyctl
    "x86_64": (155, 332, 250),
    "aarch64": (41, 291, 219),
    "riscv64": (41, 291, 219),
    "armv7l": (218, 397, 311),
}
MACHINE = os.uname().machine
SYS_PIVOT_ROOT, SYS_STATX, SYS_KEYCTL = _OLDER_NUMBERS.get(MACHINE, (-1, -1, -1))


def check(result: int, object_: str = "") -> int:
    """`result`, or OSError with the call's errno and the object's name where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), object_)
    return result


def syscall(number: int, *arguments: Any, object_: str = "") -> int:
    """One system call by number; integers are passed as long, NULL as None."""
    converted = [c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(LIBC.syscall(c_long(number), *converted), object_)

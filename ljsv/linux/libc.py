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
from ctypes import c_char_p, c_int, c_long, c_size_t, c_ssize_t, c_uint, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LIBC = ctypes.PyDLL(None, use_errno=True)
# Named here, each is looked up once; else every jail's builder would look it up again, in its own copy of our pages.
LIBC.prctl.argtypes = [c_int, c_ulong, c_ulong, c_ulong, c_ulong]
LIBC.fork.argtypes = []
LIBC.waitpid.argtypes = [c_int, c_void_p, c_int]
LIBC.mount.argtypes = [c_char_p, c_char_p, c_char_p, c_ulong, c_char_p]
LIBC.umount2.argtypes = [c_char_p, c_int]
LIBC.unshare.argtypes = [c_int]
LIBC.setns.argtypes = [c_int, c_int]
LIBC.sethostname.argtypes = [c_char_p, c_size_t]
LIBC.syncfs.argtypes = [c_int]
LIBC.tee.argtypes = [c_int, c_int, c_size_t, c_uint]
LIBC.tee.restype = c_ssize_t
LIBC.socket.argtypes = [c_int, c_int, c_int]
LIBC.capset.argtypes = [c_char_p, c_char_p]
LIBC.capget.argtypes = [c_char_p, c_char_p]

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

_OLDER_NUMBERS = {  # pivot_root, statx, keyctl, seccomp
    "x86_64": (155, 332, 250, 317),
    "aarch64": (41, 291, 219, 277),
    "riscv64": (41, 291, 219, 277),
    "armv7l": (218, 397, 311, 383),
}
# What this process's calls are: a 32-bit Python may run on a 64-bit kernel, whose name is not the answer then.
MACHINE = os.uname().machine
if ctypes.sizeof(c_void_p) == 4:
    MACHINE = "armv7l" if MACHINE.startswith(("arm", "aarch64")) else f"32-bit {MACHINE}"
SYS_PIVOT_ROOT, SYS_STATX, SYS_KEYCTL, SYS_SECCOMP = _OLDER_NUMBERS.get(MACHINE, (-1, -1, -1, -1))


def check(result: int, object_: str = "") -> int:
    """`result`, or OSError with the call's errno and the object's name where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), object_)
    return result


def define(number: int, *types: Any) -> Callable[..., int]:
    """The system call of that number, whose arguments are of these ctypes; OSError with `object_` where it fails.

    Types that are told once are converted in C: a call costs a third of what
    it does when each argument is wrapped.
    """
    function = LIBC["syscall"]
    function.restype = c_long
    function.argtypes = (c_long, *types)

    def call(*arguments: Any, object_: str = "") -> int:
        result: int = function(number, *arguments)
        return result if result >= 0 else check(result, object_)

    return call

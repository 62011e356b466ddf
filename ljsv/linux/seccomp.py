"""seccomp(2): give this process a filter that it cannot take off again."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_uint, c_ushort, c_void_p

from ljsv.linux.libc import SYS_SECCOMP, define

_SECCOMP_SET_MODE_FILTER = 1
_INSTRUCTION_BYTES = 8


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", c_ushort), ("filter", c_char_p))


_seccomp = define(SYS_SECCOMP, c_uint, c_uint, c_void_p)


def seccomp_set_mode_filter(program: bytes) -> None:
    """Filter the system calls of this thread and of all that it starts by `program`, an array of struct sock_filter.

    The caller has set no_new_privs, or EACCES. EINVAL: the kernel was built
    without seccomp filters, or the program is not valid.
    """
    argument = _SockFprog(len(program) // _INSTRUCTION_BYTES, program)
    _seccomp(_SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(argument), object_="seccomp filter")

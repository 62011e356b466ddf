"""Processes: clone3, prctl, identity of a process beyond its reusable pid.

Sources: clone(2), prctl(2), unshare(2), close_range(2), capabilities(7),
proc_pid_stat(5), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from ctypes import c_int, c_uint64

from ljsv.linux.libc import LIBC, SYS_CLONE3, SYS_CLOSE_RANGE, SYS_KEYCTL, check, syscall

CLONE_PIDFD = 0x1000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_CLEAR_SIGHAND = 0x1_0000_0000

CLOSE_RANGE_CLOEXEC = 4
FD_MAX = 0xFFFF_FFFF
SIGCHLD = 17
KEYCTL_JOIN_SESSION_KEYRING = 1

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    )


def clone3(flags: int) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child; pidfd is -1 without CLONE_PIDFD.

    No stack is given, so the child goes on with a copy of this one, as after
    fork. Python's own after-fork steps do not run: the caller has one thread.
    """
    pidfd = c_int(-1)
    arguments = _CloneArgs(flags=flags, exit_signal=SIGCHLD)
    if flags & CLONE_PIDFD:
        arguments.pidfd = ctypes.addressof(pidfd)
    pid = syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments), object_="clone3")
    return pid, pidfd.value if pid else -1


def wait_for(pid: int) -> int:
    """Reap every child until `pid` has ended, or (0) until there is none; the wait status of `pid`. waitpid(2).

    In a loop of C calls, since pid 1 of a jail spends its life here and has
    to leave the pages that it shares untouched.
    """
    waitpid, status = LIBC.waitpid, c_int()
    address = ctypes.addressof(status)
    while True:
        found = waitpid(-1, address, 0)
        if found == pid or (found < 0 and ctypes.get_errno() == errno.ECHILD):
            return status.value


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    return check(LIBC.prctl(option, arg2, arg3, 0, 0), f"prctl({option}, {arg2})")


def prctl_name(name: str) -> None:
    """PR_SET_NAME: what `ps` calls this process; the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def unshare(flags: int) -> None:
    check(LIBC.unshare(flags), "unshare")


def close_range(first: int, last: int, flags: int = 0) -> None:
    syscall(SYS_CLOSE_RANGE, first, last, flags, object_="close_range")


def close_all_except(*keep: int) -> None:
    """Close every descriptor of this process but those in `keep` (standard ones too)."""
    first = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first, FD_MAX)


def read_start_time(pid: int) -> int:
    """The 22nd field of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process.

    A pid may be used again; pid and start time together may not.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(fd, 4096)
    except ProcessLookupError:
        return 0
    finally:
        os.close(fd)
    return int(text[text.rindex(b")") + 2 :].split()[19])


def open_process(pid: int, start_time: int) -> int:
    """A pidfd of exactly that process, or -1 when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    if read_start_time(pid) == start_time:
        return fd
    os.close(fd)
    return -1


def join_session_keyring() -> None:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): an empty one. A kernel without keyrings has nothing to leave."""
    with contextlib.suppress(OSError):
        syscall(SYS_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)


def sethostname(name: str) -> None:
    """sethostname(2); the socket module has it too, and costs 5 ms to import."""
    data = name.encode()
    check(LIBC.sethostname(data, ctypes.c_size_t(len(data))), name)


def socket(family: int, kind: int) -> int:
    """socket(2), for an ioctl on it."""
    return check(LIBC.socket(family, kind, 0), "socket")


def read_boot_id() -> str:
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return "unknown"

"""What every attack uses: raw system calls, and one line for each attempt: its name, a tab, what came of it.

`OK` and a value where it succeeded, else the errno's name, or the signal's
that ended it. Each attempt runs in a process of its own, so that one which
succeeds does not spoil the next. Runs inside a jail: the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine
NUMBERS = {
    "x86_64": {"mount": 165, "clone": 56, "pivot_root": 155, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
               "init_module": 175, "delete_module": 176, "kexec_load": 246, "kcmp": 312, "seccomp": 317, "iopl": 172},
    "aarch64": {"mount": 40, "clone": 220, "pivot_root": 41, "keyctl": 219, "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
                "init_module": 105, "delete_module": 106, "kexec_load": 104, "kcmp": 272, "seccomp": 277},
    "armv7l": {"mount": 21, "clone": 120, "pivot_root": 218, "keyctl": 311, "add_key": 309, "request_key": 310, "bpf": 386, "perf_event_open": 364, "userfaultfd": 388,
               "init_module": 128, "delete_module": 129, "kexec_load": 347, "kcmp": 378, "seccomp": 383},
}
NUMBERS["riscv64"] = NUMBERS["aarch64"]
NUMBERS["armv8l"] = NUMBERS["armv7l"]
COMMON = {  # the same everywhere
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "mount_setattr": 442, "io_uring_setup": 425,
}
CLONE_NEW = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x80,
}


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(name: str, *arguments: object) -> int:
    """A system call by its name, past the C library's own wrapper."""
    number = COMMON.get(name) or NUMBERS[MACHINE][name]
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return check(LIBC.syscall(ctypes.c_long(number), *words))


def mount(source: str, target: str, kind: str, flags: int, data: str | None = None) -> int:
    return check(LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() if data is not None else None))


def say(name: str, result: object) -> None:
    os.write(1, f"{name}\t{result}\n".encode(errors="backslashreplace"))


def attempt(name: str, action: Callable[[], object]) -> None:
    """Try it in a child, and say what came of it."""
    child = os.fork()
    if child == 0:
        try:
            try:
                say(name, f"OK {action()!r}")
            except OSError as error:
                say(name, errno.errorcode.get(error.errno or 0, f"errno {error.errno}"))
            except BaseException as error:  # noqa: BLE001 - the child's last word
                say(name, repr(error))
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        say(name, signal.Signals(os.WTERMSIG(status)).name)


def attempt_here(name: str, action: Callable[[], object]) -> None:
    """Try it in this process: for what cannot be done by a child."""
    try:
        say(name, f"OK {action()!r}")
    except OSError as error:
        say(name, errno.errorcode.get(error.errno or 0, f"errno {error.errno}"))


def open_for(path: str, flags: int) -> str:
    """Open, and nothing more."""
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    return path


def write(path: str, text: str) -> int:
    """One write(2), whose errno is not put off to the end of a buffer."""
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, text.encode())
    finally:
        os.close(fd)


ARGUMENTS = sys.argv[1:]

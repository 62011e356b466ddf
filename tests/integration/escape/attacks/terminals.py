"""Type into the caller's terminal, by every way to it."""

from __future__ import annotations

import fcntl
import os
import sys
import termios

from kit import attempt, check

TIOCSTI, TIOCSCTTY, TIOCLINUX = 0x5412, 0x540E, 0x541C


def push(fd: int, request: int) -> None:
    import ctypes

    from kit import LIBC

    for character in b"injected\n":
        check(LIBC.ioctl(fd, ctypes.c_ulong(request), ctypes.byref(ctypes.c_char(character))))


def opened(path: str) -> int:
    return os.open(path, os.O_RDWR)


def steal() -> None:
    """Become the leader of a session, take the terminal, and push."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            fcntl.ioctl(0, TIOCSCTTY, 1)
            push(0, TIOCSTI)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


for fd in (0, 1, 2):
    if os.isatty(fd):
        attempt(f"push {fd}", lambda fd=fd: push(fd, TIOCSTI))
        attempt(f"push {fd} with high bits", lambda fd=fd: push(fd, 1 << 32 | TIOCSTI))
        attempt(f"push {fd} reopened", lambda fd=fd: push(opened(f"/proc/self/fd/{fd}"), TIOCSTI))
        attempt(f"selection {fd}", lambda fd=fd: push(fd, TIOCLINUX))
        attempt(f"console {fd}", lambda fd=fd: fcntl.ioctl(fd, 0x541D))  # TIOCCONS
        attempt(f"foreground {fd}", lambda fd=fd: fcntl.ioctl(fd, termios.TIOCGPGRP, b"    "))
attempt("push /dev/tty", lambda: push(opened("/dev/tty"), TIOCSTI))
attempt("steal", steal)
sys.stdout.flush()

"""Keyrings: they are not in a namespace. The caller's session keyring, its keys by number, named keyrings."""

from __future__ import annotations

import ctypes
import os
import sys

from kit import ARGUMENTS, attempt, check, syscall

SESSION, USER, USER_SESSION, THREAD, PROCESS = -3, -4, -5, -1, -2


def found(ring: int) -> int:
    return syscall("keyctl", 10, ring, b"user", b"ljsv-test", 0)  # KEYCTL_SEARCH


def read(key: int) -> str:
    buffer = ctypes.create_string_buffer(64)
    size = syscall("keyctl", 11, key, buffer, 64)
    return buffer.raw[:size].decode(errors="replace")


if ARGUMENTS[0] == "hold":  # a session keyring with a key in it, for the command that follows; the key's number is its last argument
    check(syscall("keyctl", 1, None))
    key = syscall("add_key", b"user", b"ljsv-test", b"secret", 6, SESSION)
    syscall("add_key", b"user", b"ljsv-test", b"secret", 6, USER)
    sys.stdout.flush()
    os.execvp(ARGUMENTS[1], [*ARGUMENTS[1:], str(key)])
else:
    serial = int(ARGUMENTS[-1])
    for name, ring in (("session", SESSION), ("user", USER), ("user session", USER_SESSION), ("process", PROCESS), ("thread", THREAD)):
        attempt(f"search {name}", lambda ring=ring: found(ring))
    attempt("read by number", lambda: read(serial))
    attempt("link by number", lambda: syscall("keyctl", 8, serial, PROCESS))
    attempt("invalidate by number", lambda: syscall("keyctl", 21, serial))
    attempt("revoke by number", lambda: syscall("keyctl", 3, serial))
    attempt("persistent", lambda: syscall("keyctl", 22, 0, PROCESS) and found(PROCESS))
    attempt("request", lambda: syscall("request_key", b"user", b"ljsv-test", None, 0))

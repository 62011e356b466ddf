"""inotify, for the scanner alone (the one import site of inotify-simple).

A hint, never the truth: what an event names is looked up again, and when the
kernel's queue overflows everything is. Source: inotify(7).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

import inotify_simple

from ljsv.linux.libc import LIBC

# The first INotify() would run ldconfig to find the C library: a process, and 5 ms.
if hasattr(inotify_simple, "_libc") and inotify_simple._libc is None:
    inotify_simple._libc = LIBC

F = inotify_simple.flags
SCAN_MASK = F.CREATE | F.DELETE | F.MOVED_FROM | F.MOVED_TO | F.DELETE_SELF | F.MOVE_SELF | F.ONLYDIR
PARENT_MASK = F.DELETE | F.ONLYDIR  # what is deleted while somebody has it open does not hear of it itself
SERVICE_MASK = F.CLOSE_WRITE | F.CREATE | F.DELETE | F.MOVED_FROM | F.MOVED_TO | F.ATTRIB | F.ONLYDIR
SETTLE_MASK = SERVICE_MASK | F.MODIFY
RUNTIME_MASK = F.DELETE | F.DELETE_SELF | F.MOVE_SELF | F.MOVED_FROM | F.ONLYDIR
READ_MAX = 1 << 20


class Change(NamedTuple):
    """One event: which watch, which name in it ("" for the directory itself), and what kind."""

    watch: int
    name: str
    moved_in: bool
    is_removed: bool
    is_new_directory: bool
    is_ended: bool


class Watch:
    """One inotify instance. `read` never blocks."""

    def __init__(self) -> None:
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self.fd: int = self._inotify.fileno()

    def add(self, path: str, mask: int) -> int:
        """The watch of a directory; -1 where it is gone. OSError when the user's watches are used up."""
        try:
            return int(self._inotify.add_watch(path, mask))
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def add_fd(self, fd: int, mask: int) -> int:
        return self.add(f"/proc/self/fd/{fd}", mask)

    def remove(self, watch: int) -> None:
        with suppress(OSError):
            self._inotify.rm_watch(watch)

    def read(self) -> tuple[list[Change], bool]:
        """(what has changed, whether the kernel had to drop events)."""
        changes: list[Change] = []
        has_overflowed = False
        for event in inotify_simple.parse_events(self._read_bytes()):
            if event.mask & F.Q_OVERFLOW:
                has_overflowed = True
                continue
            new_directory = bool(event.mask & F.ISDIR and event.mask & (F.CREATE | F.MOVED_TO))
            ended = bool(event.mask & F.IGNORED)
            removed = bool(event.mask & (F.DELETE | F.MOVED_FROM))
            changes.append(Change(event.wd, event.name, bool(event.mask & F.MOVED_TO), removed, new_directory, ended))
        return changes, has_overflowed

    def _read_bytes(self) -> bytes:
        try:
            return os.read(self.fd, READ_MAX)
        except BlockingIOError:
            return b""

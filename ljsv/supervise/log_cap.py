"""One size for the logs of all services of a scan directory, as a box with its logs in memory needs it.

There is no process that watches: who writes looks, and again when it has
written its share of what was free then. So all logs together are at most that
size, and 64 KiB for each service that writes at this moment. What goes first
is what was rotated, of all services, the oldest first; when nothing of that is
left, the `current` of others is emptied, the one first that was written to
longest ago. The size of one file is held to a quarter of it all
(`most_of_one`), so whoever writes never empties its own.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import NamedTuple

from ljsv.paths import OWN_LOGS
from ljsv.supervise.logfile import CURRENT, open_regular

SHARE_LEAST = 1 << 16
FILES_MAX = 100_000


def most_of_one(total: int, wanted: int) -> int:
    """The size at which one file is rotated."""
    return min(wanted, total // 4) if total else wanted


class LogCap:
    """`total` bytes for everything in the folders of `directory`."""

    def __init__(self, directory: str, total: int) -> None:
        self.directory = directory
        self.total = total
        self._share = 0

    def written(self, count: int, path: str) -> None:
        """`count` bytes were written to `path`, which is not touched."""
        self._share -= count
        if self._share <= 0:
            self._look(path)

    def _look(self, own: str) -> None:
        files = self._list()
        used = sum(file.size for file in files)
        if used > self.total * 7 // 8:
            used -= self._free(sorted(files), used - self.total * 3 // 4, own)
        writers = sum(file.is_current for file in files) or 1
        self._share = max(SHARE_LEAST, (self.total - used) // (2 * writers))

    def _list(self) -> list[_File]:
        """Each log file."""
        files: list[_File] = []
        for parent in (self.directory, f"{self.directory}/{OWN_LOGS}"):
            for folder in _names(parent):
                with suppress(OSError), os.scandir(f"{parent}/{folder}") as entries:
                    for entry in entries:
                        is_log = entry.name.startswith((CURRENT, "@")) and entry.is_file(follow_symlinks=False)
                        if is_log and len(files) < FILES_MAX:
                            found = entry.stat(follow_symlinks=False)
                            files.append(_File(entry.name == CURRENT, found.st_mtime_ns, min(found.st_size, found.st_blocks * 512), entry.path, found.st_ino))
        return files

    @staticmethod
    def _free(files: list[_File], wanted: int, own: str) -> int:
        """Delete, or empty, in that order until so much is free; how much is."""
        freed = 0
        for file in files:
            if freed >= wanted:
                break
            if file.path == own:
                continue
            with suppress(OSError):  # another was faster
                if file.is_current:
                    _empty(file)
                else:
                    os.unlink(file.path)
                freed += file.size
        return freed


class _File(NamedTuple):
    """`written_ns`: when it was written to last."""

    is_current: bool
    written_ns: int
    size: int
    path: str
    inode: int


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _empty(file: _File) -> None:
    """That very file: a log service may have put something else in its place. OSError where it has."""
    fd = open_regular(file.path, os.O_WRONLY)
    try:
        if os.fstat(fd).st_ino != file.inode:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), file.path)
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)

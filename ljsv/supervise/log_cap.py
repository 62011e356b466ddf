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

import os
from contextlib import suppress

from ljsv.supervise.logfile import CURRENT

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
        used = sum(size for _, _, size, _ in files)
        if used > self.total * 7 // 8:
            used -= self._free(sorted(files), used - self.total * 3 // 4, own)
        writers = sum(is_current for is_current, _, _, _ in files) or 1
        self._share = max(SHARE_LEAST, (self.total - used) // (2 * writers))

    def _list(self) -> list[tuple[bool, int, int, str]]:
        """(whether it is a `current`, when it was written to, size, path) of each log file."""
        files: list[tuple[bool, int, int, str]] = []
        with suppress(OSError), os.scandir(self.directory) as folders:
            for folder in folders:
                with suppress(OSError), os.scandir(folder.path) as entries:
                    for entry in entries:
                        is_log = entry.name.startswith((CURRENT, "@")) and entry.is_file(follow_symlinks=False)
                        if is_log and len(files) < FILES_MAX:
                            found = entry.stat(follow_symlinks=False)
                            files.append((entry.name == CURRENT, found.st_mtime_ns, found.st_size, entry.path))
        return files

    @staticmethod
    def _free(files: list[tuple[bool, int, int, str]], wanted: int, own: str) -> int:
        """Delete, or empty, in that order until so much is free; how much is."""
        freed = 0
        for is_current, _, size, path in files:
            if freed >= wanted:
                break
            if path == own:
                continue
            with suppress(OSError):  # another was faster
                if is_current:
                    os.truncate(path, 0)
                else:
                    os.unlink(path)
                freed += size
        return freed

"""A file that is rotated by size: `current`, then `current.1` (newest) to `current.KEEP`.

Shared by the service's log and the journal. Renames go from the oldest to
the newest, so a kill between two of them loses nothing but a number.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

CURRENT = "current"
TAIL_MAX = 4096
NOT_REGULAR = frozenset({errno.ELOOP, errno.ENXIO, errno.EINVAL})


class LogFile:
    """`fd` is open for appending; `size` is what the file holds, and `inode` which one it is.

    `was_in`: where the supervisor before us may have written, when its service had another name ("": nowhere else).
    """

    def __init__(self, directory: str, max_size: int, keep: int) -> None:
        self.directory = directory
        self.was_in = ""
        self.max_size = max_size
        self.keep = keep
        self.fd = -1
        self.size = self.inode = 0

    @property
    def path(self) -> str:
        return f"{self.directory}/{CURRENT}"

    def open(self) -> None:
        """Open `current`, made where it is missing, or has been taken away."""
        if self.fd >= 0:
            entry = os.fstat(self.fd)
            if entry.st_nlink:
                self.size = entry.st_size
                return
            self.close()
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        self.fd = self._open()
        entry = os.fstat(self.fd)
        self.size, self.inode = entry.st_size, entry.st_ino

    def _open(self) -> int:
        """A regular file of that name; what a log service has left in its place is removed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            return open_regular(self.path, flags)
        except OSError as error:
            if error.errno not in NOT_REGULAR:
                raise
        os.unlink(self.path)
        return open_regular(self.path, flags | os.O_EXCL)

    def move(self, directory: str) -> None:
        """From now on, `current` of that directory."""
        self.close()
        self.directory = directory

    def append(self, data: bytes) -> None:
        """Append all of `data`, or raise OSError with nothing of it left behind."""
        start = self.size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.fd, min(start, os.fstat(self.fd).st_size))  # it may have been emptied meanwhile (log_cap)
            raise
        self.size = start + len(data)

    def cut_back(self, inode: int, size: int) -> None:
        """What was appended to the file of that inode since it had that size is gone."""
        if inode == self.inode:
            self.size = min(self.size, size)
            os.ftruncate(self.fd, self.size)
        elif self.was_in:
            with suppress(OSError):  # it has been deleted meanwhile
                fd = open_regular(f"{self.was_in}/{CURRENT}", os.O_RDWR)
                try:
                    entry = os.fstat(fd)
                    if entry.st_ino == inode:
                        os.ftruncate(fd, min(entry.st_size, size))
                finally:
                    os.close(fd)

    def ends_line(self) -> bool:
        return self.size == 0 or os.pread(self.fd, 1, self.size - 1) == b"\n"

    def rotate(self) -> None:
        """Move `current` aside and begin a new one; the oldest beyond `keep` is removed."""
        free = next((n for n in range(1, self.keep + 1) if not os.path.exists(f"{self.path}.{n}")), self.keep)
        for number in range(free, 1, -1):
            with suppress(FileNotFoundError):  # deleted meanwhile, since all logs together were too large (log_cap)
                os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        if self.keep:
            os.rename(self.path, f"{self.path}.1")
        else:
            os.unlink(self.path)
        self.close()
        self.open()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def last_lines(path: str, count: int) -> list[str]:
    """The last lines of a log file, at most TAIL_MAX of it; nothing where it cannot be read."""
    try:
        fd = open_regular(path)
    except OSError:
        return []
    try:
        size = os.fstat(fd).st_size
        return os.pread(fd, TAIL_MAX, max(0, size - TAIL_MAX)).decode(errors="replace").splitlines()[-count:]
    finally:
        os.close(fd)


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """A file in whose place a log service may have put something: no symlink is followed, no FIFO waited for. OSError (NOT_REGULAR) for those."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "no regular file", path)

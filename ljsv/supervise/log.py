"""The service's log: out of a FIFO into a file, each line exactly once.

Whatever the supervisor is doing when it is killed, no line is lost and none
is written twice:

1. staging holds no chunk: the log file's inode and size go into its header;
2. a chunk is spliced from the log FIFO into staging (bytes are in one or the
   other: the kernel takes out what it has written, and no more);
3. it is stamped and appended to the log file;
4. only then is it cut off staging.

A supervisor that finds a chunk in staging cuts the log file back to the
header's size and goes on at 3. The FIFO is held by pid 1 of the jail as well,
so its content outlives a supervisor.
"""

from __future__ import annotations

import os
import time

from ljsv.jail.pid1 import count_pending
from ljsv.supervise.directory import open_fifo
from ljsv.supervise.logfile import LogFile

LOG_FOLLOWER = "log."  # FIFOs of this prefix in event/ are told when something was written
CHUNK = 65536
_HEADER = "%20d %20d\n"
_HEADER_SIZE = 64


def stamp(now_ns: int) -> bytes:
    """`2026-11-23T18:05:07.123456Z ` in UTC."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest // 1000:06d}Z ", time.gmtime(seconds)).encode()


def add_stamps(data: bytes, mark: bytes, *, at_line_start: bool) -> bytes:
    """`data` with `mark` before every line that begins in it."""
    body, end = (data[:-1], b"\n") if data.endswith(b"\n") else (data, b"")
    return (mark if at_line_start else b"") + body.replace(b"\n", b"\n" + mark) + end


class Log:
    """One service's log. `fifo_fd` is what the loop watches and pid 1 of the jail holds."""

    def __init__(self, supervise: str, file: LogFile) -> None:
        self.file = file
        self.fifo_path = f"{supervise}/log.fifo"
        self.fifo_fd = open_fifo(self.fifo_path, os.O_RDWR | os.O_NONBLOCK, shrink=False)
        self._staging_fd = os.open(f"{supervise}/staging", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._at_line_start = True
        self._is_recovered = False

    def open_for_service(self) -> int:
        """The write end for a jail."""
        return os.open(self.fifo_path, os.O_WRONLY | os.O_CLOEXEC)

    def give_to(self, uid: int, gid: int) -> None:
        """Give the FIFO to the service's user, so that it can open /dev/stdout."""
        os.fchown(self.fifo_fd, uid, gid)

    def pump(self) -> bool:
        """Write one chunk; whether there may be more. OSError when the file cannot be written: nothing is lost."""
        self.file.open()
        if not self._is_recovered:
            self._recover()
        chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        if not chunk:
            if not self._stage():
                return False
            chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        self.file.append(add_stamps(chunk, stamp(time.time_ns()), at_line_start=self._at_line_start))
        self._at_line_start = chunk.endswith(b"\n")
        os.ftruncate(self._staging_fd, _HEADER_SIZE)
        return True

    def _stage(self) -> bool:
        if not count_pending(self.fifo_fd):
            return False
        over = self.file.size - self.file.max_size
        if over >= 0 and (self._at_line_start or over >= CHUNK):
            self.file.rotate()
        header = _HEADER % (os.fstat(self.file.fd).st_ino, self.file.size)
        os.pwrite(self._staging_fd, header.encode(), 0)
        try:
            return os.splice(self.fifo_fd, self._staging_fd, CHUNK, offset_dst=_HEADER_SIZE) > 0
        except BlockingIOError:
            return False

    def _recover(self) -> None:
        """Cut off what a killed supervisor had written of a chunk that is still in staging."""
        if os.fstat(self._staging_fd).st_size > _HEADER_SIZE:
            words = os.pread(self._staging_fd, _HEADER_SIZE, 0).split()
            inode = os.fstat(self.file.fd).st_ino
            if int(words[0]) == inode and int(words[1]) <= self.file.size:
                os.ftruncate(self.file.fd, int(words[1]))
                self.file.size = int(words[1])
        self._at_line_start = self.file.ends_line()
        self._is_recovered = True

    def move(self, directory: str) -> None:
        """From the next chunk on, write into another directory's `current`."""
        self.file.close()
        self.file.directory = directory
        self._is_recovered = False

    def is_empty(self) -> bool:
        return not count_pending(self.fifo_fd) and os.fstat(self._staging_fd).st_size <= _HEADER_SIZE

    def close(self) -> None:
        for fd in (self.fifo_fd, self._staging_fd):
            os.close(fd)
        self.file.close()

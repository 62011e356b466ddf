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
import stat
import time
from contextlib import suppress

from ljsv.jail.pid1 import count_pending
from ljsv.supervise.directory import open_fifo
from ljsv.supervise.kmsg import LINE_MAX, Kmsg
from ljsv.supervise.log_cap import LogCap
from ljsv.supervise.logfile import LogFile

LOG_FOLLOWER = "log."  # FIFOs of this prefix in event/ are told when something was written
CHUNK = 65536
NAMELESS = "staging.nameless"  # of a FIFO that has lost its name
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


def open_nameless(pid: int, inode: int) -> int:
    """The FIFO of a service whose runtime directory was deleted, through its own standard descriptors; -1 where it has it no more."""
    for number in (1, 2):
        path = f"/proc/{pid}/fd/{number}"
        with suppress(OSError):
            entry = os.stat(path)
            if stat.S_ISFIFO(entry.st_mode) and entry.st_ino == inode:
                return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    return -1


def _open_staging(supervise: str, name: str) -> int:
    return os.open(f"{supervise}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class Log:
    """One service's log. `fifo_fd` is what the loop watches and pid 1 of the jail holds."""

    def __init__(self, supervise: str, file: LogFile, nameless_fd: int = -1, *, cap: LogCap | None = None, kmsg: Kmsg | None = None) -> None:
        """`nameless_fd`: a FIFO that has lost its name, see `open_nameless`. `kmsg`: where lines go instead of the file."""
        self.file = file
        self.fifo_path = f"{supervise}/log.fifo"
        self.fifo_fd = nameless_fd
        staging = "staging"
        if nameless_fd < 0:
            self.fifo_fd = open_fifo(self.fifo_path, os.O_RDWR | os.O_NONBLOCK, shrink=False)
            os.fchmod(self.fifo_fd, 0o622)  # whoever the service is, it may open /dev/stdout; nobody else reaches the directory
        else:
            staging = NAMELESS
        self._staging_fd = _open_staging(supervise, staging)
        self._at_line_start = True
        self._file_inode = 0  # of the file that this is said of
        self._is_recovered = False
        self.cap = cap
        self.kmsg = kmsg

    @property
    def inode(self) -> int:
        return os.fstat(self.fifo_fd).st_ino

    def is_at(self, supervise: str) -> bool:
        """Whether its FIFO is the one of that supervise directory now."""
        try:
            return os.path.samestat(os.lstat(f"{supervise}/log.fifo"), os.fstat(self.fifo_fd))
        except OSError:
            return False

    def keep_staging(self, supervise: str) -> None:
        """Its FIFO and staging have lost their names: from the next chunk on, whoever opens the FIFO as `nameless_fd` finds the chunk."""
        if self.is_staging_empty():
            staging_fd = _open_staging(supervise, NAMELESS)
            os.close(self._staging_fd)
            self._staging_fd = staging_fd

    def open_for_service(self) -> int:
        """The write end for a jail."""
        return os.open(self.fifo_path, os.O_WRONLY | os.O_CLOEXEC)

    def open_for_reading(self) -> int:
        """The read end for a log service; what a killed supervisor had taken out already is put into the file first."""
        if not self.is_staging_empty():
            self.pump()
        return os.open(f"/proc/self/fd/{self.fifo_fd}", os.O_RDONLY | os.O_CLOEXEC)

    def pump(self) -> bool:
        """Write one chunk; whether there may be more. OSError when the file cannot be written: nothing is lost."""
        if self.kmsg:
            return self._pump_lines(self.kmsg)
        self.file.open()
        if not self._is_recovered:
            self._recover()
        chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        if not chunk:
            if not self._stage():
                return False
            chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        if self.file.inode != self._file_inode:  # one that was begun since, perhaps by somebody else
            self._at_line_start, self._file_inode = self.file.ends_line(), self.file.inode
        self.file.append(add_stamps(chunk, stamp(time.time_ns()), at_line_start=self._at_line_start))
        self._at_line_start = chunk.endswith(b"\n")
        os.ftruncate(self._staging_fd, _HEADER_SIZE)
        if self.cap:
            self.cap.written(len(chunk), self.file.path)
        return True

    def _pump_lines(self, kmsg: Kmsg) -> bool:
        """The same for the kernel's log: whole lines go out, and what is left of the last one stays in staging."""
        kmsg.tell_dropped()
        chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        if b"\n" not in chunk and len(chunk) < LINE_MAX:
            if not count_pending(self.fifo_fd):
                return False
            os.pwrite(self._staging_fd, (_HEADER % (0, 0)).encode(), 0)  # of no file: there is nothing to cut back
            try:
                os.splice(self.fifo_fd, self._staging_fd, CHUNK - len(chunk), offset_dst=_HEADER_SIZE + len(chunk))
            except BlockingIOError:
                return False
            chunk = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
        whole, newline, tail = chunk.rpartition(b"\n")
        if not newline and len(tail) >= LINE_MAX:
            whole, newline, tail = tail[:LINE_MAX], b"\n", tail[LINE_MAX:]
        if newline:
            for line in whole.split(b"\n"):
                kmsg.write(line)
        os.pwrite(self._staging_fd, tail, _HEADER_SIZE)
        os.ftruncate(self._staging_fd, _HEADER_SIZE + len(tail))
        return bool(newline)

    def end_line(self) -> None:
        """The service has ended: a last line without its newline goes out as well."""
        if self.kmsg:
            tail = os.pread(self._staging_fd, CHUNK, _HEADER_SIZE)
            if tail:
                self.kmsg.write(tail)
                os.ftruncate(self._staging_fd, _HEADER_SIZE)

    def _stage(self) -> bool:
        if not count_pending(self.fifo_fd):
            return False
        over = self.file.size - self.file.max_size
        if over >= 0 and (self._at_line_start or over >= CHUNK):
            self.file.rotate()
            self._file_inode = self.file.inode  # a line may go on in it
        header = _HEADER % (self.file.inode, self.file.size)
        os.pwrite(self._staging_fd, header.encode(), 0)
        try:
            return os.splice(self.fifo_fd, self._staging_fd, CHUNK, offset_dst=_HEADER_SIZE) > 0
        except BlockingIOError:
            return False

    def _recover(self) -> None:
        """Cut off what a killed supervisor had written of a chunk that is still in staging."""
        if os.fstat(self._staging_fd).st_size > _HEADER_SIZE:
            inode, size = map(int, os.pread(self._staging_fd, _HEADER_SIZE, 0).split()[:2])
            self.file.cut_back(inode, size)
        self._at_line_start, self._file_inode = self.file.ends_line(), self.file.inode
        self._is_recovered = True

    def begin_anew(self) -> None:
        """Its file is another from the next chunk on."""
        self._is_recovered = False

    def go_to(self, cap: LogCap | None, kmsg: Kmsg | None) -> None:
        """From the next line on."""
        if self.kmsg and not kmsg:
            self._is_recovered = False
        self.cap, self.kmsg = cap, kmsg

    def is_empty(self) -> bool:
        return not count_pending(self.fifo_fd) and self.is_staging_empty()

    def is_staging_empty(self) -> bool:
        return os.fstat(self._staging_fd).st_size <= _HEADER_SIZE

    def close_fifo(self) -> None:
        if self.fifo_fd >= 0:
            os.close(self.fifo_fd)
        self.fifo_fd = -1

    def close(self) -> None:
        self.close_fifo()
        os.close(self._staging_fd)
        self.file.close()

"""Two records that let a new supervisor carry on where a killed one stopped.

`supervise/jail`: which jail runs, written before it gets its go.
`supervise/exit`: how it ended, written by its own pid 1, which holds the lock
on that file while it lives. It is emptied only when what followed from its
ends is announced. Lines: `started GENERATION`,
`ended GENERATION WAIT_STATUS`.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from ljsv import status
from ljsv.jail.launch import Launch
from ljsv.jail.pid1 import ENDED, STARTED
from ljsv.linux import files
from ljsv.linux.process import open_process, read_boot_id, read_start_time
from ljsv.supervise.machine import LOST, NOT_STARTED, End

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_RECORD_MAX = 4096
LOCK_TRIES, LOCK_PAUSE_S = 300, 0.01  # an order that the next nursery takes is older than a second
_WORDS = ("boot_id", "script", "user", "cgroup")
NO_GROUP = "-"


@dataclass(frozen=True)
class JailRecord:
    """One jail: pid and start time (clock ticks) of its pid 1, its service and what serves its image, on this boot.

    `user`, `capabilities` (a bit mask), `has_filter`, `no_setid` and `is_privileged` are what it
    was built with, whatever its files say by now: who enters gets the same rights, and status shows the last.
    """

    boot_id: str
    generation: int
    script: str
    pid: int
    start_time: int
    service_pid: int
    service_start_time: int
    slot: int = -1
    server_pid: int = 0
    server_start_time: int = 0
    user: str = "root"
    capabilities: int = 0
    has_filter: int = 1
    no_setid: int = 0
    is_privileged: int = -1  # not known, of one that code before this began
    log_inode: int = 0  # of the FIFO that it writes to
    cgroup: str = NO_GROUP  # the directory of its control group

    def capability_numbers(self) -> frozenset[int]:
        return frozenset(number for number in range(64) if self.capabilities >> number & 1)

    def write(self, directory: str) -> None:
        """Replace `jail` in the supervise directory."""
        text = "".join(f"{name} {getattr(self, name)}\n" for name in self.__dataclass_fields__)
        status.write_by_rename(directory, "jail", text.encode(errors="surrogateescape"), 0o600)


def read_jail_record(directory: str) -> JailRecord | None:
    """The record, or None where there is none or it makes no sense."""
    try:
        pairs = status.parse_detail(files.read_some(f"{directory}/jail", 4096).decode(errors="surrogateescape"))
        values: dict[str, Any] = {name: text if name in _WORDS else int(text) for name, text in pairs.items()}
        return JailRecord(**values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_jail(record: JailRecord) -> tuple[int, int]:
    """(pidfd of the jail's pid 1, pidfd of its service); -1 for what is gone."""
    return open_both(record.pid, record.start_time, record.service_pid, record.service_start_time)


def find_living(directory: str) -> JailRecord | None:
    """The record of a jail that runs, whoever supervises it; None where none does."""
    record = read_jail_record(directory)
    pidfd = open_process(record.pid, record.start_time) if record and record.boot_id == read_boot_id() else -1
    if pidfd < 0:
        return None
    os.close(pidfd)
    return record


def open_both(pid: int, start_time: int, service_pid: int, service_start_time: int) -> tuple[int, int]:
    """The same by the numbers of a record."""
    pidfd = open_process(pid, start_time)
    service_fd = open_process(service_pid, service_start_time) if pidfd >= 0 else -1
    return pidfd, service_fd


def open_server(record: JailRecord) -> int:
    """The pidfd of what serves the jail's image; -1 when it is gone, or there is none."""
    return open_process(record.server_pid, record.server_start_time) if record.server_pid else -1


def record_of(boot_id: str, generation: int, script: str, jail: Launch) -> JailRecord:
    """The record of a jail whose service is known."""
    spec = jail.spec
    return JailRecord(
        boot_id, generation, script, jail.pid, read_start_time(jail.pid), jail.service_pid, read_start_time(jail.service_pid),
        jail.ids.slot, user=spec.user or "root", capabilities=sum(1 << number for number in spec.capabilities),
        has_filter=int(spec.has_filter), no_setid=int(jail.facts.no_setid), is_privileged=int(spec.is_privileged),
    )


def open_exit_record(directory: str) -> int:
    """The exit record with its lock taken: for the next jail's pid 1. BlockingIOError while a jail holds it.

    One whose supervisor was killed before the go ends in a moment: it is waited for.
    """
    fd = os.open(f"{directory}/exit", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for _ in range(LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            time.sleep(LOCK_PAUSE_S)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def renew_exit_record(fd: int, directory: str) -> int:
    """The same with a lock of its own, in the place of one that somebody else has a copy of."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    renewed = open_exit_record(directory)
    os.close(fd)
    return renewed


def open_exit_reader(directory: str) -> int:
    """The exit record for reading: held, so that it can be read when its directory has vanished; -1 for none."""
    try:
        return os.open(f"{directory}/exit", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1


def open_exit_again(exit_fd: int) -> int:
    """The same file for reading, whether it still has a name or not, and without the lock."""
    return os.open(f"/proc/self/fd/{exit_fd}", os.O_RDONLY | os.O_CLOEXEC)


def read_exits(fd: int) -> str:
    """The text of the exit record; "" for none."""
    return os.pread(fd, EXIT_RECORD_MAX * 2, 0).decode(errors="replace") if fd >= 0 else ""


def find_end(exits: str, generation: int) -> End:
    """How that generation ended: as recorded, not started, or lost (`-1 9`) where pid 1 was killed."""
    end = NOT_STARTED
    for line in exits.splitlines():
        words = line.split()
        if words[:2] == [STARTED, str(generation)]:
            end = LOST
        elif words[:2] == [ENDED, str(generation)] and len(words) == 3:
            end = End.of(int(words[2])) if end is not NOT_STARTED else NOT_STARTED
    return end

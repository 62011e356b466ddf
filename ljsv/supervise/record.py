"""Two records that let a new supervisor carry on where a killed one stopped.

`supervise/jail`: which jail runs, written before it gets its go.
`supervise/exit`: how it ended, written by its own pid 1, which holds the lock
on that file while it lives. Lines: `started GENERATION`,
`ended GENERATION WAIT_STATUS`.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from ljsv import status
from ljsv.jail.pid1 import ENDED, STARTED
from ljsv.linux.process import open_process, read_start_time
from ljsv.supervise.machine import LOST, NOT_STARTED, End


@dataclass(frozen=True)
class JailRecord:
    """One jail: pid and start time (clock ticks) of its pid 1 and of its service, on this boot."""

    boot_id: str
    generation: int
    script: str
    pid: int
    start_time: int
    service_pid: int
    service_start_time: int
    slot: int = -1

    def write(self, directory: str) -> None:
        """Replace `jail` in the supervise directory."""
        text = "".join(f"{name} {getattr(self, name)}\n" for name in self.__dataclass_fields__)
        status.write_by_rename(directory, "jail", text.encode(), 0o600)


def read_jail_record(directory: str) -> JailRecord | None:
    """The record, or None where there is none or it makes no sense."""
    try:
        with open(f"{directory}/jail") as file:
            pairs = status.parse_detail(file.read(4096))
        numbers = {k: int(v) for k, v in pairs.items() if k not in {"boot_id", "script"}}
        return JailRecord(boot_id=pairs["boot_id"], script=pairs["script"], **numbers)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_jail(record: JailRecord) -> tuple[int, int]:
    """(pidfd of the jail's pid 1, pidfd of its service); -1 for what is gone."""
    pidfd = open_process(record.pid, record.start_time)
    service_fd = open_process(record.service_pid, record.service_start_time) if pidfd >= 0 else -1
    return pidfd, service_fd


def record_of(boot_id: str, generation: int, script: str, pid: int, service_pid: int, slot: int) -> JailRecord:
    return JailRecord(boot_id, generation, script, pid, read_start_time(pid), service_pid, read_start_time(service_pid), slot)


def open_exit_record(directory: str) -> int:
    """The exit record, emptied, with its lock taken: for the next jail's pid 1. BlockingIOError while a jail holds it."""
    fd = os.open(f"{directory}/exit", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_exit_reader(directory: str) -> int:
    """The exit record for reading: held, so that it can be read when its directory has vanished; -1 for none."""
    try:
        return os.open(f"{directory}/exit", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1


def read_exit(fd: int, generation: int) -> End:
    """How that generation ended: as recorded, not started, or lost (`-1 9`) where pid 1 was killed."""
    is_started = False
    for line in os.pread(fd, 4096, 0).decode(errors="replace").splitlines() if fd >= 0 else ():
        words = line.split()
        if words[:2] == [STARTED, str(generation)]:
            is_started = True
        if words[:2] == [ENDED, str(generation)] and len(words) == 3:
            return End.of(int(words[2])) if is_started else NOT_STARTED
    return LOST if is_started else NOT_STARTED

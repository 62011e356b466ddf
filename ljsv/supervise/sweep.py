"""What lives in the runtime directory without a service directory: stopped, then removed.

A directory that was deleted while nobody scanned leaves a supervisor, or a
jail that lost its supervisor, or only a folder. The folder's `owner` says
whose it is; the jail's record says which process, by pid, start time and boot.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress

from ljsv import status
from ljsv.linux.process import read_boot_id
from ljsv.supervise.directory import is_held, read_owner
from ljsv.supervise.record import open_jail, read_jail_record

FOLDERS_MAX = 20_000


def sweep(runtime: str, identities: set[str]) -> bool:
    """End and remove what belongs to none of `identities`; whether something of it is still there."""
    is_left = False
    try:
        names = [name for name in os.listdir(runtime) if not name.startswith(".")][:FOLDERS_MAX]
    except OSError:
        return False
    for name in names:
        folder = f"{runtime}/{name}"
        owner = read_owner(folder)
        if not owner or owner in identities:
            continue
        if status.is_supervised(folder):
            _write(f"{folder}/control", b"x")
        else:
            _kill_jail(folder)
        if is_held(folder):
            is_left = True
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return is_left


def _write(path: str, data: bytes) -> None:
    with suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)


def _kill_jail(folder: str) -> None:
    record = read_jail_record(folder)
    if record is None or record.boot_id != read_boot_id():
        return
    for fd in open_jail(record):
        if fd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)

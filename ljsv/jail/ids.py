"""Which ids a jail has: one of the caller's, or as root a range of its own.

As root the map is never 0 to 0. A jail gets 65,536 ids at
0x70000000 + slot x 65,536; a slot is held by a lock on a file in the runtime
directory, which pid 1 of the jail inherits and keeps while it lives.
Source: user_namespaces(7).
"""

from __future__ import annotations

import fcntl
import os
from binascii import crc32
from contextlib import suppress
from dataclasses import dataclass

from ljsv.errors import Fault

RANGE_BASE = 0x7000_0000
RANGE_SIZE = 65536
SLOTS = (0xFFFF_0000 - RANGE_BASE) // RANGE_SIZE
SLOT_DIRECTORY = "/run/ljsv/.slots"


@dataclass(frozen=True)
class IdMap:
    """`outside` is the host's id of the jail's id 0; `count` ids are mapped; `slot` is -1 without one."""

    outside_uid: int
    outside_gid: int
    count: int
    slot: int = -1

    def describe(self) -> str:
        if self.count == 1:
            return f"0 -> uid {self.outside_uid}, gid {self.outside_gid}"
        return f"0-{self.count - 1} -> {self.outside_uid}-{self.outside_uid + self.count - 1}"


def range_of(slot: int) -> IdMap:
    first = RANGE_BASE + slot * RANGE_SIZE
    return IdMap(first, first, RANGE_SIZE, slot)


def take_ids(key: str, wanted_slot: int = -1) -> tuple[IdMap, int]:
    """The map for a new jail, and the descriptor that holds its slot (-1 without one).

    Root tries `wanted_slot` first, else begins at a place that depends on `key`.
    """
    if os.geteuid() != 0:
        return IdMap(os.geteuid(), os.getegid(), 1), -1
    os.makedirs(SLOT_DIRECTORY, mode=0o700, exist_ok=True)
    start = wanted_slot if wanted_slot >= 0 else crc32(key.encode()) % SLOTS
    for offset in range(SLOTS):
        slot = (start + offset) % SLOTS
        fd = _hold(f"{SLOT_DIRECTORY}/{slot}", os.O_CREAT)
        if fd >= 0:
            return range_of(slot), fd
    raise Fault("no free range of ids", SLOT_DIRECTORY, f"all {SLOTS} slots are held", hint=f"ls {SLOT_DIRECTORY}")


def _hold(path: str, flags: int) -> int:
    """The descriptor of a slot's file with its lock; -1 where another holds it, or it has just been swept."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return -1


def sweep_slots() -> None:
    """Remove the files of slots that nobody holds."""
    with suppress(OSError):
        for name in os.listdir(SLOT_DIRECTORY)[:SLOTS]:
            with suppress(OSError):
                fd = _hold(f"{SLOT_DIRECTORY}/{name}", 0)
                if fd >= 0:
                    os.unlink(f"{SLOT_DIRECTORY}/{name}")
                    os.close(fd)


def preview_ids(key: str) -> IdMap:
    """The map that `take_ids` would most likely give; nothing is locked."""
    if os.geteuid() != 0:
        return IdMap(os.geteuid(), os.getegid(), 1)
    return range_of(crc32(key.encode()) % SLOTS)


def write_maps(pid: int, ids: IdMap) -> None:
    """Write the maps of the user namespace of `pid`, from outside."""
    if ids.count == 1:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"0 {ids.outside_uid} {ids.count}")
    _write(f"/proc/{pid}/gid_map", f"0 {ids.outside_gid} {ids.count}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)

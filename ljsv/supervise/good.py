"""The last good values of a service directory with a bad edit, kept for the supervisor that comes next.

They are in this one's memory; a kill or an upgrade must not turn an edit that
was harmless into the end of the service. `good` is written when a bad edit is
found, and goes when it is mended.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv import status
from ljsv.service import toml
from ljsv.service.read import Service

FILE = "good"
SIZE_MAX = 1 << 20


def keep(folder: str, service: Service) -> None:
    """OSError where it cannot be written."""
    status.write_by_rename(folder, FILE, toml.pack(service).encode(), 0o600)


def find(folder: str) -> Service | None:
    """None where there is none, or it is of a version that had other fields."""
    try:
        fd = os.open(f"{folder}/{FILE}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return toml.unpack(os.read(fd, SIZE_MAX).decode(errors="replace"), Service)
    finally:
        os.close(fd)


def drop(folder: str) -> None:
    with suppress(OSError):
        os.unlink(f"{folder}/{FILE}")

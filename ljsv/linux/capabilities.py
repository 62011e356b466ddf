"""Capability sets by number and name. Source: capabilities(7), capset(2)."""

from __future__ import annotations

import ctypes
import struct

from ljsv.linux.libc import LIBC, check
from ljsv.linux.process import PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, prctl

_VERSION_3 = 0x2008_0522

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def parse(text: str) -> tuple[bool, int]:
    """(whether it is added, its number) of "NET_RAW", "+NET_RAW" or "-CAP_CHOWN"; ValueError if unknown or never given."""
    name = text.lstrip("+-").upper().removeprefix("CAP_")
    added = not text.startswith("-")
    if name not in NUMBERS:
        raise ValueError("a capability such as NET_RAW, or with - before it to take it away")
    if added and name == "SYS_ADMIN":
        raise ValueError("any capability but SYS_ADMIN, which would let the jail undo its own walls")
    return added, NUMBERS[name]


def read_last_capability() -> int:
    """The highest number that this kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except OSError:
        return len(NAMES) - 1


def drop_bounding_set(keep: frozenset[int], last: int) -> None:
    """Take every capability but `keep` out of the bounding set, and clear the ambient set."""
    drop = LIBC.prctl
    for number in range(last + 1):
        if number not in keep:
            check(drop(PR_CAPBSET_DROP, number, 0, 0, 0), "bounding set")
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def capset(permitted: int, effective: int, inheritable: int = 0) -> None:
    """Set this process's own three sets (bit masks)."""
    header = struct.pack("Ii", _VERSION_3, 0)
    low = [mask & 0xFFFF_FFFF for mask in (effective, permitted, inheritable)]
    high = [mask >> 32 for mask in (effective, permitted, inheritable)]
    data = struct.pack("6I", *low, *high)
    check(LIBC.capset(header, data), "capset")


def capget_permitted() -> int:
    """This process's permitted set, a bit mask."""
    header = ctypes.create_string_buffer(struct.pack("Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    check(LIBC.capget(header, data), "capget")
    words = struct.unpack("6I", data.raw)
    return int(words[1] | words[4] << 32)

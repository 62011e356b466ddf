"""Jails that no record leads to any more: found by the name of their pid 1, and ended before their service starts again.

When the runtime directory is deleted and a supervisor is killed before it has
made its own again, nothing on disk tells of the jail that runs. So pid 1 of a
service's jail carries a mark of its service directory in its name, which
everybody may read and nothing in the jail can change. What has a record is
adopted, and never touched here.
"""

from __future__ import annotations

import os
import select
import signal
from binascii import b2a_base64, crc32
from contextlib import suppress

from ljsv.jail.builder import PID1_NAME
from ljsv.jail.ids import RANGE_BASE

END_MAX_S = 10.0


def mark_of(identity: tuple[int, int, int]) -> str:
    """8 characters for (device, inode, birth time): 24 bits of the inode, so that no two of one file system are confused, and 24 of a sum."""
    total = crc32(repr(identity).encode()) & 0xFFFFFF
    return b2a_base64((identity[1] & 0xFFFFFF).to_bytes(3) + total.to_bytes(3), newline=False).decode()


def find_jails() -> dict[str, list[int]]:
    """The pids of everything that may be pid 1 of a service's jail, by mark. It is looked at again before it is ended."""
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            comm = _read(f"/proc/{name}/comm").rstrip("\n")
            if comm.startswith(PID1_NAME):
                found.setdefault(comm.removeprefix(PID1_NAME), []).append(int(name))
    return found


def end_jails(mark: str, pids: list[int]) -> list[int]:
    """Kill those that really are jails of that service, and wait until they are gone; which they were."""
    ended = []
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if _is_jail(pid, mark):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poller = select.poll()
                poller.register(pidfd, select.POLLIN)
                if poller.poll(END_MAX_S * 1000):
                    ended.append(pid)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(pidfd)
    return ended


def _is_jail(pid: int, mark: str) -> bool:
    """By its name, and by what nobody can choose: it is pid 1 of a pid namespace just below ours, and for root its user is one of ours.

    Another user's, the kernel does not let us kill.
    """
    if _read(f"/proc/{pid}/comm") != f"{PID1_NAME}{mark}\n":
        return False
    status = dict(line.split(":\t", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    depth = len(_own_pids())
    pids = status.get("NSpid", "").split()
    uid = int(status.get("Uid", "-1").split()[0])
    is_ours = os.geteuid() != 0 or uid == 0 or uid >= RANGE_BASE
    return is_ours and len(pids) == depth + 1 and pids[-1] == "1"


def _own_pids() -> list[str]:
    text = _read("/proc/self/status")
    return next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [""])


def _read(path: str) -> str:
    with suppress(OSError), open(path, errors="replace") as file:
        return file.read(8192)
    return ""

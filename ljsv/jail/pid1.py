"""Pid 1 of a jail: the half of the first fork that stays.

It reaps, remembers how the service ended, ends what is left, and leaves only
when the log has been taken out of its FIFOs. It touches a handful of objects,
so that it shares its pages with its supervisor. It never returns.
"""

from __future__ import annotations

import os
import signal
import struct
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from time import monotonic, sleep

from ljsv.linux import process

DRAIN_MAX_S = 10.0
STARTED = "started"
ENDED = "ended"


def keep(service_pid: int, exit_fd: int, log_fds: tuple[int, ...], generation: int) -> None:
    """Wait for the service; then record, kill the rest, and exit with the service's status.

    `exit_fd` (-1: none) is the exit record, whose lock this process holds.
    """
    wait_status = process.wait_for(service_pid)
    if exit_fd >= 0:
        os.write(exit_fd, b"%s %d %d\n" % (ENDED.encode(), generation, wait_status))
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    process.wait_for(0)
    _wait_until_empty(log_fds)
    code = os.waitstatus_to_exitcode(wait_status)
    os._exit(code if code >= 0 else 128 - code)


def _wait_until_empty(log_fds: tuple[int, ...]) -> None:
    """A FIFO's content is gone with its last holder: hold it until it has been read, at most 10 s."""
    give_up_at, pause = monotonic() + DRAIN_MAX_S, 0.0005
    while any(count_pending(fd) for fd in log_fds) and monotonic() < give_up_at:
        sleep(pause)
        pause = min(pause * 2, 0.05)


def count_pending(fd: int) -> int:
    """Bytes in a pipe (FIONREAD, ioctl_fionread(2))."""
    return int(struct.unpack("i", ioctl(fd, FIONREAD, b"\0\0\0\0"))[0])

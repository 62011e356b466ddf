"""Pid 1 of a jail: the half of the first fork that stays.

It reaps, remembers how the service ended, ends what is left, and leaves only
when the log has been taken out of its FIFOs. It touches a handful of objects,
so that it shares its pages with the nursery. It never returns.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl
from select import POLLIN, POLLOUT, poll
from termios import FIONREAD
from time import monotonic, sleep

from ljsv.linux import process
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    # its name, exit record (-1: none), log FIFOs, what else is held while the jail lives, generation, (socket, FIFO) of a relay (-1: none)
    Kept = tuple[str, int, tuple[int, ...], tuple[int, ...], int, tuple[int, int]]

DRAIN_MAX_S = 10.0
DATAGRAM_MAX = 4095  # with its NUL a message that a FIFO takes whole (PIPE_BUF)
STARTED = "started"
ENDED = "ended"


def become(service_pid: int, kept: Kept) -> None:
    """Let go of everything that the jail must not find in its pid 1, then keep it. Never returns."""
    name, exit_fd, log_fds, held_fds, generation, relay = kept
    process.prctl(process.PR_SET_DUMPABLE, 0)
    process.prctl_name(name)
    os.chdir("/")
    process.close_all_except(exit_fd, *log_fds, *held_fds, *relay)
    keep(service_pid, exit_fd, log_fds, generation, relay)


def keep(service_pid: int, exit_fd: int, log_fds: tuple[int, ...], generation: int, relay: tuple[int, int] = (-1, -1)) -> None:
    """Wait for the service; then record, kill the rest, and exit with the service's status.

    `exit_fd` (-1: none) is the exit record, whose lock this process holds.
    """
    wait_status = process.wait_for(service_pid) if relay[0] < 0 else _wait_and_relay(service_pid, *relay)
    try:
        if exit_fd >= 0:
            os.write(exit_fd, b"%s %d %d\n" % (ENDED.encode(), generation, wait_status))
    except OSError:
        pass  # a full disk, or a limit that the jail has set for us: it counts as lost
    try:
        os.kill(-1, signal.SIGKILL)
        process.wait_for(0)
    except ProcessLookupError:
        pass  # nothing is left
    _wait_until_empty(log_fds)
    os._exit(exit_code(wait_status))


def _wait_and_relay(service_pid: int, socket_fd: int, fifo_fd: int) -> int:
    """`wait_for`, and meanwhile each datagram into the FIFO, whole and with a NUL; while that is full, the service waits as well."""
    ended: list[int] = []

    def reap(_number: int = 0, _frame: object = None) -> None:
        try:
            while not ended:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
                if pid == service_pid:
                    ended.append(wait_status)
                if pid == 0:
                    return
        except ChildProcessError:
            return

    poller = poll()
    poller.register(os.pidfd_open(service_pid), POLLIN)
    poller.register(socket_fd, POLLIN)
    poller.register(fifo_fd, 0)
    signal.signal(signal.SIGCHLD, reap)
    reap()  # what ended before that
    message = b""
    while not ended:
        for fd, _ in poller.poll():
            if fd not in {socket_fd, fifo_fd}:
                reap()
                continue
            try:
                message = message or os.read(socket_fd, DATAGRAM_MAX) + b"\0"
                os.write(fifo_fd, message)
                message = b""
            except OSError:
                pass  # it is full: this waits for room, and what comes next waits in the socket
        poller.modify(socket_fd, 0 if message else POLLIN)
        poller.modify(fifo_fd, POLLOUT if message else 0)
    return ended[0]


def exit_code(wait_status: int) -> int:
    """A shell's: the program's own, or 128 + N when it was killed by signal N."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _wait_until_empty(log_fds: tuple[int, ...]) -> None:
    """A FIFO's content is gone with its last holder: hold it until it has been read, at most 10 s."""
    give_up_at, pause = monotonic() + DRAIN_MAX_S, 0.0005
    while any(count_pending(fd) for fd in log_fds) and monotonic() < give_up_at:
        sleep(pause)
        pause = min(pause * 2, 0.05)


def count_pending(fd: int) -> int:
    """Bytes in a pipe (FIONREAD, ioctl_fionread(2))."""
    return int(struct.unpack("i", ioctl(fd, FIONREAD, b"\0\0\0\0"))[0])

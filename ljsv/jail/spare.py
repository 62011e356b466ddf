"""A spare: the first two processes of a jail that nobody has asked for yet.

To make them takes a third of a jail's start. So the nursery has two of them
waiting, and makes others while the builder of one jail is at work. They have
every namespace but that of mounts: what the host mounts or lets go of while
they wait is seen, and not held. A jail that belongs into a control group has to
be born there, and one of other namespaces does not fit: those go without.

    nursery            pid 1                          builder
    order -----------> [wait]        order ---------> [wait]
                                                      [M from the launcher, with a range of ids]
                       [wait for N] <---------------- unshare mounts, N
                       join its mount namespace       P, the steps (see `builder`)
                       [become 0], keep() ----------> end of file: pid 1 is closed
"""

from __future__ import annotations

import fcntl
import os

from ljsv.jail import pid1
from ljsv.jail.builder import NOT_STARTED_STATUS, become_zero, report, run_builder
from ljsv.jail.order import FIRST_FD, ORDER_MAX, first_half, read_first, read_plan, read_second
from ljsv.jail.step import Build
from ljsv.linux import descriptors, process
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.jail.builder import Wiring
    from ljsv.jail.ids import IdMap

NAME = "ljsv spare"
OWN_FD = 3  # where a spare gets its order
HIGH_FD = FIRST_FD + descriptors.FDS_MAX  # what it has beside that, and what the nursery has of it: above all that comes with an order
_JOIN = b"N"


class Spare:
    """`flags`: for clone3, of the jails that it fits. `rehearsal`: an order that was carried out; the builder's half reads it for practice. OSError."""

    def __init__(self, flags: int, rehearsal: bytes) -> None:
        self.flags = flags
        self._fds: list[int] = []
        try:
            pid1_fd, builder_fd = self._pair(), self._pair()
            self.pid, self.pidfd = process.clone3(flags & ~process.CLONE_NEWNS)
            if self.pid == 0:
                _wait_for_order(pid1_fd, builder_fd, rehearsal)
            self._keep(self.pidfd)
            self.pidfd = self._fds[-1]
        except OSError:
            self.close()
            raise
        for fd in (pid1_fd, builder_fd):
            os.close(fd)

    def _pair(self) -> int:
        """A channel: our end is kept, the other one returned."""
        own_fd, other_fd = descriptors.socketpair()
        self._keep(own_fd)
        return other_fd

    def _keep(self, fd: int) -> None:
        self._fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD))
        os.close(fd)

    def take(self, data: bytes, fds: list[int]) -> bool:
        """Give it that order; False where it is not there any more."""
        pid1_fd, builder_fd = self._fds[:2]
        try:
            descriptors.send_many(pid1_fd, first_half(data), fds)
            descriptors.send_many(builder_fd, data, fds)
        except OSError:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            return False
        return True

    def close(self) -> None:
        """It ends by that, where it has no order."""
        while self._fds:
            os.close(self._fds.pop())


def _wait_for_order(pid1_fd: int, builder_fd: int, rehearsal: bytes) -> None:
    """In the child. Never returns; each half ends with the nursery, and the builder's with the other."""
    try:
        process.prctl_name(NAME)
        pid1_end, builder_end = descriptors.socketpair()
        builder_pid = process.fork()
        if builder_pid:
            _become_pid1(_alone(pid1_fd, pid1_end), builder_pid)
        end_fd = _alone(builder_fd, builder_end)
        _rehearse(rehearsal)
        _become_builder(end_fd)
    finally:
        os._exit(NOT_STARTED_STATUS)


def _alone(order_fd: int, end_fd: int) -> int:
    """Close all but these; the one is OWN_FD then, the other is returned."""
    end_fd = fcntl.fcntl(end_fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    os.dup2(order_fd, OWN_FD, inheritable=False)
    process.close_all_except(0, 1, 2, OWN_FD, end_fd)
    return end_fd


def _become_pid1(end_fd: int, builder_pid: int) -> None:
    kept, is_range = read_first(_receive())
    mounts_fd = descriptors.receive(end_fd)[1]
    if mounts_fd < 0:
        os._exit(NOT_STARTED_STATUS)
    process.setns(mounts_fd, process.CLONE_NEWNS)
    if is_range:
        become_zero(is_range=True)
    pid1.become(builder_pid, kept)


def _become_builder(end_fd: int) -> None:
    data = _receive()
    try:
        second = read_second(data)
        if second[1].is_range and descriptors.receive(FIRST_FD)[0] != b"M":
            os._exit(NOT_STARTED_STATUS)
        process.unshare(process.CLONE_NEWNS)
        mounts_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        descriptors.send(end_fd, _JOIN, mounts_fd)  # not found by our pid: who changes ids may not be looked at
        os.close(mounts_fd)
    except OSError as error:
        report(FIRST_FD, "make namespaces", error.errno or 0, error.strerror or str(error), "")
        return
    build_ordered(data, second, end_fd)


def build_ordered(data: bytes, second: tuple[Wiring, IdMap, tuple[tuple[str, int], ...]], closed_r: int) -> None:
    """The builder's work by that order, whose second part was read. Returns only when it has failed, and was reported."""
    wiring, ids, trees = second
    build = Build()
    build.channel_fd = FIRST_FD
    build.trees = dict(trees)
    run_builder(lambda: read_plan(data), build, wiring, ids, closed_r)


def _receive() -> bytes:
    data, _ = descriptors.receive_many(OWN_FD, ORDER_MAX)
    if not data:
        os._exit(0)  # nobody is left who could send one
    os.close(OWN_FD)
    return data


def _rehearse(data: bytes) -> None:
    """What is touched now need not be copied when there is an order."""
    read_second(data)
    for step in read_plan(data)[1]:
        step.stage  # noqa: B018 - made and dropped again, as when it is executed

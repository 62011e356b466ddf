"""The nursery: a small process that gives a jail its first two, for supervisors that would be a burden to fork.

A fork copies what its parent has touched, and pid 1 of a jail keeps those
pages as long as it lives: forked from a supervisor it costs 1.7 MB, from here
0.4, and a jail is there a third sooner. So the scanner starts this one
process, without site and with nothing imported but what a jail needs;
supervisors send it orders (see `order`) over a socket that all of them have
inherited. It reads no more of an order than the flags for clone3.

While one jail is built it prepares the first processes of the next (see `spare`).

It may be killed at any moment. Orders that it had not taken wait for the next
one, since the scanner holds the socket's other end; one that it had taken is
lost, and its supervisor starts the jail by itself. It ends when nobody is left
who could send an order, so a scanner's end is not its own.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

from ljsv.jail import mounts, outside  # noqa: F401 - the steps, besides those of hardening
from ljsv.jail.builder import run_child
from ljsv.jail.order import FIRST_FD, MADE, NOT_MADE, ORDER_MAX, ORDERS_FD, read_first, read_head, read_second
from ljsv.jail.spare import HIGH_FD, Spare, build_ordered
from ljsv.linux import descriptors, process
from ljsv.linux.signals import signal

NAME = "ljsv nursery"
_COMMAND = "import sys; sys.path.append(sys.argv[1]); from ljsv.jail.nursery import main; main()"


def make_orders() -> tuple[int, int]:
    """(the end for the nursery, the end for supervisors, who do not wait for ever)."""
    nursery_fd, orders_fd = descriptors.socketpair()
    descriptors.set_send_timeout(orders_fd, 5)
    return nursery_fd, orders_fd


def spawn(nursery_fd: int, shown: str) -> int:
    """A nursery of the code that is on the disk: for a scanner that has just been started itself. Its pid; `shown` is what ps says of it."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    argv = [sys.executable, "-I", "-S", "-c", _COMMAND, package, shown]
    pid = process.fork()  # posix_spawn(3) would leave signals 32 and 33 ignored, and nobody could undo that for a service
    if pid:
        return pid
    try:
        process.leave_terminal()
        os.dup2(nursery_fd, ORDERS_FD)
        os.set_inheritable(ORDERS_FD, True)
        os.execve(sys.executable, argv, {"LANG": "C.UTF-8"})
    finally:
        os._exit(111)


def become_nursery(nursery_fd: int) -> None:
    """In a child of the scanner, with the scanner's code, whatever is on the disk by now. Never returns."""
    try:
        process.leave_terminal()
        os.dup2(nursery_fd, ORDERS_FD, inheritable=False)
        process.close_all_except(0, 1, 2, ORDERS_FD)
        serve()
    finally:
        os._exit(0)


def main() -> None:
    """What `spawn` executes."""
    process.close_all_except(0, 1, 2, ORDERS_FD)  # numbers are counted from there
    process.inherit_protection()
    os.set_inheritable(ORDERS_FD, False)
    gc.collect()
    gc.freeze()
    serve()


def serve() -> None:
    """Take orders until nobody can send one."""
    process.prctl_name(NAME)
    gc.disable()  # what it would look at is shared with every jail's pid 1
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, _reap)  # supervisors have pidfds; clone3 clears it in the child
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    spares: list[Spare] = []  # one at most
    while True:
        data, fds = descriptors.receive_many(ORDERS_FD, ORDER_MAX)
        if not data:
            return
        try:
            _carry_out(data, fds, spares)
        finally:
            process.close_range(FIRST_FD, HIGH_FD - 1)
        if not spares and not descriptors.is_readable(ORDERS_FD):
            _make_spare(data, spares)


def _reap(_number: int, _frame: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _carry_out(data: bytes, fds: list[int], spares: list[Spare]) -> None:
    try:
        flags, cgroup_fd = read_head(data, fds)
        if spares and cgroup_fd < 0 and spares[0].flags == flags:
            spare = spares.pop()
            try:
                if spare.take(data, fds):
                    descriptors.send(fds[1], b"%s%d" % (MADE, spare.pid), spare.pidfd)
                    return
            finally:
                spare.close()
        try:
            pid, pidfd = process.clone3(flags, cgroup_fd)
        except OSError as error:
            descriptors.send(fds[1], b"%s%d" % (NOT_MADE, error.errno or errno.EIO))
            return
        if pid == 0:
            _run(data)
        try:
            descriptors.send(fds[1], b"%s%d" % (MADE, pid), pidfd)
        finally:
            os.close(pidfd)
    except (OSError, IndexError):
        return  # its supervisor is gone, or is no longer waiting: the jail ends by itself


def _make_spare(data: bytes, spares: list[Spare]) -> None:
    """For another jail like the one of that order."""
    try:
        flags, cgroup_fd = read_head(data, [])
        if cgroup_fd < 0:
            spares.append(Spare(flags, data))
    except OSError:
        return  # the kernel refuses it, or it was no order: the next jail goes without


def _run(data: bytes) -> None:
    """The jail's first process. Never returns."""
    try:
        kept, is_range = read_first(data)
        run_child(kept, FIRST_FD, lambda closed_r: build_ordered(data, read_second(data), closed_r), is_range=is_range)
    finally:
        os._exit(1)

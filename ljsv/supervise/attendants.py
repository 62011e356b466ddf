"""What a scanner keeps beside its supervisors: the nursery, in which jails begin, the journal, and the dormitory.

No service waits for any of them; nursery and journal are started again when they have ended, the dormitory when it is wanted.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ljsv.again import module_argv
from ljsv.jail import nursery
from ljsv.linux import descriptors, process
from ljsv.linux.signals import signal
from ljsv.supervise import dormitory
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.supervise.events import Events
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.process import Inherited

AGAIN_S = 1.0


class Attendant:
    """One of them. `start` returns with it or, where the system has no room for it, tries again later."""

    name: str

    def __init__(self, loop: Loop, events: Events) -> None:
        self._loop = loop
        self._events = events
        self._pidfd = -1
        self._is_ending = False

    def start(self) -> None:
        self._is_ending = False
        try:
            self._pidfd = self._spawn()
        except OSError as error:
            self._events.send(f"cannot start the {self.name}", "error", cause=error.strerror)
            self._start_later()
            return
        self._loop.watch(self._pidfd, self._ended)

    def _spawn(self) -> int:
        """Its pidfd."""
        raise NotImplementedError

    def _ended(self) -> None:
        self._close()
        if not self._is_ending:
            self._events.send(f"{self.name} gone: starting another", "warning")
            self._start_later()

    def _start_later(self) -> None:
        self._loop.set_timer(self.name, now() + AGAIN_S, self.start)

    def signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, number)

    def end(self, number: int) -> None:
        """For good, and wait for that."""
        self._is_ending = True
        self._loop.set_timer(self.name, None, self.start)
        self.signal(number)
        if self._pidfd >= 0:
            with suppress(OSError):
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            self._close()

    def _close(self) -> None:
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1


class Nursery(Attendant):
    """`orders_fd` is where supervisors send their orders, whichever nursery takes them."""

    name = "nursery"

    def __init__(self, loop: Loop, events: Events, shown: str) -> None:
        super().__init__(loop, events)
        self._shown = shown
        self._is_first = True
        self._nursery_fd, self.orders_fd = nursery.make_orders()

    def _spawn(self) -> int:
        """The first from the disk, since it is small; one after it from this process, since what is on the disk may be newer by then."""
        if self._is_first:
            self._is_first = False
            return os.pidfd_open(nursery.spawn(self._nursery_fd, self._shown))
        pid, pidfd = process.clone3(process.CLONE_PIDFD)
        if pid == 0:
            forget_signals()
            nursery.become_nursery(self._nursery_fd)
        return pidfd


class Journal(Attendant):
    """`argv`: what it reads, where it writes, the scanner's pid, the cap for all logs."""

    name = "journal"

    def __init__(self, loop: Loop, events: Events, make_argv: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(loop, events)
        self._make_argv = make_argv

    def _spawn(self) -> int:
        argv = module_argv("ljsv.supervise.journal", *self._make_argv())
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        return os.pidfd_open(os.posix_spawn(sys.executable, argv, env, setsigmask=[signal.SIGTERM]))  # until it can take it


class Dormitory(Attendant):
    """It holds what supervisors that sleep would hold, all in one process (see `dormitory`)."""

    name = "dormitory"

    def __init__(self, loop: Loop, events: Events, inherited: Inherited, on_word: Callable[[str], None]) -> None:
        super().__init__(loop, events)
        self._inherited = inherited
        self._on_word = on_word
        self._beds_fd = -1
        self.pid = 0

    def _spawn(self) -> int:
        own_fd, self._beds_fd = dormitory.make_beds()
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, dormitory.SIGNALS)  # until it can take them
            self.pid, pidfd = process.clone3(process.CLONE_PIDFD)
            if self.pid == 0:
                forget_signals()
                dormitory.become_dormitory(self._inherited, own_fd)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, dormitory.SIGNALS)
            os.close(own_fd)
        self._loop.watch(self._beds_fd, self._hear)
        return pidfd

    def _hear(self) -> bool:
        """What it says: a line, as in the scanner's control FIFO; False at its end."""
        try:
            data, _ = descriptors.receive(self._beds_fd, wait=False)
        except OSError:
            data = b""
        if data:
            self._on_word(data.decode())
        else:
            self._loop.forget(self._beds_fd)  # its pidfd tells
        return bool(data)

    def _start_later(self) -> None:
        """When it is wanted."""

    def take(self, key: str, name: str, folder: str, dir_fd: int, pidfd: int) -> tuple[int, int] | None:
        """Have it hold what that supervisor (`pidfd`) holds, and tell that one to end; (its pid, a pidfd of it), or None where it cannot."""
        if self._pidfd < 0:
            self.start()
        if self._pidfd < 0:
            return None
        own_pidfd = os.dup(self._pidfd)
        if not dormitory.send_sleeper(self._beds_fd, key, name, folder, dir_fd, pidfd):
            os.close(own_pidfd)
            return None
        return self.pid, own_pidfd

    def leave(self, key: str) -> None:
        """That supervisor has something to do after all."""
        if self._pidfd >= 0:
            dormitory.send_leave(self._beds_fd, key)

    def _close(self) -> None:
        super()._close()
        while self._hear():
            pass  # its last words
        os.close(self._beds_fd)
        self._beds_fd = -1


def forget_signals() -> None:
    """In a child of the scanner: nothing of the scanner's is called."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""The dormitory: one process that stands for every supervisor with nothing to do.

A fork of the scanner. It holds what each of them would hold, and waits for
what would wake it: a command, the end of a run, a line of its log, a word of
its own or of what it needs. It takes none of it. On the first of them it forks
a supervisor, which carries on (see `asleep`), and lets go.

The scanner tells it who may sleep. It tells that supervisor to end, and
follows it, so no moment is without one of both. The supervisors that it forks
are its parent's children, as the others are; `awake KEY PID START_TIME` tells the
scanner who they are, `busy NAME` whom it does not take. Without a scanner it does the same, and ends with the
last service that it holds. A signal to it is one to each of them.
"""

from __future__ import annotations

import marshal
import os
import resource
import traceback
from contextlib import suppress

from ljsv import status
from ljsv.linux import descriptors, process
from ljsv.linux.signals import signal
from ljsv.supervise.asleep import AWAKE, BUSY, GO_TO_SLEEP, Held, hold, lengthen
from ljsv.supervise.directory import tell_scanner
from ljsv.supervise.events import Events
from ljsv.supervise.loop import Loop, now
from ljsv.supervise.needs import hold as hold_needs
from ljsv.supervise.process import Inherited, supervise

NAME = "ljsv dormitory"
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # that a supervisor takes
MESSAGE_MAX = 8192
EXPECTED_FDS = 2
SEND_MAX_S = 1
RETRY_S = 1.0
HAND_OVER_MAX_S = 10.0
FDS_LEFT, FDS_EACH = 64, 16  # descriptors for itself, and room for those of a service that has no more needs than usual


def make_beds() -> tuple[int, int]:
    """(the dormitory's end, the scanner's, who does not wait for ever)."""
    own_fd, scanner_fd = descriptors.socketpair()
    descriptors.set_send_timeout(scanner_fd, SEND_MAX_S)
    return own_fd, scanner_fd


def send_sleeper(beds_fd: int, key: str, name: str, folder: str, dir_fd: int, pidfd: int) -> bool:
    """Have it follow that supervisor; whether it was told. `dir_fd` is a description of its own: the lock on the service directory will be on that."""
    return _send(beds_fd, (key, name, folder), [dir_fd, pidfd])


def send_leave(beds_fd: int, key: str) -> None:
    _send(beds_fd, (key,), [])


def _send(beds_fd: int, words: tuple[str, ...], fds: list[int]) -> bool:
    try:
        descriptors.send_many(beds_fd, marshal.dumps(words), fds)
    except OSError:
        return False
    return True


def become_dormitory(inherited: Inherited, beds_fd: int) -> None:
    """In a child of the scanner, with SIGNALS blocked. Never returns."""
    try:
        process.leave_terminal()
        process.close_all_except(0, 1, 2, inherited.events_fd, inherited.orders_fd, beds_fd)
        process.prctl_name(NAME)
        _Dormitory(inherited, beds_fd).keep()
    finally:
        os._exit(1)


class _Sleeper:
    """`pidfd`: the supervisor that it follows, until that has ended (-1). `is_quiet`: all is held. `due`: signals for the next supervisor."""

    def __init__(self, key: str, name: str, pidfd: int, held: Held) -> None:
        self.key = key
        self.name = name
        self.pidfd = pidfd
        self.held = held
        self.is_quiet = False
        self.due: set[int] = set()


class _Dormitory:
    def __init__(self, inherited: Inherited, beds_fd: int) -> None:
        self._inherited = inherited
        self._beds_fd = beds_fd
        self._loop = Loop()
        self._sleepers: dict[str, _Sleeper] = {}
        self._untold: list[str] = []  # lines that the scanner could not take yet
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._beds = (soft - FDS_LEFT) // FDS_EACH if soft >= 0 else 1 << 30
        self._events = Events(inherited.events_fd, "")

    def keep(self) -> None:
        """Until there is nobody left. Never returns."""
        self._loop.watch(self._beds_fd, self._read)
        for number in SIGNALS:
            self._loop.on_signal(number, lambda number=number: self._wake_all(number))  # type: ignore[misc]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._loop.on_error = lambda error: self._events.send("error in the dormitory", "error", cause=repr(error), trace=traceback.format_exc(limit=-3))
        self._loop.run(self._end_if_alone)
        os._exit(0)

    def _end_if_alone(self) -> None:
        if self._beds_fd < 0 and not self._sleepers and not self._untold:
            self._loop.stop()

    # ---- who comes

    def _read(self) -> None:
        if not descriptors.is_readable(self._beds_fd):
            return  # somebody's turn came first, and has read it
        try:
            data, fds = descriptors.receive_many(self._beds_fd, MESSAGE_MAX)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self._lose_scanner()
            return
        key, *rest = marshal.loads(data)  # noqa: S302 - it comes from our own scanner, through a socket that nobody else has
        if key in self._sleepers and (rest or self._sleepers[key].pidfd >= 0):
            self._drop(self._sleepers[key])
        if not rest:
            return
        name, folder = rest
        if len(fds) == EXPECTED_FDS and len(self._sleepers) < self._beds:
            self._take(key, name, folder, *fds)
            return
        for fd in fds:
            os.close(fd)
        self._tell(f"{BUSY} {name}")

    def _lose_scanner(self) -> None:
        """Who was told to end, and does not, has something to do: nobody would say so."""
        self._loop.forget(self._beds_fd)
        os.close(self._beds_fd)
        self._beds_fd = -1
        for sleeper in self._sleepers.values():
            self._give_up_later(sleeper)

    def _give_up_later(self, sleeper: _Sleeper) -> None:
        if sleeper.pidfd >= 0:
            self._loop.set_timer(f"turn {sleeper.key}", now() + HAND_OVER_MAX_S, lambda: self._give_up(sleeper))

    def _give_up(self, sleeper: _Sleeper) -> None:
        """Unless it has not even heard yet that it may end: then it still will."""
        if process.is_signal_pending(sleeper.pidfd, GO_TO_SLEEP):
            self._give_up_later(sleeper)
        else:
            self._drop(sleeper)

    def _take(self, key: str, name: str, folder: str, dir_fd: int, pidfd: int) -> None:
        held = Held(folder, dir_fd, hold_needs(self._inherited.places, key, name, folder))
        sleeper = self._sleepers[key] = _Sleeper(key, name, pidfd, held)
        self._loop.watch(pidfd, lambda: self._turn(sleeper))
        try:
            held.open_early()
            signal.pidfd_send_signal(pidfd, GO_TO_SLEEP)
        except ProcessLookupError:
            pass  # it has ended just now: its turn comes
        except OSError:  # its directory has just been deleted
            self._drop(sleeper)
            self._tell(f"{BUSY} {name}")

    def _drop(self, sleeper: _Sleeper) -> None:
        """Somebody else sees to that service."""
        for what in ("turn", "wake"):
            self._loop.set_timer(f"{what} {sleeper.key}", None, lambda: None)
        if sleeper.pidfd >= 0:
            self._loop.forget(sleeper.pidfd)
            os.close(sleeper.pidfd)
        for fd, _ in sleeper.held.wakers:
            self._loop.forget(fd)
        sleeper.held.close()
        del self._sleepers[sleeper.key]

    def _turn(self, sleeper: _Sleeper) -> None:
        """The supervisor before it has ended, and nobody else is to follow."""
        while self._beds_fd >= 0 and descriptors.is_readable(self._beds_fd):
            self._read()
        if self._sleepers.get(sleeper.key) is not sleeper:
            return
        held = sleeper.held
        self._loop.set_timer(f"turn {sleeper.key}", None, lambda: None)
        self._loop.forget(sleeper.pidfd)
        os.close(sleeper.pidfd)
        sleeper.pidfd = -1
        if _was_told(held):
            self._drop(sleeper)
            return
        with suppress(OSError):
            if not held.take_locks():
                self._drop(sleeper)  # somebody was faster
                return
            sleeper.is_quiet = hold(held)
        if not sleeper.is_quiet:
            held.let_go()
            self._wake(sleeper)
            return
        for fd, events in held.wakers:
            self._loop.watch(fd, lambda: self._wake(sleeper), events)

    # ---- who goes

    def _wake_all(self, number: int) -> None:
        for sleeper in list(self._sleepers.values()):
            sleeper.due.add(number)
            if sleeper.pidfd < 0:
                self._wake(sleeper)

    def _wake(self, sleeper: _Sleeper) -> None:
        """A supervisor for that service, with what is held; or without, where it could not be held."""
        for fd, _ in sleeper.held.wakers:
            self._loop.forget(fd)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid, _ = process.clone3(process.CLONE_PARENT)
            if pid == 0:
                self._become_supervisor(sleeper)
        except OSError:
            self._loop.set_timer(f"wake {sleeper.key}", now() + RETRY_S, lambda: self._wake(sleeper))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._drop(sleeper)
        self._tell(f"{AWAKE} {sleeper.key} {pid} {process.read_start_time(pid)}")

    def _become_supervisor(self, sleeper: _Sleeper) -> None:
        """In the child. Never returns."""
        inherited, held, is_quiet = self._inherited, sleeper.held, sleeper.is_quiet
        try:
            os.setsid()
            for number in sleeper.due:
                os.kill(os.getpid(), number)
            kept = held.kept_fds if is_quiet else [held.dir_fd, *held.bridge_fds]
            process.close_all_except(0, 1, 2, inherited.events_fd, inherited.orders_fd, *kept)
            sleep_after = inherited.settings.sleep_after if is_quiet else lengthen(held.detail)
            supervise(inherited, sleeper.name, held.dir_fd, sleep_after=sleep_after, held=held if is_quiet else None, bridge_fds=held.bridge_fds)
        finally:
            os._exit(111)

    def _tell(self, line: str = "") -> None:
        """The scanner, which may be slow to read; another one, where ours is gone."""
        self._untold += [line] if line else []
        while self._untold and self._say(self._untold[0]):
            self._untold.pop(0)
        if self._untold:
            self._loop.set_timer("tell", now() + RETRY_S, self._tell)

    def _say(self, line: str) -> bool:
        """Whether it was taken, or nobody is there who would."""
        if self._beds_fd < 0:
            return tell_scanner(self._inherited.places.scanner, f"{line}\n")
        try:
            descriptors.send(self._beds_fd, line.encode(), wait=False)
        except BlockingIOError:
            return False
        except OSError:
            return tell_scanner(self._inherited.places.scanner, f"{line}\n")
        return True


def _was_told(held: Held) -> bool:
    """Whether the supervisor before was told to exit: by its last word, or since all that was its own is gone with its service directory."""
    try:
        return status.read_detail(held.folder).get("supervisor") == "-"
    except OSError:
        pass
    try:
        os.readlink("supervise", dir_fd=held.dir_fd)
    except OSError:
        return True
    return False

"""Scripts of a service directory that run in its living jail: ./control/* and ./check, one at a time, each with its timeout.

What has to come after a script that runs (its signal, the next script) waits
in a bounded queue; the supervisor's loop goes on meanwhile. A script dies
with the jail.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from contextlib import suppress

from ljsv.errors import Fault, quote
from ljsv.jail.enter import KILL_GROUP
from ljsv.jail.pid1 import exit_code
from ljsv.linux import descriptors
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.supervise.events import Events
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.source import Source

QUEUE_MAX = 64
KILLED_WITHIN_S = 0.5
TIMED_OUT, NOT_RUN = -1, -2
CHECK = "check"


class Scripts:
    """One service's. `begin` starts a script: (pid of its parent, channel for its report); Fault or OSError."""

    def __init__(self, loop: Loop, timer: str, events: Events, begin: Callable[[str], tuple[int, int]]) -> None:
        self._loop = loop
        self._events = events
        self._timer = timer
        self._begin = begin
        self._queue: deque[Callable[[], None]] = deque()
        self._pid = 0
        self._name = ""
        self._pidfd = self._channel_fd = -1
        self._done: Callable[[int, str], None] = _ignore
        self._is_late = self._is_full = False

    def then(self, action: Callable[[], None]) -> None:
        """Do it after what runs and waits; at once when nothing does. What a full queue cannot take is dropped, which is told once for each script."""
        if not self._pid and not self._queue:
            action()
        elif len(self._queue) < QUEUE_MAX:
            self._queue.append(action)
        elif not self._is_full:
            self._is_full = True
            self._events.send("a script runs, and what waits for its end is too much: dropping what comes", "warning", waiting=QUEUE_MAX)

    def run(self, name: str, timeout_s: float, done: Callable[[int, str], None]) -> None:
        """`done` gets the exit code, or TIMED_OUT or NOT_RUN, and what there is to say about it."""
        self.then(lambda: self._start(name, timeout_s, done))

    def has_control(self, source: Source, name: str) -> bool:
        """Whether ./control/NAME is there to be run; what is there and cannot be run is told."""
        try:
            entry = os.stat(f"control/{name}", dir_fd=source.dir_fd)
        except OSError:
            return False
        if not entry.st_mode & 0o111:
            hint = f"chmod +x {quote(f'{source.path}/control/{name}')}"
            self._events.send("control script is not executable", "warning", script=f"control/{name}", hint=hint)
            return False
        return True

    def run_control(self, name: str, timeout_s: float, then: Callable[[int], None]) -> None:
        """./control/NAME; `then` gets its exit code, TIMED_OUT or NOT_RUN. What is not 0 is told."""

        def done(code: int, what: str) -> None:
            if code != 0:
                self._events.send("control script", "warning" if code < 0 else "info", script=f"control/{name}", ended=what)
            then(code)

        self.run(f"control/{name}", timeout_s, done)

    def _start(self, name: str, timeout_s: float, done: Callable[[int, str], None]) -> None:
        try:
            self._pid, self._channel_fd = self._begin(name)
        except (Fault, OSError) as error:
            done(NOT_RUN, str(error))
            return
        self._name, self._done, self._is_late, self._is_full = name, done, False, False
        self._pidfd = os.pidfd_open(self._pid)
        self._loop.watch(self._pidfd, self._ended)
        self._loop.set_timer(self._timer, now() + timeout_s, self._late)

    def give_way(self) -> None:
        """Something is to be done to the run: ./check, which it has not asked for, keeps nothing waiting."""
        if self._pid and self._name == CHECK:
            self._late()

    def _late(self) -> None:
        """It is killed with what it has started; in a moment its parent, too, which may not have come so far."""
        signal_to_parent = signal.SIGKILL if self._is_late else KILL_GROUP
        self._is_late = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal_to_parent)
        self._loop.set_timer(self._timer, now() + KILLED_WITHIN_S, self._late)

    def _ended(self) -> None:
        wait_status, failure = self._collect()
        done, is_late = self._done, self._is_late
        code = TIMED_OUT if is_late else NOT_RUN if failure else exit_code(wait_status)
        done(code, "killed: its time was up" if is_late else failure or f"exit {code}")
        while self._queue and not self._pid:
            self._queue.popleft()()

    def _collect(self) -> tuple[int, str]:
        """Reap what has ended: (wait status, why it could not be started)."""
        self._loop.set_timer(self._timer, None, lambda: None)
        self._loop.forget(self._pidfd)
        failure = ""
        with suppress(BlockingIOError):
            message, _ = descriptors.receive(self._channel_fd, wait=False)
            if message[:1] == b"F":
                stage, _, cause, *_ = [*os.fsdecode(message[1:]).split("\0"), "", ""]
                failure = f"{stage}: {cause}"
        wait_status = 0
        with suppress(ChildProcessError):
            wait_status = os.waitpid(self._pid, 0)[1]
        os.close(self._pidfd)
        os.close(self._channel_fd)
        self._pid, self._pidfd, self._channel_fd = 0, -1, -1
        return wait_status, failure

    def cancel(self) -> None:
        """The jail is gone: what runs is killed, what waits is forgotten."""
        self._queue.clear()
        if self._pid:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._collect()


def _ignore(_code: int, _what: str) -> None:
    """Nobody waits for it."""

"""One epoll loop for scanner and supervisor: descriptors, deadlines, signals.

Signal handlers only wake the loop. With nothing to do and no deadline set the
process sleeps for ever: idle means idle.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

Callback = Callable[[], object]
_LONGEST_WAIT_S = 86400.0
FAILURES_MAX = 100
PAUSE_S = 0.05


def now() -> float:
    """Seconds of CLOCK_BOOTTIME: it never jumps, and counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """`run` until `stop`. What a callback raises goes to `on_error`, where there is one."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: dict[str, tuple[float, Callback]] = {}
        self._is_stopped = False
        self._failures = 0
        self.on_error: Callable[[Exception], None] | None = None
        self._signals: dict[int, Callback] = {}
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, fd: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Before the descriptor is closed."""
        if self._callbacks.pop(fd, None):
            self._epoll.unregister(fd)

    def is_idle(self, known: set[int]) -> bool:
        """Whether nothing is waited for but signals, and what comes from `known`."""
        return not self._timers and self._callbacks.keys() <= known | {self._wake_r}

    def set_timer(self, name: str, at: float | None, callback: Callback) -> None:
        """One timer of each name; None takes it away."""
        if at is None:
            self._timers.pop(name, None)
        else:
            self._timers[name] = (at, callback)

    def on_signal(self, number: int, callback: Callback) -> None:
        if not self._signals:
            signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
            self.watch(self._wake_r, self._take_signals)
        self._signals[number] = callback
        signal.signal(number, _do_nothing)

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._wake_r, 512)
        except BlockingIOError:
            return
        for number in sorted(set(numbers)):  # not as they came: of two at once the kernel runs the handler of the higher one first
            if number in self._signals:
                self._signals[number]()

    def stop(self) -> None:
        self._is_stopped = True

    def run(self, after_each: Callback) -> None:
        """Turn until stopped; `after_each` runs at the end of every turn."""
        while not self._is_stopped:
            timeout = -1.0
            if self._timers:
                first = min(at for at, _ in self._timers.values())
                timeout = min(max(first - now(), 0.0), _LONGEST_WAIT_S)
            ready = [(fd, self._callbacks.get(fd)) for fd, _ in self._epoll.poll(timeout)]
            for fd, callback in ready:
                if callback and self._callbacks.get(fd) is callback:  # else its number is another descriptor's by now
                    self._call(callback)
            moment = now()
            for name, (at, callback) in list(self._timers.items()):
                if at <= moment and self._timers.get(name, (0.0, None))[1] is callback:
                    del self._timers[name]
                    self._call(callback)
            self._call(after_each)

    def _call(self, callback: Callback) -> None:
        """An error is told and the loop goes on, slowly; a loop that does nothing but fail ends."""
        try:
            callback()
            self._failures = 0
        except Exception as error:
            self._failures += 1
            if self.on_error is None or self._failures > FAILURES_MAX:
                raise
            self.on_error(error)
            time.sleep(PAUSE_S)

    def close(self) -> None:
        self._epoll.close()
        for fd in (self._wake_r, self._wake_w):
            os.close(fd)


def _do_nothing(_number: int, _frame: Any) -> None:
    """The wake-up descriptor has the number already."""

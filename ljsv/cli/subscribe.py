"""Waiting for announcements: a FIFO of ours in a fifodir (s6's way), and no polling."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

LONGEST_S = 86400.0


class Subscription:
    """FIFOs of ours in several event directories; a byte comes for each announcement."""

    def __init__(self, prefix: str = "cli") -> None:
        self._poll = select.poll()
        self._fifos: dict[int, str] = {}
        self._prefix = prefix
        self._count = 0

    def add(self, event_dir: str) -> bool:
        """Whether the directory is there and could be written."""
        self._count += 1
        path = f"{event_dir}/{self._prefix}.{os.getpid()}.{self._count}"
        hidden = f"{event_dir}/.{self._prefix}.{os.getpid()}.{self._count}"
        try:
            os.mkfifo(hidden, 0o600)
            fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        self._fifos[fd] = path
        os.rename(hidden, path)
        self._poll.register(fd, select.POLLIN)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something was announced; False when the time was up."""
        found = self._poll.poll(max(timeout_s, 0.0) * 1000)
        for fd, _ in found:
            with suppress(BlockingIOError):
                os.read(fd, 65536)
        return bool(found)

    def until(self, is_decided: Callable[[], bool], timeout_s: float, look_again_s: Callable[[], float] = lambda: LONGEST_S) -> bool:
        """Wait until `is_decided`, woken by announcements; False when the time was up.

        `look_again_s`: after how long something may be decided that nobody announces.
        """
        give_up_at = time.monotonic() + timeout_s
        while not is_decided():
            left = give_up_at - time.monotonic()
            if left <= 0:
                return False
            self.wait(min(left, look_again_s()))
        return True

    def close(self) -> None:
        for fd, path in self._fifos.items():
            with suppress(OSError):
                os.unlink(path)
            os.close(fd)
        self._fifos.clear()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

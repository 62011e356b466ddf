"""The hardware's watchdog: fed by PID 1 between two sleeps, so that a PID 1 that hangs ends in a reset.

Source: the kernel's Documentation/watchdog/watchdog-api.rst.
"""

from __future__ import annotations

import os

from ljsv.init.children import ERROR, say

WDIOC_SETTIMEOUT = 0xC004_5706
FEEDS = 3  # in each timeout


class Watchdog:
    """One that cannot be opened is told, and done without."""

    def __init__(self, path: str, timeout_s: int) -> None:
        self.interval_s = timeout_s / FEEDS
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            say(f"cannot open the watchdog: {path}: {error.strerror}", ERROR)
            return
        self._set_timeout(path, timeout_s)

    def _set_timeout(self, path: str, timeout_s: int) -> None:
        from fcntl import ioctl

        try:
            answer = ioctl(self._fd, WDIOC_SETTIMEOUT, timeout_s.to_bytes(4, "little"))
            self.interval_s = max(1, int.from_bytes(answer, "little")) / FEEDS
        except OSError as error:
            say(f"cannot set the watchdog's timeout: {path}: {error.strerror}")

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def feed(self) -> None:
        try:
            os.write(self._fd, b"\0")
        except OSError as error:
            say(f"cannot feed the watchdog: {error.strerror}", ERROR)

    def disarm(self) -> None:
        """For a machine that is halted: V and close. A driver that was built with nowayout goes on, and resets it."""
        try:
            os.write(self._fd, b"V")
        except OSError:
            pass
        os.close(self._fd)
        self._fd = -1

"""What the scanner says to whoever started it, in the words of sd_notify(3): systemd, or a supervisor of its own kind.

Only in the foreground: a scanner in the background is nobody's main process.
"""

from __future__ import annotations

import _socket  # the module in C: socket costs 5 ms
import os
import time


def notify(*lines: str) -> None:
    """One datagram to $NOTIFY_SOCKET, where there is one. Nobody hears it: so be it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            channel.sendto("\n".join(lines).encode(errors="replace"), address)
        finally:
            channel.close()
    except OSError:
        pass


def say_reloading() -> None:
    """Followed by READY=1 when it has been done (Type=notify-reload wants the time as well)."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

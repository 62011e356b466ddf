"""Events on their way to the journal: lines of JSON into one FIFO, never waited for.

A message is at most 4,096 bytes (PIPE_BUF), so it arrives whole. What the
FIFO cannot take waits in a bounded backlog; what that cannot take is counted.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from contextlib import suppress
from typing import Any

MESSAGE_MAX = 4096
BACKLOG_MAX = 256
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


class Events:
    """The writing end. `fd` is opened read-write, so that it outlives any journal."""

    def __init__(self, fd: int, source: str) -> None:
        self.fd = fd
        self.source = source
        self._backlog: deque[bytes] = deque()
        self._dropped = 0

    def send(self, event: str, level: str = "info", **fields: Any) -> None:
        """Say that something happened; `fields` are plain values."""
        message = {"time": time.time_ns(), "level": level, "service": self.source, "event": event, **fields}
        if self._dropped:
            message["dropped"] = self._dropped
        line = _encode(message).encode(errors="replace") + b"\n"
        if len(line) > MESSAGE_MAX:
            text = {key: str(value)[:200] for key, value in message.items() if key not in {"time", "dropped"}}
            line = json.dumps({"time": message["time"], **text}).encode()[: MESSAGE_MAX - 1] + b"\n"
        if len(self._backlog) >= BACKLOG_MAX:
            self._dropped += 1
            return
        self._dropped = 0
        self._backlog.append(line)
        self.flush()

    def follow(self, path: str) -> None:
        """The FIFO that is there now, where the one before was deleted."""
        with suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)

    @property
    def is_waiting(self) -> bool:
        return bool(self._backlog)

    def flush(self) -> None:
        """Write what the FIFO takes now."""
        while self._backlog:
            try:
                os.write(self.fd, self._backlog[0])
            except BlockingIOError:
                return
            except OSError:
                self._dropped += 1
            self._backlog.popleft()

"""The journal: the only process that imports structlog.

Reads events (one JSON object a line) from the FIFO, and writes each as one
JSON line with time, level, service and event: to standard error in the
foreground, to a rotated file in the background. It lives as long as its
scanner; what arrives in between waits in the FIFO.

    python -I -m ljsv.supervise.journal FIFO DIRECTORY|- SCANNER_PID LOG_CAP
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from select import POLLIN, poll
from typing import Any

import structlog

from ljsv.linux.process import PR_SET_PDEATHSIG, prctl
from ljsv.supervise.log_cap import most_of_one
from ljsv.supervise.logfile import LogFile

READ_MAX = 65536
LEVELS = ("debug", "info", "warning", "error", "critical")


class _RotatedLogger:
    """What structlog writes through: lines of bytes into a file that is rotated."""

    def __init__(self, file: LogFile | None) -> None:
        self._file = file

    def msg(self, line: bytes) -> None:
        if self._file is None:
            os.write(2, line + b"\n")
            return
        with suppress(OSError):  # a full disk: events are a diagnosis, and the FIFO must not fill up
            self._file.open()
            if self._file.size >= self._file.max_size:
                self._file.rotate()
            self._file.append(line + b"\n")

    debug = info = warning = error = critical = msg


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, default=str).encode(errors="replace")


def write_event(log: Any, line: bytes) -> None:
    """One event of the FIFO through structlog; a line that is no JSON object is kept as text."""
    try:
        message = json.loads(line)
        moment = datetime.fromtimestamp(message.pop("time") / 1e9, UTC)
        level, event = str(message.pop("level")), str(message.pop("event"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, event, level = {"text": line.decode(errors="replace")}, "unreadable event", "warning"
        moment = datetime.now(UTC)
    write = getattr(log, level if level in LEVELS else "info")
    write(event, time=moment.isoformat(timespec="microseconds").replace("+00:00", "Z"), **message)


def main() -> None:
    """Read until told to end (TERM), then take out what is left."""
    fifo, where, scanner_pid, log_cap = sys.argv[1:5]
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(scanner_pid):  # it ended before we asked to be told
        return
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    file = None if where == "-" else LogFile(where, most_of_one(int(log_cap), 10 << 20), 5)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _order, _render],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=lambda *_: _RotatedLogger(file),
        cache_logger_on_first_use=True,
    )
    log = structlog.get_logger()
    is_ending = False

    def end(_number: int, _frame: Any) -> None:
        nonlocal is_ending
        is_ending = True

    wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_w)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    poller = poll()
    poller.register(fd, POLLIN)
    poller.register(wake_r, POLLIN)
    rest = b""
    while True:
        if not is_ending:
            poller.poll()
        try:
            data = os.read(fd, READ_MAX)
        except BlockingIOError:
            if is_ending:
                return
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            write_event(log, line)


def _order(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {key: event.pop(key) for key in ("time", "level", "service", "event") if key in event}
    return first | dict(event)


if __name__ == "__main__":
    main()

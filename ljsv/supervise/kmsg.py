"""`[log] to = "kmsg"`: a service's lines in the kernel's log, where a box without a disk keeps what it says.

A line becomes one record, `NAME: line`, of facility daemon and level info;
what a terminal would take for a command is shown as `?`, since records are
printed on consoles. Only the supervisor has /dev/kmsg, no jail. At most
`rate` lines in 5 s are written: the log is everybody's, and small. Without
kernel.printk_devkmsg=on the kernel itself takes ten and drops the rest without
a word, so no more are written then. What is left out is counted, and told with
the next line. Source: Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import os
from collections import deque

from ljsv.supervise.loop import now

PATH = "/dev/kmsg"
SETTING = "/proc/sys/kernel/printk_devkmsg"
WINDOW_S = 5.1  # the kernel's 5 s, and some ticks
KERNEL_RATE = 10
PRIORITY = b"<30>"  # daemon.info
LINE_MAX = 900  # a record has at most 1,024 bytes with its prefix
LAST_LINES = 10
_PLAIN = bytes(code if 32 <= code < 127 or code >= 160 or code == 9 else 63 for code in range(256))


class Kmsg:
    """The kernel's log for one service. OSError where it cannot be opened."""

    def __init__(self, name: str, rate: int) -> None:
        self.name = name
        self.wanted_rate = rate
        self.rate = rate if _read_setting() == "on" else min(rate, KERNEL_RATE)
        self.dropped = 0
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.window_end = 0.0
        self._left = 0
        self._fd = os.open(PATH, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, line: bytes) -> None:
        """One line without its newline; dropped where there were too many."""
        self.last.append(line.decode(errors="replace"))
        self.tell_dropped()
        if self._left > 0:
            self._write(line)
        else:
            self.dropped += 1

    def tell_dropped(self) -> None:
        """With a new window: how much was left out in the one before."""
        if now() < self.window_end:
            return
        self.window_end, self._left = now() + WINDOW_S, self.rate
        if self.dropped:
            self._write(b"%d lines left out: more than %d in 5s" % (self.dropped, self.rate))
            self.dropped = 0

    def _write(self, line: bytes) -> None:
        self._left -= 1
        os.write(self._fd, PRIORITY + self.name.encode() + b": " + line[:LINE_MAX].translate(_PLAIN) + b"\n")  # without it the record could go on, and nobody is shown it yet

    def close(self) -> None:
        os.close(self._fd)


def _read_setting() -> str:
    try:
        with open(SETTING) as file:
            return file.read().strip()
    except OSError:
        return ""

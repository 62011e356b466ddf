"""What a supervisor says of its service, as files: the contract's `status`, `stat` and `pid`, and `detail`.

Read by `ljsv status`, so nothing heavy is imported. The 20 bytes of `status`
are runit's (runsv(8), and `sv.c` of runit 2.1.2); `detail` holds, as text
lines `key value`, all that 20 bytes cannot say.
"""

from __future__ import annotations

import os
from struct import Struct

from ljsv import tai64n

DOWN = "down"
STARTING = "starting"
UP = "up"
READY = "ready"
STOPPING = "stopping"
FINISHING = "finishing"
BACKOFF = "backoff"
FAILED = "failed"
STATES = (DOWN, STARTING, UP, READY, STOPPING, FINISHING, BACKOFF, FAILED)

RUNIT_DOWN, RUNIT_RUN, RUNIT_FINISH = 0, 1, 2
RUNIT_STATE = dict.fromkeys((DOWN, BACKOFF, FAILED), RUNIT_DOWN)
RUNIT_STATE |= dict.fromkeys((STARTING, UP, READY, STOPPING), RUNIT_RUN)
RUNIT_STATE[FINISHING] = RUNIT_FINISH
RUNIT_WORD = ("down", "run", "finish")

_PID = Struct("<I")
RECORD_SIZE = 20


class StatusRecord:
    """The 20 bytes: `since_ns` (unix time), `pid` (0: none), `paused`, `want` (u or d), `term_sent`, `state`."""

    __slots__ = ("paused", "pid", "since_ns", "state", "term_sent", "want")

    def __init__(
        self, since_ns: int, pid: int, state: int, *, want: str, paused: bool = False, term_sent: bool = False
    ) -> None:
        self.since_ns = since_ns
        self.pid = pid
        self.paused = paused
        self.want = want
        self.term_sent = term_sent
        self.state = state

    def pack(self) -> bytes:
        flags = bytes((self.paused, ord(self.want), self.term_sent, self.state))
        return tai64n.pack(self.since_ns) + _PID.pack(self.pid) + flags

    @classmethod
    def unpack(cls, record: bytes) -> StatusRecord:
        """The record of exactly 20 bytes; ValueError for anything else."""
        if len(record) != RECORD_SIZE or record[19] > RUNIT_FINISH or record[17] not in b"ud":
            message = f"not a status record of {RECORD_SIZE} bytes"
            raise ValueError(message)
        (pid,) = _PID.unpack_from(record, 12)
        return cls(
            tai64n.unpack(record[:12]), pid, record[19],
            want=chr(record[17]), paused=bool(record[16]), term_sent=bool(record[18]),
        )

    def stat_text(self, *, want_exit: bool = False) -> str:
        """The line of `stat`, as runsv writes it."""
        text = RUNIT_WORD[self.state]
        if self.paused:
            text += ", paused"
        if self.term_sent:
            text += ", got TERM"
        if self.state != RUNIT_DOWN and self.want == "d":
            text += ", want exit" if want_exit else ", want down"
        return text + "\n"


def format_detail(pairs: dict[str, str]) -> str:
    """Lines `key value`; a newline in a value becomes a space, so that a line stays a line."""
    return "".join(f"{key} {value.replace(chr(10), ' ')}\n" for key, value in pairs.items() if value)


def parse_detail(text: str) -> dict[str, str]:
    """The pairs of `detail`; a line without a value is left out."""
    pairs = {}
    for line in text.split("\n"):
        key, _, value = line.partition(" ")
        if value:
            pairs[key] = value
    return pairs


def read_detail(supervise: str) -> dict[str, str]:
    """The pairs of `supervise/detail`; empty when there is none. OSError for anything but its absence."""
    try:
        fd = os.open(supervise + "/detail", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        return parse_detail(os.read(fd, 65536).decode(errors="surrogateescape"))
    finally:
        os.close(fd)


def start_fault(detail: dict[str, str]) -> str:
    """Why it could not be started; "" where it could, and `fault` says what is wrong with an edit since."""
    return "" if "bad_edit" in detail else detail.get("fault", "")


def is_supervised(supervise: str) -> bool:
    """Whether a supervisor holds `supervise/ok` open, as svok(8) asks it."""
    try:
        os.close(os.open(supervise + "/ok", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return False
    return True


def write_by_rename(directory: str, name: str, data: bytes, mode: int = 0o644) -> None:
    """Replace `directory/name` whole: readers see the old or the new, never half."""
    temporary = f"{directory}/{name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    view = memoryview(data)
    try:
        while view:  # a disk that is nearly full takes a part, and then says so
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")

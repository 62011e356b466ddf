"""`supervise/deaths`: what is remembered of the last deaths of a service, a JSON object a line, the newest last.

Written by the supervisor, read by `ljsv why`. Bounded: DEATHS_MAX lines, each
with at most LOG_LINES lines of the log.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

from ljsv import status
from ljsv.supervise.logfile import TAIL_MAX
from ljsv.supervise.machine import LOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ljsv.errors import Fault
    from ljsv.supervise.machine import Machine

DEATHS_MAX = 20
LOG_LINES = 10
FILE_MAX = DEATHS_MAX * 4 * TAIL_MAX


class Deaths:
    """Of one service's runs.

    `reason`: why we ended the run that there is, or what else is known of its end before it comes; `stage`: of the build that failed;
    `sent`: the signals that commands have sent to it. `why`: how the last one ended, in a few words, for `detail`.
    """

    def __init__(self) -> None:
        self.why = ""
        self._unwritten: dict[str, Any] | None = None
        self.begin_run()

    def begin_run(self) -> None:
        """What was known of the run before is over."""
        self.reason = self.stage = ""
        self.sent: frozenset[int] = frozenset()

    def remember(self, before: Machine, machine: Machine, fault: Fault | None, *, is_commanded: bool) -> None:
        """One death of ./run: `before` and `machine` are the table's state on both sides of it, `fault` is why it could not be built."""
        end = machine.end or LOST
        if end.code < 0 and end.status & 0x7F in self.sent and not is_commanded:
            self.reason = self.reason or "a command had sent it that signal"
        self.why = f"{end.describe()} after {machine.run_time:.3g}s" + (f", {self.reason}" if self.reason else "")
        self._unwritten = {
            "time": time.time(), "script": "run", "run_time_s": round(machine.run_time, 6), "code": end.code, "status": end.status,
            "end": end.describe(), "is_commanded": is_commanded, "was": before.state, "next": machine.state,
            "reason": self.reason, "stage": self.stage, "fault": str(fault) if fault else "", "hint": fault.hint if fault else "",
        }

    def write(self, directory: str, last_lines: Callable[[int], list[str]]) -> None:
        """What was remembered and is not written yet, with the last lines of its log. OSError where it cannot be written: then it is lost."""
        death, self._unwritten = self._unwritten, None
        if death:
            _add_death(directory, death, last_lines(LOG_LINES))


def _add_death(directory: str, death: dict[str, Any], last: list[str]) -> None:
    """Append one; the oldest go."""
    lines: list[bytes] = []
    with suppress(OSError), open(f"{directory}/deaths", "rb") as file:
        lines = file.read(FILE_MAX).splitlines()[1 - DEATHS_MAX :]
    line = json.dumps({**death, "log": last[-LOG_LINES:]}, ensure_ascii=False).encode(errors="replace")
    status.write_by_rename(directory, "deaths", b"\n".join([*lines, line]) + b"\n", 0o600)

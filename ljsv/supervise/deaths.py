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
    from typing import Any

    from ljsv.errors import Fault
    from ljsv.supervise.machine import Machine

DEATHS_MAX = 20
LOG_LINES = 10
FILE_MAX = DEATHS_MAX * 4 * TAIL_MAX


def death_of(before: Machine, machine: Machine, fault: Fault | None, stage: str, reason: str) -> dict[str, Any]:
    """One death of ./run: `before` and `machine` are the table's state on both sides of it, `reason` is why we ended it."""
    end = machine.end or LOST
    return {
        "time": time.time(), "script": "run", "run_time_s": round(machine.run_time, 6), "code": end.code, "status": end.status,
        "end": end.describe(), "is_commanded": before.is_commanded, "was": before.state, "next": machine.state,
        "reason": reason, "stage": stage, "fault": str(fault) if fault else "", "hint": fault.hint if fault else "",
    }


def describe_death(machine: Machine, reason: str) -> str:
    """In a few words, for `detail`."""
    return f"{(machine.end or LOST).describe()} after {machine.run_time:.3g}s" + (f", {reason}" if reason else "")


def add_death(directory: str, death: dict[str, Any], last: list[str]) -> None:
    """Append one, with the last lines of its log; the oldest go. OSError where it cannot be written."""
    lines: list[bytes] = []
    with suppress(OSError), open(f"{directory}/deaths", "rb") as file:
        lines = file.read(FILE_MAX).splitlines()[1 - DEATHS_MAX :]
    line = json.dumps({**death, "log": last[-LOG_LINES:]}, ensure_ascii=False).encode(errors="replace")
    status.write_by_rename(directory, "deaths", b"\n".join([*lines, line]) + b"\n", 0o600)

"""How a service's state is told in one line, by every verb alike. Imports nothing heavy."""

from __future__ import annotations

import sys
import time

from ljsv.errors import Fault, quote
from ljsv.status import start_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def boot_now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def age(seconds: float) -> str:
    """`9s`, `4m12s`, `3h12m`, `2d4h`."""
    total = max(int(seconds), 0)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60}s"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60}m"
    return f"{total // 86400}d{total % 86400 // 3600}h"


def age_of(detail: dict[str, str]) -> float:
    return boot_now() - float(detail.get("since", "0") or 0)


def next_try(detail: dict[str, str]) -> str:
    if detail.get("state") != "backoff" or "deadline" not in detail:
        return ""
    left = float(detail["deadline"]) - boot_now()
    return f"next try in {left:.1f}s" if 0 < left < 10 else f"next try in {age(left)}"


def not_ready(detail: dict[str, str]) -> str:
    """`not ready yet (notify)`: what it is that a service in `up` still has to say."""
    by = detail.get("ready_by", "")
    return f"not ready yet ({by})" if by else "not ready yet"


def printable(text: str) -> str:
    """What a service says, without what a terminal would take for a command."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(name: str, detail: dict[str, str]) -> str:
    """`web: ready (pid N) Ns`, and what has to be known with it."""
    state = detail.get("state", "down")
    pid = f" (pid {detail['pid']})" if "pid" in detail else ""
    parts = [f"{name}: {state}{pid}" + (f" {age(age_of(detail))}" if "since" in detail else "")]
    if state in {"backoff", "failed"} or (state == "down" and detail.get("result") == "failed"):
        _, _, reason = detail.get("why", "").partition(", ")
        last = detail.get("end_text", "never") + (f" ({reason})" if reason else "")
        parts.append(start_fault(detail) or f"last run: {last}")
    if state == "backoff":
        parts.append(next_try(detail))
    if "waiting" in detail:
        parts.append(f"waiting for {detail['waiting']}")
    if state == "up":
        parts.append(not_ready(detail))
    if state == "down" and detail.get("result") == "done":
        parts.append("done")
    if detail.get("normally") == "down" and state != "down":
        parts.append("normally down")
    if detail.get("normally") == "up" and state == "down":
        parts.append("normally up")
    if "paused" in detail:
        parts.append("paused")
    return ", ".join(part for part in parts if part)


def print_columns(table: Sequence[Sequence[str]]) -> None:
    """Rows of as many cells each, the head first: every column as wide as its widest cell, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fault(fault: Fault, program: str = "ljsv") -> None:
    """`ljsv: service: action: object: cause`, then the hint. On standard error; what a jail has named may be in it."""
    print(f"{program}: {printable(str(fault))}", file=sys.stderr)
    if fault.hint:
        print_hint(fault.hint)


def fault_of(error: OSError, hint: str) -> Fault:
    """For a call that nobody has foreseen to fail; what has no path where a relative one was given is the working directory."""
    import os

    try:
        os.getcwd()
    except FileNotFoundError:
        if isinstance(error, FileNotFoundError):
            return Fault("the working directory is gone", "", "it was deleted", hint="cd /  # or name absolute paths")
    return Fault.from_os("system call failed", error, hint=hint)


def print_hint(hint: str) -> None:
    """What mends it, on standard error."""
    print(f"hint: {printable(pasteable(hint))}", file=sys.stderr)


given_svdir: list[str] = []  # the scan directory that was named, by --svdir or in front of a service's name


def pasteable(hint: str) -> str:
    """The hint, whose every `ljsv` is about the scan directory that this one is about."""
    if not given_svdir or "--svdir" in hint:
        return hint
    import re

    where = f"ljsv --svdir {quote(given_svdir[0])} "
    return re.sub(r"(?<![-\w/.])ljsv (?=[a-z])", lambda _: where, hint)

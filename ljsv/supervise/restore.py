"""What a killed supervisor left: its machine's state, read back from `detail`. Pure."""

from __future__ import annotations

from ljsv.status import STATES
from ljsv.supervise.machine import WANT_DOWN, WANT_ONCE, WANT_UP, End, Machine


def restore_machine(detail: dict[str, str]) -> Machine | None:
    """The machine that `machine_detail` wrote down, or None where it makes no sense."""
    try:
        state, want = detail["state"], detail["want"]
        if state not in STATES or want not in {WANT_UP, WANT_DOWN, WANT_ONCE}:
            return None
        end = [int(word) for word in detail["end"].split()] if "end" in detail else []
        return Machine(
            state=state,
            want=want,
            is_exiting="exiting" in detail,
            is_paused="paused" in detail,
            term_sent="term_sent" in detail,
            is_commanded="commanded" in detail,
            since=float(detail["since"]),
            deadline=float(detail["deadline"]) if "deadline" in detail else None,
            failures=int(detail.get("failures", "0")),
            restarts=int(detail.get("restarts", "0")),
            end=End(end[0], end[1]) if len(end) == 2 else None,
            run_time=float(detail.get("run_time", "0")),
            result=detail.get("result", ""),
        )
    except (KeyError, ValueError):
        return None

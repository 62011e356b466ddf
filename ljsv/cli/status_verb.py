"""`ljsv status`: a table of all, or all about one. Works from files alone, with no scanner as well."""

from __future__ import annotations

import os
import sys

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.show import age, age_of, next_try, one_line
from ljsv.errors import EXIT_OK, EXIT_STATUS_NOT_UP

OPTIONS = {"--json": "", "--all": ""}
UNSUPERVISED = "unsupervised"
COLOURS = {status.READY: "32", status.UP: "32", status.BACKOFF: "33", status.FAILED: "31", UNSUPERVISED: "33"}
HEAD = ("SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "JAIL", "")


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    names = context.names() if options.operands else context.all_names()
    problems = context.problems()
    details = {name: read(context, name, problems) for name in names}
    if options.has("--json"):
        import json

        print(json.dumps([as_json(name, detail) for name, detail in details.items()], indent=2))
    elif len(options.operands) == 1:
        print_one(names[0], details[names[0]])
    else:
        print_table(context, details)
    is_up = all(detail["state"] in {status.UP, status.READY} for detail in details.values())
    return EXIT_OK if is_up or not options.operands else EXIT_STATUS_NOT_UP


def read(context: Context, name: str, problems: dict[str, str]) -> dict[str, str]:
    """A service's `detail`; where nobody supervises it, what is left of it and why."""
    try:
        detail = context.detail(name)
        if detail and status.is_supervised(context.supervise_of(name)):
            return detail | {"supervised": "yes"}
    except PermissionError:
        return {"state": UNSUPERVISED, "problem": "not yours to see"}
    if detail.get("supervisor", "-") == "-":
        detail = {"state": status.DOWN if detail else UNSUPERVISED, **{k: detail[k] for k in ("since", "log", "end_text") if k in detail}}
    else:
        detail["state"] = UNSUPERVISED
        if not os.path.exists(f"/proc/{detail.get('pid', '-')}"):
            detail.pop("pid", None)
    detail["problem"] = problems.get(name) or "nobody supervises it"
    return detail


def remark(detail: dict[str, str]) -> str:
    """What has to be known beside the state."""
    state = detail["state"]
    parts = []
    if "problem" in detail:
        parts.append(detail["problem"])
    elif state == status.BACKOFF:
        parts += [detail.get("fault") or detail.get("end_text", ""), next_try(detail)]
    elif state == status.FAILED:
        parts.append(detail.get("fault") or f"gave up: {detail.get('end_text', '')}")
    elif state == status.DOWN and detail.get("result") in {"done", "failed"}:
        parts.append(f"{detail['result']}: {detail.get('end_text', '')}")
    elif state == status.DOWN and detail.get("want") != "up":
        parts.append("(want down)")
    if "fault" in detail and state not in {status.BACKOFF, status.FAILED}:
        parts.append(f"bad edit: {detail['fault']}")
    elif "changed" in detail:
        parts.append(f"changed: {detail['changed']}")
    if "paused" in detail:
        parts.append("paused")
    if "log_fault" in detail:
        parts.append(detail["log_fault"])
    return ", ".join(part for part in parts if part)


def print_table(context: Context, details: dict[str, dict[str, str]]) -> None:
    rows = [HEAD]
    counts: dict[str, int] = {}
    for name, detail in details.items():
        state = detail["state"]
        counts[state] = counts.get(state, 0) + 1
        since = age(age_of(detail)) if "since" in detail else "-"
        restarts = detail.get("restarts", "-")
        rows.append((name, state, detail.get("pid", "-"), since, restarts, detail.get("jail", "-"), remark(detail)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    is_terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    limit = os.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column in {3, 4} else f"{cell:{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        line = line[:limit] if limit > 20 else line
        colour = COLOURS.get(row[1])
        if is_terminal and colour:
            line = line.replace(row[1], f"\x1b[{colour}m{row[1]}\x1b[0m", 1) if row[1] not in row[0] else line
        print(line)
    summary = ", ".join(f"{counts[state]} {state}" for state in (*status.STATES[::-1], UNSUPERVISED) if state in counts)
    plural = "" if len(details) == 1 else "s"
    print(f"{len(details)} service{plural} in {context.shown}{': ' if summary else ''}{summary}")
    if not context.has_scanner():
        print(f"no scanner runs for {context.shown}: ljsv up NAME starts one", file=sys.stderr)


def print_one(name: str, detail: dict[str, str]) -> None:
    """A line in sv's shape, then what there is to know."""
    print(sv_line(name, detail))
    lines = [("state", one_line(name, detail).partition(": ")[2])]
    lines += [(key, detail[key]) for key in ("problem", "fault", "hint", "log_fault") if key in detail]
    if "end_text" in detail:
        ran = f" after {float(detail.get('run_time', 0)):.2f}s" if detail.get("run_time") else ""
        lines.append(("last end", f"{detail['end_text']}{ran}"))
    lines += [("restarts", detail["restarts"])] if "restarts" in detail else []
    lines += [("next", next_try(detail))] if next_try(detail) else []
    lines += [(key, detail[key]) for key in ("jail", "changed", "directory", "log") if key in detail]
    lines += [("supervisor", f"pid {detail['supervisor'].split()[0]}")] if detail.get("supervised") else []
    lines += [("note", detail[key]) for key in sorted(detail) if key.startswith("note")]
    for key, value in lines:
        print(f"  {key + ':':12} {value}")
    from ljsv.cli.steer import tail_of

    for line in tail_of(detail.get("log", ""), 5):
        print(f"  | {line}")


def sv_line(name: str, detail: dict[str, str]) -> str:
    """As `sv status` prints it."""
    word = status.RUNIT_WORD[status.RUNIT_STATE.get(detail["state"], status.RUNIT_DOWN)]
    pid = f"(pid {detail['pid']}) " if "pid" in detail else ""
    parts = [f"{word}: {name}: {pid}{max(int(age_of(detail)), 0) if 'since' in detail else 0}s"]
    if word == "run" and detail.get("normally") == "down":
        parts.append("normally down")
    if word == "down" and detail.get("normally") == "up":
        parts.append("normally up")
    parts += ["paused"] if "paused" in detail else []
    if word == "down" and detail.get("want") == "up" and detail["state"] != status.FAILED:
        parts.append("want up")
    if word != "down" and detail.get("want", "up") != "up":
        parts.append("want down")
    parts += ["got TERM"] if "term_sent" in detail else []
    return ", ".join(parts)


def as_json(name: str, detail: dict[str, str]) -> dict[str, object]:
    """The documented schema (docs/status.md): keys are always there, null for what does not apply."""
    number = {"pid": int, "restarts": int, "failures": int, "run_time": float}
    text = ("state", "want", "result", "end_text", "fault", "hint", "changed", "jail", "directory", "log", "log_fault", "problem")
    result: dict[str, object] = {"name": name, "supervised": "supervised" in detail}
    result |= {key: detail.get(key) for key in text}
    result |= {key: convert(detail[key]) if key in detail else None for key, convert in number.items()}
    result["since_s"] = round(age_of(detail), 3) if "since" in detail else None
    deadline = float(detail["deadline"]) if detail.get("state") == status.BACKOFF and "deadline" in detail else None
    result["next_try_boot_s"] = deadline
    result["paused"] = "paused" in detail
    result["notes"] = [detail[key] for key in sorted(detail) if key.startswith("note")]
    return result

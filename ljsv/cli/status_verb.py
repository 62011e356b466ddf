"""`ljsv status`: a table of all, or all about one. Works from files alone, with no scanner as well.

`--json` and `-o FIELD,...` give the fields of fields.py. Nothing is imported
here that a table does not need: it is what people and scripts call most.
"""

from __future__ import annotations

import os
import sys

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import age, age_of, next_try, not_ready, print_columns, print_fault, print_hint, printable
from ljsv.cli.sizes import ENTRIES_MAX, OverlaySizes, memory_cell, size
from ljsv.cli.table import UNSUPERVISED, Row, Screen, lay_out
from ljsv.errors import EXIT_OK, EXIT_STATUS_NOT_UP, Fault

OPTIONS = {"--json": "", "--all": "", "-o": "FIELD,...", "-q": "", "--quiet": ""}
KEPT = ("since", "log", "end", "end_text", "run_time", "why", "needs", "restarts", "jail", "overlay", "directory", "image", "image_generation", "not_deployed")  # of a service whose supervisor has ended


def run(_verb: str, options: Options) -> int:
    fields = _wanted_fields(options)
    context = Context(options.get("--svdir"), options)
    names, misnamed = (context.names(), []) if options.operands else context.look_around()
    note = _note_on_scanner(context)
    problems = context.problems()
    details = {name: read(context, name, problems) for name in names}
    is_quiet = options.has("-q") or options.has("--quiet")
    is_machines = bool(fields) or options.has("--json")
    if is_machines or len(options.operands) == 1:
        for name, detail in details.items():
            detail.update(_read_log_service(context, name))
    if is_quiet:
        pass
    elif is_machines:
        from ljsv.cli.fields import read_fields

        rows = [read_fields(name, detail, fields) for name, detail in details.items()]
        if options.has("--json"):
            import json

            print(json.dumps(rows, indent=2))
        else:
            print_fields(fields, rows)
    elif len(options.operands) == 1:
        from ljsv.cli.report import print_one

        print_one(context, names[0], details[names[0]])
    else:
        print_table(context, details)
        if note and details:
            print(note, file=sys.stderr)
        for fault in misnamed:
            print_fault(fault)
    if not options.operands and not is_quiet:
        return EXIT_OK
    is_fine = all(is_up(detail, is_named=bool(options.operands)) for detail in details.values())
    return EXIT_OK if is_fine else EXIT_STATUS_NOT_UP


def _note_on_scanner(context: Context) -> str:
    """What there is to say of it, "" where one runs. One whose runtime directory was deleted is waited for: what is read then is true."""
    try:
        return "" if context.has_scanner() else f"no scanner runs for {context.shown}: ljsv up NAME starts one"
    except Fault as fault:
        return f"{fault}: {fault.hint}"


def is_up(detail: dict[str, str], *, is_named: bool) -> bool:
    """Whether it runs; where all are asked about, one that was told to be down is as it should be."""
    if detail["state"] in {status.UP, status.READY}:
        return True
    return not is_named and detail["state"] == status.DOWN and "problem" not in detail and detail.get("want") != "up" and detail.get("result") != "failed"


def _wanted_fields(options: Options) -> tuple[str, ...]:
    """What -o names, in its order; () without it. May be given several times."""
    given = [name.strip() for text in options.every("-o") for name in text.split(",")]
    if not given:
        return ()
    from ljsv.cli.fields import FIELDS

    for name in given:
        if name not in FIELDS:
            from difflib import get_close_matches

            close = get_close_matches(name, FIELDS, 1)
            raise usage(f"-o: no such field: {name or '(empty)'}", hint=f"ljsv status -o {close[0]}" if close else f"fields: {','.join(FIELDS)}")
    return tuple(given)


def read(context: Context, name: str, problems: dict[str, str]) -> dict[str, str]:
    """A service's `detail`; where nobody supervises it, what is left of it and why."""
    try:
        detail = context.detail(name)
        if detail and status.is_supervised(context.supervise_of(name)):
            return detail | {"supervised": "yes"}
    except PermissionError:
        return {"state": UNSUPERVISED, "problem": "not yours to see"}
    if detail.get("supervisor", "-") == "-":
        detail = {"state": status.DOWN if detail else UNSUPERVISED, **{k: detail[k] for k in KEPT if k in detail}}
    else:
        detail["state"] = UNSUPERVISED
        if not os.path.exists(f"/proc/{detail.get('pid', '-')}"):
            detail.pop("pid", None)
    detail["problem"] = problems.get(name) or "nobody supervises it"
    return detail


def _read_log_service(context: Context, name: str) -> dict[str, str]:
    """State and pid of log/run, where there is one."""
    folder = f"{context.supervise_of(name).removesuffix('supervise')}log/supervise"
    try:
        detail = status.read_detail(folder)
    except OSError:
        return {}
    if not detail:
        return {}
    state = detail.get("state", status.DOWN) if status.is_supervised(folder) else UNSUPERVISED
    told = ("pid", "since", "want", "normally") if state != UNSUPERVISED else ()
    return {"log_state": state, **{f"log_{key}": detail[key] for key in told if key in detail}}


def remark(detail: dict[str, str]) -> str:
    """What has to be known beside the state."""
    state = detail["state"]
    parts = []
    if "problem" in detail:
        parts.append(detail["problem"])
    elif state == status.BACKOFF:
        parts += [status.start_fault(detail) or detail.get("end_text", ""), next_try(detail)]
    elif state == status.FAILED:
        parts.append(status.start_fault(detail) or f"gave up: {detail.get('end_text', '')}")
    elif "waiting" in detail:
        parts.append(f"waiting for {detail['waiting']}")
    elif state == status.UP:
        parts.append(not_ready(detail))
    elif state == status.DOWN and detail.get("result") in {"done", "failed"}:
        parts.append(f"{detail['result']}: {detail.get('end_text', '')}")
    elif state == status.DOWN and detail.get("want") != "up":
        parts.append("(want down)")
    if "deployment" in detail:
        parts.append(f"deployment: {detail['deployment']}")
    elif "not_deployed" in detail:
        parts.append(f"not deployed: {printable(detail['not_deployed'])}")
    if "status_text" in detail:
        parts.append(printable(detail["status_text"]))
    if "bad_edit" in detail:
        parts.append(f"bad edit: {detail['fault']}")
    elif "changed" in detail:
        parts.append(f"changed: {detail['changed']}")
    if "paused" in detail:
        parts.append("paused")
    if "log_fault" in detail:
        parts.append(detail["log_fault"])
    return ", ".join(part for part in parts if part)


def jail_cell(detail: dict[str, str], sizes: OverlaySizes) -> str:
    """`debian-12 + overlay 12M`."""
    text = printable(detail.get("jail", "-"))
    if "overlay" not in detail:
        return text
    written = sizes.of(detail)
    return text if written is None else text.replace("+ overlay", f"+ overlay {size(written, digits=0)}", 1)


def rows_of(details: dict[str, dict[str, str]]) -> list[Row]:
    sizes = OverlaySizes(ENTRIES_MAX)
    rows: list[Row] = []
    for name, detail in details.items():
        since = age(age_of(detail)) if "since" in detail else "-"
        cells = (name, detail["state"], detail.get("pid", "-"), since, detail.get("restarts", "-"), memory_cell(detail), jail_cell(detail, sizes))
        rows.append((cells, remark(detail)))
    return rows


def summary(context: Context, details: dict[str, dict[str, str]]) -> str:
    """`3 services: 1 ready, 1 backoff, 1 down`; the scan directory only where the caller might not expect it."""
    counts: dict[str, int] = {}
    for detail in details.values():
        counts[detail["state"]] = counts.get(detail["state"], 0) + 1
    states = (status.READY, status.UP, *(state for state in status.STATES[::-1] if state not in {status.READY, status.UP}), UNSUPERVISED)
    told = ", ".join(f"{counts[state]} {state}" for state in states if state in counts)
    where = f" in {context.shown}" if context.shown == "./sv" or not details else ""
    return f"{len(details)} service{'' if len(details) == 1 else 's'}{where}{': ' if told else ''}{told}"


def print_table(context: Context, details: dict[str, dict[str, str]]) -> None:
    lines = lay_out(rows_of(details), Screen.of_stdout()) if details else []
    print("\n".join([*lines, summary(context, details)]))
    if not details:
        print_hint(f"ljsv new NAME --run COMMAND  # makes one in {context.shown}")


def print_fields(fields: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    """Tabs between the fields of a service, nothing else: for scripts. On a terminal in columns, with their names above."""
    cells = [[_cell(row[field]) for field in fields] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            print("\t".join(row))
        return
    print_columns([[field.upper() for field in fields], *cells])


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ",".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)
    return printable(text).replace("\t", " ") or "-"

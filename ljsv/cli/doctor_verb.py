"""`ljsv doctor`: tries each thing that ljsv needs of the machine, for real, and says what is missing, what of it, and what mends it.

`ok`: it works. `WARN`: something that not every service needs does not.
`FAIL`: no service can run; only then the exit code is 1. What is tried, is
tried in a throw-away child or taken away again: nothing stays. The checks are
in doctor_checks.py.
"""

from __future__ import annotations

import sys

from ljsv.cli.doctor_checks import CHECKS, Check
from ljsv.cli.options import Options, usage
from ljsv.cli.table import Screen
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault

OPTIONS = {"--json": ""}
OK, WARN, FAIL = "ok", "WARN", "FAIL"
COLOURS = {OK: "32", WARN: "33", FAIL: "31"}


def run(_verb: str, options: Options) -> int:
    if options.operands:
        raise usage("doctor takes no names: it looks at the machine", hint="ljsv lint NAME  # looks at a service directory")
    screen = Screen.of_stdout()
    findings: list[dict[str, str]] = []
    told: list[dict[str, str]] = []  # of one cause, to be told in one
    for check in CHECKS:
        finding = examine(check)
        findings.append(finding)
        if told and not _is_same(told[0], finding):
            _print(told, screen, is_shown=not options.has("--json"))
            told = []
        told.append(finding)
    _print(told, screen, is_shown=not options.has("--json"))
    levels = [finding["level"] for finding in findings]
    if options.has("--json"):
        import json

        print(json.dumps(findings, indent=2))
    else:
        print(_summary(levels.count(FAIL), levels.count(WARN)))
    return EXIT_NOT_REACHED if FAIL in levels else EXIT_OK


def examine(check: Check) -> dict[str, str]:
    """name, level, evidence; where it is not ok consequence and hint as well, else they are empty."""
    try:
        return {"name": check.name, "level": OK, "evidence": check.attempt(), "consequence": "", "hint": ""}
    except (OSError, Fault) as error:
        if isinstance(error, Fault):
            evidence, hint = str(error), error.hint
        else:
            evidence, hint = f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), ""
        level = WARN if check.is_advice else FAIL
        return {"name": check.name, "level": level, "evidence": evidence, "consequence": check.consequence, "hint": hint or check.hint}


def _is_same(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether they lack the same: what mends one mends the other, and nothing more is said of either."""
    return one["level"] == other["level"] != OK and one["hint"] == other["hint"] != ""


def _print(findings: list[dict[str, str]], screen: Screen, *, is_shown: bool) -> None:
    if not is_shown:
        return
    first = findings[0]
    also = [finding["name"] for finding in findings[1:]]
    print(f"{screen.paint(first['level'], COLOURS[first['level']])}{' ' * (6 - len(first['level']))}{first['name']}: {first['evidence']}")
    if also:
        print(f"      likewise: {', '.join(also)}")
    if first["consequence"]:
        print(f"      {first['consequence']}")
    if first["hint"]:
        print(f"      hint: {first['hint']}")
    sys.stdout.flush()


def _summary(failures: int, warnings: int) -> str:
    if failures:
        return f"{failures} missing without which no service runs; {warnings} more to know"
    return "all that ljsv needs is here" + (f"; {warnings} to know" if warnings else "")

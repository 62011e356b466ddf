"""`ljsv why`: how a service last ended, in words: when, after how long, of what, its last lines, and what comes next.

Told from `supervise/deaths`, a line of JSON a death, which the supervisor
keeps (the last 20); so it works with nothing running as well.
"""

from __future__ import annotations

import json
import sys
import time

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.show import age, next_try, one_line, pasteable, printable
from ljsv.errors import EXIT_OK, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = {"-n": "DEATHS", "--json": "", "--all": ""}
DEATHS_MAX_BYTES = 1 << 20
KEYS: dict[str, Any] = {
    "time": None, "script": "run", "run_time_s": 0.0, "code": None, "status": None, "end": "", "is_commanded": False,
    "was": "", "next": "", "stage": "", "fault": "", "reason": "", "hint": "", "log": [],
}
STAMP_SLACK_S = 0.1
FAILURE_LINES = 5
NEXT = {
    "backoff": "it was started again after a wait", "starting": "it was started again at once", "down": "it was down until it was started again",
    "failed": "it was not started again: failed", "finishing": "its finish script ran",
}
# What an end means that says little by itself. (end, whether it was told to end)
MEANINGS = {
    ("exit 127", False): "127 is how a shell says that it did not find a program",
    ("exit 126", False): "126 is how a shell says that it may not execute a program",
    ("SIGKILL", False): "nobody told it to: kill -9, or the kernel when memory was short",
    ("SIGSYS", False): "a system call that the filter does not let it make",
    ("SIGPIPE", False): "it wrote to something that nobody reads any more",
    ("SIGXFSZ", False): "a file grew larger than its limit",
}
HINTS = {
    "exit 127": "ljsv lint {name}", "exit 126": "ljsv lint {name}", "SIGSYS": 'seccomp = "off" in [security] of rootfs tells whether it is the filter',
    "SIGKILL": "dmesg | grep -i 'out of memory'",
}


def run(_verb: str, options: Options) -> int:
    count = int(options.number("-n", 1, low=1))
    context = Context(options.get("--svdir"), options)
    is_all = not options.operands
    names = context.all_names() if is_all else context.names()
    reports = {name: (context.detail(name), read_deaths(context, name)) for name in names}
    if is_all:
        reports = {name: report for name, report in reports.items() if report[1]}
    if options.has("--json"):
        found = [as_json(name, detail, deaths[:count]) for name, (detail, deaths) in reports.items()]
        print(json.dumps(found, indent=2))
    elif not reports and is_all:
        print(f"no service in {context.shown} has died", file=sys.stderr)
    else:
        for name, (detail, deaths) in reports.items():
            _print(name, detail, deaths, count)
    return EXIT_OK


def read_deaths(context: Context, name: str) -> list[dict[str, Any]]:
    """The deaths of a service, newest first, each with all of `KEYS`. A line that cannot be read is left out."""
    detail = context.detail(name)
    if not detail:  # never supervised, or `supervise` is another's
        return []
    try:
        with open(f"{context.supervise_of(name)}/deaths", "rb") as file:
            lines = file.read(DEATHS_MAX_BYTES).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    deaths = []
    for line in lines:
        try:
            death = json.loads(line)
        except ValueError:
            continue
        if isinstance(death, dict):
            deaths.append(KEYS | {key: death[key] for key in KEYS if key in death})
    return deaths[::-1] or _from_detail(detail)


def _from_detail(detail: dict[str, str]) -> list[dict[str, Any]]:
    """The little that `detail` says of the last end, where there is no record."""
    if "end_text" not in detail:
        return []
    code, status = [*detail.get("end", "").split(), "", ""][:2]
    numbers = {"code": int(code), "status": int(status)} if status else {}
    return [KEYS | {"end": detail["end_text"], "run_time_s": float(detail.get("run_time", 0)), **numbers}]


def as_json(name: str, detail: dict[str, str], deaths: list[dict[str, Any]]) -> dict[str, Any]:
    """`deaths` is newest first; `words` is what is printed of each."""
    told = [death | {"words": describe_end(death)} for death in deaths]
    return {"name": name, "state": detail.get("state"), "next": _describe_next(name, detail) or None, "not_deployed": detail.get("not_deployed"), "deaths": told}


def _print(name: str, detail: dict[str, str], deaths: list[dict[str, Any]], count: int) -> None:
    print(one_line(name, detail) if detail else f"{name}: nobody supervises it")
    if "not_deployed" in detail:
        print(f"  not deployed: {printable(detail['not_deployed'])}")
    if not deaths:
        print("  it has not died since its records began")
    for number, death in enumerate(deaths[:count]):
        _print_death(name, detail, death, is_last=number == 0)
    if len(deaths) > count:
        print(pasteable(f"  {len(deaths) - count} more before: ljsv why {quote(name)} -n {len(deaths)}"))
    if detail.get("state") == "failed" and "fault" in detail and detail["fault"] not in {death["fault"] for death in deaths[:count]}:
        print(f"  now: {detail['fault']}")
        if "hint" in detail:
            print(f"  hint: {pasteable(detail['hint'])}")


def _print_death(name: str, detail: dict[str, str], death: dict[str, Any], *, is_last: bool) -> None:
    when = ""
    if death["time"]:
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(death["time"]))
        when = f"{moment} ({age(time.time() - death['time'])} ago): "
    print(f"  {when}{describe_end(death)}")
    if death["stage"]:
        print(f"  stage: {death['stage']}")
    for line in _own_lines(death):
        print(f"  | {printable(str(line))}")
    following = _describe_next(name, detail) if is_last else NEXT.get(death["next"], death["next"])
    if following:
        print(f"  {'next' if is_last else 'then'}: {following}")
    is_unexplained = not death["is_commanded"] and not death["reason"]
    hint = death["hint"] or HINTS.get(death["end"] if is_unexplained else "", "").format(name=quote(name))
    if hint and is_last:
        print(f"  hint: {pasteable(hint)}")


def print_failure(context: Context, name: str) -> None:
    """On standard error the last lines of the run that has ended last, where that was since this command began."""
    for death in read_deaths(context, name)[:1]:
        if (death["time"] or 0) >= context.began_s:
            for line in _own_lines(death)[-FAILURE_LINES:]:
                print(f"  log: {printable(line)}", file=sys.stderr)


def _own_lines(death: dict[str, Any]) -> list[str]:
    """The lines that this very run wrote: those before its start are of the run before."""
    if not death["time"]:
        return [str(line) for line in death["log"]]
    began = death["time"] - death["run_time_s"] - STAMP_SLACK_S
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began)) + f"{began % 1:.6f}"[1:]
    lines = [str(line) for line in death["log"]]
    for number, line in enumerate(lines):
        is_stamped = line[4:5] == "-" and line[10:11] == "T" and line[26:28] == "Z "
        if not is_stamped or line[:26] >= stamp:
            return lines[number:]
    return []


def describe_end(death: dict[str, Any]) -> str:
    """`web ran for 3s and ended: exit 1`, in a line."""
    if death["fault"]:
        return f"it could not be started: {printable(death['fault'])}"
    script = "it" if death["script"] == "run" else death["script"]
    end = death["end"]
    how = "crashed with a core dump: " if "(core)" in end else "was killed by " if end.startswith(("SIG", "signal")) else "ended: "
    text = f"{script} {how}{end.removesuffix(' (core)')} after {_duration(death['run_time_s'])}"
    if death["was"] in {"starting", "up"}:
        text += ", before it was ready"
    if death["is_commanded"]:
        text += ", as it was told to"
    meaning = death["reason"] or _meaning_of(death)
    return f"{text} ({meaning})" if meaning else text


def _meaning_of(death: dict[str, Any]) -> str:
    if death["was"] == "stopping" and not death["is_commanded"] and death["end"].startswith(("SIGTERM", "SIGABRT")):
        return "it was not ready in time" if death["end"] == "SIGTERM" else "its watchdog had heard nothing from it"
    return MEANINGS.get((death["end"], bool(death["is_commanded"])), "")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds < 10 else age(seconds)


def _describe_next(name: str, detail: dict[str, str]) -> str:
    """What comes now, after the last death."""
    state = detail.get("state", "")
    if state == "backoff":
        failures = int(detail.get("failures", "0"))
        when = next_try(detail).removeprefix("next try in ") or "a moment"
        return f"it is started again in {when}" + (f", after {failures} short runs in a row" if failures > 1 else "")
    if state == "failed":
        return pasteable(f"it is not started again until a file changes, or: ljsv up {quote(name)}")
    if state == "down":
        if "waiting" in detail:
            return f"it starts when it has what it needs: {detail['waiting']}"
        return pasteable(f"it stays down; ljsv up {quote(name)} starts it")
    if state in {"starting", "up", "ready"} and "pid" in detail:
        return f"it runs again (pid {detail['pid']})"
    return "it is just ending" if state in {"stopping", "finishing"} else ""

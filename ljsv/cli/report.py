"""All about one service: a line in sv's shape, then jail, limits with what is used of them, readiness, needs, last deaths, log.

Only what is there is said; what is wrong comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.fields import notes_of
from ljsv.cli.show import age, age_of, next_try, one_line, pasteable, printable
from ljsv.cli.sizes import OverlaySizes, read_rss, size
from ljsv.errors import quote
from ljsv.jail.cgroup import NOT_ENFORCED, service_use, unenforced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.linux.cgroup import Use

DEATHS_SHOWN = 3
LOG_KEYS = frozenset({"log_state", "log_pid", "log_since", "log_want", "log_normally"})
LOG_LINES = 5
PRESSURE_TOLD = 1.0  # per cent of the last 10 s


def print_one(context: Context, name: str, detail: dict[str, str]) -> None:
    print(sv_line(name, detail))
    for key, value in lines_of(context, name, detail):
        print(f"  {key + ':' if key else '':12} {value}")
    from ljsv.supervise.logfile import last_lines

    for line in last_lines(detail.get("log", ""), LOG_LINES):
        print(f"  | {printable(line)}")


def lines_of(context: Context, name: str, detail: dict[str, str]) -> list[tuple[str, str]]:
    """(what, its value), in order; a "what" that is empty goes on with the one before."""
    lines = [("state", one_line(name, detail).partition(": ")[2])]
    lines += [(key, pasteable(detail[key]) if key == "hint" else detail[key]) for key in ("problem", "fault", "hint", "log_fault") if key in detail]
    lines += [("status", printable(detail["status_text"]))] if "status_text" in detail else []
    lines += [("next", next_try(detail))] if next_try(detail) else []
    lines += [("restarts", detail["restarts"])] if "restarts" in detail else []
    lines += _jail(detail)
    lines += [("image", f"{printable(detail['image'])} (generation {detail['image_generation']})")] if "image" in detail else []
    lines += [("deployment", printable(detail["deployment"]))] if "deployment" in detail else []
    lines += [("not kept", printable(detail["not_deployed"]))] if "not_deployed" in detail else []
    lines += _limits(detail)
    lines += [("ready by", detail["ready_by"])] if detail.get("ready_by", "start") != "start" else []
    lines += [("needs", detail["needs"])] if "needs" in detail else []
    lines += _deaths(context, name, detail)
    lines += [("changed", detail["changed"])] if "changed" in detail else []
    lines += [("note", note) for note in notes_of(detail) if not note.startswith(NOT_ENFORCED)]
    lines += [("directory", detail["directory"])] if "directory" in detail else []
    lines += [("supervisor", f"pid {detail['supervisor'].split()[0]}")] if detail.get("supervised") else []
    lines += [("log", detail["log"])] if "log" in detail else []
    return lines


def _jail(detail: dict[str, str]) -> list[tuple[str, str]]:
    if "jail" not in detail:
        return []
    text = printable(detail["jail"])
    if "overlay" not in detail:
        return [("jail", text)]
    written = OverlaySizes().of(detail)
    return [("jail", text), ("overlay", detail["overlay"] + (f", {size(written)}" if written is not None else ""))]


def _limits(detail: dict[str, str]) -> list[tuple[str, str]]:
    """What is used, and of what; what does not hold, with the reason."""
    use = service_use(detail) if "pid" in detail else None
    told: list[tuple[str, str]] = []
    if use:
        told = [("limits", ", ".join(describe_use(use)))]
        squeezed = [f"{p.resource} {p.some_10:.0f}%" for p in use.pressure if p.some_10 >= PRESSURE_TOLD]
        told += [("pressure", f"{', '.join(squeezed)} of the last 10 s spent waiting")] if squeezed else []
    else:
        resident = read_rss(detail)
        told = [("memory", f"{size(resident)} resident in pid {detail['pid']}; no cgroup of its own")] if resident is not None else []
    return told + [("not enforced", text) for text in unenforced(detail)]


def describe_use(use: Use) -> list[str]:
    """`memory 48.2M of 512M (peak 60M)`, `cpu 1.2s, at most 25%`, `pids 4 of 64`."""
    parts = []
    if use.memory is not None:
        peak = f" (peak {size(use.memory_peak)})" if use.memory_peak is not None else ""
        parts.append(f"memory {size(use.memory)}{_of(use.memory_max, size)}{peak}")
    if use.swap:
        parts.append(f"swap {size(use.swap)}{_of(use.swap_max, size)}")
    if use.oom_kills:
        parts.append(f"{use.oom_kills} killed for want of memory")
    if use.cpu_usec is not None:
        most = f", at most {use.cpu_max:g}%" if use.cpu_max is not None else ""
        held = f", held back {use.cpu_throttled} times" if use.cpu_throttled else ""
        parts.append(f"cpu {use.cpu_usec / 1e6:.1f}s{most}{held}")
    if use.pids is not None:
        refused = f", {use.pids_refused} refused" if use.pids_refused else ""
        parts.append(f"pids {use.pids}{_of(use.pids_max, str)}{refused}")
    return parts


def _of(limit: int | None, show: Callable[[int], str]) -> str:
    return "" if limit is None else f" of {show(limit)}"


def _deaths(context: Context, name: str, detail: dict[str, str]) -> list[tuple[str, str]]:
    """The last ones, newest first, each in a line."""
    from ljsv.cli.why_verb import describe_end, read_deaths

    deaths = read_deaths(context, name)
    lines: list[tuple[str, str]] = []
    for death in deaths[:DEATHS_SHOWN]:
        ago = f"{age(time.time() - death['time'])} ago: " if death["time"] else ""
        lines.append(("" if lines else "last deaths" if len(deaths) > 1 else "last death", f"{ago}{printable(describe_end(death))}"))
    if lines:
        lines[0] = (lines[0][0], f"{lines[0][1]}  # {pasteable(f'ljsv why {quote(name)}')}")
    return lines


def sv_line(name: str, detail: dict[str, str]) -> str:
    """As `sv status` prints it."""
    line = _sv_part(name, detail)
    if "log_state" in detail:
        log = {key.removeprefix("log_"): value for key, value in detail.items() if key in LOG_KEYS}
        line += f"; {_sv_part('log', log)}"
    return line


def _sv_part(name: str, detail: dict[str, str]) -> str:
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

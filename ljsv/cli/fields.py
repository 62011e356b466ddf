"""The fields of a service, as `ljsv status --json` and `-o` give them: always all of them, and always by these names.

What does not apply is null. `FIELD_DOCS` is the schema: the reference in
docs/commands.md and ljsv(1) are made from it, and a test holds values and
types against it. Read on the way of `ljsv status --json` and `-o` only.
"""

from __future__ import annotations

from ljsv import status
from ljsv.cli.show import age_of, boot_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.linux.cgroup import Use

TEXT, NUMBER, SECONDS, BYTES, FLAG, LIST = "text", "number", "seconds", "bytes", "true or false", "list of texts"

# name: (what it is, its meaning); null where it does not apply, but for flags and lists.
FIELD_DOCS: dict[str, tuple[str, str]] = {
    "name": (TEXT, "the service"),
    "state": (TEXT, "down, starting, up, ready, stopping, finishing, backoff, failed; unsupervised where nobody supervises it"),
    "want": (TEXT, "what it was told to be: up, down or once"),
    "ready": (FLAG, "whether its state is ready"),
    "ready_by": (TEXT, "what makes it ready: start, fd, notify or check"),
    "ready_after_s": (SECONDS, "how long it took from its start to be ready"),
    "supervised": (FLAG, "whether its supervisor lives"),
    "paused": (FLAG, "stopped by ljsv pause"),
    "term_sent": (FLAG, "it was asked to end, and has not yet"),
    "privileged": (FLAG, 'user_namespace = "host": its root is the machine\'s'),
    "normally": (TEXT, "whether it starts by itself: down where there is a down file, else up"),
    "pid": (NUMBER, "the service's process, in the host's pid namespace"),
    "supervisor_pid": (NUMBER, "its supervisor's"),
    "log_pid": (NUMBER, "its log service's"),
    "log_state": (TEXT, "its log service's state"),
    "since_s": (SECONDS, "since the last start, or since it is down"),
    "restarts": (NUMBER, "automatic starts"),
    "failures": (NUMBER, "runs in a row that were not stable"),
    "next_try_s": (SECONDS, "until the next try, in backoff"),
    "result": (TEXT, "done, failed or stopped where it is not started again"),
    "end_text": (TEXT, "how the last run ended, in words"),
    "end_code": (NUMBER, "the same as ./finish gets it: the exit code, -1 where a signal ended it"),
    "end_status": (NUMBER, "the same: the signal, 0 where none ended it"),
    "run_time": (SECONDS, "how long the last run took"),
    "why": (TEXT, "the last death, in a line"),
    "needs": (LIST, "the services that it needs"),
    "waiting": (LIST, "those of them that it waits for now"),
    "status_text": (TEXT, "what it says of itself (sd_notify), or what its check said"),
    "jail": (TEXT, "what its jail is made of"),
    "image": (TEXT, "the image that was deployed and is in effect"),
    "image_generation": (NUMBER, "the number of its generation"),
    "deployment": (TEXT, "a deployment under way: its phase and image"),
    "not_deployed": (TEXT, "the last deployment, where it was not kept: its image, and why"),
    "overlay_bytes": (BYTES, "what it has written on its overlay; null also where that is too much to be counted"),
    "memory_bytes": (BYTES, "memory in use, as its cgroup counts it"),
    "memory_peak_bytes": (BYTES, "the most memory that its cgroup has had in use"),
    "memory_max_bytes": (BYTES, "its limit; null where none is enforced"),
    "swap_bytes": (BYTES, "swap in use"),
    "rss_bytes": (BYTES, "resident memory of the service's process alone"),
    "cpu_s": (SECONDS, "processor time since its start"),
    "cpu_max_percent": (NUMBER, "its limit, 100 is one processor; null where none is enforced"),
    "pids": (NUMBER, "processes and threads"),
    "pids_max": (NUMBER, "its limit; null where none is enforced"),
    "oom_kills": (NUMBER, "processes that the kernel has killed at the memory limit"),
    "not_enforced": (LIST, "limits that do not hold, each with the reason"),
    "directory": (TEXT, "the service directory"),
    "log": (TEXT, "its log file"),
    "fault": (TEXT, "what is wrong with its files"),
    "hint": (TEXT, "what helps"),
    "problem": (TEXT, "why nobody supervises it"),
    "changed": (TEXT, "files that were changed since its start"),
    "log_fault": (TEXT, "why its log cannot be written, or is not read by its log service"),
    "notes": (LIST, "what to know about it"),
}
FIELDS = tuple(FIELD_DOCS)

# Those that are lines of `detail` by the same name.
_SAME_TEXTS = (
    "state", "want", "result", "end_text", "why", "fault", "hint", "problem", "changed", "log_fault", "status_text", "ready_by",
    "normally", "jail", "directory", "log", "log_state", "image", "deployment", "not_deployed",
)
_SAME_NUMBERS = ("pid", "log_pid", "restarts", "failures", "image_generation")
_SAME_FLAGS = ("supervised", "paused", "term_sent", "privileged")
USE_FIELDS = frozenset(
    ("memory_bytes", "memory_peak_bytes", "memory_max_bytes", "swap_bytes", "cpu_s", "cpu_max_percent", "pids", "pids_max", "oom_kills")
)


def notes_of(detail: dict[str, str]) -> list[str]:
    """In the order in which they were made."""
    keys = (key for key in detail if key.startswith("note"))
    return [detail[key] for key in sorted(keys, key=lambda key: (len(key), key))]


def read_fields(name: str, detail: dict[str, str], fields: tuple[str, ...] = ()) -> dict[str, object]:
    """The fields of one service by name, all or those that were asked for, in that order. Only what is asked for is looked up."""
    wanted = fields or FIELDS
    end_code, end_status = [*detail.get("end", "").split(), None, None][:2]
    supervisor = detail.get("supervisor", "-").split()[0] if "supervised" in detail else "-"
    found: dict[str, object] = {"name": name} | {key: detail.get(key) for key in _SAME_TEXTS}
    found |= {key: int(detail[key]) if key in detail else None for key in _SAME_NUMBERS} | {key: key in detail for key in _SAME_FLAGS}
    is_backoff = detail["state"] == status.BACKOFF and "deadline" in detail
    found |= {
        "ready": detail["state"] == status.READY,
        "since_s": round(age_of(detail), 3) if "since" in detail else None,
        "ready_after_s": float(detail["ready_after"]) if "ready_after" in detail else None,
        "run_time": float(detail["run_time"]) if "run_time" in detail else None,
        "next_try_s": round(max(float(detail["deadline"]) - boot_now(), 0.0), 3) if is_backoff else None,
        "end_code": int(end_code) if end_code else None,
        "end_status": int(end_status) if end_status else None,
        "needs": detail.get("needs", "").split(),
        "waiting": detail.get("waiting", "").replace(",", " ").split(),
        "supervisor_pid": int(supervisor) if supervisor.isdigit() else None,
        "notes": notes_of(detail),
    }
    if "overlay_bytes" in wanted:
        from ljsv.cli.sizes import OverlaySizes

        found["overlay_bytes"] = OverlaySizes().of(detail)
    if "rss_bytes" in wanted:
        from ljsv.cli.sizes import read_rss

        found["rss_bytes"] = read_rss(detail)
    if not USE_FIELDS.isdisjoint(wanted):
        from ljsv.jail.cgroup import service_use

        found |= _use_fields(service_use(detail) if "pid" in detail else None)
    if "not_enforced" in wanted:
        from ljsv.jail.cgroup import unenforced

        found["not_enforced"] = list(unenforced(detail))
    return {key: found[key] for key in wanted}


def _use_fields(use: Use | None) -> dict[str, object]:
    if use is None:
        return dict.fromkeys(USE_FIELDS)
    return {
        "memory_bytes": use.memory,
        "memory_peak_bytes": use.memory_peak,
        "memory_max_bytes": use.memory_max,
        "swap_bytes": use.swap,
        "cpu_s": None if use.cpu_usec is None else use.cpu_usec / 1e6,
        "cpu_max_percent": use.cpu_max,
        "pids": use.pids,
        "pids_max": use.pids_max,
        "oom_kills": use.oom_kills,
    }

"""`ljsv metrics`: what Prometheus wants to know, in its text format (exposition format 0.0.4), from files alone.

Nothing listens: `--to FILE` writes it where node_exporter's textfile
collector looks, `ljsv metrics` in a cron job or behind any HTTP server does
as well. A sample that does not apply is left out, never 0.
"""

from __future__ import annotations

import os

from ljsv import __version__, status
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.sizes import read_rss
from ljsv.cli.status_verb import read
from ljsv.cli.table import UNSUPERVISED
from ljsv.errors import EXIT_OK, Fault, quote
from ljsv.jail.cgroup import service_use

OPTIONS = {"--all": "", "--to": "FILE"}
STATES = (*status.STATES, UNSUPERVISED)

# name: (kind, meaning); all but the first two have the label `service`.
FAMILIES = {
    "ljsv_info": ("gauge", "Always 1; the version is a label."),
    "ljsv_scanner_running": ("gauge", "Whether a scanner runs on the scan directory."),
    "ljsv_service_state": ("gauge", "1 for the state that the service is in, 0 for the others."),
    "ljsv_service_state_seconds": ("gauge", "Seconds since the last start, or since it is down."),
    "ljsv_service_pid": ("gauge", "The service's process."),
    "ljsv_service_restarts_total": ("counter", "Automatic starts since its supervisor was first started."),
    "ljsv_service_unstable_runs": ("gauge", "Runs in a row that were not stable."),
    "ljsv_service_ready_after_seconds": ("gauge", "How long it took from its start to be ready."),
    "ljsv_service_last_exit_code": ("gauge", "Exit code of the last run that ended, -1 where a signal ended it."),
    "ljsv_service_last_run_seconds": ("gauge", "How long the last run took that ended."),
    "ljsv_service_next_try_seconds": ("gauge", "Seconds until the next try, in backoff."),
    "ljsv_service_resident_bytes": ("gauge", "Resident memory of the service's process alone."),
    "ljsv_service_memory_bytes": ("gauge", "Memory in use, as its cgroup counts it."),
    "ljsv_service_memory_peak_bytes": ("gauge", "The most memory that its cgroup has had in use."),
    "ljsv_service_memory_limit_bytes": ("gauge", "Its memory limit."),
    "ljsv_service_swap_bytes": ("gauge", "Swap in use."),
    "ljsv_service_oom_kills_total": ("counter", "Processes that were killed at the memory limit."),
    "ljsv_service_cpu_seconds_total": ("counter", "Processor time."),
    "ljsv_service_cpu_throttled_seconds_total": ("counter", "Time for which it was held back at its processor limit."),
    "ljsv_service_processes": ("gauge", "Processes and threads."),
    "ljsv_service_processes_limit": ("gauge", "The most of them that it may have."),
    "ljsv_service_io_read_bytes_total": ("counter", "Bytes read from disks."),
    "ljsv_service_io_written_bytes_total": ("counter", "Bytes written to disks."),
}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    names = context.names() if options.operands else context.all_names()
    problems = context.problems()
    samples = {"ljsv_info": [_sample("ljsv_info", {"version": __version__}, 1)]}
    samples["ljsv_scanner_running"] = [_sample("ljsv_scanner_running", {}, int(context.has_scanner()))]
    for name in names:
        detail = read(context, name, problems)
        samples.setdefault("ljsv_service_state", []).extend(
            _sample("ljsv_service_state", {"service": name, "state": state}, int(state == detail["state"])) for state in STATES
        )
        for family, value in values_of(detail).items():
            if value is not None:
                samples.setdefault(family, []).append(_sample(family, {"service": name}, value))
    text = "".join(_family(name, samples[name]) for name in FAMILIES if name in samples)
    if options.has("--to"):
        _write(options.get("--to"), text)
    else:
        print(text, end="")
    return EXIT_OK


def values_of(detail: dict[str, str]) -> dict[str, float | None]:
    """A service's numbers by the names of their families; None for what does not apply."""
    from ljsv.cli.show import age_of, boot_now

    def number(key: str) -> float | None:
        return float(detail[key]) if key in detail else None

    is_backoff = detail["state"] == status.BACKOFF and "deadline" in detail
    values: dict[str, float | None] = {
        "ljsv_service_state_seconds": round(age_of(detail), 3) if "since" in detail else None,
        "ljsv_service_pid": number("pid"),
        "ljsv_service_restarts_total": number("restarts"),
        "ljsv_service_unstable_runs": float(detail.get("failures", "0")) if "restarts" in detail else None,
        "ljsv_service_ready_after_seconds": number("ready_after"),
        "ljsv_service_last_exit_code": float(detail["end"].split()[0]) if "end" in detail else None,
        "ljsv_service_last_run_seconds": number("run_time"),
        "ljsv_service_next_try_seconds": round(max(float(detail["deadline"]) - boot_now(), 0.0), 3) if is_backoff else None,
        "ljsv_service_resident_bytes": read_rss(detail),
    }
    use = service_use(detail) if "pid" in detail else None
    if use:
        values |= {
            "ljsv_service_memory_bytes": use.memory,
            "ljsv_service_memory_peak_bytes": use.memory_peak,
            "ljsv_service_memory_limit_bytes": use.memory_max,
            "ljsv_service_swap_bytes": use.swap,
            "ljsv_service_oom_kills_total": use.oom_kills,
            "ljsv_service_cpu_seconds_total": None if use.cpu_usec is None else use.cpu_usec / 1e6,
            "ljsv_service_cpu_throttled_seconds_total": None if use.cpu_throttled_usec is None else use.cpu_throttled_usec / 1e6,
            "ljsv_service_processes": use.pids,
            "ljsv_service_processes_limit": use.pids_max,
            "ljsv_service_io_read_bytes_total": use.io_read,
            "ljsv_service_io_written_bytes_total": use.io_written,
        }
    return values


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value:.17g}\n" if shown else f"{name} {value:.17g}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, samples: list[str]) -> str:
    kind, meaning = FAMILIES[name]
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n" + "".join(samples)


def _write(path: str, text: str) -> None:
    """By rename: who reads it sees the old or the new. Others may write in that directory, so the name is one that they cannot know."""
    temporary = f"{path}.{os.urandom(8).hex()}.new"
    is_made = False
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "w") as file:
            is_made = True
            file.write(text)
        os.rename(temporary, path)
    except OSError as error:
        if is_made:
            os.unlink(temporary)
        raise Fault.from_os("cannot write the metrics", error, path, hint=f"ls -ld {quote(os.path.dirname(path) or '.')}") from None

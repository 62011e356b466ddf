"""Control groups, version 2: where they are, their files, and what a group uses.

One thin function for each thing that the kernel's files offer; `OSError` names
the file. Nothing here decides anything, and nothing heavy is imported:
`ljsv status` reads the use of a thousand groups. Sources: cgroups(7),
Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os

from ljsv.frozen import Frozen
from ljsv.linux.mountinfo import unescape

CONTROLLERS = ("memory", "cpu", "pids", "io", "cpuset")
RESOURCES = ("memory", "cpu", "io")  # those that have a pressure
MAX = "max"
FILE_MAX = 1 << 16


class Hierarchy(Frozen):
    """A place where cgroup v2 is mounted: `root` is the cgroup that is seen at `at`."""

    root: str
    at: str


class Pressure(Frozen):
    """Share of the time, in per cent, in which some of the group's processes waited for a resource, and in which all did (PSI)."""

    resource: str
    some_10: float
    some_60: float
    full_10: float
    full_60: float


class Use(Frozen):
    """What a group uses, and may use; None where the kernel does not count it, or there is no limit.

    Sizes in bytes, times in microseconds. `cpu_max` is a share of one
    processor in per cent. `oom_kills`: processes that were killed because
    `memory_max` was reached; `memory_high_hits`: how often it was throttled
    above `memory_high`. `pressure` has an entry for each resource that the
    kernel keeps it for.
    """

    memory: int | None = None
    memory_max: int | None = None
    memory_high: int | None = None
    memory_peak: int | None = None
    memory_high_hits: int | None = None
    oom_kills: int | None = None
    swap: int | None = None
    swap_max: int | None = None
    cpu_usec: int | None = None
    cpu_max: float | None = None
    cpu_periods: int | None = None
    cpu_throttled: int | None = None
    cpu_throttled_usec: int | None = None
    pids: int | None = None
    pids_max: int | None = None
    pids_refused: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    is_frozen: bool = False
    pressure: tuple[Pressure, ...] = ()


# ---- where


def find_hierarchies(mountinfo: str) -> tuple[Hierarchy, ...]:
    """The cgroup2 mounts in the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.split("\n"):
        fields, _, kind = line.partition(" - ")
        words = fields.split(" ")
        if kind.startswith("cgroup2 ") and len(words) > 4:
            found.append(Hierarchy(unescape(words[3]), unescape(words[4])))
    return tuple(found)


def find_group(text: str) -> str:
    """The path of the cgroup v2 group in the text of /proc/PID/cgroup, seen from the cgroup namespace's root; "" for none."""
    return next((line[3:].removesuffix(" (deleted)") for line in text.splitlines() if line.startswith("0::")), "")


def place_of(group: str, hierarchies: tuple[Hierarchy, ...]) -> str:
    """The directory of that group where it is mounted; "" where none of the mounts shows it."""
    for mount in hierarchies:
        root = mount.root.rstrip("/")
        if group == root or group.startswith(f"{root}/"):
            return f"{mount.at.rstrip('/')}{group[len(root) :]}".rstrip("/") or "/"
    return ""


# ---- the files of a group


def read_file(group: str, name: str) -> str:
    """The text of one of its files. OSError."""
    fd = os.open(f"{group}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, FILE_MAX).decode(errors="replace")
    finally:
        os.close(fd)


def write_file(group: str, name: str, value: str) -> None:
    """Write a value, in one call. OSError with the file's path, also for what the kernel refuses."""
    path = f"{group}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def has_file(group: str, name: str) -> bool:
    return os.path.exists(f"{group}/{name}")


def read_number(group: str, name: str) -> int | None:
    """The number in a file; None for "max", for a file that is not there, and for a group that is gone."""
    try:
        text = read_file(group, name).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def read_pairs(group: str, name: str) -> dict[str, int]:
    """A file of lines `key number`; empty where there is none."""
    try:
        lines = read_file(group, name).splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2 and words[1].isdigit()}


def read_words(group: str, name: str) -> tuple[str, ...]:
    """A file of words; empty where there is none."""
    try:
        return tuple(read_file(group, name).split())
    except OSError:
        return ()


def is_populated(group: str) -> bool:
    """Whether a process is in it or below it; False where it is gone."""
    return read_pairs(group, "cgroup.events").get("populated") == 1


# ---- what it uses


def read_pressure(group: str) -> tuple[Pressure, ...]:
    """PSI of the group; empty where the kernel keeps none (CONFIG_PSI, psi=1)."""
    found = []
    for resource in RESOURCES:
        try:
            lines = read_file(group, f"{resource}.pressure").splitlines()
        except OSError:
            continue
        values = {"some avg10": 0.0, "some avg60": 0.0, "full avg10": 0.0, "full avg60": 0.0}
        for line in lines:
            kind, *pairs = line.split()
            for pair in pairs:
                key, _, number = pair.partition("=")
                if f"{kind} {key}" in values:
                    values[f"{kind} {key}"] = float(number)
        found.append(Pressure(resource, *values.values()))
    return tuple(found)


def read_cpu_max(group: str) -> float | None:
    """Per cent of one processor; None for no limit."""
    words = read_words(group, "cpu.max")
    return 100.0 * int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def read_use(group: str) -> Use | None:
    """What the group in that directory uses now; None where it is gone."""
    if not group or not has_file(group, "cgroup.events"):
        return None
    number = {name: read_number(group, name) for name in (
        "memory.current", "memory.max", "memory.high", "memory.peak", "memory.swap.current", "memory.swap.max", "pids.current", "pids.max",
    )}
    memory, cpu, pids = read_pairs(group, "memory.events"), read_pairs(group, "cpu.stat"), read_pairs(group, "pids.events")
    io_read, io_written = _read_io(group)
    return Use(
        memory=number["memory.current"],
        memory_max=number["memory.max"],
        memory_high=number["memory.high"],
        memory_peak=number["memory.peak"],
        memory_high_hits=memory.get("high"),
        oom_kills=memory.get("oom_kill"),
        swap=number["memory.swap.current"],
        swap_max=number["memory.swap.max"],
        cpu_usec=cpu.get("usage_usec"),
        cpu_max=read_cpu_max(group),
        cpu_periods=cpu.get("nr_periods"),
        cpu_throttled=cpu.get("nr_throttled"),
        cpu_throttled_usec=cpu.get("throttled_usec"),
        pids=number["pids.current"],
        pids_max=number["pids.max"],
        pids_refused=pids.get("max"),
        io_read=io_read,
        io_written=io_written,
        is_frozen=read_pairs(group, "cgroup.events").get("frozen") == 1,
        pressure=read_pressure(group),
    )


def _read_io(group: str) -> tuple[int | None, int | None]:
    """Bytes read and written, over all devices."""
    try:
        text = read_file(group, "io.stat")
    except OSError:
        return None, None
    pairs = [word.partition("=") for word in text.split()]
    sums = {key: sum(int(number) for name, _, number in pairs if name == key) for key in ("rbytes", "wbytes")}
    return sums["rbytes"], sums["wbytes"]

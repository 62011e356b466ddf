"""What `limits` asks for, as values of a control group's files; and writing them.

`settings_of` is pure but for looking up the devices that `io` names. A value
that cannot be had never stops a jail from starting: `write_settings` and
`change_settings` say what does not hold, and why. Source:
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os

from ljsv.frozen import Frozen
from ljsv.jail.group import Tree
from ljsv.linux import cgroup
from ljsv.linux.cgroup import MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ljsv.service.schema import Limits

PERIOD_USEC = 100_000
PERIOD_MAX_USEC = 1_000_000
QUOTA_MIN_USEC = 1_000  # the kernel's
IO_KEYS = (("read", "rbps"), ("write", "wbps"), ("read_ops", "riops"), ("write_ops", "wiops"))


class Setting(Frozen):
    """One value: `key` of `limits`, the controller's name, the file and what is written there; `off` is what means no limit."""

    key: str
    controller: str
    file: str
    value: str
    off: str = MAX

    def describe(self) -> str:
        return f"{self.file}={self.value}"


def settings_of(limits: Limits) -> tuple[Setting, ...]:
    """In the order in which they are written."""
    found = [
        size_setting("memory", "memory", "memory.max", limits.memory),
        size_setting("memory_high", "memory", "memory.high", limits.memory_high),
        size_setting("swap", "memory", "memory.swap.max", limits.swap),
        cpu_setting(limits.cpu),
        number_setting("cpu_weight", "cpu", "cpu.weight", limits.cpu_weight, "100"),
        number_setting("pids", "pids", "pids.max", limits.pids, MAX),
        Setting("cpus", "cpuset", "cpuset.cpus", limits.cpus, "") if limits.cpus else None,
        number_setting("io_weight", "io", "io.weight", limits.io_weight, "100"),
        *[_io_setting(io.path, [(name, getattr(io, key)) for key, name in IO_KEYS]) for io in limits.io],
    ]
    wanted = [setting for setting in found if setting]
    if limits.oom == "all" and any(setting.file == "memory.max" for setting in wanted):
        wanted.append(Setting("oom", "memory", "memory.oom.group", "1", "0"))
    return tuple(wanted)


def size_setting(key: str, controller: str, file: str, size: int | None) -> Setting | None:
    return Setting(key, controller, file, str(size)) if size is not None else None


def number_setting(key: str, controller: str, file: str, number: int | None, off: str) -> Setting | None:
    return Setting(key, controller, file, str(number), off) if number is not None else None


def cpu_setting(percent: float | None) -> Setting | None:
    """Quota and period; the period is longer where the quota would be less than the kernel takes."""
    if percent is None:
        return None
    period = PERIOD_USEC if percent * PERIOD_USEC / 100 >= QUOTA_MIN_USEC else PERIOD_MAX_USEC
    quota = max(round(percent * period / 100), QUOTA_MIN_USEC)
    return Setting("cpu", "cpu", "cpu.max", f"{quota} {period}", f"max {PERIOD_USEC}")


def _io_setting(path: str, wanted: list[tuple[str, int | None]]) -> Setting:
    device = find_disk(path)
    values = " ".join(f"{name}={MAX if number is None else number}" for name, number in wanted)
    return Setting(f"io {path}", "io", "io.max", f"{device} {values}", f"{device} " + " ".join(f"{name}={MAX}" for name, _ in wanted))


def find_disk(path: str) -> str:
    """MAJOR:MINOR of the disk that a device is, or that holds a file; "none" where there is none (the kernel then refuses it)."""
    try:
        entry = os.stat(path)
    except OSError:
        return "none"
    number = entry.st_rdev if entry.st_mode & 0o170000 == 0o060000 else entry.st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    try:
        with open(f"/sys/dev/block/{device}/partition"), open(f"/sys/dev/block/{device}/../dev") as file:
            return file.read().strip()  # of a partition: limits are the whole disk's
    except OSError:
        return device


# ---- writing


def write_settings(tree: Tree, group: str, settings: Iterable[Setting]) -> tuple[tuple[str, str, str], ...]:
    """Into a new group; (key, cause, hint) of each that does not hold."""
    lost = []
    for setting in settings:
        why = why_not(tree, group, setting)
        if not why:
            try:
                cgroup.write_file(group, setting.file, setting.value)
            except OSError as error:
                why = (explain_refusal(setting, error), "")
        if why:
            lost.append((setting.key, *why))
    return tuple(lost)


def why_not(tree: Tree, group: str, setting: Setting) -> tuple[str, str] | None:
    """(cause, hint) where the group has no such file."""
    missing = tree.why_missing(setting.controller)
    if missing:
        return missing.cause, missing.hint
    if not cgroup.has_file(group, setting.file):
        return f"this kernel has no {setting.file}", ""
    return None


def explain_refusal(setting: Setting, error: OSError) -> str:
    if setting.file == "io.max" and error.errno in {errno.ENODEV, errno.EINVAL}:
        return f"no disk whose input and output can be limited: {setting.key.removeprefix('io ')}"
    return f"the kernel refuses {setting.describe()}: {error.strerror}"


def change_setting(group: str, setting: Setting) -> None:
    """In a running group. OSError where it is refused: the old value stays.

    memory.max below what is used would have the kernel kill the service:
    what can be given back is taken first, and if that is not enough it is
    refused with EBUSY.
    """
    if setting.file == "memory.max" and setting.value != MAX:
        _make_room(group, int(setting.value))
    cgroup.write_file(group, setting.file, setting.value)


def _make_room(group: str, size: int) -> None:
    used = cgroup.read_number(group, "memory.current") or 0
    if used <= size:
        return
    if cgroup.has_file(group, "memory.reclaim"):  # since Linux 5.19
        try:
            cgroup.write_file(group, "memory.reclaim", str(used - size))
        except OSError:
            pass  # EAGAIN: less than that could be taken
        used = cgroup.read_number(group, "memory.current") or 0
    else:
        stat = cgroup.read_pairs(group, "memory.stat")
        used -= stat.get("inactive_file", 0) + stat.get("active_file", 0)
    if used > size:
        raise OSError(errno.EBUSY, f"it uses {used >> 20}M that cannot be taken from it; a restart applies the new value", f"{group}/memory.max")


def differences(old: tuple[Setting, ...], new: tuple[Setting, ...]) -> tuple[Setting, ...]:
    """What has to be written to come from the old settings to the new ones."""
    kept = {(setting.key, setting.file): setting for setting in new}
    gone = [setting.replace(value=setting.off) for setting in old if (setting.key, setting.file) not in kept]
    return (*gone, *[setting for setting in new if setting not in old])

"""The control group of one `ljexec`: made when --mem, --cpu or --pids ask for it, gone with the program."""

from __future__ import annotations

import os
from time import monotonic, sleep

from ljsv.jail import group, limits
from ljsv.jail.cgroup import NOT_ENFORCED, survey
from ljsv.jail.limits import Setting
from ljsv.linux import cgroup

VARIABLES = ("LJEXEC_CGROOT", "LJSV_CGROOT")
OPTIONS = {"memory": "--mem", "oom": "--mem", "cpu": "--cpu", "pids": "--pids"}
EMPTY_WAIT_S = 2.0


def settings_by_hand(megabytes: float | None, percent: float | None, pids: float | None) -> tuple[Setting, ...]:
    """What ljexec's options ask for; None for what was not given."""
    found = [
        limits.size_setting("memory", "memory", "memory.max", int(megabytes) << 20 if megabytes else None),
        limits.cpu_setting(percent),
        limits.number_setting("pids", "pids", "pids.max", int(pids) if pids else None, cgroup.MAX),
        Setting("oom", "memory", "memory.oom.group", "1", "0") if megabytes else None,
    ]
    return tuple(setting for setting in found if setting)


class OwnGroup:
    """`fd` is for clone3 (-1: there is no group); `notes` say what does not hold, and why."""

    def __init__(self, settings: tuple[Setting, ...]) -> None:
        variable = next((name for name in VARIABLES if os.environ.get(name)), VARIABLES[0])
        found = survey(os.environ.get(variable, ""), variable=variable)
        group.sweep_by_hand(found.root)
        self.fd = -1
        self.path = ""
        self.tree = group.prepare(found, f"{group.HAND_PREFIX}{os.getpid()}")
        lost: dict[tuple[str, str], dict[str, None]] = {}
        if self.tree.path:
            try:
                self.path = group.make_group(self.tree, group.BY_HAND)
                for key, cause, hint in limits.write_settings(self.tree, self.path, settings):
                    lost.setdefault((cause, hint), {})[OPTIONS[key]] = None
                self.fd = group.open_group(self.path)
            except OSError as error:
                lost = {(f"{error.filename or self.tree.path}: {error.strerror}", "ljsv doctor"): dict.fromkeys(OPTIONS[one.key] for one in settings)}
        else:
            for setting in settings:
                missing = self.tree.why_missing(setting.controller)
                why = (missing.cause, missing.hint) if missing else ("there are no control groups", "ljsv doctor")
                lost.setdefault(why, {})[OPTIONS[setting.key]] = None
        self.notes = [
            f"{NOT_ENFORCED}{', '.join(names)} ({cause})" + (f"\n  hint: {hint}" if hint else "") for (cause, hint), names in lost.items()
        ]

    def end(self) -> str:
        """Nothing is left in it, and it is gone; why the program was killed, where memory was the reason."""
        if self.fd >= 0:
            os.close(self.fd)
        reason = ""
        if self.path:
            if cgroup.read_pairs(self.path, "memory.events").get("oom_kill"):
                most = cgroup.read_number(self.path, "memory.max")
                reason = "out of memory" + (f": it used all of --mem {most >> 20}" if most else "")
            group.kill_group(self.path)
            give_up_at = monotonic() + EMPTY_WAIT_S
            while not group.remove_group(self.path) and monotonic() < give_up_at:
                sleep(0.005)
        group.dissolve(self.tree)
        return reason

"""The way in: `ljsv init`, and the same by the name `init` or `ljsv-init`."""

from __future__ import annotations

import os

from ljsv.init.settings import read_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(words: Sequence[str]) -> None:
    """Of the process with pid 1, which it stays: it does not return."""
    from ljsv.init.pid1 import Init

    Init(read_settings(words)).run()


def explain(words: Sequence[str]) -> list[str]:
    """What PID 1 would do on this machine, a line a step; nothing is changed."""
    from ljsv.init.mounts import plan_mounts, read_mount_points

    settings = read_settings([word for word in words if word != "--explain"])
    lines = [one.describe() for one in plan_mounts(read_mount_points(), os.path.exists)]
    lines += ["make /dev/fd, /dev/stdin, /dev/stdout, /dev/stderr where missing; ip link set lo up; hostname from /etc/hostname"]
    if settings.watchdog:
        lines.append(f"feed {settings.watchdog}, timeout {settings.watchdog_timeout_s} s")
    if settings.is_rescue:
        lines.append(f"a shell on {settings.console}; go on when it ends")
    lines += [
        f"run {settings.boot}, where it is executable",
        f"run the scanner on {settings.svdir}, again whenever it ends; reap; wait for a request",
        f"stop all services, at most {settings.deadline_s:g} s",
        f"run {settings.shutdown} REQUEST, where it is executable; TERM and KILL to what is left",
        "sync, swap off, unmount or mount read-only (not in a container), reboot(2)",
    ]
    return lines + [f"ignore {word}" for word in settings.ignored]

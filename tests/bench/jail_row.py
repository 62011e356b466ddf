"""A jail from a warm process: gather facts, build, go, exec `true`, reap. Beside bwrap with the same mounts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from select import POLLIN, poll

from side_by_side import Bench, Figure, bwrap_arguments, median, run_process, spread, take_turns, time_ms

from ljsv.jail import launch
from ljsv.jail.ids import take_ids
from ljsv.jail.spec import DIRECTORY, HOST, JailSpec

BUDGET = 0.7
SAMPLES = 150


def measure(bench: Bench) -> list[Figure]:
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    root = make_small_root(bench.new_folder("root"))
    figures = []
    for row, base in (("jail host", ""), ("jail directory", root)):
        spec = JailSpec(name="jail", base_kind=DIRECTORY if base else HOST, base_path=base or "/", argv=("/bin/true",))
        argv = [*bwrap_arguments(root=base), "--", "/bin/true"]
        ours, theirs = take_turns(
            bench.count(SAMPLES), lambda spec=spec: time_ms(lambda: run_jail(spec, null_fd)), lambda argv=argv: run_process(argv)
        )
        figures.append(
            Figure(row=row, reference_name="bwrap", unit="ms", ours=median(ours), reference=median(theirs), budget=BUDGET, note=spread(ours))
        )
    os.close(null_fd)
    return figures


def run_jail(spec: JailSpec, null_fd: int) -> None:
    """As a supervisor does it, without the record. RuntimeError where the program did not run."""
    ids, slot_fd = take_ids(spec.name)
    jail = launch.begin(spec, ids, launch.Wiring(stdin_fd=null_fd, stdout_fd=null_fd, stderr_fd=2, slot_fd=slot_fd))
    if slot_fd >= 0:
        os.close(slot_fd)
    poller = poll()
    poller.register(jail.report_fd, POLLIN)
    while poller.poll(10_000) and jail.read_report():
        if jail.service_pid and jail.go_fd >= 0:
            jail.give_go()
    result = os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED)
    jail.close()
    os.close(jail.pidfd)
    if jail.failure or result is None or result.si_status:
        message = f"the jail failed: {jail.failure} {result}"
        raise RuntimeError(message)


def make_small_root(folder: Path) -> str:
    """busybox, and every mount point that the jail needs."""
    for name in ("bin", "dev", "proc", "run", "tmp", "etc"):
        (folder / name).mkdir()
    shutil.copy("/usr/bin/busybox", folder / "bin/busybox")
    (folder / "bin/true").symlink_to("busybox")
    for name in ("resolv.conf", "hosts"):
        (folder / "etc" / name).touch()
    return str(folder)

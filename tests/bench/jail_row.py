"""A jail from a warm process: gather facts, build, go, exec `true`, reap. Beside bwrap with the same mounts.

As a supervisor starts one: by the nursery. (This process is far larger than a supervisor: its own forks are slower.)

And what an overlay adds to it, and what seccomp and capabilities do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from select import POLLIN, poll

from side_by_side import Bench, Figure, bwrap_arguments, median, run_process, spread, take_turns, time_ms

from ljsv.jail import builder, hardening, launch, nursery
from ljsv.jail.ids import take_ids
from ljsv.jail.spec import DIRECTORY, HOST, OVERLAY, JailSpec

BUDGET = 0.7
OVERLAY_BUDGET_MS = 1.0
HARDENING_BUDGET_MS = 0.5
SAMPLES = 150


class START:
    """Where orders go."""

    orders_fd = -1


def measure(bench: Bench) -> list[Figure]:
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    nursery_fd, orders_fd = nursery.make_orders()
    nursery.spawn(nursery_fd, "bench")  # ended by the bench
    START.orders_fd = orders_fd
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
    figures += measure_parts(bench, root, null_fd)
    for fd in (null_fd, nursery_fd, orders_fd):
        os.close(fd)
    return figures


def measure_parts(bench: Bench, root: str, null_fd: int) -> list[Figure]:
    """The same jail with and without a part, in turn."""
    plain = JailSpec(name="jail", base_kind=DIRECTORY, base_path=root, argv=("/bin/true",))
    overlay = plain.replace(writable=OVERLAY, overlay=str(bench.new_folder("overlay") / "place"))
    bare = plain.replace(has_filter=False)
    sides = [lambda spec=spec: time_ms(lambda: run_jail(spec, null_fd)) for spec in (plain, overlay, bare)]
    with_all, with_overlay, without = take_turns(bench.count(SAMPLES), *sides)
    with_rights = take_turns(bench.count(SAMPLES), sides[0], lambda: time_ms(lambda: run_bare(plain, null_fd)))
    return [
        Figure(row="overlay adds", reference_name="read-only", unit="ms", ours=median(with_overlay), reference=median(with_all), budget=OVERLAY_BUDGET_MS, is_added=True, note=spread(with_overlay)),
        Figure(row="seccomp adds", reference_name="seccomp off", unit="ms", ours=median(with_all), reference=median(without), is_added=True, note=spread(with_all)),
        Figure(
            row="seccomp + caps add", reference_name="neither", unit="ms", ours=median(with_rights[0]), reference=median(with_rights[1]),
            budget=HARDENING_BUDGET_MS, is_added=True, note=spread(with_rights[0]),
        ),
    ]


RIGHTS = (hardening.DropBoundingSet, hardening.SetCapabilities, hardening.FilterSystemCalls)


def run_bare(spec: JailSpec, null_fd: int) -> None:
    """The same jail without the steps that take rights away: for this measurement only."""
    whole = launch.plan
    launch._planned.clear()
    launch.plan = lambda *given: (steps := whole(*given)).replace(inside=tuple(step for step in steps.inside if not isinstance(step, RIGHTS)))
    try:
        run_jail(spec, null_fd)
    finally:
        launch.plan = whole
        launch._planned.clear()


def run_jail(spec: JailSpec, null_fd: int) -> None:
    """As a supervisor does it, without the record. RuntimeError where the program did not run."""
    ids, slot_fd = take_ids(spec.name)
    jail = launch.begin(spec, ids, builder.Wiring(stdin_fd=null_fd, stdout_fd=null_fd, stderr_fd=2, held_fds=(slot_fd,)), START.orders_fd)
    if slot_fd >= 0:
        os.close(slot_fd)
    poller = poll()
    poller.register(jail.channel_fd, POLLIN)
    has_gone = False
    while poller.poll(10_000) and jail.read_report():
        if jail.service_pid and not has_gone:
            has_gone = True
            jail.give_go()
    poller.unregister(jail.channel_fd)
    poller.register(jail.pidfd, POLLIN)
    has_ended = poller.poll(10_000)
    jail.close()
    os.close(jail.pidfd)
    if jail.failure or not has_ended:
        message = f"the jail failed: {jail.failure}"
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

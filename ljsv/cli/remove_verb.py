"""`ljsv remove`: stop a service, wait for its end, then delete its service directory. State and logs stay until `purge`.

Stopped first, so that its finish script and its files are there until the
end; what does not stop in time is not deleted.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
from contextlib import suppress
from time import monotonic, sleep

from ljsv import status
from ljsv.cli.confirm import confirm
from ljsv.cli.context import Context, write_fifo
from ljsv.cli.options import Options, usage
from ljsv.cli.show import pasteable, print_hint
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NO_SERVICE, EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.linux.process import open_process
from ljsv.supervise.directory import is_locked

OPTIONS = {"--yes": ""}
POLL_S = 0.01


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    if not options.operands:
        raise usage("which service is to be removed? name it", hint=f"ls {quote(context.shown)}")
    codes = [_remove(context, options, name) for name in context.names()]
    return max(codes, default=EXIT_OK)


def _remove(context: Context, options: Options, name: str) -> int:
    path = f"{context.svdir}/{name}"
    if not os.path.isdir(path):
        raise Fault("it has been removed already", path, "", service=name, hint=f"ljsv purge {quote(name)}", exit_code=EXIT_NOT_REACHED)
    _refuse_what_is_none(context, name, path)
    is_link = os.path.islink(path)
    for folder in (context.svdir, *([] if is_link else [path])):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Fault("cannot delete", path, f"{folder} may not be written", service=name, hint=f"ls -ld {quote(folder)}")
    confirm(options, f"stop {name} and delete {path}" + (" (a symlink: what it leads to stays)" if is_link else ""))
    for other in _who_needs(context, name):
        print(f"ljsv: {other} needs {name}, and will not start without it", file=sys.stderr)
    with Subscription() as subscription:
        if not _stop(context, name, subscription):
            print(f"timeout: {name}: still stopping after {context.wait_s():g}s: not removed", flush=True)
            print_hint(f"ljsv status {quote(name)}  # -w SECONDS waits longer; ljsv kill {quote(name)} ends it")
            return EXIT_NOT_REACHED
    _refuse_while_it_runs(context, name)
    if not _delete(context, name, path, is_link=is_link):
        print(f"timeout: {name}: removed, but its supervisor has not left after {context.wait_s():g}s", flush=True)
        print_hint("ljsv events")
        return EXIT_NOT_REACHED
    print(pasteable(f"ok: {name}: removed; its logs and state stay until: ljsv purge {quote(name)}"), flush=True)
    return EXIT_OK


def _refuse_what_is_none(context: Context, name: str, path: str) -> None:
    """Whatever was asked and however: only a service is deleted, and nothing that is mounted in it."""
    is_known = os.path.lexists(f"{path}/supervise")
    if not is_known and not any(os.path.isfile(f"{path}/{file}") for file in ("run", "rootfs")):
        raise Fault("not a service", path, "it has neither run nor rootfs, and was never supervised", service=name, hint=f"ls -la {quote(path)}", exit_code=EXIT_NO_SERVICE)
    if not is_known and context.is_by_path:
        hint = f"ljsv --svdir {quote(context.svdir)} remove {quote(name)}"
        raise Fault("it was never supervised", path, "nothing says that it lies in a scan directory", service=name, hint=hint, exit_code=EXIT_NO_SERVICE)
    from ljsv.init.mounts import read_mount_points

    real = os.path.realpath(path)
    for mounted in () if os.path.islink(path) else read_mount_points():
        if mounted == real or mounted.startswith(f"{real}/"):
            raise Fault("a file system is mounted in it", mounted, "what is in that would be deleted as well", service=name, hint=f"umount {quote(mounted)}")


def _who_needs(context: Context, name: str) -> list[str]:
    return [other for other in context.all_names() if other != name and name in context.detail(other).get("needs", "").split()]


def _stop(context: Context, name: str, subscription: Subscription) -> bool:
    """Whether it is down, or nobody supervises it, in time."""
    if not context.is_supervised(name):
        return True
    subscription.add(f"{context.places.scanner}/event")
    subscription.add(f"{context.supervise_of(name)}/event")
    context.send(name, "d")
    return subscription.until(lambda: not context.is_supervised(name) or context.detail(name).get("state") == status.DOWN, context.wait_s())


def _refuse_while_it_runs(context: Context, name: str) -> None:
    """A jail may outlive its supervisor: its files are not deleted under it."""
    if context.is_supervised(name):
        return
    from ljsv.supervise.record import find_living

    record = find_living(context.supervise_of(name)) if context.detail(name) else None
    if record:
        hint = f"ljsv up {quote(name)}, which adopts it, and then again: ljsv remove {quote(name)}"
        raise Fault("its jail runs, though nobody supervises it", context.supervise_of(name), f"pid {record.pid}", service=name, hint=hint, exit_code=EXIT_NOT_REACHED)


def _delete(context: Context, name: str, path: str, *, is_link: bool) -> bool:
    """Out of the scan directory in one step; its supervisor leaves before its files are taken away. Whether it did in time."""
    gone = f"{context.svdir}/.removed-{name}.{os.getpid()}"
    detail = context.detail(name)
    supervise = os.path.realpath(context.supervise_of(name))
    try:
        os.rename(path, gone)
        has_left = True
        if detail:
            supervise = supervise if os.path.isdir(supervise) else f"{gone}/supervise"
            write_fifo(f"{supervise}/control", b"x")  # a scanner says so as well
            has_left = _wait_for_end(supervise, context.wait_s())
        if is_link:
            os.unlink(gone)
        else:
            shutil.rmtree(gone, onerror=_unless_gone)
    except OSError as error:
        left = gone if os.path.lexists(gone) else path
        raise Fault.from_os("cannot delete", error, hint=f"ls -ld {quote(left)} {quote(context.svdir)}  # what is left") from None
    return has_left


def _wait_for_end(supervise: str, timeout_s: float) -> bool:
    """Whether its supervisor has left in time; one that sleeps wakes first."""
    until = monotonic() + timeout_s
    while is_locked(f"{supervise}/lock") and monotonic() < until:
        detail = {}
        with suppress(OSError):
            detail = status.read_detail(supervise)
        if detail.get("asleep") != "yes":
            return _wait_for_process(detail.get("supervisor", "-"), until - monotonic())
        sleep(POLL_S)
    return monotonic() < until


def _wait_for_process(supervisor: str, timeout_s: float) -> bool:
    """Whether the process `PID START_TIME` has ended in time."""
    pid, _, start_time = supervisor.partition(" ")
    pidfd = open_process(int(pid), int(start_time)) if pid.isdigit() and start_time.isdigit() else -1
    if pidfd < 0:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(max(timeout_s, 0.0) * 1000))
    finally:
        os.close(pidfd)


def _unless_gone(_function: object, _path: str, caught: tuple[type[BaseException], BaseException, object]) -> None:
    """What somebody else has taken away meanwhile need not be deleted."""
    if not isinstance(caught[1], FileNotFoundError):
        raise caught[1]

"""`ljsv exit`: supervisors end, and with --all everything does, the scanner too, whatever is killed meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from ljsv.cli.context import Context
from ljsv.cli.options import usage
from ljsv.cli.show import print_hint
from ljsv.cli.steer import SCANNER_PAUSE_S, UNDECIDED, ensure_scanner, report
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, quote

EXIT_TRIES = 50


def run_exit(context: Context) -> int:
    """Named services: their supervisors end. --all: everything ends, the scanner too."""
    names = context.names()
    if context.options.has("--all"):
        return _exit_all(context)
    for name in names:
        service, _, part = name.partition("/")
        if part:
            raise usage(f"{name}: a log service exits with its service", hint=f"ljsv exit {quote(service)}  # or ljsv down {quote(name)}")
    return _end_services(context, names, lambda name: context.send(name, "x"), context.wait_s())


def _exit_all(context: Context) -> int:
    """The scanner is told, and its end waited for. Where it is killed meanwhile, those that it had are told one by one."""
    give_up_at = time.monotonic() + context.wait_s()
    for _ in range(EXIT_TRIES):
        wait_s = max(give_up_at - time.monotonic(), 0.0)
        supervised = [name for name in context.all_names() if context.is_supervised(name)]
        if context.has_scanner():
            if not _exit_scanner(context, wait_s):
                break
        elif supervised:
            code = _end_services(context, supervised, lambda name: _exit_in_order(context, name), wait_s)
            if code != EXIT_OK:
                return code
        elif _is_something_left(context):
            ensure_scanner(context)  # what lost its supervisor is found and stopped by a scanner
        else:
            print(f"ok: all services of {context.shown} and their scanner have ended")
            return EXIT_OK
    print(f"timeout: services are still stopping after {context.wait_s():g}s", flush=True)
    print_hint("ljsv status  # -w SECONDS waits longer")
    return EXIT_NOT_REACHED


def _end_services(context: Context, names: list[str], tell: Callable[[str], None], wait_s: float) -> int:
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        for name in names:
            subscription.add(f"{context.supervise_of(name)}/event")
            tell(name)
        left = list(names)

        def is_decided() -> bool:
            for name in list(left):
                if not context.is_supervised(name):
                    left.remove(name)
                    print(f"ok: {name}: exited", flush=True)
            return not left

        if subscription.until(is_decided, wait_s):
            return EXIT_OK
    for name in left:
        report(context, name, UNDECIDED)
    return EXIT_NOT_REACHED


def _exit_in_order(context: Context, name: str) -> None:
    """As the scanner tells it: after those that need it."""
    import signal

    from ljsv.linux.process import open_process

    words = context.detail(name).get("supervisor", "-").split()
    pidfd = open_process(int(words[0]), int(words[1])) if len(words) == 2 else -1
    if pidfd >= 0:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
        os.close(pidfd)


def _is_something_left(context: Context) -> bool:
    """Whether a jail runs, perhaps without its directory."""
    from ljsv.supervise.record import find_living

    folders = {context.supervise_of(name) for name in context.all_names()}
    folders |= {f"{context.svdir}/{name}/log/supervise" for name in context.all_names()}
    runtime = context.places.runtime
    if runtime and os.path.isdir(runtime):
        folders |= {f"{runtime}/{name}{part}" for name in os.listdir(runtime) if not name.startswith(".") for part in ("", "/log")}
    return any(map(find_living, folders))


def _exit_scanner(context: Context, wait_s: float) -> bool:
    """Whether it ends in time, told to: once, since a second time it would not wait for its services."""
    import select

    pidfd = _open_scanner(context)
    if pidfd < 0:  # it begins, or ends, in this moment
        time.sleep(SCANNER_PAUSE_S)
        return True
    try:
        context.tell_scanner("exit\n")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))
    finally:
        os.close(pidfd)


def _open_scanner(context: Context) -> int:
    """A pidfd of it, as its file says, or, where that is missing or another's, the lock; -1 for none."""
    from ljsv.linux.process import open_process

    with suppress(OSError, ValueError), open(f"{context.places.scanner}/pid") as file:
        pid, start_time = map(int, file.read().split())
        pidfd = open_process(pid, start_time)
        if pidfd >= 0:
            return pidfd
    pid = context.find_scanner()[0]
    with suppress(OSError):
        return os.pidfd_open(pid) if pid else -1
    return -1

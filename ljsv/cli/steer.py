"""Commands that wait for what they asked: up, once, restart, down, exit, wait.

Woken by the supervisor's announcements, never by polling.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.show import one_line, print_fault
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault

UNDECIDED, REACHED, MISSED = "undecided", "reached", "missed"
OPTIONS = {"--all": ""}
Verdict = Callable[[dict[str, str], str], str]
LOG_TAIL_LINES = 5
LOG_TAIL_BYTES = 4096


def is_up(detail: dict[str, str], since_before: str) -> str:
    """Ready; or it has been tried since, and did not get there."""
    state = detail.get("state")
    if state == status.READY:
        return REACHED
    if detail.get("since") == since_before:
        return UNDECIDED
    if state == status.DOWN:
        return REACHED if detail.get("result") == "done" else MISSED
    return MISSED if state in {status.FAILED, status.BACKOFF} else UNDECIDED


def is_up_again(detail: dict[str, str], since_before: str) -> str:
    return UNDECIDED if detail.get("since") == since_before else is_up(detail, since_before)


def is_down(detail: dict[str, str], _since: str) -> str:
    return REACHED if detail.get("state") == status.DOWN else UNDECIDED


def check_files(context: Context, name: str) -> None:
    """Refuse to start what could not run: the fault that the supervisor would find, told at once."""
    try:
        context.read_service(name)
    except Fault as fault:
        fault.service = name
        fault.exit_code = EXIT_NOT_REACHED
        raise


def ensure_scanner(context: Context) -> None:
    """Start one in the background where none runs, and say so."""
    if context.has_scanner():
        return
    from ljsv.supervise.daemon import launch_scanner

    launch_scanner(context.svdir)
    pid = ""
    try:
        with open(f"{context.places.scanner}/pid") as file:
            pid = file.read().split()[0]
    except (OSError, IndexError):
        pass
    print(f"ljsv: started a scanner for {context.shown} in the background (pid {pid})", file=sys.stderr)


def ensure_supervised(context: Context, name: str) -> None:
    """Have the scanner supervise it now. Fault (102) with its reason where it does not."""
    if context.is_supervised(name):
        return
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        context.tell_scanner(f"supervise {name}\n")

        def is_decided() -> bool:
            return context.is_supervised(name)

        if not subscription.until(is_decided, min(context.wait_s(), 5.0)):
            context.send(name, "")


def steer(context: Context, names: list[str], send: dict[str, str], verdict: Verdict) -> int:
    """Send each service its bytes, and wait until all are decided; the exit code."""
    if not names:
        print(f"ljsv: no services in {context.shown}", file=sys.stderr)
        return EXIT_OK
    before: dict[str, str] = {}
    decided: dict[str, str] = {}
    failures: list[Fault] = []
    with Subscription() as subscription:
        for name in names:
            subscription.add(f"{context.supervise_of(name)}/event")
            before[name] = context.detail(name).get("since", "")
            try:
                context.send(name, send[name])
            except Fault as fault:
                failures.append(fault)
                decided[name] = MISSED

        def is_decided() -> bool:
            for name in names:
                if name in decided:
                    continue
                answer = verdict(context.detail(name), before[name])
                if answer != UNDECIDED:
                    decided[name] = answer
                    _report(context, name, answer)
            return len(decided) == len(names)

        subscription.until(is_decided, context.wait_s())
    for failure in failures:
        print_fault(failure)
    for name in names:
        if name not in decided:
            _report(context, name, UNDECIDED)
    if failures:
        return failures[0].exit_code
    return EXIT_OK if all(decided.get(name) == REACHED for name in names) else EXIT_NOT_REACHED


def _report(context: Context, name: str, answer: str) -> None:
    detail = context.detail(name)
    if answer == REACHED:
        print(f"ok: {one_line(name, detail)}", flush=True)
    elif answer == UNDECIDED:
        print(f"timeout: {one_line(name, detail)}, after {context.wait_s():g}s", flush=True)
        print(f"hint: ljsv status {name}; wait longer with -w SECONDS", file=sys.stderr)
    else:
        print(f"fail: {one_line(name, detail)}", flush=True)
        for line in tail_of(detail.get("log", ""), LOG_TAIL_LINES):
            print(f"  log: {line}", file=sys.stderr)
        print(f"hint: {detail.get('hint') or f'ljsv logs {name}'}", file=sys.stderr)


def tail_of(path: str, lines: int) -> list[str]:
    """The last lines of a log file; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def start(context: Context, byte: str) -> int:
    """up and once: check, have it supervised, send, wait."""
    names = context.names()
    for name in names:
        check_files(context, name)
    ensure_scanner(context)
    for name in names:
        ensure_supervised(context, name)
    return steer(context, names, dict.fromkeys(names, byte), is_up)


def restart(context: Context) -> int:
    """Files first: a bad edit leaves what runs alone. Then down and up, with KILL at the stop timeout."""
    names = context.names()
    for name in names:
        check_files(context, name)
    ensure_scanner(context)
    send = {}
    for name in names:
        ensure_supervised(context, name)
        state = context.detail(name).get("state")
        send[name] = "u" if state in {status.DOWN, status.BACKOFF, status.FAILED} else "du"
    return steer(context, names, send, is_up_again)


def stop(context: Context) -> int:
    names = context.names()
    return steer(context, names, dict.fromkeys(names, "d"), is_down)


def exit_(context: Context) -> int:
    """Named services: their supervisors end. --all: everything ends, the scanner too."""
    if context.options.has("--all") and not context.options.operands and context.has_scanner():
        return _exit_scanner(context)
    if context.options.has("--all") and _is_something_left(context):
        ensure_scanner(context)  # what lost its supervisor is found and stopped by a scanner
        return _exit_scanner(context)
    names = context.names()
    if context.options.has("--all"):
        names = [name for name in names if context.is_supervised(name)]
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        for name in names:
            subscription.add(f"{context.supervise_of(name)}/event")
            context.send(name, "x")
        left = list(names)

        def is_decided() -> bool:
            for name in list(left):
                if not context.is_supervised(name):
                    left.remove(name)
                    print(f"ok: {name}: exited", flush=True)
            return not left

        if subscription.until(is_decided, context.wait_s()):
            return EXIT_OK
    for name in left:
        _report(context, name, UNDECIDED)
    return EXIT_NOT_REACHED


def _is_something_left(context: Context) -> bool:
    """Whether a jail's record is there without a supervisor, or a runtime folder without its directory."""
    folders = [context.supervise_of(name) for name in context.all_names()]
    runtime = context.places.runtime
    if runtime and os.path.isdir(runtime):
        folders += [f"{runtime}/{name}" for name in os.listdir(runtime) if not name.startswith(".")]
    return any(os.path.exists(f"{folder}/jail") for folder in folders)


def _exit_scanner(context: Context) -> int:
    import select

    from ljsv.linux.process import open_process

    with open(f"{context.places.scanner}/pid") as file:
        pid, start_time = map(int, file.read().split())
    pidfd = open_process(pid, start_time)
    context.tell_scanner("exit\n")
    if pidfd >= 0:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(context.wait_s() * 1000):
            print(f"timeout: services are still stopping after {context.wait_s():g}s", flush=True)
            print("hint: ljsv status; wait longer with -w SECONDS", file=sys.stderr)
            return EXIT_NOT_REACHED
    print(f"ok: all services of {context.shown} and their scanner have ended")
    return EXIT_OK

"""Commands that wait for what they asked: up, once, restart, down.

Woken by the supervisor's announcements, never by polling.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.show import boot_now, one_line, print_fault, print_hint
from ljsv.cli.subscribe import LONGEST_S, Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_NOT_SUPERVISED, EXIT_OK, Fault, quote

UNDECIDED, REACHED, MISSED = "undecided", "reached", "missed"
OPTIONS = {"--all": ""}
Verdict = Callable[[dict[str, str], str], str]
SCANNER_TRIES, SCANNER_PAUSE_S = 20, 0.05
KILLED_WITHIN_S = 1.0
SETTLE_S = 0.2  # what counts as ready when it runs, but ends within this, has not come up


def is_up(detail: dict[str, str], since_before: str) -> str:
    """Ready; or it has been tried since, and did not get there."""
    state = detail.get("state")
    if state == status.READY:
        return UNDECIDED if settles_in(detail) > 0 and detail.get("since") != since_before else REACHED
    if detail.get("since") == since_before:
        return UNDECIDED
    if state == status.DOWN:
        if detail.get("waiting") or "exiting" in detail or "pending" in detail or detail.get("want") != "down":  # what was sent comes after an exit
            return UNDECIDED
        return REACHED if detail.get("result") == "done" else MISSED
    return MISSED if state in {status.FAILED, status.BACKOFF} else UNDECIDED


def settles_in(detail: dict[str, str]) -> float:
    """How long it has to go on, in seconds, to be called up: 0 where it has said itself that it is ready."""
    if detail.get("state") != status.READY or detail.get("ready_by", "start") != "start":
        return 0.0
    return float(detail.get("since", "0")) + SETTLE_S - time.clock_gettime(time.CLOCK_BOOTTIME)


def is_down(detail: dict[str, str], _since: str) -> str:
    """And it is not about to start when what it needs is ready."""
    return REACHED if detail.get("state") == status.DOWN and "waiting" not in detail else UNDECIDED


def check_files(context: Context, name: str) -> None:
    """Refuse to start what could not run: the fault that the supervisor would find, told at once."""
    from ljsv.jail.ids import is_root
    from ljsv.service.read import check_directory

    try:
        service = context.read_service(name)
        check_directory(service.directory, is_shifted=is_root() and service.rootfs.security.user_namespace == "own")
    except Fault as fault:
        if fault.is_transient:
            return  # nothing is known to be wrong: its supervisor will tell
        fault.service = name
        fault.exit_code = EXIT_NOT_REACHED
        raise


def ensure_scanner(context: Context) -> None:
    """Start one in the background where none runs, and say so."""
    if context.has_scanner():
        return
    from ljsv.supervise.daemon import launch_scanner

    try:
        launch_scanner(context.svdir)
    except Fault:
        if not _has_scanner_soon(context):
            raise
        return  # somebody else has started one at the same time
    pid = ""
    try:
        with open(f"{context.places.scanner}/pid") as file:
            pid = file.read().split()[0]
    except (OSError, IndexError):
        pass
    print(f"ljsv: started a scanner for {context.shown} in the background (pid {pid})", file=sys.stderr)


def _has_scanner_soon(context: Context) -> bool:
    for _ in range(SCANNER_TRIES):
        if context.has_scanner():
            return True
        time.sleep(SCANNER_PAUSE_S)
    return False


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


def steer(
    context: Context, names: list[str], send: dict[str, str], verdict: Verdict, *, after: dict[str, set[str]] | None = None, again: frozenset[str] = frozenset()
) -> int:
    """Send each service its bytes, and wait until all are decided; the exit code.

    `after`: what of `names` has to be decided before a service's turn comes. Who is sent nothing is about it already: all that it has done counts.
    `again`: of these, what they are now does not count.
    """
    if not names:
        print(f"ljsv: no services in {context.shown}", file=sys.stderr)
        return EXIT_OK
    before: dict[str, str] = {}
    decided: dict[str, str] = {}
    failures: list[Fault] = []
    with Subscription() as subscription:
        for name in names:
            subscription.add(f"{context.supervise_of(name)}/event")
            before[name] = context.detail(name).get("since", "") if send[name] else ""
        unsent = list(names)

        def send_ready() -> None:
            for name in list(unsent):
                if (after or {}).get(name, set()) <= decided.keys():
                    unsent.remove(name)
                    try:
                        send_bytes(context, name, send[name])
                    except Fault as fault:
                        failures.append(fault)
                        decided[name] = MISSED

        def is_decided() -> bool:
            send_ready()
            for name in names:
                if name in decided or name in unsent:
                    continue
                detail = context.detail(name)
                is_as_before = name in again and detail.get("since") == before[name]
                answer = UNDECIDED if is_as_before else verdict(detail, before[name])
                if answer != UNDECIDED:
                    decided[name] = answer
                    report(context, name, answer)
            if unsent and any((after or {}).get(name, set()) <= decided.keys() for name in unsent):
                return is_decided()
            return len(decided) == len(names)

        def look_again_s() -> float:
            settling = [settles_in(context.detail(name)) for name in names if name not in decided]
            return min((left for left in settling if left > 0), default=LONGEST_S)

        wait_s = context.wait_s()
        while not subscription.until(is_decided, wait_s, look_again_s):
            told = [name for name in names if name not in (*decided, *unsent)]
            wait_s = _longest_stop(context, told) if unsent and not context.is_wait_given else 0.0
            if wait_s <= 0:
                break
        for name in unsent:  # or it would go on: nobody is there any more to tell it when its turn comes
            with suppress(Fault):
                context.send(name, send[name])
                print(f"note: {name} was told as well, before its turn", file=sys.stderr)
    for failure in failures:
        print_fault(failure)
    for name in names:
        if name not in decided:
            report(context, name, UNDECIDED)
    if failures:
        return failures[0].exit_code
    return EXIT_OK if all(decided.get(name) == REACHED for name in names) else EXIT_NOT_REACHED


def send_bytes(context: Context, name: str, text: str) -> None:
    """Where its supervisor has just ended, and the service is to run or runs, another is asked for."""
    is_start = text[-1:] in {"u", "o"}
    try:
        context.send(name, text)
        if not is_start or context.is_supervised(name):
            return
    except Fault as fault:
        from ljsv.supervise.record import find_living

        has_jail = "/" not in name and find_living(context.supervise_of(name)) and context.has_scanner()
        if fault.exit_code != EXIT_NOT_SUPERVISED or not (is_start or has_jail):
            raise
    ensure_supervised(context, name)
    context.send(name, text)


def _longest_stop(context: Context, names: list[str]) -> float:
    """How long it takes until the last of these that are being stopped is killed, in seconds, and a moment more; 0 for none."""
    stops = [float(context.detail(name).get("deadline", "0")) - boot_now() + KILLED_WITHIN_S for name in names if context.detail(name).get("state") in {status.STOPPING, status.FINISHING}]
    return max(stops, default=0.0)


def report(context: Context, name: str, answer: str) -> None:
    detail = context.detail(name)
    if answer == REACHED:
        print(f"ok: {one_line(name, detail)}", flush=True)
    elif answer == UNDECIDED:
        print(f"timeout: {one_line(name, detail)}, after {context.wait_s():g}s", flush=True)
        print_hint(f"ljsv status {quote(name)}  # -w SECONDS waits longer")
    else:
        print(f"fail: {one_line(name, detail)}", flush=True)
        from ljsv.cli.why_verb import print_failure

        print_failure(context, name)
        print_hint(detail.get("hint") or f"ljsv why {quote(name)}")


def start(context: Context, byte: str) -> int:
    """up and once: check, have it supervised, send, wait."""
    asked, names, faults = _check(context)
    if faults and not asked:
        return faults[0].exit_code
    fresh = [name for name in names if not context.detail(name)]
    asked, names = _supervise(context, asked, names, faults)
    if faults and not asked:
        return faults[0].exit_code
    # What is new and starts by itself is not started twice: a job may be done by now. What was there before may still show what it was.
    begun = [name for name in fresh if byte == "u" and context.detail(name).get("want") == "up"]
    also = _also(context, asked, names)
    code = steer(context, [*also, *asked], dict.fromkeys(asked, byte) | dict.fromkeys(also, "u") | dict.fromkeys(begun, ""), is_up)
    return faults[0].exit_code if faults else code


def _check(context: Context) -> tuple[list[str], list[str], list[Fault]]:
    """(what was asked for and can start, the same after all that it needs, why the rest cannot): each fault is told, and keeps nothing else from starting."""
    faults: list[Fault] = []
    asked: list[str] = []
    order: list[str] = []
    checked: set[str] = set()
    for name in context.names(faults):
        try:
            needed = with_needs(context, [name])
            for each in needed:
                if each not in checked:
                    check_files(context, each)
                    checked.add(each)
        except Fault as fault:
            faults.append(fault)
            continue
        asked.append(name)
        order += [each for each in needed if each not in order]
    for told in faults:
        print_fault(told)
    return asked, order, faults


def _supervise(context: Context, asked: list[str], names: list[str], faults: list[Fault]) -> tuple[list[str], list[str]]:
    """Have each supervised; without those that nobody supervises, which are told and added to `faults`."""
    ensure_scanner(context)
    lost: set[str] = set()
    for name in names:
        try:
            ensure_supervised(context, name)
        except Fault as fault:
            print_fault(fault)
            faults.append(fault)
            lost.add(name)
    return [name for name in asked if name not in lost], [name for name in names if name not in lost]


def _also(context: Context, asked: list[str], names: list[str]) -> list[str]:
    """What has to be started for the others' sake, and says so."""
    also = [name for name in names if name not in asked and context.detail(name).get("state") != status.READY]
    if also:
        print(f"ljsv: also starting what they need: {' '.join(also)}", file=sys.stderr)
    return also


def with_needs(context: Context, names: list[str]) -> list[str]:
    """These services and all that they need, each after what it needs. Fault for a name that is none, and for a circle."""
    from ljsv.service.read import read_needs

    order: list[str] = []

    def add(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = " -> ".join((*way[way.index(name):], name))
            hint = f"grep needs {quote(context.places.svdir)}/*/policy  # take one of these out"
            raise Fault("needs go in a circle", circle, "none of them could ever start", service=name, hint=hint, exit_code=EXIT_NOT_REACHED)
        if name in order:
            return
        if way and name not in context.all_names():
            hint = f"ljsv new {quote(name)}  # or correct {quote(f'{context.places.svdir}/{way[-1]}/policy')}"
            raise Fault("needs what is not there", name, "no such service", service=way[-1], hint=hint, exit_code=EXIT_NOT_REACHED)
        for need in read_needs(f"{context.places.svdir}/{name}"):
            add(need, (*way, name))
        order.append(name)

    for name in names:
        add(name, ())
    return order


def restart(context: Context) -> int:
    """Files first: a bad edit leaves what runs alone. Then down and up, with KILL at the stop timeout."""
    asked, names, faults = _check(context)
    if faults and not asked:
        return faults[0].exit_code
    asked, names = _supervise(context, asked, names, faults)
    if faults and not asked:
        return faults[0].exit_code
    also = _also(context, asked, names)
    send = dict.fromkeys(also, "u")
    for name in asked:
        state = context.detail(name).get("state")
        send[name] = "u" if state in {status.DOWN, status.BACKOFF, status.FAILED} else "du"
    code = steer(context, [*also, *asked], send, is_up, again=frozenset(name for name in asked if send[name] == "du"))
    return faults[0].exit_code if faults else code


def stop(context: Context) -> int:
    """down. What needs another of them goes first; who needs one and goes on is named."""
    from ljsv.supervise.needs import name_dependents

    faults: list[Fault] = []
    names = context.names(faults)
    for fault in faults:
        print_fault(fault)
    if faults and not names:
        return faults[0].exit_code
    after: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        detail = context.detail(name)
        is_at_rest = detail.get("state") in {status.DOWN, status.FAILED}  # nobody has to wait for it, as in a circle
        for need in () if is_at_rest else detail.get("needs", "").split():
            if need in after and need != name:
                after[need].add(name)
    code = steer(context, names, dict.fromkeys(names, "d"), is_down, after=after if _is_loop_free(after) else None)
    for name in names:
        going_on = [other for other in name_dependents(context.supervise_of(name)) if other not in names]
        if going_on:
            print(f"note: {name} is needed by what goes on: {' '.join(going_on)}", file=sys.stderr)
    return faults[0].exit_code if faults else code


def reset_failed(context: Context) -> int:
    """Those in `failed` become `down`, as systemctl has it; without a name all that are."""
    names = context.names() if context.options.operands else context.all_names()
    failed = [name for name in names if context.detail(name).get("state") == status.FAILED]
    for name in names if context.options.operands else []:
        if name not in failed:
            print(f"ok: {one_line(name, context.detail(name))}: it had not failed")
    return steer(context, failed, dict.fromkeys(failed, "d"), is_down) if failed else EXIT_OK


def _is_loop_free(after: dict[str, set[str]]) -> bool:
    """Whether everything's turn comes."""
    done: set[str] = set()
    for _ in after:
        done |= {name for name, first in after.items() if first <= done}
    return len(done) == len(after)

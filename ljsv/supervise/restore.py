"""What a killed supervisor left, and how the next one carries on. Pure.

`Left` is what was found: `detail`, the jail's record, the exit record, whether
there is a `down` file. `carry_on` answers with the machine to begin with, and
either an event to feed to it or a jail to adopt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ljsv import status
from ljsv.supervise import machine as table
from ljsv.supervise.machine import NOT_STARTED, End, Event, Machine, Rules
from ljsv.supervise.record import JailRecord, find_end

RUN, FINISH = "run", "finish"
UNSURE = "unsure"  # in `detail`, with what it says of the jail


@dataclass(frozen=True)
class Left:
    """What is found in a supervise directory; `boot_id` is the one of now."""

    boot_id: str
    detail: dict[str, str]
    jail: JailRecord | None
    exits: str
    is_down_file: bool


@dataclass(frozen=True)
class CarryOn:
    """`machine` goes on; then `event` happens to it, or `jail`, which may be dead by now, is adopted.

    `generation`: of the jail begun last. `concluded`: of the last one whose end has been seen to.
    `is_unsure`: the jail is recorded, but perhaps never had its go. `why`: how the last run ended, in words.
    `commands`: read by the supervisor before, and not yet obeyed.
    """

    machine: Machine
    event: Event | None = None
    jail: JailRecord | None = None
    generation: int = 0
    concluded: int = 0
    is_unsure: bool = False
    why: str = ""
    commands: str = ""


def carry_on(left: Left, now: float) -> CarryOn:
    """Where the next supervisor takes up; from the beginning where nothing of this boot is left, or it was told to exit."""
    detail = left.detail
    is_this_boot = detail.get("boot") == left.boot_id
    is_ours = is_this_boot and detail.get("supervisor", "-") != "-"
    machine = restore_machine(detail) if is_ours else None
    concluded = _number(detail, "concluded") if is_ours else 0
    generation = _number(detail, "generation") if is_this_boot else 0
    announced = generation if is_ours else 0
    jail = left.jail if left.jail and left.jail.boot_id == left.boot_id else None
    if jail:
        generation = max(generation, jail.generation)
    if jail and jail.generation <= concluded:
        jail = None  # what followed from its end is announced
    if jail and jail.generation > announced:
        machine = _missed_start(machine or Machine(), jail, find_end(left.exits, announced))
    machine, event, is_adopted = _go_on(machine, left, now, has_jail=jail is not None)
    is_unsure = is_adopted and jail is not None and find_end(left.exits, jail.generation) is NOT_STARTED and (
        jail.script == FINISH or machine.state == status.STARTING or (is_ours and UNSURE in detail)
    )
    why, commands = (detail.get("why", ""), detail.get("pending", "")) if is_ours else ("", "")
    return CarryOn(machine, event, jail if is_adopted else None, generation, concluded, is_unsure, why, commands)


def _go_on(machine: Machine | None, left: Left, now: float, *, has_jail: bool) -> tuple[Machine, Event | None, bool]:
    """(the machine, what happens to it, whether its jail is adopted)."""
    if machine is None:
        if left.is_down_file:
            return Machine(want=table.WANT_DOWN, since=now), None, False
        return Machine(since=now), Event("u"), False
    if machine.state in table.ALIVE and has_jail:
        return machine, None, True
    if machine.state == status.FINISHING:
        return machine, Event("finish missing"), False  # it never had its go
    if machine.state == status.BACKOFF or (machine.state == status.FAILED and not status.start_fault(left.detail)):
        return machine, None, False  # waiting, or it gave up
    if machine.is_waiting:
        return machine, Event("needs ready"), False  # or not: the start looks
    if machine.want == table.WANT_DOWN:
        resting = replace(machine, state=status.DOWN, deadline=None, is_paused=False, term_sent=False)
        return resting, Event("x") if machine.is_exiting else None, False
    start = Event("u" if machine.want == table.WANT_UP else "o")
    return replace(machine, state=status.DOWN, deadline=None, result=""), start, False


def _missed_start(machine: Machine, jail: JailRecord, end_before: End) -> Machine:
    """A jail had its go, and nobody was told: what has led to it is counted now. `end_before`: of the generation announced last."""
    is_counted = machine.state in {status.DOWN, status.STARTING, status.FAILED} or machine.is_commanded  # or it is no restart
    is_automatic = jail.script == RUN and not is_counted
    return replace(
        machine, state=status.STARTING, end=end_before if machine.state in table.WITH_RUN else machine.end, deadline=None,
        restarts=machine.restarts + is_automatic, is_commanded=machine.is_commanded and jail.script == FINISH,
    )


def adopt(machine: Machine, jail: JailRecord, rules: Rules, ready_by: str, now: float) -> Machine:
    """As it is if what has its record runs, or has run."""
    if jail.script == FINISH:
        return replace(machine, state=status.FINISHING, deadline=machine.deadline or now + rules.finish_timeout)
    if machine.state == status.STARTING and jail.script == RUN:
        is_ready = ready_by == table.BY_START
        deadline = None if is_ready else now + rules.ready_timeout
        return replace(machine, state=status.READY if is_ready else status.UP, deadline=deadline, was_ready=is_ready)
    return machine


def restore_machine(detail: dict[str, str]) -> Machine | None:
    """The machine that `machine_detail` wrote down, or None where it makes no sense."""
    try:
        state, want = detail["state"], detail["want"]
        if state not in status.STATES or want not in {table.WANT_UP, table.WANT_DOWN, table.WANT_ONCE}:
            return None
        end = [int(word) for word in detail["end"].split()] if "end" in detail else []
        return Machine(
            state=state,
            want=want,
            is_exiting="exiting" in detail,
            is_paused="paused" in detail,
            term_sent="term_sent" in detail,
            due=int(detail.get("due", "0")),
            has_failed="has_failed" in detail,
            is_commanded="commanded" in detail,
            heeds_until=float(detail.get("heeds_until", "0")),
            is_waiting="is_waiting" in detail,
            was_ready="was_ready" in detail,
            ready_after=float(detail["ready_after"]) if "ready_after" in detail else None,
            since=float(detail["since"]),
            deadline=float(detail["deadline"]) if "deadline" in detail else None,
            failures=int(detail.get("failures", "0")),
            restarts=int(detail.get("restarts", "0")),
            end=End(end[0], end[1]) if len(end) == 2 else None,
            run_time=float(detail.get("run_time", "0")),
            result=detail.get("result", ""),
        )
    except (KeyError, ValueError):
        return None


def _number(detail: dict[str, str], name: str) -> int:
    """A number of `detail`; 0 where it makes no sense."""
    text = detail.get(name, "0")
    return int(text) if text.isdecimal() else 0

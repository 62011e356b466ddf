"""The supervisor's table: (state, event) -> (state, actions). Pure: no I/O, no clock.

A service is in one of eight states (design, section 5):

    down       nothing runs, and nothing is going to, unless it waits for what it needs
    starting   its jail is being built
    up         ./run runs, and is not ready yet
    ready      ./run runs and is ready
    stopping   it was told to end; at the deadline the whole jail is killed
    finishing  ./run has ended, ./finish runs
    backoff    it ended, and is started again at the deadline
    failed     it cannot be started as it is: a fault in its files, or it gave up

What a state is heading for is `want`: up, down, or once (started, not
restarted). One deadline at a time is enough, since each state waits for one
thing. `step` takes the state, an event and the time and gives back a new
state and what is to be done; commands that mean nothing in a state are
ignored, as runsv ignores them. All times are seconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from ljsv.status import BACKOFF, DOWN, FAILED, FINISHING, READY, STARTING, STOPPING, UP

WANT_UP, WANT_DOWN, WANT_ONCE = "up", "down", "once"
RUNNING = (UP, READY)
BY_START = "start"  # ready as soon as it runs
BUILD_TIMEOUT_S = 60.0
FAILURES_MAX = 1_000_000
SHORT_RUN_S, SHORT_RUN_DELAY_S = 0.05, 0.1

# What the supervisor is asked to do.
START, KILL_JAIL, RUN_FINISH, EXIT = "start", "kill jail", "run finish", "exit"


@dataclass(frozen=True)
class Signal:
    """Send this signal to the process that runs (./run or ./finish), unless ./control/`script` says that it has done so.

    After the scripts that run and wait, unless `at_once`.
    """

    number: int
    script: str = ""
    at_once: bool = False


@dataclass(frozen=True)
class Script:
    """Run ./control/`name`, before what is sent next."""

    name: str


Action = str | Signal | Script


@dataclass(frozen=True)
class End:
    """How a run ended: exit code (-1 when killed by a signal) and the low byte of its wait status."""

    code: int
    status: int

    @classmethod
    def of(cls, wait_status: int) -> End:
        if wait_status & 0x7F:
            return cls(-1, wait_status & 0xFF)
        return cls(wait_status >> 8 & 0xFF, 0)

    @property
    def is_success(self) -> bool:
        return self.code == 0

    def describe(self) -> str:
        if self.code >= 0:
            return f"exit {self.code}"
        number = self.status & 0x7F
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return name + (" (core)" if self.status & 0x80 else "")


LOST = End(-1, signal.SIGKILL)
NOT_STARTED = End(111, 0)


@dataclass(frozen=True)
class Rules:
    """What the table needs of `policy`, times in seconds."""

    when: str = "always"
    first_delay: float = 0.0
    delay: float = 1.0
    max_delay: float = 60.0
    stable_after: float = 10.0
    give_up_after: int = 0
    stop_signal: int = signal.SIGTERM
    stop_timeout: float = 10.0
    finish_timeout: float = 60.0
    has_finish: bool = False
    ready_by: str = BY_START
    ready_timeout: float = 30.0


@dataclass(frozen=True)
class Machine:
    """The state of one service. `since` is the last start of ./run or the last change to down."""

    state: str = DOWN
    want: str = WANT_UP
    is_exiting: bool = False
    is_paused: bool = False
    term_sent: bool = False
    due: int = 0  # the signal that makes it end, and has not been sent yet: ./control/t comes first
    has_failed: bool = False  # the run that goes on, or has just ended, whatever its exit code says: not ready in time, or silent
    is_commanded: bool = False  # the run that goes on, or has just ended, was told to end
    heeds_until: float = 0.0  # an end after that is its own, though a command had it sent TERM: it has lived on
    is_waiting: bool = False  # in `down`: it starts when what it needs is ready
    was_ready: bool = False  # the run that goes on, or has just ended
    ready_after: float | None = None  # how long it took that run to be ready
    since: float = 0.0
    deadline: float | None = None
    failures: int = 0  # runs in a row that were not stable
    restarts: int = 0  # automatic ones
    end: End | None = None  # how the last run ended
    run_time: float = 0.0  # how long it ran
    result: str = ""  # of a service that is down and not restarted: done, failed or stopped
    is_fault: bool = False  # the run could not be started as the files are

    @property
    def runit_want(self) -> str:
        """Byte 17. In `failed` it is d: the real `sv up` writes nothing where it finds u."""
        return "u" if self.want == WANT_UP and self.state != FAILED else "d"


@dataclass(frozen=True)
class Event:
    """Something that happened. `end` comes with "ended", `is_transient` and `at_exec` with "build failed"."""

    kind: str
    end: End | None = None
    is_transient: bool = False
    at_exec: bool = False


Result = tuple[Machine, tuple[Action, ...]]
Rule = Callable[[Machine, Event, Rules, float], Result]


def was_told(m: Machine, now: float) -> bool:
    """Whether an end in this moment is what a command has asked for."""
    return m.is_commanded and (m.state == STOPPING or m.due > 0 or now <= m.heeds_until)


# ---- what the rules are made of


def _start(m: Machine, now: float) -> Result:
    started = replace(
        m, state=STARTING, since=now, deadline=now + BUILD_TIMEOUT_S, is_paused=False, term_sent=False, due=0,
        has_failed=False, is_commanded=False, heeds_until=0.0, is_waiting=False, was_ready=False, ready_after=None, result="", is_fault=False,
    )
    return started, (START,)


def _rest(m: Machine, now: float, result: str) -> Result:
    """Come to rest in `down`; on the way out, exit."""
    resting = replace(m, state=DOWN, since=now, deadline=None, is_paused=False, term_sent=False, is_waiting=False, result=result)
    return resting, (EXIT,) if m.is_exiting else ()


def _stop(m: Machine, rules: Rules, now: float) -> Result:
    stopping = replace(m, state=STOPPING, deadline=now + rules.stop_timeout, due=rules.stop_signal, is_commanded=True)
    return stopping, _tell_to_end(stopping)


def _tell_to_end(m: Machine) -> tuple[Action, ...]:
    """Its script first: when the signal is sent, its jail may be gone."""
    script = (Script("x" if m.is_exiting else "d"),) if m.want == WANT_DOWN else ()
    return (*script, Signal(m.due, "t"), Signal(signal.SIGCONT))


def _fail(m: Machine, now: float) -> Result:
    return replace(m, state=FAILED, since=now, deadline=None, result="failed", is_paused=False, term_sent=False), ()


def _conclude(m: Machine, rules: Rules, now: float) -> Result:
    """What follows when a run, and its finish script, have ended."""
    is_success = (m.end or LOST).is_success and not m.has_failed
    if m.is_fault and m.is_commanded and m.want == WANT_UP:
        return _start(replace(m, failures=0), now)
    if m.is_fault:
        m = replace(m, is_commanded=False)
        if m.want == WANT_DOWN or m.is_exiting:
            return _rest(m, now, "stopped")
        return _fail(m, now)
    if m.is_exiting or m.want == WANT_DOWN:
        return _rest(replace(m, failures=0), now, "stopped")
    if m.want == WANT_ONCE:
        result = "stopped" if m.is_commanded else "done" if is_success else "failed"
        return _rest(replace(m, want=WANT_DOWN), now, result)
    if m.is_commanded:
        return _start(replace(m, failures=0), now)
    if rules.when == "never" or (rules.when == "failure" and is_success):
        return _rest(replace(m, want=WANT_DOWN), now, "done" if is_success else "failed")
    return _again(m, rules, now)


def _again(m: Machine, rules: Rules, now: float) -> Result:
    """An automatic restart, after the wait that the last runs have earned."""
    is_its_own = m.end is not NOT_STARTED  # that it could not start for now brings nobody closer to giving up
    counted = 1 if is_its_own or not rules.give_up_after else 0
    failures = 0 if m.was_ready and m.run_time >= rules.stable_after else min(m.failures + counted, FAILURES_MAX)
    m = replace(m, failures=failures)
    if rules.give_up_after and failures >= rules.give_up_after:
        return _fail(m, now)
    delay = rules.first_delay
    if failures or not is_its_own:
        delay = min(rules.max_delay, rules.delay * 2.0 ** min(max(failures - 1, 0), 40))
    if m.run_time < SHORT_RUN_S:
        delay = max(delay, SHORT_RUN_DELAY_S)  # whatever policy says: no machine is filled with starts
    if delay <= 0:
        return _retry(m, None, rules, now)
    return replace(m, state=BACKOFF, since=now, deadline=now + delay, is_paused=False, term_sent=False), ()


# ---- commands: the bytes of the control FIFO


def _up(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    m = replace(m, want=WANT_UP, is_exiting=False)
    if m.state in {DOWN, BACKOFF, FAILED}:
        return _start(replace(m, failures=0), now)
    return (replace(m, is_commanded=True) if m.state == FINISHING else m), ()


def _once(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    m = replace(m, want=WANT_ONCE, is_exiting=False)
    if m.state in {DOWN, BACKOFF, FAILED}:
        return _start(replace(m, failures=0), now)
    return m, ()


def _down(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    return _go_down(replace(m, want=WANT_DOWN, is_exiting=False), rules, now)


def _exit(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    return _go_down(replace(m, want=WANT_DOWN, is_exiting=True), rules, now)


def _go_down(m: Machine, rules: Rules, now: float) -> Result:
    if m.state in RUNNING:
        return _stop(m, rules, now)
    if m.state == STOPPING and m.deadline is not None:
        return replace(_stop(m, rules, now)[0], deadline=m.deadline), _stop(m, rules, now)[1]
    if m.state == STARTING:
        return replace(m, state=STOPPING, deadline=now + rules.stop_timeout, is_commanded=True), (KILL_JAIL,)
    if m.state in {BACKOFF, FAILED} or m.is_waiting:
        return _rest(m, now, "stopped")
    return m, (EXIT,) if m.is_exiting and m.state == DOWN else ()


def _term(m: Machine, _e: Event, _r: Rules, _now: float) -> Result:
    goes_on = (Signal(signal.SIGCONT),) if m.want == WANT_DOWN else ()
    return replace(m, due=signal.SIGTERM, is_commanded=True), (Signal(signal.SIGTERM, "t"), *goes_on)


def _pause(m: Machine, _e: Event, _r: Rules, _now: float) -> Result:
    return replace(m, is_paused=True), (Signal(signal.SIGSTOP, "p"),)


def _continue(m: Machine, _e: Event, _r: Rules, _now: float) -> Result:
    return replace(m, is_paused=False), (Signal(signal.SIGCONT, "c"),)


def _send(number: int, script: str) -> Rule:
    def rule(m: Machine, _e: Event, _r: Rules, _now: float) -> Result:
        return m, (Signal(number, script if m.state != FINISHING else ""),)

    return rule


# ---- what happens by itself


def _executed(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    """./run runs; with `ready.by = "start"` that is all it takes to be ready."""
    m = replace(m, state=UP, deadline=now + rules.ready_timeout)
    return _ready(m, event, rules, now) if rules.ready_by == BY_START else (m, ())


def _ready(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    return replace(m, state=READY, deadline=None, was_ready=True, ready_after=round(now - m.since, 6)), ()


def _not_ready(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    """Not ready in time: ended like a run that has failed. While it is paused, its time does not pass."""
    if m.is_paused:
        return replace(m, deadline=now + rules.ready_timeout), ()
    m = replace(_stop(m, rules, now)[0], is_commanded=False, has_failed=True)
    return m, _tell_to_end(m)


def _stopping(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    """It says itself that it is about to end."""
    return replace(m, state=STOPPING, deadline=now + rules.stop_timeout), ()


def _silent(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    """Its watchdog has heard nothing from it: ABRT, so that it leaves a core, then KILL."""
    if m.is_paused:
        return m, ()
    return replace(m, state=STOPPING, has_failed=True, deadline=now + rules.stop_timeout), (Signal(signal.SIGABRT), Signal(signal.SIGCONT))


def _adopted(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    """A supervisor was killed while the scripts ran that come before a signal: they run again, and then it is sent."""
    if not m.due:
        return m, ()
    return (m, _tell_to_end(m)) if m.state == STOPPING else _term(m, event, rules, now)


def _needs_missing(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    """What it needs is not ready: it waits in `down`."""
    return replace(m, state=DOWN, since=now, deadline=None, is_waiting=True), ()


def _needs_ready(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    return _start(m, now) if m.is_waiting else (m, ())


def _ended(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    m = replace(m, is_commanded=was_told(m, now), due=0, end=event.end, run_time=max(now - m.since, 0.0))
    if rules.has_finish and m.end is not None:
        return replace(m, state=FINISHING, deadline=now + rules.finish_timeout, is_paused=False, term_sent=False), (RUN_FINISH,)
    return _conclude(m, rules, now)


def _build_failed(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    m = replace(m, end=NOT_STARTED, run_time=0.0, is_fault=not event.is_transient)
    if rules.has_finish and event.at_exec:
        return replace(m, state=FINISHING, deadline=now + rules.finish_timeout), (RUN_FINISH,)
    return _conclude(m, rules, now)


def _finish_missing(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    """It was never begun: it has all its time, however long nobody was there to begin it."""
    return replace(m, deadline=now + rules.finish_timeout), (RUN_FINISH,)


def _finish_ended(m: Machine, _e: Event, rules: Rules, now: float) -> Result:
    return _conclude(m, rules, now)


def _retry(m: Machine, _e: Event | None, _r: Rules, now: float) -> Result:
    return _start(replace(m, restarts=m.restarts + 1), now)


def _kill(m: Machine, _e: Event, _r: Rules, _now: float) -> Result:
    return replace(m, deadline=None), (KILL_JAIL,)


def _late(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    """Its time to end is up. Where it was never told, since a script that comes first still runs, it is told now, and has its time."""
    if not m.due:
        return _kill(m, event, rules, now)
    return replace(m, due=0, term_sent=True, deadline=now + rules.stop_timeout), (Signal(m.due, at_once=True), Signal(signal.SIGCONT, at_once=True))


def _files_changed(m: Machine, _e: Event, _r: Rules, now: float) -> Result:
    """A fault is tried again when a file changes, but only where the service is wanted; what waits may need something else now."""
    if m.state == DOWN and not m.is_waiting:
        return m, ()
    if m.state == FINISHING:
        return (replace(m, is_commanded=True) if m.is_fault else m), ()
    return _start(replace(m, failures=0), now) if m.want != WANT_DOWN else (m, ())


ALIVE = (STARTING, UP, READY, STOPPING, FINISHING)
EVERYWHERE = (DOWN, *ALIVE, BACKOFF, FAILED)
WITH_RUN = (UP, READY, STOPPING)
WITH_PROCESS = (*WITH_RUN, FINISHING)


def _rows(states: tuple[str, ...], kind: str, rule: Rule) -> dict[tuple[str, str], Rule]:
    return {(state, kind): rule for state in states}


TABLE: dict[tuple[str, str], Rule] = {
    **_rows(EVERYWHERE, "u", _up),
    **_rows(EVERYWHERE, "d", _down),
    **_rows(EVERYWHERE, "o", _once),
    **_rows(EVERYWHERE, "x", _exit),
    **_rows(WITH_RUN, "t", _term),
    **_rows(WITH_RUN, "p", _pause),
    **_rows(WITH_RUN, "c", _continue),
    **_rows(WITH_PROCESS, "k", _send(signal.SIGKILL, "k")),
    **_rows(WITH_RUN, "h", _send(signal.SIGHUP, "h")),
    **_rows(WITH_RUN, "a", _send(signal.SIGALRM, "a")),
    **_rows(WITH_RUN, "i", _send(signal.SIGINT, "i")),
    **_rows(WITH_RUN, "q", _send(signal.SIGQUIT, "q")),
    **_rows(WITH_RUN, "1", _send(signal.SIGUSR1, "1")),
    **_rows(WITH_RUN, "2", _send(signal.SIGUSR2, "2")),
    (STARTING, "executed"): _executed,
    (STARTING, "needs missing"): _needs_missing,
    (DOWN, "needs ready"): _needs_ready,
    (UP, "ready"): _ready,
    (UP, "deadline"): _not_ready,
    **_rows(RUNNING, "stopping", _stopping),
    **_rows(RUNNING, "silent", _silent),
    **_rows(WITH_RUN, "adopted", _adopted),
    **_rows((STARTING, *WITH_RUN), "ended", _ended),
    **_rows((STARTING, STOPPING), "build failed", _build_failed),
    (FINISHING, "finish missing"): _finish_missing,
    (FINISHING, "finish ended"): _finish_ended,
    (STOPPING, "deadline"): _late,
    **_rows((STARTING, FINISHING), "deadline", _kill),
    (BACKOFF, "deadline"): _retry,
    **_rows((DOWN, FAILED, FINISHING), "files changed", _files_changed),
}

COMMANDS = frozenset("udoxtpckhaiq12")


def step(m: Machine, event: Event, rules: Rules, now: float) -> Result:
    """The next state and what is to be done; no entry in the table means that nothing changes."""
    rule = TABLE.get((m.state, event.kind))
    return rule(m, event, rules, now) if rule else (m, ())

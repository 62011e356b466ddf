"""The supervisor's table under thousands of random schedules: commands, deaths, deadlines, and kills of the supervisor itself.

`World` is the model: it carries out the actions, and holds what a supervisor
leaves behind when it is killed (the jail, its exit record, `detail`). What the
world can do is the table MOVES, what the machine can ask for is the table ACTS:
a new event is a new entry in one, a new action in the other. After each event
every invariant of INVARIANTS holds. `World.take_over` is the rule of
adoption; the stories of real processes in tests/integration/chaos hold the
supervisor to it.

`detail` keeps microseconds, and so does the world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ljsv import status
from ljsv.supervise import machine as table
from ljsv.supervise.announce import machine_detail
from ljsv.supervise.machine import Action, End, Event, Machine, Rules, Script, Signal, step
from ljsv.supervise.restore import restore_machine

TICK = 1 / 64
MICROSECOND = 1e-6
SERVICE_PID = 7

RULES = st.builds(
    Rules,
    when=st.sampled_from(["always", "always", "failure", "never"]),
    first_delay=st.sampled_from([0.0, 0.5]),
    delay=st.sampled_from([0.125, 1.0]),
    max_delay=st.sampled_from([1.0, 60.0]),
    stable_after=st.sampled_from([0.0, 10.0]),
    give_up_after=st.sampled_from([0, 0, 1, 3]),
    stop_timeout=st.sampled_from([0.25, 10.0]),
    ready_by=st.sampled_from(["start", "start", "notify"]),
    ready_timeout=st.sampled_from([0.25, 30.0]),
    finish_timeout=st.sampled_from([0.25, 60.0]),
    has_finish=st.booleans(),
)


@dataclass
class Jail:
    """What was started: `script` is run or finish. It runs once it has its go, which comes after its record."""

    script: str
    has_go: bool = False
    is_executed: bool = False
    is_dead: bool = False
    end: End | None = None  # as its pid 1 has recorded it
    is_build_failure: bool = False


@dataclass
class World:
    """One service directory: what lives, what is on record, and the supervisor, if there is one."""

    rules: Rules
    now: float = 100.0
    machine: Machine = field(default_factory=Machine)
    jail: Jail | None = None
    detail: dict[str, str] = field(default_factory=dict)
    has_supervisor: bool = False
    is_over: bool = False
    is_need_missing: bool = False
    is_kill_asked: bool = False  # since the jail that lives was started
    dies_in: int | None = None  # actions until the supervisor is killed, in the middle of an event
    starts: int = 0
    automatic: int = 0  # starts that nobody asked for
    exits: int = 0

    # ---- the supervisor

    def feed(self, event: Event) -> None:
        """One event through the table, its actions carried out, the result announced: a turn of the supervisor's loop."""
        before = self.machine
        machine, actions = step(before, event, self.rules, self.now)
        self.machine = in_microseconds(machine)
        self._count(before, event, actions)
        for action in actions:
            assert not self.is_over, "nothing happens after the exit"
            if self.dies_in == 0:
                break
            if self.dies_in is not None:
                self.dies_in -= 1
            name = {Signal: "signal", Script: "script"}.get(type(action)) or str(action)
            assert name in ACTS, f"a new action: tell ACTS of this model what it does: {action}"
            ACTS[name](self, action)
        if self.dies_in is not None:
            self.kill_supervisor()  # before it could announce anything
            return
        for invariant in INVARIANTS:
            invariant(self)
        self.announce()

    def _count(self, before: Machine, event: Event, actions: tuple[Action, ...]) -> None:
        if table.START in actions and event.kind in {"deadline", "ended", "finish ended", "build failed"} and not before.is_commanded:
            self.automatic += 1

    def announce(self) -> None:
        """As the supervisor does it: not while a jail is being built whose pid is not known yet."""
        if self.jail and not self.jail.has_go and self.machine.state in {status.STARTING, status.FINISHING}:
            return
        text = status.format_detail(machine_detail(self.machine, SERVICE_PID if self.jail else 0))
        self.detail = status.parse_detail(text)

    def kill_supervisor(self) -> None:
        """kill -9. A jail that was not given its go ends unstarted; what runs, runs on."""
        self.has_supervisor, self.dies_in = False, None
        if self.jail and not self.jail.has_go:
            self.jail = None

    def take_over(self) -> None:
        """The next supervisor, with what `detail`, the jail's record and its exit record say."""
        if self.has_supervisor:
            return
        self.has_supervisor = True
        machine = restore_machine(self.detail) if self.detail else None
        if self.jail and (machine is None or machine.state not in table.ALIVE):
            # The record was written, the go given, and nothing announced: found by its record.
            machine = replace(machine or Machine(), state=status.STARTING)
        if machine and machine.state in table.ALIVE and self.jail:
            self._adopt(machine, self.jail)
        elif machine and machine.state in {status.BACKOFF, status.FAILED}:
            self.machine = machine
        elif machine and machine.is_waiting:
            self.machine = machine
            self.feed(Event("needs ready"))
        elif machine and machine.want == table.WANT_DOWN:
            self.machine = replace(machine, state=status.DOWN, deadline=None, is_paused=False, term_sent=False)
            if machine.is_exiting:
                self.feed(Event("x"))
        elif machine:
            self.machine = replace(machine, state=status.DOWN, deadline=None, result="")
            self.feed(Event("u" if machine.want == table.WANT_UP else "o"))
        else:
            self.machine = Machine(since=self.now)
            self.feed(Event("u"))

    def _adopt(self, machine: Machine, jail: Jail) -> None:
        is_unsure = machine.state == status.STARTING
        if jail.script == "finish":
            machine = replace(machine, state=status.FINISHING)
        elif is_unsure:
            machine = replace(machine, state=status.READY, deadline=None)
            jail.is_executed = True
            if self.rules.ready_by == "start":
                machine = replace(machine, was_ready=True)
            else:
                machine = replace(machine, state=status.UP, deadline=self.now + self.rules.ready_timeout)
        self.machine = machine
        if jail.is_dead:
            self.jail_gone()
        else:
            self.announce()

    def jail_gone(self) -> None:
        """Its pid 1 has ended, and with it everything in it."""
        jail, self.jail = self.jail, None
        assert jail is not None
        if jail.script == "finish":
            self.feed(Event("finish ended"))
        elif jail.is_build_failure and self.machine.state in {status.STARTING, status.STOPPING}:
            self.feed(Event("build failed", is_transient=self.starts % 3 == 0, at_exec=self.starts % 2 == 0))
        else:
            self.feed(Event("ended", end=jail.end or table.LOST))

    # ---- the jail

    def die(self, end: End | None, *, is_build_failure: bool = False) -> None:
        """The jail ends: seen at once, or by the next supervisor."""
        if self.jail and not self.jail.is_dead:
            self.jail = replace(self.jail, is_dead=True, end=end, is_build_failure=is_build_failure)
            if self.has_supervisor:
                self.jail_gone()

    def proceed(self) -> None:
        """The builder goes on: it gets its go, then it becomes the program."""
        jail = self.jail
        if jail is None or jail.is_dead:
            return
        if not jail.has_go:
            jail.has_go = True
            if self.has_supervisor:
                self.announce()
        elif not jail.is_executed:
            jail.is_executed = True
            if self.has_supervisor and jail.script == "run":
                self.feed(Event("executed"))

    def fail_to_build(self) -> None:
        if self.jail and not self.jail.is_executed and self.has_supervisor:
            self.die(table.NOT_STARTED, is_build_failure=True)

    def end(self, end: End) -> None:
        if self.jail and self.jail.is_executed:
            self.die(end)

    # ---- time

    def wait(self, seconds: float) -> None:
        """Time passes, up to the next deadline: the loop reaches each at its time."""
        until = self.now + seconds
        while self.has_supervisor and not self.is_over and self.machine.deadline is not None and self.machine.deadline <= until:
            self.reach_deadline()
        self.now = max(self.now, until)

    def reach_deadline(self) -> None:
        if self.has_supervisor and self.machine.deadline is not None:
            self.now = max(self.now, self.machine.deadline)
            self.feed(Event("deadline"))

    def move(self, name: str) -> None:
        if self.is_over:
            return
        self.now += TICK
        if name in table.COMMANDS or name in EVENTS:
            if self.has_supervisor:
                self.feed(Event(name))
        else:
            MOVES[name](self)


def in_microseconds(m: Machine) -> Machine:
    return replace(m, since=round(m.since, 6), run_time=round(m.run_time, 6), deadline=None if m.deadline is None else round(m.deadline, 6))


# ---- what an action does


def start(world: World, _action: Action) -> None:
    assert world.jail is None, "never two jails"
    if world.is_need_missing:
        world.feed(Event("needs missing"))
        return
    world.jail, world.is_kill_asked = Jail("run"), False
    world.starts += 1


def run_finish(world: World, _action: Action) -> None:
    assert world.jail is None, "finish runs when nothing else does"
    assert world.rules.has_finish
    world.jail, world.is_kill_asked = Jail("finish"), False


def kill_jail(world: World, _action: Action) -> None:
    assert world.jail is not None, "a jail is there to be killed"
    world.is_kill_asked = True  # its end is another event: it comes with the next move, or later


def send_signal(world: World, _action: Action) -> None:
    assert world.jail is not None, "a process is there to be signalled"
    assert world.jail.is_executed or world.machine.state in {status.FINISHING, status.STOPPING}


def run_script(world: World, _action: Action) -> None:
    assert world.jail is not None, "a jail is there for it"


def take_need(world: World) -> None:
    world.is_need_missing = True


def give_need(world: World) -> None:
    world.is_need_missing = False
    if world.has_supervisor and world.machine.is_waiting:
        world.feed(Event("needs ready"))


def leave(world: World, _action: Action) -> None:
    assert world.jail is None, "it never leaves a jail behind"
    assert world.machine.is_exiting
    world.exits += 1
    world.is_over = True


ACTS: dict[str, Callable[[World, Action], None]] = {
    table.START: start, table.RUN_FINISH: run_finish, table.KILL_JAIL: kill_jail, table.EXIT: leave, "signal": send_signal, "script": run_script,
}


# ---- what can happen

MOVES: dict[str, Callable[[World], None]] = {
    "proceed": World.proceed,
    "fail to build": World.fail_to_build,
    "end well": lambda world: world.end(End(0, 0)),
    "exit 7": lambda world: world.end(End(7, 0)),
    "crash": lambda world: world.end(End(-1, 139)),
    "pid 1 is killed": lambda world: world.die(table.LOST),
    "killed": lambda world: world.die(table.LOST) if world.is_kill_asked else None,
    "deadline": World.reach_deadline,
    "a moment": lambda world: world.wait(0.25),
    "its need has gone": take_need,
    "its need is ready": give_need,
    "a while": lambda world: world.wait(20.0),
}
EVENTS = ("files changed", "ready", "stopping", "silent", "needs ready", "?")
KILLS: dict[str, Callable[[World], None]] = {
    "kill supervisor": World.kill_supervisor,
    "take over": World.take_over,
    "kill within the next event": lambda world: setattr(world, "dies_in", 0) if world.has_supervisor else None,
    "kill after one action": lambda world: setattr(world, "dies_in", 1) if world.has_supervisor else None,
}
MOVES |= KILLS
QUIET_MOVES = sorted({*MOVES, *EVENTS, *table.COMMANDS} - set(KILLS))
SCHEDULE = st.lists(st.one_of(st.sampled_from(QUIET_MOVES), st.just("proceed")), max_size=60)
SCHEDULE_WITH_KILLS = st.lists(
    st.one_of(st.sampled_from(QUIET_MOVES), st.just("proceed"), st.sampled_from(sorted(KILLS)), st.just("take over")), max_size=60,
)


# ---- what always holds


def a_jail_has_a_state_that_says_so(world: World) -> None:
    assert (world.jail is not None) == (world.machine.state in table.ALIVE) or world.is_over, (world.jail, world.machine)


def what_is_waited_for_has_a_deadline(world: World) -> None:
    """Whatever the service does: stopping, finishing, starting and backoff end by themselves, or their kill was asked for."""
    m = world.machine
    if m.state in {status.STARTING, status.UP, status.STOPPING, status.FINISHING}:
        assert m.deadline is not None or world.is_kill_asked, m
    if m.state == status.BACKOFF:
        assert m.deadline is not None
    if m.state in {status.DOWN, status.FAILED}:
        assert m.deadline is None


def waits_are_bounded(world: World) -> None:
    m, rules = world.machine, world.rules
    if m.deadline is not None:
        longest = max(rules.max_delay, rules.first_delay, rules.stop_timeout, rules.finish_timeout, rules.ready_timeout, table.BUILD_TIMEOUT_S)
        assert m.deadline - world.now <= longest + MICROSECOND
    if m.state == status.BACKOFF and m.deadline is not None and m.deadline > world.now:
        assert m.deadline - m.since <= max(rules.max_delay, rules.first_delay, table.SHORT_RUN_DELAY_S) + MICROSECOND


def backoff_is_for_what_is_wanted(world: World) -> None:
    m = world.machine
    assert m.state != status.BACKOFF or (m.want == table.WANT_UP and not m.is_exiting)
    assert m.state != status.FAILED or not m.is_exiting


def byte_17_is_what_sv_expects(world: World) -> None:
    """The real `sv` writes nothing where it finds its command there: what rests must not say u."""
    m = world.machine
    assert m.runit_want in "ud"
    if m.state in {status.DOWN, status.FAILED}:
        assert m.runit_want == ("u" if m.is_waiting and m.want == table.WANT_UP else "d"), m  # what waits is wanted


def what_is_not_alive_is_neither_paused_nor_told_to_end(world: World) -> None:
    m = world.machine
    if m.state in {status.DOWN, status.BACKOFF}:
        assert not m.is_paused
        assert not m.term_sent


def detail_is_enough(world: World) -> None:
    """What is written down is what is read back."""
    text = status.format_detail(machine_detail(world.machine, SERVICE_PID))
    again = restore_machine(status.parse_detail(text))
    assert again is not None
    expected = world.machine if world.machine.end else replace(world.machine, run_time=0.0)
    assert replace(again, is_fault=expected.is_fault) == expected


def failures_and_restarts_are_counted(world: World) -> None:
    m = world.machine
    assert 0 <= m.failures <= m.restarts + world.starts
    assert m.restarts == world.automatic, m


INVARIANTS: list[Callable[[World], None]] = [
    a_jail_has_a_state_that_says_so, what_is_waited_for_has_a_deadline, waits_are_bounded, backoff_is_for_what_is_wanted,
    byte_17_is_what_sv_expects, what_is_not_alive_is_neither_paused_nor_told_to_end, detail_is_enough,
]


def begin(rules: Rules) -> World:
    world = World(rules)
    world.take_over()
    return world


def settle(world: World, moves: int = 12) -> None:
    """The service and its finish script ignore everything but a kill; time passes."""
    for _ in range(moves):
        if not world.is_over:
            world.move("take over")
            world.move("killed" if world.is_kill_asked and world.jail else "deadline")


# ---- the properties


@settings(max_examples=2000)
@given(RULES, SCHEDULE)
def test_invariants_hold_under_any_schedule(rules: Rules, schedule: list[str]) -> None:
    """Commands, deaths and deadlines in any order; counts are right as long as nobody is killed."""
    world = begin(rules)
    for name in schedule:
        world.move(name)
        failures_and_restarts_are_counted(world)
    assert world.exits == int(world.is_over)


@settings(max_examples=2000)
@given(RULES, SCHEDULE_WITH_KILLS)
def test_invariants_hold_when_the_supervisor_is_killed_at_any_moment(rules: Rules, schedule: list[str]) -> None:
    """Also between two actions of one event, with nothing announced: never two jails, none without a state."""
    world = begin(rules)
    for name in schedule:
        world.move(name)
    world.move("take over")
    if not world.is_over:
        a_jail_has_a_state_that_says_so(world)


@settings(max_examples=1000)
@given(RULES, SCHEDULE_WITH_KILLS, st.sampled_from("dx"))
def test_a_service_that_ignores_everything_comes_to_rest(rules: Rules, schedule: list[str], command: str) -> None:
    """After `d` or `x` only deadlines pass, and a kill ends what it is meant to end: down within a bounded time, and for `x` one exit."""
    world = begin(rules)
    for name in schedule:
        world.move(name)
    world.dies_in = None
    world.move("take over")
    if world.is_over:
        return
    asked_at = world.now
    world.move(command)
    settle(world)
    assert world.machine.state == status.DOWN
    assert world.exits == (command == "x")
    assert world.now - asked_at <= rules.stop_timeout + 2 * rules.finish_timeout + table.BUILD_TIMEOUT_S + 1


@settings(max_examples=1000)
@given(RULES, SCHEDULE_WITH_KILLS)
def test_up_brings_it_up(rules: Rules, schedule: list[str]) -> None:
    """After `u`, whatever was before, a service that is to run always is up within a bounded number of moves."""
    world = begin(replace(rules, when="always", give_up_after=0))
    for name in schedule:
        world.move(name)
    world.dies_in = None
    world.move("take over")
    if world.is_over:
        return
    world.move("its need is ready")
    world.move("u")
    for _ in range(8):
        for name in ("killed", "proceed", "proceed"):
            world.move(name)
        if world.machine.state in table.RUNNING:
            break
        world.move("deadline")
    assert world.machine.state in table.RUNNING
    assert world.machine.want == table.WANT_UP


KILLED_AT = st.sets(st.integers(0, 59), max_size=20)


def place(world: World) -> object:
    """Where a service has come to, without the moments at which it was seen."""
    return replace(world.machine, since=0.0, deadline=None, run_time=0.0), world.is_over, world.starts


@settings(max_examples=1500)
@given(RULES, SCHEDULE, KILLED_AT)
def test_a_killed_supervisor_changes_nothing(rules: Rules, schedule: list[str], killed_at: set[int]) -> None:
    """Killed and replaced between two events, over and over, the service ends in the same place, with the same counts."""
    calm, stormy = begin(rules), begin(rules)
    for number, name in enumerate(schedule):
        calm.move(name)
        stormy.move(name)
        is_announced = not (stormy.jail and not stormy.jail.is_executed)
        if number in killed_at and is_announced and not stormy.is_over and not is_a_fault(stormy):
            stormy.kill_supervisor()
            stormy.take_over()
    assert place(stormy) == place(calm)


def is_a_fault(world: World) -> bool:
    """A run that could not be started as its files are: tried again by the next supervisor, since the files may be others by now."""
    return world.machine.is_fault


@settings(max_examples=1000)
@given(RULES, SCHEDULE, st.sampled_from([End(0, 0), End(7, 0), End(-1, 9), End(-1, 139)]))
def test_a_death_that_nobody_saw_counts_like_any_other(rules: Rules, schedule: list[str], end: End) -> None:
    """The service ends between two supervisors: the second draws the same conclusion as the first would have."""
    seen, unseen = begin(rules), begin(rules)
    for name in schedule:
        seen.move(name)
        unseen.move(name)
    jail = seen.jail
    if seen.is_over or jail is None or not jail.is_executed or is_a_fault(seen):
        return
    seen.die(end)
    unseen.kill_supervisor()
    unseen.die(end)
    unseen.take_over()
    assert place(unseen) == place(seen)


def test_a_wait_that_is_cut_short_is_no_restart() -> None:
    """`restarts` says how often it was started again by itself: a wait that `d` ends was no start."""
    world = begin(Rules())
    for name in ("proceed", "proceed", "exit 7", "d"):
        world.move(name)
    assert (world.machine.state, world.machine.restarts) == (status.DOWN, 0)


@pytest.mark.parametrize("news", ["u", "files changed"])
def test_what_would_end_a_fault_counts_while_finish_runs(news: str) -> None:
    """A run that could not be executed ends in failed until `up` or a changed file: also when that comes while ./finish runs."""
    world = begin(Rules(has_finish=True))
    world.starts = 2  # fails at exec, and for good
    for name in ("proceed", "fail to build", "proceed", "proceed", news, "end well"):
        world.move(name)
    assert world.machine.state == status.STARTING

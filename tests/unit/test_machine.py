"""The supervisor's table, driven at random against a model of the world."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ljsv import status
from ljsv.supervise import machine as table
from ljsv.supervise.announce import machine_detail
from ljsv.supervise.machine import End, Event, Machine, Rules, Signal, step
from ljsv.supervise.restore import restore_machine

RULES = st.builds(
    Rules,
    when=st.sampled_from(["always", "failure", "never"]),
    first_delay=st.sampled_from([0.0, 0.5]),
    delay=st.sampled_from([0.1, 1.0]),
    max_delay=st.sampled_from([1.0, 60.0]),
    stable_after=st.sampled_from([0.0, 10.0]),
    give_up_after=st.sampled_from([0, 1, 3]),
    has_finish=st.booleans(),
)
MOVES = st.lists(
    st.one_of(
        st.sampled_from(sorted(table.COMMANDS)),
        st.sampled_from(["proceed", "fail", "crash", "end well", "deadline", "files changed", "wait", "garbage"]),
    ),
    max_size=60,
)


class World:
    """What the actions do: at most one jail, which obeys or not."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.machine = Machine()
        self.now = 100.0
        self.jail = ""  # "", "building", "run", "finish"
        self.is_over = False
        self.starts = 0

    def feed(self, event: Event) -> None:
        self.machine, actions = step(self.machine, event, self.rules, self.now)
        for action in actions:
            assert not self.is_over, "nothing happens after the exit"
            if action == table.START:
                assert not self.jail, "never two jails"
                self.jail, self.starts = "building", self.starts + 1
            elif action == table.RUN_FINISH:
                assert not self.jail
                self.jail = "finish"
            elif action == table.EXIT:
                assert not self.jail, "it never leaves a jail behind"
                self.is_over = True
            elif action == table.KILL_JAIL:
                self.kill()
                return
            elif isinstance(action, Signal):
                assert self.jail in {"run", "finish"}
        self.check()

    def kill(self) -> None:
        jail, self.jail = self.jail, ""
        if jail == "finish":
            self.feed(Event("finish ended"))
        elif jail:
            self.feed(Event("ended", end=table.LOST))

    def check(self) -> None:
        m = self.machine
        assert bool(self.jail) == (m.state in table.ALIVE), (self.jail, m.state)
        assert (m.deadline is not None) or m.state not in {status.BACKOFF, status.STARTING}
        assert m.state != status.BACKOFF or m.want == table.WANT_UP
        assert not (m.is_exiting and m.state in {status.BACKOFF, status.FAILED})
        assert m.runit_want in "ud"

    def move(self, move: str) -> None:
        if move == "proceed" and self.jail == "building":
            self.jail = "run"
            self.feed(Event("executed"))
        elif move == "fail" and self.jail == "building":
            self.jail = ""
            self.feed(Event("build failed", at_exec=self.starts % 2 == 0, is_transient=self.starts % 3 == 0))
        elif move in {"crash", "end well"} and self.jail in {"run", "finish"}:
            jail, self.jail = self.jail, ""
            self.feed(Event("ended", end=End(0 if move == "end well" else 1, 0)) if jail == "run" else Event("finish ended"))
        elif move == "deadline" and self.machine.deadline is not None:
            self.now = max(self.now, self.machine.deadline)
            self.feed(Event("deadline"))
        elif move == "wait":
            self.now += 20.0
        elif move == "files changed" or move in table.COMMANDS:
            self.feed(Event(move))
        elif move == "garbage":
            before = self.machine
            self.feed(Event("?"))
            assert self.machine == before


@settings(max_examples=600)
@given(RULES, MOVES)
def test_invariants_hold_whatever_happens(rules: Rules, moves: list[str]) -> None:
    """Never two jails, no jail without a state that says so, no exit that leaves one behind."""
    world = World(rules)
    world.feed(Event("u"))
    for move in moves:
        if world.is_over:
            break
        world.move(move)


@settings(max_examples=300)
@given(RULES, MOVES, st.sampled_from("dx"))
def test_down_always_gets_there(rules: Rules, moves: list[str], command: str) -> None:
    """After `d` or `x`, whatever was before, a bounded number of ends and deadlines leads to down (and exit)."""
    world = World(rules)
    for move in ["u", *moves]:
        if not world.is_over:
            world.move(move)
    if world.is_over:
        return
    world.move(command)
    for move in ["proceed", "deadline", "end well", "deadline", "end well"]:
        if not world.is_over:
            world.move(move)
    assert world.machine.state == status.DOWN
    assert world.is_over == (command == "x")


@given(RULES, MOVES)
def test_state_survives_the_supervisor(rules: Rules, moves: list[str]) -> None:
    """What `detail` says is enough to carry on."""
    world = World(rules)
    for move in ["u", *moves]:
        if not world.is_over:
            world.move(move)
    text = status.format_detail(machine_detail(world.machine, 7))
    again = restore_machine(status.parse_detail(text))
    assert again is not None
    assert replace(again, since=0, deadline=None, run_time=0) == replace(world.machine, since=0, deadline=None, run_time=0, is_fault=False)


def run_once(m: Machine, rules: Rules, now: float, seconds: float, code: int) -> Machine:
    m, _ = step(m, Event("executed"), rules, now)
    m, _ = step(m, Event("ended", end=End(code, 0)), rules, now + seconds)
    return m


def test_backoff_doubles_up_to_its_maximum_and_a_stable_run_resets_it() -> None:
    """1, 2, 4, 8, ... 60; after a run of stable_after the next start is at once."""
    rules, now, m = Rules(), 0.0, step(Machine(), Event("u"), Rules(), 0.0)[0]
    delays = []
    for _ in range(9):
        m = run_once(m, rules, now, 0.1, 1)
        assert m.state == status.BACKOFF and m.deadline is not None
        delays.append(round(m.deadline - now - 0.1, 6))
        now = m.deadline
        m, actions = step(m, Event("deadline"), rules, now)
        assert actions == (table.START,)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    m = run_once(m, rules, now, 11.0, 1)
    assert m.state == status.STARTING and m.failures == 0


def test_down_and_up_within_the_backoff_starts_at_once() -> None:
    """Where runit leaves the service down."""
    m = run_once(step(Machine(), Event("u"), Rules(), 0.0)[0], Rules(), 0.0, 0.1, 1)
    m, _ = step(m, Event("d"), Rules(), 0.2)
    assert m.state == status.DOWN
    m, actions = step(m, Event("u"), Rules(), 0.3)
    assert (m.state, actions) == (status.STARTING, (table.START,))


@pytest.mark.parametrize(
    ("when", "code", "state", "result"),
    [("always", 0, status.BACKOFF, ""), ("failure", 0, status.DOWN, "done"), ("failure", 1, status.BACKOFF, ""), ("never", 1, status.DOWN, "failed")],
)
def test_policy_when(when: str, code: int, state: str, result: str) -> None:
    """always, failure, never."""
    rules = Rules(when=when)
    m = run_once(step(Machine(), Event("u"), rules, 0.0)[0], rules, 0.0, 0.1, code)
    assert (m.state, m.result) == (state, result)
    assert m.state == status.BACKOFF or m.runit_want == "d", "or the real `sv up` would write nothing"


def test_no_policy_makes_a_storm_of_starts() -> None:
    """A run that ends at once is followed by a wait, also where every run counts as stable."""
    rules = Rules(stable_after=0.0, first_delay=0.0)
    m = run_once(step(Machine(), Event("u"), rules, 0.0)[0], rules, 0.0, 0.003, 1)
    assert m.state == status.BACKOFF and m.deadline is not None and m.deadline >= 0.1
    m = run_once(step(Machine(), Event("u"), rules, 0.0)[0], rules, 0.0, 1.0, 1)
    assert m.state == status.STARTING


def test_giving_up() -> None:
    """give_up_after runs in a row end in failed; up tries again."""
    rules = Rules(give_up_after=2)
    m = run_once(step(Machine(), Event("u"), rules, 0.0)[0], rules, 0.0, 0.1, 1)
    m, _ = step(m, Event("deadline"), rules, 2.0)
    m = run_once(m, rules, 2.0, 0.1, 1)
    assert m.state == status.FAILED and m.runit_want == "d"
    assert step(m, Event("u"), rules, 3.0)[0].state == status.STARTING


def test_a_start_that_waits_for_room_is_no_failure_of_the_service() -> None:
    """However often it is tried, give_up_after counts what has run, and it is not tried all the time."""
    rules = Rules(give_up_after=2)
    m, now = step(Machine(), Event("u"), rules, 0.0)[0], 0.0
    for _ in range(5):
        m, _ = step(m, Event("build failed", is_transient=True), rules, now)
        assert m.state == status.BACKOFF and m.deadline is not None and m.deadline >= now + rules.delay
        now = m.deadline
        m, _ = step(m, Event("deadline"), rules, now)
        assert m.state == status.STARTING
    m = run_once(m, rules, now, 0.1, 1)
    assert m.state == status.BACKOFF and m.failures == 1


def test_failed_is_neither_paused_nor_told_to_end() -> None:
    """Nothing runs that could be."""
    rules = Rules(give_up_after=1)
    m = replace(step(Machine(), Event("u"), rules, 0.0)[0], is_paused=True, term_sent=True)
    m, _ = step(m, Event("ended", end=table.LOST), rules, 1.0)
    assert m.state == status.FAILED and not m.is_paused and not m.term_sent


def test_stop_sends_the_signal_then_cont_then_kills_the_jail() -> None:
    """TERM and CONT, and at the deadline everything."""
    rules = Rules(stop_signal=signal.SIGQUIT, stop_timeout=3.0)
    m, _ = step(Machine(), Event("u"), rules, 0.0)
    m, _ = step(m, Event("executed"), rules, 0.0)
    m, actions = step(m, Event("d"), rules, 1.0)
    assert actions == (table.Script("d"), Signal(signal.SIGQUIT, "t"), Signal(signal.SIGCONT))
    assert m.deadline == 4.0 and m.due == signal.SIGQUIT
    late, actions = step(m, Event("deadline"), rules, 4.0)  # it was not sent yet: a script runs
    assert actions == (Signal(signal.SIGQUIT, at_once=True), Signal(signal.SIGCONT, at_once=True)) and late.deadline == 7.0
    for told in (late, replace(m, due=0)):
        assert step(told, Event("deadline"), rules, 7.0)[1] == (table.KILL_JAIL,)


def test_end_of_wait_status() -> None:
    """Code and status as ./finish gets them: 7 0, -1 9, and +128 with a core."""
    assert End.of(7 << 8) == End(7, 0)
    assert End.of(9) == End(-1, 9)
    assert End.of(11 | 0x80) == End(-1, 139)
    assert End.of(11 | 0x80).describe() == "SIGSEGV (core)"

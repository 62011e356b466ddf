"""The deployment's table under random schedules: readiness, deaths, commands, and a kill between any two actions.

`World` is the model of one service: what is on disk, which generation's jail
runs, and the supervisor, if there is one. What is durable is written before
anything follows from it; a kill forgets the rest. After every event the
invariants of `check` hold, and in the end, when nobody is killed any more,
the service is in one generation, whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ljsv.service.generations import ASKED, RETURNING, TRYING, Generation, Generations, Outcome, Trial
from ljsv.supervise import deployment as table
from ljsv.supervise.deployment import COPYING, DURABLE, IDLE, Deployment, Event, step

OLD, NEW = Generation(number=0), Generation(number=1, image="new", path="new", layer=1)


@dataclass
class World:
    """`disk` is the record; `jail` the generation whose jail runs (None: nothing); `want` the service's machine's."""

    want: str = "up"
    disk: Generations = field(default_factory=Generations)
    jail: Generation | None = None
    is_ready: bool = False
    is_finishing: bool = False  # its finish script runs: not at rest yet
    memory: Deployment | None = None  # the supervisor's; None: killed
    boot: str = "1"
    dies_in: int | None = None  # actions until it is killed
    is_copy_running: bool = False
    was_ready: bool = False  # the new generation, in a run of its own
    has_failed: bool = False  # and its supervisor had time to say so
    starts: list[int] = field(default_factory=list)

    # ---- the supervisor

    def feed(self, event: Event) -> None:
        if self.memory is None:
            return
        self.memory, actions = step(self.memory, event)
        for action in actions:
            if self.dies_in == 0:
                self.kill()
                return
            if self.dies_in is not None:
                self.dies_in -= 1
            self.act(action)
            if self.memory is None:
                return
        self.look_for_rest()

    def act(self, action: str) -> None:
        assert self.memory is not None
        if action in DURABLE:
            self.write(action)
        elif action == table.STOP:
            self.want = "down"
        elif action == table.START:
            self.want = "up"
            self.start()
        elif action == table.COPY:
            assert self.jail is None
            self.is_copy_running = True
        elif action == table.KILL_COPY:
            self.is_copy_running = False

    def write(self, action: str) -> None:
        trial, outcome = self.disk.trial, Outcome(number=1, image="new", result="x")
        assert trial is not None
        if action == table.SWITCH:
            assert self.jail is None
            self.disk = replace(self.disk, trial=replace(trial, phase=TRYING))
        elif action == table.KEEP:
            self.disk = self.disk.keep_trial(outcome)
        elif action == table.GO_BACK:
            self.disk = replace(self.disk, trial=replace(trial, phase=RETURNING, want=self.memory.want if self.memory else "up"))
        else:
            self.disk = self.disk.give_up_trial(outcome)

    def start(self) -> None:
        if self.jail is None and not self.is_finishing:
            self.jail, self.is_ready = self.disk.effective, False
            assert not (self.has_failed and self.disk.trial and self.jail.number == 1), "tried again after it has failed"
            self.starts.append(self.jail.number)

    def look_for_rest(self) -> None:
        if self.memory and self.jail is None and not self.is_finishing and self.want == "down" and self.memory.phase in {ASKED, RETURNING}:
            self.feed(Event("at rest"))

    def kill(self) -> None:
        """Jails live on; a copy does not."""
        self.memory, self.is_copy_running, self.dies_in = None, False, None

    def take_over(self) -> None:
        trial = self.disk.trial
        self.memory = Deployment()
        event = Event("taken over")
        if trial:
            event = Event("taken over", want=trial.want, has_settle=bool(trial.settle_s), phase=trial.phase, is_same_boot=trial.boot == self.boot)
        self.feed(event)
        if self.memory is None:
            return
        if self.memory.phase == TRYING:
            if self.jail and self.is_ready:
                self.feed(Event("ready"))
            elif self.jail is None:
                self.act(table.START)
        elif self.want == "up":
            self.start()
        self.look_for_rest()

    # ---- what happens

    def ask(self, *, has_settle: bool) -> None:
        if self.disk.trial or self.disk.current == 1:
            return
        self.has_failed = False
        self.disk = replace(self.disk, trial=Trial(phase=ASKED, generation=NEW, want=self.want, settle_s=float(has_settle), boot=self.boot))
        self.feed(Event("asked", want=self.want, has_settle=has_settle))

    def end_jail(self, *, has_finish: bool = False) -> None:
        if self.jail is None:
            return
        self.is_finishing = has_finish
        if self.memory is None:
            self.jail = None
            return
        if self.memory.phase == TRYING:
            self.jail = None
            self.feed(Event("failed", "it ended"))
            self.has_failed |= self.memory is not None
        else:
            self.jail = None
        self.go_on()

    def finish(self) -> None:
        self.is_finishing = False
        self.go_on()

    def go_on(self) -> None:
        self.look_for_rest()
        if self.memory and self.memory.phase in {IDLE, TRYING} and self.want == "up":
            self.start()

    def become_ready(self) -> None:
        if self.jail and self.memory and not self.is_ready:
            self.is_ready = True
            self.was_ready |= self.jail.number == 1
            self.feed(Event("ready"))

    def settle(self) -> None:
        if self.is_ready and self.memory and self.memory.has_settle:
            self.feed(Event("settled"))

    def end_copy(self, *, is_good: bool) -> None:
        if self.is_copy_running:
            self.is_copy_running = False
            self.feed(Event("copied") if is_good else Event("copy failed", "no space"))

    def command(self, word: str) -> None:
        if self.memory is None:
            return
        if word == "down" and self.memory.phase in {ASKED, COPYING}:
            self.feed(Event("cancelled", "told to"))
            self.want = "down"
        elif self.memory.phase != IDLE:
            self.feed(Event("wanted", want=word))
        else:
            self.want = word
            if word == "up":
                self.start()

    def reboot(self) -> None:
        self.kill()
        self.jail, self.is_finishing, self.boot, self.want = None, False, self.boot + "1", "up"
        self.take_over()

    def check(self) -> None:
        """What is true at every moment."""
        effective = self.disk.effective
        if self.jail:
            assert self.jail == effective, "a jail of a generation that is not in effect"
        if effective.number == 1 and self.disk.trial is None:
            assert self.was_ready, "kept, but never ready"
        if self.is_copy_running:
            assert self.jail is None
        assert self.disk.find(0) == OLD, "the old generation is always there"
        if self.memory and self.memory.phase == IDLE:
            assert self.disk.trial is None, "nobody carries it on"


MOVES = {
    "ask": lambda world: world.ask(has_settle=False), "ask to settle": lambda world: world.ask(has_settle=True),
    "end": World.end_jail, "end, then finish": lambda world: world.end_jail(has_finish=True), "finish": World.finish, "ready": World.become_ready, "settle": World.settle,
    "copied": lambda world: world.end_copy(is_good=True), "not copied": lambda world: world.end_copy(is_good=False),
    "up": lambda world: world.command("up"), "down": lambda world: world.command("down"),
    "kill": World.kill, "take over": lambda world: world.take_over() if world.memory is None else None, "reboot": World.reboot,
}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["up", "down"]), st.lists(st.tuples(st.sampled_from(sorted(MOVES)), st.one_of(st.none(), st.integers(0, 3))), max_size=40), st.booleans())
def test_always_one_generation_or_the_other(want: str, moves: list[tuple[str, int | None]], is_good: bool) -> None:  # noqa: FBT001
    """Whatever happens, and whoever is killed between two actions: never parts of both, and in the end nothing is left under way."""
    world = World(want=want)
    world.take_over()
    for move, dies_in in moves:
        world.dies_in = dies_in
        MOVES[move](world)
        world.check()
    world.dies_in = None
    if world.memory is None:
        world.take_over()
    world.finish()
    for _ in range(12):
        if world.disk.trial is None:
            break
        world.end_copy(is_good=True)
        if world.disk.effective.number == 1 and not is_good:
            world.end_jail()
        elif world.jail and world.disk.trial and world.disk.trial.phase == TRYING:
            world.become_ready()
            world.settle()
        else:
            world.end_jail()
        world.check()
    assert world.disk.trial is None
    assert world.disk.effective in {OLD, NEW}
    if world.want == "up":
        world.start()
        assert world.jail == world.disk.effective


def test_a_deployment_that_goes_well() -> None:
    """What is done, in its order."""
    done: list[str] = []
    state = Deployment()
    for kind in ("asked", "at rest", "copied", "ready"):
        state, actions = step(state, Event(kind))
        done += actions
    assert done == ["stop", "copy", "switch", "start", "keep"]
    assert state.phase == IDLE


def test_what_means_nothing_changes_nothing() -> None:
    """Every event in every phase gives a phase; one without an entry leaves it as it was."""
    for phase in (IDLE, ASKED, COPYING, TRYING, RETURNING):
        for kind in ("asked", "at rest", "copied", "copy failed", "cancelled", "ready", "settled", "failed", "wanted", "taken over", "unheard of"):
            state, actions = step(Deployment(phase), Event(kind))
            if (phase, kind) not in table.TABLE:
                assert (state, actions) == (Deployment(phase), ())

"""How a supervisor carries on where a killed one stopped: the pure rule."""

from __future__ import annotations

from ljsv import status
from ljsv.supervise.machine import End, Event, Machine, Rules, step
from ljsv.supervise.record import JailRecord
from ljsv.supervise.restore import CarryOn, Left, carry_on

BOOT = "this-boot"
DETAIL = {"boot": BOOT, "supervisor": "7", "want": "up", "since": "10.0", "generation": "3", "concluded": "2"}


def carried(jail: JailRecord | None = None, exits: str = "", *, is_down_file: bool = False, **detail: str) -> CarryOn:
    return carry_on(Left(BOOT, DETAIL | detail if detail else {}, jail, exits, is_down_file), 20.0)


def jail(generation: int, script: str = "run") -> JailRecord:
    return JailRecord(BOOT, generation, script, 100, 1, 101, 1)


def test_nothing_left_is_a_beginning() -> None:
    """Started, unless a `down` file says otherwise."""
    assert carried() == CarryOn(Machine(since=20.0), Event("u"))
    resting = carried(is_down_file=True)
    assert (resting.machine.want, resting.event) == ("down", None)


def test_another_boot_is_a_beginning() -> None:
    """What was wanted then is not wanted now."""
    found = carried(state="ready", want="down", boot="another")
    assert (found.machine.want, found.event, found.generation) == ("up", Event("u"), 0)


def test_a_jail_on_record_is_adopted() -> None:
    """In the state that was announced."""
    found = carried(jail(3), state="ready")
    assert (found.machine.state, found.event, found.jail) == (status.READY, None, jail(3))


def test_an_end_that_was_seen_to_is_not_seen_to_again() -> None:
    """The record of a jail may outlive the announcement of its end."""
    found = carried(jail(3), state="backoff", concluded="3", deadline="30.0")
    assert (found.machine.state, found.event, found.jail) == (status.BACKOFF, None, None)


def test_a_start_that_nobody_was_told_of_is_counted() -> None:
    """The run before it has ended as the exit record says, and this one is a restart."""
    found = carried(jail(4), "started 3\nended 3 1792\n", state="ready", restarts="5")
    assert (found.machine.state, found.machine.restarts, found.machine.end, found.generation) == (status.STARTING, 6, End(7, 0), 4)
    assert found.jail == jail(4)


def test_a_finish_that_never_had_its_go_is_run() -> None:
    """Announced as finishing, and no jail on record: it is begun again, not left out."""
    found = carried(state="finishing", end="7 0", concluded="3")
    assert found.jail is None
    assert found.event is not None
    machine, actions = step(found.machine, found.event, Rules(has_finish=True), 20.0)
    assert (machine.state, machine.end, actions) == (status.FINISHING, End(7, 0), ("run finish",))


def test_a_finish_that_is_begun_late_has_all_its_time() -> None:
    """However long nobody supervised."""
    found = carried(state="finishing", end="7 0", concluded="3", deadline="12.0")
    assert found.event is not None
    assert step(found.machine, found.event, Rules(has_finish=True, finish_timeout=60.0), 1000.0)[0].deadline == 1060.0


def test_a_start_that_was_announced_before_its_jail_is_counted_once() -> None:
    """A jail for control/u before it, or the announcement before the exit record is emptied."""
    assert carried(jail(4), state="starting", restarts="5", concluded="3").machine.restarts == 5


def test_unsure_of_a_jail_until_its_start_is_on_record() -> None:
    """Recorded, perhaps without its go: also in the eyes of the supervisor after the one that took it for ready."""
    assert carried(jail(4), state="backoff", concluded="3").is_unsure
    assert carried(jail(3), state="ready", unsure="yes").is_unsure
    assert not carried(jail(3), "started 3\n", state="ready", unsure="yes").is_unsure
    assert not carried(jail(3), state="ready").is_unsure
    assert carried(jail(4, "finish"), "started 3\nended 3 1792\n", state="ready").is_unsure

"""The deployment's table: (phase, event) -> (phase, actions). Pure: no I/O, no clock.

A deployment takes a service from one generation (an image and a layer of its
overlay) to another, or back:

    idle       none is under way
    asked      what runs has to end, and to stay down
    copying    nothing runs; the new generation's layer is made
    trying     the new generation is in effect, and has to become ready
    returning  it has not: what was is in effect again, and starts when the trial is at rest

`asked` is on disk before the first event comes; `switch`, `keep`, `go back`
and `conclude` write the next phase down before anything follows from it, and
`trying` is the only phase in which the new generation is in effect. So a
supervisor that takes over (event "taken over") carries on with what is on
disk, and a jail that runs is always of the generation that is in effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ljsv.service.generations import ASKED, RETURNING, TRYING

IDLE, COPYING = "idle", "copying"
WANT_UP, WANT_DOWN = "up", "down"

# What the supervisor is asked to do.
STOP = "stop"  # what runs, and leave it down
COPY = "copy"  # the layer, in a child
KILL_COPY = "kill copy"
SWITCH = "switch"  # write down: trying
START = "start"
SETTLE = "settle"  # say "settled" in a while
KEEP = "keep"  # write down: the new generation is the current one
GO_BACK = "go back"  # write down: returning
CONCLUDE = "conclude"  # write down: what was is the current one, and why
DURABLE = frozenset({SWITCH, KEEP, GO_BACK, CONCLUDE})


@dataclass(frozen=True)
class Deployment:
    """`want`: whether the service is to run when what was comes back; `reason`: why the new generation is not kept."""

    phase: str = IDLE
    want: str = WANT_UP
    has_settle: bool = False
    is_begun: bool = False  # the new generation was in effect
    reason: str = ""


@dataclass(frozen=True)
class Event:
    """`want` and `has_settle` come with "asked" and "taken over", `phase` and `is_same_boot` with "taken over"."""

    kind: str
    reason: str = ""
    want: str = WANT_UP
    has_settle: bool = False
    phase: str = IDLE
    is_same_boot: bool = True


Result = tuple[Deployment, tuple[str, ...]]
Rule = Callable[[Deployment, Event], Result]


def _asked(_d: Deployment, event: Event) -> Result:
    return Deployment(ASKED, event.want, event.has_settle), (STOP,)


def _at_rest_to_copy(d: Deployment, _e: Event) -> Result:
    return replace(d, phase=COPYING), (COPY,)


def _copied(d: Deployment, _e: Event) -> Result:
    return replace(d, phase=TRYING, is_begun=True), (SWITCH, START)


def _not_begun(d: Deployment, event: Event) -> Result:
    """It could not be made, or was not wanted any more: nothing has changed."""
    ended = replace(d, phase=IDLE, reason=event.reason)
    return ended, (CONCLUDE, START) if d.want == WANT_UP else (CONCLUDE,)


def _cancelled(d: Deployment, event: Event) -> Result:
    """Told to stay down before it was begun."""
    actions = (KILL_COPY, CONCLUDE) if d.phase == COPYING else (CONCLUDE,)
    return replace(d, phase=IDLE, want=WANT_DOWN, reason=event.reason), actions


def _ready(d: Deployment, _e: Event) -> Result:
    return (d, (SETTLE,)) if d.has_settle else (replace(d, phase=IDLE), (KEEP,))


def _settled(d: Deployment, _e: Event) -> Result:
    return replace(d, phase=IDLE), (KEEP,)


def _failed(d: Deployment, event: Event) -> Result:
    """Its run has ended, or it could not be built, or what it needs did not come: come to rest, as what was."""
    return replace(d, phase=RETURNING, reason=event.reason), (GO_BACK, STOP)


def _at_rest_again(d: Deployment, _e: Event) -> Result:
    return replace(d, phase=IDLE), (CONCLUDE, START) if d.want == WANT_UP else (CONCLUDE,)


def _wanted(d: Deployment, event: Event) -> Result:
    return replace(d, want=event.want), ()


def _taken_over(_d: Deployment, event: Event) -> Result:
    """By a new supervisor, which finds `phase` on disk. What is unproven is not tried again after a reboot."""
    found = Deployment(event.phase, event.want, event.has_settle, is_begun=event.phase != ASKED, reason=event.reason)
    if event.phase == IDLE:
        return Deployment(), ()
    if not event.is_same_boot:
        reason = event.reason or "the machine was started anew before it was ready"
        return replace(found, phase=IDLE, reason=reason), (CONCLUDE,)
    return found, () if event.phase == TRYING else (STOP,)


TABLE: dict[tuple[str, str], Rule] = {
    (IDLE, "asked"): _asked,
    (IDLE, "taken over"): _taken_over,
    (ASKED, "at rest"): _at_rest_to_copy,
    (COPYING, "copied"): _copied,
    (COPYING, "copy failed"): _not_begun,
    (ASKED, "cancelled"): _cancelled,
    (COPYING, "cancelled"): _cancelled,
    (TRYING, "ready"): _ready,
    (TRYING, "settled"): _settled,
    (TRYING, "failed"): _failed,
    (RETURNING, "at rest"): _at_rest_again,
    **{(phase, "wanted"): _wanted for phase in (ASKED, COPYING, TRYING, RETURNING)},
}


def step(d: Deployment, event: Event) -> Result:
    """The next phase and what is to be done; no entry in the table means that nothing changes."""
    rule = TABLE.get((d.phase, event.kind))
    return rule(d, event) if rule else (d, ())

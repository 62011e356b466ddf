"""`ljsv wait`: sleep until services are ready, up or down; nothing is sent.

The last word is the state (`ready` where none is given), all others are
names: `ljsv wait up ready` waits for a service that is called up, as does
`ljsv wait ./sv/up`. A service that has failed is told at once: nothing more
happens by itself.
"""

from __future__ import annotations

import os

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import one_line, print_fault, print_hint
from ljsv.cli.steer import settles_in
from ljsv.cli.subscribe import LONGEST_S, Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote

OPTIONS = {"--all": "", "--for": "ready|up|down"}
REACHED, MISSED, UNDECIDED = "ok", "fail", "timeout"
REACHED_IN = {
    "ready": frozenset({status.READY}),
    "up": frozenset({status.UP, status.READY}),
    "down": frozenset({status.DOWN, status.FAILED}),  # nothing runs, and nothing is going to by itself
}


def run(_verb: str, options: Options) -> int:
    wanted = _take_state(options)
    context = Context(options.get("--svdir"), options)
    return wait(context, context.names(), wanted)


def _take_state(options: Options) -> str:
    """The state that is waited for, taken out of the operands."""
    if options.has("--for"):
        wanted = options.get("--for")
        if wanted not in REACHED_IN:
            raise usage(f"--for wants ready, up or down: found {wanted!r}")
        return wanted
    if not options.operands or options.operands[-1] not in REACHED_IN:
        return "ready"
    if len(options.operands) == 1 and not options.has("--all"):
        word = options.operands[0]
        raise usage(f"which service is to be {word}?", hint=f"ljsv wait NAME {word}  # for a service that is called {word}: ljsv wait {word} ready")
    return options.operands.pop()


class Waiting:
    """What has been decided of each service so far."""

    def __init__(self, context: Context, names: list[str], wanted: str, subscription: Subscription) -> None:
        self.context = context
        self.wanted = wanted
        self.left = list(names)
        self.answers: dict[str, str] = {}
        self.faults: list[Fault] = []
        self._subscription = subscription
        self._heard: set[str] = set()
        self._since = {name: context.detail(name).get("since", "") for name in names}

    def look(self) -> bool:
        """Whether all are decided; those that have just been are told."""
        for name in list(self.left):
            self._listen(name)
            answer = self._judge(name)
            if answer != UNDECIDED:
                self.left.remove(name)
                self.tell(name, answer)
        return not self.left

    def _listen(self, name: str) -> None:
        """To its announcements, as soon as there is somebody to make them."""
        folder = os.path.realpath(self.context.supervise_of(name))
        if folder not in self._heard and self._subscription.add(f"{folder}/event"):
            self._heard.add(folder)

    def _judge(self, name: str) -> str:
        detail = self.context.detail(name)
        state = detail.get("state", status.DOWN)
        if not self.context.is_supervised(name):
            is_over = not detail or detail.get("supervisor", "-") == "-"
            if self.wanted == "down" and is_over:
                return REACHED
            return UNDECIDED if self.context.has_scanner() else self._find_nobody(name)
        if state in REACHED_IN[self.wanted] and not (self.wanted == "down" and "waiting" in detail):
            return UNDECIDED if self.wanted == "ready" and settles_in(detail) > 0 else REACHED
        if self.wanted == "down":
            return UNDECIDED
        if state == status.DOWN and detail.get("result") == "done" and detail.get("since") != self._since[name]:
            return REACHED  # it was what we wait for, and has done its work
        return MISSED if state == status.FAILED or (state == status.DOWN and detail.get("result") == "failed") else UNDECIDED

    def _find_nobody(self, name: str) -> str:
        try:
            self.context.send(name, "")
        except Fault as fault:
            self.faults.append(fault)
            return MISSED
        return UNDECIDED

    def settles_in(self) -> float:
        """When the next of them has run long enough to be called ready."""
        settling = [settles_in(self.context.detail(name)) for name in self.left] if self.wanted == "ready" else []
        return min((left for left in settling if left > 0), default=LONGEST_S)

    def tell(self, name: str, answer: str) -> None:
        """One line a service on standard output; why, and what to do, on standard error."""
        self.answers[name] = answer
        if any(fault.service == name for fault in self.faults):
            return
        detail = self.context.detail(name)
        after = f", after {self.context.wait_s():g}s" if answer == UNDECIDED else ""
        print(f"{answer}: {one_line(name, detail)}{after}", flush=True)
        if answer == UNDECIDED and detail.get("result") == "done":
            print_hint(f"ljsv once {quote(name)}  # it has done its work, and does not start by itself")
        elif answer == UNDECIDED:
            print_hint(f"ljsv status {quote(name)}  # -w SECONDS waits longer")
        elif answer == MISSED:
            print_hint(detail.get("hint") or f"ljsv why {quote(name)}")


def wait(context: Context, names: list[str], wanted: str) -> int:
    """Until each of them is what is wanted, or will not be, or the time is up; the exit code."""
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        waiting = Waiting(context, names, wanted, subscription)
        if not subscription.until(waiting.look, context.wait_s(), waiting.settles_in):
            for name in waiting.left:
                if not context.is_supervised(name):
                    waiting._find_nobody(name)
                waiting.tell(name, UNDECIDED)
    for fault in waiting.faults:
        print_fault(fault)
    if waiting.faults:
        return waiting.faults[0].exit_code
    return EXIT_OK if all(answer == REACHED for answer in waiting.answers.values()) else EXIT_NOT_REACHED

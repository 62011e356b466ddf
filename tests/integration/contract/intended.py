"""Every intended difference between runit and ljsv, by name, with its reason.

`cases`: (scenario, what is observed) -> (what runit shows, what ljsv shows).
An entry holds exactly there and nowhere else. One that is not true any more,
because either has changed, fails the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Cases = Mapping[tuple[str, str], tuple[str, str]]


@dataclass(frozen=True)
class Difference:
    """One intended difference."""

    name: str
    reason: str
    cases: Cases


def _not_paused(*places: tuple[str, str, str]) -> Cases:
    """(scenario, look, what `stat` and the bytes say beside "paused")."""
    cases = {}
    for scenario, look, rest in places:
        state, _, want = rest.partition(", ")
        cases[scenario, f"{look}: stat"] = (f"{state}, paused" + (f", {want}" if want else ""), rest)
        wants = "d" if state == "down" or want else "u"
        cases[scenario, f"{look}: bytes"] = tuple(f"paused {paused}, want {wants}, term 0, {state}" for paused in (1, 0))
    return cases  # type: ignore[return-value]


INTENDED: tuple[Difference, ...] = (
    Difference(
        "nothing that does not run is paused",
        "runsv sets byte 16 also when there is no ./run to be stopped, and keeps it when a paused one has ended; what is said then is not so",
        _not_paused(
            ("down.p", "after", "down"),
            *((f"paused.{bytes_}", "after", "down") for bytes_ in ("d", "x", "ud", "dx", "od")),
            *((f"{client}.down.pause", "after", "down") for client in ("sv", "sv-w")), ("svc.down.p", "after", "down"),
            *((f"sv.paused.{verb}", "after", "down") for verb in ("down", "exit", "stop", "shutdown", "force-stop", "force-shutdown")),
            ("finish.p", "after", "finish"),
            ("finish.po", "after", "finish, want down"), ("finish.po", "finish has ended", "down"),
            ("finish-want-down.p", "after", "finish, want down"), ("finish-want-down.p", "finish has ended", "down"),
            ("finish-want-down.po", "after", "finish, want down"), ("finish-want-down.po", "finish has ended", "down"),
        ),
    ),
    Difference(
        "k ends a finish script",
        "runsv forgets at `k` that ./finish runs, leaves it alone, runs it a second time after its end, and starts ./run beside it at `u`; "
        "ljsv kills it: nothing else ends one that hangs, before its timeout",
        {
            ("finish.k", "after: bytes"): ("paused 0, want u, term 0, finish", "paused 0, want u, term 0, run"),
            ("finish.k", "after: pid"): ("the same", "another"),
            ("finish.k", "after: stat"): ("finish", "run"),
            ("finish.k", "after: time"): ("the same", "later"),
            ("finish.k", "after: trace"): ("run: started; finish: started -1 9", "run: started; finish: started -1 9; run: started"),
            ("finish.k", "clients"): (
                "finish: NAME: (pid N) Ns = 0 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
                "run: NAME: (pid N) Ns = 0 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
            ),
            ("finish.ku", "after: trace"): (
                "run: started; finish: started -1 9; finish: TERM; run: started", "run: started; finish: started -1 9; run: started",
            ),
            ("finish-want-down.k", "after: bytes"): ("paused 0, want d, term 0, finish", "paused 0, want d, term 0, down"),
            ("finish-want-down.k", "after: pid"): ("the same", "none"),
            ("finish-want-down.k", "after: process"): ("runs", "none"),
            ("finish-want-down.k", "after: stat"): ("finish, want down", "down"),
            ("finish-want-down.k", "after: time"): ("the same", "later"),
            ("finish-want-down.k", "clients"): (
                "finish: NAME: (pid N) Ns, want down = 0 SVDIR/NAME: up (pid N) N seconds, want down = 0 = 0",
                "down: NAME: Ns, normally up = 0 SVDIR/NAME: down N seconds, normally up = 0 = 0",
            ),
            ("finish-want-down.ku", "after: trace"): (
                "run: started; run: TERM; finish: started -1 15; finish: TERM; run: started",
                "run: started; run: TERM; finish: started -1 15; run: started",
            ),
        },
    ),
    Difference(
        "the control FIFO is read at all times",
        "runsv reads nothing while it sleeps after a crash; `sv up` finds that up is wanted still and writes nothing, and the `d` before it wins",
        {
            ("sv.backoff.down-up", "after: stat"): ("down", "run"),
            ("sv.backoff.down-up", "after: bytes"): ("paused 0, want d, term 0, down", "paused 0, want u, term 0, run"),
            ("sv.backoff.down-up", "after: pid"): ("none", "another"),
            ("sv.backoff.down-up", "after: process"): ("none", "runs"),
            ("sv.backoff.down-up", "after: lines"): ("run: failed", "run: failed; run: started"),
            ("sv.backoff.down-up", "clients"): (
                "down: NAME: Ns, normally up = 0 SVDIR/NAME: down N seconds, normally up = 0 = 0",
                "run: NAME: (pid N) Ns = 0 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
            ),
        },
    ),
    Difference(
        "a start that is taken back is killed",
        "`d` finds a jail that is still being built, where TERM would find nobody who knows it: all of it is killed; finish is told so",
        {("finish.of.taken-back", "after: trace"): ("finish: -1 15", "finish: -1 9")},
    ),
    Difference("nothing outlives its jail", "what ./run leaves behind goes on under runsv, beside the next run", {("run.children", "children left"): ("1", "0")}),
    Difference(
        "the last status is true",
        "told to exit and then to kill, runsv leaves before it has seen the end of ./run: its files name a pid that is gone, for ever",
        {
            (scenario, f"after: {key}"): values
            for scenario, seen in (("sv.deaf.force-shutdown", {"pid": ("the same", "none"), "time": ("the same", "later")}),
                                   ("lsb.deaf.force-shutdown", {"pid": ("another", "none")}))
            for key, values in {
                "bytes": ("paused 0, want d, term 1, run", "paused 0, want d, term 0, down"), "process": ("gone", "none"),
                "stat": ("run, got TERM, want exit", "down"), **seen,
            }.items()
        },
    ),
    Difference(
        "a script that is not executable is a fault of the files",
        "runsv tries to execute it, at every start; ljsv refuses the service before anything is started, says why, and waits for the file to change; "
        "so there is no run to be finished either",
        {
            ("finish.of.not-executable", "after: lines"): ("finish: 111 0", ""),
            ("finish.not-executable", "after: stat"): ("run", "down"),
            ("finish.not-executable", "after: bytes"): ("paused 0, want u, term 0, run", "paused 0, want d, term 0, down"),
            ("finish.not-executable", "after: pid"): ("another", "none"),
            ("finish.not-executable", "after: process"): ("runs", "none"),
            ("finish.not-executable", "after: trace"): ("run: started", ""),
            ("finish.not-executable", "clients"): (
                "run: NAME: (pid N) Ns = 0 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
                "down: NAME: Ns, normally up = 0 SVDIR/NAME: down N seconds, normally up = 0 = 0",
            ),
        },
    ),
    Difference(
        "a log service can be added while the service runs",
        "runsv looks for log/ only when it starts, and `sv status` warns of the one that is added later",
        {
            ("log.added", "after: log"): ("; 0 bytes; none; ok False", "run; paused 0, want u, term 0, run; runs; ok True"),
            ("log.added", "after: files"): (
                "no supervise",
                "supervise drwx------; lock -rw------- 0; control prw-------; ok prw-------; status -rw-r--r-- 20; stat -rw-r--r--; pid -rw-r--r--",
            ),
            ("log.added", "sv status {name} [1]"): (
                "run: log.added: (pid N) Ns; warning: log.added/log: unable to open supervise/ok: file does not exist\nrun: log: (pid N) Ns (exit 1)",
                "run: log.added: (pid N) Ns; run: log: (pid N) Ns (exit 0)",
            ),
            ("log.added", "svstat {path}/log [1]"): (
                "SVDIR/log.added/log: unable to open supervise/ok: file does not exist (exit 0)", "SVDIR/log.added/log: up (pid N) N seconds (exit 0)",
            ),
            ("log.added", "clients"): (
                "run: NAME: (pid N) Ns; warning: NAME/log: unable to open supervise/ok: file does not exist run: log: (pid N) Ns = 1 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
                "run: NAME: (pid N) Ns; run: log: (pid N) Ns = 0 SVDIR/NAME: up (pid N) N seconds = 0 = 0",
            ),
        },
    ),
    Difference(
        "the pid file is always there",
        "runsv makes that of a log service only when it has run for the first time",
        {
            ("log.down-file", "down: files"): (
                "supervise drwx------; lock -rw------- 0; control prw-------; ok prw-------; status -rw-r--r-- 20; stat -rw-r--r--; pid No such file or directory",
                "supervise drwx------; lock -rw------- 0; control prw-------; ok prw-------; status -rw-r--r-- 20; stat -rw-r--r--; pid -rw-r--r--",
            ),
        },
    ),
)


def intended_of(scenario: str) -> dict[str, tuple[str, str, str]]:
    """What is observed -> (name of the difference, runit's, ljsv's), for one scenario."""
    return {
        key: (difference.name, *values)
        for difference in INTENDED
        for (where, key), values in difference.cases.items()
        if where == scenario
    }


def expect(scenario: str, measured: Mapping[str, str]) -> dict[str, str]:
    """What ljsv has to show: what runit has shown, less the intended differences."""
    return dict(measured) | {key: ljsv for key, (_name, _runit, ljsv) in intended_of(scenario).items()}


def compare(scenario: str, measured: Mapping[str, str], shown: Mapping[str, str]) -> list[str]:
    """What is wrong: differences that nobody intended, and entries that are not true."""
    intended = intended_of(scenario)
    problems = [
        f"{scenario}: {key}: the entry {name!r} of INTENDED is not true: runit shows {measured.get(key)!r}, not {runit!r}"
        for key, (name, runit, _ljsv) in intended.items()
        if measured.get(key) != runit
    ]
    expected = expect(scenario, measured)
    return problems + [
        f"{scenario}: {key}: runit {measured.get(key)!r}, ljsv {shown.get(key)!r}" + (f", expected {expected[key]!r}" if key in intended else "")
        for key in sorted(expected.keys() | shown.keys())
        if expected.get(key) != shown.get(key)
    ]

"""What a scenario is made of: steps, as data, each of which knows how to play itself in either peer.

A step is played as a generator that yields while it waits, so that all
scenarios of a group go on at the same time. Nothing is timed: a step waits for
what the supervise files say, or gives up after a generous while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tests.integration.contract.peers import STATES, Peer

GIVE_UP_S = 20.0
QUIET_S = 0.5
CLOCK_S = 3600

Playing = Iterator[None]


class Stuck(Exception):
    """What was waited for did not come."""


@dataclass(frozen=True)
class Scenario:
    """A service directory and what happens to it. Its name is the service's."""

    name: str
    files: Mapping[str, str]
    steps: tuple[Step, ...]


class Case:
    """One scenario in one peer. `expected`: what the other peer has shown, less the intended differences; None in the one that is the measure."""

    def __init__(self, peer: Peer, scenario: Scenario, expected: Mapping[str, str] | None) -> None:
        self.peer = peer
        self.scenario = scenario
        self.name = scenario.name
        self.expected = expected
        self.results: dict[str, str] = {}
        self.last_look: Look | None = None
        self.base = self.seen = (0, b"")  # pid and time of the look before the last, and of the last
        self.held: set[int] = set()

    def play(self) -> Playing:
        """All steps; one that cannot be done is a result by itself, and the last."""
        self.peer.add(self.name, dict(self.scenario.files))
        for number, step in enumerate(self.scenario.steps, 1):
            if step.acts:
                self.last_look = None
            try:
                yield from step.play(self)
            except (Stuck, OSError) as problem:
                self.results["stuck"] = f"step {number}, {step}: {problem}; {self.observe()}"
                return

    def until(self, condition: Callable[[], object], what: str) -> Playing:
        give_up_at = time.monotonic() + GIVE_UP_S
        while not condition():
            if time.monotonic() > give_up_at:
                raise Stuck(f"waited {GIVE_UP_S:g} s for {what}")
            yield

    def look_again(self) -> None:
        """The last look once more, when everything else has ended: what it has seen has to have stayed."""
        if self.last_look and "stuck" not in self.results:
            self.results |= self.last_look.keep(self, self.observe())

    # ---- what can be seen

    def observe(self) -> dict[str, str]:
        peer, name = self.peer, self.name
        status = peer.read(name, "status")
        pid = peer.pid(name)
        trace = peer.trace(name)
        return {
            "stat": peer.read(name, "stat").decode().removesuffix("\n"),
            "bytes": describe_status(status),
            "pid": "none" if not pid else "the same" if pid == self.base[0] else "another",
            "pid file": "agrees" if peer.read(name, "pid") == (b"%d\n" % pid if pid else b"") else "differs",
            "process": describe_process(pid),
            "time": "the same" if status[:12] == self.base[1] else "later" if status[:12] > self.base[1] else "earlier",
            "clock": "right" if abs(unix_seconds(status) - time.time()) < CLOCK_S else "wrong",
            "ok": "open" if peer.is_supervised(name) else "nobody reads it",
            "trace": "; ".join(trace),
            "lines": "; ".join(sorted(set(trace))),
        }


def describe_status(status: bytes) -> str:
    """Bytes 16 to 19 in words."""
    if len(status) != 20:
        return f"{len(status)} bytes"
    return f"paused {status[16]}, want {chr(status[17])}, term {status[18]}, {(*STATES, *range(3, 256))[status[19]]}"


def describe_process(pid: int) -> str:
    if not pid:
        return "none"
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return "stopped" if state in "Tt" else "gone" if state in "ZX" else "runs"


# ---- steps


class Step:
    """One thing that is done, waited for or looked at. `acts`: something may be different after it."""

    acts: ClassVar[bool] = True

    def play(self, case: Case) -> Playing:
        raise NotImplementedError


@dataclass(frozen=True)
class Write(Step):
    """Bytes into the control FIFO, at once."""

    data: bytes
    service: str = "{name}"

    def play(self, case: Case) -> Playing:
        name = self.service.format(name=case.name)
        case.peer.write_control(name, self.data)
        if not case.held:
            yield from case.until(lambda: case.peer.is_drained(name), "the control FIFO to be read")


@dataclass(frozen=True)
class Stat(Step):
    """Until `stat` says this, somebody supervises, and `status` and `pid` (written one after the other) agree with it."""

    acts = False
    text: str
    service: str = "{name}"

    def play(self, case: Case) -> Playing:
        name = self.service.format(name=case.name)

        def is_there() -> bool:
            status, pid = case.peer.read(name, "status"), case.peer.pid(name)
            agrees = status[19:] == bytes((STATES.index(self.text.split(",")[0]),)) and case.peer.read(name, "pid") == (b"%d\n" % pid if pid else b"")
            return agrees and case.peer.read(name, "stat").decode() == self.text + "\n" and case.peer.is_supervised(name)

        yield from case.until(is_there, f"stat of {name} to say {self.text}")


@dataclass(frozen=True)
class Says(Step):
    """Until the service has printed this line so often."""

    acts = False
    line: str
    times: int = 1

    def play(self, case: Case) -> Playing:
        yield from case.until(lambda: case.peer.trace(case.name).count(self.line) >= self.times, f"{self.line!r} {self.times} times")


@dataclass(frozen=True)
class Process(Step):
    """Until what runs is `stopped`, `runs` or `none`."""

    acts = False
    state: str

    def play(self, case: Case) -> Playing:
        yield from case.until(lambda: describe_process(case.peer.pid(case.name)) == self.state, f"the process to be {self.state}")


@dataclass(frozen=True)
class Gone(Step):
    """Until nobody supervises any more."""

    acts = False

    def play(self, case: Case) -> Playing:
        yield from case.until(lambda: not case.peer.is_supervised(case.name) and not case.peer.supervisor(case.name), "the supervisor to exit")


@dataclass(frozen=True)
class Aged(Step):
    """Until the clock's second is later than the status: `sv` counts in seconds, and takes what is of this second for an answer to it."""

    service: str = "{name}"
    acts = False

    def play(self, case: Case) -> Playing:
        name = self.service.format(name=case.name)
        yield from case.until(lambda: int(time.time()) > unix_seconds(case.peer.read(name, "status")), "the next second")


def unix_seconds(status: bytes) -> int:
    return int.from_bytes(status[:8], "big") - (1 << 62) - 10


@dataclass(frozen=True)
class Hit(Step):
    """A signal to what runs (run, finish, or the log service), from outside."""

    number: signal.Signals = signal.SIGKILL
    service: str = "{name}"

    def play(self, case: Case) -> Playing:
        name = self.service.format(name=case.name)
        pids: list[int] = []
        yield from case.until(lambda: pids.append(case.peer.pid(name)) or pids[-1], "a process to be hit")
        os.kill(pids[-1], self.number)


@dataclass(frozen=True)
class Hold(Step):
    """Stop runsv in its second of sleep, so that what is written then is written during the backoff. (That of ljsv is as long as policy says.)"""

    def play(self, case: Case) -> Playing:
        if case.peer.kind != "runit":
            return
        pid = case.peer.supervisor(case.name)
        os.kill(pid, signal.SIGSTOP)
        case.held.add(pid)
        yield from case.until(lambda: describe_process(pid) == "stopped", "runsv to stop")


@dataclass(frozen=True)
class Release(Step):
    """End of Hold."""

    def play(self, case: Case) -> Playing:
        for pid in case.held:
            os.kill(pid, signal.SIGCONT)
        case.held.clear()
        yield


@dataclass(frozen=True)
class Make(Step):
    """Write a file of the service directory, or a directory when it ends with `/`."""

    file: str
    text: str = ""

    def play(self, case: Case) -> Playing:
        path = case.peer.path(case.name) / self.file
        if self.file.endswith("/"):
            path.mkdir(parents=True)
        else:
            new = path.with_name(f".{path.name}.new")
            new.write_text(self.text)
            new.chmod(0o755 if self.text.startswith("#!") else 0o644)
            os.chown(new, case.peer.tree.uid, case.peer.tree.uid)
            new.rename(path)
            return
        os.chown(path, case.peer.tree.uid, case.peer.tree.uid)
        yield


@dataclass(frozen=True)
class Remove(Step):
    """Remove a file of the service directory; or move a directory out of it."""

    file: str

    def play(self, case: Case) -> Playing:
        path = case.peer.path(case.name) / self.file
        if path.is_dir():
            path.rename(case.peer.tree.root / f"removed.{case.name}.{path.name}")
        else:
            path.unlink()
        yield


@dataclass(frozen=True)
class Rename(Step):
    """Rename a file of the service directory."""

    old: str
    new: str

    def play(self, case: Case) -> Playing:
        path = case.peer.path(case.name)
        (path / self.old).rename(path / self.new)
        yield


STATUS = ("stat", "bytes", "pid", "pid file", "process", "time", "clock", "ok")


@dataclass(frozen=True)
class Look(Step):
    """Look at everything, when it has come to rest, and keep what was seen under `label`.

    In the peer that is the measure: at rest when nothing is due and nothing
    has changed for a moment. In the other: when it shows what is expected.
    `keys`: only these.
    """

    acts = False
    label: str = "after"
    keys: tuple[str, ...] = (*STATUS, "trace")

    def keep(self, case: Case, seen: Mapping[str, str]) -> dict[str, str]:
        return {f"{self.label}: {key}": seen[key] for key in self.keys}

    def play(self, case: Case) -> Playing:
        case.base = case.seen
        if case.expected is None:
            yield from self._settle(case)
        else:
            yield from self._reach(case, case.expected)
        case.results |= self.keep(case, case.observe())
        case.last_look = self
        case.seen = case.peer.pid(case.name), case.peer.read(case.name, "status")[:12]

    def _settle(self, case: Case) -> Playing:
        seen: Mapping[str, str] = {}
        since = time.monotonic()
        give_up_at = since + GIVE_UP_S
        while time.monotonic() < give_up_at:
            now = self.keep(case, case.observe())
            if now != seen or not case.peer.is_settled(case.name):
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > QUIET_S:
                return
            yield
        raise Stuck(f"{case.name} did not come to rest")

    def _reach(self, case: Case, expected: Mapping[str, str]) -> Playing:
        wanted = {f"{self.label}: {key}": expected.get(f"{self.label}: {key}") for key in self.keys}
        with contextlib.suppress(Stuck):  # the comparison says what is different
            yield from case.until(lambda: case.peer.is_drained(case.name) and self.keep(case, case.observe()) == wanted, "what is expected")


@dataclass(frozen=True)
class Note(Step):
    """Keep a description of something that is there now."""

    acts = False
    label: str
    ask: Callable[[Case], str] = field(repr=False)

    def play(self, case: Case) -> Playing:
        case.results[self.label] = self.ask(case)
        yield


@dataclass(frozen=True)
class Await(Step):
    """Until something that no other step knows is so."""

    acts = False
    what: str
    ask: Callable[[Case], object] = field(repr=False)

    def play(self, case: Case) -> Playing:
        yield from case.until(lambda: self.ask(case), self.what)


@dataclass(frozen=True)
class Client(Step):
    """One of the real programs: what it prints and returns is kept under its own words."""

    words: str

    @property
    def acts(self) -> bool:  # type: ignore[override]
        return "status" not in self.words

    def play(self, case: Case) -> Playing:
        done = case.peer.client(case.name, tuple(self.words.split()))
        try:
            yield from case.until(lambda: done.poll() is not None, f"{self.words} to end")
        except Stuck:
            done.kill()
            raise
        finally:
            output, _ = done.communicate(timeout=10)
        label = self.words
        turn = sum(key.startswith(f"{label} [") for key in case.results) + 1
        case.results[f"{label} [{turn}]"] = f"{case.peer.normalise(output)} (exit {done.returncode})"


def play_all(cases: list[Case]) -> None:
    """All at once, each as far as it can go, until all have ended."""
    playing = [case.play() for case in cases]
    while playing:
        playing = [play for play in playing if is_going_on(play)]
        time.sleep(0.01)
    for case in cases:
        case.look_again()


def is_going_on(play: Playing) -> bool:
    try:
        next(play)
    except StopIteration:
        return False
    return True


def ask_clients(peer: Peer, names: list[str]) -> dict[str, str]:
    """What `sv status`, `svstat` and `svok` print and return, for many services at once."""
    script = 'for n; do echo "== $n"; sv status "$n" 2>&1; echo "= $?"; svstat "$SVDIR/$n" 2>&1; echo "= $?"; svok "$SVDIR/$n" 2>&1; echo "= $?"; done'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *names], env=peer.tree.env | {"SVDIR": str(peer.svdir)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True, timeout=120, **peer.tree._as_user(),
    )
    answers = {}
    for part in done.stdout.split("== ")[1:]:
        name, _, text = part.partition("\n")
        answers[name] = peer.normalise(text).replace("\n", " ").replace(name, "NAME")
    return answers

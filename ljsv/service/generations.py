"""Which generation of a service is in effect: what `ljsv deploy` has recorded in the state directory.

A generation is an image and a layer of the overlay. The record is one file,
replaced by rename, and says both at once: whoever reads it, whenever, finds
one generation or another, never parts of two (docs/architecture.md,
Deployments). Whoever changes it holds `locked` from reading to writing.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace

from ljsv.errors import Fault, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FILE, LOCK, IMAGES = "generations", "generations.lock", "images"
RECORD_MAX = 1 << 20
KEPT = 3  # generations before the current one
ASKED, TRYING, RETURNING = "asked", "trying", "returning"
PHASES = (ASKED, TRYING, RETURNING)
DONE, RETURNED, DROPPED = "done", "returned", "dropped"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One. `image` is what people call it, `path` where it is ("": what the service directory says; relative to
    the state directory for one that is kept there), `type` squashfs or erofs.

    `layer`: which one of the overlay; `said`: what the service directory said
    of its base when it was made; `time`: when, seconds since 1970; `source`:
    the generation that this one goes back to, or -1.
    """

    number: int = 0
    image: str = ""
    path: str = ""
    type: str = ""
    layer: int = 0
    said: str = ""
    time: float = 0.0
    source: int = -1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A deployment under way: `phase` is asked, trying or returning. `copied`: the layer that its own is a copy of.

    `want`: what the service was before, up or down; `settle_s`: how long it has to stay ready.
    """

    phase: str
    generation: Generation
    copied: int = 0
    want: str = "up"
    settle_s: float = 0.0
    boot: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the last deployment ended: done, returned (what was came back) or dropped (it was not begun)."""

    number: int
    image: str
    result: str
    reason: str = ""
    back_to: str = ""
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Generations:
    """The whole record. `kept` is sorted by number and holds `current`, unless that is 0 and was never left."""

    current: int = 0
    kept: tuple[Generation, ...] = ()
    trial: Trial | None = None
    last: Outcome | None = None

    def find(self, number: int) -> Generation:
        """KeyError for one that is not kept."""
        for generation in self.kept:
            if generation.number == number:
                return generation
        if number == 0:
            return Generation()
        raise KeyError(number)

    @property
    def effective(self) -> Generation:
        """The one that a jail is built of now."""
        if self.trial and self.trial.phase == TRYING:
            return self.trial.generation
        return self.find(self.current)

    def keep_trial(self, outcome: Outcome) -> Generations:
        """What was tried is the current one; of those before it `KEPT` stay."""
        if self.trial is None:
            return self
        before = [generation for generation in (*self.kept, self.find(self.current)) if generation.number != self.trial.generation.number]
        unique = {generation.number: generation for generation in before}
        kept = sorted(unique.values(), key=lambda generation: generation.number)[-KEPT:]
        return Generations(current=self.trial.generation.number, kept=(*kept, self.trial.generation), last=outcome)

    def give_up_trial(self, outcome: Outcome) -> Generations:
        return replace(self, trial=None, last=outcome)

    def layers(self) -> set[int]:
        """Those of the overlay that somebody may still go back to."""
        found = {generation.layer for generation in self.kept} | {self.effective.layer, self.find(self.current).layer}
        return found | ({self.trial.generation.layer, self.trial.copied} if self.trial else set())

    def paths(self) -> set[str]:
        """The images that somebody may still go back to."""
        found = {generation.path for generation in self.kept}
        return (found | ({self.trial.generation.path} if self.trial else set())) - {""}

    def describe(self, generation: Generation) -> str:
        """`web:2`, or `what the service directory says`."""
        return generation.image or "the service directory's own base"


def read_generations(state: str) -> Generations:
    """The record in that state directory; generation 0 and nothing else where there is none. Fault where it makes no sense."""
    path = f"{state}/{FILE}"
    try:
        with open(path, "rb") as file:
            data = file.read(RECORD_MAX + 1)
    except FileNotFoundError:
        return Generations()
    except OSError as error:
        raise Fault.from_os("cannot read which image is deployed", error, path, hint=f"ls -l {quote(path)}") from None
    try:
        return _parse(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise Fault("cannot read which image is deployed", path, cause, hint=f"mv {quote(path)} {quote(f'{path}.bad')}  # goes back to the service directory's own base") from None


def _parse(found: dict[str, Any]) -> Generations:
    trial, last = found.get("trial"), found.get("last")
    record = Generations(
        current=int(found["current"]),
        kept=tuple(_make(Generation, item) for item in found["kept"]),
        trial=_make(Trial, trial | {"generation": _make(Generation, trial["generation"])}) if trial else None,
        last=_make(Outcome, last) if last else None,
    )
    record.find(record.current)
    if record.trial and record.trial.phase not in PHASES:
        raise ValueError(record.trial.phase)
    return record


def _make(kind: Any, found: dict[str, Any]) -> Any:
    """What a later version has added is left out; a value of another type is refused."""
    known = {item.name: item.type for item in fields(kind)}
    values = {name: value for name, value in found.items() if name in known}
    types: dict[str, Any] = {"int": int, "str": str, "float": (int, float)}
    for name, value in values.items():
        wanted = types.get(str(known[name]))
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise TypeError(name)
    return kind(**values)


def write_generations(state: str, record: Generations) -> None:
    """Replace the record, durably. The caller holds `locked`. OSError."""
    data = json.dumps(asdict(record), indent=1).encode() + b"\n"
    write_durably(state, FILE, data)


def write_durably(directory: str, name: str, data: bytes, mode: int = 0o600) -> None:
    """By write, fsync, rename and fsync of the directory: after a power cut it is the old or the new."""
    temporary = f"{directory}/{name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")
    fsync_directory(directory)


def fsync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(state: str) -> Iterator[None]:
    """From reading the record to replacing it. Held for moments only, so it is waited for."""
    os.makedirs(state, mode=0o700, exist_ok=True)
    fd = os.open(f"{state}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

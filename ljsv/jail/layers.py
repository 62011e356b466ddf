"""The layers of an overlay: copies of what a service has written, each made whole under a hidden name and renamed in.

Layer 0 is `upper/` in the overlay's directory itself, layer N `layers/N/upper`
with a `note` beside it: when and why it was made, and of which layer. Which
layer is in effect, and which are still needed, says the record of generations;
snapshots are needed until there are more than `SNAPSHOTS`. Whoever makes or
deletes one holds the overlay's lock, so no jail and no other copy is beside
it; only a snapshot of a service that runs is made without. Whatever is killed,
a layer is there whole or not at all; what was left is deleted by the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from ljsv.errors import Fault, quote
from ljsv.jail.outside import LAYERS, UPPER, WORK, refuse_foreign
from ljsv.jail.overlay import delete
from ljsv.jail.owner import run_as_owner
from ljsv.service.generations import fsync_directory, locked, read_generations, write_durably

NOTE = "note"
NOTE_MAX = 65536
SNAPSHOTS = 5
SNAPSHOT = "snapshot"
LOCK_TRIES, LOCK_PAUSE_S = 600, 0.1
LAYERS_MAX = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is said of a layer: `why` begins with "snapshot" for one that was asked for; `copied`: of which layer."""

    number: int
    time: float = 0.0
    why: str = ""
    copied: int = 0

    @property
    def is_snapshot(self) -> bool:
        return self.why.startswith(SNAPSHOT)


def folder_of(overlay: str, number: int) -> str:
    """Where upper/ and work/ of that layer are."""
    return overlay if number == 0 else f"{overlay}/{LAYERS}/{number}"


def read_notes(overlay: str) -> list[Note]:
    """All layers but 0, by number. One whose note cannot be read has only its number."""
    try:
        names = os.listdir(f"{overlay}/{LAYERS}")
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if not name.isdecimal() or int(name) > LAYERS_MAX:
            continue
        note = Note(number=int(name), why="its note cannot be read")
        with suppress(OSError, ValueError, TypeError), open(f"{overlay}/{LAYERS}/{name}/{NOTE}", "rb") as file:
            read = json.loads(file.read(NOTE_MAX))
            note = Note(number=int(name), time=float(read["time"]), why=str(read["why"]), copied=int(read["copied"]))
        found.append(note)
    return sorted(found, key=lambda note: note.number)


def next_number(overlay: str, used: set[int]) -> int:
    """One that no layer has, and none had that somebody may remember."""
    return max({note.number for note in read_notes(overlay)} | used | {0}) + 1


def wait_for_lock(overlay: str) -> int:
    """A descriptor with the overlay's lock. Fault where another has it for longer than a copy may take to be killed."""
    os.makedirs(overlay, mode=0o700, exist_ok=True)
    fd = os.open(overlay, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for _ in range(LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                refuse_foreign(fd, overlay)
            except Fault:
                os.close(fd)
                raise
            return fd
        time.sleep(LOCK_PAUSE_S)
    os.close(fd)
    raise Fault("the overlay is in use", overlay, f"somebody has held its lock for {LOCK_TRIES * LOCK_PAUSE_S:g}s", hint=f"fuser -v {quote(overlay)}")


def make_layer(overlay: str, note: Note, in_use: set[int]) -> None:
    """Make layer `note.number`, a copy of `note.copied`, when nothing uses the overlay; first delete what is needed no more.

    A layer that is there with that number was left by one that was killed.
    """
    fd = wait_for_lock(overlay)
    try:
        prune(overlay, in_use | {note.copied})
        delete(folder_of(overlay, note.number))
        staged = stage(overlay, note.copied)
        put(overlay, staged, note)
    finally:
        os.close(fd)


def stage(overlay: str, copied: int) -> str:
    """A copy of a layer under a hidden name. Where that layer was never written there is nothing to copy."""
    os.makedirs(f"{overlay}/{LAYERS}", mode=0o700, exist_ok=True)
    staged = f"{overlay}/{LAYERS}/.new-{os.getpid()}"
    delete(staged)
    os.mkdir(staged, 0o700)
    source, target = f"{folder_of(overlay, copied)}/{UPPER}", f"{staged}/{UPPER}"
    if not os.path.isdir(folder_of(overlay, copied)):
        raise Fault("there is no such layer", folder_of(overlay, copied), hint=f"ls {quote(f'{overlay}/{LAYERS}')}")
    if os.path.isdir(source):
        _copy(source, target, staged)
    return staged


def _copy(source: str, target: str, staged: str) -> None:
    """A copy that fails leaves nothing."""
    from ljsv.jail.copytree import copy_tree

    try:
        run_as_owner(lambda: copy_tree(source, target), what="cannot copy the overlay", path=source)
    except BaseException:
        delete(staged)
        raise


def put(overlay: str, staged: str, note: Note) -> None:
    """The rename that makes a layer of it; durable when this returns. OSError where there is one with its number."""
    write_durably(staged, NOTE, json.dumps(asdict(note)).encode() + b"\n")
    os.rename(staged, folder_of(overlay, note.number))
    fsync_directory(f"{overlay}/{LAYERS}")
    fsync_directory(overlay)


def prune(overlay: str, in_use: set[int]) -> list[int]:
    """Delete what copies have left, layers of no generation, and all but the newest snapshots; which. The caller holds the lock."""
    with suppress(FileNotFoundError):
        for name in os.listdir(f"{overlay}/{LAYERS}"):
            if name.startswith(".new-"):
                delete(f"{overlay}/{LAYERS}/{name}")
    notes = [note for note in read_notes(overlay) if note.number not in in_use]
    snapshots = [note for note in notes if note.is_snapshot]
    gone = [note for note in notes if not note.is_snapshot] + snapshots[: max(0, len(snapshots) - SNAPSHOTS)]
    for note in gone:
        remove(overlay, note.number)
    if 0 not in in_use and os.path.isdir(f"{overlay}/{UPPER}"):
        for part in (WORK, UPPER):
            delete(f"{overlay}/{part}")
        gone.append(Note(number=0))
    return [note.number for note in gone]


def remove(overlay: str, number: int) -> None:
    """First out of the way, so that half of it is never taken for a layer."""
    away = f"{overlay}/{LAYERS}/.new-{number}-old"
    delete(away)
    os.rename(folder_of(overlay, number), away)
    delete(away)


def snapshot(overlay: str, state: str, label: str, *, is_live: bool) -> Note:
    """A copy of the layer in effect that stays until there are `SNAPSHOTS` newer ones; the caller holds the lock, unless `is_live`."""
    found = read_generations(state)
    if not is_live:
        prune(overlay, found.layers())
    staged = stage(overlay, found.effective.layer)
    with locked(state):  # nobody else takes a number now
        used = read_generations(state).layers()
        note = Note(number=next_number(overlay, used), time=time.time(), why=f"{SNAPSHOT} {label}".strip(), copied=found.effective.layer)
        put(overlay, staged, note)
    kept = [other for other in read_notes(overlay) if other.is_snapshot and other.number not in used]
    for old in kept[: max(0, len(kept) - SNAPSHOTS)]:
        remove(overlay, old.number)
    return note

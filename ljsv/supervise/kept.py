"""What is kept of a service by its name, in the state directory: whose it is, and that it follows a service that is renamed.

    STATE/NAME/owner     the identity of the service directory, and the name that it had
    STATE/NAME/elsewhere the overlay that its `rootfs` named last: what it writes is there
    STATE/.IDENTITY      what was kept under a name that another service has taken since

A directory that was replaced by another of the same name leaves its state to
that. One that lives under another name does not: whoever finds its state in
the way puts it aside, under its identity, where its own supervisor finds it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.linux import files
from ljsv.paths import is_service_name
from ljsv.supervise.directory import format_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER, ELSEWHERE = "owner", "elsewhere"
OWNER_MAX = ELSEWHERE_MAX = 8192
ASIDE_MAX = 1000


def read_owner(folder: str) -> tuple[str, str]:
    """(identity, name) of the service that a state directory belongs to; "" for what it does not say."""
    try:
        lines = files.read_some(f"{folder}/{OWNER}", OWNER_MAX).decode(errors="surrogateescape").split("\n")
    except OSError:
        return "", ""
    return (*lines, "", "")[0], (*lines, "", "")[1]


def read_elsewhere(folder: str) -> str:
    """The overlay of the service with that state directory; "" where it is in there."""
    try:
        return files.read_some(f"{folder}/{ELSEWHERE}", ELSEWHERE_MAX).decode(errors="surrogateescape")
    except OSError:
        return ""


class Kept:
    """Of the scan directory `svdir`; its services' state directories are in `root`."""

    def __init__(self, svdir: str, root: str) -> None:
        self._svdir = svdir
        self._root = root

    def rename(self, identity: str, before: str, name: str) -> str:
        """It follows; where what was kept for that name is now, "" where nothing was. Fault where it cannot."""
        moved, place = "", f"{self._root}/{name}"
        with self._locked():
            mine = "" if read_owner(place)[0] == identity else self._find(identity, before)
            if mine:
                moved = self._clear(identity, name)
                self._move(mine, place)
            else:
                moved = self._claim(identity, name)
            self._sign(identity, name)
        return moved

    def claim(self, identity: str, name: str, *, is_made: bool = False) -> str:
        """What is kept for that name is its own from now on, or what is its own; the same answer. `is_made`: it is about to keep something."""
        if not is_made and not os.path.isdir(f"{self._root}/{name}") and not os.path.isdir(self._aside(identity)):
            return ""
        if read_owner(f"{self._root}/{name}") == (identity, name):
            return ""
        os.makedirs(self._root, exist_ok=True)
        with self._locked():
            moved = self._claim(identity, name)
            if is_made:
                os.makedirs(f"{self._root}/{name}", exist_ok=True)
            self._sign(identity, name)
        return moved

    def note_elsewhere(self, name: str, overlay: str) -> None:
        """For a purge, when the service directory that says so is gone. OSError."""
        if read_elsewhere(f"{self._root}/{name}") != overlay:
            status.write_by_rename(f"{self._root}/{name}", ELSEWHERE, overlay.encode(errors="surrogateescape"), 0o600)

    def left_by(self, name: str) -> list[str]:
        """What was put aside of a service that had that name and is gone."""
        found = []
        with suppress(OSError):
            for entry in os.listdir(self._root):
                identity, was = read_owner(f"{self._root}/{entry}") if entry.startswith(".") else ("", "")
                if was == name and not self._is_living(identity, ""):
                    found.append(f"{self._root}/{entry}")
        return sorted(found)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One supervisor at a time; one that stands still is not waited for."""
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # nothing is kept of any service
            yield
            return
        try:
            files.take_lock(fd)
            yield
        finally:
            os.close(fd)

    def _claim(self, identity: str, name: str) -> str:
        place = f"{self._root}/{name}"
        owner, _ = read_owner(place)
        is_aside = os.path.isdir(self._aside(identity))
        if owner == identity or not (is_aside or (owner and self._is_living(owner, name))):
            return ""  # its own, or of a directory that was replaced by this one
        mine = self._find(identity, "")
        moved = self._clear(identity, name)
        if mine:
            self._move(mine, place)
        return moved

    def _find(self, identity: str, before: str) -> str:
        """Where its state is: under the name before, put aside, or under any other."""
        if before and os.path.isdir(f"{self._root}/{before}") and read_owner(f"{self._root}/{before}")[0] in {identity, ""}:
            return f"{self._root}/{before}"
        if os.path.isdir(self._aside(identity)):
            return self._aside(identity)
        with suppress(OSError):
            return next((f"{self._root}/{entry}" for entry in os.listdir(self._root) if read_owner(f"{self._root}/{entry}")[0] == identity), "")
        return ""

    def _clear(self, identity: str, name: str) -> str:
        """What another has kept under that name is put aside; where."""
        place = f"{self._root}/{name}"
        owner, _ = read_owner(place)
        if not os.path.isdir(place) or owner == identity:
            return ""
        if not owner:  # of before there were owners
            self._sign("?", name)
        aside = self._aside(owner or f"?:{name}")
        for number in range(2, ASIDE_MAX):
            if not os.path.lexists(aside):
                break
            aside = f"{self._aside(owner or f'?:{name}')}~{number}"
        self._move(place, aside)
        return aside

    def _is_living(self, identity: str, besides: str) -> bool:
        """Whether a service directory with that identity is in the scan directory, under another name."""
        for name in os.listdir(self._svdir):
            if name != besides and is_service_name(name):
                with suppress(OSError):
                    fd = os.open(f"{self._svdir}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        if format_identity(files.read_identity(fd)) == identity:
                            return True
                    finally:
                        os.close(fd)
        return False

    def _aside(self, identity: str) -> str:
        return f"{self._root}/.{identity.replace(':', '-')}"

    def _sign(self, identity: str, name: str) -> None:
        place = f"{self._root}/{name}"
        if os.path.isdir(place) and read_owner(place) != (identity, name):
            with suppress(OSError):  # full: the next one tries
                status.write_by_rename(place, OWNER, f"{identity}\n{name}\n".encode(errors="surrogateescape"), 0o600)

    def _move(self, old: str, new: str) -> None:
        try:
            os.rename(old, new)
        except OSError as error:
            hint = f"ls -ld {quote(old)} {quote(new)}"
            raise Fault.from_os("cannot take along what is kept of the service", error, new, hint=hint) from None

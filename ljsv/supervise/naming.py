"""The name of a service is that of its directory, and what is kept by name follows it: state, logs, what it is told by."""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.paths import is_service_name
from ljsv.supervise.directory import format_identity
from ljsv.supervise.kept import Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.supervise.supervisor import Supervisor


def move_directory(old: str, new: str) -> None:
    """Where there is nothing with that name."""
    if not os.path.exists(new):
        with suppress(OSError):
            os.rename(old, new)


class Naming:
    """Of the supervisor `of`. A log service has no name of its own: its directory is in no scan directory."""

    def __init__(self, of: Supervisor) -> None:
        self._of = of
        self._kept = Kept(of.places.svdir, of.places.state)

    def take(self) -> bool:
        """Its directory may have another name by now: whether it has."""
        of = self._of
        folder, name = os.path.split(of.source.path)
        if folder != of.places.svdir or not is_service_name(name) or name == of.name:
            return False
        of.events.send("renamed", to=name)
        before, of.name = of.name, name
        of.events.source = name
        of.needs.follow_name(name)
        self._take_along(before)
        self._move_logs(before)
        of.logs.move(of.places.log_of(name))  # also where that name has a log already: the old name may be another's soon
        return True

    def follow(self) -> None:
        """It got its name while nobody supervised it: what lies under the one before follows. Where another service has that by now, but for the log."""
        of = self._of
        folder, before = os.path.split(status.read_detail(of.directory.path).get("directory", ""))
        if folder != of.places.svdir or before == of.name or not is_service_name(before) or not is_service_name(of.name):
            self._tell_of(self.claim)
            return
        of.events.send("renamed", was=before)
        self._take_along(before)
        if not os.path.lexists(f"{folder}/{before}"):
            self._move_logs(before)
            of.logs.file.was_in = of.places.log_of(before)  # still there where the new name had a log already

    def claim(self, *, is_made: bool = False, elsewhere: str = "") -> None:
        """What is kept under its name is its own, from now on where it `is_made` only now. Fault where another's cannot be put aside.

        `elsewhere`: where it writes, if not there.
        """
        if not self._of.has_deployments:
            return
        try:
            self._say(self._kept.claim(self._identity, self._of.name, is_made=is_made))
            if elsewhere:
                self._kept.note_elsewhere(self._of.name, elsewhere)
        except OSError as error:
            state = self._of.places.state
            raise Fault.from_os("cannot keep what the service writes", error, state, hint=f"ls -ld {quote(state)}; df {quote(state)}") from None

    @property
    def _identity(self) -> str:
        return format_identity(self._of.source.identity)

    def _take_along(self, before: str) -> None:
        if self._of.has_deployments:
            self._tell_of(lambda: self._say(self._kept.rename(self._identity, before, self._of.name)))

    def _tell_of(self, deed: Callable[[], None]) -> None:
        """What fails here fails again when it starts."""
        try:
            deed()
        except Fault as error:
            self._of.events.send("cannot take along what is kept of the service", "error", cause=str(error))

    def _say(self, moved: str) -> None:
        if moved:
            self._of.events.send("what was kept of another service under this name was put aside", "warning", path=moved)

    def _move_logs(self, before: str) -> None:
        of = self._of
        move_directory(of.places.log_of(before), of.places.log_of(of.name))
        if of.log_reading:
            of.log_reading.follow_name(before, of.name)

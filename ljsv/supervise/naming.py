"""The name of a service is that of its directory, and what is kept by name follows it: state, logs, what it is told by."""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv import status
from ljsv.paths import is_service_name
from ljsv.supervise import record

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        self._move_what_is_kept(before)
        of.logs.move(of.places.log_of(name))  # also where that name has a log already: the old name may be another's soon
        return True

    def follow(self) -> None:
        """It got its name while nobody supervised it: what lies under the one before follows. Where another service has that by now, only the overlay that runs."""
        of = self._of
        detail = status.read_detail(of.directory.path)
        folder, before = os.path.split(detail.get("directory", ""))
        if folder != of.places.svdir or before == of.name or not is_service_name(before) or not is_service_name(of.name):
            return
        if not os.path.lexists(f"{folder}/{before}"):
            of.events.send("renamed", was=before)
            self._move_what_is_kept(before)
            of.logs.file.was_in = of.places.log_of(before)  # still there where the new name had a log already
            return
        state = of.places.state_of(before)
        if record.find_living(of.directory.path) and detail.get("overlay", "").startswith(f"{state}/"):  # its lock keeps the other one out
            move_directory(state, of.places.state_of(of.name))

    def _move_what_is_kept(self, before: str) -> None:
        of = self._of
        for where in (of.places.state_of, of.places.log_of):
            move_directory(where(before), where(of.name))
        if of.log_reading:
            of.log_reading.follow_name(before, of.name)

"""The service directory as its supervisor knows it: read when it has changed, and what is different since the run began.

A bad edit never harms what runs: the last service that was found good stays,
and `edit_fault` says what is wrong with the files of now.
"""

from __future__ import annotations

import os

from ljsv.errors import Fault, quote
from ljsv.linux import files
from ljsv.service.read import Service, read_service
from ljsv.service.stored import resolve
from ljsv.service.toml import SIGNALS
from ljsv.supervise.fingerprint import (
    Fingerprint,
    describe_change,
    format_fingerprint,
    has,
    parse_fingerprint,
    replace_entry,
    take_fingerprint,
)
from ljsv.supervise.machine import BY_START, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def rules_of(service: Service) -> Rules:
    """What the table needs of the service's policy."""
    policy = service.policy
    restart, stop = policy.restart, policy.stop
    return Rules(
        restart.when, restart.first_delay, restart.delay, restart.max_delay, restart.stable_after,
        restart.give_up_after, SIGNALS[stop.signal], stop.timeout, policy.scripts.finish, service.has_finish,
        policy.ready.by or BY_START, policy.ready.timeout,
    )


class Source:
    """Of one service directory, by its descriptor: its name may change."""

    def __init__(self, dir_fd: int) -> None:
        self.dir_fd = dir_fd
        self.identity = files.read_identity(dir_fd)
        self.path = ""
        self.service: Service | None = None
        self.rules = Rules()
        self.normally = "up"
        self.changed = ""  # names of files that are different from those of the run
        self.edit_fault: Fault | None = None
        self._running_print: Fingerprint = ()
        self.running_files = ""  # the same in a line, for the next supervisor
        self._good_print: Fingerprint = ()
        self._deployed_print: tuple[int, ...] = ()
        self._is_old = False  # of a generation that is not in effect any more: good for its finish script only
        self.find_state: Callable[[], str] = str  # where its state directory is, "" where nothing is deployed
        self.refuse_edit: Callable[[Service], None] = lambda _service: None  # Fault where the service could never start with what it says by now
        self.look(is_running=False)

    def look(self, *, is_running: bool) -> None:
        """What status says of the directory itself."""
        self.find_path()
        self.normally = "down" if self.has("down") else "up"
        is_known = is_running and self._running_print
        self.changed = describe_change(self._running_print, take_fingerprint(self.dir_fd)) if is_known else ""

    def find_path(self) -> None:
        """Where it is now: another may have its old name."""
        self.path = os.readlink(f"/proc/self/fd/{self.dir_fd}")

    def has(self, name: str) -> bool:
        return has(self.dir_fd, name)

    def load(self, *, is_edit: bool = False) -> Service:
        """Read it, if it has changed since it was last found good. Fault when it is unfit; with `is_edit` also where it could only wait."""
        self.find_path()
        fingerprint = take_fingerprint(self.dir_fd)
        deployed = self._read_deployed_print()
        is_same = fingerprint == self._good_print and deployed == self._deployed_print
        if self.service is None or not is_same or self.service.directory != self.path or _has_new_image(self.service):
            try:
                service = self._read()
            except (ValueError, RecursionError, OSError) as error:
                raise Fault("cannot read the service directory", self.path, str(error), hint=f"ljsv lint {quote(self.path)}") from None
            if is_edit and self.service:
                self.refuse_edit(service)
            self.service, self.rules = service, rules_of(service)
            self._good_print, self._deployed_print, self._is_old = fingerprint, deployed, False
        return self.service

    def _read_deployed_print(self) -> tuple[int, ...]:
        """What the record of generations looks like: the command line may change it, too."""
        if not self.find_state():
            return ()
        try:
            entry = os.stat(f"{self.find_state()}/generations")
        except OSError:
            return ()
        return entry.st_ino, entry.st_ctime_ns, entry.st_size

    def forget(self) -> None:
        """Another generation is in effect: what was read counts for no start any more."""
        self._is_old, self._deployed_print = True, (-1,)

    def _read(self) -> Service:
        return read_service(self.path, self.dir_fd, uid=os.geteuid(), state=self.find_state())

    def load_quietly(self) -> None:
        """Read it for what status says, without touching what runs."""
        try:
            self.load(is_edit=True)
            self.edit_fault = None
        except Fault as fault:
            self.edit_fault = fault

    def restore(self, service: Service | None) -> None:
        """What the supervisor before had found good, where its files are not any more."""
        if service:
            self.service, self.rules = service, rules_of(service)

    @property
    def is_spoilt(self) -> bool:
        """There was a bad edit, and the values before it are at hand."""
        return self.edit_fault is not None and self.service is not None and not self._is_old

    def load_to_start(self, *, is_automatic: bool) -> Service:
        """For a run that is about to begin. An automatic start goes on with the last good values; any other is refused: Fault."""
        try:
            service = self.load(is_edit=is_automatic)
            self.edit_fault = None
        except Fault as fault:
            if not is_automatic or self.service is None or self._is_old:
                raise
            self.edit_fault, service = fault, self.service
        return service

    def run_began(self) -> None:
        """With the values that were last found good."""
        self._remember(self._good_print)

    def _remember(self, running: Fingerprint) -> None:
        self._running_print, self.running_files, self.changed = running, format_fingerprint(running), ""

    def run_goes_on(self, files: str) -> None:
        """Begun by another supervisor, whose `running_files` these are."""
        self._remember(parse_fingerprint(files) or self._good_print)
        self.look(is_running=True)

    def limits_hold(self) -> None:
        """What `limits` says by now is in force for the run as well."""
        self._remember(replace_entry(self._running_print, self._good_print, "limits"))

    def still_has_name(self, path: str) -> bool:
        """Whether that path leads to this very directory."""
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return files.read_identity(fd) == self.identity
        finally:
            os.close(fd)


def _has_new_image(service: Service) -> bool:
    """Whether the name of its image stands for another one by now, or for none."""
    if not service.image_name:
        return False
    try:
        return resolve(service.image_name).path != service.base_path
    except Fault:
        return True

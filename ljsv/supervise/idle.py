"""When a supervisor has nothing to do, and may leave its service to the dormitory (see `asleep`)."""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv.supervise import good
from ljsv.supervise.announce import machine_detail
from ljsv.supervise.asleep import BUSY, IDLE, SLEEP_AFTER_MAX_S, is_restful
from ljsv.supervise.detail import describe
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.supervise.supervisor import Supervisor


class Idleness:
    """Of the supervisor `of`. `sleep_after`: how many seconds it has to be idle; 0: it never sleeps."""

    def __init__(self, of: Supervisor) -> None:
        self._of = of
        self._was_asked = False
        self._asked = 0  # times, since something has happened
        self.sleep_after = 0.0

    def put_off(self) -> None:
        """Something has happened: it stays awake for a while."""
        if self.sleep_after and not self._was_asked:
            self._asked = 0
            self._of.set_timer("sleep", now() + self.sleep_after, self._ask)
        self._was_asked = False

    def _ask(self) -> None:
        """Nothing has happened for a while: may it sleep? Less and less often, until something happens."""
        of = self._of
        self._was_asked = True
        service = of.source.service
        if service and os.path.dirname(of.directory.path) == of.places.runtime and self._is_idle():
            with suppress(OSError):
                good.keep(of.directory.path, service)  # for an edit that wakes it, and is bad
                of.tell_scanner(f"{IDLE} {of.name}")
            self._asked += 1
            of.set_timer("sleep", now() + min(self.sleep_after * 2.0**self._asked, SLEEP_AFTER_MAX_S), self._ask)

    def go_to_sleep(self) -> None:
        """The dormitory is ready to hold what it holds."""
        self._of.set_timer("sleep", None, self._ask)
        if self._is_idle():
            self._of.hand_over()
        self._of.tell_scanner(f"{BUSY} {self._of.name}")

    def _is_idle(self) -> bool:
        """Nothing is going to happen by itself."""
        of = self._of
        known = {of.directory.control_fd, *of.jail.watched_fds, of.logs.current.fifo_fd, of.readiness.fd, of.group.memory_fd, *of.needs.fds}
        return bool(of.logs.path) and of.loop.is_idle(known) and is_restful(machine_detail(of.machine, of.jail.service_pid) | describe(of))

"""Who takes a service's log out of its FIFO: the log service where there is `log/run`, else its supervisor; and the change from one to the other.

Never both at once: a log service has ended, and its jail is gone, before the
supervisor reads on.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.supervise import machine as table
from ljsv.supervise import record
from ljsv.supervise.log_service import LogService
from ljsv.supervise.loop import now
from ljsv.supervise.machine import Event
from ljsv.supervise.naming import move_directory
from ljsv.supervise.supervisor import DEPLOY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.supervise.supervisor import Supervisor

LOST_TIMEOUT_S = 10.0
WANTS = {"u": table.WANT_UP, "o": table.WANT_ONCE, "d": table.WANT_DOWN, "x": table.WANT_DOWN}


class LogReading:
    """The log service of `of`, if it has one. `is_exiting`: it reads what is left, and then the supervisor ends."""

    def __init__(self, of: Supervisor) -> None:
        self._of = of
        self.service: LogService | None = None
        self.is_exiting = False
        self._lost_fd = -1
        self._fault = ""  # why there is no log service although there is log/run

    @property
    def is_by_us(self) -> bool:
        return not self._of.source.has("log/run") and self._lost_fd < 0

    def describe_fault(self) -> str:
        return self.service.describe_fault() if self.service else self._fault

    def describe_jail(self) -> str:
        """That of the log service, for `_open_lost`: pid and start time of its pid 1, and of its program; "" for none."""
        jail = self.service.jail.record if self.service else None
        return f"{jail.pid} {jail.start_time} {jail.service_pid} {jail.service_start_time}" if jail else ""

    def begin(self) -> None:
        """Before the service: what is in the FIFO is for whoever reads it now."""
        self._lost_fd = self._open_lost()
        self._of.open_log()
        if self._lost_fd >= 0:
            self._end_lost()
        self.look()

    def look(self) -> None:
        """`log/` has come, or has gone: the log service starts first, and takes the log out of the FIFO instead of this process."""
        of = self._of
        is_there = of.source.has("log/run")
        self._fault = ""
        if is_there and self.service is None and self._lost_fd < 0:
            of.logs.give_away()
            try:
                self.service = LogService(of)
                self.service.begin()
            except (Fault, OSError) as error:
                self.service = None
                place = f"{of.source.path}/log"
                fault = error if isinstance(error, Fault) else Fault.from_os("cannot supervise", error, place, hint=f"ls -ld {quote(place)}")
                self._fault = f"its log service does not run: {fault}  # {fault.hint}"
                of.events.send("cannot supervise the log service", "error", fault=str(fault), hint=fault.hint)
                of.logs.take_back()
        elif not is_there and self.service and not self.service.is_ending:
            self.service.feed(Event("x"))

    def files_changed(self) -> None:
        self.look()
        if self.service and not self.service.is_ending:
            self.service.files_changed()

    def follow_name(self, old: str, new: str) -> None:
        """The service has another name: what its log service says of itself follows."""
        places = self._of.places
        move_directory(places.log_of(f"{old}/log"), places.log_of(f"{new}/log"))
        if self.service:
            self.service.name = self.service.events.source = f"{new}/log"
            self.service.logs.move(places.log_of(f"{new}/log"))

    def ended(self) -> None:
        """It was told to exit, and has: the log is ours again, or the supervisor's end goes on."""
        self.service = None
        if not self.is_exiting:
            self._read_on()
        elif not self._of.machine.is_exiting:
            self._of.hand_over()
        else:
            self._of.finish()

    def end(self) -> None:
        """The service is down, and the supervisor was told to exit. A log service first reads what is left."""
        if self.service is None:
            self._of.finish()
            return
        self.is_exiting = True
        self._of.logs.close_fifos()
        self.service.end_of_input()

    def command(self, byte: str) -> None:
        """One that comes while it is exiting is for another supervisor, which follows then, or when this one is killed."""
        if byte in {*WANTS, DEPLOY}:
            machine = self._of.machine
            self._of.machine = replace(machine, want=WANTS.get(byte, machine.want), is_exiting=byte == "x")
            self._of.is_dirty = True

    def _read_on(self) -> None:
        self._of.logs.take_back()
        self._of.logs.pump()
        self.look()

    # ---- one whose log/ has gone while nobody supervised

    def _open_lost(self) -> int:
        """Its pidfd; -1 for none. It is told to end. Its own record may have gone with log/."""
        of = self._of
        detail = status.read_detail(of.directory.path)
        if of.source.has("log/run") or detail.get("boot") != of.boot_id or "log_jail" not in detail:
            return -1
        pidfd, service_fd = record.open_both(*map(int, detail["log_jail"].split()))
        if service_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(service_fd, signal.SIGTERM)
                signal.pidfd_send_signal(service_fd, signal.SIGCONT)
            os.close(service_fd)
        return pidfd

    def _end_lost(self) -> None:
        """Until it has ended, what is in the FIFO is its own."""
        of = self._of
        of.events.send("the log service has no directory any more: ending it", "warning")
        of.logs.give_away()
        of.loop.watch(self._lost_fd, self._lost_ended)
        of.set_timer("lost log service", now() + LOST_TIMEOUT_S, self._kill_lost)

    def _kill_lost(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._lost_fd, signal.SIGKILL)

    def _lost_ended(self) -> None:
        self._of.set_timer("lost log service", None, self._kill_lost)
        self._of.loop.forget(self._lost_fd)
        os.close(self._lost_fd)
        self._lost_fd = -1
        self._read_on()

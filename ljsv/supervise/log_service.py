"""The log service of a service: `log/run`, which reads the log FIFO instead of the supervisor.

It has the contract's files in `log/supervise`, and a jail of its own in which
only the log directory is writable. The supervisor of the service supervises
both, in one process and one loop: neither outlives the other by accident.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.jail.spec import BindMount, JailSpec
from ljsv.service.read import Service, read_service
from ljsv.supervise import machine as table
from ljsv.supervise.events import Events
from ljsv.supervise.machine import Event
from ljsv.supervise.restore import RUN
from ljsv.supervise.source import Source
from ljsv.supervise.supervisor import Supervisor

LOG_AT = "/run/log"  # where it finds the log directory


class LogSource(Source):
    """Its directory needs no `rootfs`."""

    def _read(self) -> Service:
        return read_service(self.path, self.dir_fd, uid=os.geteuid(), is_log=True)


class LogService(Supervisor):
    """The log service of `main`. Never begun without it, and told by it when to end."""

    has_deployments = False
    source_class = LogSource

    def __init__(self, main: Supervisor) -> None:
        dir_fd = os.open("log", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=main.dir_fd)
        try:
            events = Events(main.events.fd, f"{main.name}/log")
            super().__init__(
                main.places, f"{main.name}/log", dir_fd, events, main.nofile, main.groups, orders_fd=main.orders_fd, log_cap=main.log_cap, loop=main.loop
            )
        except (OSError, Fault):
            os.close(dir_fd)
            raise
        self.main_service = main
        self.is_ending = False

    def begin(self) -> None:
        self.directory.make()
        self.say_made()
        self.open_log()
        self._begin_supervising()
        if self.machine.is_exiting and not self.is_done:  # a supervisor that was killed had told it to
            self.feed(Event("u"))

    def describe_fault(self) -> str:
        """Why nobody reads the log although somebody should, "" where that is not so."""
        if self.machine.state not in {status.BACKOFF, status.FAILED}:
            return ""
        return f"its log service does not run: {self.fault or self.deaths.why}  # ljsv why {quote(self.main_service.name)}/log"

    def announce(self) -> None:
        self._announce()

    def files_changed(self) -> None:
        self._files_changed()

    def feed(self, event: Event) -> None:
        self.is_ending |= event.kind == "x"
        super().feed(event)
        self.main_service.is_dirty = True  # it says how its log service is

    def end_of_input(self) -> None:
        """Nobody writes any more: it ends by itself, or is stopped when its time is up."""
        self.is_ending = True
        if self.machine.state in table.WITH_RUN:
            self.machine = replace(self.machine, want=table.WANT_DOWN, is_exiting=True, is_commanded=True)
            self.feed(Event("stopping"))
        else:
            self.feed(Event("x"))

    def say_made(self) -> None:
        self.main_service.say_made()

    def _is_command(self, byte: str) -> bool:
        return byte in table.COMMANDS - {"x"}

    def _has_control(self, _name: str) -> bool:
        return False

    def _spec_of(self, service: Service, argv: tuple[str, ...]) -> JailSpec:
        directory = self.main_service.logs.file.directory
        os.makedirs(directory, mode=0o755, exist_ok=True)
        spec = super()._spec_of(service, argv)
        bind = BindMount(directory, LOG_AT, writable=True, is_mapped=os.geteuid() == 0)
        return spec.replace(hostname=self.main_service.name, binds=(*spec.binds, bind), env=(("LJSV_LOG", LOG_AT), *spec.env))

    def _open_stdin(self, script: str) -> int:
        """The log FIFO, for what follows the program too: its jail does not hold it for writing, so it sees the end."""
        if script != RUN:
            return super()._open_stdin(script)
        return self.main_service.logs.oldest.open_for_reading()

    def _end(self) -> None:
        self.is_done = True
        self._leave()
        self.readiness.close()
        os.close(self.dir_fd)
        self.logs.close()
        if self.main_service.log_reading:
            self.main_service.log_reading.ended()

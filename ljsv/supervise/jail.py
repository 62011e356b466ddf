"""The one jail of a service at a time: begun, or adopted from a supervisor before; recorded, watched, and its end read.

The record of a jail is written before its go, so that whoever supervises next
knows of everything that runs (see `record`). Its end is told once, with how
it ended, when pid 1 of the jail is gone and so is everything that was in it.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from dataclasses import replace

from ljsv.errors import Fault, quote
from ljsv.jail import builder, enter, ids, launch
from ljsv.jail.builder import Wiring
from ljsv.jail.failure import SERVER_GONE, STAGE_EXEC
from ljsv.jail.launch import Launch
from ljsv.linux import process
from ljsv.supervise import record
from ljsv.supervise.readiness import Wires
from ljsv.supervise.restore import RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ljsv.jail.limits import Setting
    from ljsv.jail.spec import JailSpec
    from ljsv.supervise.events import Events
    from ljsv.supervise.limits import JailGroup
    from ljsv.supervise.log import Log
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.machine import End
    from ljsv.supervise.record import JailRecord


class ServiceJail:
    """`on_executed`: ./run runs. `on_end` gets how the jail ended; why it could not be built is in `fault` then, at stage `failed_stage`.

    `mark` is its service directory's (see `orphans`). `directory` answers with the supervise directory, made anew where it was deleted. `on_change`: what
    is announced of it is different. `announce` does so at once, before the
    exit record is emptied. `orders_fd` leads to the nursery; `nofile` is what the
    scanner was started with.
    """

    def __init__(
        self,
        loop: Loop,
        events: Events,
        group: JailGroup,
        boot_id: str,
        mark: str,
        directory: Callable[[], str],
        on_change: Callable[[], None],
        announce: Callable[[], None],
        on_executed: Callable[[], None],
        on_end: Callable[[End], None],
        orders_fd: int,
        nofile: tuple[int, int],
    ) -> None:
        self._loop = loop
        self._nofile = nofile
        self._orders_fd = orders_fd
        self._events = events
        self._group = group
        self._boot_id = boot_id
        self._mark = mark
        self._directory = directory
        self._on_change = on_change
        self._announce = announce
        self._on_executed = on_executed
        self._on_end = on_end
        self.generation = self.concluded = 0  # of the jail begun last, and of the last whose end has been seen to
        self.script = RUN
        self.service_pid = 0
        self.fault: Fault | None = None
        self.failed_stage = ""
        self.notes: tuple[str, ...] = ()
        self.process_limits = ""  # what was asked for the run besides its control group, to be compared
        self.record: JailRecord | None = None
        self._launch: Launch | None = None
        self.spec: JailSpec | None = None  # of the jail begun last, not of one that was adopted
        self._log_inode = 0
        self._jail_fd = self._service_fd = self._server_fd = self._exit_fd = -1
        self._server_pid = 0  # of the jail begun last
        self._slot = -1
        self._was_over = False
        self.end_reason = ""  # why we ended it

    @property
    def is_alive(self) -> bool:
        """Its pid 1 is there."""
        return self._jail_fd >= 0

    @property
    def is_being_built(self) -> bool:
        """Whose pid is not known yet, but will be in a moment."""
        return self._launch is not None and not self.service_pid and not self._launch.failure

    @property
    def is_concluded(self) -> bool:
        """Nothing runs, and nothing is on record."""
        return self.record is None and self._launch is None

    @property
    def is_adopted(self) -> bool:
        """It was begun by the supervisor before."""
        return self.spec is None

    @property
    def is_at_exec(self) -> bool:
        """It was built, but its program could not be executed."""
        return self.failed_stage == STAGE_EXEC

    # ---- beginning

    def begin(self, spec: JailSpec, script: str, name: str, standard_fds: Sequence[int], log: Log, wires: Wires, *, is_drained: bool) -> None:
        """Start to build it. `standard_fds` (input, output) and `wires` stay the caller's. Fault or OSError when not even that goes.

        `is_drained`: pid 1 stays until what is in the log's FIFO has been
        read; a log service, which may be down, is not waited for.
        """
        self.fault, self.failed_stage, self.end_reason = None, "", ""
        self._server_pid = 0
        stdin_fd, stdout_fd = standard_fds
        exit_fd = cgroup_fd = -1
        id_map, slot_fd = ids.take_ids(spec.directory, self._slot, is_range=spec.is_range, is_host=spec.is_privileged)
        try:
            exit_fd = record.open_exit_record(self._directory())
            if os.fstat(exit_fd).st_size > record.EXIT_RECORD_MAX:
                self._announce()
                os.ftruncate(exit_fd, 0)
            self._close_exit()
            self._exit_fd = record.open_exit_again(exit_fd)
            self.generation += 1
            cgroup_fd = self._group.begin(name, spec.settings)
            drained, held = ((log.fifo_fd,), ()) if is_drained else ((), (log.fifo_fd,))
            wiring = Wiring(
                stdin_fd=stdin_fd, stdout_fd=stdout_fd, stderr_fd=stdout_fd, exit_fd=exit_fd, log_fds=drained,
                held_fds=(*held, slot_fd, *wires.held_fds), passed_fd=wires.passed_fd, relay=wires.relay,
                tty=spec.tty if script == RUN else "", cgroup_fd=cgroup_fd, generation=self.generation, mark=self._mark,
                nofile=builder.room_for_files(spec, self._nofile),
            )

            def rewire() -> Wiring:
                """Another lock and another generation than those of the order: it may hold the one, and write of the other, for a while."""
                nonlocal exit_fd
                exit_fd = record.renew_exit_record(exit_fd, self._directory())
                self._close_exit()
                self._exit_fd = record.open_exit_again(exit_fd)
                self.generation += 1
                return wiring.replace(exit_fd=exit_fd, generation=self.generation)

            self._launch = launch.begin(spec, id_map, wiring, self._orders_fd, rewire)
        except BlockingIOError:
            self._group.ended()
            self._close_exit()
            message = "the jail before this one has not ended yet"
            raise Fault("cannot start", f"{self._directory()}/exit", message, is_transient=True) from None
        except (OSError, Fault):
            self._group.ended()
            self._close_exit()
            raise
        finally:
            for fd in (slot_fd, exit_fd, cgroup_fd):
                if fd >= 0:
                    os.close(fd)
        self.spec, self.script, self._slot, self._log_inode = spec, script, id_map.slot, log.inode
        self.notes = self._launch.facts.notes
        self.process_limits = describe_process_limits(spec)
        self._jail_fd = self._launch.pidfd
        self._loop.watch(self._launch.channel_fd, self._read_report)
        self._loop.watch(self._jail_fd, self._ended)

    def _read_report(self) -> None:
        """What the builder says: its pid, then end of file when it has become the service."""
        jail = self._launch
        if jail is None:
            return
        is_open = jail.read_report()
        if jail.service_pid and self._service_fd < 0 and not self.service_pid:
            self._found_service(jail)
        if jail.server and jail.server.pid != self._server_pid:
            self._found_server(jail.server)
        if not is_open:
            self._close_launch(jail)
            if self.script == RUN and not self.fault:
                self._on_executed()

    def _close_launch(self, jail: Launch) -> None:
        """Nothing more is reported."""
        self._loop.forget(jail.channel_fd)
        if jail.failure:
            self.fault, self.failed_stage = jail.explain_failure(), jail.failure[0]  # while it can be asked
        jail.close()
        self._launch = None

    def _found_service(self, jail: Launch) -> None:
        """The builder has said who it is: write the record, then give the go."""
        try:
            self._service_fd = os.pidfd_open(jail.service_pid)
        except OSError:
            return  # gone already: the jail's end will say so
        self.service_pid = jail.service_pid
        self._on_change()
        found = record.record_of(self._boot_id, self.generation, self.script, jail)
        self.record = replace(found, log_inode=self._log_inode, cgroup=self._group.path or record.NO_GROUP)
        try:
            try:
                self.record.write(self._directory())
            except FileNotFoundError:  # deleted after that look at it
                self.record.write(self._directory())
            _apply_priority(jail.spec, jail.service_pid)
        except OSError as error:
            is_of_limits = error.errno in {errno.EPERM, errno.EACCES, errno.EINVAL}
            self.fault = Fault.from_os("cannot start", error, hint=f"see {jail.spec.directory}/limits" if is_of_limits else f"df {quote(self._directory())}")
            self.fault.is_transient = not is_of_limits
            self.kill()
            return
        jail.give_go()

    def _found_server(self, server: Launch) -> None:
        """The program that serves the jail's image: recorded, since its end is the jail's."""
        self._server_fd, self._server_pid = server.pidfd, server.pid
        self._loop.watch(self._server_fd, self._server_ended)
        if self.record:
            self.record = replace(self.record, server_pid=server.pid, server_start_time=process.read_start_time(server.pid))
            self.record.write(self._directory())

    # ---- adopting

    def adopt(self, jail: JailRecord, settings: tuple[Setting, ...] | None, detail: dict[str, str]) -> None:
        """That of the supervisor before, with the limits that its files ask for (None: they cannot be read). Watched from `go_on` on."""
        self.notes = tuple(text for name, text in detail.items() if name.startswith("jail_note"))
        self.process_limits = detail.get("process_limits", "")
        self.script, self.record, self._slot = jail.script, jail, jail.slot
        self._jail_fd, self._service_fd = record.open_jail(jail)
        self._server_fd = record.open_server(jail)
        self.service_pid = jail.service_pid if self.is_alive else 0
        self._group.adopt("" if jail.cgroup == record.NO_GROUP else jail.cgroup, settings, int(detail.get("oom_kills", "0")), is_alive=self.is_alive)

    def go_on(self) -> None:
        """Watch what was adopted; where it is dead already, that is told now."""
        if not self.is_alive:
            self._close_server()
            self._conclude()
            return
        self._loop.watch(self._jail_fd, self._ended)
        if self._server_fd >= 0:
            self._loop.watch(self._server_fd, self._server_ended)
        elif self.record and self.record.server_pid:
            self._server_ended()

    @property
    def watched_fds(self) -> tuple[int, int]:
        """What tells of its end."""
        return self._jail_fd, self._server_fd

    def keep_exits(self, fd: int) -> None:
        """The exit record of what is adopted, where it is open already (-1: it is not): its directory may have vanished."""
        self._exit_fd = fd

    def read_exits(self) -> str:
        """The text of the exit record, which stays open for what is adopted."""
        if self._exit_fd < 0:
            self._exit_fd = record.open_exit_reader(self._directory())
        return record.read_exits(self._exit_fd)

    def write_record(self, directory: str) -> None:
        """Again: the supervise directory was made anew. OSError where it cannot be written."""
        if self.record:
            self.record.write(directory)

    # ---- while it lives

    def signal_service(self, number: int) -> None:
        """Where there is a freezer, it stops and continues the whole jail; what is killed has to be seen by its pid 1."""
        if number == signal.SIGSTOP and self._group.freeze(is_frozen=True):
            return
        self._signal(self._service_fd, number)
        if number in {signal.SIGCONT, signal.SIGKILL}:
            self._group.freeze(is_frozen=False)

    def thaw_for_script(self) -> None:
        """A script has to run in a jail that is paused, but not the service."""
        if self._group.is_frozen:
            self._signal(self._service_fd, signal.SIGSTOP)
            self._group.freeze(is_frozen=False)

    def end_if_over(self) -> None:
        """Its service ended some time ago, and its log cannot be read: pid 1 need not keep that, since the supervisor does as well."""
        is_over = self._service_fd >= 0 and process.has_ended(self._service_fd)
        if is_over and self._was_over:
            self.kill()
        self._was_over = is_over

    def kill(self) -> None:
        """All of it."""
        self._group.kill()
        self._signal(self._jail_fd, signal.SIGKILL)

    def _signal(self, pidfd: int, number: int) -> None:
        if pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass
        except OSError as error:
            self._events.send("cannot send a signal", "error", signal=number, cause=error.strerror)

    def begin_script(self, name: str, spec: JailSpec, stdout_fd: int) -> tuple[int, int]:
        """Start ./NAME in it, with the rights of the service and its pid in LJSV_PID; `stdout_fd` is closed here.

        (pid of its parent, channel for its report). Fault or OSError.
        """
        try:
            jail = self.record
            if jail is None or self._service_fd < 0:
                raise Fault("cannot run a script", name, "the service does not run")
            entering = spec.replace(
                user=jail.user, capabilities=jail.capability_numbers(), has_filter=bool(jail.has_filter),
                env=(*spec.env, ("LJSV_PID", process.read_inner_pid(jail.service_pid))),
            )
            null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            try:
                wiring = Wiring(stdin_fd=null_fd, stdout_fd=stdout_fd, stderr_fd=stdout_fd, nofile=self._nofile)
                return enter.start_script(entering, jail.service_pid, self._service_fd, wiring, no_setid=bool(jail.no_setid))
            finally:
                os.close(null_fd)
        finally:
            os.close(stdout_fd)

    # ---- the end

    def _server_ended(self) -> None:
        """Nothing can be read from the image any more: the jail ends like a crash."""
        self._close_server()
        if self.is_alive and not (self.record and process.is_exiting(self.record.pid)):  # that of a jail that ends by itself may be gone a moment before it
            self.end_reason = "the program that serves its image has ended"
            if self._launch and not self._launch.failure:
                self._launch.failure = SERVER_GONE
            self._events.send("the program that serves the image has ended: killing the jail", "error")
            self.kill()

    def _close_server(self) -> None:
        if self._server_fd >= 0:
            self._loop.forget(self._server_fd)
            self._signal(self._server_fd, signal.SIGKILL)  # without its jail it has nothing to serve
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._server_fd, os.WEXITED)
            os.close(self._server_fd)
        self._server_fd = -1

    def _ended(self) -> None:
        """Pid 1 of the jail is gone, and so is everything that was in it."""
        self._read_report()
        if self._launch:  # its end of file has not come: take it as it is
            self._close_launch(self._launch)
        self._loop.forget(self._jail_fd)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._jail_fd, os.WEXITED | os.WNOHANG)
        os.close(self._jail_fd)
        if self._service_fd >= 0:
            os.close(self._service_fd)
        self._jail_fd = self._service_fd = -1
        self._was_over = False
        self.service_pid = 0
        self._close_server()
        self._conclude()

    def _conclude(self) -> None:
        """Read how it ended, and tell."""
        end = record.find_end(record.read_exits(self._exit_fd), self.generation)
        self._close_exit()
        self.record = None
        self.concluded = self.generation
        self._on_end(end)

    def _close_exit(self) -> None:
        if self._exit_fd >= 0:
            os.close(self._exit_fd)
        self._exit_fd = -1


def describe_process_limits(spec: JailSpec) -> str:
    """In a line: what is asked for a run besides its control group, and cannot be changed while it goes on."""
    return " ".join([f"{number}={value}" for number, value in sorted(spec.rlimits)] + [f"{spec.nice} {spec.oom_score_adj}"])


def _apply_priority(spec: JailSpec, pid: int) -> None:
    """What its limits say of the service alone, before it runs."""
    if spec.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, spec.nice)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"nice {spec.nice} (limits)") from None
    if spec.oom_score_adj is not None:
        try:
            with open(f"/proc/{pid}/oom_score_adj", "w") as file:
                file.write(str(spec.oom_score_adj))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"oom_score_adj {spec.oom_score_adj} (limits)") from None

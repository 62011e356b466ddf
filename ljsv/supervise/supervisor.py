"""One service's supervisor: feeds events to the table, and carries out what it answers.

Forked from the scanner, so it imports nothing of its own. Inside the loop an
error is an event for the journal and a retry, never an exit; if this process
is killed all the same, the next one reads `detail`, the jail's record and the
exit record, and carries on (see `record`).
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from contextlib import suppress
from dataclasses import replace

from ljsv import status
from ljsv.errors import Fault
from ljsv.jail import ids, launch
from ljsv.jail.spec import JailSpec, spec_of
from ljsv.linux import files, process
from ljsv.paths import Places, is_service_name
from ljsv.service.read import Service, read_service
from ljsv.service.toml import SIGNALS
from ljsv.supervise import machine as table
from ljsv.supervise import record
from ljsv.supervise.announce import Announcer
from ljsv.supervise.directory import SuperviseDirectory, format_identity, tell_subscribers
from ljsv.supervise.events import Events
from ljsv.supervise.fingerprint import Fingerprint, describe_change, take_fingerprint
from ljsv.supervise.log import LOG_FOLLOWER, Log
from ljsv.supervise.logfile import LogFile
from ljsv.supervise.loop import Loop, now
from ljsv.supervise.machine import Action, Event, Machine, Rules, Signal
from ljsv.supervise.restore import restore_machine

RUN, FINISH = "run", "finish"
RETRY_S = 1.0
MEND_AFTER_S = 2.0
FILES_QUIET_S = 0.05
PUMPS_A_TURN = 64
AUTOMATIC = frozenset({"deadline", "ended", "finish ended", "build failed"})


def rules_of(service: Service) -> Rules:
    """What the table needs of the service's policy."""
    policy = service.policy
    restart, stop = policy.restart, policy.stop
    return Rules(
        restart.when, restart.first_delay, restart.delay, restart.max_delay, restart.stable_after,
        restart.give_up_after, SIGNALS[stop.signal], stop.timeout, policy.scripts.finish, service.has_finish,
    )


class Supervisor:
    """One service. Owns its jail, its log and its supervise directory."""

    def __init__(self, places: Places, name: str, dir_fd: int, events: Events, nofile: tuple[int, int]) -> None:
        self.places = places
        self.name = name
        self.dir_fd = dir_fd
        self.events = events
        self.nofile = nofile
        self.identity = files.read_identity(dir_fd)
        self.boot_id = process.read_boot_id()
        self.loop = Loop()
        self.machine = Machine()
        self.rules = Rules()
        self.service: Service | None = None
        self.path = ""
        self.normally = "up"
        self.running_print: Fingerprint = ()
        self.good_print: Fingerprint = ()
        self.changed = ""
        self.edit_fault: Fault | None = None
        self.fault: Fault | None = None
        self.launch: launch.Launch | None = None
        self.spec: JailSpec | None = None
        self.script = RUN
        self.generation = 0
        self.jail_fd = self.service_fd = -1
        self.service_pid = 0
        self.slot = -1
        self.exit_fd = -1
        self.jail_record: record.JailRecord | None = None
        self.is_unsure = False  # adopted between record and go: perhaps it was never started
        self.is_at_exec = False
        self.is_done = False
        self.is_dirty = True
        self.me = f"{os.getpid()} {process.read_start_time(os.getpid())}"
        self._look()
        self.directory = SuperviseDirectory(self.path, dir_fd, places.runtime_of(name), format_identity(self.identity))
        self.announcer = Announcer(self.directory.path)
        self.logs: list[Log] = []  # the newest last; older ones only until their jail has ended
        self.log_fault = ""

    # ---- life of the supervisor

    def main(self, begun_fd: int) -> None:
        """Take over the service, close `begun_fd`, and supervise until told to exit."""
        self.directory.make()
        self._open_log()
        self.loop.on_signal(signal.SIGTERM, lambda: self.feed(Event("x")))
        self.loop.on_signal(signal.SIGHUP, self._files_changing)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what arrived since the fork comes now
        self.loop.watch(self.directory.control_fd, self._read_control)
        self._take_over()
        self._announce()
        self.directory.open_ok()
        os.close(begun_fd)
        self.loop.on_error = self._loop_error
        self.loop.run(self._announce)
        self._leave()

    def _take_over(self) -> None:
        """Begin, or carry on where a killed supervisor stopped."""
        self._load_quietly()
        detail = status.read_detail(self.directory.path)
        is_ours = detail.get("boot") == self.boot_id and detail.get("supervisor", "-") != "-"
        machine = restore_machine(detail) if is_ours else None
        jail = record.read_jail_record(self.directory.path)
        if jail and jail.boot_id == self.boot_id:
            self.generation = jail.generation
        if machine and machine.state in table.ALIVE and jail and jail.boot_id == self.boot_id:
            self._adopt(machine, jail)
        elif machine and (machine.state == status.BACKOFF or (machine.state == status.FAILED and "fault" not in detail)):
            self.machine = machine  # waiting, or it gave up
        elif machine and machine.want == table.WANT_DOWN:
            self.machine = replace(machine, state=status.DOWN, deadline=None)
        elif machine:
            self.machine = replace(machine, state=status.DOWN, deadline=None, result="")
            self.feed(Event("u" if machine.want == table.WANT_UP else "o"))
        elif self._is_there("down"):
            self.machine = Machine(want=table.WANT_DOWN, since=now())
        else:
            self.machine = Machine(since=now())
            self.feed(Event("u"))
        self.loop.set_timer("state", self.machine.deadline, self._deadline)

    def _adopt(self, machine: Machine, jail: record.JailRecord) -> None:
        """A jail of the supervisor before us: alive, or dead without anybody having seen it."""
        self.script = jail.script
        self.machine = machine
        self.slot = jail.slot
        self.jail_record = jail
        self.jail_fd, self.service_fd = record.open_jail(jail)
        self.exit_fd = record.open_exit_reader(self.directory.path)
        self.is_unsure = machine.state == status.STARTING
        if self.is_unsure:
            self.machine = replace(machine, state=status.READY, deadline=None)
        self.events.send("adopted", pid=jail.service_pid, alive=self.jail_fd >= 0)
        if self.jail_fd >= 0:
            self.service_pid = jail.service_pid
            self.running_print = self.good_print
            self.loop.watch(self.jail_fd, self._jail_ended)
        else:
            self._jail_gone()

    def _leave(self) -> None:
        """The last announcement; a service directory that is gone takes its runtime folder with it."""
        self.events.send("exited")
        self._try_announce()
        self.directory.close()
        if not self._is_still_there():
            self._remove_runtime()
        tell_subscribers(f"{self.places.scanner}/event", b"x")

    def _is_still_there(self) -> bool:
        with suppress(OSError):
            fd = os.open(f"{self.places.svdir}/{self.name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return files.read_identity(fd) == self.identity
            finally:
                os.close(fd)
        return False

    def _remove_runtime(self) -> None:
        folder = self.directory.path
        if not self.places.runtime or os.path.dirname(folder) != self.places.runtime:
            return
        with suppress(OSError):
            if os.readlink("supervise", dir_fd=self.dir_fd) == folder:
                os.unlink("supervise", dir_fd=self.dir_fd)
        for root in (f"{folder}/event", folder):
            with suppress(OSError):
                for name in os.listdir(root):
                    if not os.path.isdir(f"{root}/{name}"):
                        os.unlink(f"{root}/{name}")
                os.rmdir(root)

    def _loop_error(self, error: Exception) -> None:
        self.events.send("error in the supervisor's loop", "error", cause=repr(error), trace=traceback.format_exc(limit=-3))

    # ---- events in, actions out

    def feed(self, event: Event) -> None:
        """One event through the table, and its actions."""
        self.is_dirty = True
        before = self.machine
        self.machine, actions = table.step(before, event, self.rules, now())
        if self.machine.state != before.state:
            self._tell_journal(before)
        for action in actions:
            self._act(action, event)
        self.loop.set_timer("state", self.machine.deadline, self._deadline)

    def _deadline(self) -> None:
        if self.machine.state == status.STOPPING:
            self.events.send("stop timeout: killing the jail", "warning", timeout_s=self.rules.stop_timeout)
        self.feed(Event("deadline"))

    def _act(self, action: Action, event: Event) -> None:
        if isinstance(action, Signal):
            self._signal(self.service_fd, action.number)
        elif action == table.START:
            self._start(is_automatic=event.kind in AUTOMATIC)
        elif action == table.RUN_FINISH:
            self._start_finish()
        elif action == table.KILL_JAIL:
            self._signal(self.jail_fd, signal.SIGKILL)
        elif action == table.EXIT:
            self.is_done = True
            self.loop.stop()

    def _signal(self, pidfd: int, number: int) -> None:
        if pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass
        except OSError as error:
            self.events.send("cannot send a signal", "error", signal=number, cause=error.strerror)

    def _tell_journal(self, before: Machine) -> None:
        machine = self.machine
        fields = {"was": before.state}
        if machine.end and machine.end is not before.end:
            fields["end"] = machine.end.describe()
            fields["run_time_s"] = f"{machine.run_time:.3f}"
        if machine.state == status.BACKOFF and machine.deadline is not None:
            fields["next_try_s"] = f"{machine.deadline - now():.3f}"
        if machine.state == status.FAILED and self.fault:
            fields["fault"] = str(self.fault)
            fields["hint"] = self.fault.hint
        level = "error" if machine.state == status.FAILED else "warning" if machine.state == status.BACKOFF else "info"
        self.events.send(machine.state, level, **fields)

    # ---- the service directory

    def _look(self) -> None:
        """What status says of the directory itself."""
        self.path = os.readlink(f"/proc/self/fd/{self.dir_fd}")
        self.normally = "down" if self._is_there("down") else "up"
        is_running = self.running_print and self.machine.state in table.ALIVE
        self.changed = describe_change(self.running_print, take_fingerprint(self.dir_fd)) if is_running else ""
        self.is_dirty = True

    def _is_there(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.dir_fd)
        except OSError:
            return False
        return True

    def _load(self) -> Service:
        """Read the service directory, if it has changed since it was last found good. Fault when it is unfit."""
        fingerprint = take_fingerprint(self.dir_fd)
        if self.service is None or fingerprint != self.good_print or self.service.directory != self.path:
            try:
                self.service = read_service(self.path, self.dir_fd, uid=os.geteuid())
            except (ValueError, RecursionError, OSError) as error:
                raise Fault("cannot read the service directory", self.path, str(error), hint=f"ljsv lint {self.name}") from None
            self.rules = rules_of(self.service)
            self.good_print = fingerprint
        return self.service

    def _load_quietly(self) -> None:
        """Read it for what status says, without touching what runs."""
        try:
            self._load()
            self.edit_fault = None
        except Fault as fault:
            self.edit_fault = fault

    def _files_changing(self) -> None:
        """From the scanner. Wait a moment: more may come, and `rm -rf` must not find files that were just written."""
        self.loop.set_timer("files", now() + FILES_QUIET_S, self._files_changed)

    def _files_changed(self) -> None:
        """Something in the service directory is different, or it has another name."""
        self._look()
        if os.path.dirname(self.path) == self.places.svdir and is_service_name(os.path.basename(self.path)):
            self._rename(os.path.basename(self.path))
        if self.directory.is_lost():
            self._mend_later()
        before = str(self.edit_fault or "")
        if self.machine.state in {*table.ALIVE, status.BACKOFF}:
            self._load_quietly()
            if self.edit_fault and str(self.edit_fault) != before:
                self.events.send("bad edit", "warning", fault=str(self.edit_fault), hint=self.edit_fault.hint)
        else:
            self.feed(Event("files changed"))

    def _rename(self, name: str) -> None:
        if name == self.name:
            return
        self.events.send("renamed", to=name)
        old, self.name = self.places.log_of(self.name), name
        self.events.source = name
        new = self.places.log_of(name)
        if not os.path.exists(new):
            with suppress(OSError):
                os.rename(old, new)
        self._pump_log()
        for log in self.logs:  # also where that name has a log already: the old name may be another's soon
            log.move(new)

    # ---- starting and ending

    def _start(self, *, is_automatic: bool) -> None:
        """Begin to build the jail of ./run. A fault ends in `failed`, unless good values are at hand."""
        self.fault = None
        try:
            try:
                service = self._load()
                self.edit_fault = None
            except Fault as fault:
                if not (is_automatic and self.service):
                    raise
                self.edit_fault, service = fault, self.service
            self.logs[-1].file.max_size = service.policy.log.max_size
            self.logs[-1].file.keep = service.policy.log.keep
            self.running_print, self.changed = self.good_print, ""
            self._begin(service, RUN, ("./run",))
        except Fault as fault:
            self._build_failed(fault, at_exec=False)

    def _start_finish(self) -> None:
        end = self.machine.end or table.LOST
        if self.service is None:  # adopted, and its files are no longer what they were
            self.feed(Event("finish ended"))
            return
        try:
            self._begin(self.service, FINISH, ("./finish", str(end.code), str(end.status)))
        except Fault as fault:
            self.events.send("finish could not be started", "error", fault=str(fault), hint=fault.hint)
            self.feed(Event("finish ended"))

    def _begin(self, service: Service, script: str, argv: tuple[str, ...]) -> None:
        spec = spec_of(service, self.name, argv)
        open_fds: list[int] = []
        try:
            id_map, slot_fd = ids.take_ids(service.directory, self.slot)
            open_fds.append(slot_fd)
            exit_fd = record.open_exit_record(self.directory.path)
            open_fds.append(exit_fd)
            stdin_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            open_fds.append(stdin_fd)
            stdout_fd = self._open_stdout(service)
            open_fds.append(stdout_fd)
            self.generation += 1
            wiring = launch.Wiring(
                stdin_fd=stdin_fd, stdout_fd=stdout_fd, stderr_fd=stdout_fd, exit_fd=exit_fd,
                log_fds=(self.logs[-1].fifo_fd,), slot_fd=slot_fd, generation=self.generation,
                nofile=self.nofile,
            )
            self.launch = launch.begin(spec, id_map, wiring)
        except BlockingIOError:
            message = "the jail before this one has not ended yet"
            raise Fault("cannot start", f"{self.directory.path}/exit", message, is_transient=True) from None
        except OSError as error:
            fault = Fault.from_os("cannot start", error)
            fault.is_transient = error.errno not in {errno.ENOSPC, errno.EROFS}
            raise fault from None
        finally:
            for fd in open_fds:
                if fd >= 0:
                    os.close(fd)
        self.spec, self.script, self.slot = spec, script, id_map.slot
        self.exit_fd = record.open_exit_reader(self.directory.path)
        self.is_at_exec = self.is_unsure = False
        self.jail_fd = self.launch.pidfd
        self.loop.watch(self.launch.report_fd, self._read_report)
        self.loop.watch(self.jail_fd, self._jail_ended)

    def _open_stdout(self, service: Service) -> int:
        if service.policy.log.to == "none":
            return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return self.logs[-1].open_for_service()

    def _read_report(self) -> None:
        """What the builder says: its pid, then end of file when it has become the service."""
        jail = self.launch
        if jail is None:
            return
        is_open = jail.read_report()
        if jail.service_pid and self.service_fd < 0 and not self.service_pid:
            self._found_service(jail)
        if is_open:
            return
        self.loop.forget(jail.report_fd)
        jail.close()
        self.launch = None
        if jail.failure and self.spec:
            self.fault = launch.explain_failure(self.spec, jail.failure)
            self.is_at_exec = jail.failure[0] == launch.STAGE_EXEC
        elif self.script == RUN:
            self.feed(Event("executed"))

    def _found_service(self, jail: launch.Launch) -> None:
        """The builder has said who it is: write the record, then give the go."""
        try:
            self.service_fd = os.pidfd_open(jail.service_pid)
        except OSError:
            return  # gone already: the jail's end will say so
        self.service_pid = jail.service_pid
        self.is_dirty = True
        self.jail_record = record.record_of(
            self.boot_id, self.generation, self.script, jail.pid, jail.service_pid, jail.ids.slot
        )
        try:
            if jail.ids.count > 1:
                uid, gid = jail.service_ids
                self.logs[-1].give_to(jail.ids.outside_uid + uid, jail.ids.outside_gid + gid)
            self.jail_record.write(self.directory.path)
            self._apply_priority(jail.service_pid)
        except OSError as error:
            self.fault = Fault.from_os("cannot start", error)
            self._signal(self.jail_fd, signal.SIGKILL)
            return
        jail.give_go()

    def _apply_priority(self, pid: int) -> None:
        spec = self.spec
        if spec and spec.nice is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, pid, spec.nice)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"nice {spec.nice} (limits)") from None
        if spec and spec.oom_score_adj is not None:
            try:
                with open(f"/proc/{pid}/oom_score_adj", "w") as file:
                    file.write(str(spec.oom_score_adj))
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"oom_score_adj {spec.oom_score_adj} (limits)") from None

    def _jail_ended(self) -> None:
        """Pid 1 of the jail is gone, and so is everything that was in it."""
        if self.launch:
            self._read_report()
        if self.launch:  # its end of file has not come: take it as it is
            self.loop.forget(self.launch.report_fd)
            self.launch.close()
            self.launch = None
        self.loop.forget(self.jail_fd)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.jail_fd, os.WEXITED | os.WNOHANG)
        os.close(self.jail_fd)
        if self.service_fd >= 0:
            os.close(self.service_fd)
        self.jail_fd = self.service_fd = -1
        self.service_pid = 0
        self._pump_log()
        self._jail_gone()

    def _jail_gone(self) -> None:
        end = record.read_exit(self.exit_fd, self.generation)
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
        self.exit_fd, self.jail_record = -1, None
        with suppress(OSError):
            os.unlink(f"{self.directory.path}/jail")
        while len(self.logs) > 1 and not self.log_fault:
            self._drop_log(self.logs[0])
        if self.script == FINISH:
            if self.fault:
                self.events.send("finish could not be started", "error", fault=str(self.fault), hint=self.fault.hint)
                self.fault = None
            elif not end.is_success:
                self.events.send("finish ended", "warning", end=end.describe())
            self.feed(Event("finish ended"))
        elif self.fault and self.machine.state in {status.STARTING, status.STOPPING}:
            self._build_failed(self.fault, at_exec=self.is_at_exec)
        elif self.is_unsure and end is table.NOT_STARTED:
            self.machine = replace(self.machine, state=status.DOWN)
            self.feed(Event({table.WANT_UP: "u", table.WANT_ONCE: "o"}.get(self.machine.want, "d")))
        else:
            self.feed(Event("ended", end=end))

    def _build_failed(self, fault: Fault, *, at_exec: bool) -> None:
        self.fault = fault
        self.feed(Event("build failed", is_transient=fault.is_transient, at_exec=at_exec))

    # ---- control FIFO, log, announcements

    def _read_control(self) -> None:
        try:
            data = os.read(self.directory.control_fd, 64)
        except BlockingIOError:
            return
        for byte in data.decode("latin-1"):
            if byte in table.COMMANDS:
                self.feed(Event(byte))

    def _open_log(self) -> None:
        """A log on the FIFO of the supervise directory; an older one goes on until its jail has ended."""
        file = self.logs[-1].file if self.logs else LogFile(self.places.log_of(self.name), 10 << 20, 5)
        log = Log(self.directory.path, file)
        self.logs.append(log)
        self.loop.watch(log.fifo_fd, self._pump_log)
        if not log.is_empty():
            self._pump_log()

    def _drop_log(self, log: Log) -> None:
        self.loop.forget(log.fifo_fd)
        self.logs.remove(log)
        log.close()

    def _pump_log(self) -> None:
        """Take out what is there, a bounded amount a turn. On an error leave it, and try again later: nothing is lost."""
        has_written = False
        try:
            for log in self.logs:
                for _ in range(PUMPS_A_TURN):
                    if not log.pump():
                        break
                    has_written = True
        except OSError as error:
            self._log_failed(error)
            return
        if has_written:
            tell_subscribers(f"{self.directory.path}/event", b"l", LOG_FOLLOWER)
        if self.log_fault:
            self.log_fault, self.is_dirty = "", True
            for log in self.logs:
                self.loop.watch(log.fifo_fd, self._pump_log)
            self.events.send("the log can be written again")

    def _log_failed(self, error: OSError) -> None:
        path = self.logs[-1].file.path
        if not self.log_fault:
            for log in self.logs:
                self.loop.forget(log.fifo_fd)
            self.log_fault = f"cannot write the log: {path}: {error.strerror}; the service waits when its pipe is full"
            self.is_dirty = True
            self.events.send("cannot write the log", "error", path=path, cause=error.strerror)
        self.loop.set_timer("log", now() + RETRY_S, self._pump_log)

    def _announce(self) -> None:
        """At the end of every turn: say what has changed."""
        if self.events.is_waiting:
            self.events.flush()
        if self.is_done or not self.is_dirty:
            return
        is_building = self.launch is not None and not self.service_pid and not self.launch.failure
        if is_building and self.machine.state in {status.STARTING, status.FINISHING}:
            return  # its pid is known in a moment
        self._try_announce()

    def _try_announce(self) -> None:
        try:
            self.announcer.announce(self.machine, self.service_pid, self._extra())
            self.is_dirty = False
        except FileNotFoundError:
            self._mend_later()
        except OSError as error:
            self.events.send("cannot write the status", "error", path=self.directory.path, cause=error.strerror)
            self.loop.set_timer("announce", now() + RETRY_S, lambda: None)

    def _mend_later(self) -> None:
        """The supervise directory has vanished. Perhaps the service directory is just being deleted: do not stand in its way."""
        self.loop.set_timer("mend", now() + MEND_AFTER_S, self._make_directory_anew)

    def _make_directory_anew(self) -> None:
        """The supervise directory was deleted under us: everything in it is made again."""
        if not self.directory.is_lost() or not self._is_there("run"):
            return
        self.loop.forget(self.directory.control_fd)
        try:
            self.directory.make()
            self.announcer.forget()
            self._open_log()
            self.is_dirty = False
            if self.jail_record:
                self.jail_record.write(self.directory.path)
            self.announcer.announce(self.machine, self.service_pid, self._extra())
            self.directory.open_ok()
            self.events.send("the supervise directory had vanished, and was made anew", "warning", path=self.directory.path)
        except (OSError, Fault) as error:
            self.events.send("cannot make the supervise directory", "error", cause=str(error))
            self._mend_later()
        self.loop.watch(self.directory.control_fd, self._read_control)

    def _extra(self) -> dict[str, str]:
        """What `detail` says beside the machine's state."""
        fault = (self.fault if self.machine.state in {status.FAILED, status.BACKOFF} else None) or self.edit_fault
        service = self.service
        jail = ""
        if service:
            jail = "host" if service.base_kind == "host" else os.path.basename(service.base_path)
            jail += " + tmpfs" if service.rootfs.writable == "tmpfs" else ""
        extra = {
            "supervisor": "-" if self.is_done else self.me,
            "boot": self.boot_id,
            "directory": self.path,
            "identity": format_identity(self.identity),
            "jail": jail,
            "log": self.logs[-1].file.path,
            "fault": str(fault) if fault else "",
            "hint": fault.hint if fault else "",
            "changed": self.changed,
            "log_fault": self.log_fault,
            "normally": self.normally,
        }
        for number, note in enumerate(service.notes if service else ()):
            extra[f"note{number}"] = note
        return extra


def supervise(places: Places, name: str, dir_fd: int, events_fd: int, begun_fd: int, nofile: tuple[int, int]) -> None:
    """The supervisor process: never returns. Exit 0 when told to exit, 111 when it could not begin.

    `begun_fd` is closed once clients can see it; or the fault is written there.
    """
    process.prctl_name(f"ljsv {name}")
    events = Events(events_fd, name)
    code = 111
    try:
        Supervisor(places, name, dir_fd, events, nofile).main(begun_fd)
        code = 0
    except Fault as fault:
        events.send("cannot supervise", "error", fault=str(fault), hint=fault.hint)
        with suppress(OSError):
            os.write(begun_fd, f"{fault}\n{fault.hint}".encode(errors="replace")[:4096])
    except BaseException as error:  # noqa: BLE001 - the last word of a process that must not return
        events.send("supervisor failed", "error", cause=repr(error), trace=traceback.format_exc(limit=-4))
    finally:
        os._exit(code)

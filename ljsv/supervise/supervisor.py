"""One service's supervisor: feeds events to the table, and carries out what it answers.

Forked from the scanner, so it imports nothing of its own. Inside the loop an
error is an event for the journal and a retry, never an exit; if this process
is killed all the same, the next one reads `detail`, the jail's record and the
exit record, and carries on (see `record`).
"""

from __future__ import annotations

import os
import signal
import traceback
from contextlib import suppress
from dataclasses import replace

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.jail import terminal
from ljsv.jail.cgroup import NOT_ENFORCED, unenforced
from ljsv.jail.failure import FULL
from ljsv.jail.limits import settings_of
from ljsv.jail.spec import OVERLAY, JailSpec, spec_of
from ljsv.linux import process
from ljsv.paths import Places
from ljsv.service.read import Service
from ljsv.supervise import good, record
from ljsv.supervise import machine as table
from ljsv.supervise.announce import Announcer
from ljsv.supervise.asleep import EXIT_HANDED_OVER, GO_TO_SLEEP, Held, wake
from ljsv.supervise.deaths import Deaths
from ljsv.supervise.detail import describe
from ljsv.supervise.directory import MADE, PAGE, SuperviseDirectory, format_identity, remove_runtime_folder, tell_scanner, tell_subscribers
from ljsv.supervise.events import Events
from ljsv.supervise.fingerprint import is_edited, list_entries
from ljsv.supervise.idle import Idleness
from ljsv.supervise.jail import ServiceJail, describe_process_limits
from ljsv.supervise.limits import JailGroup
from ljsv.supervise.logfile import LogFile
from ljsv.supervise.logs import Logs
from ljsv.supervise.loop import Loop, now
from ljsv.supervise.machine import Action, Event, Machine, Script, Signal
from ljsv.supervise.naming import Naming
from ljsv.supervise.needs import Circle, Needs, name_dependents, open_dependents
from ljsv.supervise.orphans import mark_of
from ljsv.supervise.readiness import CHECK_TIMEOUT_S, Readiness, Wires
from ljsv.supervise.restore import FINISH, RUN, CarryOn, Left, adopt, carry_on
from ljsv.supervise.scripts import CHECK, NOT_RUN, Scripts
from ljsv.supervise.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.jail.group import Tree
    from ljsv.supervise.deployer import Deployer
    from ljsv.supervise.log_reading import LogReading

BEFORE_RUN = "control/u"
DEPLOY = "g"  # in the control FIFO: a deployment is asked for in the state directory
RETRY_S = 1.0
FINISH_TRIES = 12  # one a second, for what passes: the jail that a killed supervisor has begun, a descriptor too many
CONTROL_TIMEOUT_S = 10.0
MEND_AFTER_S = 2.0
DEATHS = frozenset({"ended", "build failed"})
AT_REST = (status.DOWN, status.FAILED)
FILES_QUIET_S = 0.05
COMMANDS_A_TURN = 64
LOG_MAX, LOG_KEEP = 10 << 20, 5
AUTOMATIC = frozenset({"deadline", "ended", "finish ended", "build failed", "needs ready"})


class Supervisor:
    """One service. Owns its jail, its log and its supervise directory."""

    source_class = Source
    has_deployments = True

    def __init__(
        self,
        places: Places,
        name: str,
        dir_fd: int,
        events: Events,
        nofile: tuple[int, int],
        groups: Tree,
        *,
        orders_fd: int = -1,
        log_cap: int = 0,
        loop: Loop | None = None,
        folder: str = "",
        make_log_reading: Callable[[Supervisor], LogReading] | None = None,
    ) -> None:
        self.places = places
        self.name = self.key = name
        self.dir_fd = dir_fd
        self.events = events
        self.nofile = nofile
        self.orders_fd = orders_fd
        self.boot_id = process.read_boot_id()
        self.me = f"{os.getpid()} {process.read_start_time(os.getpid())}"
        self.loop = loop or Loop()
        self.groups = groups
        self.log_cap = log_cap
        self.group = JailGroup(groups, self.loop, events, self.key, self._stuck, self._touch)
        self.machine = Machine()
        self.source = self.source_class(dir_fd)
        self.deployer: Deployer | None = None
        if self.has_deployments:
            self.source.find_state = lambda: self.places.state_of(self.name)
        self.directory = SuperviseDirectory(self.source.path, dir_fd, places.runtime_of(name), format_identity(self.source.identity), folder)
        self.announcer = Announcer(self.directory.path)
        self.fault: Fault | None = None
        self.deaths = Deaths()
        self.finish_tries = 0
        self._seen = list_entries(dir_fd)
        self.is_unsure = False  # adopted between record and go: perhaps it was never started
        self.is_done = False
        self.is_dirty = True
        self.announce_at = 0.0  # not before: it could not be written
        self.is_mending = False  # the supervise directory is to be made anew in a moment
        self.pending = ""  # commands that were read with the one that is obeyed now
        self.begun_fd = -1
        self.bridge_fds: list[int] = []  # open until clients can see it
        self.idleness = Idleness(self)
        self.naming = Naming(self)
        self.has_slept = False
        self.jail = ServiceJail(
            self.loop, events, self.group, self.boot_id, mark_of(self.source.identity), self._living_directory, self._touch, self._try_announce,
            lambda: self.feed(Event("executed")), self._jail_gone, orders_fd, nofile,
        )
        self.logs = Logs(self.loop, f"{name} log", events, LogFile(places.log_of(name), LOG_MAX, LOG_KEEP), self._touch, self.jail.end_if_over)
        self.needs = Needs(places, self.loop, format_identity(self.source.identity), self._needs_changed)
        self.source.refuse_edit = lambda service: self.needs.refuse_edit(self.name, service.policy.needs)
        self.waiting: tuple[str, ...] = ()
        self.scripts = Scripts(self.loop, f"{name} script", events, self._begin_script)
        self.readiness = Readiness(self.loop, name, events, self.scripts, self._said, self._touch, self._try_announce)
        self.log_reading = make_log_reading(self) if make_log_reading else None  # none for a log service
        self.holding: dict[int, str] = {}  # told to exit in order: who has to end first

    def _touch(self) -> None:
        """What is announced is different."""
        self.is_dirty = True

    # ---- life of the supervisor

    def main(self, begun_fd: int, sleep_after: float, held: Held | None, bridge_fds: list[int]) -> None:
        """Take over the service, close `begun_fd` when it is announced, and supervise until told to exit; or carry on with what was held while it slept."""
        self.begun_fd, self.idleness.sleep_after, self.bridge_fds = begun_fd, sleep_after, bridge_fds
        if held:
            self._wake(held)
        self.directory.make()
        self.naming.follow()
        self._load()  # where the log goes, before what is in it goes there
        if self.log_reading:
            self.log_reading.begin()
        self.loop.on_signal(signal.SIGTERM, self._exit)
        self.loop.on_signal(signal.SIGHUP, self._files_changing)
        self.loop.on_signal(signal.SIGUSR1, self._exit_in_order)
        self.loop.on_signal(signal.SIGUSR2, self.hand_over)
        self.loop.on_signal(GO_TO_SLEEP, self.idleness.go_to_sleep)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what arrived since the fork comes now
        self._begin_supervising()
        self.idleness.put_off()
        self.loop.on_error = self._loop_error
        self.loop.run(self._after_turn)
        self._leave()

    def _wake(self, held: Held) -> None:
        """Take what was held while it slept."""
        self.has_slept = True
        self.events.follow(f"{self.places.scanner}/events")
        self.idleness.sleep_after = wake(held, self.directory, self.events, self.idleness.sleep_after)
        self.announcer.wake(held.detail)
        self.jail.keep_exits(held.exit_fd)
        self.readiness.keep(held.ready_fd)
        self.naming.take()
        if held.jail and is_edited(self.dir_fd, held.detail.get("files", "")):
            self.source.restore(good.find(self.directory.path))  # an edit has to be good for what runs

    def _begin_supervising(self) -> None:
        self.loop.watch(self.directory.control_fd, self._read_control)
        if self.has_deployments and os.path.exists(f"{self.places.state_of(self.name)}/generations"):
            self._open_deployer().begin()
        self._take_over()
        if self.deployer:
            self.deployer.carry_on()
        self._announce()

    def _load(self) -> None:
        """The files; where they are bad, what the supervisor before us had found good."""
        self.source.load_quietly()
        if self.source.service is None:
            self.source.restore(good.find(self.directory.path))

    def _open_deployer(self) -> Deployer:
        if self.deployer is None:
            from ljsv.supervise.deployer import Deployer

            self.deployer = Deployer(self)
        return self.deployer

    def _after_turn(self) -> None:
        if self.log_reading and self.log_reading.service:
            self.log_reading.service.announce()
        self._announce()
        self.idleness.put_off()

    def _take_over(self) -> None:
        """Begin, or carry on where a killed supervisor stopped."""
        self._load()
        folder = self.directory.path
        exits = self.jail.read_exits()
        detail = status.read_detail(folder)
        self.group.remember(tuple(f"{NOT_ENFORCED}{limit}" for limit in unenforced(detail)))
        left = Left(self.boot_id, detail, record.read_jail_record(folder), exits, self.source.has("down"))
        found = carry_on(left, now())
        self.machine, self.deaths.why = found.machine, found.why
        self.jail.generation, self.jail.concluded = found.generation, found.concluded
        self.pending = found.commands
        self.announcer.carry_on(float(detail.get("since", "0")))
        if found.jail:
            self._adopt(found, detail)
        elif found.event:
            self.feed(found.event)
        self._obey(found.commands)
        self.set_timer("state", self.machine.deadline, self._deadline)

    def _end(self) -> None:
        """Down, and told to exit."""
        if self.log_reading:
            self.log_reading.end()

    def finish(self) -> None:
        """The end of this supervisor, and of its process."""
        self.is_done = True
        self.loop.stop()

    def _adopt(self, found: CarryOn, detail: dict[str, str]) -> None:
        """A jail of the supervisor before us: alive, or dead without anybody having seen it."""
        jail = found.jail
        if jail is None:
            return
        service = self.source.service
        self.jail.adopt(jail, settings_of(service.limits) if service and not self.source.edit_fault else None, detail)
        self.readiness.carry_on(self.directory.path, detail, service.policy.scripts.check if service else CHECK_TIMEOUT_S)
        self.machine, self.is_unsure = adopt(found.machine, jail, self.source.rules, self.readiness.by, now()), found.is_unsure
        if not self.has_slept:
            self.events.send("adopted", pid=jail.service_pid, alive=self.jail.is_alive)
        if self.jail.is_alive:
            self.source.run_goes_on(detail.get("files", ""))
            self.deaths.sent = frozenset(map(int, detail.get("sent", "").split()))
            self._hold_needs()
            self.logs.reopen(jail)
            self.readiness.follow(self.machine.state)
        self.jail.go_on()
        if self.jail.is_alive:
            self.feed(Event("adopted"))

    def _leave(self) -> None:
        """The last announcement; a service directory that is gone takes its runtime folder with it."""
        self.events.send("exited")
        if self.deployer:
            self.deployer.leave()
        self._try_announce()
        self.loop.forget(self.directory.control_fd)
        self.directory.close()
        if self.places.runtime and not self.source.still_has_name(f"{self.places.svdir}/{self.name}"):
            remove_runtime_folder(self.places.runtime, self.directory.path, self.dir_fd)
        tell_subscribers(f"{self.places.scanner}/event", b"x")

    def _loop_error(self, error: Exception) -> None:
        self.events.send("error in the supervisor's loop", "error", cause=repr(error), trace=traceback.format_exc(limit=-3))

    # ---- events in, actions out

    def feed(self, event: Event) -> None:
        """One event through the table, and its actions."""
        self._write_death()
        self.is_dirty = True
        if self.deployer and (self.jail.script == RUN or event.kind == "build failed"):
            self.deployer.before(event.kind)
        before = self.machine
        self.machine, actions = table.step(before, event, self.source.rules, now())
        if event.kind in DEATHS and self.jail.script == RUN:
            self.deaths.remember(before, self.machine, self.fault, is_commanded=table.was_told(before, now()))
            if table.START not in actions:
                self._write_death()
        if before.is_paused and not self.machine.is_paused:
            self.readiness.follow(self.machine.state)  # its watchdog waits anew
        if self.machine.state != before.state:
            self._tell_journal(before, is_death=event.kind in DEATHS)
            self._changed_state(before)
        if self.machine.state == status.STOPPING and before.state in table.RUNNING:
            self._try_announce()  # before it is told: killed in between, the next supervisor tells it again
        for action in actions:
            self._act(action, event)
        self._write_death()  # while the next jail is built: it has not had its go, so whoever kills us before takes nothing from the record
        self.set_timer("state", self.machine.deadline, self._deadline)
        if self.deployer:
            self.deployer.after(before.state)

    def _deadline(self) -> None:
        if self.machine.state == status.STOPPING and self.machine.due:
            self.events.send("a script in control/ takes too long: not waiting for it any more", "warning", timeout_s=self.source.rules.stop_timeout)
        elif self.machine.state == status.STOPPING:
            what = "it was told to" if self.machine.is_commanded else "it had said that it was stopping"
            self.deaths.reason = self.deaths.reason or f"not ended {self.source.rules.stop_timeout:g}s after {what}"
            self.events.send("stop timeout: killing the jail", "warning", timeout_s=self.source.rules.stop_timeout)
        if self.machine.state == status.UP and not self.machine.is_paused:
            said = self.readiness.status_text
            self.deaths.reason = f"not ready within {self.source.rules.ready_timeout:g}s" + (f"; {said}" if said else "")
            self.events.send("not ready in time: stopping it", "warning", timeout_s=self.source.rules.ready_timeout)
        self.feed(Event("deadline"))

    def _act(self, action: Action, event: Event) -> None:
        if isinstance(action, Signal | Script):
            self.scripts.give_way()
        if isinstance(action, Signal):
            self._signal_run(action)
        elif isinstance(action, Script):
            if self._has_control(action.name):
                self._run_control(action.name, lambda _code: None)
        elif action == table.START:
            self._start(is_automatic=event.kind in AUTOMATIC)
        elif action == table.RUN_FINISH:
            self._start_finish()
        elif action == table.KILL_JAIL:
            self.jail.kill()
        elif action == table.EXIT:
            self._end()

    def _signal_run(self, action: Signal) -> None:
        """To what runs; first ./control/C, which may have done it by itself (exit 0)."""

        def send(code: int = NOT_RUN) -> None:
            if code != 0:
                self.jail.signal_service(action.number)
            if action.script == "t":
                self._say_sent(action.number, is_sent=code != 0)

        self.deaths.sent |= {action.number}
        if action.script and self._has_control(action.script):
            self._run_control(action.script, send)
        elif action.number == signal.SIGKILL or action.at_once:
            self.jail.signal_service(action.number)
        else:
            self.scripts.then(send)

    def _say_sent(self, number: int, *, is_sent: bool) -> None:
        """Byte 18 is set when the signal has really been sent; it is due no more, either way."""
        machine = self.machine
        if machine.state in table.WITH_RUN:
            machine = replace(machine, term_sent=machine.term_sent or is_sent)
            if machine.due == number:
                machine = replace(machine, due=0, heeds_until=now() + self.source.rules.stop_timeout)
            self.machine = machine
            self.is_dirty = True

    def _has_control(self, name: str) -> bool:
        return self.scripts.has_control(self.source, name)

    def _run_control(self, name: str, then: Callable[[int], None]) -> None:
        self.jail.thaw_for_script()
        service = self.source.service
        self.scripts.run_control(name, service.policy.scripts.control if service else CONTROL_TIMEOUT_S, then)

    def _stuck(self, reason: str) -> None:
        """Above memory_high, and it gives nothing back."""
        self.deaths.reason = reason
        self.events.send("out of memory: killing the jail", "error", reason=reason)
        self.jail.kill()

    def _begin_script(self, name: str) -> tuple[int, int]:
        """Start ./NAME in the jail: see `ServiceJail.begin_script`."""
        service = self.source.service
        if service is None:
            raise Fault("cannot run a script", name, "the service does not run")
        argv = service.check_argv if name == CHECK else (f"./{name}",)
        return self.jail.begin_script(name, self._spec_of(service, argv), self._open_stdout(service))

    def _changed_state(self, before: Machine) -> None:
        """What follows from a new state, whatever has led to it."""
        machine = self.machine
        if machine.state in AT_REST and not machine.is_waiting and not self._is_in_circle:
            self.needs.release()
            self.waiting = ()
        if before.state == status.READY and machine.state != status.STARTING:
            needed_by = name_dependents(self.directory.path)
            if needed_by:
                self.events.send("others need it, and go on", "warning", needed_by=" ".join(needed_by))
        self.readiness.follow(machine.state)
        is_lost = machine.state == status.FAILED or (machine.state == status.DOWN and machine.result == "failed")
        if is_lost and self.source.service and self.source.service.policy.essential:
            self.events.send("an essential service has failed", "error")
            self.tell_scanner(f"essential {self.name}")

    def say_made(self) -> None:
        self.tell_scanner(f"{MADE} {self.name}")

    def tell_scanner(self, line: str) -> None:
        """A command, as soon as it is taken."""
        if not tell_scanner(self.places.scanner, f"{line}\n"):
            self.set_timer(f"tell {line}", now() + RETRY_S, lambda: self.tell_scanner(line))

    def _write_death(self) -> None:
        try:
            self.deaths.write(self.directory.path, self.logs.last_lines)
        except OSError as error:
            self.events.send("cannot write the record of a death", "error", path=self.directory.shown_path, cause=error.strerror)

    def _tell_journal(self, before: Machine, *, is_death: bool) -> None:
        machine = self.machine
        fields = {"was": before.state}
        if machine.end and is_death:
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
        self.source.look(is_running=self.machine.state in table.ALIVE)
        self.is_dirty = True

    def _files_changing(self) -> None:
        """From the scanner. Wait a moment: more may come, and `rm -rf` must not find files that were just written."""
        self.set_timer("files", now() + FILES_QUIET_S, self._files_changed)

    def _files_changed(self) -> None:
        """Something in the service directory is different, or it has another name."""
        self._look()
        if self.log_reading:
            self.log_reading.files_changed()
        self._take_name()
        if self.directory.is_lost():
            self._mend_later()
        elif self.directory.is_unlinked():
            self.set_timer("link", now() + MEND_AFTER_S, self._link_again)
        before = str(self.source.edit_fault or "")
        seen, self._seen = self._seen, list_entries(self.dir_fd)
        if self.machine.state in {*table.ALIVE, status.BACKOFF} and not self.machine.is_fault:
            self.source.load_quietly()
            fault = self.source.edit_fault
            self._keep_good()
            if fault is None:
                self._change_limits()
            elif str(fault) != before:
                self.events.send("bad edit", "warning", fault=str(fault), hint=fault.hint)
            return
        if self.source.edit_fault:
            self.source.load_quietly()
            self.is_dirty = True
        if seen != self._seen:  # a new scanner makes us look as well
            self.feed(Event("files changed"))

    def _keep_good(self) -> None:
        """For the next supervisor, as long as the files are bad."""
        service = self.source.service
        if not self.source.is_spoilt or service is None:
            good.drop(self.directory.path)
            return
        try:
            good.keep(self.directory.path, service)
        except OSError as error:
            self.events.send("cannot keep the last good values", "error", path=self.directory.shown_path, cause=error.strerror)

    def _change_limits(self) -> None:
        """What `limits` says of the control group holds for what runs as well; what it says of processes, from the next start on."""
        service = self.source.service
        if service is None or not self.group.path:
            return
        self.group.apply(settings_of(service.limits), f"{self.source.path}/limits")
        if describe_process_limits(self._spec_of(service, ("./run",))) == self.jail.process_limits:
            self.source.limits_hold()
            self._look()
        self.is_dirty = True

    def _take_name(self) -> None:
        if self.naming.take():
            self._try_announce()  # before a line is written: whoever supervises next has to know where

    # ---- starting and ending

    def _start(self, *, is_automatic: bool) -> None:
        """Begin to build the jail of ./run. A fault ends in `failed`, unless good values are at hand."""
        self.fault = None
        self.deaths.begin_run()
        self.finish_tries = 0
        try:
            self.source.find_path()
            self._take_name()  # also where nobody has told us yet: state and log of the old one may be another's
            self.naming.claim()
            service = self.source.load_to_start(is_automatic=is_automatic)
            if service.rootfs.writable == OVERLAY:
                self.naming.claim(is_made=True, elsewhere=service.rootfs.overlay)
            self._set_up_log(service)
            self.source.run_began()
            self.waiting = self.needs.missing(self.name, service.policy.needs)
            if self.waiting:
                self.feed(Event("needs missing"))
            elif self._has_control("u"):
                self._begin(service, BEFORE_RUN, ("./control/u",))
                self.set_timer("before run", now() + service.policy.scripts.control, self.jail.kill)
            else:
                self._begin(service, RUN, service.argv)
        except Fault as fault:
            self._build_failed(fault, at_exec=False)

    def _start_finish(self) -> None:
        end = self.machine.end or table.LOST
        service = self.source.service
        if service is None:  # adopted, and its files are no longer what they were
            self.feed(Event("finish ended"))
            return
        try:
            self._begin(service, FINISH, ("./finish", str(end.code), str(end.status)))
        except Fault as fault:
            self._finish_failed(fault)

    def _finish_failed(self, fault: Fault) -> None:
        """It could not be started: what passes is waited for, the rest is told."""
        self.finish_tries += 1
        if fault.is_transient and self.finish_tries < FINISH_TRIES:
            self.set_timer("finish", now() + RETRY_S, self._start_finish)
            return
        self.directory.show(fault)
        self.events.send("finish could not be started", "error", fault=str(fault), hint=fault.hint)
        self.feed(Event("finish ended"))

    def _begin(self, service: Service, script: str, argv: tuple[str, ...]) -> None:
        folder = self._living_directory()
        open_fds: list[int] = []
        wires = Wires()
        try:
            spec = self._spec_of(service, argv)
            if script == RUN:
                self.readiness.listen(folder, service.policy)
                wires = self.readiness.wire(folder)
                spec = spec.replace(binds=(*spec.binds, *wires.binds), env=(*wires.env, *spec.env))
            tty = spec.tty if script == RUN else ""
            open_fds.append(terminal.open_host(tty, spec.origin) if tty else self._open_stdin(script))
            open_fds.append(os.dup(open_fds[0]) if tty else self._open_stdout(service))
            self.jail.begin(spec, script, self.name, open_fds, self.logs.current, wires, is_drained=not (self.log_reading and self.log_reading.service))
        except OSError as error:  # of ours, not of what its files say: it may pass
            fault = Fault.from_os("cannot start", error, hint=f"{'df' if error.errno in FULL else 'ls -ld'} {quote(folder)}")
            fault.is_transient = True
            raise fault from None
        finally:
            wires.close()
            for fd in open_fds:
                os.close(fd)
        self.is_unsure = False

    def _spec_of(self, service: Service, argv: tuple[str, ...]) -> JailSpec:
        return spec_of(service, self.name, self.places.state_of(self.name), argv)

    def _open_stdin(self, _script: str) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _open_stdout(self, service: Service) -> int:
        if service.policy.log.to == "none":
            return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return self.logs.current.open_for_service()

    def _jail_gone(self, end: table.End) -> None:
        """Pid 1 of the jail is gone, and so is everything that was in it."""
        fault = self.jail.fault
        self.is_dirty = True
        memory = self.group.ended()
        self.deaths.reason = self.deaths.reason or memory or self.jail.end_reason
        self.scripts.cancel()
        self.readiness.end()
        self.logs.pump()
        self.logs.end_lines()
        self.logs.drop_older()
        if self.jail.script == BEFORE_RUN:
            self._before_run_ended(end, fault)
        elif self.jail.script == FINISH and self.is_unsure and end is table.NOT_STARTED:
            self.feed(Event("finish missing"))
        elif self.jail.script == FINISH and (fault or end is table.NOT_STARTED):
            self._finish_failed(fault or Fault("cannot start", "./finish", "its jail was killed while it was built", hint="ljsv why " + quote(self.name), is_transient=True))
        elif self.jail.script == FINISH:
            if not end.is_success:
                self.events.send("finish ended", "warning", end=end.describe())
            self.feed(Event("finish ended"))
        elif fault and self.machine.state in {status.STARTING, status.STOPPING}:
            self.deaths.stage = self.jail.failed_stage
            self._build_failed(fault, at_exec=self.jail.is_at_exec)
        elif self.is_unsure and end is table.NOT_STARTED:
            self.machine = replace(self.machine, state=status.DOWN)
            self.feed(Event({table.WANT_UP: "u", table.WANT_ONCE: "o"}.get(self.machine.want, "x" if self.machine.is_exiting else "d")))
        else:
            is_taken_back = end is table.NOT_STARTED and (self.machine.is_commanded or self.jail.is_adopted)
            self.feed(Event("ended", end=table.LOST if is_taken_back else end))

    def _before_run_ended(self, end: table.End, fault: Fault | None) -> None:
        """./control/u has ended, or could not be run: what it says of itself is told, and the start goes on."""
        self.set_timer("before run", None, self.jail.kill)
        if fault or not end.is_success:
            self.events.send("control script", "warning", script=BEFORE_RUN, ended=str(fault or end.describe()))
        self.jail.script = RUN
        service = self.source.service
        if self.machine.state != status.STARTING or service is None:
            self.feed(Event("build failed", is_transient=True))
            return
        self.machine = replace(self.machine, since=now())
        try:
            self._begin(service, RUN, service.argv)
        except Fault as why:
            self._build_failed(why, at_exec=False)

    def _build_failed(self, fault: Fault, *, at_exec: bool) -> None:
        self.fault = self.directory.show(fault)
        self.feed(Event("build failed", is_transient=fault.is_transient, at_exec=at_exec))

    # ---- needs and readiness

    def _said(self, kind: str, reason: str) -> None:
        """By the run, or for its silence."""
        self.deaths.reason = reason or self.deaths.reason
        self.feed(Event(kind))

    @property
    def _is_in_circle(self) -> bool:
        return self.machine.state == status.FAILED and isinstance(self.fault, Circle)

    def _needs_changed(self) -> None:
        """Something was announced by what it needs, or somebody new is supervised."""
        service = self.source.service
        if service and self._is_in_circle:
            with suppress(Fault):
                self.needs.missing(self.name, service.policy.needs)  # who has a supervisor by now is heard from now on
                self.feed(Event("files changed"))  # another's, by which it is none any more
            return
        if self.source.edit_fault:
            self._files_changing()  # it may be good by now
        if not self.machine.is_waiting or not service:
            return
        try:
            self.waiting = self.needs.missing(self.name, service.policy.needs)
        except Fault:
            self.waiting = ()  # the start will tell
        self.is_dirty = True
        if not self.waiting:
            self.feed(Event("needs ready"))

    def _hold_needs(self) -> None:
        """Adopted: those that it needs are to know about it."""
        if self.source.service:
            with suppress(Fault):
                self.needs.missing(self.name, self.source.service.policy.needs)

    # ---- the end in order, and handing over

    def _exit_in_order(self) -> None:
        """From the scanner, which stops everything: exit when those that need this service have ended."""
        for fd in self.holding:
            self.loop.forget(fd)
            os.close(fd)
        self.holding = open_dependents(self.directory.path)
        for fd in self.holding:
            self.loop.watch(fd, self._exit_in_order)
        if self.holding:
            self.events.send("waits for those that need it", needed_by=" ".join(self.holding.values()))
        else:
            self._exit()

    def _exit(self) -> None:
        """After what was commanded before: it may have been written while nobody supervised."""
        for _ in range(PAGE // COMMANDS_A_TURN):
            if not self._read_control():
                break
        self.feed(Event("x"))

    def hand_over(self) -> None:
        """Another supervisor, with the code that the scanner has, takes this service over. As if killed, but between two turns."""
        self._living_directory()  # what it reads of the jail has to be there
        self._try_announce()
        os._exit(EXIT_HANDED_OVER)

    # ---- control FIFO, log, announcements

    def _read_control(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self.directory.control_fd, COMMANDS_A_TURN)
        except BlockingIOError:
            return False
        self._obey(data.decode("latin-1"))
        return bool(data)

    def _obey(self, commands: str) -> None:
        """One after the other. What is left is announced with each: if we are killed in between, the next supervisor does it."""
        for done, byte in enumerate(commands, 1):
            self.pending = commands[done:]
            if self.log_reading and self.log_reading.is_exiting:
                self.log_reading.command(byte)
            elif byte == DEPLOY and self.has_deployments:
                self._open_deployer().ask()
            elif self.deployer and self.deployer.command(byte):
                continue
            elif self._is_command(byte) and not self.is_done:
                self.feed(Event(byte))

    def _is_command(self, byte: str) -> bool:
        return byte in table.COMMANDS

    def _set_up_log(self, service: Service) -> None:
        self.logs.set_up(self.name, service.policy.log, self.places, self.log_cap)

    def open_log(self) -> None:
        """A log on the FIFO of the supervise directory; an older one goes on until its jail has ended."""
        if self.source.service:
            self._set_up_log(self.source.service)
        self.logs.open(self.directory.path, is_read_by_us=self.log_reading is None or self.log_reading.is_by_us)

    def _announce(self) -> None:
        """At the end of every turn: say what has changed."""
        if self.events.is_waiting:
            self.events.flush()
        if self.is_done or not self.is_dirty or now() < self.announce_at:
            return
        if self.jail.is_being_built and self.machine.state in {status.STARTING, status.FINISHING}:
            return  # its pid is known in a moment
        self._try_announce()

    def _try_announce(self) -> None:
        try:
            self.announcer.announce(self.machine, self.jail.service_pid, describe(self))
            self.is_dirty = False
            self._say_supervised()
            if self.jail.is_concluded:  # not before what followed from its end is announced
                with suppress(OSError):
                    os.unlink(f"{self.directory.path}/jail")
        except FileNotFoundError:
            self._mend_later()
        except OSError as error:
            self._say_supervised()
            self.events.send("cannot write the status", "error", path=self.directory.shown_path, cause=error.strerror)
            self.announce_at = now() + RETRY_S
            self.set_timer("announce", self.announce_at, lambda: None)

    def _say_supervised(self) -> None:
        """To clients and to the scanner, once the first status is written."""
        self.directory.open_ok()
        if self.begun_fd >= 0:
            os.close(self.begun_fd)
        self.begun_fd = -1
        while self.bridge_fds:
            os.close(self.bridge_fds.pop())

    def _mend_later(self) -> None:
        """The supervise directory has vanished. Perhaps the service directory is just being deleted: do not stand in its way."""
        if not self.is_mending:  # else each announcement that fails would put it off
            self.is_mending = True
            self.set_timer("mend", now() + MEND_AFTER_S, self._make_directory_anew)

    def _link_again(self) -> None:
        """Only `supervise` itself was deleted."""
        if not self.directory.is_unlinked() or not self.source.has("run"):
            return
        try:
            self.directory.link()
        except Fault as fault:
            self.events.send("cannot link supervise", "error", fault=str(fault), hint=fault.hint)
            return
        self.events.send("supervise was deleted: it leads to the runtime directory again", "warning", path=self.directory.path)
        tell_subscribers(f"{self.places.scanner}/event", b"s")  # who needs it could not find it

    def _living_directory(self) -> str:
        """The path of the supervise directory, made anew where it was deleted."""
        if self.directory.is_lost():
            self._make_directory_anew()
        return self.directory.path

    def _make_directory_anew(self) -> None:
        """The supervise directory was deleted under us: everything in it is made again."""
        self.is_mending = False
        if not self.directory.is_lost() or not self.source.has("run"):
            return
        self.loop.forget(self.directory.control_fd)
        self.events.follow(f"{self.places.scanner}/events")
        try:
            self.directory.make()
            self.announcer.forget()
            self.open_log()
            self.is_dirty = False
            self.jail.write_record(self.directory.path)
            self.announcer.announce(self.machine, self.jail.service_pid, describe(self))
            self.directory.open_ok()
            self.say_made()
            self.events.send("the supervise directory had vanished, and was made anew", "warning", path=self.directory.shown_path)
        except (OSError, Fault) as error:
            self.events.send("cannot make the supervise directory", "error", cause=str(error))
            self.directory.give_up()
            self._mend_later()
        self.loop.watch(self.directory.control_fd, self._read_control)

    def set_timer(self, name: str, at: float | None, callback: Callable[[], None]) -> None:
        self.loop.set_timer(f"{self.key} {name}", at, callback)

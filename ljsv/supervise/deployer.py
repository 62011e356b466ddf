"""Carries a deployment out in its service's supervisor: feeds `deployment`'s table, does what that answers.

The record in the state directory is written before anything follows from
it. Where it cannot be written (a full disk) the supervisor tries again every
second, and starts nothing of either generation meanwhile. Imported only where
there is a record, or where one is asked for.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace

from ljsv import status
from ljsv.errors import Fault
from ljsv.jail import layers
from ljsv.jail.spec import overlay_of
from ljsv.linux import process
from ljsv.service import generations as record
from ljsv.service.generations import Generations, Outcome, read_generations, write_generations
from ljsv.supervise import deployment as table
from ljsv.supervise import machine
from ljsv.supervise.deployment import Deployment, Event
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.supervise.supervisor import Supervisor

RETRY_S = 1.0
REASON_MAX = 2000
FAILURES = frozenset({"ended", "build failed"})


class Deployer:
    """One service's deployments. `state` is the table's; the record is read anew whenever it is changed."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        self.state = Deployment()
        self._later: tuple[str, ...] = ()  # actions that wait until the service is taken over
        self._unfinished: tuple[str, ...] = ()  # actions that wait for the record to be written
        self._copy_pid = 0
        self._copy_fd = self._said_fd = -1
        self.shown: dict[str, str] = {}
        self._show(Generations())

    @property
    def _folder(self) -> str:
        return self._of.places.state_of(self._of.name)

    @property
    def is_busy(self) -> bool:
        return self.state.phase != table.IDLE or bool(self._unfinished)

    # ---- what the supervisor tells

    def begin(self) -> None:
        """Before the service is taken over: what the supervisor before this one, or before a reboot, has left."""
        found = self._read()
        trial = found.trial
        if trial is None:
            return
        is_same_boot = trial.boot == self._of.boot_id
        event = Event("taken over", trial.reason, trial.want, bool(trial.settle_s), trial.phase, is_same_boot)
        self._of.events.send("carries a deployment on" if is_same_boot else "a deployment was under way at the last shutdown", "warning", image=trial.generation.image, phase=trial.phase)
        self.state, actions = table.step(self.state, event)
        if is_same_boot:
            self._later = actions
        else:
            self._do(actions)

    def carry_on(self) -> None:
        """After the service was taken over."""
        actions, self._later = self._later, ()
        self._do(actions)
        if self.state.phase == record.TRYING:
            self._look_at_trial()
        self._look_for_rest()

    def _look_at_trial(self) -> None:
        state = self._of.machine.state
        if state == status.READY:
            self._feed(Event("ready"))
        elif state in {status.BACKOFF, status.FAILED}:
            self._feed(Event("failed", self._of.deaths.why or "its run has ended"))
        elif state == status.DOWN and not self._of.machine.is_waiting and not self._of.machine.is_exiting:
            self._do((table.START,))

    def ask(self) -> None:
        """Byte g: the record says what is wanted."""
        found = self._read()
        if found.trial and found.trial.phase == record.ASKED and not self.is_busy:
            trial = found.trial
            self._of.events.send("deploying", image=trial.generation.image, number=trial.generation.number)
            self._feed(Event("asked", want=trial.want, has_settle=bool(trial.settle_s)))

    def command(self, byte: str) -> bool:
        """A byte of the control FIFO, before its turn; whether it ends here."""
        phase = self.state.phase
        if byte in "uo" and self.is_busy:
            self._feed(Event("wanted", want=table.WANT_UP))
            return phase != record.TRYING
        if byte == "d" and phase in {record.ASKED, table.COPYING}:
            self._feed(Event("cancelled", "it was told to go down before it was begun"))
        elif byte == "d" and self.is_busy:
            self._feed(Event("wanted", want=table.WANT_DOWN))
        return False

    def before(self, kind: str) -> None:
        """An event of the service's machine that is about to be fed: the end of a trial is written down first."""
        of = self._of
        if self.state.phase != record.TRYING or kind not in FAILURES or of.machine.is_exiting:
            return
        self._feed(Event("failed", self._describe_failure()))

    def after(self, was: str) -> None:
        """The machine has made a step; it was in `was` before."""
        of = self._of
        if self.state.phase == record.TRYING:
            if of.machine.state == status.READY and was != status.READY:
                self._feed(Event("ready"))
            waits = of.machine.is_waiting
            of.set_timer("needs of a trial", now() + of.source.rules.ready_timeout if waits else None, self._needs_late)
        self._look_for_rest()

    def _needs_late(self) -> None:
        if self._of.machine.is_waiting:
            self._feed(Event("failed", f"what it needs was not ready within {self._of.source.rules.ready_timeout:g}s: {', '.join(self._of.waiting)}"))

    def _look_for_rest(self) -> None:
        of = self._of
        is_at_rest = of.machine.state == status.DOWN and not of.machine.is_waiting and not of.jail.is_alive
        if is_at_rest and not of.machine.is_exiting and not self._unfinished and not self._later:
            self._feed(Event("at rest"))

    def _describe_failure(self) -> str:
        of = self._of
        if of.fault:
            return str(of.fault)[:REASON_MAX]
        if of.deaths.reason:
            return of.deaths.reason
        if of.machine.is_commanded:
            return "it was told to end before it was kept"
        return "its run ended before it was ready" if not of.machine.was_ready else "it was ready, and ended before it was kept"

    # ---- the table

    def _feed(self, event: Event) -> None:
        before = self.state.phase
        self.state, actions = table.step(self.state, event)
        self._of.is_dirty |= self.state.phase != before
        self._do(actions)

    def _do(self, actions: tuple[str, ...]) -> None:
        """One after the other. What cannot be written down now is tried again, and all that comes after it waits."""
        for number, action in enumerate(actions):
            try:
                self._act(action)
            except (OSError, Fault) as error:
                self._of.events.send("cannot write down how the deployment stands", "error", cause=str(error), action=action)
                if action == table.SWITCH:
                    self.state = replace(self.state, phase=table.COPYING, is_begun=False)
                    self._feed(Event("copy failed", str(error)))
                    return
                self._unfinished = actions[number:]
                self._of.set_timer("deployment", now() + RETRY_S, self._retry)
                return

    def _retry(self) -> None:
        actions, self._unfinished = self._unfinished, ()
        self._do(actions)
        self._look_for_rest()

    def _act(self, action: str) -> None:
        of = self._of
        if action == table.STOP:
            self._stop()
        elif action == table.START:
            of.feed(machine.Event("u"))
        elif action == table.COPY:
            self._begin_copy()
        elif action == table.KILL_COPY:
            self._end_copy()
        elif action == table.SETTLE:
            trial = self._read().trial
            of.set_timer("settled", now() + (trial.settle_s if trial else 0.0), self._settled)
        else:
            self._write(action)

    def _stop(self) -> None:
        """What runs or waits is told to end; what is ending already stays down. A run that is gone has its event on the way."""
        of = self._of
        is_over = not of.jail.is_alive and of.machine.state in {status.STARTING, *machine.WITH_RUN}
        if is_over or of.machine.state in {status.STOPPING, status.FINISHING}:
            of.machine = replace(of.machine, want=machine.WANT_DOWN)
        else:
            of.feed(machine.Event("d"))

    def _settled(self) -> None:
        if self._of.machine.state == status.READY:
            self._feed(Event("settled"))

    # ---- the record

    def _read(self) -> Generations:
        try:
            found = read_generations(self._folder)
        except Fault as fault:
            self._of.events.send("cannot read the record of deployments", "error", fault=str(fault), hint=fault.hint)
            found = Generations()
        self._show(found)
        return found

    def _write(self, action: str) -> None:
        """One of the durable actions. What the next start is made of is read anew."""
        of = self._of
        with record.locked(self._folder):
            found = read_generations(self._folder)
            trial = found.trial
            if trial is None:
                return
            image = found.describe(trial.generation)
            back_to = found.describe(found.find(found.current))
            outcome = Outcome(number=trial.generation.number, image=image, result=record.DONE, time=time.time())
            if action == table.SWITCH:
                found = replace(found, trial=replace(trial, phase=record.TRYING))
            elif action == table.KEEP:
                found = found.keep_trial(outcome)
            elif action == table.GO_BACK:
                found = replace(found, trial=replace(trial, phase=record.RETURNING, reason=self.state.reason, want=self.state.want))
            else:
                result = record.RETURNED if self.state.is_begun else record.DROPPED
                found = found.give_up_trial(replace(outcome, result=result, reason=self.state.reason, back_to=back_to))
            write_generations(self._folder, found)
        of.source.forget()
        self._show(found)
        told = {table.SWITCH: "trying the new generation", table.KEEP: "deployed", table.GO_BACK: "not ready: going back", table.CONCLUDE: "as it was again"}
        level = "info" if action in {table.SWITCH, table.KEEP} else "warning"
        of.events.send(told[action], level, image=image, reason=self.state.reason, **({"back_to": back_to} if level == "warning" else {}))

    def _show(self, found: Generations) -> None:
        """What `detail` says."""
        self._of.is_dirty = True
        effective, last, trial = found.effective, found.last, found.trial
        self.shown = {
            "image": effective.image,
            "image_generation": str(effective.number) if found.kept or found.trial else "",
            "deployment": f"{trial.phase} {found.describe(trial.generation)} (generation {trial.generation.number})" if trial else "",
            "not_deployed": f"{last.image} (generation {last.number}): {last.reason}; {last.back_to} is in effect" if last and last.result != record.DONE else "",
        }

    # ---- the copy

    def _begin_copy(self) -> None:
        """In a child, which ends with this process."""
        of = self._of
        found = self._read()
        trial = found.trial
        if trial is None:
            self._feed(Event("copy failed", "its record is gone"))
            return
        try:
            service = of.source.load()
        except Fault as fault:
            self._feed(Event("copy failed", str(fault)))
            return
        overlay = overlay_of(service.rootfs, self._folder)
        if not overlay or trial.generation.layer == trial.copied:
            self._feed(Event("copied"))
            return
        note = layers.Note(number=trial.generation.layer, time=time.time(), why=f"generation {trial.generation.number}", copied=trial.copied)
        parent = os.getpid()
        said_r, said_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
            if pid == 0:
                _copy_and_exit(overlay, note, found.layers() - {note.number}, said_w, parent)
            self._copy_fd = _pidfd_of(pid)
        except OSError:  # it is tried again
            os.close(said_r)
            raise
        finally:
            os.close(said_w)
        self._copy_pid, self._said_fd = pid, said_r
        of.loop.watch(self._copy_fd, self._copy_ended)

    def _copy_ended(self) -> None:
        said = b""
        with suppress(BlockingIOError):
            said = os.read(self._said_fd, REASON_MAX)
        code = self._end_copy()
        if code == 0:
            self._feed(Event("copied"))
        else:
            reason = os.fsdecode(said) or f"the process that copies its overlay ended with wait status {code}"
            self._feed(Event("copy failed", reason))

    def _end_copy(self) -> int:
        """Kill it where it still runs; its wait status."""
        if self._copy_fd < 0:
            return 0
        self._of.loop.forget(self._copy_fd)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._copy_fd, signal.SIGKILL)
        wait_status = os.waitpid(self._copy_pid, 0)[1]
        os.close(self._copy_fd)
        os.close(self._said_fd)
        self._copy_pid, self._copy_fd, self._said_fd = 0, -1, -1
        return wait_status

    def leave(self) -> None:
        """The supervisor ends: the copy, if one is made, does too."""
        self._end_copy()


def _pidfd_of(pid: int) -> int:
    """Of a child, which does not go on where there is none to be had. OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _copy_and_exit(overlay: str, note: layers.Note, in_use: set[int], said_fd: int, parent: int) -> None:
    """In the child. Nothing of the supervisor's is kept: its locks would outlive it."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        process.close_all_except(0, 1, 2, said_fd)
        layers.make_layer(overlay, note, in_use)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001
        os.write(said_fd, os.fsencode(str(error)[:REASON_MAX]))
    finally:
        os._exit(1)

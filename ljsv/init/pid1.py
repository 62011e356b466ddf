"""PID 1 of a box: a table of stages, one after the other, and a loop that nothing ends.

    mount -> rescue -> boot -> run          until a request comes (or an essential service has failed for good)
    stop -> script -> term -> kill -> unmount -> call -> over

A stage begins something (a child, or signals to everybody) and is over when that
has ended or its limit has passed. All that can hang, fail or grow happens in
children. PID 1 itself has no signal handlers, only a mask and `sigtimedwait`; it
imports os, _signal and time, and no ctypes: 2.8 MB of its own, most of it the
interpreter. An error in a turn is told, and the next turn comes. It exits only as
the last step in a container, whose end that is.
"""

from __future__ import annotations

import os
import time

from ljsv.again import module_argv
from ljsv.errors import EXIT_NOT_REACHED
from ljsv.frozen import Frozen
from ljsv.init import children
from ljsv.init.children import ERROR, execute, fork_step, is_container, is_executable, say
from ljsv.init.requests import HALT, POWEROFF, REBOOT, RUNIT_REBOOT, RUNIT_STOPIT, TAKEN, find_request
from ljsv.init.watchdog import Watchdog
from ljsv.linux.signals import signal
from ljsv.supervise.command import ESSENTIAL_FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.init.settings import Settings

NAME = "ljsv init"  # in /proc/1/comm: how clients know us
WAITED = frozenset({*TAKEN, signal.SIGCHLD, signal.SIGIO, signal.SIGHUP, signal.SIGPIPE})
EXIT_REBOOT = 133  # what systemd-nspawn takes for a reboot
REAPED_MAX = 10_000  # in one turn
PAUSE_S = 1.0
MOUNT_S, SCRIPT_S, TERM_S, KILL_S, UNMOUNT_S, CALL_S = 60.0, 30.0, 3.0, 3.0, 30.0, 10.0
LIVED_LONG_S, RETRY_MAX_S, SHELL_AFTER, RETRY_STOP_S = 10.0, 60.0, 5, 0.2
FAULT_MAX = 8192


class Stage(Frozen):
    """`begin` answers whether there is something to wait for; `limit_s` bounds that (None: for ever)."""

    begin: Callable[[Init], bool]
    following: str
    limit_s: float | None = None


def now() -> float:
    """CLOCK_BOOTTIME: the wall clock of a box may jump by decades."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Init:
    """`run` does not return."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.had_console = children.hold_standard_descriptors()
        self.stage = ""
        self.stage_pid = 0
        self.request = ""
        self.exit_code = 0
        self.scanner_pid = self.shell_pid = 0
        self.scanner_begun = 0.0
        self.failures = 0
        self.has_scanned = False
        self.ready_fd = -1
        self.fault = ""  # why the scanner could not begin
        self.watchdog: Watchdog | None = None
        self.timers: dict[str, tuple[float, Callable[[], None]]] = {}

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by who executed us, nobody could be waited for
        signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
        self._guarded(lambda: self.enter("mount"))
        while True:
            self._guarded(self._turn)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - nothing ends PID 1
            say(f"error in {self.stage}: {error!r}", ERROR)
            time.sleep(PAUSE_S)

    def _turn(self) -> None:
        wait_s = min((at for at, _ in self.timers.values()), default=-1.0)
        taken = signal.sigwaitinfo(WAITED) if wait_s < 0 else signal.sigtimedwait(WAITED, max(0.0, wait_s - now()))
        self._reap()
        if taken:
            self._take(taken.si_signo)
        moment = now()
        for name, (at, action) in list(self.timers.items()):
            if at <= moment and self.timers.get(name, (0.0, None))[1] is action:
                del self.timers[name]
                action()

    def _set_timer(self, name: str, after_s: float, action: Callable[[], None]) -> None:
        self.timers[name] = (now() + after_s, action)

    # ---- stages

    def enter(self, stage: str) -> None:
        """Begin it, or the first after it that has something to wait for."""
        while stage:
            self.stage, self.stage_pid = stage, 0
            self.timers.pop("limit", None)
            entry = STAGES[stage]
            if entry.limit_s is not None:
                limit_s = self.settings.deadline_s if stage == "stop" else entry.limit_s
                self._set_timer("limit", limit_s, self._too_late)
            if entry.begin(self):
                return
            stage = entry.following

    def leave(self) -> None:
        self.enter(STAGES[self.stage].following)

    def _too_late(self) -> None:
        say(f"{self.stage}: not done in time, going on", ERROR)
        if self.stage_pid:
            self._signal(self.stage_pid, signal.SIGKILL)
            self._signal(-self.stage_pid, signal.SIGKILL)
        self.leave()

    def _begin_mount(self) -> bool:
        def step() -> None:
            from ljsv.init import ending, mounts

            mounts.set_up(say)
            if not is_container():
                ending.catch_ctrl_alt_del()

        self.stage_pid = fork_step("mount", step)
        return bool(self.stage_pid)

    def _begin_rescue(self) -> bool:
        """/dev and /proc are there now; a shell first, where one was asked for."""
        try:
            with open("/proc/self/comm", "w") as file:
                file.write(NAME)
        except OSError as error:
            say(f"/proc/self/comm: {error.strerror}", ERROR)
        if not self.had_console:
            children.open_console(self.settings.console)
        for word in self.settings.ignored:
            say(f"ignored: {word}")
        if self.settings.watchdog:
            self.watchdog = Watchdog(self.settings.watchdog, self.settings.watchdog_timeout_s)
            if self.watchdog.is_open:
                self._feed()
        if self.settings.is_rescue:
            self.stage_pid = children.open_shell(self.settings.console)
        return bool(self.stage_pid)

    def _begin_boot(self) -> bool:
        if is_executable(self.settings.boot):
            self.stage_pid = execute([self.settings.boot])
        return bool(self.stage_pid)

    def _begin_run(self) -> bool:
        self._start_scanner()
        return True

    def _begin_stop(self) -> bool:
        """HUP: the scanner stops everything in order. A dead one's services get a new one first."""
        self.timers.pop("scanner", None)
        self._signal(self.shell_pid, signal.SIGHUP)
        if not self.has_scanned:
            return False
        if self.scanner_pid:
            self._signal(self.scanner_pid, signal.SIGHUP)
        else:
            self._start_scanner(is_to_stop=True)
        return True

    def _begin_script(self) -> bool:
        self.timers.pop("scanner", None)
        if is_executable(self.settings.shutdown):
            self.stage_pid = execute([self.settings.shutdown, self.request])
        return bool(self.stage_pid)

    def _begin_term(self) -> bool:
        return self._signal(-1, signal.SIGTERM) and self._signal(-1, signal.SIGCONT)

    def _begin_kill(self) -> bool:
        return self._signal(-1, signal.SIGKILL)

    def _begin_unmount(self) -> bool:
        def step() -> None:
            if is_container():
                os.sync()
                return
            from ljsv.init.ending import unmount_all

            unmount_all(say)

        self.stage_pid = fork_step("unmount", step)
        return bool(self.stage_pid)

    def _begin_call(self) -> bool:
        """In a child: HALT ends who calls it (kernel/reboot.c), and a PID 1 that ends is a panic."""
        if is_container() and self.request != REBOOT:
            return False
        if self.watchdog and self.watchdog.is_open and self.request == HALT:
            self.timers.pop("watchdog", None)
            self.watchdog.disarm()

        def step() -> None:
            from ljsv.init.ending import call

            call(self.request)

        say(self.request)
        self.stage_pid = fork_step(self.request, step)
        return bool(self.stage_pid)

    def _begin_over(self) -> bool:
        """Only where the call did not work, or in a container."""
        if is_container():
            os._exit(EXIT_REBOOT if self.request == REBOOT else self.exit_code)
        self.timers.pop("watchdog", None)  # it is the last that may help
        from ljsv.init.ending import press_sysrq

        try:
            press_sysrq(self.request)
        except OSError as error:
            say(f"cannot {self.request}: {error.strerror}", ERROR)
        self.shell_pid = children.open_shell(self.settings.console)
        return True

    # ---- what comes

    def _take(self, number: int) -> None:
        if number == signal.SIGIO:
            self._read_ready()
        if number not in TAKEN:
            return
        request = find_request(
            number,
            is_container=is_container(),
            is_runit_stop=any(map(is_executable, RUNIT_STOPIT)),
            is_runit_reboot=any(map(is_executable, RUNIT_REBOOT)),
        )
        if request:
            self._ask(request)

    def _ask(self, request: str) -> None:
        """The last request counts, and the first begins."""
        is_first = not self.request
        self.request = request
        if is_first:
            say(f"{request}: stopping all services")
            if self.stage_pid:  # rescue, boot: all of its session, which has not become more
                self._signal(-self.stage_pid, signal.SIGTERM)
            self.enter("stop")

    def _reap(self) -> None:
        """Every child that has ended, ours or an orphan."""
        for _ in range(REAPED_MAX):
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self.stage in {"term", "kill"}:  # everybody was a descendant of ours
                    self.enter("unmount")
                return
            if pid == 0:
                return
            if pid == self.scanner_pid:
                self._scanner_ended(os.waitstatus_to_exitcode(wait_status))
            elif pid == self.shell_pid:
                self.shell_pid = 0
                self._shell_ended()
            elif pid == self.stage_pid:
                if wait_status:
                    say(f"{self.stage}: {_describe(os.waitstatus_to_exitcode(wait_status))}", ERROR)
                self.leave()

    # ---- the scanner

    def _start_scanner(self, *, is_to_stop: bool = False) -> None:
        """`is_to_stop`: a HUP waits for it, blocked until it can be taken."""
        self.has_scanned = True
        self.fault = ""
        self._close_ready()
        from fcntl import F_SETFL, F_SETOWN, fcntl

        self.ready_fd, ready_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl(self.ready_fd, F_SETOWN, os.getpid())
        fcntl(self.ready_fd, F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        command = module_argv("ljsv.supervise.scanner", self.settings.svdir, str(ready_w))
        self.scanner_pid = execute(command, passed_fd=ready_w, held={signal.SIGHUP} if is_to_stop else ())
        os.close(ready_w)
        self.scanner_begun = now()
        if not self.scanner_pid:
            self._scanner_ended(-signal.SIGKILL)
        elif is_to_stop:
            self._signal(self.scanner_pid, signal.SIGHUP)

    def _read_ready(self) -> None:
        """`ready`, or why it could not begin."""
        if self.ready_fd < 0:
            return
        try:
            text = os.read(self.ready_fd, FAULT_MAX)
        except BlockingIOError:
            return
        self._close_ready()
        if text == b"ready":
            say("services begun" if is_container() else f"services begun, {now():.2f} s after the kernel")
        else:
            self.fault = text.decode(errors="replace").replace("\n", " hint: ", 1).strip()

    def _close_ready(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1

    def _scanner_ended(self, code: int) -> None:
        """It is started again: at once, then after growing waits. Its services have not noticed."""
        self.scanner_pid = 0
        self._read_ready()
        if self.stage == "stop":
            if code >= 0:
                self.leave()
            else:
                self._set_timer("scanner", RETRY_STOP_S, lambda: self._start_scanner(is_to_stop=True))
        if self.stage != "run":
            return
        if code == ESSENTIAL_FAILED:
            self.exit_code = EXIT_NOT_REACHED
            say("an essential service has failed for good", ERROR)
            self._ask(POWEROFF)
            return
        self.failures = 1 if now() - self.scanner_begun >= LIVED_LONG_S else self.failures + 1
        wait_s = 0.0 if self.failures == 1 else min(RETRY_MAX_S, 2.0 ** (self.failures - 2))
        say(f"the scanner has ended: {self.fault or _describe(code)}; the next in {wait_s:g} s", ERROR)
        self._set_timer("scanner", wait_s, self._start_scanner)
        if self.failures == SHELL_AFTER and not self.shell_pid:
            self.shell_pid = children.open_shell(self.settings.console)
            if self.shell_pid:
                say("a shell on the console, as a last resort; its end tries the scanner again at once", ERROR)

    def _shell_ended(self) -> None:
        if self.stage == "run" and not self.scanner_pid:
            self.failures = 0
            self.timers.pop("scanner", None)
            self._start_scanner()

    # ---- small

    def _feed(self) -> None:
        if self.watchdog and self.watchdog.is_open:
            self.watchdog.feed()
            self._set_timer("watchdog", self.watchdog.interval_s, self._feed)

    @staticmethod
    def _signal(pid: int, number: int) -> bool:
        """Whether there was somebody to signal."""
        if pid == 0:
            return False
        try:
            os.kill(pid, number)
        except OSError:
            return False
        return True


def _describe(code: int) -> str:
    return f"exit {code}" if code >= 0 else f"killed by signal {-code}"


STAGES = {
    "mount": Stage(Init._begin_mount, "rescue", MOUNT_S),
    "rescue": Stage(Init._begin_rescue, "boot"),
    "boot": Stage(Init._begin_boot, "run"),
    "run": Stage(Init._begin_run, ""),
    "stop": Stage(Init._begin_stop, "script", 0.0),  # its limit is in the settings
    "script": Stage(Init._begin_script, "term", SCRIPT_S),
    "term": Stage(Init._begin_term, "kill", TERM_S),
    "kill": Stage(Init._begin_kill, "unmount", KILL_S),
    "unmount": Stage(Init._begin_unmount, "call", UNMOUNT_S),
    "call": Stage(Init._begin_call, "over", CALL_S),
    "over": Stage(Init._begin_over, ""),
}

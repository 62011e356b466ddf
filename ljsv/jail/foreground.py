"""A jail in the foreground, as `ljexec` runs it: it dies with its caller.

On a terminal the program gets one of its own (see `terminal`). Where only our
descriptors are none (`ljexec ... </dev/null 2>&1 | cat`) what the terminal
sends us goes to the program's process group, as it would without a jail; what
a supervisor sends goes to the program. Source: pidfd_send_signal(2).
"""

from __future__ import annotations

import errno
import os
from select import POLLIN, poll

from ljsv.jail import builder, launch, terminal
from ljsv.jail.ids import take_ids
from ljsv.jail.spec import JailSpec
from ljsv.linux import descriptors
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # Linux 6.9
SIGNALS_MAX = 4096
FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGSTOP, signal.SIGCONT})


class Shown:
    """A process in a jail that this process shows and waits for.

    `channel_fd` is what its builder reports through, `process_fd` the pidfd
    whose end is the end, `target_fd` the one that signals go to (-1: not yet).
    """

    stop_signal = signal.SIGSTOP  # what stops the target where there is no terminal of its own

    def __init__(self) -> None:
        self.channel_fd = self.process_fd = self.target_fd = -1
        self.terminal_fd = self.their_terminal_fd = -1
        if any(os.isatty(fd) for fd in (0, 1, 2)):
            self.terminal_fd, self.their_terminal_fd = descriptors.socketpair()
        self.relay: terminal.Relay | None = None
        self.poller = poll()

    def run(self) -> int:
        """Until it has ended: its exit code, 128+N when killed. Fault when it could not be built."""
        for fd in (self.channel_fd, self.process_fd, self.terminal_fd):
            if fd >= 0:
                self.poller.register(fd, POLLIN)
        woken_fd, wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)  # or else one that comes just before poll waits with it
        self.poller.register(woken_fd, POLLIN)
        self._catch_signals()
        try:
            ready: dict[int, int] = {}
            while self.process_fd not in ready:
                ready = dict(self.poller.poll())
                if woken_fd in ready:
                    os.read(woken_fd, SIGNALS_MAX)
                if self.channel_fd in ready and not self.read_report():
                    self.poller.unregister(self.channel_fd)
                if self.relay:
                    self.relay.turn(ready, self.poller)
                elif self.terminal_fd in ready:
                    self._receive_terminal()
                self.look_at(ready)
        finally:
            if self.relay:
                self.relay.close()
            signal.set_wakeup_fd(-1)
            os.close(woken_fd)
            os.close(wake_fd)
        return self.end()

    def read_report(self) -> bool:
        """Take in what the channel says; False at its end."""
        raise NotImplementedError

    def look_at(self, ready: dict[int, int]) -> None:
        """What else was waited for."""

    def end(self) -> int:
        """The exit code; Fault when it could not be built."""
        raise NotImplementedError

    def _receive_terminal(self) -> None:
        message, master_fd = descriptors.receive(self.terminal_fd)
        self.poller.unregister(self.terminal_fd)
        if message == terminal.MASTER and master_fd >= 0:
            self.relay = terminal.Relay(master_fd, self.terminal_fd)
            self.relay.watch(self.poller)

    def _catch_signals(self) -> None:
        for number in terminal.PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._forward)
        signal.signal(signal.SIGTSTP, self._stop)
        if self.terminal_fd < 0:
            signal.signal(signal.SIGCONT, self._continue)

    def _forward(self, number: int, _frame: object) -> None:
        """To the program; before there is one, the end of it all."""
        if self.target_fd < 0:
            _send(self.process_fd, signal.SIGKILL)
        elif self.terminal_fd < 0 and number in FROM_TERMINAL and _has_terminal():
            _send_group(self.target_fd, number)
        else:
            _send(self.target_fd, number)

    def _stop(self, number: int, frame: object) -> None:
        """Ctrl-Z that the caller's terminal has sent: the program stops, and so do we; continued, so is it.

        What is being built is stopped by the terminal as well, or waits for us.
        """
        if self.relay and self.relay.is_begun:
            self._forward(number, frame)  # to its session's leader, who tells when it has stopped
            return
        if self.terminal_fd < 0 and self.target_fd >= 0:
            self._forward(self.stop_signal, frame)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continue(self, number: int, frame: object) -> None:
        if self.target_fd >= 0:
            self._forward(number, frame)


def _send(process_fd: int, number: int, flags: int = 0) -> bool:
    """False when it is not there."""
    try:
        signal.pidfd_send_signal(process_fd, number, None, flags)
    except ProcessLookupError:
        return False
    return True


def _has_terminal() -> bool:
    """Whether a terminal controls this process, wherever its descriptors lead."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _send_group(process_fd: int, number: int) -> None:
    """To the process group that the process leads, or, while it leads none, to the process."""
    try:
        is_sent = _send(process_fd, number, PIDFD_SIGNAL_PROCESS_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        is_sent = _send_group_by_number(process_fd, number)
    if not is_sent:
        _send(process_fd, number)


def _send_group_by_number(process_fd: int, number: int) -> bool:
    """For a kernel that knows no groups there; only while the process is there, whose number it is (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{process_fd}") as file:
        pid = next(int(line[4:]) for line in file if line.startswith("Pid:"))
    try:
        if pid <= 0 or os.getpgid(pid) != pid or not _send(process_fd, 0):
            return False
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


class Foreground(Shown):
    """One jail. `on_started` is told the launch once the program runs. `is_server_gone`: what served its image has ended first."""

    is_server_gone = False

    def __init__(self, spec: JailSpec, on_started: Callable[[launch.Launch], None] | None = None, *, cgroup_fd: int = -1) -> None:
        super().__init__()
        self.on_started = on_started
        ids, slot_fd = take_ids(spec.name, is_range=spec.is_range)
        wiring = builder.Wiring(
            stdin_fd=0, stdout_fd=1, stderr_fd=2, held_fds=(slot_fd,), terminal_fd=self.their_terminal_fd,
            cgroup_fd=cgroup_fd, dies_with_parent=True, umask=_umask(),
        )
        try:
            self.jail = launch.begin(spec, ids, wiring)
        finally:
            for fd in (slot_fd, self.their_terminal_fd):
                if fd >= 0:
                    os.close(fd)
        self.channel_fd, self.process_fd = self.jail.channel_fd, self.jail.pidfd

    def read_report(self) -> bool:
        jail = self.jail
        is_open = jail.read_report()
        if jail.service_pid and self.target_fd < 0:
            try:
                self.target_fd = os.pidfd_open(jail.service_pid)
            except ProcessLookupError:
                pass
            jail.give_go()
        if not is_open:
            if jail.server:
                self.poller.register(jail.server.pidfd, POLLIN)
            if self.on_started and not jail.failure:
                self.on_started(jail)
        return is_open

    def look_at(self, ready: dict[int, int]) -> None:
        """Without its image the jail is dead."""
        server = self.jail.server
        if server and server.pidfd in ready:
            self.is_server_gone = self.jail.pidfd not in ready
            self.poller.unregister(server.pidfd)
            signal.pidfd_send_signal(self.jail.pidfd, signal.SIGKILL)

    def end(self) -> int:
        jail = self.jail
        jail.read_report()
        result = os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED)
        # the server of a jail that ends by itself may be gone a moment before it
        self.is_server_gone = self.is_server_gone and result is not None and result.si_code != os.CLD_EXITED
        if jail.server:
            signal.pidfd_send_signal(jail.server.pidfd, signal.SIGKILL)  # there is nothing left to serve
            os.waitid(os.P_PIDFD, jail.server.pidfd, os.WEXITED)
        if jail.failure:
            raise jail.explain_failure()
        if result is None or result.si_code != os.CLD_EXITED:
            return 128 + (result.si_status if result else signal.SIGKILL)
        return result.si_status


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def run_foreground(spec: JailSpec, on_started: Callable[[launch.Launch], None] | None = None) -> int:
    """Run the jail with this process's standard descriptors, as `Shown.run` says."""
    return Foreground(spec, on_started).run()

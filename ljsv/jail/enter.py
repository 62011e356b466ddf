"""Entering a jail that runs: one process more, with the ids, capabilities, filter, limits and cgroup of its service.

    caller                         parent                       process
    fork ------------------------> not dumpable, setns
    send G                         fork ----------------------> session [terminal]
    show the terminal, wait        wait, pass signals on        rights, exec

It goes by the service's pidfd, since pid 1 of the jail refuses to be looked
at. Until it execs, the one that enters is not dumpable and holds nothing of
the host's: what runs in the jail can see its /proc folder. Sources: setns(2),
pid_namespaces(7), cgroups(7).
"""

from __future__ import annotations

import os
import resource

from ljsv.errors import EXIT_NOT_REACHED, Fault
from ljsv.jail import builder, failure, pid1, terminal
from ljsv.jail.facts import host_facts
from ljsv.jail.filters import read_filter
from ljsv.jail.foreground import Shown
from ljsv.jail.hardening import FilterSystemCalls
from ljsv.jail.plan import NAMESPACES, rights
from ljsv.jail.spec import JailSpec
from ljsv.jail.step import Build, Step
from ljsv.linux import cgroup, descriptors, process
from ljsv.linux.libc import MACHINE
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NOT_ENTERED_STATUS = 111
KILL_GROUP = signal.SIGRTMIN + 1  # to the parent: KILL for the program and what it has started
AWAITED = (*terminal.AWAITED, signal.SIGCONT, KILL_GROUP)
FOR_GROUP = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT})


def start_script(spec: JailSpec, service_pid: int, service_fd: int, wiring: builder.Wiring, *, no_setid: bool) -> tuple[int, int]:
    """Run `spec.argv` in the jail of a service without waiting for it: (pid of its parent on this side, channel).

    The parent exits as the program does; killed, it takes the program along.
    """
    is_range = _maps_range(service_pid)
    program = read_filter(MACHINE, no_setid=no_setid) if spec.has_filter else b""
    steps = rights(spec, host_facts().last_capability, program, is_range=is_range, is_first=False)
    channel_fd, child_fd = descriptors.socketpair()
    try:
        pid = os.fork()
        if pid == 0:
            os.close(channel_fd)
            _parent(spec, steps, wiring, child_fd, (service_pid, service_fd), is_range=is_range)
    except OSError:
        os.close(channel_fd)
        raise
    finally:
        os.close(child_fd)
    try:
        descriptors.send(channel_fd, b"G")
    except BrokenPipeError:
        pass  # it has ended already: its report says why
    return pid, channel_fd


class Entered(Shown):
    """The process that enters the jail of a service. `run` shows it, and gives its exit code."""

    stop_signal = signal.SIGTSTP  # its parent stops the program, not itself

    def __init__(self, spec: JailSpec, service_pid: int, service_fd: int, *, no_setid: bool) -> None:
        super().__init__()
        self.spec = spec
        self.failure: tuple[str, ...] = ()
        wiring = builder.Wiring(stdin_fd=0, stdout_fd=1, stderr_fd=2, terminal_fd=self.their_terminal_fd)
        self.parent, self.channel_fd = start_script(spec, service_pid, service_fd, wiring, no_setid=no_setid)
        if self.their_terminal_fd >= 0:
            os.close(self.their_terminal_fd)
        self.process_fd = self.target_fd = os.pidfd_open(self.parent)

    def read_report(self) -> bool:
        message, _ = descriptors.receive(self.channel_fd)
        if message[:1] == b"F":
            self.failure = tuple(os.fsdecode(message[1:]).split("\0"))
        return bool(message)

    def end(self) -> int:
        while not self.failure and self.read_report():
            pass
        wait_status = os.waitpid(self.parent, 0)[1]
        if self.failure:
            raise failure.explain_failure(self.spec, self.failure)
        return pid1.exit_code(wait_status)


def _maps_range(pid: int) -> bool:
    """Whether the process's user namespace maps more than one id."""
    try:
        with open(f"/proc/{pid}/uid_map") as file:
            return sum(int(line.split()[2]) for line in file) > 1
    except (FileNotFoundError, ProcessLookupError):
        raise Fault("cannot enter", f"process {pid}", "it has just ended", hint="ljsv status  # does it run again?", exit_code=EXIT_NOT_REACHED) from None
    except OSError as error:
        raise Fault.from_os("cannot look at the service", error, hint="ljsv status") from None


def _parent(
    spec: JailSpec, steps: list[Step], wiring: builder.Wiring, channel_fd: int, service: tuple[int, int], *, is_range: bool
) -> None:
    """The parent: joins the namespaces, forks the process that is in them, passes signals and its end on. Never returns."""
    service_pid, service_fd = service
    try:
        process.unprotect_from_oom()
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        if descriptors.is_closed(channel_fd):  # it has died before that
            os._exit(NOT_ENTERED_STATUS)
        process.prctl(process.PR_SET_DUMPABLE, 0)
        builder.set_nofile(builder.room_for_files(spec, wiring.nofile or resource.getrlimit(resource.RLIMIT_NOFILE)))
        os.setpgid(0, 0)  # what a terminal sends to the caller's group comes from the caller, once
        signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)  # until there is somebody to pass them on to
        _join_cgroup(service_pid)
        process.setns(service_fd, _other_namespaces(service_pid))
        alive_r, alive_w = os.pipe2(os.O_CLOEXEC)  # its end of file: this process has died
        program = os.fork()
        if program == 0:
            os.close(alive_w)
            _enter(spec, steps, wiring, channel_fd, alive_r, is_range=is_range)
        process.close_all_except(alive_w)
        _wait(program, has_terminal=wiring.terminal_fd >= 0)
    except OSError as error:
        builder.report(channel_fd, "enter the jail", error.errno or 0, error.strerror or str(error), str(error.filename or ""))
    finally:
        os._exit(NOT_ENTERED_STATUS)


def _wait(program: int, *, has_terminal: bool) -> None:
    """Pass on what is sent to us, and exit as the program does. Never returns.

    Signals are awaited, not caught: one caught just before a call that waits
    would wait with it. On a terminal of its own the leader of its session
    does the rest; without one, what a terminal sends is for its whole group.
    """
    while True:
        number = signal.sigwait(AWAITED)
        if number == signal.SIGCHLD:
            pid, wait_status = os.waitpid(program, os.WNOHANG)
            if pid:
                os._exit(pid1.exit_code(wait_status))
        elif number == KILL_GROUP:
            _send(os.killpg, program, signal.SIGKILL)
        elif has_terminal or number not in FOR_GROUP:
            _send(os.kill, program, number)
        else:  # SIGTSTP would be discarded: nobody in its session could continue it (an orphaned process group)
            _send(os.killpg, program, signal.SIGSTOP if number == signal.SIGTSTP else number)


def _send(how: Callable[[int, int], None], program: int, number: int) -> None:
    """By killpg: to the group that it leads, or, while it leads none, to the process."""
    try:
        how(program, number)
    except ProcessLookupError:
        if how is not os.kill:
            _send(os.kill, program, number)


def _other_namespaces(pid: int) -> int:
    """The flags of the namespaces that are not ours already: the host's network is nobody's to join."""
    flags = 0
    for flag, name in NAMESPACES:
        file = "mnt" if name == "mount" else name
        if os.stat(f"/proc/{pid}/ns/{file}").st_ino != os.stat(f"/proc/self/ns/{file}").st_ino:
            flags |= flag
    return flags


def _enter(spec: JailSpec, steps: list[Step], wiring: builder.Wiring, channel_fd: int, alive_r: int, *, is_range: bool) -> None:
    """In the jail: its ids, its rights, exec. Never returns."""
    stage = "enter the jail"
    build = Build()
    build.channel_fd = channel_fd
    try:
        os.chdir("/")
        os.umask(0o022)
        builder.become_zero(is_range=is_range)
        build.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        build.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        last = [step for step in steps if isinstance(step, FilterSystemCalls)]
        for step in steps:
            if not isinstance(step, FilterSystemCalls):
                stage = step.stage
                step.execute(build)
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids has cleared it
        if descriptors.is_closed(alive_r):
            os._exit(NOT_ENTERED_STATUS)
        process.prctl(process.PR_SET_DUMPABLE, 0)
        builder.become(spec, build, wiring, last, by_descriptor=True)  # somebody is in the jail, who could exchange it
    except Fault as fault:
        builder.report(channel_fd, *failure.fault_report(fault))
    except OSError as error:
        builder.report(channel_fd, stage, error.errno or 0, error.strerror or str(error), str(error.filename or ""))
    finally:
        os._exit(NOT_ENTERED_STATUS)


def _join_cgroup(pid: int) -> None:
    """Into the cgroup of that process, where it is not ours already (version 2).

    Whoever is in another part of the tree of cgroups than the scanner may not move itself there: it is told.
    """
    theirs, ours = _read_cgroup(pid), _read_cgroup(os.getpid())
    place = cgroup.place_of(theirs, cgroup.find_hierarchies(_read("/proc/self/mountinfo"))) if theirs and theirs != ours else ""
    if not place:
        return
    try:
        cgroup.write_file(place, "cgroup.procs", "0")
    except PermissionError:
        os.write(2, b"ljsv: note: outside the control group of the service, and so without its limits: this shell may not move there\n")


def _read_cgroup(pid: int) -> str:
    return cgroup.find_group(_read(f"/proc/{pid}/cgroup"))


def _read(path: str) -> str:
    with open(path, errors="surrogateescape", newline="\n") as file:
        return file.read()

"""The jail's first two processes: pid 1, and forked from it the builder, which takes the plan's steps and becomes the program.

What their launcher does is in `launch`, and how the three talk. Nothing here
is imported when they run, and as little as can be with this module: it is all
that the nursery has, and each page of that is copied for every jail.
"""

from __future__ import annotations

import fcntl
import os
import resource

from ljsv.errors import Fault
from ljsv.frozen import Frozen
from ljsv.jail import pid1, terminal
from ljsv.jail.failure import STAGE_EXEC, fault_report
from ljsv.jail.hardening import FilterSystemCalls, found
from ljsv.jail.ids import IdMap, write_maps
from ljsv.jail.program import find_program, open_program
from ljsv.jail.spec import JailSpec, environment, workdir
from ljsv.jail.step import Build, Step
from ljsv.linux import descriptors, process
from ljsv.linux.mount import RESOLVE_IN_ROOT, openat2
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ljsv.jail.pid1 import Kept

NOT_STARTED_STATUS = 111
REPORT_MAX = 4096
PASSED_FD = 3
PID1_NAME = "ljsv 1 "  # and the mark of its service: 15 bytes, what the kernel keeps
_OWN_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # what Python ignores itself; ljexec's caller may want others ignored (nohup)


class Wiring(Frozen):
    """Descriptors that a jail is given; -1 means none.

    `exit_fd` is the exit record with its lock, `log_fds` are held until they
    are empty, `held_fds` while the jail lives: pid 1 keeps all of them.
    `passed_fd` becomes descriptor 3 of the program. `relay`: pid 1 passes the
    datagrams of the first on into the second (a FIFO), each with a NUL. `terminal_fd` is the
    jail's end of a channel to whoever shows its terminal (see `terminal`).
    `tty`: the standard descriptors are that terminal of the host, which the
    program's session gets as its controlling one.
    `mark` goes into the name of pid 1 (see `supervise.orphans`).
    `cgroup_fd` is the control group that the jail is born in.
    """

    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    exit_fd: int = -1
    log_fds: tuple[int, ...] = ()
    held_fds: tuple[int, ...] = ()
    passed_fd: int = -1
    relay: tuple[int, int] = (-1, -1)
    terminal_fd: int = -1
    tty: str = ""
    cgroup_fd: int = -1
    generation: int = 0
    mark: str = ""
    dies_with_parent: bool = False
    umask: int = 0o022
    nofile: tuple[int, int] | None = None

    def kept(self, build_held: Iterable[int]) -> Kept:
        """What pid 1 of the jail keeps, with what the steps of the launcher have left for it."""
        return f"{PID1_NAME}{self.mark}" if self.mark else "ljsv pid 1", self.exit_fd, self.log_fds, (*self.held_fds, *build_held), self.generation, self.relay

    def renumber(self, number: Callable[[int], int]) -> Wiring:
        """The same with every descriptor (-1 too) put through `number`."""
        return self.replace(
            stdin_fd=number(self.stdin_fd), stdout_fd=number(self.stdout_fd), stderr_fd=number(self.stderr_fd), exit_fd=number(self.exit_fd),
            log_fds=tuple([number(fd) for fd in self.log_fds]), held_fds=tuple([number(fd) for fd in self.held_fds]),
            passed_fd=number(self.passed_fd), relay=(number(self.relay[0]), number(self.relay[1])), terminal_fd=number(self.terminal_fd),
            cgroup_fd=number(self.cgroup_fd),
        )


def run_child(kept: Kept, channel_fd: int, build: Callable[[int], None], *, is_range: bool, dies_with_parent: bool = False) -> None:
    """The child: pid 1 and, forked from it, the builder, which calls `build`. Never returns; imports nothing.

    Plain values and few calls: each object that is touched here is a page that pid 1 has for itself as long as it lives.
    """
    try:
        if dies_with_parent:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        if is_range and descriptors.receive(channel_fd)[0] != b"M":
            os._exit(NOT_STARTED_STATUS)
        closed_r, closed_w = os.pipe2(os.O_CLOEXEC)  # its end of file: pid 1 is closed
        service_pid = process.fork()
        if service_pid:
            if is_range:
                become_zero(is_range=True)
            if dies_with_parent:  # a change of ids clears it
                process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
                if descriptors.is_closed(channel_fd):  # it has died before that
                    os._exit(NOT_STARTED_STATUS)
            pid1.become(service_pid, kept)
        os.close(closed_w)
        build(closed_r)
    except OSError as error:
        report(channel_fd, "fork", error.errno or 0, error.strerror or str(error), "")
    except BaseException as error:  # noqa: BLE001 - its last word
        report(channel_fd, "begin", 0, repr(error), "")
    finally:
        os._exit(NOT_STARTED_STATUS)


def become_zero(*, is_range: bool) -> None:
    """With a range: give up the caller's ids for the jail's root."""
    if is_range:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def run_builder(read_plan: Callable[[], tuple[JailSpec, Iterable[Step]]], build: Build, wiring: Wiring, ids: IdMap, closed_r: int) -> None:
    """The builder: from the first step to exec. Returns only when that has failed, and was reported."""
    stage = "begin"
    build.closed_fd = closed_r
    try:
        os.umask(0o022)
        os.chdir("/")
        if wiring.nofile:
            set_nofile(wiring.nofile)
        process.unprotect_from_oom()
        own_pid = os.readlink(b"/proc/self")
        descriptors.send(build.channel_fd, b"P" + own_pid)
        if not ids.is_range:
            stage = "map ids"
            write_maps(int(own_pid), ids)
        stage = "change ids"
        become_zero(is_range=ids.is_range)
        stage = "read the plan"
        spec, steps = read_plan()
        last: list[Step] = []
        for step in steps:
            if isinstance(step, FilterSystemCalls):
                last.append(step)
                continue
            stage = step.stage
            step.execute(build)
        stage = STAGE_EXEC
        become(spec, build, wiring, last, by_descriptor=spec.is_privileged)
    except Fault as fault:
        report(build.channel_fd, *fault_report(fault))
    except OSError as error:
        report(build.channel_fd, stage, error.errno or 0, error.strerror or str(error), str(error.filename or ""))
    except BaseException as error:  # noqa: BLE001 - the builder's last word
        report(build.channel_fd, stage, 0, repr(error), "")


def room_for_files(spec: JailSpec, given: tuple[int, int]) -> tuple[int, int]:
    """RLIMIT_NOFILE to begin with: `given` (-1 for no limit), with a hard limit that what `limits` says has room below."""
    soft, hard = given
    return soft, hard if hard < 0 else max(hard, dict(spec.rlimits).get(resource.RLIMIT_NOFILE, 0))


def set_nofile(nofile: tuple[int, int]) -> None:
    """Where it may not be raised so far, as far as it goes: that is told when the limit itself is set."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, nofile)
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def report(channel_fd: int, stage: str, number: int | str, *texts: str) -> None:
    text = "\0".join((stage, str(number), *texts)).replace("\n", " ")
    descriptors.send(channel_fd, b"F" + os.fsencode(text)[: REPORT_MAX - 1])


def become(spec: JailSpec, build: Build, wiring: Wiring, last: Iterable[Step], *, by_descriptor: bool) -> None:
    """The last moments before exec: session, standard descriptors, signals, the go, and the `last` steps, after which nothing else can be done.

    `by_descriptor`: what was looked at is what is executed, whatever has its name by then.
    """
    user = found(build)
    enter_workdir(build.root_fd, workdir(spec))
    standard = [wiring.stdin_fd, wiring.stdout_fd, wiring.stderr_fd]
    slave_fd = -1
    if wiring.terminal_fd >= 0:
        slave_fd = terminal.open_inside(build.root_fd, wiring.terminal_fd)
        standard = [slave_fd if os.isatty(fd) else fd for fd in standard]
    os.setsid()
    if wiring.tty:
        standard = [terminal.take_over(build.root_fd, wiring.stdin_fd, wiring.tty)] * 3
    channel_fd, terminal_fd, slave_fd, exit_fd = arrange([*standard, wiring.passed_fd], build.channel_fd, wiring.terminal_fd, slave_fd, wiring.exit_fd)
    os.umask(wiring.umask)
    reset_signals(_OWN_SIGNALS if wiring.dies_with_parent else range(1, signal.NSIG))
    if descriptors.receive(channel_fd)[0] != b"G":
        os._exit(NOT_STARTED_STATUS)
    if terminal_fd >= 0:
        terminal.fork_program(slave_fd, terminal_fd)
    if exit_fd >= 0:
        os.write(exit_fd, b"%s %d\n" % (pid1.STARTED.encode(), wiring.generation))
    stage, path = STAGE_EXEC, spec.argv[0]
    try:
        env = environment(spec, user)
        path = find_program(spec.argv[0], env.get("PATH", ""))
        program, argv = open_program(path, spec.argv) if by_descriptor else (path, spec.argv)
        for step in last:
            stage = step.stage
            step.execute(build)
        stage = STAGE_EXEC
        os.execve(program, argv, env)
    except OSError as error:
        name = error.filename or path
        report(channel_fd, stage, error.errno or 0, error.strerror or str(error), str(name))
        os._exit(NOT_STARTED_STATUS)


def arrange(wanted: list[int], *others: int) -> list[int]:
    """Make the descriptors of `wanted` (-1: none) 0, 1, 2 and 3; where `others` are now. Everything else is closed.

    Closed here, not by exec: exec looks its path up first, and a rootfs whose
    program leads through /proc/self/fd would find the host (CVE-2024-21626).
    """
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PASSED_FD + 1) if 0 <= fd <= PASSED_FD else fd for fd in (*wanted, *others)]
    for number, fd in enumerate(moved[: len(wanted)]):
        if fd >= 0:
            os.dup2(fd, number)
    process.close_all_except(*[number for number, fd in enumerate(wanted) if fd >= 0], *moved[len(wanted) :])
    return moved[len(wanted) :]


def enter_workdir(root_fd: int, path: str) -> None:
    """The working directory, looked up inside: a magic link such as /proc/self/fd/N leads nowhere (CVE-2024-21626)."""
    try:
        fd = openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        os.fchdir(fd)
    except OSError as error:
        raise Fault.from_os("cannot enter the working directory", error, path, hint="it has to be there in the jail, for its user to enter") from None
    os.close(fd)


def reset_signals(numbers: Iterable[int]) -> None:
    """clone3 resets handlers, but what is ignored stays ignored, through exec as well."""
    for number in numbers:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

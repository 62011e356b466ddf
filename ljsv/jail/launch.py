"""Starting a jail: the launcher's steps, clone3, the maps, the builder's steps, the go, exec.

    launcher                       child (pid 1)            builder (pid 2)
    facts, plan, its own steps
    clone3  ---------------------> [wait for M]
    [write a range, send M] -----> fork -----------------> say P<pid>, [map one id]
                                   become 0, close         become 0
    P: record it, send G           keep()                  the plan's steps
    U: serve the image             |                       [U, with the FUSE descriptor]
                                                           I<uid, gid>, wait for pid 1 and G, exec
    end of the channel: it runs; F<stage...>: it could not be built

The child forks first: what the builder touches is gone with its exec, and
pid 1 goes on sharing its pages with the nursery (or with whoever has forked it).
`begin` returns at once; its caller's loop reads the report. The builder waits
for the go before it execs, so a jail whose record was not written never runs:
the end of the channel means that the launcher died.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource

from ljsv.errors import EXIT_NOT_BUILT, Fault
from ljsv.frozen import Frozen
from ljsv.jail import pid1, terminal
from ljsv.jail.facts import FUSE, Facts, gather_facts, needs_map
from ljsv.jail.failure import STAGE_EXEC, TRANSIENT, explain_failure, fault_report
from ljsv.jail.hardening import FilterSystemCalls, found
from ljsv.jail.ids import IdMap, open_user_namespace, preview_ids, write_maps
from ljsv.jail.mounts import SERVE
from ljsv.jail.passwd import find_user
from ljsv.jail.plan import environment, explain, namespaces, plan, workdir
from ljsv.jail.program import find_program, open_program
from ljsv.jail.spec import HOST, IMAGE, BindMount, JailSpec
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
IMAGE_AT = "/run/image"
_MAPPED_NAMESPACES_MAX = 1
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


class Launch:
    """A jail that is being built. `pid` and `pidfd` are those of its pid 1; `server` is the jail that serves its image."""

    def __init__(self, spec: JailSpec, facts: Facts, ids: IdMap, *, dies_with_parent: bool = False) -> None:
        self.spec = spec
        self.facts = facts
        self.ids = ids
        self.dies_with_parent = dies_with_parent
        self.pid = 0
        self.pidfd = self.channel_fd = -1
        self.service_pid = 0
        self.failure: tuple[str, ...] = ()
        self.server: Launch | None = None

    def read_report(self) -> bool:
        """Take in what the builder says; False at its end (it runs, or `failure` is set). Never waits."""
        while True:
            try:
                message, fd = descriptors.receive(self.channel_fd, wait=False)
            except BlockingIOError:
                return True
            kind, text = message[:1], message[1:]
            if kind == SERVE and fd >= 0:
                self._serve(fd)
                continue
            if fd >= 0:
                os.close(fd)
            if kind == b"P":
                self.service_pid = int(text)
            elif kind == b"F" and not self.failure:
                self.failure = tuple(os.fsdecode(text).split("\0"))
            elif not message:
                return False

    def give_go(self) -> None:
        try:
            descriptors.send(self.channel_fd, b"G")
        except BrokenPipeError:
            pass

    def _serve(self, fuse_fd: int) -> None:
        """Start the program that serves the image; without it the builder's next look at the image fails."""
        try:
            self.server = _begin_server(self, fuse_fd)
        except (OSError, Fault) as error:
            cause = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            self.failure = ("serve the image", "0", cause, self.facts.server)
        finally:
            os.close(fuse_fd)

    def close(self) -> None:
        """Close the channel (the pidfds are the caller's)."""
        if self.channel_fd >= 0:
            os.close(self.channel_fd)
        self.channel_fd = -1
        if self.server:
            self.server.close()

    def explain_failure(self) -> Fault:
        """Why it could not be built; the reason may be its server's."""
        if self.server:
            self.server.read_report()
            if self.server.failure:
                fault = self.server.explain_failure()
                return Fault("cannot serve the image", fault.object, fault.cause, hint=f"{self.facts.server} --help; ljsv doctor", exit_code=EXIT_NOT_BUILT)
        return explain_failure(self.spec, self.failure, is_served=self.facts.image_how == FUSE)


# ---- the launcher


_mapped: dict[IdMap, int] = {}


def facts_of(spec: JailSpec, ids: IdMap) -> Facts:
    """The facts for a jail with these ids; Fault where it cannot be."""
    is_shifted = ids.slot >= 0
    return gather_facts(spec, is_shifted=is_shifted, userns_fd=_mapped_namespace(ids) if is_shifted and needs_map(spec) else -1)


def _mapped_namespace(ids: IdMap) -> int:
    """A user namespace with root's map for a jail, kept for its next start."""
    if ids not in _mapped:
        while len(_mapped) >= _MAPPED_NAMESPACES_MAX:
            os.close(_mapped.popitem()[1])
        try:
            _mapped[ids] = open_user_namespace(ids)
        except OSError as error:
            raise _clone_fault(error) from None
    return _mapped[ids]


class _Planned:
    """A plan, kept while what it depends on stays the same: as steps for a child of ours, or packed for the nursery."""

    def __init__(self, spec: JailSpec, facts: Facts) -> None:
        self.spec = spec
        self.facts = facts
        steps = plan(spec, facts)
        self.outside = steps.outside
        self._inside: tuple[Step, ...] = steps.inside
        self._packed = b""

    def steps(self) -> tuple[JailSpec, Iterable[Step]]:
        """For the builder."""
        if not self._packed:
            return self.spec, self._inside
        from ljsv.jail.order import unpack_plan

        return unpack_plan(self._packed)

    def packed(self) -> bytes:
        """The same for the nursery's builder; the steps themselves are not kept beside it."""
        from ljsv.jail.order import pack_plan

        if not self._packed:
            self._packed, self._inside = pack_plan(self.spec, self._inside), ()
        return self._packed


_planned: list[_Planned] = []


def _plan_once(spec: JailSpec, facts: Facts) -> _Planned:
    """The plan, made anew only when what it depends on has changed since the last one."""
    if not _planned or (_planned[0].spec, _planned[0].facts) != (spec, facts):
        _planned[:] = [_Planned(spec, facts)]
    return _planned[0]


def begin(spec: JailSpec, ids: IdMap, wiring: Wiring, orders_fd: int = -1, rewire: Callable[[], Wiring] | None = None) -> Launch:
    """Start building the jail. Fault when what it needs is not there, or not even its first process can be made.

    By the nursery where `orders_fd` leads to one and it answers, else by a
    fork of this process, wired as `rewire` says: what the order has begun, if
    anything, has the descriptors of `wiring` until it ends. For the fork as
    little as can be is left for after clone3: what is written to then is a
    page of this process's own, and the one that it was a copy of is pid 1's.
    """
    facts = facts_of(spec, ids)
    planned = _plan_once(spec, facts)
    build, launch = Build(), Launch(spec, facts, ids, dies_with_parent=wiring.dies_with_parent)
    flags = namespaces(spec) | process.CLONE_PIDFD | process.CLONE_CLEAR_SIGHAND
    try:
        _take_outside(spec, planned.outside, build)
        try:
            if orders_fd < 0 or not _order(launch, planned, build, wiring, flags, orders_fd):
                _fork(launch, planned, build, rewire() if rewire and orders_fd >= 0 else wiring, flags)
        except OSError as error:
            launch.close()
            raise _clone_fault(error) from None
    finally:
        build.close()
    if ids.is_range:  # the builder maps one id itself
        _map_range(launch)
    return launch


def _order(launch: Launch, planned: _Planned, build: Build, wiring: Wiring, flags: int, orders_fd: int) -> bool:
    """Have the nursery make the jail's first process; False where it has not. OSError where the kernel refuses it."""
    from ljsv.jail.order import Numbers, pack_part, send_order, wait_answer  # `ljexec` does without

    answer_fd, nursery_fd = descriptors.socketpair()  # of its own: the builder's first word may come before the nursery's
    child_fd = -1
    try:
        try:
            launch.channel_fd, child_fd = descriptors.socketpair()
            numbers = Numbers(child_fd, nursery_fd)
            own = wiring.renumber(numbers.of)
            trees = tuple([(place, numbers.of(fd)) for place, fd in build.trees.items()])
            first = pack_part(own.kept([numbers.of(fd) for fd in build.held]), launch.ids.is_range)
            rest = (pack_part(own, launch.ids, trees), planned.packed())
            is_taken = send_order(orders_fd, flags, own.cgroup_fd, (first, *rest), numbers.fds)
        finally:
            if child_fd >= 0:
                os.close(child_fd)
            os.close(nursery_fd)
        launch.pid, launch.pidfd = wait_answer(answer_fd) if is_taken else (0, -1)
    finally:
        os.close(answer_fd)
    if launch.pid:
        return True
    launch.close()  # what was begun, if anything, ends by that
    return False


def _fork(launch: Launch, planned: _Planned, build: Build, wiring: Wiring, flags: int) -> None:
    launch.channel_fd, child_fd = descriptors.socketpair()
    try:
        launch.pid, launch.pidfd = process.clone3(flags, wiring.cgroup_fd)
        if launch.pid == 0:
            os.close(launch.channel_fd)
            build.channel_fd = child_fd

            def run(closed_r: int) -> None:
                run_builder(planned.steps, build, wiring, launch.ids, closed_r)

            run_child(wiring.kept(build.held), child_fd, run, is_range=launch.ids.is_range, dies_with_parent=wiring.dies_with_parent)
    finally:
        os.close(child_fd)


def _map_range(launch: Launch) -> None:
    """Write the maps, and let the jail go on; or else it ends. Where it has been killed meanwhile, its end says so."""
    failure: tuple[str, ...]
    try:
        write_maps(launch.pid, launch.ids)
        descriptors.send(launch.channel_fd, b"M")
        return
    except OSError as error:
        failure = ("map ids", str(error.errno or 0), error.strerror or "", error.filename or "")
    except Fault as fault:
        failure = fault_report(fault)
    if process.has_ended(launch.pidfd):
        return
    launch.failure = failure
    try:
        signal.pidfd_send_signal(launch.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended, and the nursery has reaped it


def check_jail(spec: JailSpec) -> tuple[str, ...]:
    """What would be said of this jail if it started now; Fault where it could not. Nothing is changed."""
    ids = preview_ids(spec.directory or spec.name, is_range=spec.is_range, is_host=spec.is_privileged)
    facts = facts_of(spec, ids)
    if spec.base_kind != IMAGE:  # an image is not mounted for that
        base_fd = os.open(spec.base_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            find_user(spec.user, base_fd, spec.origin)
        finally:
            os.close(base_fd)
    return facts.notes


def explain_jail(spec: JailSpec) -> list[str]:
    """The whole start of a jail, a line a step; nothing is changed."""
    ids = preview_ids(spec.directory or spec.name, is_range=spec.is_range, is_host=spec.is_privileged)
    facts = facts_of(spec, ids)
    lines = explain(spec, facts, ids.describe())
    if facts.image_how == FUSE:
        lines.append(f"served from outside by {' '.join(server_spec(spec, facts).argv)}, in a jail of its own:")
        server = server_spec(spec, facts)
        lines += [f"  {line}" for line in explain(server, facts_of(server, ids), ids.describe())]
    return lines


def _take_outside(spec: JailSpec, steps: tuple[Step, ...], build: Build) -> None:
    for step in steps:
        try:
            step.execute(build)
        except OSError as error:
            failure = (step.stage, str(error.errno or 0), error.strerror or str(error), str(error.filename or ""))
            raise explain_failure(spec, failure) from None


def _clone_fault(error: OSError) -> Fault:
    hint = "ljsv doctor"
    if error.errno == errno.ENOSYS:
        hint = "in a jail no other jail can be started; elsewhere: Linux 5.15 or newer"
    elif error.errno in {errno.EPERM, errno.ENOSPC, errno.EUSERS}:
        hint = "user namespaces are forbidden or used up: sysctl user.max_user_namespaces kernel.unprivileged_userns_clone; then ljsv doctor"
    cause = error.strerror or str(error)
    return Fault("cannot make namespaces", "clone3", cause, hint=hint, exit_code=EXIT_NOT_BUILT, is_transient=error.errno in TRANSIENT)


def server_spec(spec: JailSpec, facts: Facts) -> JailSpec:
    """The jail of the program that serves an image: it sees the image and the host's libraries, no network and no service."""
    return JailSpec(
        name=f"{spec.name} image",
        base_kind=HOST,
        base_path="/",
        argv=(facts.server, "-f", IMAGE_AT, f"/dev/fd/{PASSED_FD}"),
        network="none",
        binds=(BindMount(spec.base_path, IMAGE_AT, is_mapped=facts.is_root),),
        capabilities=frozenset(),
        rlimits=((resource.RLIMIT_CORE, 0),),
        origin=spec.origin,
    )


def _begin_server(launch: Launch, fuse_fd: int) -> Launch:
    """In the foreground it dies with its caller as the jail does: one that hangs would keep what waits for it from being killed."""
    ids = launch.ids
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        wiring = Wiring(stdin_fd=null_fd, stdout_fd=null_fd, stderr_fd=null_fd, passed_fd=fuse_fd, dies_with_parent=launch.dies_with_parent)
        own_ids = ids if ids.slot >= 0 or not ids.is_range else IdMap(ids.uids[:1], ids.gids[:1])
        server = begin(server_spec(launch.spec, launch.facts), own_ids, wiring)
    finally:
        os.close(null_fd)
    server.give_go()
    return server


# ---- the jail's first two processes


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
        for step in steps:
            if not isinstance(step, FilterSystemCalls):
                stage = step.stage
                step.execute(build)
        stage = STAGE_EXEC
        os.read(closed_r, 1)
        become(spec, build, wiring, steps)
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


def become(spec: JailSpec, build: Build, wiring: Wiring, steps: Iterable[Step]) -> None:
    """The last moments before exec: session, standard descriptors, signals, the go, the system call filter of `steps`."""
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
        program, argv = open_program(path, spec.argv) if spec.is_privileged else (path, spec.argv)
        for step in steps:
            if isinstance(step, FilterSystemCalls):
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

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
import os
import resource

from ljsv.errors import EXIT_NOT_BUILT, Fault
from ljsv.jail.builder import PASSED_FD, Wiring, run_builder, run_child
from ljsv.jail.facts import FUSE, Facts, gather_facts, needs_map
from ljsv.jail.failure import TRANSIENT, explain_failure, fault_report
from ljsv.jail.ids import IdMap, open_user_namespace, preview_ids, write_maps
from ljsv.jail.mounts import SERVE
from ljsv.jail.passwd import find_user
from ljsv.jail.plan import explain, namespaces, plan
from ljsv.jail.spec import HOST, IMAGE, BindMount, JailSpec
from ljsv.jail.step import Build, Step
from ljsv.linux import descriptors, process
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


IMAGE_AT = "/run/image"
_MAPPED_NAMESPACES_MAX = 1


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
    except ConnectionError:
        return  # it has been killed, and its pid 1 is about to end
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

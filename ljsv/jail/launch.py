"""Starting a jail: clone3, the maps, the plan's steps in the child, the go, exec.

    parent                         child (pid 1)            builder (pid 2)
    clone3  ---------------------> wait for M
    write the id maps, send M ---> fork -----------------> gather facts, plan
                                   become 0, close         say P<pid, ids>
    P: record it, send G           keep()                  run the steps
                                                           wait for pid 1 and G, exec
    end of file on the report: it runs; F<stage...>: it could not be built

The child forks first: what the builder touches is gone with its exec, and
pid 1 goes on sharing its pages with the supervisor.
`begin` returns at once; its caller's loop reads the report. The builder waits
for the go before it execs, so a jail whose record was not written never runs:
end of file on the go pipe means that the caller died. Pid 1 and the builder
close the go's write end first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass, field

from ljsv.errors import Fault
from ljsv.jail import pid1
from ljsv.jail.facts import gather_facts
from ljsv.jail.ids import IdMap, write_maps
from ljsv.jail.plan import environment, namespaces, plan
from ljsv.jail.spec import SERVICE_AT, JailSpec
from ljsv.jail.steps import Build, OpenSource
from ljsv.linux import process

NOT_STARTED_STATUS = 111
REPORT_MAX = 4096
STAGE_EXEC = "start"
STAGE_FACTS = "facts"
# clone3 resets handlers, but what is ignored stays ignored, through exec as well.
_RESET_SIGNALS = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
_TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EINTR})


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """Descriptors that a jail is given. Of `held`, pid 1 keeps a copy; -1 means none.

    `exit_fd` is the exit record with its lock; `log_fds` are held until they are empty.
    """

    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    exit_fd: int = -1
    log_fds: tuple[int, ...] = ()
    slot_fd: int = -1
    generation: int = 0
    dies_with_parent: bool = False
    umask: int = 0o022
    nofile: tuple[int, int] | None = None


@dataclass
class Launch:
    """A jail that is being built. `pid` and `pidfd` are those of its pid 1."""

    pid: int
    pidfd: int
    report_fd: int
    go_fd: int
    ids: IdMap
    service_pid: int = 0
    service_ids: tuple[int, int] = (0, 0)  # inside the jail
    failure: tuple[str, ...] = ()
    _text: bytes = field(default=b"", repr=False)

    def read_report(self) -> bool:
        """Take in what the builder says; False at its end of file (running, or `failure` is set)."""
        try:
            data = os.read(self.report_fd, REPORT_MAX)
        except BlockingIOError:
            return True
        self._text += data
        while b"\n" in self._text:
            line, _, self._text = self._text.partition(b"\n")
            if line[:1] == b"P":
                pid, uid, gid = line[1:].split()
                self.service_ids = int(uid), int(gid)
                self.service_pid = int(pid)
            elif line[:1] == b"F":
                self.failure = tuple(line[1:].decode(errors="replace").split("\0"))
        return bool(data)

    def give_go(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self.go_fd, b"G")
        os.close(self.go_fd)
        self.go_fd = -1

    def close(self) -> None:
        """Close the pipes (the pidfd is the caller's)."""
        for fd in (self.report_fd, self.go_fd):
            if fd >= 0:
                os.close(fd)
        self.report_fd = self.go_fd = -1


def begin(spec: JailSpec, ids: IdMap, wiring: Wiring) -> Launch:
    """Start building the jail. OSError or Fault when not even its first process can be made."""
    report_fd, report_w = os.pipe2(os.O_CLOEXEC)
    go_r, go_fd = os.pipe2(os.O_CLOEXEC)
    flags = namespaces(spec) | process.CLONE_PIDFD | process.CLONE_CLEAR_SIGHAND
    try:
        pid, pidfd = process.clone3(flags)
    except OSError as error:
        for fd in (report_fd, report_w, go_r, go_fd):
            os.close(fd)
        raise _clone_fault(error) from None
    if pid == 0:
        _run_child(spec, wiring, ids, (go_fd, go_r, report_w))
    os.close(report_w)
    os.close(go_r)
    fcntl.fcntl(report_fd, fcntl.F_SETFL, os.O_NONBLOCK)
    launch = Launch(pid, pidfd, report_fd, go_fd, ids)
    try:
        write_maps(pid, ids)
        os.write(go_fd, b"M")
    except OSError as error:
        launch.failure = ("map ids", str(error.errno or 0), error.strerror or "", error.filename or "")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return launch


def _clone_fault(error: OSError) -> Fault:
    hint = "ljsv doctor"
    if error.errno in {errno.EPERM, errno.ENOSPC, errno.EUSERS}:
        hint = "user namespaces are forbidden or used up: sysctl user.max_user_namespaces kernel.unprivileged_userns_clone; then ljsv doctor"
    cause = error.strerror or str(error)
    return Fault("cannot make namespaces", "clone3", cause, hint=hint, is_transient=error.errno in _TRANSIENT)


def _run_child(spec: JailSpec, wiring: Wiring, ids: IdMap, pipes: tuple[int, int, int]) -> None:
    """The child: pid 1 and, forked from it, the builder. Never returns; imports nothing."""
    go_fd, go_r, report_w = pipes
    try:
        os.close(go_fd)
        if wiring.dies_with_parent:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.read(go_r, 1) != b"M":
            os._exit(NOT_STARTED_STATUS)
        closed_r, closed_w = os.pipe2(os.O_CLOEXEC)  # its end of file: pid 1 is closed
        service_pid, _ = process.clone3(0)
        if service_pid:
            _become_pid1(service_pid, wiring, ids)
        os.close(closed_w)
        _build(spec, wiring, ids, (go_r, report_w, closed_r))
    except OSError as error:
        _report(report_w, "fork", error.errno or 0, error.strerror or str(error), "")
    finally:
        os._exit(NOT_STARTED_STATUS)


def _become_zero(ids: IdMap) -> None:
    """As root: give up the real root's ids for the jail's."""
    if ids.count > 1:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _become_pid1(service_pid: int, wiring: Wiring, ids: IdMap) -> None:
    """Let go of everything that the jail must not find in its pid 1, then keep it."""
    _become_zero(ids)
    if wiring.dies_with_parent:  # a change of ids clears it
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    process.prctl_name("ljsv pid 1")
    os.chdir("/")
    process.close_all_except(wiring.exit_fd, *wiring.log_fds, wiring.slot_fd)
    pid1.keep(service_pid, wiring.exit_fd, wiring.log_fds, wiring.generation)


def _build(spec: JailSpec, wiring: Wiring, ids: IdMap, pipes: tuple[int, int, int]) -> None:
    """The builder: from facts to exec. Returns only when that has failed, and was reported."""
    go_r, report_w, closed_r = pipes
    stage = "gather facts"
    try:
        os.umask(0o022)
        os.chdir("/")
        if wiring.nofile:
            resource.setrlimit(resource.RLIMIT_NOFILE, wiring.nofile)
        facts = gather_facts(spec, is_root=ids.count > 1)
        steps = plan(spec, facts)
        os.write(report_w, b"P%s %d %d\n" % (os.readlink(b"/proc/self"), facts.user.uid, facts.user.gid))
        build = Build()
        opening = [step for step in steps if isinstance(step, OpenSource)]
        stage = OpenSource.stage
        for source in opening:
            source.execute(build)
        stage = "change ids"
        _become_zero(ids)
        for step in steps[len(opening) :]:
            stage = step.stage
            step.execute(build)
        stage = STAGE_EXEC
        os.read(closed_r, 1)
        _become(spec, environment(spec, facts), wiring, go_r)
    except Fault as fault:
        _report(report_w, STAGE_FACTS, 0, fault.cause, fault.object, fault.action, fault.hint)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else ""
        _report(report_w, stage, error.errno or 0, error.strerror or str(error), name)
    except BaseException as error:  # noqa: BLE001 - the builder's last word
        _report(report_w, stage, 0, repr(error), "")


def _report(report_w: int, stage: str, number: int, *texts: str) -> None:
    text = "\0".join((stage, str(number), *texts)).replace("\n", " ")
    os.write(report_w, b"F%s\n" % text.encode(errors="replace")[: REPORT_MAX - 3])


def _become(spec: JailSpec, env: dict[str, str], wiring: Wiring, go_r: int) -> None:
    """The last moments before exec: session, standard descriptors, signals, the go."""
    os.setsid()
    standard = [os.dup(fd) if fd < 3 else fd for fd in (wiring.stdin_fd, wiring.stdout_fd, wiring.stderr_fd)]
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    process.close_range(3, process.FD_MAX, process.CLOSE_RANGE_CLOEXEC)  # ljexec's caller may have left some open
    os.umask(wiring.umask)
    for number in _RESET_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.read(go_r, 1) != b"G":
        os._exit(NOT_STARTED_STATUS)
    if wiring.exit_fd >= 0:
        os.write(wiring.exit_fd, b"%s %d\n" % (pid1.STARTED.encode(), wiring.generation))
    program = spec.argv[0]
    if "/" in program:
        _exec(program, spec.argv, env)
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    for directory in env.get("PATH", "").split(":"):
        try:
            _exec(f"{directory or '.'}/{program}", spec.argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise missing


def _exec(path: str, argv: tuple[str, ...], env: dict[str, str]) -> None:
    try:
        os.execve(path, argv, env)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def explain_failure(spec: JailSpec, failure: tuple[str, ...]) -> Fault:
    """What the builder reported, in the reader's words: object, cause, where it was said, a hint."""
    stage, number_text, cause, name, action, hint = (*failure, "", "", "", "", "", "")[:6]
    if stage == STAGE_FACTS:
        return Fault(action, name, cause, hint=hint)
    number = int(number_text or 0)
    where = spec.directory or spec.base_path
    hint = f"see {spec.origin}; ljsv explain {spec.name}"
    action = f"cannot {stage}"
    if stage == STAGE_EXEC:
        name, cause, hint = _explain_exec(spec, number, cause, name)
    elif number == errno.EACCES:
        name = name.split(" at ")[0].replace(SERVICE_AT, spec.directory or SERVICE_AT)
        place = name if name.startswith(where) or stage in {"open", "bind"} else where
        hint = f"the jail's ids must be able to enter and read it: chmod a+rx {place}, or see namei -l {place}"
    elif number in {errno.EPERM, errno.ENOSPC} and "namespace" in stage:
        hint = "ljsv doctor"
    elif number == errno.ENOSPC:
        hint = f"df {name.split(' ')[0] or where}"
    return Fault(action, name, cause, hint=hint, is_transient=number in _TRANSIENT)


def _explain_exec(spec: JailSpec, number: int, cause: str, name: str) -> tuple[str, str, str]:
    script = f"{spec.directory}/{name.removeprefix('./')}" if spec.directory else name
    if number == errno.ENOENT and spec.directory:
        interpreter = _interpreter(script)
        if interpreter:
            return script, f"the jail has no {interpreter}", f"its first line names {interpreter}, which the rootfs must have: see {spec.origin}"
    if number == errno.EACCES:
        return script, cause, f"the jail's ids must be able to read and execute it: chmod a+rx {script}"
    if number == errno.ENOEXEC:
        return script, cause, f"its first line must name an interpreter: #!/bin/sh in {script}"
    return script, cause, f"see {spec.origin}"


def _interpreter(script: str) -> str:
    """What a script's first line names; "" for anything else."""
    try:
        with open(script, "rb") as file:
            line = file.readline(256)
    except OSError:
        return ""
    words = line[2:].split() if line.startswith(b"#!") else []
    return words[0].decode(errors="replace") if words else ""

"""`ljsv lint`: read service directories as a start would, look at what they would start, and start nothing.

An operand with a slash is a directory, wherever it is: of a service, or one
that holds services. Exit 0: nothing would fail; 1: there are faults.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Collection, Generator, Iterator, Mapping

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.show import pasteable, print_fault
from ljsv.errors import EXIT_NO_SERVICE, EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import Places, find_svdir, is_service_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.jail.spec import JailSpec
    from ljsv.service.lint import Finding, View
    from ljsv.service.read import Service

OPTIONS = {"--all": "", "--json": ""}
WORDS = {"fault": "FAIL", "warning": "warn", "note": "note"}
PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
CONFIG_MAX = 1 << 20


def run(_verb: str, options: Options) -> int:
    reports = [(subject, list(subject.look())) for subject in _subjects(options)]
    if options.has("--json"):
        import json

        print(json.dumps([_as_json(subject, findings) for subject, findings in reports], indent=2))
    else:
        for subject, findings in reports:
            _print(subject, findings)
    return EXIT_NOT_REACHED if any(_has_fault(findings) for _, findings in reports) else EXIT_OK


def _has_fault(findings: list[Finding]) -> bool:
    return any(finding.level == "fault" for finding in findings)


def _print(subject: Subject, findings: list[Finding]) -> None:
    if not _has_fault(findings):
        print(f"ok    {subject.name}")
    for level, word in WORDS.items():
        for finding in findings:
            if finding.level == level:
                print(f"{word}  {subject.name}: {finding.text}")
                if finding.hint:
                    print(f"      hint: {pasteable(finding.hint)}")


def _as_json(subject: Subject, findings: list[Finding]) -> dict[str, object]:
    found = [{"level": finding.level, "text": finding.text, "hint": finding.hint or None} for finding in findings]
    return {"name": subject.name, "directory": subject.path, "ok": not _has_fault(findings), "findings": found}


# ---- which directories


def _subjects(options: Options) -> Iterator[Subject]:
    paths = [operand for operand in options.operands if _is_path(operand, options.get("--svdir"))]
    for path in paths:
        yield from _at_path(path)
    if paths and len(paths) == len(options.operands):
        return
    options.operands = [operand for operand in options.operands if operand not in paths]
    context = Context(options.get("--svdir"), options)
    names, misnamed = (context.names(), []) if options.operands else context.look_around()
    siblings = Siblings(context.svdir)
    for name in names:
        yield Subject(name, f"{context.svdir}/{name}", context.places, siblings, is_at_home=True)
    for fault in misnamed:
        print_fault(fault)


def _is_path(word: str, svdir: str) -> bool:
    """And no service's name: `sv` in a checkout is the scan directory."""
    if "/" in word or word in {".", ".."}:
        return True
    return os.path.isdir(word) and word not in Context(svdir, Options({}, [])).all_names()


def _at_path(path: str) -> Iterator[Subject]:
    if not os.path.isdir(path):
        cause = "not a directory" if os.path.lexists(path) else "No such file or directory"
        raise Fault("no such service directory", path, cause, hint=f"ls -ld {quote(path)}", exit_code=EXIT_NO_SERVICE)
    real = os.path.realpath(path)
    inside = [] if _is_service(real) else sorted(name for name in _names_in(real) if is_service_name(name) and _is_service(f"{real}/{name}"))
    parent = real if inside else os.path.dirname(real)
    places, siblings = Places(parent, dict(os.environ), os.geteuid()), Siblings(parent)
    is_at_home = bool(inside) or _is_scan_directory(parent)
    for name in inside or [os.path.basename(real)]:
        yield Subject(name, f"{parent}/{name}", places, siblings, is_at_home=is_at_home)


def _is_scan_directory(path: str) -> bool:
    """Whether it is the one that `ljsv` uses here."""
    try:
        return os.path.realpath(find_svdir("", dict(os.environ), os.geteuid())[0]) == path
    except Fault:
        return False


def _is_service(path: str) -> bool:
    return os.path.lexists(f"{path}/run") or os.path.lexists(f"{path}/rootfs")


def _names_in(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


class Siblings:
    """The services of one scan directory, and what they need: read once."""

    def __init__(self, svdir: str) -> None:
        self.svdir = svdir
        self.known = [name for name in _names_in(svdir) if is_service_name(name) and os.path.isdir(f"{svdir}/{name}")]
        self._needs: dict[str, tuple[str, ...]] | None = None

    def needs(self) -> Mapping[str, Collection[str]]:
        if self._needs is None:
            from ljsv.service.read import read_needs

            self._needs = {name: read_needs(f"{self.svdir}/{name}") for name in self.known}
        return self._needs


def _read(path: str) -> bytes:
    """A regular file's bytes, at most `CONFIG_MAX`; OSError for anything else."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.read(fd, CONFIG_MAX) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


# ---- one service directory


class Subject:
    """One service directory. `is_at_home`: it is where a scanner finds it, and so are those that it needs."""

    def __init__(self, name: str, path: str, places: Places, siblings: Siblings, *, is_at_home: bool) -> None:
        self.name = name
        self.path = os.path.realpath(path)
        self.state = places.state_of(name)
        self.siblings = siblings
        self.is_at_home = is_at_home
        self.is_foreign = False

    def look(self) -> Iterator[Finding]:
        """All that is to be said of it."""
        from ljsv.service import lint

        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            names = os.listdir(fd)
        except OSError as error:
            yield lint.Finding(lint.FAULT, f"cannot open {self.path}: {error.strerror}", f"ls -ld {self.path}")
            return
        try:
            service = yield from self._read(fd)
        finally:
            os.close(fd)
        if service:
            yield from self._look_at(service, names)
        yield from lint.check_names(self.path, names, is_text_rootfs=os.path.isfile(f"{self.path}/rootfs") and bool(service and not service.image_type))

    def _read(self, fd: int) -> Generator[Finding, None, Service | None]:
        """Returns the service; where it is unfit, every file is looked at by itself, so that all is told at once."""
        from ljsv.service import lint, schema, toml
        from ljsv.service.images import HEAD_SIZE, image_type
        from ljsv.service.read import read_service

        owner, uid = os.fstat(fd).st_uid, os.geteuid()
        self.is_foreign = owner != uid and not (uid == 0 and self.is_at_home)  # another's: read as he would
        try:
            return read_service(self.path, fd, uid=owner if self.is_foreign else uid, state="" if self.is_foreign else self.state)
        except Fault as fault:
            told = {str(fault)}
            yield self._finding(fault)
        for name, kind in (("rootfs", schema.Rootfs), ("rootfs.toml", schema.Rootfs), ("limits", schema.Limits), ("policy", schema.Policy)):
            path = f"{self.path}/{name}"
            try:
                text = _read(path)
                if not (name == "rootfs" and image_type(text[:HEAD_SIZE])):
                    toml.parse(text, kind, path)
            except Fault as fault:
                if str(fault) not in told:
                    yield self._finding(fault)
            except OSError as error:
                if error.errno and not isinstance(error, (FileNotFoundError, NotADirectoryError)) and not any(path in text for text in told):
                    yield lint.Finding(lint.NOTE, f"not looked into: {path}: {error.strerror}")
        return None

    def _finding(self, fault: Fault) -> Finding:
        """What another may not read is not his fault."""
        from ljsv.service import lint

        if self.is_foreign and fault.cause == os.strerror(errno.EACCES):
            return lint.Finding(lint.NOTE, f"not looked into: {fault.object}: {fault.cause}")
        return lint.Finding(lint.FAULT, str(fault), fault.hint)

    def _check_directory(self, path: str, spec: JailSpec) -> Iterator[Finding]:
        from ljsv.jail.ids import is_root
        from ljsv.service.read import check_directory

        try:
            check_directory(path, is_shifted=is_root() and not spec.is_privileged)
        except Fault as fault:
            yield self._finding(fault)

    def _look_at(self, service: Service, names: list[str]) -> Iterator[Finding]:
        from ljsv.jail.spec import DEFAULT_CAPABILITIES, PATH, spec_of
        from ljsv.linux.capabilities import NAMES
        from ljsv.service import lint

        spec = spec_of(service, self.name, self.state)
        rootfs = service.rootfs
        defaults = {NAMES[number] for number in DEFAULT_CAPABILITIES}
        origin = f"{self.path}/{'rootfs' if rootfs.base else 'rootfs.toml'}"
        yield from self._check_directory(self.path, spec)
        yield from lint.check_capabilities(rootfs.security.capabilities, defaults, rootfs.user, rootfs.network, _port_start(), origin, is_privileged=spec.is_privileged, has_filter=spec.has_filter)
        if not spec.is_privileged:
            yield from lint.check_ports(dict(service.env), self._text("run"), rootfs.network, _port_start(), self.path)
        yield from lint.check_devices(spec.devices, origin)
        yield from lint.check_terminal(spec.tty, names, service.policy.stop.signal, self.path)
        yield from self._check_needs(service)
        if service.policy.ready.by == "check" and service.check_argv == ("./check",) and "check" not in names:
            yield lint.Finding(lint.FAULT, f'{self.path}/policy: ready.by = "check", and there is no check', f"write {self.path}/check, or take ready.by out")
        if service.policy.ready.watchdog and service.policy.ready.by != "notify":
            yield lint.Finding(lint.WARNING, f'{self.path}/policy: ready.watchdog has no effect without ready.by = "notify"', f"ljsv explain {quote(self.name)}  # by = \"{service.policy.ready.by}\" hears no WATCHDOG=1")
        view = yield from self._see(spec)
        if view:
            path = dict(service.env).get("PATH") or PATH
            with view:
                for name in self._scripts(names):
                    yield from lint.check_script(view, name, f"{self.path}/{name}", path)
        yield from self._look_at_log(names)
        yield from self._check_folders(names)
        yield from (lint.Finding(lint.NOTE, note) for note in service.notes)

    def _text(self, name: str) -> str:
        try:
            return _read(f"{self.path}/{name}").decode(errors="replace")
        except OSError:
            return ""

    def _scripts(self, names: list[str]) -> list[str]:
        scripts = [name for name in ("run", "finish", "check") if name in names]
        controls = sorted(_names_in(f"{self.path}/control")) if "control" in names else []
        return scripts + [f"control/{name}" for name in controls if len(name) == 1]

    def _check_needs(self, service: Service) -> Iterator[Finding]:
        from ljsv.service import lint

        needs = service.policy.needs
        policy = f"{self.path}/policy"
        if self.is_at_home:
            yield from lint.check_needs(self.siblings.needs(), self.siblings.known, self.name, policy)
        elif self.name in needs:
            yield from lint.check_needs({self.name: (self.name,)}, [self.name], self.name, policy)
        else:
            strangers = [need for need in needs if need not in self.siblings.known]
            yield from (lint.Finding(lint.NOTE, f"{policy}: needs {need}, which is not beside it: not looked for elsewhere") for need in strangers)
        for need in needs:
            if self.is_at_home and os.path.lexists(f"{self.siblings.svdir}/{need}/down"):
                hint = f"ljsv enable {need}, or ljsv up {need} each time"
                yield lint.Finding(lint.WARNING, f"{policy}: needs {need}, which does not start by itself: it has a down file", hint)

    def _see(self, spec: JailSpec) -> Generator[Finding, None, View | None]:
        """Returns what the jail will see; None where that cannot be told from here."""
        from ljsv.jail.launch import check_jail
        from ljsv.jail.spec import IMAGE
        from ljsv.service import lint

        try:
            yield from (lint.Finding(lint.NOTE, note) for note in check_jail(spec))
            if spec.base_kind != IMAGE:
                return (yield from see(spec))
            view = see_running(spec)
            if view:
                return view
            text = f"{spec.base_path}: the image was not looked into: whether it has the user and the programs is known when it runs"
            yield lint.Finding(lint.NOTE, text)
        except Fault as fault:
            finding = self._finding(fault)
            yield finding.replace(level=lint.NOTE, text=f"started by you: {fault}") if self.is_foreign and finding.level == lint.FAULT else finding
        except OSError as error:
            yield lint.Finding(lint.NOTE, f"not looked into: {error.filename or spec.base_path}: {error.strerror}")
        return None

    def _look_at_log(self, names: list[str]) -> Iterator[Finding]:
        """The log service: in a jail of its own, from log/rootfs or else the host's directories."""
        from ljsv.jail.spec import PATH, spec_of
        from ljsv.service import lint
        from ljsv.service.read import read_service

        folder = f"{self.path}/log"
        if "log" not in names or not os.path.isdir(folder):
            return
        if not os.path.lexists(f"{folder}/run"):
            yield lint.Finding(lint.WARNING, f"{folder}: there is no run in it: not used, and sv status complains of it", f"write {folder}/run, or: rm -r {folder}")
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spec = spec_of(read_service(folder, fd, uid=os.fstat(fd).st_uid, is_log=True), f"{self.name}/log", f"{self.state}/log")
        except Fault as fault:
            yield self._finding(fault)
            return
        finally:
            os.close(fd)
        yield from self._check_directory(folder, spec)
        view = yield from self._see(spec)
        if view:
            with view:
                yield from lint.check_script(view, "run", f"{folder}/run", PATH)

    def _check_folders(self, names: list[str]) -> Iterator[Finding]:
        from ljsv.service import lint

        for name in ("control", "log"):
            path = f"{self.path}/{name}"
            if name in names and not os.path.isdir(path):
                yield lint.Finding(lint.WARNING, f"{path}: not used: it is not a directory", f"ls -l {quote(path)}")
        unknown = set(_names_in(f"{self.path}/control")) - lint.CONTROLS if "control" in names else set[str]()
        for name in sorted(unknown):
            path = f"{self.path}/control/{name}"
            yield lint.Finding(lint.WARNING, f"{path}: not used: no control byte is called {name}", f"one of: {' '.join(sorted(lint.CONTROLS))}")


def _port_start() -> int:
    try:
        with open(PORT_START) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def see(spec: JailSpec) -> Generator[Finding, None, View]:
    """Returns what the jail's plan will show of files. Fault where it cannot be built."""
    from ljsv.jail import mounts
    from ljsv.jail.ids import preview_ids
    from ljsv.jail.launch import facts_of
    from ljsv.jail.outside import UPPER
    from ljsv.jail.plan import plan
    from ljsv.jail.spec import DIRECTORY, OVERLAY
    from ljsv.linux.mount import MOUNT_ATTR_RDONLY
    from ljsv.service.lint import View

    ids = preview_ids(spec.directory or spec.name, is_range=spec.is_range, is_host=spec.is_privileged)
    facts = facts_of(spec, ids)
    view = View(is_root=facts.is_root)
    if spec.base_kind == DIRECTORY:
        upper = f"{spec.overlay}/{spec.layer}{UPPER}"
        view.mount("/", *([upper] if spec.writable == OVERLAY and os.path.isdir(upper) else []), spec.base_path)
    for step in plan(spec, facts).inside:
        if isinstance(step, mounts.Bind):
            yield from _tell_missing(spec, step.to, view.mount(step.to, step.source, is_read_only=bool(step.attributes & MOUNT_ATTR_RDONLY)))
        elif isinstance(step, mounts.ShowDevice):
            yield from _tell_missing(spec, step.to, view.mount(step.to, step.to))
        elif isinstance(step, mounts.NewMount):
            yield from _tell_missing(spec, step.to, view.mount(step.to))
        elif isinstance(step, mounts.MakeSymlink):
            view.link(step.path, step.target)
    return view


def _tell_missing(spec: JailSpec, place: str, missing_in: str) -> Iterator[Finding]:
    from ljsv.service.lint import FAULT, Finding

    if missing_in:
        text = f"{spec.origin}: nothing can be mounted at {place}: {missing_in} is read-only, and has no such place"
        yield Finding(FAULT, text, f"make it on the host, or choose a place outside {missing_in}")


def see_running(spec: JailSpec) -> View | None:
    """What the jail of this service shows, where it runs: an image is mounted nowhere else. Fault for a user it does not have."""
    from ljsv.jail.passwd import find_user
    from ljsv.linux.process import open_process, read_boot_id
    from ljsv.service.lint import View
    from ljsv.supervise.record import read_jail_record

    supervise = f"{spec.directory}/supervise"
    record = read_jail_record(supervise)
    entry = os.stat(spec.directory)
    is_ours = status.read_detail(supervise).get("identity", "").startswith(f"{entry.st_dev}:{entry.st_ino}:")
    if not (record and is_ours and record.script == "run" and record.boot_id == read_boot_id()):
        return None
    pidfd = open_process(record.service_pid, record.service_start_time)
    if pidfd < 0:
        return None
    view = View(is_root=os.geteuid() == 0)
    view.mount("/", f"/proc/{record.service_pid}/root")
    try:
        root_fd, _ = view.open("/")
        try:
            signal.pidfd_send_signal(pidfd, 0)  # still the same process: so it is its root that we hold
            find_user(spec.user, root_fd, spec.origin)
        finally:
            os.close(root_fd)
    except OSError:
        view.close()
        return None
    except Fault:
        view.close()
        raise
    finally:
        os.close(pidfd)
    return view

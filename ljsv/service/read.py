"""A service directory, read whole into one frozen `Service`.

Reading follows no path that leaves the directory's descriptor except the
base that `rootfs` names. Nothing is written, nothing is run.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from typing import TypeVar

from ljsv.errors import Fault, quote
from ljsv.linux import capabilities
from ljsv.service import schema, toml
from ljsv.service.images import HEAD_SIZE, check_image, image_type
from ljsv.service.kinds import DIRECTORY, HOST, IMAGE
from ljsv.service.stored import Defaults, HealthCheck, read_manifest, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.service.generations import Generation

T = TypeVar("T")

CONFIG_MAX = 1 << 20
ENV_FILES_MAX = 1024
ENV_VALUE_MAX = 64 << 10
RUN = ("./run",)
CHECK = ("./check",)
SIGNAL = "TERM"  # where neither policy nor image says otherwise
PRIVILEGED_NOTE = 'privileged: user_namespace = "host": the root of its jail is the real root'


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a service directory says. `base_path` is absolute; `base_kind` is host, directory or image,
    `image_type` then squashfs or erofs, `image_name` what the store was asked for ("" for a file).

    What the directory does not say, the image's defaults do: `argv` is ./run, or else what the image starts, in
    `workdir` ("": the service directory); `check_argv` is ./check, or else the image's health check.

    Where an image was deployed, `base_path` and `layer` are those of the
    generation in effect; `said` is what the directory itself says of its base.
    """

    directory: str
    rootfs: schema.Rootfs
    limits: schema.Limits
    policy: schema.Policy
    base_kind: str
    base_path: str
    image_type: str = ""
    image_name: str = ""
    argv: tuple[str, ...] = RUN
    workdir: str = ""
    check_argv: tuple[str, ...] = CHECK
    layer: int = 0
    said: str = ""
    deployed: str = ""  # what people call the image that is in effect instead of its own base
    env: tuple[tuple[str, str | None], ...] = ()
    has_finish: bool = False
    notes: tuple[str, ...] = ()


def check_directory(directory: str, *, is_shifted: bool) -> None:
    """Fault where a jail of root's, whose ids are shifted, may not enter its service directory: there they are others."""
    entry = os.stat(directory)
    if is_shifted and entry.st_uid == 0 and entry.st_mode & 0o005 != 0o005:
        cause = f"the jail's ids may not enter and read it (mode {entry.st_mode & 0o7777:04o})"
        raise Fault("cannot start", directory, cause, hint=f"chmod a+rx {quote(directory)}")


def read_service(directory: str, dir_fd: int, *, uid: int, state: str = "", is_log: bool = False) -> Service:
    """The service of `dir_fd`; `directory` is its path for messages and for what is bound. Fault if it is unfit.

    `state`: its state directory, where another image may have been deployed.
    `is_log`: it is the log service of another, and needs no `rootfs`.
    """
    _check_trust(directory, dir_fd, uid)
    has_run = _check_script(directory, dir_fd, "run", required=_stat(dir_fd, "rootfs") is None)
    deployed = _read_deployed(state)
    rootfs, said, kind, base = _read_rootfs(directory, dir_fd, HOST if is_log else "", deployed)
    is_deployed = bool(deployed and deployed.path and base == deployed.path)
    image_type = check_image(base) if kind == IMAGE else ""
    defaults = read_manifest(base).defaults if image_type else Defaults()
    if not has_run and not defaults.argv:
        _check_script(directory, dir_fd, "run", required=True)
    has_check = bool(_stat(dir_fd, "check"))
    policy = _read_toml(directory, dir_fd, "policy", schema.Policy)
    service = Service(
        directory=directory,
        rootfs=replace(rootfs, user=rootfs.user or defaults.user),
        limits=_read_toml(directory, dir_fd, "limits", schema.Limits),
        policy=_with_defaults(policy, defaults, has_check=has_check),
        base_kind=kind,
        base_path=base,
        image_type=image_type,
        image_name="" if is_deployed else _stored_name(directory, rootfs, kind, base),
        layer=deployed.layer if deployed else 0,
        said=said,
        deployed=deployed.image if deployed and is_deployed else "",
        argv=RUN if has_run else defaults.argv,
        workdir="" if has_run else defaults.workdir or "/",
        check_argv=CHECK if has_check or not defaults.health else defaults.health.argv,
        env=(*defaults.env, *_read_env(directory, dir_fd)),
        has_finish=_check_script(directory, dir_fd, "finish", required=False),
    )
    if service.policy.ready.by == "check" and service.check_argv == CHECK:
        _check_script(directory, dir_fd, "check", required=True)
    _refuse_impossible(service, uid)
    if is_log:
        _refuse_for_log(service)
    notes = _notes(service, dir_fd, uid)
    if deployed and deployed.path and not service.deployed:
        notes += (f"base was edited after {deployed.image} was deployed, and counts: ljsv deploy brings another image in",)
    return replace(service, notes=notes)


def _read_deployed(state: str) -> Generation | None:
    """The generation in effect, where one was ever deployed."""
    if not state or not os.path.lexists(f"{state}/generations"):
        return None
    from ljsv.service.generations import read_generations

    found = read_generations(state).effective
    return replace(found, path=os.path.join(state, found.path)) if found.path else found


def _with_defaults(policy: schema.Policy, defaults: Defaults, *, has_check: bool) -> schema.Policy:
    """The policy with the image's words where it has none of its own."""
    stop, ready, scripts = policy.stop, policy.ready, policy.scripts
    if not stop.signal:
        stop = replace(stop, signal=defaults.stop_signal if defaults.stop_signal in toml.SIGNALS else SIGNAL)
    health = None if has_check else defaults.health
    if ready.by is None:
        ready = replace(ready, by="start")
        if health:
            ready = replace(ready, by="check", timeout=schema.Duration(max(ready.timeout, _time_to_be_well(health))))
    if health and health.timeout_s:
        scripts = replace(scripts, check=schema.Duration(health.timeout_s))
    return replace(policy, stop=stop, ready=ready, scripts=scripts)


def _time_to_be_well(health: HealthCheck) -> float:
    """How long it may be unwell before it counts as failed, as the Dockerfile reference has it."""
    return health.start_period_s + (health.retries or 3) * (health.interval_s or 30.0)


def names_program(dir_fd: int) -> bool:
    """Whether the rootfs there is a text that names an image which starts something: then no run is needed."""
    try:
        rootfs, _, kind, base = _read_rootfs(os.readlink(f"/proc/self/fd/{dir_fd}"), dir_fd, "")
        return kind == IMAGE and rootfs.base != "" and bool(read_manifest(base).defaults.argv)
    except (Fault, OSError):
        return False


def image_of(directory: str) -> tuple[str, str]:
    """(the image file of the rootfs there, the name of the store's that it says, "" for a file); two "" for none, and where it cannot be read."""
    try:
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return "", ""
    try:
        rootfs, _, kind, base = _read_rootfs(directory, dir_fd, "")
        if kind != IMAGE:
            return "", ""
        return base, _stored_name(directory, rootfs, kind, base)
    except (Fault, OSError):
        return "", ""
    finally:
        os.close(dir_fd)


def read_needs(directory: str) -> tuple[str, ...]:
    """What the policy there names as needs; nothing where it cannot be read."""
    try:
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        return _read_toml(directory, dir_fd, "policy", schema.Policy).needs
    except Fault:
        return ()
    finally:
        os.close(dir_fd)


def _check_trust(directory: str, dir_fd: int, uid: int) -> None:
    entry = os.fstat(dir_fd)
    if uid == 0 and (entry.st_uid != 0 or entry.st_mode & 0o022):
        why = f"belongs to uid {entry.st_uid}" if entry.st_uid else f"others may write it (mode {entry.st_mode & 0o7777:04o})"
        hint = f"chown -R root: {directory} && chmod go-w {directory}"
        raise Fault("root will not run this service directory", directory, why, hint=hint)


def _stat(dir_fd: int, name: str, *, follow: bool = True) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_script(directory: str, dir_fd: int, name: str, *, required: bool) -> bool:
    """Whether the script is there; Fault where it is missing but required, or cannot be executed."""
    path = f"{directory}/{name}"
    entry = _stat(dir_fd, name)
    if entry is None:
        if not required:
            return False
        line, what = ("exec PROGRAM", "it has to stay in the foreground") if name == "run" else ("exit 0", "when the service is ready")
        hint = f"printf '#!/bin/sh\\n{line}\\n' > {quote(path)}; chmod +x {quote(path)}  # {what}"
        raise Fault(f"there is no {name} script", path, "No such file or directory", hint=hint)
    if not stat.S_ISREG(entry.st_mode):
        raise Fault(f"{name} is not a file", path, "it has to be an executable file", hint=f"ls -l {quote(path)}")
    if not entry.st_mode & 0o111:
        raise Fault(f"{name} is not executable", path, f"mode {entry.st_mode & 0o7777:04o}", hint=f"chmod +x {quote(path)}")
    return True


def _read_file(path: str, dir_fd: int, name: str, limit: int) -> bytes:
    """A regular file's bytes, at most `limit`; a FIFO or device is refused, never waited for."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Fault("cannot read", path, "not a regular file", hint=f"ls -l {quote(path)}")
        data = os.read(fd, limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise Fault("cannot read", path, f"larger than {limit} bytes", hint=f"ls -l {quote(path)}")
    return data


def _read_toml(directory: str, dir_fd: int, name: str, kind: type[T]) -> T:
    path = f"{directory}/{name}"
    try:
        return toml.parse(_read_file(path, dir_fd, name, CONFIG_MAX), kind, path)
    except FileNotFoundError as error:
        if os.path.islink(f"/proc/self/fd/{dir_fd}/{name}"):
            raise Fault.from_os("leads nowhere", error, path, hint=f"ls -l {quote(path)}") from None
        return kind()
    except OSError as error:
        raise _unreadable(error, path) from None


def _unreadable(error: OSError, path: str) -> Fault:
    """Transient where somebody, perhaps the jail itself, has a lease on the file: it is broken by the wish to read."""
    fault = Fault.from_os("cannot read", error, path, hint=f"ls -ld {quote(path)}")
    fault.is_transient = error.errno == errno.EAGAIN
    return fault


def _read_rootfs(directory: str, dir_fd: int, default_base: str, deployed: Generation | None = None) -> tuple[schema.Rootfs, str, str, str]:
    """(what it says, of its base in a word, kind and path of the base)."""
    rootfs, said, find_base = _read_own_rootfs(directory, dir_fd, default_base)
    if deployed and deployed.path and deployed.said == said:
        return rootfs, said, IMAGE, deployed.path
    return (rootfs, said, *find_base())


def _read_own_rootfs(directory: str, dir_fd: int, default_base: str) -> tuple[schema.Rootfs, str, Callable[[], tuple[str, str]]]:
    """The last one finds the base: it may be gone where an image was deployed in its place."""
    path = f"{directory}/rootfs"
    entry = _stat(dir_fd, "rootfs")
    if entry is None and default_base and _stat(dir_fd, "rootfs", follow=False) is None:
        return schema.Rootfs(base=default_base), default_base, lambda: (HOST, "/")
    if entry is None:
        hint = f"""echo 'base = "host"' > {path}"""
        if _stat(dir_fd, "rootfs", follow=False) is not None:
            raise Fault("rootfs leads nowhere", path, "a symlink whose target does not exist", hint=f"ls -l {quote(path)}")
        raise Fault("there is no rootfs", path, "No such file or directory", hint=hint)
    if stat.S_ISDIR(entry.st_mode):
        return _read_beside(directory, dir_fd), "rootfs/", lambda: (DIRECTORY, os.path.realpath(path))
    if image_type(_read_head(path, dir_fd)):
        said = f"rootfs, {entry.st_size} bytes of {entry.st_mtime_ns}"
        return _read_beside(directory, dir_fd), said, lambda: (IMAGE, path)
    rootfs = _read_toml(directory, dir_fd, "rootfs", schema.Rootfs)
    if not rootfs.base:
        raise Fault(f"{path}: missing key base", "", "it is required here", hint=f"""echo 'base = "host"' >> {quote(path)}""")
    return rootfs, rootfs.base, lambda: _resolve_base(directory, path, rootfs.base)


def _read_head(path: str, dir_fd: int) -> bytes:
    try:
        fd = os.open("rootfs", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        raise _unreadable(error, path) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Fault("rootfs is of no known kind", path, "neither directory, image nor text", hint=f"ls -l {quote(path)}")
        return os.read(fd, HEAD_SIZE)
    finally:
        os.close(fd)


def _read_beside(directory: str, dir_fd: int) -> schema.Rootfs:
    """`rootfs.toml`, which says everything but `base`."""
    rootfs = _read_toml(directory, dir_fd, "rootfs.toml", schema.Rootfs)
    if rootfs.base:
        path = f"{directory}/rootfs.toml"
        raise Fault(f"{path}: base is not allowed here", "", "rootfs beside it is the base", hint=f"take base out of {quote(path)}")
    return rootfs


def _stored_name(directory: str, rootfs: schema.Rootfs, kind: str, base: str) -> str:
    """What the store was asked for; "" where the base is no image, or a file that is named."""
    return rootfs.base if kind == IMAGE and base != _beside(directory, rootfs.base) else ""


def _beside(directory: str, base: str) -> str:
    return os.path.normpath(os.path.join(directory, base))


def _resolve_base(directory: str, file: str, base: str) -> tuple[str, str]:
    """A path that is there comes before a name of the store; ./NAME and /NAME are only paths."""
    if base == HOST:
        return HOST, "/"
    path = _beside(directory, base)
    entry = None
    try:
        entry = os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Fault.from_os(f"{file}: cannot use base", error, path, hint=f"ls -ld {quote(path)}") from None
    if entry is None and not base.startswith(("/", "./", "../")):
        try:
            return IMAGE, resolve(base).path
        except Fault as fault:
            cause = f"no such file beside it; {fault.cause}" if fault.object == base else str(fault)
            raise Fault(f"{file}: base: {fault.action}", base, cause, hint=fault.hint) from None
    if entry is None:
        raise Fault(f"{file}: base does not exist", path, "No such file or directory", hint=f'make it, or write base = "host" into {file}')
    if stat.S_ISDIR(entry.st_mode):
        return DIRECTORY, os.path.realpath(path)
    return IMAGE, path


def _read_env(directory: str, dir_fd: int) -> tuple[tuple[str, str | None], ...]:
    """`env/` as `chpst -e` reads it: a file's first line, NUL for newline; an empty file unsets."""
    path = f"{directory}/env"
    try:
        fd = os.open("env", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {quote(path)}") from None
    pairs: list[tuple[str, str | None]] = []
    try:
        names = sorted(name for name in os.listdir(fd) if name[0] != ".")
        if len(names) > ENV_FILES_MAX:
            raise Fault("cannot read", path, f"more than {ENV_FILES_MAX} files", hint=f"ls {quote(path)} | wc -l")
        for name in names:
            if "=" in name:
                raise Fault("not a variable's name", f"{path}/{name}", "it has = in it", hint=f"rm {quote(f'{path}/{name}')}  # and write one without")
            data = _read_file(f"{path}/{name}", fd, name, ENV_VALUE_MAX)
            first = data.split(b"\n", 1)[0].rstrip(b" \t").replace(b"\0", b"\n")
            pairs.append((name, os.fsdecode(first) if data else None))
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {quote(path)}") from None
    finally:
        os.close(fd)
    return tuple(pairs)


def _refuse_impossible(service: Service, uid: int) -> None:
    """What is well-formed, but cannot be for this caller."""
    path = f"{service.directory}/{'rootfs' if service.rootfs.base else 'rootfs.toml'}"
    is_privileged = service.rootfs.security.user_namespace == "host"
    if uid and is_privileged:
        hint = "take it out, or have root's scanner run the service"
        raise Fault(f'{path}: security.user_namespace = "host" is only for root', "", f"the caller is uid {uid}", hint=hint)
    if is_privileged and (True, capabilities.NUMBERS["SYS_PTRACE"]) in map(capabilities.parse, service.rootfs.security.capabilities):
        cause = "it would let the jail write into its pid 1, and into what enters it: they have all of root's rights"
        raise Fault(f'{path}: SYS_PTRACE and security.user_namespace = "host" exclude each other', "", cause, hint="take SYS_PTRACE out")
    if is_privileged and service.rootfs.ids:
        raise Fault(f'{path}: ids and security.user_namespace = "host" exclude each other', "", "its ids are the machine's own", hint="take ids out")
    if not uid and service.rootfs.ids == "one":
        raise Fault(f'{path}: ids = "one" is not possible as root', "", "a jail is never the real root: it gets a range", hint="take ids out")


def _refuse_for_log(service: Service) -> None:
    """What makes no sense for a log service."""
    directory = service.directory
    if service.rootfs.tty:
        raise Fault(f"{directory}/rootfs: a log service has no terminal", "", "it reads what its service writes", hint=f"take tty out of {quote(directory)}/rootfs")
    if service.policy.needs:
        raise Fault(f"{directory}/policy: a log service needs no other", "", "it starts before its own service", hint=f"take needs out of {quote(directory)}/policy")


def _notes(service: Service, dir_fd: int, uid: int) -> tuple[str, ...]:
    """What is read and valid, but not done: said, never silent."""
    policy = service.policy
    notes = [PRIVILEGED_NOTE] if service.rootfs.security.user_namespace == "host" else []
    if policy.log.to == "kmsg" and uid:
        notes.append('not enforced: log.to = "kmsg" (only root may write there: written to the log file)')
    check = _stat(dir_fd, "check")
    if check and not check.st_mode & 0o111:
        notes.append(f"not used: check is not executable (chmod +x {service.directory}/check)")
    return tuple(notes)

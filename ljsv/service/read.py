"""A service directory, read whole into one frozen `Service`.

Reading follows no path that leaves the directory's descriptor except the
base that `rootfs` names. Nothing is written, nothing is run.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import TypeVar

from ljsv.errors import Fault
from ljsv.service import schema, toml
from ljsv.service.kinds import DIRECTORY, HOST, IMAGE

T = TypeVar("T")

CONFIG_MAX = 1 << 20
ENV_FILES_MAX = 1024
ENV_VALUE_MAX = 64 << 10
_IMAGE_MAGIC = {b"hsqs": "squashfs"}
_EROFS_MAGIC_AT = 1024
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a service directory says. `base_path` is absolute; `base_kind` is host, directory or image."""

    directory: str
    rootfs: schema.Rootfs
    limits: schema.Limits
    policy: schema.Policy
    base_kind: str
    base_path: str
    env: tuple[tuple[str, str | None], ...] = ()
    has_finish: bool = False
    notes: tuple[str, ...] = ()


def read_service(directory: str, dir_fd: int, *, uid: int) -> Service:
    """The service of `dir_fd`; `directory` is its path for messages and for what is bound. Fault if it is unfit."""
    _check_trust(directory, dir_fd, uid)
    _check_script(directory, dir_fd, "run", required=True)
    rootfs, kind, base = _read_rootfs(directory, dir_fd)
    service = Service(
        directory=directory,
        rootfs=rootfs,
        limits=_read_toml(directory, dir_fd, "limits", schema.Limits),
        policy=_read_toml(directory, dir_fd, "policy", schema.Policy),
        base_kind=kind,
        base_path=base,
        env=_read_env(directory, dir_fd),
        has_finish=_check_script(directory, dir_fd, "finish", required=False),
    )
    _refuse_unsupported(service, uid)
    return replace(service, notes=_notes(service, dir_fd))


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
        hint = f"write {path}: #!/bin/sh, then exec the program in the foreground; chmod +x {path}"
        raise Fault("there is no run script", path, "No such file or directory", hint=hint)
    if not stat.S_ISREG(entry.st_mode):
        raise Fault(f"{name} is not a file", path, "it has to be an executable file", hint=f"ls -l {path}")
    if not entry.st_mode & 0o111:
        raise Fault(f"{name} is not executable", path, f"mode {entry.st_mode & 0o7777:04o}", hint=f"chmod +x {path}")
    return True


def _read_file(path: str, dir_fd: int, name: str, limit: int) -> bytes:
    """A regular file's bytes, at most `limit`; a FIFO or device is refused, never waited for."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Fault("cannot read", path, "not a regular file", hint=f"ls -l {path}")
        data = os.read(fd, limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise Fault("cannot read", path, f"larger than {limit} bytes", hint=f"ls -l {path}")
    return data


def _read_toml(directory: str, dir_fd: int, name: str, kind: type[T]) -> T:
    path = f"{directory}/{name}"
    try:
        return toml.parse(_read_file(path, dir_fd, name, CONFIG_MAX), kind, path)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {path}") from None


def _read_rootfs(directory: str, dir_fd: int) -> tuple[schema.Rootfs, str, str]:
    path = f"{directory}/rootfs"
    entry = _stat(dir_fd, "rootfs")
    if entry is None:
        hint = f"""echo 'base = "host"' > {path}"""
        if _stat(dir_fd, "rootfs", follow=False) is not None:
            raise Fault("rootfs leads nowhere", path, "a symlink whose target does not exist", hint=f"ls -l {path}")
        raise Fault("there is no rootfs", path, "No such file or directory", hint=hint)
    if stat.S_ISDIR(entry.st_mode):
        rootfs = _read_beside(directory, dir_fd)
        return rootfs, DIRECTORY, os.path.realpath(path)
    text = _read_head(path, dir_fd)
    if _image_type(text):
        return _read_beside(directory, dir_fd), IMAGE, path
    rootfs = _read_toml(directory, dir_fd, "rootfs", schema.Rootfs)
    if not rootfs.base:
        raise Fault(f"{path}: missing key base", "", "it is required here", hint=f"""echo 'base = "host"' >> {path}""")
    return (rootfs, *_resolve_base(directory, path, rootfs.base))


def _read_head(path: str, dir_fd: int) -> bytes:
    try:
        fd = os.open("rootfs", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {path}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Fault("rootfs is of no known kind", path, "neither directory, image nor text", hint=f"ls -l {path}")
        return os.read(fd, _EROFS_MAGIC_AT + 4)
    finally:
        os.close(fd)


def _image_type(head: bytes) -> str:
    if head[_EROFS_MAGIC_AT:] == _EROFS_MAGIC:
        return "erofs"
    return _IMAGE_MAGIC.get(head[:4], "")


def _read_beside(directory: str, dir_fd: int) -> schema.Rootfs:
    """`rootfs.toml`, which says everything but `base`."""
    rootfs = _read_toml(directory, dir_fd, "rootfs.toml", schema.Rootfs)
    if rootfs.base:
        path = f"{directory}/rootfs.toml"
        raise Fault(f"{path}: base is not allowed here", "", "rootfs beside it is the base", hint=f"take base out of {path}")
    return rootfs


def _resolve_base(directory: str, file: str, base: str) -> tuple[str, str]:
    if base == HOST:
        return HOST, "/"
    path = os.path.normpath(os.path.join(directory, base))
    entry = None
    try:
        entry = os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Fault.from_os(f"{file}: cannot use base", error, path, hint=f"ls -ld {path}") from None
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
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {path}") from None
    pairs: list[tuple[str, str | None]] = []
    try:
        names = sorted(name for name in os.listdir(fd) if name[0] != ".")
        if len(names) > ENV_FILES_MAX:
            raise Fault("cannot read", path, f"more than {ENV_FILES_MAX} files", hint=f"ls {path} | wc -l")
        for name in names:
            if "=" in name:
                raise Fault("not a variable's name", f"{path}/{name}", "it has = in it", hint=f"rename {path}/{name}")
            data = _read_file(f"{path}/{name}", fd, name, ENV_VALUE_MAX)
            first = data.split(b"\n", 1)[0].rstrip(b" \t").replace(b"\0", b"\n")
            pairs.append((name, os.fsdecode(first) if data else None))
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint=f"ls -ld {path}") from None
    finally:
        os.close(fd)
    return tuple(pairs)


def _refuse_unsupported(service: Service, uid: int) -> None:
    """What this version cannot do and must not leave undone in silence."""
    rootfs, path = service.rootfs, f"{service.directory}/rootfs"
    if service.base_kind == IMAGE:
        raise Fault(
            "images cannot be mounted by this version", service.base_path, "only a directory or host can be the base",
            hint="unpack it: unsquashfs -d rootfs IMAGE, and use that directory",
        )
    if rootfs.writable in {"overlay", "direct"}:
        raise Fault(
            f"{path}: writable = \"{rootfs.writable}\" is not possible in this version", "",
            'allowed: "no", "tmpfs"', hint="use a writable [[bind]] for what has to be kept",
        )
    if uid and rootfs.ids == "range":
        raise Fault(
            f'{path}: ids = "range" is not possible without root in this version', "", 'allowed: "one"', hint='write ids = "one"'
        )
    if not uid and rootfs.ids == "one":
        raise Fault(f'{path}: ids = "one" is not possible as root', "", "a jail is never the real root: it gets a range", hint="take ids out")


def _notes(service: Service, dir_fd: int) -> tuple[str, ...]:
    """What is read and valid, but not enforced by this version: said, never silent."""
    limits, policy = service.limits, service.policy
    notes = [
        f"not enforced: {name} (cgroup limits are not in this version)"
        for name in ("memory", "memory_high", "swap", "cpu", "pids")
        if getattr(limits, name) is not None
    ]
    if service.rootfs.security.seccomp == "default":
        notes.append("not enforced: security.seccomp (no system call filter in this version)")
    if policy.ready.by != "start":
        notes.append(f'not enforced: ready.by = "{policy.ready.by}" (counts as ready when started)')
    if policy.needs:
        notes.append("not enforced: needs (services start at once)")
    if policy.essential:
        notes.append("not enforced: essential")
    if policy.log.to == "kmsg":
        notes.append('not enforced: log.to = "kmsg" (written to the log file)')
    for name, what in (("check", "readiness checks"), ("control", "control scripts"), ("log", "log services")):
        if _stat(dir_fd, name) is not None:
            notes.append(f"not used: {name} ({what} are not in this version)")
    return tuple(notes)

"""Facts: what the plan of a jail has to know of this host and of the base, gathered once per start.

The base is untrusted: its paths are followed only below its descriptor
(openat2, RESOLVE_IN_ROOT), and of its files only regular ones of bounded size
are read.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import cache

from ljsv.errors import Fault
from ljsv.jail.spec import HOST, JailSpec
from ljsv.linux.capabilities import read_last_capability
from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

PASSWD_MAX = 1 << 20
RANGE_SIZE = 65536
STANDARD_DIRECTORIES = ("/dev", "/proc", "/run", "/tmp")
# What `base = "host"` shows of /etc: what programs need, and no secrets.
HOST_ETC = (
    "passwd", "group", "hosts", "resolv.conf", "nsswitch.conf", "localtime", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "alternatives", "ssl/certs",
)
DNS_FILES = ("resolv.conf", "hosts")
# As the OCI runtime specification masks them.
PROC_MASKED = ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
SCRATCH_PLACES = ("/tmp", "/run", "/mnt", "/media", "/srv")


@dataclass(frozen=True, kw_only=True)
class User:
    """Ids inside the jail, and what passwd says of them."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`is_root`: the caller's uid is 0. Lists hold absolute paths, sorted."""

    is_root: bool
    scratch: str
    user: User
    last_capability: int
    devices: tuple[str, ...]
    proc_masked: tuple[tuple[str, bool], ...]  # (name below /proc, whether a directory)
    proc_read_only: tuple[str, ...]
    host_directories: tuple[str, ...] = ()
    host_links: tuple[tuple[str, str], ...] = ()
    etc: tuple[tuple[str, str, bool], ...] = ()  # (name below /etc, real path on the host, whether a directory)
    missing: tuple[tuple[str, bool], ...] = ()  # (mount point that the base lacks, whether a directory)
    covered: tuple[str, ...] = ()  # directories of the service directory that the jail must not see
    bind_is_directory: tuple[bool, ...] = ()


@cache
def host_facts() -> tuple[str, int, tuple[str, ...], tuple[tuple[str, bool], ...], tuple[str, ...]]:
    """What does not change while this process lives."""
    scratch = next((path for path in SCRATCH_PLACES if os.path.isdir(path)), "/proc")
    masked = tuple((name, os.path.isdir(f"/proc/{name}")) for name in PROC_MASKED if os.path.exists(f"/proc/{name}"))
    read_only = tuple(name for name in PROC_READ_ONLY if os.path.exists(f"/proc/{name}"))
    devices = tuple(name for name in DEVICES if os.path.exists(f"/dev/{name}"))
    return scratch, read_last_capability(), devices, masked, read_only


def gather_facts(spec: JailSpec, *, is_root: bool) -> Facts:
    """The facts for one jail; Fault when base, bind or user cannot be.

    `is_root` is said, not asked: the jail's builder calls this, and sees its
    own id through a new user namespace.
    """
    scratch, last, devices, masked, read_only = host_facts()
    on_host = spec.base_kind == HOST
    try:
        base_fd = os.open(spec.base_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Fault.from_os("cannot open the base", error, spec.base_path, hint=f"see {spec.origin}") from None
    try:
        user = _find_user(spec, base_fd)
        directories, links = _host_top() if on_host else ((), ())
        wanted: tuple[str, ...] = HOST_ETC if on_host else DNS_FILES
        if spec.network != "host" or spec.dns != "host":
            wanted = tuple(name for name in wanted if name not in DNS_FILES)
        etc = tuple(_find_etc(wanted))
        binds = tuple(_is_directory(bind.from_, spec) for bind in spec.binds)
        missing = () if on_host else _find_missing(spec, base_fd, etc, binds)
    finally:
        os.close(base_fd)
    return Facts(
        is_root=is_root,
        scratch=scratch,
        user=user,
        last_capability=last,
        devices=devices,
        proc_masked=masked,
        proc_read_only=read_only,
        host_directories=directories,
        host_links=links,
        etc=etc,
        missing=missing,
        covered=_find_covered(spec.directory),
        bind_is_directory=binds,
    )


def _host_top() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    directories, links = [], []
    names = {"usr", "bin", "sbin", "opt", *(name for name in os.listdir("/") if name.startswith("lib"))}
    for name in sorted(names):
        path = "/" + name
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            directories.append(path)
    return tuple(directories), tuple(links)


def _find_etc(names: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    """What is there, links resolved: a jail does not see where /etc/resolv.conf points to."""
    found = []
    for name in names:
        real = os.path.realpath(f"/etc/{name}")
        try:
            mode = os.stat(real).st_mode
        except OSError:
            continue
        found.append((name, real, stat.S_ISDIR(mode)))
    return found


def _is_directory(path: str, spec: JailSpec) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise Fault.from_os("cannot bind", error, path, hint=f"make it, or change the [[bind]] in {spec.origin}") from None


def _find_covered(directory: str) -> tuple[str, ...]:
    """Real directories there: a symlink into the runtime directory leads nowhere in the jail."""
    covered = []
    for name in ("supervise", "env", "log/supervise"):
        path = f"{directory}/{name}"
        if directory and os.path.isdir(path) and not os.path.islink(path):
            covered.append(name)
    return tuple(covered)


def _find_missing(
    spec: JailSpec, base_fd: int, etc: tuple[tuple[str, str, bool], ...], binds: tuple[bool, ...]
) -> tuple[tuple[str, bool], ...]:
    """Mount points that a read-only base lacks; those below our own tmpfs are made there."""
    wanted = [(path, True) for path in STANDARD_DIRECTORIES]
    wanted += [(f"/etc/{name}", is_directory) for name, _, is_directory in etc]
    wanted += [(bind.to, is_directory) for bind, is_directory in zip(spec.binds, binds, strict=True)]
    wanted += [(tmpfs.at, True) for tmpfs in spec.tmpfs]
    missing = []
    for path, is_directory in wanted:
        if path.startswith(("/dev/", "/proc/", "/run/", "/tmp/")):
            continue
        is_standard = path in STANDARD_DIRECTORIES
        try:
            os.close(openat2(base_fd, path, os.O_PATH, RESOLVE_IN_ROOT | (RESOLVE_NO_SYMLINKS if is_standard else 0)))
        except FileNotFoundError:
            if not _is_link(base_fd, path):  # one that leads nowhere: what it leads to is made when it is mounted
                missing.append((path, is_directory))
        except OSError as error:
            if error.errno == errno.ELOOP and is_standard:
                shown = f"{spec.base_path}{path}"
                raise Fault("cannot use the base", shown, "it is a symlink, and has to be a directory", hint=f"rm {shown} && mkdir {shown}") from None
            raise Fault.from_os("cannot look up in the base", error, f"{spec.base_path}{path}", hint=f"see {spec.origin}") from None
    return tuple(missing)


def _is_link(base_fd: int, path: str) -> bool:
    try:
        fd = openat2(base_fd, path, os.O_PATH | os.O_NOFOLLOW, RESOLVE_IN_ROOT)
    except OSError:
        return False
    os.close(fd)
    return True


def read_inside(base_fd: int, path: str, limit: int) -> str:
    """A regular file's text in an untrusted tree, at most `limit` bytes; "" when there is none."""
    try:
        path_fd = openat2(base_fd, path, os.O_PATH, RESOLVE_IN_ROOT)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            return ""
        fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    finally:
        os.close(path_fd)
    try:
        return os.read(fd, limit).decode(errors="replace")
    finally:
        os.close(fd)


def _find_user(spec: JailSpec, base_fd: int) -> User:
    """`user` as the jail's own passwd knows it; numbers are taken as they are."""
    wanted = spec.user or "0"
    uid_text, _, gid_text = wanted.partition(":")
    entries = [line.split(":") for line in read_inside(base_fd, "/etc/passwd", PASSWD_MAX).splitlines()]
    entries = [entry for entry in entries if len(entry) >= 7 and entry[2].isdigit() and entry[3].isdigit()]
    by_number = uid_text.isdigit()
    entry = next((e for e in entries if (e[2] if by_number else e[0]) == uid_text), None)
    if entry is None and not by_number:
        raise Fault(
            f"{spec.origin}: the jail has no user {uid_text}", f"{spec.base_path.rstrip('/')}/etc/passwd", "no such entry",
            hint=f"name one that is there, or a number: user = \"1000\" in {spec.origin}",
        )
    uid = int(uid_text) if by_number else int(entry[2] if entry else 0)
    if gid_text and not gid_text.isdigit():
        raise Fault(f"{spec.origin}: user: found {wanted!r}", "", 'allowed: a name, "UID" or "UID:GID"', hint=f"correct {spec.origin}")
    gid = int(gid_text) if gid_text else int(entry[3]) if entry else uid
    if not (uid < RANGE_SIZE and gid < RANGE_SIZE):
        raise Fault(f"{spec.origin}: user: found {wanted!r}", "", f"ids inside a jail are below {RANGE_SIZE}", hint=f"correct {spec.origin}")
    name, home, shell = (entry[0], entry[5], entry[6]) if entry else (("root", "/", "") if uid == 0 else (str(uid), "/", ""))
    return User(name=name, uid=uid, gid=gid, home=_existing_home(spec, base_fd, home), shell=shell or "/bin/sh")


def _existing_home(spec: JailSpec, base_fd: int, home: str) -> str:
    if spec.base_kind == HOST or not home.startswith("/"):
        return "/"
    try:
        os.close(openat2(base_fd, home, os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT))
    except OSError:
        return "/"
    return home

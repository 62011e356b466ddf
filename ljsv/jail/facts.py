"""Facts: what the plan of a jail has to know of this host and of the base, gathered by the launcher once a start.

The base is untrusted: its paths are followed only below its descriptor
(openat2, RESOLVE_IN_ROOT).
"""

from __future__ import annotations

import errno
import os
import stat

from ljsv.errors import Fault, quote
from ljsv.frozen import Frozen
from ljsv.jail.apart import check_apart
from ljsv.jail.exposed import STANDARD_DIRECTORIES, close_hint, find_exposed, find_owned, find_set_id
from ljsv.jail.filters import read_filter
from ljsv.jail.outside import can_map
from ljsv.jail.spec import DIRECT, DIRECTORY, HOST, IMAGE, NO, OVERLAY, TMPFS, JailSpec
from ljsv.linux.capabilities import read_last_capability
from ljsv.linux.libc import MACHINE
from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from ljsv.linux.mountinfo import escape, unescape
from ljsv.service.images import EROFS, SQUASHFS, check_image

# What `base = "host"` shows of /etc: what programs need, and no secrets.
HOST_ETC = (
    "passwd", "group", "hosts", "resolv.conf", "nsswitch.conf", "localtime", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "alternatives", "ssl/certs",
)
MADE_ANEW = ("/dev", "/proc", "/sys", "/run", "/tmp")  # in every jail
HIDDEN_MAX = 5
DNS_FILES = ("resolv.conf", "hosts")
# As the OCI runtime specification masks them.
PROC_MASKED = ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
SCRATCH_PLACES = ("/tmp", "/run", "/mnt", "/media", "/srv")
LOOP, FILE, FUSE = "loop", "file", "fuse"  # how an image is mounted
SERVERS = ("/usr/bin/squashfuse_ll", "/usr/bin/squashfuse", "/bin/squashfuse_ll", "/bin/squashfuse")
EROFS_FROM_FILE = (6, 12)
MAPPED_SQUASHFS = (6, 2)
TMPFS_XATTRS = (6, 6)


class Facts(Frozen):
    """`is_root`: the caller's uid is 0. Paths are absolute, lists sorted.

    `is_range`: more than one id is mapped; `userns_fd`: a namespace with
    the jail's map, where files are shown under its ids; `image_how`: loop, file or fuse; `server`: the program
    that serves an image through FUSE; `no_setid`: it may write where others
    of the host can go, so its filter refuses set-user-id programs; `set_id`:
    those that are there already, as the jail names them, and their inodes.
    """

    is_root: bool
    scratch: str
    last_capability: int
    devices: tuple[str, ...]
    proc_masked: tuple[tuple[str, bool], ...]  # (name below /proc, whether a directory)
    proc_read_only: tuple[tuple[str, bool], ...]
    is_range: bool = False
    userns_fd: int = -1
    is_base_mapped: bool = False
    image_how: str = ""
    server: str = ""
    filter: bytes = b""
    no_setid: bool = False
    set_id: tuple[tuple[str, int], ...] = ()
    host_directories: tuple[str, ...] = ()
    host_links: tuple[tuple[str, str], ...] = ()
    etc: tuple[tuple[str, bool], ...] = ()  # (name below /etc, whether a directory)
    missing: tuple[tuple[str, bool], ...] = ()  # (mount point that the base lacks, whether a directory)
    covered: tuple[str, ...] = ()  # directories of the service directory that the jail must not see
    bind_is_directory: tuple[bool, ...] = ()
    nodes: tuple[tuple[str, int, int], ...] = ()  # devices that are shown: (path, S_IFCHR or S_IFBLK, device number)
    notes: tuple[str, ...] = ()  # what the user is told: not refused, but not what he may expect either


class HostFacts(Frozen):
    """What does not change while this process lives."""

    scratch: str
    last_capability: int
    devices: tuple[str, ...]
    proc_masked: tuple[tuple[str, bool], ...]
    proc_read_only: tuple[tuple[str, bool], ...]
    kernel: tuple[int, int]


_host: list[HostFacts] = []


def host_facts() -> HostFacts:
    """Looked up once."""
    if not _host:
        major, minor = os.uname().release.split(".")[:2]
        _host.append(
            HostFacts(
                scratch=next((path for path in SCRATCH_PLACES if os.path.isdir(path)), "/proc"),
                last_capability=read_last_capability(),
                devices=tuple(name for name in DEVICES if os.path.exists(f"/dev/{name}")),
                proc_masked=_in_proc(PROC_MASKED),
                proc_read_only=_in_proc(PROC_READ_ONLY),
                kernel=(int(major), int("".join(c for c in minor if c.isdigit()) or 0)),
            )
        )
    return _host[0]


def _in_proc(names: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """What this kernel has of them, and whether it is a directory."""
    return tuple((name, os.path.isdir(f"/proc/{name}")) for name in names if os.path.exists(f"/proc/{name}"))


def needs_map(spec: JailSpec) -> bool:
    """Whether files of it are shown under the jail's own ids, where those are shifted."""
    return spec.base_kind != HOST or spec.writable == OVERLAY or any(bind.is_mapped for bind in spec.binds)


def gather_facts(spec: JailSpec, *, is_shifted: bool = False, userns_fd: int = -1) -> Facts:
    """The facts for one jail; Fault when base, bind, image or overlay cannot be.

    `is_shifted`: its ids are a range of root's; `userns_fd` is a user
    namespace with the same map then, for a jail that `needs_map`.
    """
    host = host_facts()
    is_root = is_shifted or spec.is_privileged
    on_host = spec.base_kind == HOST
    directories, links = _host_top() if on_host else ((), ())
    wanted: tuple[str, ...] = HOST_ETC if on_host else DNS_FILES
    if spec.network != "host" or spec.dns != "host":
        wanted = tuple(name for name in wanted if name not in DNS_FILES)
    etc = tuple(_find_etc(wanted))
    binds = tuple(_is_directory(bind.source, spec) for bind in spec.binds)
    image_how, server = find_image(spec, host, is_root=is_root) if spec.base_kind == IMAGE else ("", "")
    is_base_mapped = userns_fd >= 0 and spec.base_kind == DIRECTORY and can_map(spec.base_path, userns_fd)
    _check_writable(spec, userns_fd, is_base_mapped=is_base_mapped)
    check_apart(spec)
    exposed = find_exposed(spec)
    owned = find_owned(spec, exposed, is_shifted=is_shifted)
    set_id, why_not_all = find_set_id(spec, owned, is_root=is_root)
    notes = _notes(spec, host, is_shifted=is_shifted, is_base_mapped=is_base_mapped)
    if exposed:
        kept = f", and {len(set_id)} that are there are read-only" if set_id else ""
        kept += f", but not all that may be there were looked for: there are {why_not_all}" if why_not_all else ""
        notes += (_exposed_note(spec, exposed[0][1], kept, "another jail's" if not owned else "root's" if is_root else "yours"),)
    missing = _find_missing(spec, etc, binds)
    if spec.base_kind == DIRECTORY and (spec.writable in {OVERLAY, TMPFS} or (spec.writable == NO and missing)):
        notes += _look_below(spec, is_root=is_root)
    return Facts(
        is_root=is_root,
        is_range=is_root or spec.is_range,
        userns_fd=userns_fd,
        is_base_mapped=is_base_mapped,
        image_how=image_how,
        server=server,
        filter=read_filter(MACHINE, no_setid=bool(exposed)) if spec.has_filter else b"",
        no_setid=bool(exposed),
        set_id=set_id,
        scratch=host.scratch,
        last_capability=host.last_capability,
        devices=host.devices,
        proc_masked=host.proc_masked,
        proc_read_only=host.proc_read_only,
        host_directories=directories,
        host_links=links,
        etc=etc,
        missing=missing,
        covered=_find_covered(spec.directory),
        bind_is_directory=binds,
        nodes=_find_nodes(spec, is_root=is_root),
        notes=notes,
    )


def find_image(spec: JailSpec, host: HostFacts, *, is_root: bool) -> tuple[str, str]:
    """(how it is mounted, the program that serves it where that is by FUSE). Fault where it cannot be."""
    path = spec.base_path
    kind = check_image(path)
    if kind != spec.image_type:
        raise Fault("cannot use the image", path, f"it was {spec.image_type} and is {kind} now", hint="start it again")
    if is_root and kind == EROFS:
        return (FILE if host.kernel >= EROFS_FROM_FILE else LOOP), ""
    if is_root and (spec.is_privileged or host.kernel >= MAPPED_SQUASHFS):
        return LOOP, ""
    if kind != SQUASHFS:
        hint = f"run it as root, or make a squashfs of it: mksquashfs DIRECTORY {quote(f'{path}.squashfs')}"
        raise Fault("cannot mount the image", path, "erofs cannot be mounted without root", hint=hint)
    server = next((path for path in SERVERS if os.access(path, os.X_OK)), "")
    if not server:
        why = "this kernel cannot id-map squashfs" if is_root else "without root"
        raise Fault("cannot mount the image", path, f"{why}: squashfuse is needed, and not installed", hint="sudo apt-get install squashfuse")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cause = "may not be opened" if os.path.exists("/dev/fuse") else "No such file or directory"
        raise Fault("cannot mount the image", "/dev/fuse", cause, hint="sudo modprobe fuse && sudo chmod 0666 /dev/fuse")
    return FUSE, server


def _check_writable(spec: JailSpec, userns_fd: int, *, is_base_mapped: bool) -> None:
    """What cannot be written as configured: Fault."""
    if spec.writable in {OVERLAY, DIRECT} and spec.base_kind == HOST:
        raise Fault(f'writable = "{spec.writable}" needs a base of its own', "base", '"host"', hint=f'see {spec.origin}: "no" or "tmpfs", or another base')
    if spec.writable == DIRECT and spec.base_kind == IMAGE:
        raise Fault("an image cannot be written", spec.base_path, 'writable = "direct"', hint=f'writable = "overlay" in {spec.origin} keeps changes beside it')
    if spec.writable == OVERLAY and spec.base_kind == DIRECTORY:
        real, base = os.path.realpath(spec.overlay), os.path.realpath(spec.base_path)
        if f"{real}/".startswith(f"{base}/") or f"{base}/".startswith(f"{real}/"):
            raise Fault("base and overlay lie in each other", spec.overlay, f"the base is {spec.base_path}", hint=f"see {spec.origin}: name a directory of its own")
    if userns_fd < 0:
        return
    hint = "put it on ext4, xfs, btrfs, f2fs, or on tmpfs with Linux 6.3 or newer"
    if spec.writable == DIRECT and not is_base_mapped:
        raise Fault("cannot id-map the base", spec.base_path, "its file system cannot with this kernel, and a jail is never the real root", hint=hint)
    if spec.writable == OVERLAY:
        place = spec.overlay
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        if not can_map(place, userns_fd, recursive=False):
            raise Fault("cannot id-map the overlay", place, "its file system cannot with this kernel, and a jail is never the real root", hint=hint)
    for bind in spec.binds:
        if bind.is_mapped and not can_map(bind.source, userns_fd):
            raise Fault("cannot id-map the bind", bind.source, "its file system cannot with this kernel", hint=hint)


def _notes(spec: JailSpec, host: HostFacts, *, is_shifted: bool, is_base_mapped: bool) -> tuple[str, ...]:
    notes = []
    if is_shifted and spec.base_kind == DIRECTORY and not is_base_mapped:
        notes.append(f"ids not mapped: the file system of {spec.base_path} cannot with this kernel; its files show as nobody's")
    if spec.writable == TMPFS and spec.base_kind != HOST and host.kernel < TMPFS_XATTRS:
        notes.append("tmpfs of this kernel stores no user xattrs: a directory of the base that was removed cannot be made again")
    notes += [
        f"{bind.to} can be written, but as root only with ids = \"map\": its files are those of ids that the jail does not have"
        for bind in spec.binds if is_shifted and bind.writable and not bind.is_mapped and not os.stat(bind.source).st_mode & 0o002
    ]
    return tuple(notes)


def _look_below(spec: JailSpec, *, is_root: bool) -> tuple[str, ...]:
    """What is mounted in the base is in none of the layers that are made of it: told. Fault where the kernel refuses to make one.

    Source: clone_private_mount() in fs/namespace.c, for which mounts of a more privileged namespace are locked.
    """
    base = "" if spec.base_path == "/" else spec.base_path
    with open("/proc/self/mountinfo", "rb") as file:
        data = file.read()
    sign = os.fsencode(f" {escape(base)}/")
    places = [unescape(os.fsdecode(line.split(b" ", 5)[4])) for line in data.splitlines() if sign in line]
    below = sorted({place.removeprefix(base) for place in places if place.startswith(f"{base}/") and place != "/"})
    shown = {bind.to for bind in spec.binds} | {tmpfs.at for tmpfs in spec.tmpfs}
    hidden = [path for path in below if path not in shown and not path.startswith(MADE_ANEW)]
    if below and not is_root:
        cause = f"something is mounted in it, at {below[0]}: no layer above it can be made without root"
        raise Fault("cannot use the root", spec.base_path, cause, hint=f"findmnt -R {quote(spec.base_path)}  # without a layer, with all mount points that a jail needs, it can be used")
    return (f"not shown: what is mounted in {spec.base_path}, at {' '.join(hidden[:HIDDEN_MAX])}: bind it",) if hidden else ()


def _exposed_note(spec: JailSpec, place: str, kept: str, whose: str) -> str:
    """What is done about set-user-id programs there, and what is not."""
    close = close_hint(place)
    if spec.has_filter:
        lifts = f"{close} lifts that" if close else "a directory above it that only its owner may enter lifts that, if it is yours or root's"
        return f"others can reach {place}: set-user-id and set-group-id bits are refused in this jail{kept} ({lifts})"
    hint = f" ({close})" if close else ""
    return f"seccomp is off, and others can reach {place}: set-user-id programs that the jail makes there are {whose}{hint}"


_top: list[tuple[int, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]] = []


def _host_top() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(directories, symlinks with their targets) that `base = "host"` shows of /; looked up anew when / has changed."""
    changed_ns = os.stat("/").st_mtime_ns
    if not _top or _top[0][0] != changed_ns:
        _top[:] = [(changed_ns, _look_up_top())]
    return _top[0][1]


def _look_up_top() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    directories, links = [], []
    names = {"usr", "bin", "sbin", "opt", *(name for name in os.listdir("/") if name.startswith("lib"))}
    for name in sorted(names):
        path = "/" + name
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            directories.append(path)
    return tuple(directories), tuple(links)


def _find_etc(names: tuple[str, ...]) -> list[tuple[str, bool]]:
    """What is there. A symlink is followed when it is bound: the jail does not see where /etc/resolv.conf points to."""
    found = []
    for name in names:
        try:
            mode = os.stat(f"/etc/{name}").st_mode
        except OSError:
            continue
        found.append((name, stat.S_ISDIR(mode)))
    return found


def _is_directory(path: str, spec: JailSpec) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise Fault.from_os("cannot bind", error, path, hint=f"make it, or change the {f'[[bind]] in {spec.origin}' if spec.directory else '--bind'}") from None


def _find_nodes(spec: JailSpec, *, is_root: bool) -> tuple[tuple[str, int, int], ...]:
    """What has to be shown of the host's devices; a pseudo-terminal is none that could be: it is only passed on."""
    nodes = []
    shown = (spec.tty,) if spec.tty and not os.path.realpath(spec.tty).startswith("/dev/pts/") else ()
    for path in dict.fromkeys((*spec.devices, *shown)):
        try:
            entry = os.stat(path)
        except OSError as error:
            fault = Fault.from_os("cannot show the device", error, path, hint=f"ls -l {quote(path)}  # is its module loaded? it is named in {spec.origin}")
            fault.is_transient = True  # it may be plugged in later
            raise fault from None
        if not (stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode)):
            raise Fault("cannot show the device", path, "it is none", hint=f"ls -l {quote(path)}  # a [[bind]] shows files and directories")
        if not is_root:
            _check_access(spec, path, entry)
        nodes.append((path, stat.S_IFMT(entry.st_mode), entry.st_rdev))
    return tuple(nodes)


def _check_access(spec: JailSpec, path: str, entry: os.stat_result) -> None:
    """Without root a device is the host's node, with its owner and mode: Fault where the jail could not open it."""
    if os.statvfs(path).f_flag & os.ST_NODEV:
        raise Fault("cannot show the device", path, "its file system is mounted nodev", hint=f"findmnt -T {quote(path)}")
    if not spec.is_range:
        if os.access(path, os.R_OK) or os.access(path, os.W_OK):
            return
        hint = f"ls -l {path}; sudo usermod -aG GROUP-OF-IT {os.environ.get('USER', 'YOU')}, and log in again"
        raise Fault("cannot show the device", path, "you may not open it, so neither may the jail", hint=hint)
    is_owner = entry.st_uid == os.geteuid() and entry.st_mode & 0o600
    is_group = entry.st_gid == os.getegid() and entry.st_mode & 0o060
    if not (is_owner or is_group or entry.st_mode & 0o006):
        cause = 'with ids = "range" the jail has none of your supplementary groups, and may not open it'
        raise Fault("cannot show the device", path, cause, hint=f"take ids out of {spec.origin}, or have root's scanner run it")


def _find_covered(directory: str) -> tuple[str, ...]:
    """What lies there of supervise and env directories: one that a symlink leads out to, as into the runtime directory, is not seen in the jail."""
    if not directory:
        return ()
    root = os.path.realpath(directory)
    covered = []
    for name in ("supervise", "env", "log/supervise", "log/env"):
        path = os.path.realpath(f"{root}/{name}")
        if path == root and name.endswith("supervise"):
            cause = "it is the service directory itself, which the jail sees: it could steer its supervisor"
            raise Fault("cannot start", f"{root}/{name}", cause, hint=f"rm {quote(f'{root}/{name}')}  # it is made anew")
        if path.startswith(f"{root}/") and os.path.isdir(path):
            covered.append(path.removeprefix(f"{root}/"))
    return tuple(dict.fromkeys(covered))


def _find_missing(spec: JailSpec, etc: tuple[tuple[str, bool], ...], binds: tuple[bool, ...]) -> tuple[tuple[str, bool], ...]:
    """Mount points that a base lacks; those below our own tmpfs are made there. An image cannot be asked yet: all of them."""
    if spec.base_kind == HOST:
        return ()
    wanted = [(path, True) for path in STANDARD_DIRECTORIES]
    wanted += [(f"/etc/{name}", is_directory) for name, is_directory in etc]
    wanted += [(bind.to, is_directory) for bind, is_directory in zip(spec.binds, binds, strict=True)]
    wanted += [(tmpfs.at, True) for tmpfs in spec.tmpfs]
    wanted = [(path, is_directory) for path, is_directory in wanted if not path.startswith(("/dev/", "/proc/", "/run/", "/tmp/"))]
    if spec.base_kind == IMAGE:
        return tuple(wanted)
    try:
        base_fd = os.open(spec.base_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Fault.from_os("cannot open the base", error, spec.base_path, hint=f"see {spec.origin}") from None
    try:
        return tuple((_resolve_missing(base_fd, path), is_directory) for path, is_directory in wanted if _is_missing(spec, base_fd, path))
    finally:
        os.close(base_fd)


def _resolve_missing(base_fd: int, path: str) -> str:
    """Where a missing place would be, when the symlinks of the base that lead to it have been followed."""
    base = os.readlink(f"/proc/self/fd/{base_fd}")
    parent, rest = path, ""
    while parent not in {"", "/"}:
        parent, _, name = parent.rpartition("/")
        rest = f"/{name}{rest}"
        try:
            fd = openat2(base_fd, parent or "/", os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        except OSError:
            continue
        try:
            real = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return real.removeprefix(base.rstrip("/")) + rest if real.startswith(base) else path
    return path


def _is_missing(spec: JailSpec, base_fd: int, path: str) -> bool:
    is_standard = path in STANDARD_DIRECTORIES
    try:
        os.close(openat2(base_fd, path, os.O_PATH, RESOLVE_IN_ROOT | (RESOLVE_NO_SYMLINKS if is_standard else 0)))
    except FileNotFoundError:
        return not _is_link(base_fd, path)  # one that leads nowhere: what it leads to is made when it is mounted
    except OSError as error:
        shown = f"{spec.base_path}{path}"
        if error.errno == errno.ELOOP and is_standard:
            raise Fault("cannot use the base", shown, "it is a symlink, and has to be a directory", hint=f"rm {quote(shown)} && mkdir {quote(shown)}") from None
        raise Fault.from_os("cannot look up in the base", error, shown, hint=f"see {spec.origin}") from None
    return False


def _is_link(base_fd: int, path: str) -> bool:
    try:
        fd = openat2(base_fd, path, os.O_PATH | os.O_NOFOLLOW, RESOLVE_IN_ROOT)
    except OSError:
        return False
    os.close(fd)
    return True

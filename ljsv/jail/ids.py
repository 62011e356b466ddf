"""Which ids a jail has: one of the caller's, his subordinate range, or as root a range of its own.

As root the map is never 0 to 0. A jail gets 65,536 ids at
0x70000000 + slot x 65,536; a slot is held by a lock on a file in the runtime
directory, which pid 1 of the jail inherits and keeps while it lives.
Unprivileged, `ids = "range"` maps 0 to the caller and 1 to 65,535 to the
range that /etc/subuid and /etc/subgid give him, through newuidmap and
newgidmap. Sources: user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import fcntl
import os
from binascii import crc32
from select import POLLIN, poll

from ljsv.errors import Fault
from ljsv.frozen import Frozen
from ljsv.jail.passwd import RANGE_SIZE
from ljsv.linux import process
from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RANGE_BASE = 0x7000_0000
SLOTS = (0xFFFF_0000 - RANGE_BASE) // RANGE_SIZE
SLOT_DIRECTORY = "/run/ljsv/.slots"
SUBID_FILE_MAX = 1 << 20
MAPPER_TIMEOUT_MS = 10_000
MAPPER_PATH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")

Extent = tuple[int, int, int]  # first id inside, first id outside, count
_ALL: tuple[Extent, ...] = ((0, 0, 0xFFFF_FFFF),)


class IdMap(Frozen):
    """The extents of uid_map and gid_map; `slot` is -1 without one."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    slot: int = -1

    @property
    def is_range(self) -> bool:
        return len(self.uids) > 1 or self.uids[0][2] > 1

    @property
    def is_host(self) -> bool:
        """Whether they are the machine's own: there is nothing to map."""
        return self.uids == _ALL

    @property
    def needs_mappers(self) -> bool:
        """Whether only the mappers, newuidmap and newgidmap, may write it."""
        return self.is_range and self.slot < 0 and not self.is_host

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids of ids inside. KeyError for one that is not mapped."""
        return _translate(self.uids, uid), _translate(self.gids, gid)

    def describe(self) -> str:
        if self.is_host:
            return "none: they are the machine's own, and root is the real root"
        if not self.is_range:
            return f"0 -> uid {self.uids[0][1]}, gid {self.gids[0][1]}"
        if self.uids == self.gids:
            return _describe(self.uids)
        return f"uids {_describe(self.uids)}; gids {_describe(self.gids)}"


def _translate(extents: tuple[Extent, ...], inside: int) -> int:
    for first, outside, count in extents:
        if first <= inside < first + count:
            return outside + inside - first
    raise KeyError(inside)


def _describe(extents: tuple[Extent, ...]) -> str:
    return ", ".join(
        f"{first} -> {outside}" if count == 1 else f"{first}-{first + count - 1} -> {outside}-{outside + count - 1}"
        for first, outside, count in extents
    )


def one_id(uid: int, gid: int) -> IdMap:
    return IdMap(((0, uid, 1),), ((0, gid, 1),))


def range_of(slot: int) -> IdMap:
    extents = ((0, RANGE_BASE + slot * RANGE_SIZE, RANGE_SIZE),)
    return IdMap(extents, extents, slot)


# ---- root: slots


def is_root() -> bool:
    """Whether we are the real root: the root of a user namespace has one id, as everybody else."""
    return os.geteuid() == 0 and has_all_ids()


_has_all: list[bool] = []


def has_all_ids() -> bool:
    """Whether this process is in the first user namespace, or in one that maps everything; looked up once."""
    if not _has_all:
        with open("/proc/self/uid_map") as file:
            _has_all.append(file.read().split() == ["0", "0", "4294967295"])
    return _has_all[0]


def host_ids(key: str) -> IdMap:
    """The machine's own, for a privileged jail. Fault where the caller is not the real root."""
    if not is_root():
        cause = f"the caller is uid {os.geteuid()}" + ("" if os.geteuid() else " of a user namespace")
        raise Fault('cannot use user_namespace = "host"', key, cause, hint="take it out, or have the machine's root run the service")
    return IdMap(_ALL, _ALL)


def take_ids(key: str, wanted_slot: int = -1, *, is_range: bool = False, is_host: bool = False) -> tuple[IdMap, int]:
    """The map for a new jail, and the descriptor that holds its slot (-1 without one).

    Root tries `wanted_slot` first, else begins at a place that depends on `key`.
    `is_range` is for others: root always has a range.
    """
    if is_host or not is_root():
        return preview_ids(key, is_range=is_range, is_host=is_host), -1
    os.makedirs(SLOT_DIRECTORY, mode=0o700, exist_ok=True)
    start = wanted_slot if wanted_slot >= 0 else crc32(os.fsencode(key)) % SLOTS
    for offset in range(SLOTS):
        slot = (start + offset) % SLOTS
        fd = _hold(f"{SLOT_DIRECTORY}/{slot}", os.O_CREAT)
        if fd >= 0:
            return range_of(slot), fd
    raise Fault("no free range of ids", SLOT_DIRECTORY, f"all {SLOTS} slots are held", hint=f"ls {SLOT_DIRECTORY}")


def _hold(path: str, flags: int) -> int:
    """The descriptor of a slot's file with its lock; -1 where another holds it, or it has just been swept."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return -1


def sweep_slots() -> None:
    """Remove the files of slots that nobody holds."""
    try:
        names = os.listdir(SLOT_DIRECTORY)[:SLOTS]
    except OSError:
        return
    for name in names:
        try:
            fd = _hold(f"{SLOT_DIRECTORY}/{name}", 0)
            if fd >= 0:
                os.unlink(f"{SLOT_DIRECTORY}/{name}")
                os.close(fd)
        except OSError:
            continue


def preview_ids(key: str, *, is_range: bool = False, is_host: bool = False) -> IdMap:
    """The map that `take_ids` would most likely give; nothing is locked."""
    if is_host:
        return host_ids(key)
    if is_root():
        return range_of(crc32(os.fsencode(key)) % SLOTS)
    if is_range:
        return subordinate_range(os.geteuid(), os.getegid())
    return one_id(os.geteuid(), os.getegid())


# ---- others: the subordinate range


def subordinate_range(uid: int, gid: int) -> IdMap:
    """0 is the caller, 1 and up what /etc/subuid and /etc/subgid give him. Fault where they give nothing."""
    name = _login_name(uid)
    if not name:
        hint = "newuidmap wants its caller to have a name; or leave ids out: one id is enough for most services"
        raise Fault('ids = "range": no entry in passwd', str(uid), "the caller has no name", hint=hint)
    return IdMap(
        ((0, uid, 1), *_subordinate("/etc/subuid", uid, name)),
        ((0, gid, 1), *_subordinate("/etc/subgid", uid, name)),
    )


def _subordinate(path: str, uid: int, name: str) -> tuple[Extent, ...]:
    names = {str(uid), name}
    first, extents = 1, []
    for owner, start, count in _read_subordinate(path):
        taken = min(count, RANGE_SIZE - first)
        if owner in names and taken > 0 and start == 0:
            hint = f"correct the line of {owner} there: a range begins at 100000 or above"
            raise Fault('ids = "range": would map the real root', path, f"{owner}:{start}:{count}", hint=hint)
        if owner in names and taken > 0:
            extents.append((first, start, taken))
            first += taken
    if not extents:
        hint = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}; or leave ids out: one id is enough for most services"
        raise Fault('ids = "range": no subordinate ids', path, f"no line for {name} with a range", hint=hint)
    return tuple(extents)


def _login_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _read_subordinate(path: str) -> Iterator[tuple[str, int, int]]:
    try:
        with open(path) as file:
            text = file.read(SUBID_FILE_MAX)
    except OSError:
        return
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if start.isdigit() and count.isdigit():
            yield owner, int(start), int(count)


# ---- writing maps


def write_maps(pid: int, ids: IdMap) -> None:
    """Write the maps of the user namespace of `pid`, from outside. OSError, or Fault from the programs that write a range."""
    if ids.is_host:
        return
    if ids.needs_mappers:
        _run_mappers(pid, ids)
        return
    if not ids.is_range:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", _lines(ids.uids))
    _write(f"/proc/{pid}/gid_map", _lines(ids.gids))


def _lines(extents: tuple[Extent, ...]) -> str:
    return "".join(f"{first} {outside} {count}\n" for first, outside, count in extents)


def _run_mappers(pid: int, ids: IdMap) -> None:
    """newuidmap and newgidmap at the same time; both have to succeed."""
    started: list[tuple[str, int, int]] = []
    for program, extents in (("newuidmap", ids.uids), ("newgidmap", ids.gids)):
        path = next((f"{place}/{program}" for place in MAPPER_PATH if os.access(f"{place}/{program}", os.X_OK)), "")
        if not path:
            _reap(started)
            raise Fault('ids = "range": not installed', program, "it writes the id map", hint="sudo apt-get install uidmap")
        words = [str(number) for extent in extents for number in extent]
        error_r, error_w = os.pipe2(os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, error_w, 1), (os.POSIX_SPAWN_DUP2, error_w, 2)]
        mapper = os.posix_spawn(path, [program, str(pid), *words], {"PATH": ":".join(MAPPER_PATH)}, file_actions=actions)
        os.close(error_w)
        started.append((program, mapper, error_r))
    failed = _reap(started)
    if failed:
        program, said = failed[0]
        raise Fault('ids = "range": cannot map the subordinate ids', program, said, hint="grep . /etc/subuid /etc/subgid; ljsv doctor")


def _reap(started: list[tuple[str, int, int]]) -> list[tuple[str, str]]:
    """Wait for each, at most 10 s; (program, what it said) of those that failed."""
    failed = []
    for program, pid, error_r in started:
        pidfd = os.pidfd_open(pid)
        poller = poll()
        poller.register(pidfd, POLLIN)
        if not poller.poll(MAPPER_TIMEOUT_MS):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        _, wait_status = os.waitpid(pid, 0)
        if wait_status:
            said = os.read(error_r, 500).decode(errors="replace").strip().replace("\n", "; ")
            failed.append((program, said or f"it ended with wait status {wait_status}"))
        os.close(error_r)
    return failed


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def open_user_namespace(ids: IdMap) -> int:
    """A descriptor of a new user namespace with that map: what an id-mapped mount wants. mount_setattr(2)."""
    go_r, go_w = os.pipe2(os.O_CLOEXEC)
    pid, _ = process.clone3(process.CLONE_NEWUSER)
    if pid == 0:
        os.close(go_w)
        os.read(go_r, 1)
        os._exit(0)
    try:
        write_maps(pid, ids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(go_w)
        os.close(go_r)
        os.waitpid(pid, 0)

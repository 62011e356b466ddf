"""What a jail may write on the host's disk, and others of the host can reach: a set-user-id program there is one on the host.

Without a filter against it the jail could make one; and into one that is
there already it could write through mmap, which clears no bit. Modes are
looked at as they are when the jail starts, but never those of a directory
that the jail itself may change.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat

from ljsv.errors import Fault, quote
from ljsv.jail.spec import DIRECT, JailSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES_MAX = 200_000
SET_ID_MAX = 1000
DEPTH_MAX = 200  # of directories in each other: each is open while what lies in it is looked at
PATH_MAX = 4000  # what the kernel takes, less a name
SHARED_PLACES = frozenset(  # that nobody closes for one service's sake
    ("/", "/boot", "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/usr/share",
     "/var", "/var/lib", "/var/log", "/var/tmp")
)
STANDARD_DIRECTORIES = ("/dev", "/proc", "/run", "/tmp")  # of a jail, whatever its base has there
Place = tuple[str, str]  # where the jail has it, what it is on the host


def find_exposed(spec: JailSpec) -> tuple[Place, ...]:
    """The places that the jail may write and other users of the host can reach."""
    places: list[Place] = [("/", os.path.realpath(spec.base_path))] if spec.writable == DIRECT else []
    places += [(bind.to, os.path.realpath(bind.source)) for bind in spec.binds if bind.writable]
    written = [place for _, place in places]
    return tuple([(to, place) for to, place in places if _is_reachable(place, written)])


def _is_reachable(path: str, written: list[str]) -> bool:
    """Whether there is no directory above it that is ours or root's, and may be entered by nobody else. What the jail may write, it may open."""
    while path != "/":
        path = os.path.dirname(path)
        is_written = any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in written)
        entry = os.stat(path)
        if not is_written and not entry.st_mode & 0o011 and entry.st_uid in {0, os.geteuid()}:
            return False
    return True


def find_owned(spec: JailSpec, exposed: tuple[Place, ...], *, is_shifted: bool) -> tuple[Place, ...]:
    """Those of them where ids of the jail are somebody on the host: with ids that are shifted, as root's are, only where they are mapped."""
    unmapped = {bind.to for bind in spec.binds if is_shifted and not bind.is_mapped}
    return tuple([(to, place) for to, place in exposed if to not in unmapped])


def close_hint(place: str) -> str:
    """What keeps others away from it; "" where that is no single command."""
    above = os.path.dirname(place)
    is_own = above not in SHARED_PLACES and os.stat(above).st_uid == os.geteuid()
    return f"chmod go-x {quote(above)}" if is_own else ""


def find_set_id(spec: JailSpec, exposed: tuple[Place, ...], *, is_root: bool) -> tuple[tuple[tuple[str, int], ...], str]:
    """(the set-user-id and set-group-id programs in those places, and those with file capabilities, each as the jail names it with its inode;
    why not all was looked at, or ""). Fault for root then: for a user such a program would have to be his own.
    """
    if not exposed:
        return (), ""
    try:
        try:
            found, why = _look_for_set_id(spec, exposed)
        except PermissionError:
            if is_root:
                raise
            found, why = _look_as_owner(spec, exposed)
    except OSError as error:
        path = str(error.filename or exposed[0][1])
        raise Fault.from_os("cannot look for set-user-id programs", error, path, hint=f"ls -ld {quote(path)}") from None
    if why and is_root:
        place = exposed[0][1]
        close = close_hint(place) or f"ls -ld {quote(os.path.dirname(place))}"
        raise Fault("cannot protect set-user-id programs", place, why, hint=f"{close}  # where only root may enter a directory above it, they need not be")
    return tuple(found), why


def _look_as_owner(spec: JailSpec, exposed: tuple[Place, ...]) -> tuple[list[tuple[str, int]], str]:
    """What the jail's root may open and its caller may not: a directory of mode 0, or of a subordinate id."""
    from ljsv.jail.owner import act_as_owner

    def look(out_fd: int) -> None:
        data = marshal.dumps(_look_for_set_id(spec, exposed, is_owner=True))
        with open(out_fd, "wb") as file:
            file.write(data)

    data = b"".join(act_as_owner(look, what="cannot look for set-user-id programs", path=exposed[0][1]))
    found, why = marshal.loads(data)  # noqa: S302 - our own child wrote it
    return found, why


def _look_for_set_id(spec: JailSpec, exposed: tuple[Place, ...], *, is_owner: bool = False) -> tuple[list[tuple[str, int]], str]:
    """PermissionError for what may not be looked at. What the `is_owner` of all the jail's ids may neither list nor enter, the jail may not either."""
    found: list[tuple[str, int]] = []
    closed: list[str] = []
    looked_at = 0
    for to, place in exposed:
        hidden = {*(bind.to for bind in spec.binds), *(tmpfs.at for tmpfs in spec.tmpfs), *(STANDARD_DIRECTORIES if spec.has_own_tmp else ("/dev", "/proc"))}
        for inside, path, entry in _walk(place, to.rstrip("/"), hidden - {to}, closed if is_owner else None):
            looked_at += 1
            if inside.count("/") - to.count("/") > DEPTH_MAX or len(inside) > PATH_MAX:
                return found, f"directories in each other, more than {DEPTH_MAX} or with too long a path"
            if looked_at > ENTRIES_MAX:
                return found, f"more than {ENTRIES_MAX} files"
            if stat.S_ISREG(entry.st_mode) and _gives_rights(path, entry):
                found.append((inside, entry.st_ino))
            if len(found) > SET_ID_MAX:
                return found, f"more than {SET_ID_MAX} of them"
    return sorted(found), f"directories that may be entered, but not listed ({closed[0]})" if closed else ""


def _walk(place: str, to: str, hidden: set[str], closed: list[str] | None) -> Iterator[tuple[str, str, os.stat_result]]:
    """Everything there but symlinks, a directory before what lies in it: (as the jail names it, where it is found now, what it is).

    Through open directories: what was written may have made paths longer than the kernel takes. `closed`: gets the
    directories that may be entered and not listed; without it, PermissionError for what may not be looked at.
    """
    parent, name = os.path.split(place)
    open_fds = [os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    waiting: list[Iterator[tuple[str, str]]] = [iter([(to, name or ".")])]
    try:
        while waiting:
            inside, name = next(waiting[-1], ("", ""))
            if not name:
                waiting.pop()
                os.close(open_fds.pop())
                continue
            try:
                entry = os.stat(name, dir_fd=open_fds[-1], follow_symlinks=False)
                if inside in hidden or stat.S_ISLNK(entry.st_mode):
                    continue
                yield inside, f"/proc/self/fd/{open_fds[-1]}/{name}", entry
                if stat.S_ISDIR(entry.st_mode):
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=open_fds[-1])
                    open_fds.append(fd)
                    waiting.append(_list(fd, inside))
            except PermissionError as error:
                if closed is None:
                    raise PermissionError(error.errno, error.strerror, place + inside.removeprefix(to)) from None
                if os.access(name, os.X_OK, dir_fd=open_fds[-1]):
                    closed.append(place + inside.removeprefix(to))
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:  # gone since it was listed, or exchanged
                    raise OSError(error.errno, error.strerror, place + inside.removeprefix(to)) from None
    finally:
        for fd in open_fds:
            os.close(fd)


def _list(fd: int, inside: str) -> Iterator[tuple[str, str]]:
    """(as the jail names it, its name), one at a time: nobody has bounded how many there are."""
    with os.scandir(fd) as listing:
        for item in listing:
            yield f"{inside}/{item.name}", item.name


def _gives_rights(path: str, entry: os.stat_result) -> bool:
    """Whether whoever executes it gets more than he has."""
    if entry.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return True
    try:  # also where nobody may execute it yet
        return "security.capability" in os.listxattr(path, follow_symlinks=False)
    except OSError:
        return False

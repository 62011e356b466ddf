"""What a jail may write on the host's disk, and others of the host can reach: a set-user-id program there is one on the host.

Without a filter against it the jail could make one; and into one that is
there already it could write through mmap, which clears no bit. Modes are
looked at as they are when the jail starts, but never those of a directory
that the jail itself may change.
"""

from __future__ import annotations

import os
import stat

from ljsv.errors import Fault
from ljsv.jail.spec import DIRECT, JailSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES_MAX = 200_000
SET_ID_MAX = 1000
SHARED_PLACES = frozenset(  # that nobody closes for one service's sake
    ("/", "/boot", "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/usr/share",
     "/var", "/var/lib", "/var/log", "/var/tmp")
)
STANDARD_DIRECTORIES = ("/dev", "/proc", "/run", "/tmp")  # of a jail, whatever its base has there
Place = tuple[str, str]  # where the jail has it, what it is on the host


def find_exposed(spec: JailSpec, *, is_shifted: bool) -> tuple[Place, ...]:
    """The places that the jail may write and other users of the host can reach.

    What belongs there to an id that is somebody on the host: with ids that
    are shifted, as root's are, only where they are mapped.
    """
    places: list[Place] = [("/", os.path.realpath(spec.base_path))] if spec.writable == DIRECT else []
    places += [(bind.to, os.path.realpath(bind.source)) for bind in spec.binds if bind.writable and (bind.is_mapped or not is_shifted)]
    written = [place for _, place in places]
    return tuple([(to, place) for to, place in places if _is_reachable(place, written)])


def _is_reachable(path: str, written: list[str]) -> bool:
    """Whether others than its owner may enter every directory above it. What the jail may write, it may open."""
    while path != "/":
        path = os.path.dirname(path)
        is_written = any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in written)
        if not is_written and not os.stat(path).st_mode & 0o011:
            return False
    return True


def close_hint(place: str) -> str:
    """What keeps others away from it."""
    above = os.path.dirname(place)
    is_own = above not in SHARED_PLACES and os.stat(above).st_uid == os.geteuid()
    return f"chmod go-x {above}" if is_own else "a directory above it that only its owner may enter"


def find_set_id(spec: JailSpec, exposed: tuple[Place, ...], *, is_root: bool) -> tuple[tuple[tuple[str, int], ...], bool]:
    """(the set-user-id and set-group-id programs in those places, and those with file capabilities, each as the jail names it with its inode;
    whether all was looked at). Fault for root where that is too much: for a user such a program would have to be his own.
    """
    found: list[tuple[str, int]] = []
    looked_at = 0
    for to, place in exposed:
        hidden = {*(bind.to for bind in spec.binds), *(tmpfs.at for tmpfs in spec.tmpfs), *(STANDARD_DIRECTORIES if spec.has_own_tmp else ("/dev", "/proc"))}
        for path, entry in _walk(place, to, hidden - {to}):
            looked_at += 1
            if looked_at > ENTRIES_MAX or len(found) > SET_ID_MAX:
                if not is_root:
                    return tuple(sorted(found)), False
                what = f"more than {ENTRIES_MAX if looked_at > ENTRIES_MAX else SET_ID_MAX} {'files' if looked_at > ENTRIES_MAX else 'of them'}"
                raise Fault("cannot protect set-user-id programs", place, what, hint=f"{close_hint(place)}  # then they need not be")
            if _gives_rights(path, entry):
                found.append((path[0], entry.st_ino))
    return tuple(sorted(found)), True


def _walk(place: str, to: str, hidden: set[str]) -> Iterator[tuple[tuple[str, str], os.stat_result]]:
    """Every regular file of that place: ((as the jail names it, as the host does), what it is)."""
    if not os.path.isdir(place):
        yield (to, place), os.lstat(place)
        return
    waiting = [(to.rstrip("/"), place)]
    while waiting:
        inside, outside = waiting.pop()
        try:
            listing = os.scandir(outside)
        except OSError:  # not ours to enter, nor the jail's
            continue
        with listing:
            for item in listing:
                name = f"{inside}/{item.name}"
                if name in hidden:
                    continue
                if item.is_dir(follow_symlinks=False):
                    waiting.append((name, item.path))
                elif item.is_file(follow_symlinks=False):
                    try:
                        entry = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield (name, item.path), entry


def _gives_rights(path: tuple[str, str], entry: os.stat_result) -> bool:
    """Whether whoever executes it gets more than he has."""
    if entry.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return True
    if not entry.st_mode & 0o111:
        return False
    try:
        return "security.capability" in os.listxattr(path[1], follow_symlinks=False)
    except OSError:
        return False

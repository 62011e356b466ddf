"""Who runs in a jail, as the jail's own passwd says: an untrusted file, read with bounds.

Source: passwd(5).
"""

from __future__ import annotations

import os
import stat

from ljsv.errors import Fault
from ljsv.frozen import Frozen
from ljsv.linux.mount import RESOLVE_IN_ROOT, openat2

CHUNK = 64 << 10
PASSWD_MAX = 1 << 20
RANGE_SIZE = 65536
ROOT_NAMES = frozenset({"", "root", "0", "0:0"})


class User(Frozen):
    """Ids inside the jail, and what passwd says of them."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    shell: str = "/bin/sh"


def read_inside(root_fd: int, path: str, limit: int) -> str:
    """A regular file's text in an untrusted tree, at most `limit` bytes; "" when there is none.

    A FIFO is not waited for and a device not opened; no symlink leads out of
    the tree.
    """
    try:
        path_fd = openat2(root_fd, path, os.O_PATH, RESOLVE_IN_ROOT)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            return ""
        fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, RESOLVE_IN_ROOT)
    except OSError:
        return ""
    finally:
        os.close(path_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        text = b""
        while len(text) < limit and (more := os.read(fd, min(CHUNK, limit - len(text)))):
            text += more
        return text.decode(errors="replace")
    finally:
        os.close(fd)


def find_user(wanted: str, root_fd: int, origin: str) -> User:
    """`wanted` ("", a name or UID, and after a colon a group's name or GID) as passwd and group below `root_fd` know it;
    numbers are taken as they are.

    Fault for a name that is not there, and for ids that no jail has.
    """
    uid_text, _, gid_text = (wanted or "0").partition(":")
    entry = _find_entry(uid_text, read_inside(root_fd, "/etc/passwd", PASSWD_MAX))
    by_number = _is_id(uid_text)
    if not entry and not by_number and uid_text != "root":
        raise Fault(
            f"{origin}: the jail has no user {uid_text}", "/etc/passwd in the jail", "no such entry",
            hint=f"name one that is there, or a number: {_asked(origin, '1000')}",
        )
    if gid_text and not _is_id(gid_text):
        gid_text = _find_group(gid_text, root_fd, origin)
    uid = int(uid_text) if by_number else int(entry[2]) if entry else 0
    if uid == 0 and not by_number and uid_text != "root":
        cause = "it is uid 0 there, the jail's root with its capabilities"
        raise Fault(f"{origin}: the jail's user {uid_text} is root", "/etc/passwd in the jail", cause, hint=f"if that is what you want: {_asked(origin, 'root')}")
    gid = int(gid_text) if gid_text else int(entry[3]) if entry else uid
    if not (uid < RANGE_SIZE and gid < RANGE_SIZE):
        raise Fault(f"{origin}: user: found {wanted!r}", "", f"ids inside a jail are below {RANGE_SIZE}", hint=f"correct {origin}")
    if entry:
        home = entry[5] if _is_directory(root_fd, entry[5]) else "/"
        return User(name=entry[0], uid=uid, gid=gid, home=home, shell=entry[6] or "/bin/sh")
    return User(name=str(uid) if uid else "root", uid=uid, gid=gid)


def _find_entry(wanted: str, text: str) -> list[str]:
    for line in text.splitlines():
        entry = line.split(":")
        is_whole = len(entry) >= 7 and _is_id(entry[2]) and _is_id(entry[3]) and "\0" not in line
        if is_whole and wanted == entry[2 if _is_id(wanted) else 0]:
            return entry
    return []


def _asked(origin: str, user: str) -> str:
    """As it is said in a file, or to ljexec."""
    return f'user = "{user}" in {origin}' if origin.startswith("/") else f"--user {user}"


def _find_group(name: str, root_fd: int, origin: str) -> str:
    """The number of that group in the jail's group file (group(5))."""
    for line in read_inside(root_fd, "/etc/group", PASSWD_MAX).splitlines():
        entry = line.split(":")
        if len(entry) >= 3 and entry[0] == name and _is_id(entry[2]):
            return entry[2]
    raise Fault(f"{origin}: the jail has no group {name}", "/etc/group in the jail", "no such entry", hint=f"name one that is there, or a number: {_asked(origin, '1000:1000')}")


def _is_directory(root_fd: int, path: str) -> bool:
    if not path.startswith("/"):
        return False
    try:
        os.close(openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT))
    except OSError:
        return False
    return True


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11

"""What a service directory's meaningful files look like, so that a change is noticed without reading them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

FILES = ("run", "rootfs", "rootfs.toml", "limits", "policy", "finish")
ENV_MAX = ENTRIES_MAX = 1024
TEXT_MAX = 8192
Fingerprint = tuple[tuple[str, int, int, int, int], ...]


def take_fingerprint(dir_fd: int) -> Fingerprint:
    """(name, inode, change time, size, mode) of each file that is there; a directory counts by inode and mode only."""
    found = []
    for name in FILES:
        try:
            entry = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISLNK(entry.st_mode):  # one that leads nowhere is there as well
            with suppress(OSError):
                entry = os.stat(name, dir_fd=dir_fd)
        if name == "rootfs" and entry.st_mode & 0o170000 == 0o040000:
            found.append((name, entry.st_ino, 0, 0, entry.st_mode))
        else:
            found.append((name, entry.st_ino, entry.st_ctime_ns, entry.st_size, entry.st_mode))
    return (*found, *_env_entries(dir_fd))


def list_entries(dir_fd: int) -> Fingerprint:
    """The same of everything at its top but `supervise`: whatever was changed since, as the scanner's watch sees it."""
    found = []
    names: list[str] = []
    with suppress(OSError):  # it is just being deleted
        names = sorted(os.listdir(dir_fd))[:ENTRIES_MAX]
    for name in names:
        with suppress(OSError):
            entry = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if name != "supervise":
                found.append((name, entry.st_ino, entry.st_ctime_ns, entry.st_size, entry.st_mode))
    return (*found, *_env_entries(dir_fd))


def _env_entries(dir_fd: int) -> Fingerprint:
    found = []
    for name in _env_names(dir_fd):
        with suppress(OSError):
            entry = os.stat(f"env/{name}", dir_fd=dir_fd)
            found.append((f"env/{name}", entry.st_ino, entry.st_ctime_ns, entry.st_size, entry.st_mode))
    return tuple(found)


def _env_names(dir_fd: int) -> list[str]:
    try:
        fd = os.open("env", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))[:ENV_MAX]
    finally:
        os.close(fd)


def has(dir_fd: int, name: str) -> bool:
    """Whether there is something of that name in it."""
    try:
        os.stat(name, dir_fd=dir_fd)
    except OSError:
        return False
    return True


def format_fingerprint(fingerprint: Fingerprint) -> str:
    """In a line, for the next supervisor; "" where that would be too much, or a name is none that a run can begin with."""
    text = " ".join([":".join(map(str, entry)) for entry in fingerprint])
    is_plain = all(entry[0].isprintable() and not {":", " "} & set(entry[0]) for entry in fingerprint)
    return text if is_plain and len(text) <= TEXT_MAX else ""


def parse_fingerprint(text: str) -> Fingerprint:
    """What `format_fingerprint` wrote; () where it makes no sense."""
    try:
        words = [word.split(":") for word in text.split()]
        return tuple([(name, int(inode), int(time), int(size), int(mode)) for name, inode, time, size, mode in words])
    except ValueError:
        return ()


def is_edited(dir_fd: int, text: str) -> bool:
    """Whether what is there is another than `format_fingerprint` has written."""
    return parse_fingerprint(text) != take_fingerprint(dir_fd)


def describe_change(old: Fingerprint, new: Fingerprint) -> str:
    """The names that differ, in order, with a space between; "" for none."""
    names = {entry[0] for entry in set(old) ^ set(new)}
    return " ".join(sorted(names))


def replace_entry(old: Fingerprint, new: Fingerprint, name: str) -> Fingerprint:
    """The old one, but with the new one's entry of that name."""
    return tuple(entry for entry in old if entry[0] != name) + tuple(entry for entry in new if entry[0] == name)

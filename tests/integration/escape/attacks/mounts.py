"""Make the root writable, mount anything, take masks off: with the old calls and the new ones."""

from __future__ import annotations

import ctypes
import os
import struct

from kit import ARGUMENTS, LIBC, attempt, check, mount, syscall

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 1, 32, 4096, 8192, 0x4000, 1 << 18
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE = -100, 0x1000, 0x8000, 1
PLACE = "/tmp/place"


def unset_read_only(path: str) -> int:
    attributes = struct.pack("QQQQ", 0, 1 | 2 | 4 | 8, 0, 0)  # clear ro, nosuid, nodev, noexec
    return syscall("mount_setattr", AT_FDCWD, path.encode(), AT_RECURSIVE, ctypes.create_string_buffer(attributes, 32), 32)


def new_tmpfs() -> int:
    fs_fd = syscall("fsopen", b"tmpfs", 0)
    syscall("fsconfig", fs_fd, 6, None, None, 0)
    mount_fd = syscall("fsmount", fs_fd, 0, 0)
    return syscall("move_mount", mount_fd, b"", AT_FDCWD, PLACE.encode(), 4)


def cloned_root() -> int:
    tree_fd = syscall("open_tree", AT_FDCWD, b"/", OPEN_TREE_CLONE | AT_RECURSIVE)
    return syscall("move_mount", tree_fd, b"", AT_FDCWD, PLACE.encode(), 4)


def pivot() -> int:
    os.chdir(PLACE)
    return syscall("pivot_root", b".", b".")


def remounts() -> None:
    for path in ("/", "/usr", "/etc/passwd", "/proc/sys", "/proc", "/dev", "/tmp"):
        attempt(f"remount {path}", lambda path=path: mount("none", path, "", MS_REMOUNT | MS_BIND))
        attempt(f"remount the file system of {path}", lambda path=path: mount("none", path, "", MS_REMOUNT))
        attempt(f"mount_setattr {path}", lambda path=path: unset_read_only(path))
        attempt(f"make private {path}", lambda path=path: mount("none", path, "", MS_REC | MS_PRIVATE))


def mounts() -> None:
    os.makedirs(PLACE, exist_ok=True)
    for kind, data in (
        ("tmpfs", ""), ("proc", ""), ("sysfs", ""), ("devpts", "newinstance"), ("mqueue", ""), ("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "rdma"),
        ("overlay", "lowerdir=/usr:/etc"), ("ramfs", ""), ("debugfs", ""), ("binfmt_misc", ""), ("devtmpfs", ""), ("fuse", "fd=0,rootmode=40000,user_id=0,group_id=0"),
    ):
        attempt(f"mount {kind} {data}".strip(), lambda kind=kind, data=data: mount("none", PLACE, kind, 0, data))
    attempt("bind", lambda: mount("/proc", PLACE, "", MS_BIND))
    attempt("recursive bind", lambda: mount("/", PLACE, "", MS_BIND | MS_REC))
    attempt("bind over a mask", lambda: mount(PLACE, "/proc/sys", "", MS_BIND))
    attempt("move", lambda: mount("/dev/shm", PLACE, "", MS_MOVE))
    attempt("fsopen and move_mount", new_tmpfs)
    attempt("open_tree and move_mount", cloned_root)
    attempt("fspick", lambda: syscall("fspick", AT_FDCWD, b"/", 0))
    attempt("pivot_root", pivot)


def umounts() -> None:
    with open("/proc/self/mountinfo") as file:
        places = [line.split()[4] for line in file]
    for path in places:
        for flags in (0, 2, 1 | 8):  # none, MNT_DETACH, MNT_FORCE and UMOUNT_NOFOLLOW
            attempt(f"umount {path} {flags}", lambda path=path, flags=flags: check(LIBC.umount2(path.encode(), flags)))
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
        if os.path.exists(path):
            attempt(f"read {path}", lambda path=path: open(path, "rb").read(64) or check_empty())


def check_empty() -> None:
    raise OSError(61, "nothing in it")  # ENODATA


{"remounts": remounts, "mounts": mounts, "umounts": umounts}[ARGUMENTS[0]]()

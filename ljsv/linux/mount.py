"""Mounts by descriptor: the kernel's mount API of 5.2 to 5.12.

Nothing here follows a path that a jail's files could have bent: a mount is
made detached, and attached to a place that `openat2` has found below a
descriptor. Sources: mount(2), umount2(2), pivot_root(2), openat2(2),
mount_setattr(2), and the kernel's include/uapi/linux/mount.h for the calls
that have no manual page in Debian 12.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_uint64

from ljsv.linux.libc import (
    LIBC,
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_OPENAT2,
    SYS_PIVOT_ROOT,
    check,
    syscall,
)

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_IN_ROOT = 0x10


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64))


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2), for what the newer calls cannot say: propagation, and overlay's long options."""
    check(
        LIBC.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode()), target
    )


def umount2(target: str, flags: int) -> None:
    check(LIBC.umount2(target.encode(), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    syscall(SYS_PIVOT_ROOT, new_root.encode(), put_old.encode(), object_=new_root)


def open_tree(dir_fd: int, path: str, *, clone: bool = True, recursive: bool = True) -> int:
    """A detached copy of the mounts at `path` (or, where it is empty, at `dir_fd`)."""
    flags = os.O_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(SYS_OPEN_TREE, dir_fd, path.encode(), flags, object_=path)


def move_mount(from_fd: int, to_fd: int, object_: str = "") -> None:
    """Attach the detached mount `from_fd` at the place `to_fd` (an O_PATH descriptor)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    syscall(SYS_MOVE_MOUNT, from_fd, b"", to_fd, b"", flags, object_=object_)


def mount_setattr(fd: int, attributes: int, *, recursive: bool = False, object_: str = "") -> None:
    """Set mount attributes on a mount's own descriptor, and on all below it where `recursive`."""
    attr = _MountAttr(attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(
        SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr), object_=object_
    )


def new_mount(fstype: str, options: dict[str, str], attributes: int) -> int:
    """A new detached mount: fsopen, fsconfig for each option (empty value: a flag), fsmount.

    Values are at most 255 bytes (the kernel's bound for FSCONFIG_SET_STRING).
    """
    fs_fd = syscall(SYS_FSOPEN, fstype.encode(), FSOPEN_CLOEXEC, object_=fstype)
    try:
        for key, value in options.items():
            if value:
                syscall(
                    SYS_FSCONFIG, fs_fd, FSCONFIG_SET_STRING, key.encode(), value.encode(), 0,
                    object_=f"{fstype} option {key}={value}",
                )
            else:
                syscall(
                    SYS_FSCONFIG, fs_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0, object_=f"{fstype} option {key}"
                )
        syscall(SYS_FSCONFIG, fs_fd, FSCONFIG_CMD_CREATE, None, None, 0, object_=fstype)
        return syscall(SYS_FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, attributes, object_=fstype)
    finally:
        os.close(fs_fd)


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2): a path followed under `resolve`'s rules, such as RESOLVE_IN_ROOT."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return syscall(SYS_OPENAT2, dir_fd, path.encode(), ctypes.byref(how), ctypes.sizeof(how), object_=path)

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
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

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
    define,
)

AT_FDCWD = -100
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
MOUNT_ATTR_IDMAP = 0x10_0000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_IN_ROOT = 0x10
OPENAT2_TRIES = 1000


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64))


_pivot_root = define(SYS_PIVOT_ROOT, c_char_p, c_char_p)
_open_tree = define(SYS_OPEN_TREE, c_int, c_char_p, c_uint)
_move_mount = define(SYS_MOVE_MOUNT, c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = define(SYS_FSOPEN, c_char_p, c_uint)
_fsconfig = define(SYS_FSCONFIG, c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = define(SYS_FSMOUNT, c_int, c_uint, c_uint)
_mount_setattr = define(SYS_MOUNT_SETATTR, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_openat2 = define(SYS_OPENAT2, c_int, c_char_p, c_void_p, c_size_t)


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2), for what the newer calls cannot say: propagation, and overlay's long options."""
    check(LIBC.mount(os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data)), target)


def umount2(target: str, flags: int) -> None:
    check(LIBC.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    _pivot_root(os.fsencode(new_root), os.fsencode(put_old), object_=new_root)


def open_tree(dir_fd: int, path: str, *, clone: bool = True, recursive: bool = True) -> int:
    """A detached copy of the mounts at `path` (or, where it is empty, at `dir_fd`)."""
    flags = os.O_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return _open_tree(dir_fd, os.fsencode(path), flags, object_=path)


def move_mount(from_fd: int, to_fd: int, name: str = "", object_: str = "") -> None:
    """Attach the detached mount `from_fd` at the place `to_fd` (an O_PATH descriptor), or at `name` in it, which is not followed."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if name else MOVE_MOUNT_T_EMPTY_PATH)
    _move_mount(from_fd, b"", to_fd, os.fsencode(name), flags, object_=object_)


def mount_setattr(
    fd: int, attributes: int, *, recursive: bool = False, is_private: bool = False, userns_fd: int = 0, object_: str = ""
) -> None:
    """Set mount attributes on a mount's own descriptor, and on all below it where `recursive`.

    With MOUNT_ATTR_IDMAP, `userns_fd` is the user namespace whose map the mount shows.
    """
    attr = _MountAttr(attributes, 0, MS_PRIVATE if is_private else 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _mount_setattr(fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr), object_=object_)


def new_mount(fstype: str, options: dict[str, str], attributes: int) -> int:
    """A new detached mount: fsopen, fsconfig for each option (empty value: a flag), fsmount.

    Values are at most 255 bytes (the kernel's bound for FSCONFIG_SET_STRING).
    """
    fs_fd = _fsopen(os.fsencode(fstype), FSOPEN_CLOEXEC, object_=fstype)
    try:
        for key, value in options.items():
            command = FSCONFIG_SET_STRING if value else FSCONFIG_SET_FLAG
            _fsconfig(fs_fd, command, os.fsencode(key), os.fsencode(value) if value else None, 0, object_=f"{fstype} option {key} {value}")
        _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0, object_=fstype)
        return _fsmount(fs_fd, FSMOUNT_CLOEXEC, attributes, object_=fstype)
    finally:
        os.close(fs_fd)


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2): a path followed under `resolve`'s rules, such as RESOLVE_IN_ROOT.

    With ".." in it the kernel gives up (EAGAIN) where anything on the machine was renamed or mounted meanwhile.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    tries_left = OPENAT2_TRIES
    while True:
        try:
            return _openat2(dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how), object_=path)
        except BlockingIOError:
            tries_left -= 1
            if not tries_left:
                raise

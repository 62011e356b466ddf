"""Files beyond the os module: when one was made, what a pipe holds. Sources: statx(2), tee(2), syncfs(2), flock(2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time

from ljsv.linux.libc import LIBC, SYS_STATX, check, define

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_BTIME_OFFSET = 80
_SPLICE_F_NONBLOCK = 2
LOCK_TRIES, LOCK_PAUSE_S = 20, 0.002


_statx = define(SYS_STATX, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


def read_birth_ns(fd: int) -> int:
    """When the file was made, in nanoseconds since 1970; 0 where the file system does not say."""
    if SYS_STATX < 0:
        return 0
    buffer = ctypes.create_string_buffer(256)
    try:
        _statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer)
    except OSError:
        return 0
    (mask,) = struct.unpack_from("I", buffer, 0)
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("qI", buffer, _BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_identity(fd: int) -> tuple[int, int, int]:
    """(device, inode, birth time in ns): an inode number alone is given to the next directory made."""
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino, read_birth_ns(fd)


FICLONE = 0x4004_9409  # ioctl_ficlone(2): the target's descriptor, the source's as argument; as on all that use asm-generic/ioctl.h


def read_some(path: str, size: int) -> bytes:
    """The beginning of a file, without what open() has for text and buffers. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def take_lock(fd: int) -> bool:
    """flock(2) for writing; False where somebody else has it, and has not only looked for a moment whether anybody does. OSError."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def peek(fd: int, size: int) -> bytes:
    """What the pipe or FIFO `fd` holds, at most `size` bytes of it, which stay there; b"" where it is empty. tee(2)."""
    copy_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        copied = LIBC.tee(fd, write_fd, size, _SPLICE_F_NONBLOCK)
        if copied < 0 and ctypes.get_errno() == errno.EAGAIN:
            return b""
        return os.read(copy_fd, size) if check(copied, "tee") else b""
    finally:
        os.close(copy_fd)
        os.close(write_fd)


def syncfs(fd: int, object_: str = "") -> None:
    """Everything of the file system of `fd` is on the disk when this returns. syncfs(2)."""
    check(LIBC.syncfs(fd), object_)

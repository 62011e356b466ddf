"""A file as a block device that is gone with its last user. Source: loop(4)."""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl

SECTOR = 512  # what is left of the file after the last whole one is not there
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_CONFIG_SIZE = 304  # struct loop_config: fd, block_size, struct loop_info64 (232), reserved
_INFO_AT = 8
_FLAGS_AT = _INFO_AT + 52
_NAME_AT, _NAME_SIZE = _INFO_AT + 56, 64
_LOOP_MAJOR = 7
_TRIES = 64


def loop_configure(file_fd: int, name: str, block_size: int = 0) -> tuple[str, int]:
    """(path, descriptor) of a read-only loop device over `file_fd`, in blocks of so many bytes where its size is a multiple of that; 0 for 512.

    It clears itself when the last descriptor and mount of it are gone, however
    their holder ended. `name` is what losetup(8) shows. OSError when there is
    no free one; another process may take the one that was free, so that is
    tried again.
    """
    config = bytearray(_CONFIG_SIZE)
    is_whole = block_size and os.fstat(file_fd).st_size % block_size == 0  # else its end would be cut off
    struct.pack_into("II", config, 0, file_fd, block_size if is_whole else 0)
    struct.pack_into("I", config, _FLAGS_AT, _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR)
    config[_NAME_AT : _NAME_AT + _NAME_SIZE] = os.fsencode(name)[: _NAME_SIZE - 1].ljust(_NAME_SIZE, b"\0")
    control_fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = ioctl(control_fd, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            if not os.path.exists(path):  # without udev or devtmpfs nobody makes the node
                os.mknod(path, 0o60600, os.makedev(_LOOP_MAJOR, number))
            device_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                ioctl(device_fd, _LOOP_CONFIGURE, bytes(config))
                return path, device_fd
            except OSError as error:
                os.close(device_fd)
                if error.errno != errno.EBUSY:
                    raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(control_fd)
    raise OSError(errno.EBUSY, "every free loop device was taken by somebody else", "/dev/loop-control")

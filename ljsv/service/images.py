"""What kind of image a file is, by its magic, and whether it is whole. Pure but for one bounded read.

Sources: the kernel's fs/squashfs/squashfs_fs.h and fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import os
import stat
import struct

from ljsv.errors import Fault, quote

SQUASHFS, EROFS = "squashfs", "erofs"
HEAD_SIZE = 2048
_EROFS_AT = 1024
_MAGICS = (
    (0, b"hsqs", SQUASHFS),
    (_EROFS_AT, b"\xe2\xe1\xf5\xe0", EROFS),
)
# What people take for an image that it is not.
_FOREIGN = (
    (0, b"sqsh", "a big-endian squashfs from before version 4"),
    (0, b"\x1f\x8b", "a gzip file, perhaps a tar archive"),
    (0, b"\xfd7zXZ", "an xz file, perhaps a tar archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file, perhaps a tar archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (1080, b"\x53\xef", "an ext file system"),
    (0, b"\x7fELF", "a program"),
)


def image_type(head: bytes) -> str:
    """squashfs, erofs, or "" for the first `HEAD_SIZE` bytes of a file."""
    return next((kind for at, magic, kind in _MAGICS if head[at : at + len(magic)] == magic), "")


def _size_said(head: bytes, kind: str) -> int:
    """How many bytes the superblock says that there are."""
    if kind == SQUASHFS:
        return int(struct.unpack_from("<Q", head, 40)[0])
    block_bits = head[_EROFS_AT + 12]
    (blocks,) = struct.unpack_from("<I", head, _EROFS_AT + 36)
    return int(blocks) << block_bits if block_bits <= 16 else 1 << 62


def check_image(path: str) -> str:
    """The type of the image at `path`; Fault where it is none, foreign or cut short."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Fault.from_os("cannot open the image", error, path, hint=f"ls -l {quote(path)}") from None
    try:
        entry = os.fstat(fd)
        if not stat.S_ISREG(entry.st_mode):
            raise Fault("cannot use the image", path, "not a regular file", hint=f"ls -l {quote(path)}")
        head = os.pread(fd, HEAD_SIZE, 0)
    finally:
        os.close(fd)
    kind = image_type(head)
    if not kind:
        foreign = next((what for at, magic, what in _FOREIGN if head[at : at + len(magic)] == magic), "")
        cause = f"it is {foreign}" if foreign else "neither squashfs nor erofs"
        raise Fault("cannot use the image", path, cause, hint="mksquashfs DIRECTORY IMAGE.squashfs  # makes one")
    said = _size_said(head.ljust(HEAD_SIZE, b"\0"), kind)
    if (len(head) < HEAD_SIZE - 1 and kind == EROFS) or said > entry.st_size:
        raise Fault("cannot use the image", path, f"it is cut short: {said} bytes by its superblock, {entry.st_size} in the file", hint="copy it again")
    return kind

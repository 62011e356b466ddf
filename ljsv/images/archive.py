"""Tar archives into a tree: plain, gzip, bzip2, xz, zstd; a whole root, or a layer with whiteouts. Nothing of them is trusted.

What is compressed is unpacked into a file of the workspace first, up to the
budget's bytes. Headers are read by tarfile through a file that refuses to read
more than headers need; contents are only pointed at. Sources: pax(1), the OCI
image specification's layer.md.
"""

from __future__ import annotations

import bz2
import lzma
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ljsv.errors import Fault, quote
from ljsv.images.tree import DIRECTORY, FIFO, FILE, ID_MAX, LINK, TARGET_MAX, Budget, Content, Node, Tree, check_device, kept_xattrs, split

CHUNK = 1 << 20
HEADER_READ_MAX = 4 << 20
BLOCK, PAGE = 512, 4096
WHITEOUT, OPAQUE, AUFS = ".wh.", ".wh..wh..opq", ".wh..wh."
XATTR = "SCHILY.xattr."
_DEVICES = {tarfile.CHRTYPE, tarfile.BLKTYPE}
_MAGICS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_ZSTD_MEMORY = "512MB"


def open_tar(fd: int, origin: str, work: str, budget: Budget, tell: Callable[[int], None] | None = None) -> int:
    """A descriptor of the plain tar in what `fd` holds: itself, or what it unpacks to. Fault for what is no archive, or is too large."""
    head = os.pread(fd, BLOCK, 0)
    kind = next((name for magic, name in _MAGICS if head.startswith(magic)), "")
    if not kind:
        if head[257:262] != b"ustar" and not _is_old_tar(head):
            raise Fault("not an archive", origin, "neither tar nor a tar packed by gzip, bzip2, xz or zstd", hint=f"file {origin}")
        return fd
    out_fd, path = tempfile.mkstemp(prefix="plain-", dir=work)
    os.unlink(path)
    limit = budget.max_bytes + budget.max_entries * BLOCK
    written = 0
    try:
        for chunk in _unpack(fd, kind, origin):
            written += len(chunk)
            if written > limit:
                raise Fault("too large", origin, f"it unpacks to more than {limit} bytes", hint="--max-size SIZE allows more")
            _write_all(out_fd, chunk)
            if tell:
                tell(written)
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise Fault.from_os("cannot unpack", error, origin, hint=f"df {quote(work)}") from None
        raise Fault("the archive is damaged", origin, str(error), hint="fetch or make it again") from None
    return out_fd


def _is_old_tar(head: bytes) -> bool:
    """A tar from before 1988 has no magic, but a checksum; one of zeros is empty."""
    try:
        return not any(head) or bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.TarError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read(fd: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(fd, CHUNK, offset):
        yield chunk
        offset += len(chunk)


def _unpack(fd: int, kind: str, origin: str) -> Iterator[bytes]:
    if kind == "zstd":
        yield from _unpack_zstd(fd, origin)
        return
    unpacker = _unpacker(kind)
    for chunk in _read(fd):
        data = chunk
        while data:
            if unpacker.eof:  # another member follows, or padding
                if not data.strip(b"\0"):
                    break
                unpacker = _unpacker(kind)
            yield from _bounded(unpacker, data, is_zlib=kind == "gzip")
            data = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise EOFError("it is cut short")


def _unpacker(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(31)
    return bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor(memlimit=512 << 20)


def _bounded(unpacker: Any, data: bytes, *, is_zlib: bool) -> Iterator[bytes]:
    """What one chunk unpacks to, a megabyte at a time: a bomb never fills memory."""
    given = data
    while True:
        made: bytes = unpacker.decompress(given, CHUNK)
        if made:
            yield made
        if unpacker.eof:
            return
        if is_zlib:
            given = unpacker.unconsumed_tail
            if not given and len(made) < CHUNK:
                return
        else:
            given = b""
            if unpacker.needs_input:
                return


def _unpack_zstd(fd: int, origin: str) -> Iterator[bytes]:
    program = shutil.which("zstd", path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if not program:
        raise Fault("cannot unpack", origin, "zstd is not installed", hint="sudo apt-get install zstd")
    os.lseek(fd, 0, os.SEEK_SET)
    unpacker = subprocess.Popen([program, "-dcq", f"--memory={_ZSTD_MEMORY}"], stdin=fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert unpacker.stdout is not None
    assert unpacker.stderr is not None
    try:
        while chunk := unpacker.stdout.read(CHUNK):
            yield chunk
        said = unpacker.stderr.read(500).decode(errors="replace").strip()
        if unpacker.wait():
            raise EOFError(said or "zstd cannot read it")
    finally:
        if unpacker.poll() is None:
            unpacker.send_signal(signal.SIGKILL)
            unpacker.wait()
        unpacker.stdout.close()
        unpacker.stderr.close()


class _Headers:
    """What tarfile reads headers from: no single read may be large, however long a header says that it is."""

    def __init__(self, fd: int) -> None:
        self.fd, self.at = fd, 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset if whence == 0 else self.at + offset
        return self.at

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= HEADER_READ_MAX:
            raise tarfile.ReadError(f"a header of {count} bytes")
        data = os.pread(self.fd, count, self.at)
        self.at += len(data)
        return data


def read_members(fd: int, origin: str) -> Iterator[tarfile.TarInfo]:
    """Every member of a plain tar, in order. Fault where it is damaged or cut short."""
    size = os.fstat(fd).st_size
    try:
        tar: Any = tarfile.TarFile(fileobj=_Headers(fd), errorlevel=2, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members.clear()
            if member.size < 0 or (member.isreg() and member.sparse is None and member.offset_data + member.size > size):
                raise tarfile.ReadError(f"{member.name}: it is cut short")
            yield member
        if any(os.pread(fd, BLOCK, tar.offset)):
            raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, IndexError) as error:
        raise Fault("the archive is damaged", origin, str(error) or type(error).__name__, hint="fetch or make it again") from None


class Times:
    """Times of entries: as the archive says, but none later than `latest` (SOURCE_DATE_EPOCH), or all of them `fixed`."""

    def __init__(self, latest: int | None = None, fixed: int | None = None) -> None:
        self.latest, self.fixed = latest, fixed

    def of(self, mtime: float) -> int:
        if self.fixed is not None:
            return self.fixed
        whole = min(max(0, int(mtime)), 0xFFFF_FFFF)
        return whole if self.latest is None else min(whole, self.latest)


def apply_archive(tree: Tree, fd: int, origin: str, work: str, times: Times, *, is_layer: bool = False) -> None:
    """Put every entry of a plain tar into the tree. `is_layer`: whiteouts take away what was there before."""
    members = read_members(fd, origin)
    if is_layer:
        kept = list(islice(members, tree.budget.max_entries + 1))
        if len(kept) > tree.budget.max_entries:
            raise Fault("too many files", origin, f"more than {tree.budget.max_entries}", hint="--max-files NUMBER allows more")
        for member in kept:
            _apply_whiteout(tree, member, origin)
        members = iter(kept)
    fresh: set[int] = set()
    spool = _Spool(work)
    for member in members:
        parts = split(member.name, origin)
        base = parts[-1] if parts else ""
        if is_layer and base.startswith(WHITEOUT):
            continue
        if member.islnk():
            tree.link(parts, member.linkname, origin, fresh)
            continue
        if member.type in _DEVICES:
            check_device("/".join(parts), member.type == tarfile.CHRTYPE, member.devmajor, member.devminor, origin)
            continue
        tree.put(parts, _node(member, fd, origin, spool, times, tree.budget), origin, fresh)


def _apply_whiteout(tree: Tree, member: tarfile.TarInfo, origin: str) -> None:
    parts = split(member.name, origin)
    if not parts or not parts[-1].startswith(WHITEOUT):
        return
    if parts[-1] == OPAQUE:
        tree.clear(parts[:-1])
    elif not parts[-1].startswith(AUFS):
        name = parts[-1].removeprefix(WHITEOUT)
        if name in {"", ".", ".."}:
            raise Fault("will not take in a whiteout", member.name, origin, hint="it names nothing that can be taken away")
        tree.remove([*parts[:-1], name])


def _node(member: tarfile.TarInfo, fd: int, origin: str, spool: _Spool, times: Times, budget: Budget) -> Node:
    xattrs = [
        (key[len(XATTR) :], value.encode("utf-8", "surrogateescape")) for key, value in member.pax_headers.items() if key.startswith(XATTR)
    ]
    if not (0 <= member.uid <= ID_MAX and 0 <= member.gid <= ID_MAX):
        raise Fault("not a user or group", member.name, f"{member.uid}:{member.gid}: {origin}")
    node = Node(FILE, member.mode & 0o7777, member.uid, member.gid, times.of(member.mtime), xattrs=kept_xattrs(xattrs, member.name))
    if member.isdir():
        node.kind = DIRECTORY
    elif member.issym():
        if not 0 < len(os.fsencode(member.linkname)) <= TARGET_MAX:
            raise Fault("not a symlink's target", member.name, f"{len(member.linkname)} bytes: {origin}")
        node.kind, node.mode, node.target = LINK, 0o777, member.linkname
    elif member.isfifo():
        node.kind = FIFO
    elif member.sparse is not None:
        node.content = _fill_in(member, fd, spool, budget)
    elif member.isreg():
        node.content = Content(member.size, fd, member.offset_data)
    else:
        raise Fault("will not take in an entry of unknown type", member.name, f"type {member.type!r}: {origin}")
    return node


class _Spool:
    """A file of the workspace, made where it is wanted, for what all sparse files of an archive hold: one descriptor, however many they are."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.fd, self.end = -1, 0

    def take(self, size: int) -> tuple[int, int]:
        """(descriptor, offset) of so many bytes, which are a hole."""
        if self.fd < 0:
            self.fd, path = tempfile.mkstemp(prefix="sparse-", dir=self.work)
            os.unlink(path)
        at = self.end
        self.end += -(-size // PAGE) * PAGE
        os.ftruncate(self.fd, self.end)
        return self.fd, at


def _fill_in(member: tarfile.TarInfo, fd: int, spool: _Spool, budget: Budget) -> Content:
    """A sparse file, holes and all. Its map is not believed: what is written lies within its size, and is read once."""
    holes: Any = member.sparse
    if member.size > budget.max_bytes:
        budget.take(member.name, member.size)
    if any(offset < 0 or length < 0 or offset + length > member.size for offset, length in holes):
        raise Fault("the archive is damaged", member.name, "the map of a sparse file leads out of it")
    out_fd, begin = spool.take(member.size)
    at = member.offset_data
    for offset, length in holes:
        done = 0
        while done < length:
            chunk = os.pread(fd, min(CHUNK, length - done), at + done)
            if not chunk:
                raise Fault("the archive is damaged", member.name, "a sparse file is cut short")
            os.pwrite(out_fd, chunk, begin + offset + done)
            done += len(chunk)
        at += length
    return Content(member.size, out_fd, begin)

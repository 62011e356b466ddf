"""A tree as a tar stream, and that as a squashfs or erofs file: bit for bit the same for the same tree, whoever makes it and when.

mksquashfs reads the tar from a pipe, so the image has the ids that the tree
says, though no file on disk ever had them. Entries come in byte order, the file
system's own time is fixed, and the tools run with an environment of ours.
mkfs.erofs takes a tar from version 1.7 on; older ones get a directory.
Sources: mksquashfs(1), mkfs.erofs(1), pax(1).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import IO

from ljsv.errors import Fault, quote
from ljsv.images.tree import DIRECTORY, FIFO, FILE, LINK, Content, Node, Tree
from ljsv.jail.ids import one_id, write_maps
from ljsv.linux import process
from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from ljsv.service.images import EROFS, SQUASHFS
from ljsv.service.stored import Manifest, make_trailer

BLOCK = 512
BUFFER = 1 << 20
SMALL = 128 << 10
ALIGN = 4096
NAME_FIELD, LINK_FIELD = 100, 100
OCTAL_MAX = 0o7777777
SIZE_MAX = 0o77777777777
COMPRESSIONS = ("zstd", "xz", "gzip", "lz4", "none")
LEVELS = {"zstd": "9"}
UUID = "00000000-0000-0000-0000-000000000000"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
COARSE_CLOCK_S = 0.011  # by so much may the clock that time(2) reads be behind: a tick, at 100 Hz or more
_TYPES = {FILE: b"0", LINK: b"2", DIRECTORY: b"5", FIFO: b"6"}
Progress = Callable[[int], None]


def write_tar(tree: Tree, out_fd: int, tell: Progress | None = None, *, has_root: bool = True) -> None:
    """The tree as a pax archive into a descriptor. Fault where a file is no longer what it was."""
    _Writer(out_fd, tell).write(tree, has_root=has_root)


class _Writer:
    """Headers and small files are gathered; large files go from file to pipe without passing here."""

    def __init__(self, fd: int, tell: Progress | None) -> None:
        self.fd, self.tell = fd, tell
        self.buffer = bytearray()
        self.done = 0

    def write(self, tree: Tree, *, has_root: bool) -> None:
        seen: dict[int, str] = {}
        if has_root:
            self.buffer += header("./", tree.root)
        for path, node in tree.walk():
            first = seen.get(id(node))
            if first is not None:
                self.buffer += header(f"./{path}", node, link=f"./{first}")
                continue
            if node.kind != DIRECTORY:
                seen[id(node)] = path
            self.buffer += header(f"./{path}/" if node.kind == DIRECTORY else f"./{path}", node)
            if node.kind == FILE and node.content.size:
                self._content(node.content, path)
            if len(self.buffer) >= BUFFER:
                self._flush()
        self.buffer += bytes(BLOCK * 2)
        self._flush()

    def _flush(self) -> None:
        view = memoryview(self.buffer)
        while view:
            view = view[os.write(self.fd, view) :]
        view.release()
        self.buffer = bytearray()
        if self.tell:
            self.tell(self.done)

    def _content(self, content: Content, path: str) -> None:
        self.done += content.size
        if content.fd < 0:
            self.buffer += content.data
        else:
            fd = open_content(content, path)
            try:
                if content.size <= SMALL:
                    data = os.pread(fd, content.size, content.offset)
                    if len(data) != content.size:
                        raise _changed(path)
                    self.buffer += data
                else:
                    self._flush()
                    self._send(fd, content, path)
            finally:
                if content.path:
                    os.close(fd)
        self.buffer += bytes(-content.size % BLOCK)

    def _send(self, fd: int, content: Content, path: str) -> None:
        at, end = content.offset, content.offset + content.size
        while at < end:
            try:
                count = os.sendfile(self.fd, fd, at, min(end - at, BUFFER * 4))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                count = os.write(self.fd, os.pread(fd, min(end - at, BUFFER), at))  # an output that appends (>>) takes no sendfile
            if not count:
                raise _changed(path)
            at += count
            if self.tell:
                self.tell(self.done - (end - at))


def _changed(path: str) -> Fault:
    return Fault("cannot build the image", path, "the file has changed while it was read", hint="build it again when nobody writes there")


def open_content(content: Content, path: str) -> int:
    """A descriptor of a file's bytes; the caller closes it where `content.path` is set."""
    if not content.path:
        return content.fd
    try:
        fd = openat2(content.fd, content.path, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        raise Fault.from_os("cannot read", error, path, hint="who may read it? as root everything can be read") from None
    if os.fstat(fd).st_size != content.size:
        os.close(fd)
        raise _changed(path)
    return fd


def read_content(content: Content, path: str, limit: int) -> bytes:
    """All bytes of a file of at most `limit`."""
    if content.size > limit:
        raise Fault("too large", path, f"{content.size} bytes, at most {limit} are read")
    if content.fd < 0:
        return content.data
    fd = open_content(content, path)
    try:
        data = bytearray()
        while len(data) < content.size and (chunk := os.pread(fd, content.size - len(data), content.offset + len(data))):
            data += chunk
        return bytes(data)
    finally:
        if content.path:
            os.close(fd)


def header(name: str, node: Node, link: str = "") -> bytes:
    """One entry's header, with a pax header before it where ustar cannot say it."""
    records = b"".join(_record(f"SCHILY.xattr.{key}".encode(errors="surrogateescape"), value) for key, value in node.xattrs) if not link else b""
    raw, target = os.fsencode(name), os.fsencode(link or node.target)
    size = 0 if link or node.kind != FILE else node.content.size
    if len(raw) > NAME_FIELD or not raw.isascii():
        records += _record(b"path", raw)
    if len(target) > LINK_FIELD or not target.isascii():
        records += _record(b"linkpath", target)
    for key, value, most in ((b"uid", node.uid, OCTAL_MAX), (b"gid", node.gid, OCTAL_MAX), (b"size", size, SIZE_MAX)):
        if value > most:
            records += _record(key, str(value).encode())
    kind = b"1" if link else _TYPES[node.kind]
    before = b""
    if records:
        before = _block(b"././@pax", 0o644, 0, 0, len(records), 0, b"x", b"") + records + bytes(-len(records) % BLOCK)
    return before + _block(raw[:NAME_FIELD], node.mode, min(node.uid, OCTAL_MAX), min(node.gid, OCTAL_MAX), min(size, SIZE_MAX), node.mtime, kind, target[:LINK_FIELD])


def _block(name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, target: bytes) -> bytes:
    text = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s" % (
        name.ljust(NAME_FIELD, b"\0"), mode, uid, gid, size, mtime, kind, target.ljust(LINK_FIELD, b"\0"),
    )
    block = bytearray(text + b"ustar\x0000")
    block += bytes(BLOCK - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record: its length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


# ---- the file systems


def find_tool(name: str, package: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")
    if not path:
        raise Fault("cannot build the image", name, "not installed", hint=f"sudo apt-get install {package}")
    return path


def _environment() -> dict[str, str]:
    return {"PATH": PATH, "LC_ALL": "C", "TZ": "UTC"}


def write_image(
    tree: Tree, path: str, *, kind: str = SQUASHFS, compression: str = "zstd", level: str = "", epoch: int = 0, tell: Progress | None = None,
    is_all_root: bool = False,
) -> None:
    """The tree as a file system at `path`, which must not exist. `is_all_root`: everything in it is root's (squashfs only)."""
    if kind == EROFS:
        _write_erofs(tree, path, compression, level, epoch, tell)
    else:
        latest = _latest_past([epoch, *(node.mtime for _, node in tree.walk())])
        command = squashfs_command(tree, path, compression, level)
        _feed([*command, "-all-root"] if is_all_root else command, tree, tell, "mksquashfs", path, {"SOURCE_DATE_EPOCH": str(latest)})


def _latest_past(times: Iterable[int]) -> int:
    """The latest of the times that is not in the future, which clamps the others (seconds since 1970).

    mksquashfs 4.5 takes no time for the root of a tar: that is now, unless its clamp is earlier. So the clamp has to be
    over when it runs, by the clock that time(2) reads: a time that a tool has rounded up to the next second is waited for.
    """
    now = time.time()
    latest = max(moment for moment in (0, *times) if moment <= now + 1)
    time.sleep(max(0.0, latest + COARSE_CLOCK_S - now))
    return latest


def squashfs_command(tree: Tree, path: str, compression: str, level: str) -> list[str]:
    command = [
        find_tool("mksquashfs", "squashfs-tools"), "-", path, "-tar", "-no-tailends", "-noappend", "-no-progress", "-quiet", "-exit-on-error", "-no-exports",
        "-root-mode", f"{tree.root.mode:o}",
    ]
    if compression == "none":
        return [*command, "-noI", "-noD", "-noF", "-noX", "-no-duplicates"]
    command += ["-comp", compression]
    level = level or LEVELS.get(compression, "")
    return [*command, "-Xcompression-level", level] if level else command


def _write_erofs(tree: Tree, path: str, compression: str, level: str, epoch: int, tell: Progress | None) -> None:
    tool = find_tool("mkfs.erofs", "erofs-utils")
    said = subprocess.run([tool, "--help"], capture_output=True, text=True, check=False, env=_environment())
    usage = said.stdout + said.stderr
    algorithm = {"zstd": "lz4hc", "none": ""}.get(compression, compression)  # before 1.8 erofs knows no zstd
    command = [tool, "--quiet", f"-T{epoch}", f"-U{UUID}"]
    if algorithm:
        command.append(f"-z{algorithm}{',' + level if level else ''}")
    if "--tar" in usage:
        _feed([*command, "--tar=f", path], tree, tell, "mkfs.erofs", path)
        return
    owners = {(node.uid, node.gid) for _, node in tree.walk()} | {(tree.root.uid, tree.root.gid)}
    is_all_root = owners == {(0, 0)}
    if os.geteuid() and not is_all_root:
        version = re.search(r"\d+\.\d+", usage)
        cause = f"its files have other ids than root's, and mkfs.erofs {version[0] + ' ' if version else ''}takes no tar"
        raise Fault("cannot build an erofs image", path, cause, hint="as root it can; or erofs-utils 1.7 or newer; or --type squashfs")
    with tempfile.TemporaryDirectory(prefix="erofs-", dir=os.path.dirname(path)) as folder:
        materialise(tree, folder, tell, owns=not is_all_root)
        if is_all_root:
            command.append("--all-root")
        _finish(subprocess.Popen([*command, path, folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment()), "mkfs.erofs", path)


def materialise(tree: Tree, folder: str, tell: Progress | None = None, *, owns: bool = False) -> None:
    """The tree as a directory; `owns`: with its ids, as root."""
    top_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    done = 0
    seen: dict[int, str] = {}
    directories = [(".", tree.root)]
    try:
        for path, node in tree.walk():
            if id(node) in seen:
                os.link(seen[id(node)], path, src_dir_fd=top_fd, dst_dir_fd=top_fd, follow_symlinks=False)
                continue
            seen[id(node)] = path
            if node.kind == DIRECTORY:
                os.mkdir(path, 0o700, dir_fd=top_fd)
                directories.append((path, node))
                continue
            if node.kind == LINK:
                os.symlink(node.target, path, dir_fd=top_fd)
            elif node.kind == FIFO:
                os.mkfifo(path, 0o600, dir_fd=top_fd)
            else:
                _copy_out(node.content, path, top_fd)
                done += node.content.size
            _dress(top_fd, path, node, owns=owns)
            if tell:
                tell(done)
        for path, node in reversed(directories):
            _dress(top_fd, path, node, owns=owns)
    except OSError as error:
        raise Fault.from_os("cannot unpack the image", error, hint=f"df {quote(folder)}") from None
    finally:
        os.close(top_fd)


def _copy_out(content: Content, path: str, top_fd: int) -> None:
    out_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=top_fd)
    try:
        if content.fd < 0:
            os.write(out_fd, content.data)
            return
        fd = open_content(content, path)
        try:
            at, end = content.offset, content.offset + content.size
            while at < end and (count := os.sendfile(out_fd, fd, at, end - at)):
                at += count
        finally:
            if content.path:
                os.close(fd)
    finally:
        os.close(out_fd)


def _dress(top_fd: int, path: str, node: Node, *, owns: bool) -> None:
    at = f"/proc/self/fd/{top_fd}/{path}"
    if owns:
        os.chown(path, node.uid, node.gid, dir_fd=top_fd, follow_symlinks=False)
    if node.kind == LINK:
        os.utime(path, (node.mtime, node.mtime), dir_fd=top_fd, follow_symlinks=False)
        return
    for key, value in node.xattrs:
        if owns or key.startswith("user."):
            os.setxattr(at, key, value, follow_symlinks=False)
    os.chmod(at, node.mode)
    os.utime(at, (node.mtime, node.mtime))


def _feed(command: list[str], tree: Tree, tell: Progress | None, name: str, path: str, environ: dict[str, str] | None = None) -> None:
    """Run a program with the tree's tar as its input."""
    become = None if os.geteuid() == 0 else _become_root
    maker = subprocess.Popen(  # no thread of ours runs
        command, preexec_fn=become, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment() | (environ or {}),  # noqa: PLW1509
    )
    assert maker.stdin is not None
    try:
        _grow(maker.stdin)
        write_tar(tree, maker.stdin.fileno(), tell, has_root=name != "mksquashfs")  # which has options for that
        maker.stdin.close()
    except BrokenPipeError:
        pass  # it says why itself
    except BaseException:
        maker.send_signal(signal.SIGKILL)
        maker.communicate()
        raise
    _finish(maker, name, path)


def _become_root() -> None:
    """In the child, before exec: root of a user namespace, since mksquashfs gives the root directory of a tar to whoever it runs as."""
    uid, gid = os.geteuid(), os.getegid()
    process.unshare(process.CLONE_NEWUSER)
    write_maps(os.getpid(), one_id(uid, gid))


def _grow(pipe: IO[bytes]) -> None:
    import fcntl

    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, BUFFER)
    except OSError:
        pass  # the user has many pipes: slower, no more


def _finish(maker: subprocess.Popen[bytes], name: str, path: str) -> None:
    try:
        if maker.stdin and not maker.stdin.closed:
            try:
                maker.stdin.close()
            except BrokenPipeError:
                pass
        maker.stdin = None
        _, said = maker.communicate()
    except BaseException:
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        raise
    text = "; ".join(line for line in said.decode(errors="replace").splitlines() if line.strip() and "Empty tar filename" not in line)
    if maker.returncode:
        raise Fault("cannot build the image", path, f"{name}: {text[:500] or f'exit {maker.returncode}'}", hint=f"df {quote(os.path.dirname(path))}; {name} -version")


def list_xattrs(tree: Tree) -> tuple[tuple[str, str, str], ...]:
    """Those of all its files, for the manifest."""
    return tuple((path, key, value.hex()) for path, node in tree.walk() for key, value in node.xattrs)


def append_manifest(path: str, manifest: Manifest) -> None:
    """Write the trailer behind the file system at `path`, and have the disk hold both."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        start = -(-size // ALIGN) * ALIGN
        os.ftruncate(fd, start)
        trailer = make_trailer(manifest, start)
        os.pwrite(fd, trailer, start)
        os.fsync(fd)
    finally:
        os.close(fd)

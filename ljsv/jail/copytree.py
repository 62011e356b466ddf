"""A tree copied as it is: what `cp -a --reflink=auto --sparse=always` does, and what overlayfs needs beside it.

Kept are contents, holes, owners, modes, times, hard links, xattrs, and
whiteouts (character devices 0:0). `overlay.origin` becomes the empty one,
"copied up, from where is not known": what it names is in the image below,
and below the copy there will be another. Neither depth nor PATH_MAX bounds
how deep the tree may be: two descriptors walk it, up by "..". The caller may
read and make what is in it. Sources: ioctl_ficlone(2), lseek(2),
xattr(7), Documentation/filesystems/overlayfs.rst and fs/overlayfs/namei.c
(ovl_get_fh: an empty origin is none).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from ljsv.linux.files import FICLONE, syncfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS = ".links"
CHUNK = 1 << 20
ENTRIES_MAX = 50_000_000
ORIGINS = frozenset({"user.overlay.origin", "trusted.overlay.origin"})
NOT_COPIED = frozenset({"user.overlay.uuid", "trusted.overlay.uuid"})
NAMESPACES = ("user.", "trusted.overlay.", "security.capability", "system.posix_acl_")
NO_DATA = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV})


class _Level:
    """A directory that is being copied: what is left of it, and how to know it again."""

    __slots__ = ("entry", "left", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.entry = os.fstat(fd)
        self.left = iter(sorted(os.listdir(fd)))


class _Copy:
    def __init__(self, source_fd: int, target_fd: int, links_fd: int) -> None:
        self.source_fd, self.target_fd, self.links_fd = source_fd, target_fd, links_fd
        self._links: dict[tuple[int, int], str] = {}
        self._count = 0

    def entry(self, name: str) -> os.stat_result | None:
        """Copy what is no directory; the status of one, which is entered then."""
        self._count += 1
        if self._count > ENTRIES_MAX:
            raise OSError(errno.EFBIG, f"more than {ENTRIES_MAX} files", name)
        found = os.stat(name, dir_fd=self.source_fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return found
        if found.st_nlink < 2 or not self._link(name, found):
            self._make(name, found)
            if found.st_nlink > 1:
                self._remember(name, found)
        return None

    def _link(self, name: str, found: os.stat_result) -> bool:
        """Whether another name of it was copied already, and has this one now too."""
        known = self._links.get((found.st_dev, found.st_ino))
        if known is None:
            return False
        try:
            os.link(known, name, src_dir_fd=self.links_fd, dst_dir_fd=self.target_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            return False
        return True

    def _remember(self, name: str, found: os.stat_result) -> None:
        kept = str(len(self._links))
        key = found.st_dev, found.st_ino
        if key in self._links:  # it has as many names as it can have: the next ones are another file's
            os.unlink(self._links[key], dir_fd=self.links_fd)
            kept = self._links[key]
        os.link(name, kept, src_dir_fd=self.target_fd, dst_dir_fd=self.links_fd, follow_symlinks=False)
        self._links[key] = kept

    def _make(self, name: str, found: os.stat_result) -> None:
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFREG:
            self._make_file(name, found)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=self.source_fd), name, dir_fd=self.target_fd)
        else:
            os.mknod(name, kind | 0o600, found.st_rdev, dir_fd=self.target_fd)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=self.target_fd, follow_symlinks=False)
        copy_xattrs(f"/proc/self/fd/{self.source_fd}/{name}", f"/proc/self/fd/{self.target_fd}/{name}")
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=self.target_fd)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=self.target_fd, follow_symlinks=False)

    def _make_file(self, name: str, found: os.stat_result) -> None:
        source_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.source_fd)
        try:
            target_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.target_fd)
            try:
                _copy_data(source_fd, target_fd, found.st_size)
                _copy_attributes(source_fd, target_fd, found)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def go_down(self, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=self.target_fd)
        self._move(*(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd) for fd in (self.source_fd, self.target_fd)))

    def go_up(self, level: _Level, above: _Level) -> None:
        """Its directory's own attributes last, since what was made in it has changed them."""
        _copy_attributes(self.source_fd, self.target_fd, level.entry)
        self._move(*(os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd) for fd in (self.source_fd, self.target_fd)))
        now = os.fstat(self.source_fd)
        if (now.st_dev, now.st_ino) != (above.entry.st_dev, above.entry.st_ino):
            raise OSError(errno.ESTALE, "it was moved while it was copied", level.name)

    def _move(self, source_fd: int, target_fd: int) -> None:
        self.close()
        self.source_fd, self.target_fd = source_fd, target_fd

    def close(self) -> None:
        os.close(self.source_fd)
        os.close(self.target_fd)


def copy_tree(source: str, target: str) -> None:
    """Make `target`, which must not be there, a copy of the directory `source`; it is on the disk when this returns. OSError.

    `target` has a directory `.links` beside it meanwhile.
    """
    os.mkdir(target, 0o700)
    links = f"{os.path.dirname(target)}/{LINKS}"
    os.mkdir(links, 0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    links_fd = os.open(links, flags)
    copy = _Copy(os.open(source, flags), os.open(target, flags), links_fd)
    try:
        _walk(copy)
        for name in os.listdir(links_fd):
            os.unlink(name, dir_fd=links_fd)
        os.rmdir(links)
        syncfs(copy.target_fd, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or source) from None
    finally:
        copy.close()
        os.close(links_fd)


def _walk(copy: _Copy) -> None:
    levels = [_Level("", copy.source_fd)]
    while True:
        level = levels[-1]
        name = next(level.left, None)
        if name is not None:
            try:
                found = copy.entry(name)
            except FileNotFoundError:
                if not _is_gone(copy.source_fd, name):
                    raise
                continue  # of a copy that is made while the service runs
            if found:
                copy.go_down(name)
                levels.append(_Level(name, copy.source_fd))
        elif len(levels) > 1:
            copy.go_up(level, levels[-2])
            levels.pop()
        else:
            _copy_attributes(copy.source_fd, copy.target_fd, level.entry)
            return


def _is_gone(dir_fd: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    return False


def clone_or_copy(source_fd: int, target_fd: int) -> None:
    """A file's contents: shared blocks where the file system can, else its data with its holes."""
    _copy_data(source_fd, target_fd, os.fstat(source_fd).st_size)


def _copy_data(source_fd: int, target_fd: int, size: int) -> None:
    if size == 0:
        return
    try:
        fcntl.ioctl(target_fd, FICLONE, source_fd)
    except OSError as error:
        if error.errno not in NO_DATA:
            raise
    else:
        return
    for start, end in _data(source_fd, size):
        _copy_range(source_fd, target_fd, start, end)
    os.ftruncate(target_fd, size)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where there is something: (from, up to)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing more
                return
            raise
        yield start, at


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    os.lseek(target_fd, start, os.SEEK_SET)
    while start < end:
        sent = os.sendfile(target_fd, source_fd, start, min(CHUNK, end - start))
        if sent == 0:  # it has become shorter
            return
        start += sent


def _copy_attributes(source_fd: int, target_fd: int, found: os.stat_result) -> None:
    """Owner first: a change of it takes set-user-id bits and file capabilities away."""
    os.fchown(target_fd, found.st_uid, found.st_gid)
    copy_xattrs(source_fd, target_fd)
    os.fchmod(target_fd, stat.S_IMODE(found.st_mode))
    os.utime(target_fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def copy_xattrs(source: int | str, target: int | str) -> None:
    is_path = isinstance(source, str)
    options = {"follow_symlinks": False} if is_path else {}
    try:
        names = os.listxattr(source, **options)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return
        raise
    for name in names:
        if not name.startswith(NAMESPACES) or name in NOT_COPIED:
            continue
        with suppress(FileNotFoundError):
            value = b"" if name in ORIGINS else os.getxattr(source, name, **options)
            os.setxattr(target, name, value, **options)

"""What a step is: a value that describes itself and can be executed, and what steps share while a jail is built.

A plan is a list of steps (see `plan`). Those of `outside` are taken by the
launcher, before the jail's first process exists, since they need what only
the launcher may; those of `mounts` and `hardening` by the jail's builder,
between clone3 and exec. A step raises OSError with the object's name, or a
Fault; who executes it adds the stage. Nothing here imports at run time.
"""

from __future__ import annotations

import errno
import os
import stat

from ljsv.frozen import Frozen
from ljsv.linux import mount
from ljsv.linux.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from ljsv.jail.passwd import User

NOSUID_NODEV = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
PLAIN = NOSUID_NODEV | MOUNT_ATTR_NOEXEC
READ_ONLY = NOSUID_NODEV | MOUNT_ATTR_RDONLY
_ATTRIBUTE_WORDS = (
    (MOUNT_ATTR_RDONLY, "ro"),
    (MOUNT_ATTR_NOSUID, "nosuid"),
    (MOUNT_ATTR_NODEV, "nodev"),
    (MOUNT_ATTR_NOEXEC, "noexec"),
)
LINKS_MAX, DEPTH_MAX = 40, 200  # symlinks to symlinks; directories in each other


class Build:
    """Descriptors that one step leaves for another, and the user once he is known.

    `trees`: detached mounts that the launcher has made, by their place; `held`:
    what pid 1 of the jail keeps; `own`: directories that we have just made, so
    that nothing in them can lead astray; `channel_fd`: the builder's end of the
    channel to its launcher; `closed_fd`: its end of file says that pid 1 is in
    the builder's mount namespace, and closed.
    """

    def __init__(self) -> None:
        self.trees: dict[str, int] = {}
        self.held: list[int] = []
        self.channel_fd = self.closed_fd = -1
        self.own: dict[str, int] = {}
        self.scratch_fd = -1
        self.root_fd = -1
        self.proc_fd = -1
        self.user: User | None = None

    def close(self) -> None:
        """In the launcher: let go of what the jail has inherited."""
        if not self.trees and not self.held:
            return
        for fd in (*self.trees.values(), *self.held):
            os.close(fd)
        self.trees.clear()
        self.held.clear()


class Step(Frozen):
    """`stage` is what the reader is told when the step fails."""

    stage: ClassVar[str] = ""

    def describe(self) -> str:
        """One line for `explain`."""
        raise NotImplementedError

    def execute(self, build: Build) -> None:
        """Do it. OSError with the object's name, or Fault."""
        raise NotImplementedError


def describe_attributes(attributes: int) -> str:
    return ",".join(word for bit, word in _ATTRIBUTE_WORDS if attributes & bit) or "rw"


def attach(build: Build, tree_fd: int, to: str, *, is_directory: bool, follow: bool, object_: str) -> None:
    """Attach a detached mount at `to`, which is made where it is missing, and close its descriptor."""
    for path in [path for path in build.own if path == to or path.startswith(f"{to}/")]:
        os.close(build.own.pop(path))  # covered by this one
    parent, _, name = to.rpartition("/")
    own_fd = own_directory(build, parent)
    if own_fd >= 0 and make_in(own_fd, name, is_directory=is_directory):
        mount.move_mount(tree_fd, own_fd, name, object_=object_)
    else:
        to_fd = open_target(build.root_fd, to, is_directory=is_directory, follow=follow)
        mount.move_mount(tree_fd, to_fd, object_=object_)
        os.close(to_fd)
    os.close(tree_fd)


def own_directory(build: Build, path: str) -> int:
    """A directory of our own, made where all above it are ours; -1 for one that is not."""
    own_fd = build.own.get(path or "/", -1)
    if own_fd >= 0 or not path:
        return own_fd
    parent, _, name = path.rpartition("/")
    parent_fd = own_directory(build, parent)
    if parent_fd < 0 or not make_in(parent_fd, name, is_directory=True):
        return -1
    build.own[path] = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    return build.own[path]


def make_in(own_fd: int, name: str, *, is_directory: bool) -> bool:
    """Make a mount point in a directory of our own; False where there is something of that name."""
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=own_fd)
        else:
            os.mknod(name, 0o100644, dir_fd=own_fd)
    except FileExistsError:
        return False
    return True


def open_target(root_fd: int, path: str, *, is_directory: bool, follow: bool, depth: int = 0) -> int:
    """An O_PATH descriptor of `path` below `root_fd`; made, with its parents, where it is missing.

    A symlink that leads nowhere (a distribution's /etc/resolv.conf into /run)
    has what it leads to made.
    """
    if path.count("/") > DEPTH_MAX:
        raise OSError(errno.ENAMETOOLONG, f"more than {DEPTH_MAX} directories in each other", path[:DEPTH_MAX])
    resolve = RESOLVE_IN_ROOT | (0 if follow else RESOLVE_NO_SYMLINKS)
    try:
        return _of_kind(mount.openat2(root_fd, path, os.O_PATH, resolve), path, is_directory=is_directory)
    except FileNotFoundError:
        if depth > LINKS_MAX:
            raise
        if path == "/":  # of a damaged image
            raise OSError(errno.EIO, os.strerror(errno.EIO), path) from None
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "is a symlink in the base; it has to be a directory", path) from None
        raise
    parent, _, name = path.rstrip("/").rpartition("/")
    parent_fd = open_target(root_fd, parent or "/", is_directory=True, follow=follow, depth=depth)
    try:
        link = _read_link(parent_fd, name) if follow else ""
        if link:
            there = os.path.normpath(os.path.join(parent or "/", link))
            return open_target(root_fd, there, is_directory=is_directory, follow=True, depth=depth + 1)
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent_fd))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(parent_fd)
    return mount.openat2(root_fd, path, os.O_PATH, resolve)


def _of_kind(fd: int, path: str, *, is_directory: bool) -> int:
    """The descriptor, if a mount of that kind can go there: the kernel would only say EINVAL."""
    if stat.S_ISDIR(os.fstat(fd).st_mode) == is_directory:
        return fd
    os.close(fd)
    number = errno.ENOTDIR if is_directory else errno.EISDIR
    raise OSError(number, os.strerror(number), path)


def _read_link(dir_fd: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError:
        return ""


def write_at(dir_fd: int, path: str, text: str) -> None:
    """Write a file below /proc, whose descriptor `dir_fd` is."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from None
    finally:
        os.close(fd)

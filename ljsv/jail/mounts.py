"""The steps that build a jail's tree of mounts, in its own mount namespace, up to pivot_root.

Targets inside the jail are found with openat2 below the new root's descriptor
(RESOLVE_IN_ROOT), so a rootfs full of symlinks leads nowhere but into itself.
"""

from __future__ import annotations

import errno
import os

from ljsv.jail.failure import STAGE_BIND
from ljsv.jail.outside import NODES, UPPER, WORK, CloneTree
from ljsv.jail.step import NOSUID_NODEV, PLAIN, READ_ONLY, Build, Step, attach, describe_attributes, open_target
from ljsv.linux import descriptors, mount
from ljsv.linux.mount import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, RESOLVE_IN_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

EMPTY_DIRECTORY = "empty"
EMPTY_FILE = "nothing"
SERVE = b"U"  # what the builder says when it sends the FUSE descriptor
FUSE_OPTIONS = {"rootmode": "40755", "user_id": "0", "group_id": "0", "allow_other": "", "default_permissions": ""}
FUSE_MAX_READ = "131072"
REPLACED_TRIES = 5


class KeepProc(Step):
    """Hold the host's /proc, which is covered soon.

    There is nothing to make private: the mounts of a namespace that belongs
    to a new user namespace send nothing back to those that they are copies
    of (mount_namespaces(7)), and what is brought in is private by itself.
    """

    stage: ClassVar[str] = "open"

    def describe(self) -> str:
        return "open /proc of the host"

    def execute(self, build: Build) -> None:
        build.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class MakePrivate(Step):
    """Only without a user namespace of its own: there the copies of the host's mounts would send back what is mounted on them."""

    stage: ClassVar[str] = "make the mounts private"

    def describe(self) -> str:
        return "make all mounts private (recursive)"

    def execute(self, build: Build) -> None:
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE)


class MakeScratch(Step):
    """A tmpfs of our own over a place of this namespace, to put the jail together in."""

    stage: ClassVar[str] = "mount the scratch"
    at: str
    directories: tuple[str, ...]

    def describe(self) -> str:
        return f"tmpfs (scratch) at {self.at}: {' '.join(self.directories)}"

    def execute(self, build: Build) -> None:
        build.scratch_fd = mount.new_mount("tmpfs", {"mode": "0755"}, NOSUID_NODEV)
        at_fd = os.open(self.at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.move_mount(build.scratch_fd, at_fd, object_=self.at)
        os.close(at_fd)
        for name in (*self.directories, EMPTY_DIRECTORY):
            os.mkdir(name, 0o755, dir_fd=build.scratch_fd)
        os.mknod(EMPTY_FILE, 0o444, dir_fd=build.scratch_fd)


class MakeSkeleton(Step):
    """Make the mount points that the base lacks, in a layer of our own below it."""

    stage: ClassVar[str] = "make mount points"
    entries: tuple[tuple[str, bool], ...]

    def describe(self) -> str:
        return "make in the skeleton layer: " + " ".join(path + ("/" if is_dir else "") for path, is_dir in self.entries)

    def execute(self, build: Build) -> None:
        skeleton_fd = os.open("skeleton", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=build.scratch_fd)
        for path, is_directory in self.entries:
            os.close(open_target(skeleton_fd, path, is_directory=is_directory, follow=False))
        os.close(skeleton_fd)


def _open_in_scratch(build: Build, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=build.scratch_fd)


class Attach(Step):
    """Put a tree that was brought in below the scratch directory `at`."""

    stage: ClassVar[str] = "attach"
    source: str
    at: str

    def describe(self) -> str:
        return f"attach {self.source} at scratch:{self.at}"

    def execute(self, build: Build) -> None:
        _attach_in_scratch(build, build.trees.pop(self.at), self.at)


class MountFuse(Step):
    """An image whose file system a program outside the jail serves; it gets the descriptor of this connection.

    /dev/fuse has to be opened in the user namespace that mounts it.
    """

    stage: ClassVar[str] = "mount the image"
    path: str
    at: str

    def describe(self) -> str:
        return f"mount {self.path} (fuse, ro,nosuid,nodev) at scratch:{self.at}, served from outside"

    def execute(self, build: Build) -> None:
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = {"source": "ljsv-image", "subtype": "squashfuse", "fd": str(fuse_fd), "max_read": FUSE_MAX_READ}
        _attach_in_scratch(build, mount.new_mount("fuse", options | FUSE_OPTIONS, READ_ONLY), self.at)
        descriptors.send(build.channel_fd, SERVE, fuse_fd)
        os.close(fuse_fd)


class NewRoot(Step):
    """An empty root of our own, for `base = "host"`."""

    stage: ClassVar[str] = "mount the root"

    def describe(self) -> str:
        return "tmpfs (root) at scratch:root: etc"

    def execute(self, build: Build) -> None:
        tree_fd = mount.new_mount("tmpfs", {"mode": "0755"}, NOSUID_NODEV)
        build.own["/"] = os.dup(tree_fd)
        os.mkdir("etc", 0o755, dir_fd=tree_fd)
        _attach_in_scratch(build, tree_fd, "root")
        build.own["/etc"] = os.open("etc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=build.own["/"])


class OverlayRoot(Step):
    """The base with layers below (skeleton) and, where it is writable, above: `upper` holds upper/ and work/."""

    stage: ClassVar[str] = "mount the overlay"
    upper: str = ""
    shown: str = ""
    layer: str = ""

    def options(self) -> str:
        layer = f"{self.upper}/{self.layer}"
        upper = f",upperdir={layer}{UPPER},workdir={layer}{WORK}" if self.upper else ""
        return f"lowerdir=base:skeleton{upper},userxattr"

    def describe(self) -> str:
        return f"overlay ({self.options()}) at scratch:root"

    def execute(self, build: Build) -> None:
        os.fchdir(build.scratch_fd)
        try:
            mount.mount("overlay", "root", "overlay", NOSUID_NODEV, self.options())  # MS_NOSUID and MS_NODEV are the same bits
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.shown) from None


class OpenRoot(Step):
    """Take hold of the new root: every later target is looked up below it."""

    stage: ClassVar[str] = "open the root"

    def describe(self) -> str:
        return "from here on, paths are below scratch:root"

    def execute(self, build: Build) -> None:
        build.root_fd = _open_in_scratch(build, "root")


def _attach_in_scratch(build: Build, tree_fd: int, at: str) -> None:
    at_fd = _open_in_scratch(build, at)
    mount.move_mount(tree_fd, at_fd, object_=f"scratch:{at}")
    os.close(at_fd)
    os.close(tree_fd)


class Bind(Step):
    """Put a tree that was brought in at `to`.

    `may_be_replaced`: a file of /etc, in whose place useradd and others put another; the kernel
    attaches none that has lost its name, so it is copied again. (Its ids are not mapped.)
    """

    stage: ClassVar[str] = STAGE_BIND
    source: str
    to: str
    attributes: int
    is_directory: bool
    follow: bool = True
    may_be_replaced: bool = False

    def describe(self) -> str:
        return f"bind {self.source} (recursive, {describe_attributes(self.attributes)}) at {self.to}"

    def execute(self, build: Build) -> None:
        for tries_left in reversed(range(REPLACED_TRIES if self.may_be_replaced else 1)):
            try:
                attach(build, build.trees.pop(self.to), self.to, is_directory=self.is_directory, follow=self.follow, object_=f"{self.source} at {self.to}")
                return
            except FileNotFoundError:
                if not tries_left:
                    raise
            CloneTree(self.source, self.to, self.attributes).execute(build)


class ShowDevice(Step):
    """Put the node that was made for a device of the host at its place. `number`: its name among those nodes."""

    stage: ClassVar[str] = "show the device"
    to: str
    number: int

    def describe(self) -> str:
        return f"bind device node {self.number} at {self.to}"

    def execute(self, build: Build) -> None:
        node_fd = os.open(f"{NODES}/{self.number}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=build.scratch_fd)
        tree_fd = _clone_here(node_fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, self.to)
        os.close(node_fd)
        attach(build, tree_fd, self.to, is_directory=False, follow=False, object_=self.to)


class NewMount(Step):
    """A file system of the jail's own."""

    stage: ClassVar[str] = "mount"
    fstype: str
    to: str
    options: tuple[tuple[str, str], ...]
    attributes: int
    follow: bool = False

    def describe(self) -> str:
        options = ",".join(f"{key}={value}" if value else key for key, value in self.options)
        return f"{self.fstype} ({options + ',' if options else ''}{describe_attributes(self.attributes)}) at {self.to}"

    def execute(self, build: Build) -> None:
        try:
            mount_fd = mount.new_mount(self.fstype, dict(self.options), self.attributes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{error.filename} for {self.to}") from None
        own_fd = os.dup(mount_fd)
        attach(build, mount_fd, self.to, is_directory=True, follow=self.follow, object_=f"{self.fstype} at {self.to}")
        build.own[self.to] = own_fd


def _clone_here(source_fd: int, attributes: int, name: str) -> int:
    tree_fd = mount.open_tree(source_fd, "")
    mount.mount_setattr(tree_fd, attributes, recursive=True, object_=name)
    return tree_fd


def _bind_onto_itself(place_fd: int, attributes: int, name: str) -> None:
    """Give what is there these attributes; the descriptor is closed."""
    tree_fd = _clone_here(place_fd, attributes, name)
    mount.move_mount(tree_fd, place_fd, object_=name)
    os.close(place_fd)
    os.close(tree_fd)


def _open_place(build: Build, path: str, *, is_directory: bool) -> int:
    """An O_PATH descriptor of a place that is there."""
    parent, _, name = path.rpartition("/")
    own_fd = build.own.get(parent, -1)
    if own_fd >= 0:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=own_fd)
    return open_target(build.root_fd, path, is_directory=is_directory, follow=False)


class Cover(Step):
    """Hide a directory or file behind an empty one that is read-only."""

    stage: ClassVar[str] = "cover"
    to: str
    is_directory: bool

    def describe(self) -> str:
        return f"cover {self.to} with an empty {'directory' if self.is_directory else 'file'} (ro)"

    def execute(self, build: Build) -> None:
        name = EMPTY_DIRECTORY if self.is_directory else EMPTY_FILE
        source_fd = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=build.scratch_fd)
        tree_fd = _clone_here(source_fd, PLAIN | MOUNT_ATTR_RDONLY, name)
        os.close(source_fd)
        to_fd = _open_place(build, self.to, is_directory=self.is_directory)
        mount.move_mount(tree_fd, to_fd, object_=self.to)
        os.close(to_fd)
        os.close(tree_fd)


class Remount(Step):
    """Make a place that is already there read-only: bound onto itself."""

    stage: ClassVar[str] = "make read-only"
    to: str
    is_directory: bool

    def describe(self) -> str:
        return f"make {self.to} read-only"

    def execute(self, build: Build) -> None:
        _bind_onto_itself(_open_place(build, self.to, is_directory=self.is_directory), PLAIN | MOUNT_ATTR_RDONLY, self.to)


class WriteProtect(Step):
    """A set-user-id program in a place that the jail may write and others of the host reach: bound onto itself, read-only.

    What is written into it through mmap would keep the bit, and no filter can
    see that. `inode`: another jail may write there as well, at this moment.
    """

    stage: ClassVar[str] = "write-protect"
    to: str
    inode: int

    def describe(self) -> str:
        return f"bind {self.to} (ro) onto itself: it is a set-user-id program"

    def execute(self, build: Build) -> None:
        to_fd = mount.openat2(build.root_fd, self.to, os.O_PATH, RESOLVE_IN_ROOT)
        if os.fstat(to_fd).st_ino != self.inode:
            raise OSError(errno.ESTALE, "was exchanged in this moment", self.to)
        _bind_onto_itself(to_fd, READ_ONLY, self.to)


class MakeSymlink(Step):
    stage: ClassVar[str] = "make a symlink"
    path: str
    target: str

    def describe(self) -> str:
        return f"symlink {self.path} -> {self.target}"

    def execute(self, build: Build) -> None:
        parent, _, name = self.path.rpartition("/")
        os.symlink(self.target, name, dir_fd=build.own[parent or "/"])


class ReadOnlyRoot(Step):
    stage: ClassVar[str] = "make the root read-only"

    def describe(self) -> str:
        return "make / read-only"

    def execute(self, build: Build) -> None:
        mount.mount_setattr(build.root_fd, MOUNT_ATTR_RDONLY, object_="/")


class Pivot(Step):
    """Make the new root the root, and let go of the old one with the scratch and all the host's mounts.

    Also for pid 1: its root changes with ours if it has the same. One that joins in between would find the old one
    above the new, and hold it.
    """

    stage: ClassVar[str] = "change the root"

    def describe(self) -> str:
        return "pivot_root, detach the old root"

    def execute(self, build: Build) -> None:
        os.fchdir(build.root_fd)
        os.read(build.closed_fd, 1)
        mount.pivot_root(".", ".")
        mount.umount2(".", mount.MNT_DETACH)
        os.chdir("/")

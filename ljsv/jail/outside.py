"""Steps that bring in what is of the host: copies of its mounts, the file system of an image, the overlay's place.

As root the launcher takes all of them, before the jail's first process
exists, since only it may reach what it wants to show and map its ids; the
jail inherits the descriptors. Otherwise the builder copies the mounts in its
own namespace, before it covers anything. No mount of theirs is ever seen in
the host's tree, so nothing is left however their process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from time import sleep

from ljsv.errors import Fault, quote
from ljsv.jail.step import NOSUID_NODEV, READ_ONLY, Build, Step, describe_attributes
from ljsv.linux import loop, mount
from ljsv.linux.mount import MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

UPPER, WORK, ASIDE, LAYERS = "upper", "work", "upper.old", "layers"
HOLD_TRIES, HOLD_AGAIN_S = 20, 0.005
NODES = "devices"  # where those that we have made are, in the scratch
SQUASHFS_BLOCK = 4096  # it reads in blocks of its device, of at least 1,024 bytes
KEPT_THERE = frozenset({UPPER, WORK, ASIDE, LAYERS})
OF_KERNEL = frozenset({"work", "index", "incompat"})  # what overlayfs makes in work/ (fs/overlayfs/super.c), directories of mode 000
OF_DISK = "lost+found"


class CloneTree(Step):
    """A detached copy of the mounts at `source`; with `userns_fd`, its files show the jail's ids."""

    stage: ClassVar[str] = "copy the mounts"
    source: str
    at: str
    attributes: int
    userns_fd: int = -1

    def describe(self) -> str:
        mapped = "" if self.userns_fd < 0 else ",ids mapped"
        return f"copy the mounts at {self.source} ({describe_attributes(self.attributes)}{mapped})"

    def execute(self, build: Build) -> None:
        tree_fd = mount.open_tree(mount.AT_FDCWD, self.source)
        build.trees[self.at] = tree_fd
        set_attributes(tree_fd, self.attributes, self.userns_fd, self.source)


def set_attributes(tree_fd: int, attributes: int, userns_fd: int, name: str) -> None:
    """Attributes and, where there is a namespace to map by, the id map. EINVAL where the file system cannot.

    Private, or else what the jail mounts below a shared mount would appear on the host.
    """
    if userns_fd >= 0:
        attributes |= MOUNT_ATTR_IDMAP
    mount.mount_setattr(tree_fd, attributes, recursive=True, is_private=True, userns_fd=max(userns_fd, 0), object_=name)


class MountImage(Step):
    """The file system of an image, detached: as root, by the kernel."""

    stage: ClassVar[str] = "mount the image"
    path: str
    fstype: str
    userns_fd: int
    by_loop: bool

    def describe(self) -> str:
        how = "through a loop device that clears itself" if self.by_loop else "straight from the file"
        mapped = ",ids mapped" if self.userns_fd >= 0 else ""
        return f"mount {self.path} ({self.fstype}, ro,nosuid,nodev{mapped}) {how}"

    def execute(self, build: Build) -> None:
        file_fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        device_fd = -1
        try:
            source = f"/proc/self/fd/{file_fd}"
            if self.by_loop:
                source, device_fd = loop.loop_configure(file_fd, self.path, SQUASHFS_BLOCK if self.fstype == "squashfs" else 0)
            tree_fd = mount.new_mount(self.fstype, {"source": source, "ro": ""}, READ_ONLY)
        except OSError as error:
            if str(error.filename).startswith("/dev/"):
                raise
            cause = "the kernel finds no whole file system in it" if error.errno == errno.EINVAL else error.strerror
            if self.by_loop and os.fstat(file_fd).st_size % loop.SECTOR:
                cause = f"its size is no multiple of {loop.SECTOR} bytes, which a loop device leaves out: mksquashfs without -nopad"
            raise OSError(error.errno, cause, self.path) from None
        finally:
            os.close(file_fd)
            if device_fd >= 0:
                os.close(device_fd)
        build.trees["base"] = tree_fd
        set_attributes(tree_fd, 0, self.userns_fd, self.path)


class HoldImage(Step):
    """A shared lock on the image, held by pid 1 while the jail lives: the store deletes none that is in use."""

    stage: ClassVar[str] = "hold the image"
    path: str

    def describe(self) -> str:
        return f"lock {self.path} (shared)"

    def execute(self, build: Build) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        build.held.append(fd)
        for _ in range(HOLD_TRIES):  # the store looks for users by trying to lock it, for a moment
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                sleep(HOLD_AGAIN_S)
        if not os.fstat(fd).st_nlink:
            raise Fault("cannot use the image", self.path, "it was deleted in this moment", hint=f"ls -l {quote(self.path)}", is_transient=True)
        # Whoever may read it can lock it, and keeps no jail from starting by that: at worst the store deletes what this one has open.


class MakeDevices(Step):
    """Nodes of the jail's own for devices of the host, as root: on a file system of ours, since what /dev is on shows no mapped ids.

    They belong to the real root, so a jail with ids of its own may use them
    (mode 0666) and can neither change nor remove them.
    """

    stage: ClassVar[str] = "make the devices"
    nodes: tuple[tuple[str, int, int], ...]

    def describe(self) -> str:
        shown = [f"{path} ({'b' if stat.S_ISBLK(kind) else 'c'} {os.major(rdev)}:{os.minor(rdev)})" for path, kind, rdev in self.nodes]
        return f"make device nodes on a tmpfs, mode 0666: {' '.join(shown)}"

    def execute(self, build: Build) -> None:
        tree_fd = mount.new_mount("tmpfs", {"mode": "0755", "size": "4k", "nr_inodes": str(len(self.nodes) + 4)}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        build.trees[NODES] = tree_fd
        for number, (path, kind, rdev) in enumerate(self.nodes):
            try:
                os.mknod(str(number), kind | 0o600, rdev, dir_fd=tree_fd)
                os.chmod(str(number), 0o666, dir_fd=tree_fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None


class MakeOverlay(Step):
    """upper/ and work/ in a directory of its own, held by a lock while the jail lives.

    Only its owner may enter it: on the host's disk the jail's files are what
    they are in the jail, set-user-id ones too.
    """

    stage: ClassVar[str] = "make the overlay's directories"
    path: str
    like: str
    layer: str = ""

    def describe(self) -> str:
        return f"make {self.path} (mode 0700) with {self.layer}{UPPER}/ and {self.layer}{WORK}/, and lock it"

    def execute(self, build: Build) -> None:
        umask = os.umask(0o022)  # the caller's may forbid even the owner
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        finally:
            os.umask(umask)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        build.held.append(fd)
        entry = os.fstat(fd)
        if entry.st_uid != os.geteuid():
            raise Fault(
                "cannot use the overlay", self.path, f"it belongs to uid {entry.st_uid}", hint=f"ls -ld {quote(self.path)}  # name another directory, or give this one to uid {os.geteuid()}"
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fault("cannot use the overlay", self.path, "another jail uses it", hint=f"fuser -v {quote(self.path)}  # or name another directory", is_transient=True) from None
        refuse_foreign(fd, self.path)
        if entry.st_mode & 0o077:
            self._close(fd, stat.S_IMODE(entry.st_mode))
        mode = os.stat(self.like).st_mode & 0o7777 if self.like else 0o755
        for name, wanted in ((self.layer + UPPER, mode), (self.layer + WORK, 0o700)):
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), f"{self.path}/{name}") from None
                continue
            os.chmod(name, wanted, dir_fd=fd)

    def _close(self, fd: int, mode: int) -> None:
        """Nobody but its owner may enter; a directory that holds something else is not ours to close."""
        others = sorted(set(os.listdir(fd)) - KEPT_THERE)
        if others:
            cause = f"others may enter it (mode {mode:04o}), and it holds more than an overlay ({others[0]})"
            raise Fault("cannot use the overlay", self.path, cause, hint=f"name a directory of its own: {quote(f'{self.path}/overlay')}")
        os.fchmod(fd, 0o700)


def refuse_foreign(fd: int, path: str) -> None:
    """Fault where the directory is not an overlay's: what is in it would be taken for work/, and overlayfs empties that."""
    foreign = _find_foreign(fd)
    if foreign:
        cause = f"it holds more than an overlay ({foreign})"
        raise Fault("cannot use the overlay", path, cause, hint=f"name a directory of its own: {quote(f'{path}/overlay')}")


def _find_foreign(fd: int) -> str:
    """What no overlay has made; "" where there is nothing, or overlayfs has been at work there."""
    names = set(os.listdir(fd))
    layers = _list(fd, LAYERS) if LAYERS in names else []
    numbers = [name for name in layers if name.isdecimal()]
    found = [_look_at_work(fd, f"{folder}{WORK}") for folder in ("", *(f"{LAYERS}/{number}/" for number in numbers))]
    in_work = next((foreign for foreign, _ in found if foreign), "")
    if in_work or any(is_of_kernel for _, is_of_kernel in found):
        return in_work
    others = sorted(names - KEPT_THERE - {OF_DISK}) if any(_list(fd, name) for name in (UPPER, ASIDE)) else []
    in_layers = [f"{LAYERS}/{name}" for name in layers if not name.isdecimal() and not name.startswith(".new-")]
    return next(iter((*others, *in_layers)), "")


def _look_at_work(fd: int, path: str) -> tuple[str, bool]:
    """(what overlayfs has not made in there, whether it has made something)."""
    names = _list(fd, path)
    made = [name for name in names if name in OF_KERNEL and not os.stat(f"{path}/{name}", dir_fd=fd, follow_symlinks=False).st_mode & 0o777]
    empty = [name for name in names if name in OF_KERNEL and name not in made and not _list(fd, f"{path}/{name}", of_file=name)]
    return next((f"{path}/{name}" for name in sorted(names) if name not in (*made, *empty)), ""), bool(made)


def _list(fd: int, path: str, of_file: str = "") -> list[str]:
    """What is in that directory; `of_file` for what is none, and nothing where it is not there or may not be looked at."""
    try:
        there = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except NotADirectoryError:
        return [of_file] if of_file else []
    except OSError:
        return []
    try:
        return os.listdir(there)
    finally:
        os.close(there)


def can_map(path: str, userns_fd: int, *, recursive: bool = True) -> bool:
    """Whether what is mounted at `path` can show the jail's ids: tried, on a copy that is thrown away."""
    try:
        tree_fd = mount.open_tree(mount.AT_FDCWD, path, recursive=recursive)
    except OSError:
        return False
    try:
        set_attributes(tree_fd, NOSUID_NODEV, userns_fd, path)
    except OSError:
        return False
    finally:
        os.close(tree_fd)
    return True

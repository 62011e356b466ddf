"""The steps that build a jail: values that describe themselves and can be executed.

They run in the jail's builder, after clone3 and before exec, in the order of
the plan. A step raises OSError with the object's name; the builder adds the
stage. Targets inside the jail are found with openat2 below the new root's
descriptor (RESOLVE_IN_ROOT), so a rootfs full of symlinks leads nowhere but
into itself. Nothing here imports at run time.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
from dataclasses import dataclass
from fcntl import ioctl

from ljsv.linux import capabilities, mount, process
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

NOSUID_NODEV = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
PLAIN = NOSUID_NODEV | MOUNT_ATTR_NOEXEC
READ_ONLY = NOSUID_NODEV | MOUNT_ATTR_RDONLY
_ATTRIBUTE_WORDS = (
    (MOUNT_ATTR_RDONLY, "ro"),
    (MOUNT_ATTR_NOSUID, "nosuid"),
    (MOUNT_ATTR_NODEV, "nodev"),
    (MOUNT_ATTR_NOEXEC, "noexec"),
)
EMPTY_DIRECTORY = "empty"
EMPTY_FILE = "nothing"
LINKS_MAX = 40
_AF_INET, _SOCK_DGRAM = 2, 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def describe_attributes(attributes: int) -> str:
    return ",".join(word for bit, word in _ATTRIBUTE_WORDS if attributes & bit) or "rw"


class Build:
    """What steps share while a jail is built: descriptors only."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.scratch_fd = -1
        self.root_fd = -1
        self.proc_fd = -1


class Step:
    """`stage` is what the reader is told when the step fails."""

    stage: ClassVar[str]

    def describe(self) -> str:
        """One line for `explain`."""
        raise NotImplementedError

    def execute(self, build: Build) -> None:
        """Do it. OSError with the object's name."""
        raise NotImplementedError


def open_target(root_fd: int, path: str, *, is_directory: bool, follow: bool, depth: int = 0) -> int:
    """An O_PATH descriptor of `path` below `root_fd`; made, with its parents, where it is missing.

    A symlink that leads nowhere (a distribution's /etc/resolv.conf into /run)
    has what it leads to made.
    """
    resolve = RESOLVE_IN_ROOT | (0 if follow else RESOLVE_NO_SYMLINKS)
    try:
        return _of_kind(mount.openat2(root_fd, path, os.O_PATH, resolve), path, is_directory=is_directory)
    except FileNotFoundError:
        if depth > LINKS_MAX:
            raise
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "is a symlink in the base; it has to be a directory", path) from None
        raise
    parent, _, name = path.rstrip("/").rpartition("/")
    parent_fd = open_target(root_fd, parent or "/", is_directory=True, follow=follow, depth=depth + 1)
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


@dataclass(frozen=True)
class OpenSource(Step):
    """Open what will be bound, while the builder still has the caller's ids."""

    stage = "open"
    path: str

    def describe(self) -> str:
        return f"open {self.path}"

    def execute(self, build: Build) -> None:
        build.sources[self.path] = os.open(self.path, os.O_PATH | os.O_CLOEXEC)


@dataclass(frozen=True)
class MakeScratch(Step):
    """Cut the mounts off from the host's, and put a tmpfs of our own over a place of this namespace."""

    stage = "make a private mount namespace"
    at: str
    directories: tuple[str, ...]

    def describe(self) -> str:
        return f"make all mounts private; tmpfs (scratch) at {self.at}: {' '.join(self.directories)}"

    def execute(self, build: Build) -> None:
        build.proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        build.scratch_fd = mount.new_mount("tmpfs", {"mode": "0755"}, PLAIN & ~MOUNT_ATTR_NOEXEC)
        at_fd = os.open(self.at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.move_mount(build.scratch_fd, at_fd, self.at)
        os.close(at_fd)
        for name in (*self.directories, EMPTY_DIRECTORY):
            os.mkdir(name, 0o755, dir_fd=build.scratch_fd)
        os.mknod(EMPTY_FILE, 0o444, dir_fd=build.scratch_fd)


@dataclass(frozen=True)
class MakeSkeleton(Step):
    """Make the mount points that the base lacks, in a layer of our own below it."""

    stage = "make mount points"
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


@dataclass(frozen=True)
class BindBase(Step):
    """Bring the base in, read-only, below the scratch directory `at`."""

    stage = "bind the base"
    source: str
    at: str

    def describe(self) -> str:
        return f"bind {self.source} (recursive, ro,nosuid,nodev) at scratch:{self.at}"

    def execute(self, build: Build) -> None:
        tree_fd = _clone_tree(build.sources[self.source], READ_ONLY, self.source)
        at_fd = _open_in_scratch(build, self.at)
        mount.move_mount(tree_fd, at_fd, self.source)
        os.close(at_fd)
        os.close(tree_fd)


@dataclass(frozen=True)
class NewRoot(Step):
    """An empty root of our own, for `base = "host"`."""

    stage = "mount the root"

    def describe(self) -> str:
        return "tmpfs (root) at scratch:root"

    def execute(self, build: Build) -> None:
        root_fd = mount.new_mount("tmpfs", {"mode": "0755"}, NOSUID_NODEV)
        at_fd = _open_in_scratch(build, "root")
        mount.move_mount(root_fd, at_fd, "root")
        os.close(at_fd)
        os.close(root_fd)


@dataclass(frozen=True)
class OverlayRoot(Step):
    """The base with layers below (skeleton) and, where it is writable, above (upper)."""

    stage = "mount the overlay"
    writable: bool

    def options(self) -> str:
        upper = ",upperdir=upper,workdir=work" if self.writable else ""
        return f"lowerdir=base:skeleton{upper},userxattr"

    def describe(self) -> str:
        return f"overlay ({self.options()}) at scratch:root"

    def execute(self, build: Build) -> None:
        os.fchdir(build.scratch_fd)
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV  # MS_NOSUID and MS_NODEV are the same bits
        mount.mount("overlay", "root", "overlay", flags, self.options())


@dataclass(frozen=True)
class OpenRoot(Step):
    """Take hold of the new root: every later target is looked up below it."""

    stage = "open the root"

    def describe(self) -> str:
        return "from here on, paths are below scratch:root"

    def execute(self, build: Build) -> None:
        build.root_fd = _open_in_scratch(build, "root")


def _clone_tree(source_fd: int, attributes: int, name: str) -> int:
    tree_fd = mount.open_tree(source_fd, "")
    mount.mount_setattr(tree_fd, attributes, recursive=True, object_=name)
    return tree_fd


@dataclass(frozen=True)
class Bind(Step):
    """Bind something of the host."""

    stage = "bind"
    source: str
    to: str
    attributes: int
    is_directory: bool
    follow: bool = True

    def describe(self) -> str:
        return f"bind {self.source} (recursive, {describe_attributes(self.attributes)}) at {self.to}"

    def execute(self, build: Build) -> None:
        tree_fd = _clone_tree(build.sources[self.source], self.attributes, self.source)
        to_fd = open_target(build.root_fd, self.to, is_directory=self.is_directory, follow=self.follow)
        mount.move_mount(tree_fd, to_fd, f"{self.source} at {self.to}")
        os.close(to_fd)
        os.close(tree_fd)


@dataclass(frozen=True)
class NewMount(Step):
    """A file system of the jail's own."""

    stage = "mount"
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
        to_fd = open_target(build.root_fd, self.to, is_directory=True, follow=self.follow)
        mount.move_mount(mount_fd, to_fd, f"{self.fstype} at {self.to}")
        os.close(to_fd)
        os.close(mount_fd)


@dataclass(frozen=True)
class Cover(Step):
    """Hide a directory or file behind an empty one that is read-only."""

    stage = "cover"
    to: str
    is_directory: bool

    def describe(self) -> str:
        return f"cover {self.to} with an empty {'directory' if self.is_directory else 'file'} (ro)"

    def execute(self, build: Build) -> None:
        name = EMPTY_DIRECTORY if self.is_directory else EMPTY_FILE
        source_fd = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=build.scratch_fd)
        tree_fd = _clone_tree(source_fd, PLAIN | MOUNT_ATTR_RDONLY, name)
        to_fd = open_target(build.root_fd, self.to, is_directory=self.is_directory, follow=False)
        mount.move_mount(tree_fd, to_fd, self.to)
        os.close(to_fd)
        os.close(tree_fd)
        os.close(source_fd)


@dataclass(frozen=True)
class Remount(Step):
    """Make a place that is already there read-only: bound onto itself."""

    stage = "make read-only"
    to: str

    def describe(self) -> str:
        return f"make {self.to} read-only"

    def execute(self, build: Build) -> None:
        to_fd = open_target(build.root_fd, self.to, is_directory=True, follow=False)
        tree_fd = _clone_tree(to_fd, PLAIN | MOUNT_ATTR_RDONLY, self.to)
        mount.move_mount(tree_fd, to_fd, self.to)
        os.close(to_fd)
        os.close(tree_fd)


@dataclass(frozen=True)
class MakeSymlink(Step):
    stage = "make a symlink"
    path: str
    target: str

    def describe(self) -> str:
        return f"symlink {self.path} -> {self.target}"

    def execute(self, build: Build) -> None:
        parent, _, name = self.path.rpartition("/")
        parent_fd = open_target(build.root_fd, parent or "/", is_directory=True, follow=False)
        try:
            os.symlink(self.target, name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)


@dataclass(frozen=True)
class ReadOnlyRoot(Step):
    stage = "make the root read-only"

    def describe(self) -> str:
        return "make / read-only"

    def execute(self, build: Build) -> None:
        mount.mount_setattr(build.root_fd, MOUNT_ATTR_RDONLY, object_="/")


@dataclass(frozen=True)
class SetHostname(Step):
    stage = "set the host name"
    name: str

    def describe(self) -> str:
        return f"host name {self.name}"

    def execute(self, build: Build) -> None:
        process.sethostname(self.name)


@dataclass(frozen=True)
class LoopbackUp(Step):
    stage = "bring up the loopback"

    def describe(self) -> str:
        return "bring up lo"

    def execute(self, build: Build) -> None:
        control_fd = process.socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC)
        ioctl(control_fd, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        os.close(control_fd)


@dataclass(frozen=True)
class Pivot(Step):
    """Make the new root the root, and let go of the old one with the scratch and all the host's mounts."""

    stage = "change the root"
    directory: str

    def describe(self) -> str:
        return f"pivot_root, detach the old root, working directory {self.directory}"

    def execute(self, build: Build) -> None:
        os.fchdir(build.root_fd)
        mount.pivot_root(".", ".")
        mount.umount2(".", mount.MNT_DETACH)
        os.chdir("/")
        os.chdir(self.directory)


@dataclass(frozen=True)
class NewKeyring(Step):
    """Leave the caller's session keyring, with the keys that he may have in it."""

    stage = "leave the session keyring"

    def describe(self) -> str:
        return "session keyring: a new one"

    def execute(self, build: Build) -> None:
        process.join_session_keyring()


@dataclass(frozen=True)
class SetLimits(Step):
    stage = "set a resource limit"
    rlimits: tuple[tuple[int, int], ...]

    def describe(self) -> str:
        names = {value: name for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
        return "resource limits: " + " ".join(f"{names[which]}={value}" for which, value in self.rlimits)

    def execute(self, build: Build) -> None:
        for which, value in self.rlimits:
            _, hard = resource.getrlimit(which)
            try:
                if which == resource.RLIMIT_CORE:
                    resource.setrlimit(which, (value, max(value, hard)) if hard == -1 else (min(value, hard), hard))
                else:
                    resource.setrlimit(which, (value, value))
            except (ValueError, OSError) as error:
                raise OSError(errno.EPERM, f"the hard limit is {hard}", f"limit {which} to {value}") from error


@dataclass(frozen=True)
class SwitchIds(Step):
    """Become the jail's user. `nested`: with one id mapped, a second user namespace shows it as `uid`."""

    stage = "change ids"
    uid: int
    gid: int
    nested: bool

    def describe(self) -> str:
        how = " through a user namespace of its own" if self.nested else ""
        return f"become uid {self.uid}, gid {self.gid}{how}"

    def execute(self, build: Build) -> None:
        if self.nested:
            process.prctl(process.PR_SET_DUMPABLE, 1)
            process.unshare(process.CLONE_NEWUSER)
            for name, text in (("setgroups", "deny"), ("uid_map", f"{self.uid} 0 1"), ("gid_map", f"{self.gid} 0 1")):
                write_at(build.proc_fd, f"self/{name}", text)
            return
        process.prctl(process.PR_SET_KEEPCAPS, 1)
        kept = capabilities.capget_permitted()
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        capabilities.capset(kept, kept)


@dataclass(frozen=True)
class DropBoundingSet(Step):
    stage = "drop capabilities"
    keep: frozenset[int]
    last: int

    def describe(self) -> str:
        return "bounding set: " + (" ".join(capabilities.NAMES[number] for number in sorted(self.keep)) or "empty")

    def execute(self, build: Build) -> None:
        capabilities.drop_bounding_set(self.keep, self.last)


@dataclass(frozen=True)
class ForbidUserNamespaces(Step):
    stage = "forbid user namespaces"

    def describe(self) -> str:
        return "user.max_user_namespaces = 0"

    def execute(self, build: Build) -> None:
        write_at(build.proc_fd, "sys/user/max_user_namespaces", "0")


@dataclass(frozen=True)
class NoNewPrivileges(Step):
    stage = "set no_new_privs"

    def describe(self) -> str:
        return "no_new_privs"

    def execute(self, build: Build) -> None:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


@dataclass(frozen=True)
class SetCapabilities(Step):
    """The permitted and effective sets; empty for any user but the jail's root."""

    stage = "set capabilities"
    keep: frozenset[int]

    def describe(self) -> str:
        return "capabilities: " + (" ".join(capabilities.NAMES[number] for number in sorted(self.keep)) or "none")

    def execute(self, build: Build) -> None:
        mask = sum(1 << number for number in self.keep)
        capabilities.capset(mask, mask)


def write_at(dir_fd: int, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from None
    finally:
        os.close(fd)



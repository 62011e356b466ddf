"""A root directory in memory: what an image will hold, entry by entry; contents stay where they are until the image is written.

Nothing of an archive is ever unpacked onto the host: names are looked up here,
where there is no host to climb to, and ids, modes and links are kept whoever
builds. Hard links are one node in several places. The bounds are checked as
entries come in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ljsv.errors import Fault, quote

FILE, DIRECTORY, LINK, FIFO = "file", "directory", "symlink", "fifo"
COMPONENT_MAX = 255
PATH_MAX = 4095
DEPTH_MAX = 256
LINKS_MAX = 40
TARGET_MAX = 4095
XATTRS_MAX = 64 << 10
ID_MAX = 0xFFFF_FFFE
KEPT_XATTRS = ("user.", "security.capability", "trusted.")
OVERLAY_XATTRS = ("user.overlay.", "trusted.overlay.")


class Content(NamedTuple):
    """Bytes of a file: `data`, or `size` bytes at `offset` of `fd`, or of the file `path` below the directory `fd`."""

    size: int
    fd: int = -1
    offset: int = 0
    path: str = ""
    data: bytes = b""


@dataclass(slots=True, eq=False)
class Node:
    """One entry. `mtime` in whole seconds; `children` of a directory by name."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: str = ""
    content: Content = Content(0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    children: dict[str, Node] = field(default_factory=dict)

    def copied(self) -> Node:
        """The same without its children."""
        return Node(self.kind, self.mode, self.uid, self.gid, self.mtime, self.target, self.content, self.xattrs)


@dataclass(slots=True)
class Budget:
    """What one build may take in; `take` refuses more by name."""

    max_bytes: int = 8 << 30
    max_entries: int = 1_000_000
    taken_bytes: int = 0
    taken_entries: int = 0

    def take(self, name: str, size: int = 0) -> None:
        self.taken_entries += 1
        self.taken_bytes += size
        if self.taken_entries > self.max_entries:
            raise Fault("too many files", name, f"more than {self.max_entries}", hint="--max-files NUMBER allows more")
        if self.taken_bytes > self.max_bytes:
            raise Fault("too large", name, f"more than {self.max_bytes} bytes with it", hint="--max-size SIZE allows more")


def split(name: str, origin: str) -> list[str]:
    """The components of an entry's name; Fault for one that climbs or cannot be."""
    if name.startswith("/") and name.strip("/"):
        raise Fault("will not take in an absolute path", name, origin, hint="make the archive with relative names: tar -C ROOT -cf FILE .")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise Fault("will not take in a path that climbs", name, origin, hint="an entry's name must not have .. in it")
    if len(os.fsencode(name)) > PATH_MAX or len(parts) > DEPTH_MAX or any(len(os.fsencode(part)) > COMPONENT_MAX for part in parts):
        raise Fault("will not take in a path that is too long", f"{name[:80]}...", origin, hint=f"at most {PATH_MAX} bytes, {COMPONENT_MAX} a name, {DEPTH_MAX} deep")
    if "\0" in name:
        raise Fault("will not take in a name with a NUL", name.replace("\0", "\\0"), origin)
    return parts


class Tree:
    """A root directory with its budget; `mtime` is that of directories which nobody has named."""

    def __init__(self, budget: Budget, mtime: int = 0) -> None:
        self.root = Node(DIRECTORY, mtime=mtime)
        self.budget = budget
        self.mtime = mtime

    # ---- looking up

    def find(self, path: str, *, follow: bool = True) -> Node | None:
        """The node at a path of the image, symlinks followed inside it; None where there is none."""
        found = self.locate(path, follow=follow)
        return found[1] if found else None

    def locate(self, path: str, *, follow: bool = True) -> tuple[str, Node] | None:
        """(its real path, the node)."""
        pending = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        at, names = [self.root], list[str]()
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if names:
                    at.pop()
                    names.pop()
                continue
            node = at[-1].children.get(part)
            if node is None:
                return None
            if node.kind == LINK and (pending or follow):
                links += 1
                if links > LINKS_MAX:
                    return None
                if node.target.startswith("/"):
                    at, names = at[:1], []
                pending += [name for name in reversed(node.target.split("/")) if name not in {"", "."}]
                continue
            if pending and node.kind != DIRECTORY:
                return None
            at.append(node)
            names.append(part)
        return "/" + "/".join(names), at[-1]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """(path without a leading slash, node) of everything below the root, a directory before what is in it, in byte order."""
        yield from walk(self.root, "")

    # ---- changing

    def make_directory(self, path: str, origin: str) -> Node:
        """The directory at a path that a person wrote, made (0755, root's) where it is missing; symlinks are followed inside."""
        real: list[str] = []
        for part in [part for part in path.split("/") if part not in {"", "."}]:
            if part == "..":
                real = real[:-1]
                continue
            found = self.locate("/".join([*real, part]))
            if found is None:
                parent = self.find("/".join(real)) if real else self.root
                if parent is None or parent.kind != DIRECTORY or part in parent.children:
                    raise Fault("cannot make a directory in the image", f"/{'/'.join([*real, part])}", "something else is in its way", hint=origin)
                self.budget.take(path)
                parent.children[part] = Node(DIRECTORY, mtime=self.mtime)
                real.append(part)
                continue
            if found[1].kind != DIRECTORY:
                raise Fault("not a directory in the image", found[0], f"it is a {found[1].kind}", hint=origin)
            real = found[0].strip("/").split("/") if found[0] != "/" else []
        node = self.find("/".join(real)) if real else self.root
        assert node is not None
        return node

    def put(self, parts: list[str], node: Node, origin: str, fresh: set[int] | None = None) -> None:
        """Put an archive's entry in its place. `fresh`: nodes of this archive; a symlink among them is never gone through."""
        name = "/".join(parts)
        self.budget.take(name, node.content.size)
        if not parts:
            if node.kind != DIRECTORY:
                raise Fault("the root is not a directory", name or ".", origin)
            _adopt(self.root, node)
            return
        parent = self._parent(parts, origin, fresh)
        there = parent.children.get(parts[-1])
        if there is not None and there.kind == DIRECTORY and node.kind == DIRECTORY:
            _adopt(there, node)
        else:
            parent.children[parts[-1]] = node
            if fresh is not None:
                fresh.add(id(node))

    def _parent(self, parts: list[str], origin: str, fresh: set[int] | None) -> Node:
        node = self.root
        for index, part in enumerate(parts[:-1]):
            name = "/".join(parts[: index + 1])
            inner = node.children.get(part)
            if inner is None:
                self.budget.take(name)
                inner = node.children[part] = Node(DIRECTORY, mtime=self.mtime)
            if inner.kind == LINK:
                found = self.find(name)
                if (fresh is not None and id(inner) in fresh) or found is None or found.kind != DIRECTORY:
                    cause = f"{name} is a symlink to {inner.target}: {origin}"
                    raise Fault("will not take in a path through a symlink", "/".join(parts), cause, hint="an archive whose entries lead through its own symlinks is not to be trusted")
                inner = found
            if inner.kind != DIRECTORY:
                raise Fault("will not take in a path through what is no directory", "/".join(parts), f"{name} is a {inner.kind}: {origin}")
            node = inner
        return node

    def link(self, parts: list[str], target: str, origin: str, fresh: set[int] | None = None) -> None:
        """A hard link to what is there already."""
        target_parts = split(target.lstrip("/"), origin)
        node: Node | None = self.root
        for part in target_parts:
            node = node.children.get(part) if node and node.kind == DIRECTORY else None
        if node is None or node.kind == DIRECTORY:
            cause = f"to {target}, which is {'a directory' if node else 'not there'}: {origin}"
            raise Fault("will not take in a hard link", "/".join(parts), cause, hint="a hard link leads to a file before it in the archive")
        self.budget.take("/".join(parts))
        parent = self._parent(parts, origin, fresh)
        parent.children[parts[-1]] = node

    def remove(self, parts: list[str]) -> None:
        """Take away what a whiteout names; nothing there is fine."""
        found: Node | None = self.root
        for part in parts[:-1]:
            found = found.children.get(part) if found and found.kind == DIRECTORY else None
        if found and found.kind == DIRECTORY and parts:
            found.children.pop(parts[-1], None)

    def clear(self, parts: list[str]) -> None:
        """Empty what an opaque directory hides."""
        node: Node | None = self.root
        for part in parts:
            node = node.children.get(part) if node and node.kind == DIRECTORY else None
        if node and node.kind == DIRECTORY:
            node.children.clear()


def _adopt(directory: Node, said: Node) -> None:
    directory.mode, directory.uid, directory.gid = said.mode, said.uid, said.gid
    directory.mtime, directory.xattrs = said.mtime, said.xattrs


def walk(top: Node, prefix: str) -> Iterator[tuple[str, Node]]:
    """Everything below `top`, in byte order, without recursion."""
    stack: list[Iterator[tuple[str, Node]]] = [_entries(top, prefix)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        yield entry
        if entry[1].kind == DIRECTORY:
            stack.append(_entries(entry[1], f"{entry[0]}/"))


def _entries(node: Node, prefix: str) -> Iterator[tuple[str, Node]]:
    for name in sorted(node.children, key=os.fsencode):
        yield prefix + name, node.children[name]


def copy_tree(node: Node) -> Node:
    """A copy that can be changed by itself; hard links in it stay hard links. Contents are shared."""
    seen: dict[int, Node] = {}
    top = node.copied()
    pending = [(node, top)]
    while pending:
        old, new = pending.pop()
        for name, child in old.children.items():
            made = seen.get(id(child))
            if made is None:
                made = seen[id(child)] = child.copied()
                if child.kind == DIRECTORY:
                    pending.append((child, made))
            new.children[name] = made
    return top


def kept_xattrs(pairs: Iterator[tuple[str, bytes]] | list[tuple[str, bytes]], name: str) -> tuple[tuple[str, bytes], ...]:
    """What an image keeps of them, sorted: an overlay's own would change what a later mount shows."""
    kept = sorted((key, value) for key, value in pairs if key.startswith(KEPT_XATTRS) and not key.startswith(OVERLAY_XATTRS))
    if sum(len(key) + len(value) for key, value in kept) > XATTRS_MAX:
        raise Fault("too many extended attributes", name, f"more than {XATTRS_MAX} bytes")
    return tuple(kept)


# ---- from a directory


class Owners(NamedTuple):
    """How ids on disk become ids in the image: extents (first on disk, first inside, count); what is in none stays as it is."""

    uids: tuple[tuple[int, int, int], ...] = ()
    gids: tuple[tuple[int, int, int], ...] = ()

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        return _translate(self.uids, uid), _translate(self.gids, gid)


def _translate(extents: tuple[tuple[int, int, int], ...], number: int) -> int:
    for outside, inside, count in extents:
        if outside <= number < outside + count:
            return inside + number - outside
    return number


def scan_directory(
    tree: Tree, path: str, owners: Owners | None = None, *, keeps_times: bool = False, is_upper: bool = False, is_left_out: Callable[[str, bool], bool] | None = None
) -> None:
    """Take in a directory of the host, without going through symlinks or into other file systems' devices.

    Whoever owns it is root of the image (`owners` None). Sockets are left
    out; devices are refused. Times are the tree's, or as they are. `is_upper`:
    it is an overlay's, whose whiteouts become those of a layer's archive.
    `is_left_out` is asked for each path, and whether it is a directory.
    """
    top_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # stays open: contents are read through it
    entry = os.fstat(top_fd)
    if owners is None:
        owners = Owners(((entry.st_uid, 0, 1),), ((entry.st_gid, 0, 1),))
    _adopt(tree.root, _node_of(entry, tree, owners, keeps_times=keeps_times))
    seen: dict[tuple[int, int], Node] = {}
    pending: list[tuple[str, Node]] = [("", tree.root)]
    while pending:
        folder, node = pending.pop()
        fd = _open_below(top_fd, folder, path) if folder else os.dup(top_fd)
        try:
            for item in list(os.scandir(fd)):
                name = f"{folder}/{item.name}" if folder else item.name
                entry = item.stat(follow_symlinks=False)
                if is_left_out and is_left_out(name, stat.S_ISDIR(entry.st_mode)):
                    continue
                if is_upper and stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0:
                    node.children[f".wh.{item.name}"] = Node(FILE, 0o644, mtime=tree.mtime)
                    continue
                child = seen.get((entry.st_dev, entry.st_ino)) if entry.st_nlink > 1 else None
                if child is None:
                    child = _scan_entry(tree, top_fd, fd, name, entry, owners, path, keeps_times=keeps_times)
                    if child is None:
                        continue
                    if entry.st_nlink > 1 and child.kind != DIRECTORY:
                        seen[entry.st_dev, entry.st_ino] = child
                tree.budget.take(name, child.content.size)
                node.children[item.name] = child
                if child.kind == DIRECTORY:
                    split(name, path)
                    pending.append((name, child))
                    if is_upper and _is_opaque(f"/proc/self/fd/{fd}/{item.name}"):
                        child.children[".wh..wh..opq"] = Node(FILE, 0o644, mtime=tree.mtime)
        except OSError as error:
            raise Fault.from_os("cannot read", error, f"{path}/{folder}", hint=f"ls -la {quote(f'{path}/{folder}')}") from None
        finally:
            os.close(fd)


def _is_opaque(path: str) -> bool:
    for key in ("user.overlay.opaque", "trusted.overlay.opaque"):
        try:
            if os.getxattr(path, key, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _open_below(top_fd: int, folder: str, path: str) -> int:
    from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

    try:
        return openat2(top_fd, folder, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        raise Fault.from_os("cannot read", error, f"{path}/{folder}", hint=f"ls -ld {quote(f'{path}/{folder}')}  # as root everything can be read") from None


def _node_of(entry: os.stat_result, tree: Tree, owners: Owners, *, keeps_times: bool) -> Node:
    uid, gid = owners.inside(entry.st_uid, entry.st_gid)
    return Node(DIRECTORY, stat.S_IMODE(entry.st_mode), uid, gid, max(0, int(entry.st_mtime)) if keeps_times else tree.mtime)


def _scan_entry(
    tree: Tree, top_fd: int, dir_fd: int, name: str, entry: os.stat_result, owners: Owners, path: str, *, keeps_times: bool
) -> Node | None:
    node = _node_of(entry, tree, owners, keeps_times=keeps_times)
    base = name.rpartition("/")[2]
    kind = stat.S_IFMT(entry.st_mode)
    if kind == stat.S_IFREG:
        node.kind, node.content = FILE, Content(entry.st_size, top_fd, 0, name)
    elif kind == stat.S_IFLNK:
        node.kind, node.mode, node.target = LINK, 0o777, os.readlink(base, dir_fd=dir_fd)
    elif kind == stat.S_IFIFO:
        node.kind = FIFO
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        check_device(name, kind == stat.S_IFCHR, os.major(entry.st_rdev), os.minor(entry.st_rdev), path)
        return None
    elif kind != stat.S_IFDIR:
        return None  # a socket: its server is not in the image
    if node.kind in {FILE, DIRECTORY}:
        at = f"/proc/self/fd/{dir_fd}/{base}"
        names = os.listxattr(at, follow_symlinks=False)
        if names:
            node.xattrs = kept_xattrs([(key, os.getxattr(at, key, follow_symlinks=False)) for key in names if key.startswith(KEPT_XATTRS)], name)
    return node


# The devices that every root directory has; a jail has its own, so an image needs none.
STANDARD_DEVICES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0), "console": (5, 1), "ptmx": (5, 2),
    "pts/ptmx": (5, 2), "fuse": (10, 229), "net/tun": (10, 200), "kmsg": (1, 11),
}


def check_device(name: str, is_character: bool, major: int, minor: int, origin: str) -> None:  # noqa: FBT001
    """Fault for a device node that is none of those which are left out because a jail has its own."""
    place = name.strip("/")
    known = STANDARD_DEVICES.get(place.removeprefix("dev/")) if place.startswith("dev/") else None
    if is_character and (known == (major, minor) or (place.startswith("dev/tty") and major == 4)):
        return
    what = f"{'character' if is_character else 'block'} device {major}:{minor}: {origin}"
    raise Fault("will not take in a device node", name, what, hint="a jail has /dev of its own: leave devices out of the image")

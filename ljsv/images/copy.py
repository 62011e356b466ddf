"""COPY and ADD: entries of one tree into another, as the Dockerfile reference says where they end up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ljsv.errors import Fault
from ljsv.images.ignore import glob_regex
from ljsv.images.tree import DIRECTORY, LINK, Node, Tree, copy_tree, walk

WILD = re.compile(r"[*?\[]")


class Ownership:
    """What --chown and --chmod say; None keeps what is there."""

    def __init__(self, uid: int | None = None, gid: int | None = None, mode: int | None = None) -> None:
        self.uid, self.gid, self.mode = uid, gid, mode

    def give(self, node: Node) -> None:
        node.uid = node.uid if self.uid is None else self.uid
        node.gid = node.gid if self.gid is None else self.gid
        if self.mode is not None and node.kind != LINK:
            node.mode = self.mode

    def give_all(self, top: Node) -> None:
        self.give(top)
        for _, node in walk(top, ""):
            self.give(node)


def find_sources(source: Tree, pattern: str, where: str) -> list[tuple[str, Node]]:
    """(name, node) of what a source names, symlinks followed; wildcards as in Go's path.Match. Fault for nothing."""
    if not WILD.search(pattern):
        found = source.locate(pattern)
        if found is None:
            raise Fault(f"{where}: not found", pattern, "no such file in the context or stage, or .dockerignore leaves it out", hint="ls -a  # in the context, which is what `ljsv image build` was given; paths are below it")
        return [(os.path.basename(pattern.rstrip("/")) if found[1].kind != DIRECTORY else "", found[1])]
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    matches = list(_match(source, source.root, parts, ""))
    if not matches:
        raise Fault(f"{where}: nothing matches", pattern, "no such file in the context or stage, or .dockerignore leaves it out")
    made = []
    for path in matches:
        located = source.locate(path)
        if located:
            made.append((os.path.basename(path) if located[1].kind != DIRECTORY else "", located[1]))
    return made


def _match(source: Tree, node: Node, parts: list[str], prefix: str) -> Iterator[str]:
    rule = re.compile(glob_regex(parts[0]), re.DOTALL)
    for name in sorted(node.children, key=os.fsencode):
        if not rule.fullmatch(name):
            continue
        path = f"{prefix}{name}"
        if len(parts) == 1:
            yield path
            continue
        found = source.find(path)
        if found and found.kind == DIRECTORY:
            yield from _match(source, found, parts[1:], f"{path}/")


def copy_into(target: Tree, sources: list[tuple[str, Node]], place: str, ownership: Ownership, where: str) -> list[Node]:
    """Put them at `place` of the target; the copies, for whoever wants to know their content."""
    there = target.find(place)
    is_folder = place.endswith("/") or len(sources) > 1 or (there is not None and there.kind == DIRECTORY)
    if len(sources) > 1 and not place.endswith("/") and not (there and there.kind == DIRECTORY):
        raise Fault(f"{where}: not a directory", place, f"{len(sources)} files go there", hint=f"write it with a slash at its end: {place}/")
    copies = []
    for name, node in sources:
        copy = copy_tree(node)
        ownership.give_all(copy)
        if node.kind == DIRECTORY:
            _merge(target, target.make_directory(place, where), copy, place, where)
        else:
            folder, base = (place, name) if is_folder else place.rstrip("/").rpartition("/")[::2]
            parent = target.make_directory(folder, where)
            _place(target, parent, base, copy, f"{folder}/{base}", where)
        copies.append(copy)
    return copies


def _merge(target: Tree, into: Node, top: Node, place: str, where: str) -> None:
    """What is in `top` into a directory; directories that both have become one."""
    pending = [(into, top, place.rstrip("/"))]
    while pending:
        old, new, path = pending.pop()
        for name, child in new.children.items():
            inner = old.children.get(name)
            if child.kind == DIRECTORY and inner is not None and inner.kind == LINK:
                inner = target.find(f"{path}/{name}")
            if child.kind == DIRECTORY and inner is not None and inner.kind == DIRECTORY:
                inner.mode, inner.uid, inner.gid, inner.xattrs = child.mode, child.uid, child.gid, child.xattrs
                pending.append((inner, child, f"{path}/{name}"))
            else:
                _place(target, old, name, child, f"{path}/{name}", where)


def _place(target: Tree, parent: Node, name: str, node: Node, path: str, where: str) -> None:
    there = parent.children.get(name)
    if there is not None and there.kind == DIRECTORY and node.kind != DIRECTORY:
        raise Fault(f"{where}: cannot be put there", path, "a directory has that name", hint=f"{path}/ puts it into the directory")
    if there is not None and there.kind == LINK and node.kind != DIRECTORY:
        located = target.locate(path)
        if located and located[1].kind != DIRECTORY:  # the file that it leads to is written
            folder, _, base = located[0].rpartition("/")
            parent, name = target.make_directory(folder, where), base
    target.budget.take(path, node.content.size)
    for below, child in walk(node, f"{path}/"):
        target.budget.take(below, child.content.size)
    parent.children[name] = node


def describe(top: Node) -> Iterator[bytes | tuple[Node, str]]:
    """All of a copied tree that makes it what it is: texts, and the nodes whose bytes belong between them."""
    for path, node in (("", top), *walk(top, "")):
        said = f"{path}\0{node.kind}\0{node.mode:o}\0{node.uid}\0{node.gid}\0{node.mtime}\0{node.target}\0{node.content.size}\0{node.xattrs!r}"
        yield said.encode(errors="surrogateescape")
        if node.content.size:
            yield node, path

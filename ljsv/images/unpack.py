"""A squashfs image back into a tree, with its ids, whoever asks: unsquashfs writes it as a pseudo file.

That is a text with a line for each entry, and behind it the bytes of all files,
which the tree then points at. Version 4.5 leaves extended attributes out: those
of our own images are in the trailer as well. Source: mksquashfs's pseudo file
definitions (README, "Pseudo file support").
"""

from __future__ import annotations

import os
import subprocess
import tempfile

from ljsv.errors import Fault, quote
from ljsv.images.output import find_tool
from ljsv.images.tree import DIRECTORY, FIFO, FILE, LINK, Content, Node, Tree, check_device, split
from ljsv.service.images import SQUASHFS, check_image
from ljsv.service.stored import read_manifest

START_MAX = 256 << 20


def read_image(tree: Tree, path: str, work: str) -> None:
    """Put the content of a squashfs image into the tree. Fault for erofs, and where it is damaged."""
    if check_image(path) != SQUASHFS:
        raise Fault("cannot read files out of an erofs image", path, "there is no tool for it that needs no root", hint="build it as squashfs: ljsv image build INPUT --type squashfs")
    tool = find_tool("unsquashfs", "squashfs-tools")
    fd, pseudo = tempfile.mkstemp(prefix="pseudo-", dir=work)
    os.close(fd)
    os.unlink(pseudo)
    done = subprocess.run([tool, "-quiet", "-no-progress", "-pf", pseudo, path], stdin=subprocess.DEVNULL, capture_output=True, check=False, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"})
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")[:500]
        raise Fault("cannot read the image", path, said or f"unsquashfs: exit {done.returncode}", hint=f"unsquashfs -s {quote(path)}")
    data_fd = os.open(pseudo, os.O_RDONLY | os.O_CLOEXEC)
    os.unlink(pseudo)
    _parse(tree, data_fd, path)
    for name, key, value in read_manifest(path).xattrs:
        node = tree.find(name, follow=False)
        if node:
            node.xattrs = tuple(sorted({*node.xattrs, (key, bytes.fromhex(value))}))


def _parse(tree: Tree, fd: int, path: str) -> None:
    entries: list[tuple[list[bytes], bytes]] = []
    with open(os.dup(fd), "rb") as file:
        size = 0
        for line in file:
            size += len(line)
            if size > START_MAX:
                raise Fault("cannot read the image", path, "its list of files is too long")
            if line.startswith(b"# START OF DATA"):
                start = size + len(file.readline())
                break
            if line.strip() and not line.startswith(b"#"):
                entries.append(_words(line.rstrip(b"\n")))
        else:
            raise Fault("cannot read the image", path, "unsquashfs has not written its files", hint="squashfs-tools 4.5 or newer is needed")
    try:
        for words, rest in entries:
            _take(tree, words, rest, fd, start, path)
    except (IndexError, ValueError) as error:
        raise Fault("cannot read the image", path, f"what unsquashfs says of it is not understood: {error}", hint="squashfs-tools 4.5 or newer is needed") from None


def _words(line: bytes) -> tuple[list[bytes], bytes]:
    """The first seven words, with their backslashes undone, and what follows the sixth one (a symlink's target)."""
    words: list[bytes] = []
    word, at = bytearray(), 0
    rest = b""
    while at < len(line):
        char = line[at : at + 1]
        if char == b"\\" and at + 1 < len(line):
            word += line[at + 1 : at + 2]
            at += 2
            continue
        if char == b" ":
            words.append(bytes(word))
            word = bytearray()
            if len(words) == 6 and not rest:
                rest = line[at + 1 :]
        else:
            word += char
        at += 1
    words.append(bytes(word))
    return words, rest


def _take(tree: Tree, words: list[bytes], rest: bytes, fd: int, start: int, path: str) -> None:
    name, kind = os.fsdecode(words[0]), words[1]
    parts = split(name.lstrip("/"), path)
    if kind == b"L":
        tree.link(parts, os.fsdecode(words[2]), path)
        return
    if kind == b"x":
        return  # extended attributes, from version 4.6 on; the trailer has those of our own images
    node = Node(FILE, int(words[3], 8), int(words[4]), int(words[5]), int(words[2]))
    if kind == b"D":
        node.kind = DIRECTORY
    elif kind == b"S":
        node.kind, node.mode, node.target = LINK, 0o777, os.fsdecode(rest)
    elif kind == b"I":
        if words[6][:1] == b"s":
            return
        node.kind = FIFO
    elif kind == b"R":
        node.content = Content(int(words[6]), fd, start + int(words[7]))
    elif kind in {b"B", b"C"}:
        check_device(name, kind == b"C", int(words[6]), int(words[7]), path)
        return
    elif kind != b"F":
        raise ValueError(f"type {kind!r}")
    tree.put(parts, node, path)

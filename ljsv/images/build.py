"""Building an image from what people have: what the input is, its tree, the file, the store. One function for each kind of input."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field

from ljsv.errors import Fault, quote
from ljsv.images.archive import Times, apply_archive, open_tar
from ljsv.images.layout import Foreign, apply_layers, layout_kind, read_layout, spool_in
from ljsv.images.output import COMPRESSIONS, append_manifest, list_xattrs, write_image
from ljsv.images.progress import Progress
from ljsv.images.store import Store
from ljsv.images.tree import Budget, Owners, Tree, scan_directory
from ljsv.service.images import SQUASHFS, check_image, image_type
from ljsv.service.stored import Defaults, Manifest, StoredImage, parse_name, read_manifest

DOCKERFILE_NAMES = ("Dockerfile", "Containerfile")
ROOT_NAMES = ("bin", "usr", "etc", "sbin", "lib")
EPOCH_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was asked for. `epoch` is SOURCE_DATE_EPOCH, None where it is not set."""

    source: str
    output: str = ""
    names: tuple[str, ...] = ()
    kind: str = SQUASHFS
    compression: str = "zstd"
    level: str = ""
    epoch: int | None = None
    max_bytes: int = 8 << 30
    max_entries: int = 1_000_000
    selected: str = ""
    keeps_times: bool = False
    is_plain: bool = False
    dockerfile: str = ""
    target: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    network: str = "none"
    uses_cache: bool = True


@dataclass
class Made:
    """A tree, and what its image will say of itself."""

    tree: Tree
    defaults: Defaults = field(default_factory=Defaults)
    base: str = ""
    history: tuple[str, ...] = ()


def read_epoch(environ: dict[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH, None where it is not set. Fault where it is no time."""
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= EPOCH_MAX):
        raise Fault("not a time", "SOURCE_DATE_EPOCH", text, hint="SOURCE_DATE_EPOCH=$(date +%s)")
    return int(text)


def build(wish: Wish, store: Store, progress: Progress) -> StoredImage:
    """Build the image, and put it into the store or into a file. Nothing is left when it fails or is interrupted."""
    for name in wish.names:
        parse_name(name)
    if wish.compression not in COMPRESSIONS:
        raise Fault("no such compression", wish.compression, "", hint=f"one of {', '.join(COMPRESSIONS)}")
    folder = os.path.dirname(os.path.abspath(wish.output)) if wish.output else ""
    if folder and not os.path.isdir(folder):
        raise Fault("cannot write the image", wish.output, f"there is no directory {folder}", hint=f"mkdir -p {quote(folder)}")
    if wish.output and os.path.isdir(wish.output):
        raise Fault("cannot write the image", wish.output, "it is a directory", hint=f"-o {quote(wish.output.rstrip('/') + '/image.' + wish.kind)}")
    with store.workspace(folder) as work:
        spool_in(work)
        made = make_tree(wish, store, work, progress)
        path = f"{work}/image.{wish.kind}"
        total = made.tree.budget.taken_bytes
        progress.step(f"writing {wish.kind} ({wish.compression})")
        write_image(
            made.tree, path, kind=wish.kind, compression=wish.compression, level=wish.level, epoch=wish.epoch or 0,
            tell=lambda done: progress.tell(done, total),
        )
        append_manifest(path, Manifest(made.defaults, made.base, made.history, list_xattrs(made.tree)))
        progress.end()
        if not wish.output:
            return store.add(path, wish.names)
        os.chmod(path, 0o644)
        from ljsv.images.store import digest_of, sync_file

        digest = digest_of(path)
        os.rename(path, wish.output)
        sync_file(folder)
        return StoredImage(digest, os.path.abspath(wish.output))


def import_image(path: str, names: tuple[str, ...], store: Store) -> StoredImage:
    """Take an image file into the store as it is, with what it says of itself."""
    with store.workspace() as work:
        copy = f"{work}/image"
        shutil.copyfile(path, copy)
        check_image(copy)
        read_manifest(copy)
        return store.add(copy, names)


def make_tree(wish: Wish, store: Store, work: str, progress: Progress) -> Made:
    """What the input is, by its content, and the tree that it makes."""
    try:
        entry = os.stat(wish.source)
    except OSError as error:
        raise Fault.from_os("cannot read the input", error, wish.source, hint="a directory, a tar, an OCI layout, a docker save archive or a Dockerfile") from None
    dockerfile = wish.dockerfile or _dockerfile_of(wish, is_directory=stat.S_ISDIR(entry.st_mode))
    if dockerfile:
        from ljsv.images.stages import build_dockerfile

        if not os.path.isfile(dockerfile):
            raise Fault("cannot read the Dockerfile", dockerfile, "there is no such file here", hint=f"ls {quote(os.path.dirname(dockerfile) or '.')}")
        return build_dockerfile(wish, dockerfile, store, work, progress)
    return read_input(wish, wish.source, store, work, progress)


def _dockerfile_of(wish: Wish, *, is_directory: bool) -> str:
    """The Dockerfile that the input is, or holds where it is no root directory itself."""
    base = os.path.basename(wish.source)
    if wish.is_plain:
        return ""
    if is_directory:
        inside = next((name for name in DOCKERFILE_NAMES if os.path.isfile(f"{wish.source}/{name}")), "")
        return f"{wish.source}/{inside}" if inside and not any(os.path.lexists(f"{wish.source}/{name}") for name in ROOT_NAMES) else ""
    named = base.startswith(DOCKERFILE_NAMES) or base.lower().endswith((".dockerfile", ".containerfile"))
    return wish.source if named else ""


def read_input(wish: Wish, source: str, store: Store, work: str, progress: Progress) -> Made:
    """A directory, a tar, or an image of another tool's."""
    times = Times(wish.epoch)
    tree = Tree(Budget(wish.max_bytes, wish.max_entries), wish.epoch or 0)
    shown = os.path.basename(os.path.abspath(source))
    progress.step(f"reading {shown}")
    if os.path.isdir(source):
        _scan(tree, source, keeps_times=wish.keeps_times)
        if layout_kind(tree):
            return _from_layout(wish, tree, source, work, progress)
        return Made(tree, history=("from a directory",))
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Fault("cannot read the input", source, "neither a directory nor a file", hint=f"ls -l {quote(source)}")
    if image_type(os.pread(fd, 2048, 0)):
        raise Fault("cannot build from it", source, "it is an image already", hint=f"ljsv image import {quote(source)} -t NAME")
    tar_fd = open_tar(fd, shown, work, tree.budget, progress.tell)
    apply_archive(tree, tar_fd, shown, work, times)
    if layout_kind(tree):
        return _from_layout(wish, tree, source, work, progress)
    return Made(tree, history=("from a tar archive",))


def _scan(tree: Tree, source: str, *, keeps_times: bool) -> None:
    top = os.stat(source)
    uids, gids = [(top.st_uid, 0, 1)], [(top.st_gid, 0, 1)]
    if os.geteuid():
        from ljsv.jail.ids import subordinate_range

        try:
            ids = subordinate_range(os.geteuid(), os.getegid())
            uids += [(outside, first, count) for first, outside, count in ids.uids if first]
            gids += [(outside, first, count) for first, outside, count in ids.gids if first]
        except Fault:
            pass  # he has none: then no file of his is another id's
    scan_directory(tree, source, Owners(tuple(uids), tuple(gids)), keeps_times=keeps_times)


def _from_layout(wish: Wish, layout: Tree, source: str, work: str, progress: Progress) -> Made:
    foreign: Foreign = read_layout(layout, source, wish.selected)
    tree = Tree(Budget(wish.max_bytes, wish.max_entries), wish.epoch or 0)
    apply_layers(tree, layout, foreign, work, Times(wish.epoch), progress.step)
    return Made(tree, foreign.defaults, history=foreign.history)

"""Images of other tools into a tree: an OCI layout (a directory or a tar of one) and a `docker save` archive.

The layout itself is read as a tree, so that links in it lead nowhere but into
it. Every blob's digest is checked. Sources: the OCI image specification's
image-layout.md, manifest.md and image-index.md; `docker save`'s manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from ljsv.errors import Fault
from ljsv.images.archive import Times, apply_archive, open_tar
from ljsv.images.config import defaults_of, history_of, machine
from ljsv.images.output import open_content, read_content
from ljsv.images.tree import FILE, Content, Node, Tree
from ljsv.service.stored import Defaults

JSON_MAX = 16 << 20
LAYERS_MAX = 500
INDEX_DEPTH_MAX = 4
MANIFESTS_MAX = 1000
OCI, DOCKER = "OCI layout", "docker save archive"
REF = "org.opencontainers.image.ref.name"
CHUNK = 1 << 20
Tell = Callable[[str], None]


class Foreign(NamedTuple):
    """What such an image says of itself, and where its layers are: (blob, digest of what it unpacks to or "")."""

    defaults: Defaults
    history: tuple[str, ...]
    layers: tuple[tuple[str, str], ...]


def layout_kind(tree: Tree) -> str:
    """OCI, DOCKER, or "" for anything else."""
    if tree.find("oci-layout") and tree.find("index.json"):
        return OCI
    return DOCKER if tree.find("manifest.json") and not tree.find("etc") else ""


def read_layout(tree: Tree, origin: str, selected: str = "") -> Foreign:
    """The image of a layout; where it holds several, the one that is `selected` by its name."""
    return _read_oci(tree, origin, selected) if layout_kind(tree) == OCI else _read_docker(tree, origin, selected)


def apply_layers(target: Tree, layout: Tree, foreign: Foreign, work: str, times: Times, tell: Tell) -> None:
    """Put the layers into a tree, the lowest first."""
    for number, (blob, diff_id) in enumerate(foreign.layers, 1):
        tell(f"layer {number} of {len(foreign.layers)}")
        fd = open_blob(layout, blob)
        plain_fd = open_tar(fd, blob, work, target.budget)
        if plain_fd != fd:
            os.close(fd)
        if diff_id:
            _check_digest(Content(os.fstat(plain_fd).st_size, plain_fd), diff_id, f"layer {blob}")
        apply_archive(target, plain_fd, blob, work, times, is_layer=True)


def open_blob(layout: Tree, path: str) -> int:
    """A descriptor of its own for a blob, from its first byte to its last."""
    node = _file(layout, path)
    fd = open_content(node.content, path)
    if node.content.path:
        return fd
    out_fd = os.memfd_create("blob", os.MFD_CLOEXEC) if node.content.size <= CHUNK else _spool()
    at, end = node.content.offset, node.content.offset + node.content.size
    if fd < 0:
        os.write(out_fd, node.content.data)
    while fd >= 0 and at < end and (count := os.sendfile(out_fd, fd, at, end - at)):
        at += count
    return out_fd


def _spool() -> int:
    import tempfile

    fd, path = tempfile.mkstemp(prefix="ljsv-blob-", dir=_spool_directory[0] if _spool_directory else None)
    os.unlink(path)
    return fd


_spool_directory: list[str] = []


def spool_in(work: str) -> None:
    """Large blobs are copied into this workspace from now on."""
    _spool_directory[:] = [work]


def _file(layout: Tree, path: str) -> Node:
    node = layout.find(path)
    if node is None or node.kind != FILE:
        raise Fault("the image is not whole", path, "no such file in it" if node is None else f"it is a {node.kind}", hint="fetch or save it again")
    return node


def _json(layout: Tree, path: str) -> Any:
    try:
        return json.loads(read_content(_file(layout, path).content, path, JSON_MAX))
    except (ValueError, RecursionError) as error:
        raise Fault("the image is damaged", path, f"not JSON: {error}", hint="fetch or save it again") from None


def _check_digest(content: Content, digest: str, name: str) -> None:
    algorithm, _, wanted = digest.partition(":")
    if algorithm not in {"sha256", "sha512"} or not wanted:
        raise Fault("the image cannot be checked", name, f"its digest is {digest[:80]!r}", hint="sha256 and sha512 are known")
    state = hashlib.new(algorithm)
    fd = open_content(content, name)
    try:
        at, end = content.offset, content.offset + content.size
        if fd < 0:
            state.update(content.data)
        while fd >= 0 and at < end and (chunk := os.pread(fd, min(CHUNK, end - at), at)):
            state.update(chunk)
            at += len(chunk)
    finally:
        if content.path:
            os.close(fd)
    if state.hexdigest() != wanted:
        raise Fault("the image is damaged", name, f"it should be {digest}, and is {algorithm}:{state.hexdigest()}", hint="fetch or save it again")


# ---- OCI


def _blob(layout: Tree, descriptor: Any, what: str) -> str:
    """The path of what a descriptor names, checked."""
    digest = descriptor["digest"]
    algorithm, _, name = str(digest).partition(":")
    if not (algorithm.isalnum() and name.isalnum()):
        raise Fault("the image is damaged", what, f"not a digest: {str(digest)[:80]!r}")
    path = f"blobs/{algorithm}/{name}"
    _check_digest(_file(layout, path).content, digest, path)
    return path


def _read_oci(layout: Tree, origin: str, selected: str) -> Foreign:
    try:
        manifest = _choose(layout, _json(layout, "index.json")["manifests"], origin, selected, 0)
        config = _json(layout, _blob(layout, manifest["config"], "config"))
        diff_ids = list((config.get("rootfs") or {}).get("diff_ids") or ())
        layers = manifest["layers"]
        if len(layers) > LAYERS_MAX:
            raise Fault("too many layers", origin, f"{len(layers)}, at most {LAYERS_MAX}")
        blobs = [_blob(layout, layer, "layer") for layer in layers]
        ids = diff_ids if len(diff_ids) == len(blobs) else [""] * len(blobs)
        return Foreign(defaults_of(config.get("config") or {}, origin), history_of(config), tuple(zip(blobs, map(str, ids), strict=True)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Fault("the image is damaged", origin, f"its index or manifest lacks {error}", hint="fetch or save it again") from None


def _choose(layout: Tree, manifests: Any, origin: str, selected: str, depth: int) -> Any:
    """The manifest that was selected by name, or is for this machine, or is the only one; indexes lead on to others."""
    found = [item for item in manifests[:MANIFESTS_MAX] if (item.get("annotations") or {}).get("vnd.docker.reference.type") != "attestation-manifest"]
    if selected and depth == 0:
        found = [item for item in found if selected in _refs(item)]
    if len(found) > 1:
        here = [item for item in found if (item.get("platform") or {}).get("architecture") == machine()]
        found = here or found
    if len(found) != 1:
        known = ", ".join(sorted({ref for item in manifests[:MANIFESTS_MAX] for ref in _refs(item)})) or "no names"
        what = "no such image" if not found else f"{len(found)} images"
        raise Fault("cannot choose the image", origin, f"{what} in it: {known}", hint="--select NAME takes one of them")
    descriptor = found[0]
    document = _json(layout, _blob(layout, descriptor, "manifest"))
    if "manifests" in document:
        if depth >= INDEX_DEPTH_MAX:
            raise Fault("the image is damaged", origin, "its indexes are nested too deep")
        return _choose(layout, document["manifests"], origin, "", depth + 1)
    return document


def _refs(item: Any) -> set[str]:
    annotations = item.get("annotations") or {}
    return {str(annotations[key]) for key in (REF, "io.containerd.image.name") if annotations.get(key)}


# ---- docker save


def _read_docker(layout: Tree, origin: str, selected: str) -> Foreign:
    try:
        images = _json(layout, "manifest.json")
        found = [item for item in images if not selected or selected in (item.get("RepoTags") or ())]
        if len(found) != 1:
            known = ", ".join(tag for item in images for tag in item.get("RepoTags") or ()) or "no names"
            raise Fault("cannot choose the image", origin, f"{len(found) or 'no such'} image{'s' * (len(found) > 1)} in it: {known}", hint="--select NAME takes one of them")
        config = _json(layout, found[0]["Config"])
        layers = [str(layer) for layer in found[0]["Layers"]]
        if len(layers) > LAYERS_MAX:
            raise Fault("too many layers", origin, f"{len(layers)}, at most {LAYERS_MAX}")
        diff_ids = (config.get("rootfs") or {}).get("diff_ids") or [""] * len(layers)
        return Foreign(defaults_of(config.get("config") or {}, origin), history_of(config), tuple(zip(layers, map(str, diff_ids), strict=True)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Fault("the image is damaged", origin, f"manifest.json or its configuration: {error}", hint="save it again") from None

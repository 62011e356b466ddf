"""An image for other tools: a tar of its files, or an OCI layout (a directory) of one layer. The same image gives the same bytes.

Source: the OCI image specification's image-layout.md and manifest.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from typing import Any

from ljsv.errors import Fault, quote
from ljsv.images.config import config_of
from ljsv.images.layout import REF
from ljsv.images.output import write_tar
from ljsv.images.store import sync_file
from ljsv.images.tree import Budget, Tree
from ljsv.images.unpack import read_image
from ljsv.service.stored import Manifest, StoredImage, read_manifest

CHUNK = 1 << 20
GZIP_LEVEL = 6
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
UNLIMITED = Budget(1 << 62, 1 << 40)


def export_tar(image: StoredImage, target: str, work: str) -> None:
    """Its files as a tar at `target` ("-": standard output), which appears whole."""
    tree = _tree_of(image, work)
    if target == "-":
        write_tar(tree, 1)
        return
    path = f"{work}/export.tar"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_tar(tree, fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path, target)


def export_oci(image: StoredImage, target: str, work: str) -> None:
    """An OCI layout at `target`, a directory that must not exist, and appears whole."""
    if os.path.lexists(target):
        raise Fault("cannot export the image", target, "it is there already", hint=f"ls -lA {quote(target)}  # delete it if nobody needs it, or name a new directory")
    manifest = read_manifest(image.path)
    layout = tempfile.mkdtemp(prefix="oci-", dir=work)
    os.makedirs(f"{layout}/blobs/sha256")
    layer, diff_id = _write_layer(layout, _tree_of(image, work), work)
    config = _write_json(layout, config_of(manifest, diff_id, _created(manifest)), CONFIG_TYPE)
    described = _write_json(layout, {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer]}, MANIFEST_TYPE)
    described["annotations"] = {REF: image.name.rpartition(":")[2] or "latest"}
    _write(f"{layout}/index.json", {"schemaVersion": 2, "manifests": [described]})
    _write(f"{layout}/oci-layout", {"imageLayoutVersion": "1.0.0"})
    os.chmod(layout, 0o755)
    os.rename(layout, target)
    sync_file(os.path.dirname(os.path.abspath(target)))


def _tree_of(image: StoredImage, work: str) -> Tree:
    tree = Tree(UNLIMITED)
    read_image(tree, image.path, work)
    return tree


def _created(_manifest: Manifest) -> str:
    """A time that says nothing: SOURCE_DATE_EPOCH, or the first second of all."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch) if epoch.isascii() and epoch.isdigit() else 0))


def _write_layer(layout: str, tree: Tree, work: str) -> tuple[dict[str, Any], str]:
    """(descriptor of the packed layer, digest of what it unpacks to)."""
    plain_fd, plain = tempfile.mkstemp(prefix="layer-", dir=work)
    os.unlink(plain)
    packed_fd, packed = tempfile.mkstemp(prefix="layer-", dir=work)
    try:
        write_tar(tree, plain_fd)
        os.lseek(plain_fd, 0, os.SEEK_SET)
        diff, blob, size = hashlib.sha256(), hashlib.sha256(), 0
        packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
        while True:
            chunk = os.read(plain_fd, CHUNK)
            diff.update(chunk)
            data = packer.compress(chunk) if chunk else packer.flush()
            blob.update(data)
            size += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(packed_fd, view) :]
            if not chunk:
                break
        os.fchmod(packed_fd, 0o644)
        os.fsync(packed_fd)
    finally:
        os.close(plain_fd)
        os.close(packed_fd)
    shutil.move(packed, f"{layout}/blobs/sha256/{blob.hexdigest()}")
    return {"mediaType": LAYER_TYPE, "digest": f"sha256:{blob.hexdigest()}", "size": size}, f"sha256:{diff.hexdigest()}"


def _write_json(layout: str, value: dict[str, Any], media_type: str) -> dict[str, Any]:
    data = _encode(value)
    digest = hashlib.sha256(data).hexdigest()
    _write(f"{layout}/blobs/sha256/{digest}", value)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogateescape")


def _write(path: str, value: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        file.write(_encode(value))

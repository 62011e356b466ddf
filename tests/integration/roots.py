"""Root directories and images for stories."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, need

APPLETS = (
    "sh", "sleep", "id", "cat", "ls", "touch", "mount", "grep", "echo", "env", "rm", "mkdir", "rmdir", "mv", "chmod", "chown", "stat",
    "tty", "stty", "true", "test", "dd", "kill", "ps", "find", "wc", "md5sum", "hostname", "ln", "cp", "printf", "seq",
)


def small_root(tree: Tree, *missing: str) -> Path:
    """A root directory with busybox; `missing` mount points are left out."""
    root = tree.staging / "root"
    for name in {"bin", "dev", "proc", "tmp", "run", "etc"} - set(missing):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nweb:x:33:34:web:/tmp:/bin/sh\n")
    tree.own(root)
    return root


def make_image(tree: Tree, kind: str = "squashfs", *missing: str) -> Path:
    """An image of a small root, readable by everybody; its files are root's, and made as root one is uid 33's."""
    root = small_root(tree, *missing)
    (root / "data").mkdir()
    (root / "web").mkdir()
    (root / "data/file").write_text("content\n")
    (root / "web/file").write_text("web\n")
    (root / "web/file").chmod(0o640)
    image = tree.root / f"root.{kind}"
    all_root = [] if os.geteuid() == 0 else ["-all-root" if kind == "squashfs" else "--all-root"]
    if os.geteuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, 0, 0, follow_symlinks=False)
        os.chown(root / "web/file", 33, 34)
    if kind == "squashfs":
        need("mksquashfs")
        subprocess.run(
            ["mksquashfs", str(root), str(image), "-noappend", "-quiet", "-no-progress", *all_root], check=True, capture_output=True
        )
    else:
        need("mkfs.erofs")
        subprocess.run(["mkfs.erofs", *all_root, str(image), str(root)], check=True, capture_output=True)
    image.chmod(0o644)
    shutil.rmtree(root)
    return image


def require_image_mount(tree: Tree, kind: str = "squashfs") -> None:
    """Skip where this kernel or user cannot mount such an image, naming what is missing."""
    if kind == "erofs":
        if tree.uid:
            pytest.skip("erofs in a user namespace: not possible with any kernel")
        if "\terofs" not in Path("/proc/filesystems").read_text():
            subprocess.run(["modprobe", "-q", "erofs"], check=False)
            if "\terofs" not in Path("/proc/filesystems").read_text():
                pytest.skip("this kernel has no erofs")
    elif is_served(tree):
        need("squashfuse_ll")
        tree.open_fuse()


def is_served(tree: Tree) -> bool:
    """Whether a squashfs image of this user's is served by squashfuse: the kernel cannot mount it, or not map its ids."""
    return bool(tree.uid) or kernel_version() < (6, 2)


def kernel_version() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))

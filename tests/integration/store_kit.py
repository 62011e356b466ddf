"""Images in a tree's store, for stories."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import Tree


def own_store(tree: Tree) -> Path:
    """Where the tree's user keeps images; stories give even root a store of the tree's own."""
    return Path(tree.env["LJSV_IMAGES"])


def use_store(tree: Tree) -> None:
    """A store of the tree's own, for root too."""
    tree.env["LJSV_IMAGES"] = str(tree.home / "images")


def store_image(tree: Tree, image: Path, name: str, **defaults: object) -> str:
    """Put an image file into the tree's store under a name, with these defaults; its digest."""
    use_store(tree)
    copy = tree.root / f"{name.replace(':', '-')}.image"
    shutil.copy(image, copy)
    tree.own(copy)
    script = (
        "import sys\n"
        "from ljsv.images.store import open_store\n"
        "from ljsv.service.stored import Defaults, HealthCheck, Manifest, make_trailer\n"
        f"defaults = Defaults(**{defaults!r})\n"
        f"path = {str(copy)!r}\n"
        "import os\n"
        "size = os.stat(path).st_size\n"
        "with open(path, 'ab') as file:\n"
        "    pad = -size % 4096\n"
        "    file.write(bytes(pad) + make_trailer(Manifest(defaults), size + pad))\n"
        "store = open_store()\n"
        "with store.workspace() as work:\n"
        "    os.rename(path, work + '/image')\n"
        f"    print(store.add(work + '/image', ({name!r},)).digest)\n"
    )
    done = tree.run(str(tree.programs / "python"), "-I", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

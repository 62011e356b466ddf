"""A store of the tree's own in every story, and FUSE where images are mounted."""

from __future__ import annotations

import pytest

from tests.conftest import Tree, need
from tests.integration.store_kit import use_store


@pytest.fixture(autouse=True)
def _store(tree: Tree) -> None:
    need("mksquashfs", "unsquashfs")
    use_store(tree)

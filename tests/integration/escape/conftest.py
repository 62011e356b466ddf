"""The jail that is attacked: for each user with the seccomp filter and without."""

from __future__ import annotations

import pytest

from tests.conftest import Tree
from tests.integration.escape.jail import Jail


@pytest.fixture(params=["default", "off"], ids=["filter", "no-filter"])
def jail(tree: Tree, request: pytest.FixtureRequest) -> Jail:
    return Jail(tree, request.param)


@pytest.fixture
def open_jail(tree: Tree) -> Jail:
    """Without the filter: where the answer must not depend on it, and the weaker jail says enough."""
    return Jail(tree, "off")

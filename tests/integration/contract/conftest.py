"""The measure: what real runsv does, played once for all tests of a session."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OTHER_UID, make_tree, need
from tests.integration.contract.driver import Measure


@pytest.fixture(scope="session")
def measure(programs: Path) -> Iterator[Measure]:
    need("runsv", "sv", "svstat", "svok", "svc", "svlogd", "chpst", "runsvdir")
    uid = OTHER_UID if os.geteuid() == 0 else os.geteuid()
    with contextlib.contextmanager(make_tree)(programs, uid, False) as tree:
        yield Measure(tree)

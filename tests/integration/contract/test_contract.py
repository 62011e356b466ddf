"""The contract, proven by difference: the same scenario in real runit and in ljsv, and what is different is a named entry of INTENDED."""

from __future__ import annotations

import pytest

from tests.conftest import Tree
from tests.integration.contract.driver import Measure, compare_group
from tests.integration.contract.intended import INTENDED
from tests.integration.contract.scenarios import GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_ljsv_does_as_runit_does(tree: Tree, measure: Measure, group: str) -> None:
    """Files, clients, signals and what the service sees are the same, less what INTENDED says."""
    problems = compare_group(tree, measure, group)
    assert not problems, "\n".join([f"{len(problems)} differences", *problems])


def test_every_intended_difference_has_a_scenario() -> None:
    """An entry that nothing can use is not true."""
    names = {scenario.name for scenarios in GROUPS.values() for scenario in scenarios()}
    unused = [f"{entry.name}: {where}" for entry in INTENDED for where, _key in entry.cases if where not in names]
    assert not unused
    assert all(entry.cases and entry.reason for entry in INTENDED)

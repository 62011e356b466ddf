"""Plays a group of scenarios in runit, once a session, and in ljsv, and compares what both have shown."""

from __future__ import annotations

from collections.abc import Mapping

from tests.conftest import Tree
from tests.integration.contract.intended import compare, expect
from tests.integration.contract.peers import Ljsv, Peer, Runit
from tests.integration.contract.scenarios import GROUPS
from tests.integration.contract.steps import Case, ask_clients, play_all

Results = dict[str, dict[str, str]]


class Measure:
    """Plays a group of scenarios in runit when it is asked for the first time."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.known: dict[str, Results] = {}

    def results(self, group: str) -> Mapping[str, Mapping[str, str]]:
        if group not in self.known:
            peer = Runit(self.tree, f"runit.{group}")
            try:
                self.known[group] = play_group(peer, group, None)
            finally:
                peer.close()
        return self.known[group]


def play_group(peer: Peer, group: str, expected: Mapping[str, Mapping[str, str]] | None) -> Results:
    """What every scenario of the group shows in that peer."""
    cases = [Case(peer, scenario, expected[scenario.name] if expected is not None else None) for scenario in GROUPS[group]()]
    play_all(cases)
    answers = ask_clients(peer, [case.name for case in cases])
    return {case.name: case.results | {"clients": answers[case.name]} for case in cases}


def compare_group(tree: Tree, measure: Measure, group: str) -> list[str]:
    """Play the group in ljsv, and say what is not as it has to be."""
    measured = measure.results(group)
    expected = {name: expect(name, results) for name, results in measured.items()}
    peer = Ljsv(tree)
    try:
        shown = play_group(peer, group, expected)
    finally:
        peer.close()
    stuck = [f"runit itself: {name}: {results['stuck']}" for name, results in measured.items() if "stuck" in results]
    return stuck + [problem for name, results in measured.items() for problem in compare(name, results, shown[name])]

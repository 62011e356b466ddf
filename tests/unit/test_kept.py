"""What is kept of services by name: it follows each, in whatever order they learn of their names, and nothing is lost."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ljsv.linux import files
from ljsv.supervise.directory import format_identity
from ljsv.supervise.kept import Kept, read_owner

NAMES = ("a", "b", "c")


class Scan:
    """Service directories and what is kept of each."""

    def __init__(self, root: Path) -> None:
        self.sv, self.state = root / "sv", root / "state"
        self.sv.mkdir()
        self.kept = Kept(str(self.sv), str(self.state))
        self.known: dict[str, str] = {}  # identity: the name that its supervisor knows

    def identity(self, name: str) -> str:
        fd = os.open(self.sv / name, os.O_RDONLY)
        try:
            return format_identity(files.read_identity(fd))
        finally:
            os.close(fd)

    def add(self, name: str) -> str:
        (self.sv / name).mkdir()
        identity = self.identity(name)
        self.known[identity] = name
        self.kept.claim(identity, name, is_made=True)
        (self.state / name / "data").write_text(identity)
        return identity

    def learn(self, identity: str) -> str:
        """Its supervisor looks at its name; what is put aside for that."""
        name = next(name for name in os.listdir(self.sv) if self.identity(name) == identity)
        before, self.known[identity] = self.known[identity], name
        return self.kept.rename(identity, before, name) if name != before else self.kept.claim(identity, name)

    def data(self, name: str) -> str:
        return (self.state / name / "data").read_text()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(to=st.permutations(NAMES), order=st.permutations(range(3)))
def test_names_that_change_hands(tmp_path_factory: pytest.TempPathFactory, to: list[str], order: list[int]) -> None:
    """Whoever hears of it first."""
    scan = Scan(tmp_path_factory.mktemp("kept"))
    identities = [scan.add(name) for name in NAMES]
    for name in NAMES:
        (scan.sv / name).rename(scan.sv / f"{name}.new")
    for name, new in zip(NAMES, to, strict=True):
        (scan.sv / f"{name}.new").rename(scan.sv / new)
    for number in order:
        scan.learn(identities[number])
    assert {name: scan.data(name) for name in NAMES} == dict(zip(to, identities, strict=True))
    assert not [entry for entry in os.listdir(scan.state) if entry.startswith(".")]


def test_a_new_service_under_a_name_that_another_had(tmp_path: Path) -> None:
    """It begins with nothing, and the other keeps its own, whoever of them is heard first."""
    for number, is_new_first in enumerate((True, False)):
        root = tmp_path / str(number)
        root.mkdir()
        scan = Scan(root)
        old = scan.add("a")
        (scan.sv / "a").rename(scan.sv / "b")
        if not is_new_first:
            scan.learn(old)
        new = scan.add("a")
        scan.learn(old)
        assert (scan.data("a"), scan.data("b")) == (new, old)


def test_a_directory_that_was_replaced(tmp_path: Path) -> None:
    """What is kept is the next one's of that name."""
    scan = Scan(tmp_path)
    old = scan.add("a")
    (scan.sv / "a").rmdir()
    (scan.sv / "other").mkdir()  # takes the inode
    (scan.sv / "a").mkdir()
    scan.kept.claim(scan.identity("a"), "a", is_made=True)
    assert scan.data("a") == old
    assert read_owner(str(scan.state / "a")) == (scan.identity("a"), "a")


@pytest.mark.parametrize("is_owned", [True, False])
def test_renamed_to_a_name_that_has_left_something(tmp_path: Path, *, is_owned: bool) -> None:
    """It is put aside, and a purge of that name finds it; also what was kept before there were owners."""
    scan = Scan(tmp_path)
    gone, renamed = scan.add("gone"), scan.add("a")
    (scan.sv / "gone").rmdir()
    if not is_owned:
        (scan.state / "gone/owner").unlink()
    (scan.sv / "a").rename(scan.sv / "gone")
    aside = scan.learn(renamed)
    assert scan.data("gone") == renamed
    assert (Path(aside) / "data").read_text() == gone
    assert scan.kept.left_by("gone") == [aside]
    assert scan.kept.left_by("a") == []


def test_nothing_is_made_for_who_keeps_nothing(tmp_path: Path) -> None:
    """A claim and a rename without anything to keep leave no directory behind."""
    scan = Scan(tmp_path)
    (scan.sv / "a").mkdir()
    identity = scan.identity("a")
    for before, name in itertools.pairwise(("a", "b", "c")):
        scan.kept.claim(identity, before)
        scan.kept.rename(identity, before, name)
    assert not scan.state.exists()

"""The reference is complete, and the README's commands are those that exist."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from ljsv.cli.habits import HABITS
from ljsv.cli.main import ALIASES, VERBS
from ljsv.service import schema

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", [schema.Rootfs, schema.Bind, schema.Tmpfs, schema.Device, schema.Security, schema.Limits, schema.Io, schema.Policy, schema.Restart, schema.Stop, schema.Ready, schema.Scripts, schema.Log, schema.Scan])
def test_every_key_is_in_the_reference(kind: type) -> None:
    """docs/service-directory.md names each key of the schema."""
    text = (CHECKOUT / "docs/service-directory.md").read_text()
    for item in fields(kind):
        inner = get_type_hints(kind)[item.name]
        name = item.name.rstrip("_")
        shown = f"`[{name}]`" if is_dataclass(inner) else f"`[[{name}]]`" if name in {"bind", "tmpfs", "device", "io"} else f"`{name}`"
        assert shown in text, shown


def test_every_ljsv_command_in_the_docs_has_its_verb() -> None:
    """No verb is promised that is not there."""
    for path in (CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")):
        for verb in re.findall(r"(?m)^(?:\./bootstrap )?ljsv (?:--svdir \S+ )?([a-z]+)", path.read_text()):
            assert verb in VERBS or verb in ALIASES or verb in HABITS, f"{path.name}: ljsv {verb}"


def test_every_field_of_status_is_in_the_reference() -> None:
    """docs/commands.md names each field of `status --json`."""
    from ljsv.cli.fields import FIELDS

    text = (CHECKOUT / "docs/commands.md").read_text()
    assert [name for name in FIELDS if f"`{name}`" not in text] == []


def test_every_verb_has_a_module() -> None:
    """And an OPTIONS table."""
    from importlib import import_module

    for verb, (module, _, what) in VERBS.items():
        assert what
        if verb != "help":
            assert import_module(f"ljsv.cli.{module}_verb").OPTIONS is not None

"""The pictures are what a terminal shows today, and the snippets of the pages for newcomers are what the schema takes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ljsv.cli.table import HEAD
from ljsv.service import schema
from ljsv.service.toml import parse

CHECKOUT = Path(__file__).parents[2]
KINDS = {"rootfs": schema.Rootfs, "limits": schema.Limits, "policy": schema.Policy}


def text_of(name: str) -> str:
    tree = ET.parse(CHECKOUT / f"docs/pictures/{name}.svg")
    return "\n".join(" ".join(line.itertext()) for line in tree.iter("{http://www.w3.org/2000/svg}text"))


def test_the_table_in_the_picture_has_the_columns_of_today() -> None:
    """Else: ./bootstrap tools/make-pictures."""
    text = text_of("status")
    assert " ".join(HEAD) in text and "3 services in ./sv: 1 ready, 1 backoff, 1 down" in text


@pytest.mark.parametrize("name", ["status", "service", "why", "errors"])
def test_pictures_are_well_formed_and_name_no_place_of_their_making(name: str) -> None:
    """XML, no temporary directory, no line beyond the 80 columns."""
    assert "/tmp/" not in text_of(name)
    for span in ET.parse(CHECKOUT / f"docs/pictures/{name}.svg").iter("{http://www.w3.org/2000/svg}tspan"):
        assert float(span.get("x", "0")) + len(span.text or "") * 8.4 <= 16 + 80 * 8.4 + 1, span.text


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").glob("coming-from-*.md")), ids=lambda page: page.stem)
def test_snippets_are_what_the_schema_takes(page: Path) -> None:
    """Here-documents and `echo ... > sv/NAME/FILE` of each page, and the listing of docker-compose's."""
    text = page.read_text()
    found = [(kind, body) for kind, body in re.findall(r"(?ms)^cat > \S+/(rootfs|limits|policy) <<'END'\n(.*?)^END$", text)]
    found += [(kind, body) for body, kind in re.findall(r"(?m)^echo '([^']*)' > \S+/(rootfs|limits|policy)$", text)]
    for kind, first, rest in re.findall(r"(?m)^sv/\w+/(rootfs|limits|policy) +(\S.*)\n((?: {20,}.*\n)*)", text):
        found.append((kind, "\n".join([first, *(line.strip() for line in rest.splitlines())])))
    assert found
    for kind, body in found:
        parse(body.encode(), KINDS[kind], kind)

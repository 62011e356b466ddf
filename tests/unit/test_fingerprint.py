"""What files look like, in a line for the next supervisor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ljsv.supervise.fingerprint import TEXT_MAX, format_fingerprint, parse_fingerprint

NUMBERS = st.integers(min_value=0, max_value=1 << 64)
ENTRIES = st.tuples(st.text(min_size=1, max_size=20), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(st.lists(ENTRIES, max_size=80))
def test_it_is_read_back_as_it_was_or_not_written(entries: list[tuple[str, int, int, int, int]]) -> None:
    """Never another one."""
    text = format_fingerprint(tuple(entries))
    assert len(text) <= TEXT_MAX and "\n" not in text
    assert parse_fingerprint(text) in {tuple(entries), ()}
    if all(entry[0].isalnum() and entry[0].isascii() for entry in entries) and len(entries) < 60:
        assert parse_fingerprint(text) == tuple(entries)


@given(st.text())
def test_nonsense_is_nothing(text: str) -> None:
    """Or something that has the form of one."""
    assert isinstance(parse_fingerprint(text), tuple)

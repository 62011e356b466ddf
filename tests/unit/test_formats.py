"""The contract's formats: 20 bytes, stat, detail, TAI64N."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv import status, tai64n

RECORDS = st.builds(
    status.StatusRecord,
    st.integers(0, 2**40 * 10**9), st.integers(0, 2**22), st.integers(0, 2),
    want=st.sampled_from("ud"), paused=st.booleans(), term_sent=st.booleans(),
)


@given(RECORDS)
def test_status_record_has_twenty_bytes_and_comes_back(record: status.StatusRecord) -> None:
    """What was packed is what is read."""
    packed = record.pack()
    assert len(packed) == 20
    again = status.StatusRecord.unpack(packed)
    assert [getattr(again, name) for name in status.StatusRecord.__slots__] == [getattr(record, name) for name in status.StatusRecord.__slots__]


def test_status_record_byte_for_byte() -> None:
    """As runsv writes it: label big-endian, pid little-endian, paused, want, TERM, state."""
    record = status.StatusRecord(1_000_000_000 * 10**9 + 7, 0x01020304, 1, want="u", paused=True, term_sent=False)
    assert record.pack().hex() == "400000003b9aca0a" "00000007" "04030201" "01" "75" "00" "01"


@given(st.binary(max_size=40))
def test_anything_else_is_refused(data: bytes) -> None:
    """Twenty bytes that make sense, or ValueError; never another exception."""
    try:
        record = status.StatusRecord.unpack(data)
    except ValueError:
        return
    assert len(data) == 20 and record.state <= 2


@pytest.mark.parametrize(
    ("state", "flags", "text"),
    [
        (0, {"want": "u"}, "down\n"),
        (0, {"want": "d"}, "down\n"),
        (1, {"want": "u"}, "run\n"),
        (1, {"want": "d"}, "run, want down\n"),
        (1, {"want": "u", "paused": True, "term_sent": True}, "run, paused, got TERM\n"),
        (2, {"want": "d"}, "finish, want down\n"),
    ],
)
def test_stat_text(state: int, flags: dict[str, object], text: str) -> None:
    """The words of runsv."""
    assert status.StatusRecord(0, 0, state, **flags).stat_text() == text  # type: ignore[arg-type]


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.text(st.characters(codec="utf-8"), min_size=1)))
def test_detail_stays_one_line_a_key(pairs: dict[str, str]) -> None:
    """Whatever a value holds, the other lines are not touched."""
    text = status.format_detail(pairs)
    assert status.parse_detail(text) == {key: value.replace("\n", " ") for key, value in pairs.items()}


@given(st.integers(0, 2**34 * 10**9))
def test_tai64n_comes_back(now_ns: int) -> None:
    """Nanoseconds survive."""
    assert tai64n.unpack(tai64n.pack(now_ns)) == now_ns

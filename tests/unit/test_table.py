"""The table of `ljsv status`, laid out for screens of several widths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ljsv.cli.sizes import size
from ljsv.cli.table import HEAD, Row, Screen, lay_out

ROWS: list[Row] = [
    (("web", "ready", "4121", "3h12m", "0", "48.2M", "debian-12 + overlay 12M"), ""),
    (("mailer", "backoff", "-", "6s", "9", "-", "debian-12"), "exit 1, next try in 9s"),
    (("db", "down", "-", "2d", "0", "-", "alpine"), "(want down)"),
]


def test_without_a_terminal_a_row_is_a_line() -> None:
    """As wide as it has to be, and without a trailing space."""
    assert lay_out(ROWS, Screen()) == [
        "SERVICE  STATE    PID   SINCE  RESTARTS  MEM    JAIL",
        "web      ready    4121  3h12m         0  48.2M  debian-12 + overlay 12M",
        "mailer   backoff  -     6s            9  -      debian-12                exit 1, next try in 9s",
        "db       down     -     2d            0  -      alpine                   (want down)",
    ]


def test_on_84_columns_what_is_said_of_a_service_moves_to_the_left() -> None:
    """Where its column would be too far to the right."""
    assert lay_out(ROWS, Screen(84)) == [
        "SERVICE  STATE    PID   SINCE  RESTARTS  MEM    JAIL",
        "web      ready    4121  3h12m         0  48.2M  debian-12 + overlay 12M",
        "mailer   backoff  -     6s            9  -      debian-12  exit 1, next try in 9s",
        "db       down     -     2d            0  -      alpine  (want down)",
    ]


def test_what_does_not_fit_beside_goes_below() -> None:
    """Whole, over as many lines as it needs."""
    rows: list[Row] = [(ROWS[1][0], "cannot start: /srv/mailer/rootfs: No such file or directory")]
    assert lay_out(rows, Screen(60)) == [
        "SERVICE  STATE    PID  SINCE  RESTARTS  MEM  JAIL",
        "mailer   backoff  -    6s            9  -    debian-12",
        "  cannot start: /srv/mailer/rootfs: No such file or",
        "  directory",
    ]


def test_a_narrow_screen_has_fewer_columns() -> None:
    """JAIL is cut first, then columns go; name and state always stay."""
    assert lay_out(ROWS, Screen(62))[1].endswith("debian-12 + o\N{HORIZONTAL ELLIPSIS}")
    assert lay_out(ROWS, Screen(50))[0] == "SERVICE  STATE    PID   SINCE  MEM    JAIL"
    assert lay_out(ROWS, Screen(20))[0] == "SERVICE  STATE"


def test_colour_is_the_state_alone() -> None:
    """Also where the service is called like it."""
    lines = lay_out([(("ready", "ready", "1", "1s", "0", "-", "host"), "")], Screen(80, has_colour=True))
    assert lines[1].startswith("ready    \x1b[32mready\x1b[0m  1 ")


words = st.text("abcdefgh-", min_size=1, max_size=64)


@given(st.lists(st.tuples(st.tuples(*[words] * len(HEAD)), st.lists(words, max_size=12).map(" ".join)), min_size=1, max_size=5), st.integers(20, 200))
def test_no_line_is_longer_than_the_screen_but_for_words_that_are(rows: list[Row], width: int) -> None:
    """And no word of a remark is ever lost."""
    lines = lay_out(rows, Screen(width))
    text = " ".join(lines)
    for cells, remark in rows:
        assert cells[0] in text
        assert all(word in text for word in remark.split())
    two_columns = max(7, *(len(cells[0]) for cells, _ in rows)) + 2 + max(5, *(len(cells[1]) for cells, _ in rows))
    longest = max([width, two_columns, *(2 + len(word) for _, remark in rows for word in remark.split())])
    assert max(map(len, lines)) <= longest


def test_sizes_are_told_in_three_or_four_figures() -> None:
    """Powers of 1024, as in `limits`."""
    assert [size(n) for n in (0, 1023, 1024, 1536, 50_541_363, 512 << 20, 3 << 29)] == ["0B", "1023B", "1K", "1.5K", "48.2M", "512M", "1.5G"]

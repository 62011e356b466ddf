"""A table for eyes: columns as wide as they need, fitted into the terminal's, the state in colour. Pure but for `Screen.of_stdout`.

Without a terminal a row is a line, whatever its length. On one that is too
narrow the JAIL cells are cut, then columns are left out in the order of
`DROPPED`. What has to be said of a service stands in a column of its own; where
that is too far to the right, beside the rest; else on lines below, whole: the
reason of a failure is never cut.
"""

from __future__ import annotations

import os
import sys

from ljsv import status

HEAD = ("SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "MEM", "JAIL")
STATE, JAIL = 1, 6
RIGHT = frozenset({4})
DROPPED = (4, 2, 5, 3, 6)
JAIL_MIN = 8
WIDTH_MIN = 20
UNSUPERVISED = "unsupervised"
COLOURS = {status.READY: "32", status.UP: "32", status.BACKOFF: "33", status.FAILED: "31", UNSUPERVISED: "33"}

Row = tuple[tuple[str, ...], str]  # cells as in HEAD, and the remark


class Screen:
    """`width` 0: no terminal."""

    __slots__ = ("has_colour", "width")

    def __init__(self, width: int = 0, *, has_colour: bool = False) -> None:
        self.width = width
        self.has_colour = has_colour

    @classmethod
    def of_stdout(cls) -> Screen:
        """As standard output is; NO_COLOR (no-color.org) and TERM=dumb are for no colour."""
        if not sys.stdout.isatty():
            return cls()
        try:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
        except OSError:
            width = 0
        has_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        return cls(width if width >= WIDTH_MIN else 0, has_colour=has_colour)

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.has_colour and colour else text


def lay_out(rows: list[Row], screen: Screen) -> list[str]:
    """The lines, the head among them."""
    widths = [max(map(len, column)) for column in zip(HEAD, *(cells for cells, _ in rows), strict=True)]
    shown = _fit(widths, screen.width)
    lines = [_line(HEAD, widths, shown, screen, "").rstrip()]
    total = sum(widths[column] + 2 for column in shown)
    is_in_column = not screen.width or all(total + len(remark) <= screen.width for _, remark in rows if remark)
    for cells, remark in rows:
        line = _line(cells, widths, shown, screen, COLOURS.get(cells[STATE], ""))
        own = total - widths[shown[-1]] + min(len(cells[shown[-1]]), widths[shown[-1]])
        if remark and is_in_column:
            lines.append(f"{line}  {remark}")
        elif remark and own + len(remark) <= screen.width:
            lines.append(f"{line.rstrip()}  {remark}")
        else:
            lines.append(line.rstrip())
            lines += _wrap(remark, screen.width) if remark else []
    return lines


def _fit(widths: list[int], limit: int) -> list[int]:
    """The columns that are shown; the width of JAIL is cut in `widths`."""
    shown = list(range(len(HEAD)))
    for column in (None, *DROPPED):
        if column is not None:
            shown.remove(column)
        over = sum(widths[i] + 2 for i in shown) - 2 - limit
        if not limit or over <= 0:
            break
        if JAIL in shown and widths[JAIL] - over >= JAIL_MIN:
            widths[JAIL] -= over
            break
    return shown


def _line(cells: tuple[str, ...], widths: list[int], shown: list[int], screen: Screen, colour: str) -> str:
    parts = []
    for column in shown:
        cell, width = cells[column], widths[column]
        if len(cell) > width:
            cell = f"{cell[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
        padding = " " * (width - len(cell))
        cell = screen.paint(cell, colour) if column == STATE and colour else cell
        parts.append(padding + cell if column in RIGHT else cell + padding)
    return "  ".join(parts)


def _wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    """Broken at spaces; a word that is longer than a line is left whole, so that it can be copied."""
    lines = [indent.rstrip()]
    for word in text.split():
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > width:
            lines.append(indent.rstrip())
        lines[-1] = f"{lines[-1]} {word}" if lines[-1].strip() else f"{indent}{word}"
    return lines

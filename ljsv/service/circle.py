"""Needs that go in a circle. Pure; who needs whom is asked for, each service once."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def find_circle(name: str, needs_of: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """The shortest way from `name` over needs back to it; () for none."""
    ways, seen = deque[tuple[str, ...]]([(name,)]), set[str]()
    while ways:
        way = ways.popleft()
        for need in needs_of(way[-1]):
            if need == name:
                return (*way, name)
            if need not in seen:
                seen.add(need)
                ways.append((*way, need))
    return ()

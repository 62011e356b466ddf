"""Frozen: the base of small values that never change, like a frozen dataclass.

`ljexec` and a jail's start go through values everywhere, and importing
dataclasses costs as much as the rest of a jail: 17 ms. So the little that is
needed of it is here. Imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options: object) -> object:
        """Only type checkers need the real one."""
        return lambda kind: kind


@dataclass_transform(frozen_default=True)
class Frozen:
    """Annotated names of a subclass are its fields, in order; a class attribute of that name is the default.

    Given by position or by name. Equal when of one class with equal fields.
    TypeError for a field that is missing, unknown or given twice;
    AttributeError when one is set.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _required: ClassVar[frozenset[str]] = frozenset()
    _kinds: ClassVar[dict[str, type[Frozen]]] = {}

    def __init_subclass__(cls) -> None:
        kinds = cls.__dict__.get("__annotations__", {})
        cls._fields += tuple(name for name, kind in kinds.items() if not str(kind).startswith("ClassVar"))
        cls._required = frozenset(name for name in cls._fields if not hasattr(cls, name))
        if Frozen._kinds.setdefault(cls.__name__, cls).__module__ != cls.__module__:
            raise TypeError(f"two kinds of value are called {cls.__name__}")

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self._fields
        given = dict(zip(fields, values, strict=False))
        if len(values) > len(fields) or given.keys() & named.keys() or named.keys() - set(fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(fields)}")
        given.update(named)
        if not self._required <= given.keys():
            raise TypeError(f"{type(self).__name__} lacks {', '.join(sorted(self._required - given.keys()))}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields different."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)


def to_plain(value: Any) -> Any:
    """The value as what marshal can write: one of a subclass becomes a list of its class's name and module, and its fields.

    Tuples are looked into; no other value may hold one.
    """
    if isinstance(value, Frozen):
        return [type(value).__name__, type(value).__module__, *[to_plain(part) for part in value._values()]]
    return tuple([to_plain(part) for part in value]) if type(value) is tuple else value


def from_plain(plain: Any) -> Any:
    """What `to_plain` was given. A class that this process does not know yet is imported."""
    if type(plain) is list:
        if plain[0] not in Frozen._kinds:
            __import__(plain[1])
        kind = Frozen._kinds[plain[0]]
        made = kind.__new__(kind)
        made.__dict__.update(zip(kind._fields, [from_plain(part) for part in plain[2:]], strict=True))
        return made
    return tuple([from_plain(part) for part in plain]) if type(plain) is tuple else plain

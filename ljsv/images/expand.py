"""A Dockerfile's words: quotes, escapes and $variables, as BuildKit's frontend/dockerfile/shell has them. Pure.

`$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME:+word}`, `${NAME:?word}` and the
same without a colon, `${NAME#pattern}`, `##`, `%`, `%%`. Single quotes keep
everything, double quotes variables. A construct that is not known is refused
with ValueError.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

NESTED_MAX = 20
SPECIAL = frozenset("@*#?-$!0")


class _Words:
    def __init__(self, text: str, variables: Mapping[str, str | None], escape: str, depth: int = 0) -> None:
        self.text, self.variables, self.escape, self.depth = text, variables, escape, depth
        self.at = 0
        if depth > NESTED_MAX:
            raise ValueError("substitutions are nested too deep")

    def expand(self, end: str = "") -> str:
        """Up to `end` (taken too), or the end of the text."""
        made = ""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == end:
                self.at += 1
                return made
            if char == "'":
                made += self._single()
            elif char == '"':
                made += self._double()
            elif char == "$":
                made += self._dollar()
            elif char == self.escape:
                self.at += 1
                made += self.text[self.at : self.at + 1] or self.escape
                self.at += 1
            else:
                made += char
                self.at += 1
        if end:
            raise ValueError(f"no {end} ends the substitution")
        return made

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ValueError("no ' ends the quotation")
        made = self.text[self.at + 1 : end]
        self.at = end + 1
        return made

    def _double(self) -> str:
        made = ""
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return made
            if char == "$":
                made += self._dollar()
                continue
            if char == self.escape and self.text[self.at + 1 : self.at + 2] in {'"', "$", self.escape}:
                self.at += 1
                char = self.text[self.at]
            made += char
            self.at += 1
        raise ValueError('no " ends the quotation')

    def _name(self) -> str:
        start = self.at
        if self.text[start : start + 1] in SPECIAL:
            self.at += 1
            return self.text[start]
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] == "_") and self.text[self.at].isascii():
            self.at += 1
        return self.text[start : self.at]

    def _dollar(self) -> str:
        self.at += 1
        if self.text[self.at : self.at + 1] != "{":
            name = self._name()
            return (self.variables.get(name) or "") if name else "$"
        self.at += 1
        name = self._name()
        if not name:
            raise ValueError("bad substitution: ${ without a name")
        value = self.variables.get(name)
        operator = self.text[self.at : self.at + 1]
        self.at += 1
        if operator == "}":
            return value or ""
        is_colon = operator == ":"
        if is_colon:
            operator = self.text[self.at : self.at + 1]
            self.at += 1
        if operator in {"-", "+", "?"} and operator:
            return self._default(name, value, operator, is_colon=is_colon)
        if operator in {"#", "%"} and operator and not is_colon:
            is_long = self.text[self.at : self.at + 1] == operator
            self.at += is_long
            return _strip(value or "", self._rest(), operator, is_long=is_long)
        raise ValueError(f"substitution is not supported: ${{{name}{':' * is_colon}{operator}...}}")

    def _rest(self) -> str:
        inner = _Words(self.text[self.at :], self.variables, self.escape, self.depth + 1)
        word = inner.expand("}")
        self.at += inner.at
        return word

    def _default(self, name: str, value: str | None, operator: str, *, is_colon: bool) -> str:
        word = self._rest()
        is_set = bool(value) if is_colon else value is not None
        if operator == "+":
            return word if is_set else ""
        if not is_set and operator == "?":
            raise ValueError(f"{name}: {word or 'it is not set'}")
        return (value or "") if is_set else word


def _strip(value: str, pattern: str, operator: str, *, is_long: bool) -> str:
    """The value without the shortest or longest beginning or end that matches."""
    counts = range(len(value), -1, -1) if is_long else range(len(value) + 1)
    for count in counts:
        part = value[:count] if operator == "#" else value[len(value) - count :]
        if fnmatch.fnmatchcase(part, pattern):
            return value[count:] if operator == "#" else value[: len(value) - count]
    return value


def expand(text: str, variables: Mapping[str, str | None], escape: str = "\\") -> str:
    """The word with its quotes taken away and its variables filled in. ValueError where it cannot be."""
    return _Words(text, variables, escape).expand()


def expand_words(text: str, variables: Mapping[str, str | None], escape: str = "\\") -> list[str]:
    """A word that variables may split into several, as EXPOSE and the like have it."""
    return expand(text, variables, escape).split()

"""What was probably meant: the closest word, and the command line as it was typed, with that word in place of the wrong one."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from shlex import join


def closest(word: str, known: Iterable[str]) -> str:
    """The only one that begins so, else the one that is most alike; "" where none is."""
    names = list(known)
    begun = [name for name in names if word and name.startswith(word)]
    return begun[0] if len(begun) == 1 else (get_close_matches(word, names, 1) or [""])[0]


def as_typed() -> str:
    """The command line, as a shell reads it back."""
    return join(["ljsv", *sys.argv[1:]])


def retyped(wrong: str, right: str) -> str:
    """The command to paste; the first word that is `wrong` or ends with it as a path does is replaced."""
    words = ["ljsv", *sys.argv[1:]]
    for number, word in enumerate(words[1:], 1):
        if word == wrong or (word.rstrip("/").endswith(f"/{wrong}")):
            words[number] = right if word == wrong else f"{word.rstrip('/')[: -len(wrong)]}{right}"
            break
    return join(words)

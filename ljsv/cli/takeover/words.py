"""Sizes, times and words of other configuration languages, as TOML and sh of ours. Pure."""

from __future__ import annotations

import re
import shlex

_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtKMGT]?)(?:i?[bB])?$")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([0-3][0-7]{2})|(.))", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " ", "\\": "\\", '"': '"', "'": "'"}
_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def seconds(text: str) -> float | None:
    """`1min 30s`, `90`, `1.5h`; None for what is no time, and for infinity."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if not parts or any(unit not in _TIME_UNITS for _, unit in parts) or re.sub(r"[\d.a-z\s]", "", text.strip().lower()):
        return None
    return sum(float(number) * _TIME_UNITS[unit] for number, unit in parts)


def size(text: str) -> str:
    """`512M`, from `512m`, `0.5g`, `536870912`; rounded up to whole K; "" for what is no size, and for infinity."""
    found = _SIZE.match(str(text).strip())
    if not found:
        return ""
    count = int(float(found[1]) * (1 << _POWERS[found[2].lower()]))
    for unit, power in (("G", 30), ("M", 20), ("K", 10)):
        if count and count % (1 << power) == 0:
            return f"{count >> power}{unit}"
    return f"{-(-count >> 10)}K" if count else "0"


def split_unit(text: str) -> list[str]:
    """The words of a line as systemd.syntax(7) has them: quotes as in sh, and C's escapes within them and without; ValueError for a quote without an end."""
    words: list[str] = []
    word: str | None = None
    quote, at = "", 0
    while at < len(text):
        found = _ESCAPE.match(text, at)
        part = found[0] if found else text[at]
        if found:
            word = (word or "") + _unescape(found)
        elif part == quote:
            quote = ""
        elif quote or not (part in "'\"" or part.isspace()):
            word = (word or "") + part
        elif part.isspace():
            words += [word] if word is not None else []
            word = None
        else:
            quote, word = part, word or ""
        at += len(part)
    if quote:
        raise ValueError(f"no closing {quote}")
    return words + ([word] if word is not None else [])


def _unescape(found: re.Match[str]) -> str:
    """What an escape stands for; one that is none stays as it is."""
    digits, base = found[1] or found[2] or found[3], 8 if found[3] else 16
    if not digits:
        return _ESCAPED.get(found[4], found[0])
    number = int(digits, base)
    if not 0 < number <= 0x10FFFF or (base == 8 and number > 0xFF):
        return found[0]
    is_byte = not found[2]
    return bytes([number]).decode(errors="surrogateescape") if is_byte else chr(number)


def quote_with_variables(word: str) -> str:
    """A word for sh in which ${NAME} is looked up, $$ is a dollar sign, and nothing else is special."""
    parts = re.split(r"(\$\$|\$\{\w+\})", word)
    quoted = (shlex.quote(part.replace("$$", "$")) if part == "$$" or not index % 2 else f'"{part}"' for index, part in enumerate(parts) if part)
    return "".join(quoted) or "''"

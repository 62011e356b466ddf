"""Durations, sizes and shares as people write them: every one has a unit."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)([KMGT])")
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
DURATION_MAX_S = 366 * 86400.0
SIZE_MAX = 1 << 60

DURATION_ALLOWED = 'a duration with its unit: "200ms", "10s", "5m", "1h", "2d", or several as in "1m30s"'
SIZE_ALLOWED = 'a size with its unit, in powers of 1024: "64K", "512M", "2G"'
OPTIONAL_SIZE_ALLOWED = f'"0", or {SIZE_ALLOWED}'
PERCENT_ALLOWED = 'a share of one processor: "25%", "100%", "250%"'


def parse_duration(text: str) -> float:
    """Seconds of "1m30s"; ValueError where there is no unit, or it is longer than a year."""
    position, seconds = 0, 0.0
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None:
            raise ValueError(DURATION_ALLOWED)
        seconds += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not text or seconds > DURATION_MAX_S:
        raise ValueError(DURATION_ALLOWED + ", at most 366d")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of "512M"; ValueError where there is no unit."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _BYTES[match[2]] if match and len(match[1]) < 20 else 0
    if not 0 < size <= SIZE_MAX:
        raise ValueError(SIZE_ALLOWED)
    return size


def parse_optional_size(text: str) -> int:
    """Bytes of "512M", or 0 of "0"."""
    try:
        return 0 if text == "0" else parse_size(text)
    except ValueError:
        raise ValueError(OPTIONAL_SIZE_ALLOWED) from None


def parse_percent(text: str) -> float:
    """Per cent of one processor of "25%"."""
    match = _PERCENT.fullmatch(text)
    if not match or not 0 < float(match[1]) <= 100_000:
        raise ValueError(PERCENT_ALLOWED)
    return float(match[1])


def format_duration(seconds: float) -> str:
    """The shortest form that `parse_duration` reads back, to the millisecond."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    total = milliseconds // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if total and total % size == 0:
            return f"{total // size}{unit}"
    return f"{total}s"

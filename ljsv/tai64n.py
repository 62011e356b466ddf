"""TAI64N labels, as runit writes them into `status`.

Source: https://cr.yp.to/libtai/tai64.html, with runit's fixed offset of ten
seconds (no leap seconds).
"""

from __future__ import annotations

from struct import Struct

LABEL = Struct(">QI")
EPOCH = (1 << 62) + 10


def pack(unix_ns: int) -> bytes:
    """Twelve bytes, big-endian, for nanoseconds since 1970 (never before it)."""
    seconds, nanoseconds = divmod(max(unix_ns, 0), 1_000_000_000)
    return LABEL.pack(EPOCH + seconds, nanoseconds)


def unpack(label: bytes) -> int:
    """Nanoseconds since 1970 of a label of twelve bytes; negative for one before 1970."""
    seconds, nanoseconds = LABEL.unpack(label)
    return (int(seconds) - EPOCH) * 1_000_000_000 + int(nanoseconds)

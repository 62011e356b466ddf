"""The scanner's exit status, for who starts it and must not import it."""

from __future__ import annotations

ESSENTIAL_FAILED = 50  # 1 is also what an interpreter that could not begin ends with

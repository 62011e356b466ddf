"""Paths as /proc/self/mountinfo shows them. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))  # the backslash last


def unescape(text: str) -> str:
    r"""A path as the kernel shows it: \040 for a space, and so on."""
    for code, character in _ESCAPES:
        text = text.replace(code, character)
    return text


def escape(path: str) -> str:
    """The way back."""
    for code, character in reversed(_ESCAPES):
        path = path.replace(character, code)
    return path

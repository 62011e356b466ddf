"""`.dockerignore`: what of a context is not there. Pure. Source: the Dockerfile reference, and moby's patternmatcher."""

from __future__ import annotations

import re

PATTERNS_MAX = 10_000


def glob_regex(pattern: str) -> str:
    """A pattern of Go's path.Match, and ** for any number of directories, as a regular expression. ValueError where it is none."""
    made, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                made += "(?:.*/)?"
            else:
                made += ".*"
            continue
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise ValueError(f"no ] ends the class: {pattern}")
            inside = pattern[at + 1 : end]
            is_negated = inside.startswith("^")
            made += f"[{'^/' if is_negated else ''}{re.escape(inside[is_negated:]).replace(chr(92) + '-', '-')}]"
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            made += re.escape(pattern[at])
        else:
            made += re.escape(char)
        at += 1
    return made


class Ignore:
    """What a `.dockerignore` says."""

    def __init__(self, text: str) -> None:
        self.rules: list[tuple[bool, re.Pattern[str]]] = []
        self.exceptions: list[str] = []
        for line in text.splitlines()[:PATTERNS_MAX]:
            pattern = line.strip() if not line.startswith("#") else ""
            is_exception = pattern.startswith("!")
            parts = [part for part in pattern[is_exception:].strip().split("/") if part not in {"", "."}]
            if not parts:
                continue
            if is_exception:
                self.exceptions.append("/".join(parts))
            self.rules.append((is_exception, re.compile(glob_regex("/".join(parts)) + r"(?:/.*)?", re.DOTALL)))

    def is_left_out(self, path: str, is_directory: bool) -> bool:  # noqa: FBT001
        """Whether the last rule that matches leaves it out. A directory stays where an exception names what is in it."""
        left_out = False
        for is_exception, rule in self.rules:
            if rule.fullmatch(path):
                left_out = not is_exception
        return left_out and not (is_directory and any(pattern.startswith((f"{path}/", "*")) for pattern in self.exceptions))

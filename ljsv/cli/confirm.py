"""Asking before something is deleted: on a terminal a question, off it --yes."""

from __future__ import annotations

import sys

from ljsv.cli.guess import as_typed
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, Fault


def confirm(options: Options, what: str) -> None:
    """Return when it may be done. Fault otherwise."""
    if options.has("--yes"):
        return
    if not sys.stdin.isatty():
        raise usage(f"will not {what} without being asked", hint=f"{as_typed()} --yes")
    if input(f"{what}? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Fault("left as it is", exit_code=EXIT_NOT_REACHED)

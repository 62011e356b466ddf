"""`ljsv events`: the journal of the scanner and its supervisors; with names, what concerns these services."""

from __future__ import annotations

import os
from collections.abc import Callable

from ljsv.cli.context import Context
from ljsv.cli.logs_verb import OPTIONS as LOG_OPTIONS
from ljsv.cli.logs_verb import LogReader, Wanted, show
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK, Fault

OPTIONS = {name: value for name, value in LOG_OPTIONS.items() if name != "--all"}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    path = f"{context.places.logs}/.scanner/current"
    is_following = options.has("-f") or options.has("--follow")
    for name in options.operands:
        if not os.path.isdir(context.places.log_of(name)):  # one that is gone has its events all the same
            context.require(name)
    if not os.path.exists(path):
        hint = "a scanner in the foreground writes its events to its terminal; ljsv scan --daemon keeps them"
        raise Fault("no events yet", path, "No such file or directory", hint=hint, exit_code=1)
    show([LogReader(path, f"{context.places.scanner}/event")], Wanted(options, _about(options.operands)), is_following=is_following)
    return EXIT_OK


def _about(names: list[str]) -> Callable[[bytes], bool] | None:
    """Whether an event is of one of these services, or of its log service."""
    if not names:
        return None
    import json

    asked = {text for name in names for text in (name, f"{name}/log")}
    marks = [json.dumps(text, ensure_ascii=False).encode(errors="replace") for text in asked]

    def accept(line: bytes) -> bool:
        if not any(mark in line for mark in marks):
            return False
        try:
            return json.loads(line).get("service") in asked
        except (ValueError, AttributeError):
            return False

    return accept

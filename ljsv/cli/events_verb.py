"""`ljsv events`: the journal of the scanner and its supervisors."""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.logs_verb import OPTIONS as LOG_OPTIONS
from ljsv.cli.logs_verb import show
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK, Fault

OPTIONS = LOG_OPTIONS


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    path = f"{context.places.logs}/.scanner/current"
    if not os.path.exists(path):
        hint = "a scanner in the foreground writes its events to its terminal; ljsv scan --daemon keeps them"
        raise Fault("no events yet", path, "No such file or directory", hint=hint, exit_code=1)
    show(path, options, f"{context.places.scanner}/event")
    return EXIT_OK

"""`ljsv enable`: remove the down file, so that the service starts with its supervisor."""

from __future__ import annotations

import os
from contextlib import suppress

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK

OPTIONS = {"--all": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    for name in context.names():
        with suppress(FileNotFoundError):
            os.unlink(f"{context.svdir}/{name}/down")
        print(f"ok: {name}: enabled; it starts with its supervisor. Now: ljsv up {name}")
    return EXIT_OK

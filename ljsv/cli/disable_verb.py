"""`ljsv disable`: make the down file, so that the service does not start by itself."""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK

OPTIONS = {"--all": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    for name in context.names():
        os.close(os.open(f"{context.svdir}/{name}/down", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        print(f"ok: {name}: disabled; it does not start by itself. To stop it now: ljsv down {name}")
    return EXIT_OK

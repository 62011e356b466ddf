"""`ljsv enable`: remove the down file, so that the service starts with its supervisor; with --now it is started as well."""

from __future__ import annotations

import os

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK, Fault, quote

OPTIONS = {"--all": "", "--now": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    for name in context.names():
        _enable(context, name)
    if options.has("--now"):
        from ljsv.cli import steer

        return steer.start(context, "u")
    return EXIT_OK


def _enable(context: Context, name: str) -> None:
    path = f"{context.svdir}/{name}/down"
    try:
        os.unlink(path)
        said = "enabled: it starts with its supervisor"
    except FileNotFoundError:
        said = "was enabled already"
    except OSError as error:
        raise Fault.from_os("cannot enable", error, path, hint=f"ls -ld {quote(f'{context.svdir}/{name}')} {quote(path)}") from None
    is_running = context.detail(name).get("state") in {status.STARTING, status.UP, status.READY}
    after = "" if is_running or context.options.has("--now") else f"; to start it now: ljsv up {quote(name)}"
    print(f"ok: {name}: {said}{after}", flush=True)

"""`ljsv disable`: make the down file, so that the service does not start by itself; with --now it is stopped as well."""

from __future__ import annotations

import os

from ljsv import status
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.show import pasteable
from ljsv.errors import EXIT_OK, Fault, quote

OPTIONS = {"--all": "", "--now": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    names = context.names()
    for name in names:
        _disable(context, name)
    if options.has("--now"):
        from ljsv.cli import steer

        supervised = [name for name in names if context.is_supervised(name)]
        return steer.steer(context, supervised, dict.fromkeys(supervised, "d"), steer.is_down) if supervised else EXIT_OK
    return EXIT_OK


def _disable(context: Context, name: str) -> None:
    path = f"{context.svdir}/{name}/down"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        said = "disabled: it does not start by itself"
    except FileExistsError:
        said = "was disabled already"
    except OSError as error:
        raise Fault.from_os("cannot disable", error, path, hint=f"ls -ld {quote(f'{context.svdir}/{name}')}") from None
    is_down = context.detail(name).get("state", status.DOWN) in {status.DOWN, status.FAILED}
    after = "" if is_down or context.options.has("--now") else pasteable(f"; to stop it now: ljsv down {quote(name)}")
    print(f"ok: {name}: {said}{after}", flush=True)

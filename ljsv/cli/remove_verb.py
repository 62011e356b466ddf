"""`ljsv remove`: delete a service directory; its scanner stops the service. State and logs stay until `purge`."""

from __future__ import annotations

import os
import shutil

from ljsv import status
from ljsv.cli.confirm import confirm
from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault

OPTIONS = {"--yes": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    codes = [_remove(context, options, name) for name in context.names()]
    return max(codes, default=EXIT_OK)


def _remove(context: Context, options: Options, name: str) -> int:
    path = f"{context.svdir}/{name}"
    confirm(options, f"stop {name} and delete {path}")
    supervise = os.path.realpath(context.supervise_of(name))
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        gone = f"{context.svdir}/.removed-{name}.{os.getpid()}"
        try:
            os.rename(path, gone)
            if os.path.islink(gone):
                os.unlink(gone)
            else:
                shutil.rmtree(gone)
        except OSError as error:
            raise Fault.from_os("cannot delete", error, path, hint=f"ls -ld {context.svdir} {path}") from None
        if not subscription.until(lambda: not status.is_supervised(supervise), context.wait_s()):
            print(f"timeout: {name}: deleted, but still stopping after {context.wait_s():g}s")
            return EXIT_NOT_REACHED
    print(f"ok: {name}: removed; its logs and state stay until: ljsv purge {name}")
    return EXIT_OK

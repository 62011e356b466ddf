"""`ljsv purge`: delete what a service left: state and logs. The one verb that does."""

from __future__ import annotations

import os
import shutil

from ljsv.cli.confirm import confirm
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault
from ljsv.paths import is_service_name

OPTIONS = {"--yes": ""}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    names = context.options.operands
    if not names or not all(is_service_name(name) for name in names):
        raise usage("which service? it may be gone already, but has to be named")
    for name in names:
        if context.is_supervised(name):
            raise Fault("it is supervised", context.supervise_of(name), service=name, hint=f"ljsv exit {name}", exit_code=EXIT_NOT_REACHED)
        found = [path for path in (context.places.log_of(name), f"{context.places.state}/{name}") if os.path.isdir(path)]
        runtime = context.places.runtime_of(name)
        found += [runtime] if runtime and os.path.isdir(runtime) else []
        if not found:
            print(f"ok: {name}: nothing to delete")
            continue
        confirm(options, f"delete {' '.join(found)}")
        for path in found:
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise Fault.from_os("cannot delete", error, path, hint=f"ls -ld {path}") from None
        print(f"ok: {name}: deleted {' '.join(found)}")
    return EXIT_OK

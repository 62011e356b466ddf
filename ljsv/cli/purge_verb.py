"""`ljsv purge`: delete what a service left: state and logs. The one verb that does."""

from __future__ import annotations

import os

from ljsv.cli.confirm import confirm
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import is_service_name

OPTIONS = {"--yes": ""}


def run(_verb: str, options: Options) -> int:
    from ljsv.jail.overlay import delete, hold_all
    from ljsv.supervise.kept import Kept

    context = Context(options.get("--svdir"), options)
    names = context.options.operands
    if not names or not all(is_service_name(name) for name in names):
        raise usage("which service? it may be gone already, but has to be named")
    for name in names:
        if context.is_supervised(name):
            raise Fault("it is supervised", context.supervise_of(name), service=name, hint=f"ljsv exit {quote(name)}", exit_code=EXIT_NOT_REACHED)
        _refuse_while_it_runs(context, name)
        found = [path for path in (context.places.log_of(name), context.places.log_of(f"{name}/log"), context.places.state_of(name), *_configured(context, name)) if os.path.isdir(path)]
        found += Kept(context.svdir, context.places.state).left_by(name)
        runtime = context.places.runtime_of(name)
        found += [runtime] if runtime and os.path.isdir(runtime) else []
        if not found:
            print(f"ok: {name}: nothing to delete")
            continue
        confirm(options, f"delete {' '.join(found)}")
        with hold_all([*_overlays(context, name)]):
            _let_go_of_images(context, name)
            for path in found:
                delete(path)
        print(f"ok: {name}: deleted {' '.join(found)}")
    return EXIT_OK


def _refuse_while_it_runs(context: Context, name: str) -> None:
    """A jail may outlive its supervisor: what it writes is not deleted under it, nor its record."""
    from ljsv.supervise.record import find_living

    for folder in {context.supervise_of(name), context.places.runtime_of(name) or context.supervise_of(name)}:
        record = find_living(folder)
        if record:
            raise Fault("its jail runs, though nobody supervises it", folder, f"pid {record.pid}", service=name, hint=f"ljsv up {quote(name)} && ljsv exit {quote(name)}", exit_code=EXIT_NOT_REACHED)


def _overlays(context: Context, name: str) -> list[str]:
    """Where it writes, or has written: in its state directory, and where `overlay` says, or has said last."""
    from ljsv.supervise.kept import read_elsewhere

    try:
        elsewhere = context.read_service(name).rootfs.overlay
    except Fault:  # the service directory is gone, or unfit
        elsewhere = ""
    state = context.places.state_of(name)
    return [f"{state}/overlay", *dict.fromkeys(path for path in (elsewhere, read_elsewhere(state)) if path)]


def _let_go_of_images(context: Context, name: str) -> None:
    """What was deployed is gone with its record: the store may remove its images."""
    state = context.places.state_of(name)
    if os.path.lexists(f"{state}/generations"):
        from ljsv.cli.deployments import pin_images
        from ljsv.service.generations import Generations

        pin_images(name, state, Generations())


def _configured(context: Context, name: str) -> list[str]:
    """What it has written where `overlay` says."""
    from ljsv.jail.outside import KEPT_THERE

    return [f"{overlay}/{part}" for overlay in _overlays(context, name)[1:] for part in KEPT_THERE]

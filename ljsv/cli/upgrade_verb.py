"""`ljsv upgrade`: scanner and supervisors become those of the installed code; no service notices."""

from __future__ import annotations

import sys

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import print_hint
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, EXIT_SYSTEM, Fault

OPTIONS: dict[str, str] = {}


def run(_verb: str, options: Options) -> int:
    if options.operands:
        raise usage("upgrade takes no NAME: all of a scan directory are replaced together")
    context = Context(options.get("--svdir"), options)
    _check_code()
    if not context.has_scanner():
        hint = "ljsv up --all starts one, with the installed code"
        raise Fault("nothing to upgrade", context.shown, "no scanner runs", hint=hint, exit_code=102)
    before = {name: context.detail(name).get("supervisor", "") for name in context.all_names() if context.is_supervised(name)}
    with Subscription() as subscription:
        subscription.add(f"{context.places.scanner}/event")
        for name in before:
            subscription.add(f"{context.supervise_of(name)}/event")
        context.tell_scanner("upgrade\n")

        def left() -> list[str]:
            return [name for name, old in before.items() if context.detail(name).get("supervisor", "") in {old, "-", ""}]

        is_done = subscription.until(lambda: not left(), context.wait_s())
    if is_done:
        print(f"ok: the scanner of {context.shown} and {len(before)} supervisors run the installed code; their services were not touched")
        return EXIT_OK
    for name in left():
        print(f"timeout: {name}: its supervisor has not been replaced after {context.wait_s():g}s", file=sys.stderr)
    print_hint("ljsv events -n 20  # -w SECONDS waits longer")
    return EXIT_NOT_REACHED


def _check_code() -> None:
    """The code that the scanner is about to become has to load."""
    try:
        import ljsv.supervise.scanner  # noqa: F401
    except Exception as error:  # noqa: BLE001 - whatever the installed code does wrong
        hint = "install it again; what runs goes on with the code that it has"
        raise Fault("will not upgrade", "ljsv.supervise.scanner", f"it cannot be loaded: {error}", hint=hint, exit_code=EXIT_SYSTEM) from None

"""`ljsv rollback NAME`: back to an earlier generation, image and overlay as they were when it was left.

A deployment like any other: it has to become ready, and gets a number of its
own. What was written since stays in the layer of the generation that is left.
"""

from __future__ import annotations

from dataclasses import replace

from ljsv.cli.context import Context
from ljsv.cli.deployments import deploy, one_name, read_settle
from ljsv.cli.options import FLAG, Options
from ljsv.errors import EXIT_NOT_REACHED, Fault, quote
from ljsv.service.generations import Generation, Generations, read_generations

OPTIONS = {"--to": "GENERATION", "--keep-overlay": FLAG, "--settle": "SECONDS"}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    name = one_name(context, "rollback")
    settle_s = read_settle(options)
    service = context.read_service(name)
    found = read_generations(context.places.state_of(name))
    target = _find_target(context, name, found)
    layer = None if options.has("--keep-overlay") else target.layer
    return deploy(context, name, service, replace(target, source=target.number), layer, settle_s)


def _find_target(context: Context, name: str, found: Generations) -> Generation:
    """The one before the one in effect; where that was itself gone back to, the one before that."""
    numbers = sorted({generation.number for generation in found.kept} | {found.current})
    listed = ", ".join(f"{generation.number} {found.describe(generation)}" for generation in found.kept)
    if context.options.has("--to"):
        number = int(context.options.number("--to", 0.0))
        if number == found.current or number not in numbers:
            cause = "it is in effect" if number == found.current else f"kept are: {listed or 'none'}"
            raise Fault("cannot go back to generation", str(number), cause, service=name, hint=f"ljsv rollback {quote(name)}", exit_code=EXIT_NOT_REACHED)
        return found.find(number)
    current = found.find(found.current)
    at = current.source if current.source >= 0 else current.number
    before = [number for number in numbers if number < at]
    if not before:
        cause = "nothing was deployed" if not found.kept else f"kept are: {listed}"
        hint = f"ljsv rollback {quote(name)} --to {numbers[-2]}" if len(numbers) > 1 else f"ljsv deploy {quote(name)} --image IMAGE"
        raise Fault("there is no generation to go back to", "", cause, service=name, hint=hint, exit_code=EXIT_NOT_REACHED)
    return found.find(before[-1])

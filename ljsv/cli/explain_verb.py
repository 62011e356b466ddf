"""`ljsv explain`: every step of a service's jail; nothing is changed."""

from __future__ import annotations

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK

OPTIONS: dict[str, str] = {}


def run(_verb: str, options: Options) -> int:
    from ljsv.jail.launch import explain_jail
    from ljsv.jail.spec import spec_of

    context = Context(options.get("--svdir"), options)
    for name in context.names():
        spec = spec_of(context.read_service(name), name, context.places.state_of(name))
        print(f"# {name}: the jail of {spec.directory}/run")
        for number, line in enumerate(explain_jail(spec), 1):
            print(f"{number:3}  {line}")
    return EXIT_OK

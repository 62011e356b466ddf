"""`ljsv explain`: every step of a service's jail; nothing is changed."""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_OK

OPTIONS: dict[str, str] = {}


def run(_verb: str, options: Options) -> int:
    from ljsv.jail.facts import gather_facts
    from ljsv.jail.ids import preview_ids
    from ljsv.jail.plan import explain
    from ljsv.jail.spec import spec_of

    context = Context(options.get("--svdir"), options)
    for name in context.names():
        spec = spec_of(context.read_service(name), name)
        facts = gather_facts(spec, is_root=os.geteuid() == 0)
        print(f"# {name}: the jail of {spec.directory}/run")
        for number, line in enumerate(explain(spec, facts, preview_ids(spec.directory).describe()), 1):
            print(f"{number:3}  {line}")
    return EXIT_OK

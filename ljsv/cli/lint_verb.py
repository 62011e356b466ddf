"""`ljsv lint`: read service directories as a start would, and start nothing."""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault

OPTIONS = {"--all": ""}


def run(_verb: str, options: Options) -> int:
    from ljsv.jail.facts import gather_facts
    from ljsv.jail.spec import spec_of

    context = Context(options.get("--svdir"), options)
    faults = 0
    for name in context.names() if options.operands else context.all_names():
        try:
            service = context.read_service(name)
            gather_facts(spec_of(service, name), is_root=os.geteuid() == 0)
        except Fault as fault:
            faults += 1
            print(f"FAIL  {name}: {fault}")
            print(f"      hint: {fault.hint}")
        else:
            print(f"ok    {name}")
            for note in service.notes:
                print(f"note  {name}: {note}")
    return EXIT_NOT_REACHED if faults else EXIT_OK

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
    from ljsv.service.read import read_service

    context = Context(options.get("--svdir"), options)
    for name in context.names():
        path = os.path.realpath(f"{context.svdir}/{name}")
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spec = spec_of(read_service(path, fd, uid=os.geteuid()), name)
        finally:
            os.close(fd)
        facts = gather_facts(spec, is_root=os.geteuid() == 0)
        print(f"# {name}: the jail of {path}/run")
        for number, line in enumerate(explain(spec, facts, preview_ids(path).describe()), 1):
            print(f"{number:3}  {line}")
    return EXIT_OK

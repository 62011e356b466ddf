"""`ljsv enter NAME [COMMAND...]`: a process more in the jail of a service that runs; without COMMAND a shell."""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, Fault, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.jail.spec import JailSpec
    from ljsv.service.read import Service

OPTIONS: dict[str, str] = {}
STOPS_AT_OPERAND = True
SHELL = ("/bin/sh",)


def run(_verb: str, options: Options) -> int:
    name, *command = options.operands or [""]
    if command[:1] == ["--"]:
        del command[0]
    if not name:
        raise usage("which service?", hint="ljsv enter NAME [COMMAND...]")
    options.operands = [name]
    context = Context(options.get("--svdir"), options)
    (name,) = context.names()
    from ljsv.jail.enter import Entered
    from ljsv.supervise.record import open_jail, read_jail_record

    record = read_jail_record(context.supervise_of(name)) if context.detail(name) else None
    service_fd = open_jail(record)[1] if record else -1
    if record is None or service_fd < 0:
        state = context.detail(name).get("state", "not supervised")
        raise Fault("cannot enter", "", f"it does not run ({state})", service=name, hint=f"ljsv up {quote(name)}", exit_code=EXIT_NOT_REACHED)
    spec = _spec(context, name, tuple(command) or SHELL)
    rights = {"user": record.user, "capabilities": record.capability_numbers(), "has_filter": bool(record.has_filter)}
    return Entered(spec.replace(**rights), record.service_pid, service_fd, no_setid=bool(record.no_setid)).run()


def _spec(context: Context, name: str, argv: tuple[str, ...]) -> JailSpec:
    """Environment and limits as the files say now, or, after a bad edit, as they said before."""
    from ljsv.jail.spec import HOST, SERVICE_AT, JailSpec, spec_of
    from ljsv.supervise import good

    service: Service | None
    try:
        service = context.read_service(name)
    except Fault:
        service = good.find(context.supervise_of(name))
    if service:
        spec = spec_of(service, name, context.places.state_of(name), argv)
    else:  # its supervisor has not seen the edit yet
        spec = JailSpec(name=name, base_kind=HOST, base_path="/", argv=argv, workdir=SERVICE_AT)
    term = (("TERM", os.environ["TERM"]),) if "TERM" in os.environ else ()
    return spec.replace(env=(*spec.env, *term), directory="", workdir=SERVICE_AT)  # an error is not about a script there

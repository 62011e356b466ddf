"""The verbs that send one signal: pause, cont, hup, alarm, interrupt, quit, usr1, usr2, term, kill."""

from __future__ import annotations

from ljsv.cli.context import Context
from ljsv.cli.options import Options
from ljsv.cli.show import print_fault
from ljsv.cli.steer import send_bytes
from ljsv.errors import EXIT_OK, Fault

OPTIONS = {"--all": ""}
BYTES = {
    "pause": "p", "cont": "c", "hup": "h", "alarm": "a", "interrupt": "i", "quit": "q", "usr1": "1", "usr2": "2",
    "term": "t", "kill": "k",
}


def run(verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    code = EXIT_OK
    for name in context.names():
        try:
            send_bytes(context, name, BYTES[verb])
        except Fault as fault:
            print_fault(fault)
            code = fault.exit_code
    return code

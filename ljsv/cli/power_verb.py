"""`ljsv poweroff`, `reboot`, `halt`: ask PID 1, or with --force the kernel itself."""

from __future__ import annotations

import os

from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_SUPERVISED, EXIT_OK, Fault
from ljsv.init.requests import SIGNAL_OF

OPTIONS = {"-f": "", "--force": ""}
NAME = "ljsv init"


def run(verb: str, options: Options) -> int:
    if options.operands:
        raise usage(f"{verb} takes no names")
    if options.has("-f") or options.has("--force"):
        return _force(verb)
    with open("/proc/1/comm") as file:
        name = file.read().strip()
    if name != NAME:
        hint = f"systemctl {verb}" if name == "systemd" else f"{verb}, or at once and without stopping anything: ljsv {verb} --force"
        raise Fault(f"cannot {verb}", "process 1", f"it is {name}, not ljsv init", hint=hint, exit_code=EXIT_NOT_SUPERVISED)
    try:
        os.kill(1, SIGNAL_OF[verb])
    except OSError as error:
        raise Fault.from_os(f"cannot {verb}", error, "process 1", hint=f"only root may: sudo ljsv {verb}") from None
    return EXIT_OK


def _force(verb: str) -> int:
    from ljsv.init.ending import call

    os.sync()
    try:
        call(verb)
    except OSError as error:
        raise Fault.from_os(f"cannot {verb}", error, hint=f"only root may: sudo ljsv {verb} --force") from None
    return EXIT_OK

"""`ljsv init`: PID 1; with any other pid only `--explain`."""

from __future__ import annotations

import os

from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_OK
from ljsv.init import settings
from ljsv.init.main import explain, main

OPTIONS = settings.OPTIONS


def run(_verb: str, options: Options) -> int:
    words = [f"{name}={options.get(name)}" for name, value in OPTIONS.items() if value and options.has(name)] + options.operands
    if options.has("--explain"):
        print("\n".join(explain(words)))
        return EXIT_OK
    refuse_other_pid()
    main(words)
    return EXIT_OK


def refuse_other_pid() -> None:
    """Fault (100) where this is not PID 1."""
    if os.getpid() != 1:
        hint = "ljsv init --explain shows what it would do; init=/usr/bin/ljsv-init on the kernel's command line makes it PID 1, unshare --pid --fork --mount-proc ljsv init a PID 1 to try"
        raise usage(f"init is for process 1, and this is {os.getpid()}", hint=hint)

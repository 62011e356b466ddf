"""`python -m tests.vm ARGUMENT...` runs pytest with these arguments in the virtual machine; `-- COMMAND` runs a command.

The output streams; the exit status is the command's own, or 111 where the machine failed.
"""

from __future__ import annotations

import subprocess
import sys

from tests.vm.image import find_missing
from tests.vm.machine import PYTEST, MachineError, run

TIMEOUT_S = 3600


def main(arguments: list[str]) -> int:
    missing = find_missing()
    if missing:
        print(f"tests.vm: not on this machine: {', '.join(missing)}\nhint: tests/run installs packages", file=sys.stderr)
        return 111
    command = arguments[1:] if arguments[:1] == ["--"] else [*PYTEST, *arguments]
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:  # qemu opens its output anew, so it has to be a pipe
            return run(*command, timeout_s=TIMEOUT_S, stdout=cat.stdin).status % 256
    except MachineError as error:
        print(f"tests.vm: {error}", file=sys.stderr)
        return 111


sys.exit(main(sys.argv[1:]))

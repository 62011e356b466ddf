"""`ljexec`: one jail by hand, in the foreground.

Exit codes: the program's own; 128+N when killed by signal N; 125 the jail
could not be built, 126 not executable, 127 not found, 100 usage.
"""

from __future__ import annotations

import os
import sys

from ljsv import __version__
from ljsv.cli.options import FLAG, Options, parse, usage
from ljsv.cli.show import print_fault
from ljsv.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, Fault

EXIT_NOT_BUILT = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
OPTIONS = {
    "--root": "DIR", "--exec": "COMMAND", "--hostname": "NAME", "--user": "USER", "--net": "host|none",
    "--writable": "no|tmpfs", "--explain": FLAG, "-h": FLAG, "--help": FLAG, "--version": FLAG,
}
HELP = """usage: ljexec [--root DIR|host] [OPTION...] [--exec COMMAND | -- COMMAND [ARGUMENT...]]

  --root DIR       what the jail sees, read-only; "host" (the default) for the host's programs
  --exec COMMAND   what runs in it, split like a shell's words (default /bin/sh)
  --writable tmpfs changes to the root are possible, and forgotten at the end
  --hostname NAME  --user NAME|UID[:GID]  --net host|none
  --explain        print every step, and take none
"""


def main() -> int:
    """The command; its exit code."""
    try:
        return _run(sys.argv[1:])
    except Fault as fault:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        print_fault(fault, "ljexec")
        return _exit_code(fault)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _exit_code(fault: Fault) -> int:
    if fault.exit_code == EXIT_USAGE:
        return EXIT_USAGE
    if fault.action == "cannot start":
        return EXIT_NOT_FOUND if "No such file" in fault.cause or "has no" in fault.cause else EXIT_NOT_EXECUTABLE
    return EXIT_NOT_BUILT


def _run(arguments: list[str]) -> int:
    options, command = _split(arguments)
    if options.has("--version"):
        print(f"ljexec {__version__}")
        return EXIT_OK
    if options.has("-h") or options.has("--help"):
        print(HELP, end="")
        return EXIT_OK
    from ljsv.jail.spec import DIRECTORY, HOST, JailSpec

    root = options.get("--root", "host")
    for name, allowed in (("--net", ("host", "none")), ("--writable", ("no", "tmpfs"))):
        if options.get(name, allowed[0]) not in allowed:
            raise usage(f"{name} wants {' or '.join(allowed)}: found {options.get(name)!r}", "ljexec --help")
    spec = JailSpec(
        name="ljexec",
        base_kind=HOST if root == HOST else DIRECTORY,
        base_path="/" if root == HOST else os.path.realpath(root),
        argv=tuple(command),
        hostname=options.get("--hostname", "jail"),
        user=options.get("--user"),
        network=options.get("--net", "host"),
        writable=options.get("--writable", "no"),
        env=tuple((name, os.environ[name]) for name in ("TERM",) if name in os.environ),
        origin="--root",
    )
    if options.has("--explain"):
        from ljsv.jail.facts import gather_facts
        from ljsv.jail.ids import preview_ids
        from ljsv.jail.plan import explain

        print("\n".join(explain(spec, gather_facts(spec, is_root=os.geteuid() == 0), preview_ids(spec.name).describe())))
        return EXIT_OK
    from ljsv.jail.foreground import run_foreground

    return run_foreground(spec)


def _split(arguments: list[str]) -> tuple[Options, list[str]]:
    options, command = parse(arguments, OPTIONS, stop_at_operand=True)
    command = [*options.operands, *command]
    if command and "--" not in arguments:
        raise usage(f"unexpected word {command[0]!r}", f"ljexec -- {' '.join(command)}")
    if command and options.has("--exec"):
        raise usage("either --exec or -- COMMAND, not both", "ljexec --help")
    if not command:
        import shlex

        try:
            command = shlex.split(options.get("--exec", "/bin/sh"))
        except ValueError as error:
            raise usage(f"--exec cannot be split into words: {error}", "ljexec --help") from None
    if not command:
        raise usage("--exec names no program", "ljexec --help")
    return options, command

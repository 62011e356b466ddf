"""`ljsv VERB [NAME...]`: the verb's module is imported, and nothing else.

Only here are errors printed and exit codes returned (design, section 6).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from ljsv.cli import options
from ljsv.cli.show import print_fault
from ljsv.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SYSTEM, Fault

GLOBAL_OPTIONS = {"--svdir": "DIR", "-h": options.FLAG, "--help": options.FLAG, "--version": options.FLAG, "-w": "SECONDS"}

# verb: (module, operands, what it does)
VERBS = {
    "up": ("steer", "NAME...|--all", "start, and wait until it is ready; starts a scanner where none runs"),
    "down": ("steer", "NAME...|--all", "stop, and wait until it is down"),
    "once": ("steer", "NAME...|--all", "start, and do not restart when it ends"),
    "restart": ("steer", "NAME...|--all", "stop and start with the files as they are now"),
    "exit": ("steer", "NAME...|--all", "stop, and end the supervisor; with --all the scanner too"),
    "status": ("status", "[NAME...] [--json]", "what runs; with one NAME all about it"),
    "wait": ("wait", "NAME... [--for up|down]", "wait until it is ready, or down"),
    "logs": ("logs", "NAME [-f] [-n LINES]", "what the service wrote"),
    "events": ("events", "[-f] [-n LINES]", "what ljsv did, a line of JSON an event"),
    "explain": ("explain", "NAME", "every step of its jail, before it is taken"),
    "lint": ("lint", "[NAME...]", "check service directories without starting anything"),
    "doctor": ("doctor", "", "try what ljsv needs of this machine, and say what is missing"),
    "new": ("new", "NAME [--run COMMAND]", "make a service directory that runs COMMAND"),
    "enable": ("enable", "NAME...", "let it start by itself (remove the down file)"),
    "disable": ("disable", "NAME...", "do not let it start by itself (make the down file)"),
    "remove": ("remove", "NAME...", "stop it, and delete its service directory; --yes off a terminal"),
    "purge": ("purge", "NAME...", "delete its state and logs; --yes off a terminal"),
    "scan": ("scan", "[DIR] [--daemon]", "run a scanner, in the foreground or in the background"),
    "help": ("help", "", "this text"),
    **{
        verb: ("signals", "NAME...|--all", f"send {what}")
        for verb, what in (
            ("pause", "STOP"), ("cont", "CONT"), ("hup", "HUP"), ("alarm", "ALRM"), ("interrupt", "INT"),
            ("quit", "QUIT"), ("usr1", "USR1"), ("usr2", "USR2"), ("term", "TERM"), ("kill", "KILL"),
        )
    },
}
ALIASES = {"start": "up", "stop": "down", "list": "status", "ps": "status", "reload": "hup", "log": "logs", "tail": "logs"}


def main() -> int:
    """The command; its exit code."""
    open_standard_files()
    try:
        code = _run(sys.argv[1:])
        if sys.stdout:
            sys.stdout.flush()
        return code
    except Fault as fault:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        print_fault(fault)
        return fault.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_OK
    except OSError as error:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # perhaps it was the output: do not try it again at exit
        print_fault(Fault.from_os("system call failed", error, hint="LJSV_DEBUG=1 shows where"))
        return EXIT_SYSTEM


def open_standard_files() -> None:
    """What was closed becomes /dev/null, so that no file of ours takes its number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))


def _run(arguments: list[str]) -> int:
    given, rest = options.parse(arguments, GLOBAL_OPTIONS, stop_at_operand=True)
    if given.has("--version"):
        from ljsv import __version__

        print(f"ljsv {__version__}")
        return EXIT_OK
    if given.has("-h") or given.has("--help") or rest[:1] == ["help"]:
        print(help_text(), end="")
        return EXIT_OK
    if not rest:
        print(help_text(), end="", file=sys.stderr)
        raise options.usage("which verb?", hint="ljsv status")
    verb = ALIASES.get(rest[0], rest[0])
    if verb not in VERBS:
        raise _unknown(rest[0])
    module = import_module(f"ljsv.cli.{VERBS[verb][0]}_verb")
    parsed, _ = options.parse(rest[1:], {**GLOBAL_OPTIONS, **module.OPTIONS})
    if parsed.has("-h") or parsed.has("--help"):
        print(f"ljsv {verb} {VERBS[verb][1]}\n    {VERBS[verb][2]}")
        for name, value in module.OPTIONS.items():
            print(f"    {name} {value}".rstrip())
        return EXIT_OK
    for name, value in given.values.items():
        parsed.values.setdefault(name, value)
    return int(module.run(verb, parsed))


def help_text() -> str:
    lines = ["usage: ljsv [--svdir DIR] [-w SECONDS] VERB [NAME...]", ""]
    width = max(len(f"{verb} {operands}") for verb, (_, operands, _) in VERBS.items() if len(verb) < 8)
    for verb, (_, operands, what) in VERBS.items():
        lines.append(f"  {f'{verb} {operands}':{min(width, 34)}}  {what}")
    lines += ["", "exit: 0 done, 1 not reached, 3 not up (status), 4 no such service, 100 usage, 102 nobody supervises, 111 system"]
    return "\n".join(lines) + "\n"


def _unknown(word: str) -> Fault:
    from difflib import get_close_matches

    close = get_close_matches(word, [*VERBS, *ALIASES], 1)
    return options.usage(f"no such verb: {word}", hint=f"did you mean: ljsv {close[0]}" if close else "ljsv help")

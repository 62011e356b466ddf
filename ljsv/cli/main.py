"""`ljsv VERB [NAME...]`: the verb's module is imported, and nothing else.

Only here are errors printed and exit codes returned (design, section 6).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from ljsv.cli import options
from ljsv.cli.show import fault_of, given_svdir, print_fault
from ljsv.cli.standard_files import open_standard_files
from ljsv.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SYSTEM, Fault

GLOBAL_OPTIONS = {"--svdir": "DIR", "-h": options.FLAG, "--help": options.FLAG, "--version": options.FLAG, "-w": "SECONDS"}

# verb: (module, operands, what it does)
VERBS = {
    "up": ("steer", "NAME...|--all", "start, and wait until it is ready; starts a scanner where none runs"),
    "down": ("steer", "NAME...|--all", "stop, and wait until it is down"),
    "once": ("steer", "NAME...|--all", "start, and do not restart when it ends"),
    "restart": ("steer", "NAME...|--all", "stop and start with the files as they are now"),
    "reset-failed": ("steer", "[NAME...]", "let those that have failed for good be down: nothing is started"),
    "exit": ("steer", "NAME...|--all", "stop, and end the supervisor; with --all the scanner too"),
    "status": ("status", "[NAME...] [--json] [-o FIELD,...] [-q]", "what runs; with one NAME all about it"),
    "top": ("top", "[NAME...] [--sort COLUMN]", "what each uses of its limits, again and again; keys to sort, restart, follow a log"),
    "why": ("why", "[NAME...] [-n DEATHS] [--json]", "how it last ended, its last words, and what comes next"),
    "wait": ("wait", "NAME... [ready|up|down]", "wait until it is that; nothing is sent"),
    "logs": ("logs", "[NAME...] [-f] [-n LINES] [--since TIME]", "what services wrote, by time"),
    "events": ("events", "[NAME...] [-f] [-n LINES]", "what ljsv did, a line of JSON an event"),
    "enter": ("enter", "NAME [COMMAND...]", "run a command in its jail, without one a shell"),
    "image": ("image", "build|import|export|ls|inspect|tag|rm|gc|verify", "make images of what you have, and the store that keeps them: ljsv image help"),
    "deploy": ("deploy", "NAME --image IMAGE", "run it with another image; what was comes back if that is not ready in its time"),
    "rollback": ("rollback", "NAME [--to GENERATION]", "back to the generation before, image and overlay; the one that is left is kept"),
    "overlay": ("overlay", "diff|ls|snapshot|restore|reset NAME", "what it has written: against its image; copies of it; back to one; moved aside"),
    "explain": ("explain", "NAME", "every step of its jail, before it is taken"),
    "metrics": ("metrics", "[NAME...] [--to FILE]", "states, restarts, memory, processor and so on, as Prometheus reads them"),
    "lint": ("lint", "[DIR|NAME...] [--json]", "check service directories without starting anything"),
    "doctor": ("doctor", "[--json]", "try what ljsv needs of this machine, and say what is missing"),
    "new": ("new", "[NAME...] [--run COMMAND]", "make a service directory that runs COMMAND, from a template, or from what another supervisor has"),
    "enable": ("enable", "NAME...", "let it start by itself (remove the down file)"),
    "disable": ("disable", "NAME...", "do not let it start by itself (make the down file)"),
    "enable-boot": ("enable_boot", "[--user] [--print] [--init INIT] [--root DIR]", "have the machine's init, or with --user your systemd, start a scanner"),
    "remove": ("remove", "NAME...", "stop it, and delete its service directory; --yes off a terminal"),
    "purge": ("purge", "NAME...", "delete its state and logs; --yes off a terminal"),
    "scan": ("scan", "[DIR] [--daemon] [--log-cap SIZE]", "run a scanner, in the foreground or in the background"),
    "upgrade": ("upgrade", "", "replace scanner and supervisors by the installed code; services are not touched"),
    "init": ("init", "[--explain]", "be process 1 of a machine or a container"),
    "poweroff": ("power", "[--force]", "stop all services, and power off; asks `ljsv init`"),
    "reboot": ("power", "[--force]", "the same, and start again"),
    "halt": ("power", "[--force]", "the same, and stay off until somebody comes"),
    "completion": ("completion", "bash|zsh|fish", "print the completion for that shell"),
    "help": ("help", "[VERB]", "this text, or that of one verb"),
    **{
        verb: ("signals", "NAME...|--all", f"send {what}")
        for verb, what in (
            ("pause", "STOP"), ("cont", "CONT"), ("hup", "HUP"), ("alarm", "ALRM"), ("interrupt", "INT"),
            ("quit", "QUIT"), ("usr1", "USR1"), ("usr2", "USR2"), ("term", "TERM"), ("kill", "KILL"),
        )
    },
}
ALIASES = {"start": "up", "stop": "down", "list": "status", "ps": "status", "reload": "hup", "log": "logs", "tail": "logs", "exec": "enter", "shell": "enter"}
# Whoever reads no further has seen enough of these: they end. All others act, and do so to their end.
READING = frozenset({"status", "top", "why", "logs", "events", "enter", "explain", "metrics", "lint", "doctor", "completion", "help"})


INIT_NAMES = ("init", "ljsv-init")  # /sbin/init may be a link to ljsv
BY_NAME = ("poweroff", "reboot", "halt")


def main() -> int:
    """The command; its exit code."""
    name = os.path.basename(sys.argv[0])
    if os.getpid() == 1 and (name in INIT_NAMES or sys.argv[1:2] == ["init"]) and "--explain" not in sys.argv:
        from ljsv.cli.process_one import be_init

        be_init(sys.argv[1:] if name in INIT_NAMES else sys.argv[2:])
    open_standard_files()
    if sys.stdout:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a path need not be UTF-8
    try:
        code = _run(["init"] * (name in INIT_NAMES) + [name] * (name in BY_NAME) + sys.argv[1:])
        if sys.stdout:
            sys.stdout.flush()
        unsaid = getattr(sys.stdout, "error", None)
        if unsaid and not isinstance(unsaid, BrokenPipeError):
            raise unsaid
        return code
    except Fault as fault:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        print_fault(fault)
        return fault.exit_code
    except KeyboardInterrupt as interrupt:
        return int(interrupt.args[0]) if interrupt.args else EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_OK
    except OSError as error:
        if os.environ.get("LJSV_DEBUG") == "1":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # perhaps it was the output: do not try it again at exit
        from ljsv.cli.guess import as_typed

        if isinstance(error, PermissionError) and os.geteuid():
            print_fault(Fault.from_os("not permitted", error, hint=f"sudo {as_typed()}  # if it is root's"))
        else:
            print_fault(fault_of(error, f"LJSV_DEBUG=1 {as_typed()}  # shows where"))
        return EXIT_SYSTEM


def _run(arguments: list[str]) -> int:
    given, rest = options.parse(arguments, GLOBAL_OPTIONS, stop_at_operand=True)
    if given.has("--version"):
        from ljsv import __version__

        print(f"ljsv {__version__}")
        return EXIT_OK
    if rest[:1] == ["help"] and len(rest) > 1:
        rest = [rest[1], "--help"]
    if given.has("-h") or given.has("--help") or rest[:1] == ["help"]:
        print(help_text(), end="")
        return EXIT_OK
    if not rest:
        print(help_text(), end="", file=sys.stderr)
        raise options.usage("which verb?", hint="ljsv status")
    given_svdir[:] = [given.get("--svdir")] if given.has("--svdir") else []
    verb = ALIASES.get(rest[0], rest[0])
    if verb not in VERBS:
        raise _unknown(rest[0], rest[1:])
    module = import_module(f"ljsv.cli.{VERBS[verb][0]}_verb")
    parsed, words = options.parse(rest[1:], {**GLOBAL_OPTIONS, **module.OPTIONS}, stop_at_operand=getattr(module, "STOPS_AT_OPERAND", False))
    parsed.operands += words
    if parsed.has("-h") or parsed.has("--help"):
        print(verb_help(verb, module.OPTIONS), end="")
        return EXIT_OK
    for name, value in given.values.items():
        parsed.values.setdefault(name, value)
    if verb not in READING:
        from ljsv.cli.output import Unread

        sys.stdout, sys.stderr = Unread(sys.stdout), Unread(sys.stderr)
    return int(module.run(verb, parsed))


def verb_help(verb: str, known: dict[str, str]) -> str:
    from ljsv.cli.manual import describe_option

    lines = [f"usage: ljsv {verb} {VERBS[verb][1]}".rstrip(), "", f"  {VERBS[verb][2]}"]
    lines += [""] * bool(known)
    lines += [f"  {f'{name} {value}':22}  {describe_option(verb, name)}".rstrip() for name, value in known.items()]
    same = [alias for alias, of in ALIASES.items() if of == verb]
    lines += ["", f"also: {', '.join(f'ljsv {alias}' for alias in same)}"] if same else []
    return "\n".join(lines) + "\n"


def help_text() -> str:
    """All verbs, in columns that fit into 80; a line for all that send a signal."""
    signals = [verb for verb, (module, _, _) in VERBS.items() if module == "signals"]
    lines = ["usage: ljsv [--svdir DIR] [-w SECONDS] VERB [NAME...]", ""]
    for verb, (module, operands, what) in VERBS.items():
        if module != "signals":
            lines += wrap(f"{verb} {'' if len(verb + operands) > 21 else operands}", what)
    lines += wrap("SIGNAL NAME...|--all", f"send it: {' '.join(signals)}")
    lines += ["", *wrap("ljsv help VERB", "its operands and options; ljsv(1) and ljsv-service(5) have it all")]
    lines += ["", "exit: 0 done, 1 not reached, 3 not up (status), 4 no such service,", "      100 usage, 102 nobody supervises, 111 system"]
    return "\n".join(lines) + "\n"


def wrap(head: str, text: str, width: int = 80, indent: int = 26) -> list[str]:
    """`  HEAD   TEXT`, the text in its column over as many lines as it needs."""
    lines = [f"  {head:{indent - 3}} " if len(head) < indent - 3 else f"  {head} "]
    for word in text.split():
        if len(lines[-1]) + len(word) > width - 1:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * indent)
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]


def _unknown(word: str, rest: list[str]) -> Fault:
    """What is typed there by people who know a neighbour of ours, or the closest verb, as a command to paste."""
    from ljsv.cli.guess import closest, retyped
    from ljsv.cli.habits import HABITS

    if word in HABITS:
        names = " ".join(name for name in rest if not name.startswith("-"))
        return options.usage(f"no such verb: {word}", hint=HABITS[word].replace("NAME", names or "NAME"))
    close = closest(word, [*VERBS, *ALIASES])
    if not close:
        return options.usage(f"no such verb: {word}", hint="ljsv help")
    return options.usage(f"no such verb: {word}: did you mean {close}?", hint=retyped(word, close))

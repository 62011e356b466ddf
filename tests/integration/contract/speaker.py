"""The program that plays `run` and `finish`: says when it starts and which signals it gets, in lines on standard output.

It waits for signals with sigwait(3), all of them blocked, so none is lost and
none is late. TERM ends it, by TERM, unless it is deaf. As `finish` it says its
two arguments, and TERM (sent by the driver) ends it with exit 0.
"""

from __future__ import annotations

_SOURCE = """#!/usr/bin/python3 -IS
import _signal, os, sys
NAMES = {1: "HUP", 2: "INT", 3: "QUIT", 10: "USR1", 12: "USR2", 14: "ALRM", 15: "TERM", 18: "CONT"}
_signal.pthread_sigmask(_signal.SIG_SETMASK, NAMES)
def say(*words):
    os.write(1, " ".join(("ROLE:", *words)).encode() + b"\\n")
say("started", *sys.argv[1:])
while True:
    number = _signal.sigwait(NAMES)
    say(NAMES[number])
    if number == 15 and not DEAF:
        if "ROLE" == "finish":
            sys.exit(0)
        _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.kill(os.getpid(), number)
"""


def speaker(role: str = "run", *, is_deaf: bool = False) -> str:
    """The text of the program."""
    return _SOURCE.replace("ROLE", role).replace("DEAF", str(is_deaf))


# A run that fails at once until the driver makes `hold`; then it is a speaker, which lies beside it.
FAILS_FIRST = '#!/bin/sh\n[ -e hold ] && exec ./speaker\necho "run: failed"\nexit 1\n'

"""`ljsv logs`: what a service wrote, from its log files; -f goes on, woken by the supervisor."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_OK, Fault

OPTIONS = {"-f": "", "--follow": "", "-n": "LINES", "--lines": "LINES"}
DEFAULT_LINES = 100
BLOCK = 1 << 16
LOOK_AGAIN_S = 1.0


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    names = context.names()
    if len(names) != 1:
        raise usage("the log of one service, please")
    name = names[0]
    options.number("-n", 0) if options.get("-n") != "all" else None
    path = context.detail(name).get("log") or f"{context.places.log_of(name)}/current"
    if not os.path.exists(path) and not options.has("-f"):
        raise Fault("no log yet", path, "it has written nothing", service=name, hint=f"ljsv status {name}", exit_code=1)
    show(path, options, f"{context.supervise_of(name)}/event")
    return EXIT_OK


def show(path: str, options: Options, event_dir: str) -> None:
    """The last lines of a log and the files rotated before it; with -f what comes after."""
    text = options.get("-n") or options.get("--lines") or str(DEFAULT_LINES)
    wanted = None if text == "all" else int(options.number("-n" if options.has("-n") else "--lines", DEFAULT_LINES))
    out = sys.stdout.buffer
    files = [f for f in (*_rotated(path), path) if os.path.exists(f)]
    if wanted is None:
        for name in files:
            _copy(open(name, "rb"), out)
    else:
        out.writelines(_last(files, wanted))
    out.flush()
    if options.has("-f") or options.has("--follow"):
        _follow(path, out, event_dir)


def _rotated(path: str) -> list[str]:
    """The files before `current`, oldest first."""
    prefix = os.path.basename(path) + "."
    names = os.listdir(os.path.dirname(path)) if os.path.isdir(os.path.dirname(path)) else []
    numbers = [int(name[len(prefix) :]) for name in names if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    return [f"{path}.{number}" for number in sorted(numbers, reverse=True)]


def _copy(file: BinaryIO, out: BinaryIO) -> None:
    with file:
        while block := file.read(BLOCK):
            out.write(block)


def _last(files: list[str], wanted: int) -> list[bytes]:
    """The last `wanted` lines over all files, newest file first, reading no more than needed."""
    lines: list[bytes] = []
    for name in reversed(files):
        with open(name, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end > 0 and data.count(b"\n") <= wanted - len(lines):
                begin = max(0, end - BLOCK)
                file.seek(begin)
                data = file.read(end - begin) + data
                end = begin
            found = data.splitlines(keepends=True)
            lines = found[-(wanted - len(lines)) :] + lines if wanted > len(lines) else lines
        if len(lines) >= wanted:
            break
    return lines[-wanted:] if wanted else []


def _follow(path: str, out: BinaryIO, event_dir: str) -> None:
    """What is appended from now on; a rotation is followed. Ends with the reader or Ctrl-C."""
    file: BinaryIO | None = open(path, "rb") if os.path.exists(path) else None
    if file:
        file.seek(0, os.SEEK_END)
    with Subscription("log") as subscription:
        subscription.add(event_dir)
        while True:
            if file and (block := file.read(BLOCK)):
                out.write(block)
                out.flush()
                continue
            following = _next_file(file, path)
            if following is None:
                subscription.wait(LOOK_AGAIN_S)
                continue
            if file:
                out.write(file.read())  # what came between our last look and the rotation
                file.close()
            file = following


def _next_file(file: BinaryIO | None, path: str) -> BinaryIO | None:
    """What was begun after the file that is held: several rotations may have passed. None while it is the newest."""
    held = os.fstat(file.fileno()) if file else None
    if file and held and held.st_size < file.tell():
        file.seek(0)  # it was cut back
    newer: BinaryIO | None = None
    for name in (path, *reversed(_rotated(path))):
        try:
            candidate = open(name, "rb")
        except OSError:
            continue
        if held and os.path.samestat(os.fstat(candidate.fileno()), held):
            candidate.close()
            return newer
        if newer:
            newer.close()
        newer = candidate
        if held is None:
            return newer
    return newer

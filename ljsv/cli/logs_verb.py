"""`ljsv logs`: what services wrote, from their log files; -f goes on, woken by the supervisors.

One service's lines come as they are in the file. Those of several are put in
order by their time stamps, each with the service's name before it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from heapq import merge
from itertools import chain
from typing import BinaryIO

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import is_service_name
from ljsv.supervise.logfile import NOT_REGULAR, open_regular

OPTIONS = {"-f": "", "--follow": "", "-n": "LINES", "--lines": "LINES", "--since": "TIME", "--all": ""}
DEFAULT_LINES = 100
BLOCK = 1 << 16
LISTING_TRIES = 10
LOOK_AGAIN_S = 1.0
KEY_SIZE = 26  # 2026-11-23T18:05:07.123456
EVENT_BEGIN = b'{"time": "'  # of a line of the journal
SINCE_ALLOWED = "10m, 2h, 1d (that long ago), or a time in UTC: 2026-11-23T18:05 or 18:05"
Line = tuple[bytes, int, bytes]  # key, number of the log, the line


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    is_many = len(options.operands) != 1
    names = _named(context) if options.operands or options.has("--all") else context.all_names()
    is_following = options.has("-f") or options.has("--follow")
    wanted = Wanted(options)
    logs = []
    for name in names:
        path = _find(context, name, is_said=not is_many)
        log = LogReader(path, f"{context.supervise_of(name)}/event", f"{name}: " if is_many else "")
        if log.file or is_following:
            logs.append(log)
        elif not is_many:
            raise _no_log(context, name, path)
    if not logs:
        print(f"ljsv: no logs of services in {context.shown}", file=sys.stderr)
        return EXIT_NOT_REACHED if names else EXIT_OK
    show(logs, wanted, is_following=is_following)
    return EXIT_OK


def _named(context: Context) -> list[str]:
    """The services that were named, or all; also one that was removed and has left its log. Fault for another."""
    faults: list[Fault] = []
    names = context.names(faults)
    for fault in faults:
        if not is_service_name(fault.service) or not os.path.isdir(context.places.log_of(fault.service)):
            raise fault
        names.append(fault.service)
    return names


class Wanted:
    """Which lines: the last `count` (None: all) of those since `since` (a stamp's beginning) that `accept` takes."""

    def __init__(self, options: Options, accept: Callable[[bytes], bool] | None = None) -> None:
        option = "-n" if options.has("-n") else "--lines"
        text = options.get(option)
        self.since = parse_since(options.get("--since")) if options.has("--since") else b""
        self.since_s = 0.0 if not self.since else _seconds(self.since)
        self.accept = accept
        is_all = text == "all" or (not text and bool(self.since))
        self.count = None if is_all else int(options.number(option, DEFAULT_LINES))

    @property
    def is_plain(self) -> bool:
        return not self.since and self.accept is None


def parse_since(text: str) -> bytes:
    """A stamp as in the logs, for "10m", "2026-11-23T18:05" or "18:05" (UTC)."""
    from datetime import UTC, datetime, timedelta

    from ljsv.service.units import parse_duration

    now = datetime.now(UTC)
    try:
        try:
            moment = now - timedelta(seconds=parse_duration(text))
        except ValueError:
            moment = datetime.fromisoformat(text if "-" in text else f"{now:%Y-%m-%d}T{text}")
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        raise usage(f"--since: found {text!r}", hint=f"allowed: {SINCE_ALLOWED}") from None
    return f"{moment.year:04}{moment:-%m-%dT%H:%M:%S.%f}".encode()


def _seconds(stamp: bytes) -> float:
    from datetime import UTC, datetime

    return datetime.fromisoformat(stamp.decode()).replace(tzinfo=UTC).timestamp()


def _find(context: Context, name: str, *, is_said: bool) -> str:
    """Where the log is. One that a log service writes is its program's business: what it does is said."""
    path = context.detail(name).get("log") or f"{context.places.log_of(name)}/current"
    script = f"{context.svdir}/{name}/log/run"
    if is_said and os.path.lexists(script):
        print(f"ljsv: {name}: its log is kept by its log service, {script}{_last_exec(script)}; shown here: {path}", file=sys.stderr)
    return path


def _last_exec(script: str) -> str:
    """` (exec svlogd -tt .)`: what it says that it runs."""
    try:
        with open(script, "rb") as file:
            lines = file.read(BLOCK).decode(errors="replace").splitlines()
    except OSError:
        return ""
    found = next((line.strip() for line in reversed(lines) if line.strip().startswith("exec ")), "")
    return f" ({found})" if found.isprintable() and found else ""


def _no_log(context: Context, name: str, path: str) -> Fault:
    if os.path.lexists(f"{context.svdir}/{name}/log/run"):
        return Fault("no log here", path, "its log service keeps it, perhaps elsewhere", service=name, hint=f"cat {quote(f'{context.svdir}/{name}/log/run')}", exit_code=EXIT_NOT_REACHED)
    try:
        where = context.read_service(name).policy.log.to
    except Fault:
        where = "file"
    if where != "file":
        kept, hint = ("nothing is kept", f"ljsv status {quote(name)}") if where == "none" else ("it is in the kernel's log", f"dmesg | grep {quote(f' {name}: ')}")
        return Fault("no log", f'log.to = "{where}" in {context.svdir}/{name}/policy', kept, service=name, hint=hint, exit_code=EXIT_NOT_REACHED)
    return Fault("no log yet", path, "it has written nothing", service=name, hint=f"ljsv status {quote(name)}", exit_code=EXIT_NOT_REACHED)


# ---- one log and its rotated files


class LogReader:
    """A log as it was when this was made, for the past, and from there on what is appended.

    The newest file is opened first: a rotation that comes in between moves it
    among the others, where it is known by its inode.
    """

    def __init__(self, path: str, event_dir: str, prefix: str = "") -> None:
        self.path = path
        self.event_dir = event_dir
        self.prefix = prefix.encode()
        self.file = _open_newest(path)
        self.end = os.fstat(self.file.fileno()).st_size if self.file else 0
        self._older = _find_older(path, _inode(self.file))
        if self.file:
            self.file.seek(self.end)
        self._rest = b""

    def _open_older(self, path: str, inode: int) -> BinaryIO | None:
        """By the name it had, or the one it has now; None where it is gone."""
        for name in chain((path,), _names(self.path)):
            file = _open(name)
            if file and _inode(file) == inode:
                return file
            if file:
                file.close()
        return None

    def blocks(self, since_s: float = 0.0) -> Iterator[bytes]:
        """All that is there, oldest first; files that were last written before `since_s` are left out."""
        for path, inode in self._older:
            file = self._open_older(path, inode)
            if file:
                with file:
                    while os.fstat(file.fileno()).st_mtime >= since_s and (block := file.read(BLOCK)):
                        yield block
        if self.file:
            at = 0
            while at < self.end and (block := os.pread(self.file.fileno(), min(BLOCK, self.end - at), at)):
                yield block
                at += len(block)

    def last(self, count: int) -> list[bytes]:
        """The last `count` lines over all files, newest file first, reading no more than needed."""
        lines: list[bytes] = []
        if self.file:
            lines = _last_of(self.file.fileno(), self.end, count)
        for path, inode in reversed(self._older):
            if len(lines) >= count:
                break
            file = self._open_older(path, inode)
            if file:
                with file:
                    lines = _last_of(file.fileno(), file.seek(0, os.SEEK_END), count - len(lines)) + lines
        return lines

    def lines(self, wanted: Wanted) -> Iterator[bytes]:
        """The lines of the past, whole but perhaps for the last one."""
        if wanted.is_plain and wanted.count is not None:
            yield from self.last(wanted.count)
            return
        rest = b""
        for block in self.blocks(wanted.since_s):
            *whole, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in whole)
        if rest:
            yield rest

    def keep_rest(self, line: bytes) -> None:
        """The beginning of a line whose end is still to come."""
        self._rest = line

    def new_lines(self) -> list[bytes]:
        """What was appended since, in whole lines."""
        *whole, self._rest = (self._rest + self.read()).split(b"\n")
        return [line + b"\n" for line in whole]

    def read(self) -> bytes:
        """What was appended since, as it is. A rotation is followed."""
        data = self.file.read(BLOCK) if self.file else b""
        if data:
            return data
        following = _next_file(self.file, self.path)
        if following is None:
            self._follow_name()
            return b""
        if self.file:
            data = self.file.read()  # what came between our last look and the rotation
            self.file.close()
        self.file = following
        return data + following.read(BLOCK)

    def _follow_name(self) -> None:
        """The log lies in another directory now, where its service has another name."""
        if self.file:
            with suppress(OSError):
                now_in = os.path.dirname(os.readlink(f"/proc/self/fd/{self.file.fileno()}"))
                if os.fstat(self.file.fileno()).st_nlink and os.path.dirname(self.path) != now_in:
                    self.path = f"{now_in}/{os.path.basename(self.path)}"


def _open(path: str) -> BinaryIO | None:
    """None where there is none, nor anything that a log service may have put in its place."""
    try:
        return open(open_regular(path), "rb")
    except OSError as error:
        if error.errno in {errno.ENOENT, *NOT_REGULAR}:
            return None
        raise


def _open_newest(path: str) -> BinaryIO | None:
    """`current`, or in the middle of a rotation what it was a moment ago."""
    return next((file for file in map(_open, chain((path, f"{path}.1"), _names(path))) if file), None)


def _find_older(path: str, held: int) -> list[tuple[str, int]]:
    """(name, inode) of the files that are older than the one of inode `held` (0: all of them), the oldest first."""
    found: dict[int, str] = {}
    is_passed = not held
    for name in _names(path):
        inode = _inode_at(name)
        if inode == held:
            found, is_passed = {}, True  # what came before it is newer
        elif inode:
            found.setdefault(inode, name)
    return [(name, inode) for inode, name in reversed(found.items())] if is_passed else []


def _inode(file: BinaryIO | None) -> int:
    return os.fstat(file.fileno()).st_ino if file else 0


def _inode_at(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _names(path: str) -> Iterator[str]:
    """`current` and the files before it, the newest first: current.N as we name them, @STAMP.s and .u as svlogd does.

    A rotation moves each to the next number: in this direction one may come twice, and none is missed.
    """
    yield path
    directory, prefix = os.path.dirname(path), os.path.basename(path) + "."
    names = os.listdir(directory) if os.path.isdir(directory) else []
    listed = [int(name[len(prefix) :]) for name in names if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    number = 0
    for number in sorted({one + near for one in listed for near in (-1, 0, 1)} - {0}):
        yield f"{path}.{number}"  # a list that is made meanwhile may lack one
    while any(os.path.exists(f"{path}.{later}") for later in (number + 1, number + 2)):
        number += 1
        yield f"{path}.{number}"  # moved there since
    yield from (f"{directory}/{name}" for name in sorted(names, reverse=True) if name.startswith("@") and name[-2:] in {".s", ".u"})


def _last_of(fd: int, end: int, count: int) -> list[bytes]:
    """The last lines of the first `end` bytes."""
    data = b""
    while end > 0 and data.count(b"\n") <= count:
        begin = max(0, end - BLOCK)
        data = os.pread(fd, end - begin, begin) + data
        end = begin
    lines = data.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return whole[-count:] if count else []


def _next_file(file: BinaryIO | None, path: str) -> BinaryIO | None:
    """What was begun after the file that is held: several rotations may have passed. None while it is the newest."""
    held = os.fstat(file.fileno()) if file else None
    if file and held and held.st_size < file.tell():
        file.seek(0)  # it was cut back
    for _ in range(LISTING_TRIES):
        is_removed = file and not os.fstat(file.fileno()).st_nlink
        newer, is_found = _next_of(held, path)
        if is_found or held is None or is_removed:
            return newer  # what is held is in the list, or was removed since: then the oldest comes next
        if newer:
            newer.close()
    return None


def _next_of(held: os.stat_result | None, path: str) -> tuple[BinaryIO | None, bool]:
    """(the file after the one that is held, or the oldest; whether that was found). A list made during a rotation may lack it."""
    newer: BinaryIO | None = None
    for name in _names(path):
        candidate = _open(name)
        if candidate is None:
            continue
        if held and os.path.samestat(os.fstat(candidate.fileno()), held):
            candidate.close()
            return newer, True
        if newer:
            newer.close()
        newer = candidate
    return newer, False


# ---- showing


class Harmless:
    """A terminal, without what a service could do to it: of all control characters only tab, end of line and colours (SGR, ECMA-48 8.3.117) come through."""

    CONTROLS = re.compile(rb"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]")
    REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()

    def __init__(self, terminal: BinaryIO) -> None:
        self._terminal = terminal
        self.flush = terminal.flush

    def write(self, data: bytes) -> None:
        self._terminal.write(self.CONTROLS.sub(self.REPLACEMENT, data))

    def writelines(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.write(part)


def show(logs: list[LogReader], wanted: Wanted, *, is_following: bool) -> None:
    """The past of these logs in the order of time; with `is_following` what comes after, until the reader goes or Ctrl-C."""
    out = Harmless(sys.stdout.buffer) if sys.stdout.isatty() else sys.stdout.buffer
    is_raw = len(logs) == 1 and wanted.is_plain and not logs[0].prefix
    if is_raw:
        past: Iterable[bytes] = logs[0].blocks() if wanted.count is None else logs[0].last(wanted.count)
        out.writelines(past)
    else:
        _show_past(logs, wanted, out, is_following=is_following)
    out.flush()
    if is_following:
        _follow(logs, wanted, out, is_raw=is_raw)


def _show_past(logs: list[LogReader], wanted: Wanted, out: BinaryIO | Harmless, *, is_following: bool) -> None:
    lines: Iterable[Line] = merge(*(_keyed(log, number, wanted) for number, log in enumerate(logs)))
    if wanted.count is not None:
        lines = deque(lines, maxlen=wanted.count)
    for _, number, line in lines:
        if line.endswith(b"\n"):
            out.write(logs[number].prefix + line)
        elif is_following:
            logs[number].keep_rest(line)
        else:
            out.write(logs[number].prefix + line + b"\n")


def _keyed(log: LogReader, number: int, wanted: Wanted) -> Iterator[Line]:
    key = b""
    for line in log.lines(wanted):
        key = key_of(line) or key
        if key >= wanted.since and (wanted.accept is None or wanted.accept(line)):
            yield key, number, line


def key_of(line: bytes) -> bytes:
    """What lines are put in order by: the stamp's time; b"" where there is none."""
    line = line.removeprefix(EVENT_BEGIN)
    is_stamp = line[4:5] == b"-" and line[13:14] == b":" and line[10:11] in {b"T", b"_"}
    return line[:10] + b"T" + line[11:KEY_SIZE].split(b" ", 1)[0] if is_stamp else b""


def _follow(logs: list[LogReader], wanted: Wanted, out: BinaryIO | Harmless, *, is_raw: bool) -> None:
    keys = [b""] * len(logs)
    with Subscription("log") as subscription:
        unheard = list(logs)
        while True:
            unheard = [log for log in unheard if not subscription.add(log.event_dir)]
            if is_raw:
                data = logs[0].read()
            else:
                data = b"".join(line for _, _, line in sorted(_new(logs, keys, wanted), key=lambda item: item[:1]))
            if data:
                out.write(data)
                out.flush()
            else:
                subscription.wait(LOOK_AGAIN_S)


def _new(logs: list[LogReader], keys: list[bytes], wanted: Wanted) -> Iterator[Line]:
    for number, log in enumerate(logs):
        for line in log.new_lines():
            keys[number] = key_of(line) or keys[number]
            if wanted.accept is None or wanted.accept(line):
                yield keys[number], number, log.prefix + line

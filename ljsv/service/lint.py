"""What `ljsv lint` looks for in a service directory, beyond that it can be read.

`View` is what a jail sees of files; the checks take values and views, and
give back findings. They look and never write, run or wait: a FIFO is not
read, and no path is followed out of the mount that it lies in (openat2).
Sources: execve(2), fs/binfmt_script.c of the kernel, user_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from difflib import get_close_matches

from ljsv.errors import quote
from ljsv.frozen import Frozen
from ljsv.linux.elf import loaders_of
from ljsv.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from ljsv.service.circle import find_circle

FAULT, WARNING, NOTE = "fault", "warning", "note"
SERVICE_AT = "/run/service"
LINKS_MAX = 40  # as the kernel follows them
INTERPRETERS_MAX = 5
HEAD_SIZE = 65536
LOW_PORT = 80
LINE_MAX = 255  # what the kernel reads of a first line, less its newline
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
KNOWN = frozenset({"run", "rootfs", "rootfs.toml", "limits", "policy", "finish", "check", "control", "env", "down", "log", "supervise"})
CONTROLS = frozenset("udxtpckhaiq12")
# What the kernel asks of the host's own user namespace, whatever a jail holds.
OF_THE_HOST = frozenset({
    "LINUX_IMMUTABLE", "IPC_LOCK", "SYS_MODULE", "SYS_RAWIO", "SYS_PACCT", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "AUDIT_READ", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "PERFMON", "BPF",
})  # fmt: skip
# What it means to have them.
OPEN_DEVICES = {
    "mem": "all of the machine's memory", "kmem": "the kernel's memory", "port": "all of the machine's ports", "kmsg": "the kernel's log, of all services",
    "uinput": "a keyboard that types on the machine's consoles", "vhost-net": "a part of the kernel that was not made for jails", "console": "what others see as the machine's console",
}  # fmt: skip
FILTERED = frozenset({"SYS_MODULE", "SYS_RAWIO", "SYS_PTRACE", "SYS_PACCT", "SYS_BOOT", "SYS_TIME", "SYSLOG", "PERFMON", "BPF", "DAC_READ_SEARCH"})
OF_THE_NETWORK = frozenset({"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"})
_LEFTOVER = re.compile(r"\.?#?(?P<stem>[\w.]+?)(~|#|\.(bak|orig|rej|sw[a-p]|save|old|tmp|new|dpkg-\w+|rpm(new|save)))$")
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "busybox"})
_EXEC_LINE = re.compile(r"^[ \t]*exec[ \t]+(?P<program>(?:\./|/)[\w./+-]+|[A-Za-z][\w.+-]*)(?=[ \t]|$)")
_PORT_OPTION = re.compile(r"--port[= ]\"?(\d{1,5})\b")
_FILLED_LATER = ("/dev/", "/proc/", "/run/", "/tmp/", "/var/")


class Finding(Frozen):
    """`level`: a fault keeps the service from doing what its files say; a warning is likely a mistake; a note is only said."""

    level: str
    text: str
    hint: str = ""


# ---- what the jail sees


class View:
    """Files as a jail sees them: mounts by place, the topmost source first, and symlinks that the jail is given.

    A place without sources is an empty file system. As root (`is_root`) the
    service directory's files belong to nobody in the jail.
    """

    def __init__(self, *, is_root: bool) -> None:
        self.is_root = is_root
        self._mounts: dict[str, tuple[str, ...]] = {"": ()}
        self._read_only: set[str] = set()
        self._links: dict[str, str] = {}
        self._fds: dict[str, int] = {}

    def mount(self, at: str, *sources: str, is_read_only: bool = False) -> str:
        """Put `sources` at a place, which is found through the symlinks of what is there already.

        What keeps it from being put there: the read-only mount in which the
        place is missing; "" for nothing.
        """
        parent, _, name = at.rstrip("/").rpartition("/")
        try:
            fd, place = self.open(parent)
            self._close(fd)
        except OSError:
            place = parent
        place = f"{place.rstrip('/')}/{name}" if name else ""
        above = self._mount_of(place)
        missing_in = above if above in self._read_only and above != place and not is_there(self, place) else ""
        self._mounts[place] = sources
        (self._read_only.add if is_read_only else self._read_only.discard)(place)
        return missing_in

    def _mount_of(self, place: str) -> str:
        """Where the mount is that a place lies in."""
        while place not in self._mounts:
            place = place.rpartition("/")[0]
        return place

    def link(self, at: str, target: str) -> None:
        self._links[at] = target

    def open(self, path: str) -> tuple[int, str]:
        """(an O_PATH descriptor, its place after all symlinks). OSError where the jail has no such file."""
        rest, place, links = deque(path.split("/")), "", 0
        fd = -1
        while rest:
            part = rest.popleft()
            if part in {"", "."}:
                continue
            if fd >= 0:
                os.close(fd)
                fd = -1
            if part == "..":
                place = place.rpartition("/")[0]
                continue
            candidate = f"{place}/{part}"
            target = self._links.get(candidate, "")
            if not target:
                fd = self._look(candidate)
                target = os.readlink("", dir_fd=fd) if fd >= 0 and stat.S_ISLNK(os.fstat(fd).st_mode) else ""
            if not target:
                place = candidate
                continue
            links += 1
            if links > LINKS_MAX:
                self._close(fd)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            rest.extendleft(reversed(target.split("/")))
            place = "" if target.startswith("/") else place
        return (fd if fd >= 0 else self._look(place)), place or "/"

    def _look(self, place: str) -> int:
        """What is at a place whose parents are no symlinks; -1 for a directory that only leads to a mount."""
        at = self._mount_of(place)
        for source in self._mounts[at]:
            try:
                fd = self._source(source)
                if place != at:
                    fd = openat2(fd, place[len(at) :], os.O_PATH | os.O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
                else:
                    fd = os.dup(fd)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                    continue
                raise
            entry = os.fstat(fd)
            if stat.S_ISCHR(entry.st_mode) and not entry.st_rdev:  # overlayfs' mark for what was deleted
                os.close(fd)
                break
            return fd
        if any(other.startswith(f"{place}/") for other in (*self._mounts, *self._links)):
            return -1
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)

    def _source(self, source: str) -> int:
        if source not in self._fds:
            self._fds[source] = os.open(source, os.O_PATH | os.O_CLOEXEC)
        return self._fds[source]

    @staticmethod
    def _close(fd: int) -> None:
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- how a script would be executed


def check_script(view: View, name: str, shown: str, path: str) -> Iterator[Finding]:
    """The script `name` of the service directory, executed in the jail; `shown` is its path on the host, `path` the jail's PATH."""
    head = yield from _check_program(view, f"{SERVICE_AT}/{name}", shown, path, shown, 0)
    if head:
        yield from _check_exec_lines(view, head, shown, path)


def _check_program(view: View, at: str, shown: str, path: str, script: str, depth: int) -> Generator[Finding, None, bytes]:
    """Findings for one program of the chain that execve follows; returns a shell script's bytes."""
    try:
        fd, place = view.open(at)
    except OSError as error:
        yield _not_there(error, at, script, depth)
        return b""
    try:
        if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            yield Finding(FAULT, f"{shown}: {place} is not a file", f"see what {script} begins with")
            return b""
        yield from _check_mode(view, fd, place, shown)
        try:
            head, loaders = _read_program(fd)
        except OSError as error:
            yield Finding(NOTE, f"{shown}: not looked into: {place}: {error.strerror}")
            return b""
    finally:
        view._close(fd)
    for loader in loaders:
        yield from _check_loader(view, loader, place, shown)
    if head.startswith(b"#!"):
        return (yield from _check_interpreter(view, head, shown, path, script, depth))
    elif not head.startswith(b"\x7fELF"):
        yield _no_interpreter(head, shown)
    return b""


def _not_there(error: OSError, at: str, script: str, depth: int) -> Finding:
    if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
        return Finding(NOTE, f"{script}: not looked into: {at}: {error.strerror}")
    if depth:
        return Finding(FAULT, f"{script}: the jail has no {at}", f"its first line names {at}, which the rootfs must have")
    return Finding(FAULT, f"{script}: it leads to a file that the jail does not have", f"ls -l {script}; the jail sees the service directory at {SERVICE_AT}")


def _check_mode(view: View, fd: int, place: str, shown: str) -> Iterator[Finding]:
    """Whether the jail's ids may execute it: as root they are others for the service directory."""
    mode = os.fstat(fd).st_mode
    is_ours = place.startswith(f"{SERVICE_AT}/")
    if not mode & 0o111:
        hint = f"chmod +x {shown}" if is_ours else f"name a program in the first line of {shown}, or make {place} of the rootfs executable"
        yield Finding(FAULT, f"{shown}: {'it' if is_ours else place} is not executable (mode {mode & 0o7777:04o})", hint)
    elif view.is_root and is_ours and mode & 0o005 != 0o005:
        yield Finding(FAULT, f"{shown}: the jail's ids may not read and execute it (mode {mode & 0o7777:04o})", f"chmod a+rx {shown}")


def _read_program(fd: int) -> tuple[bytes, tuple[str, ...]]:
    """(the first bytes, an ELF program's loader, if any). `fd` is O_PATH, and of a regular file."""
    read_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not waiting for who has a lease on it
    try:
        head = os.read(read_fd, HEAD_SIZE)
        return head, loaders_of(read_fd, head)
    finally:
        os.close(read_fd)


def _check_loader(view: View, loader: str, place: str, shown: str) -> Iterator[Finding]:
    try:
        view._close(view.open(loader)[0])
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            hint = "a program for another C library or architecture: use one of this root, or a static one"
            yield Finding(FAULT, f"{shown}: {place} wants {loader}, which the jail does not have", hint)


def _check_interpreter(view: View, head: bytes, shown: str, path: str, script: str, depth: int) -> Generator[Finding, None, bytes]:
    line, _, _ = head[2:].partition(b"\n")
    if line.endswith(b"\r"):
        yield Finding(FAULT, f"{shown}: its first line ends in CR LF, and the kernel takes the CR for part of the name", f"sed -i 's/\\r$//' {shown}")
        line = line[:-1]
    if len(line) > LINE_MAX - 2:
        yield Finding(FAULT, f"{shown}: its first line is longer than {LINE_MAX} bytes: the kernel cuts it off", f"shorten the first line of {shown}")
        return b""
    words = os.fsdecode(line).strip(" \t").split(None, 1)
    if not words:
        yield Finding(FAULT, f"{shown}: its first line names no interpreter", f"#!/bin/sh in the first line of {shown}")
        return b""
    interpreter, argument = words[0], words[1].strip() if len(words) > 1 else ""
    if not interpreter.startswith("/"):
        yield Finding(FAULT, f"{shown}: its first line names {interpreter}: the kernel does not look in PATH", f"#!/usr/bin/env {interpreter}")
        return b""
    if depth >= INTERPRETERS_MAX:
        yield Finding(FAULT, f"{shown}: its interpreters are scripts, and more than {INTERPRETERS_MAX}", f"head -n 1 {shown}")
        return b""
    before = yield from _count_faults(_check_program(view, interpreter, script, path, script, depth + 1))
    base = os.path.basename(interpreter)
    if base == "env" and not before:
        yield from _check_env(view, argument, shown, path)
    return head if base in _SHELLS else b""


def _count_faults(findings: Iterator[Finding]) -> Generator[Finding, None, int]:
    """Passes them on; returns how many there were."""
    count = 0
    for finding in findings:
        count += finding.level == FAULT
        yield finding
    return count


def _check_env(view: View, argument: str, shown: str, path: str) -> Iterator[Finding]:
    """`#!/usr/bin/env PROGRAM`: env gets all that follows as one argument, unless it begins with -S."""
    words = argument.removeprefix("-S").split() if argument.startswith("-S") else [argument]
    words = [word for word in words if "=" not in word and not word.startswith("-")]
    if not words or not words[0]:
        return
    if " " in words[0]:
        yield Finding(FAULT, f"{shown}: env looks for a program that is called {words[0]!r}: the kernel passes one argument", f"#!/usr/bin/env -S {argument}")
    elif not _is_in_path(view, words[0], path):
        yield Finding(FAULT, f"{shown}: the jail has no {words[0]} in its PATH ({path})", f"its first line has env look for {words[0]}, which the rootfs must have")


def _is_in_path(view: View, program: str, path: str) -> bool:
    names = [program] if "/" in program else [f"{directory}/{program}" for directory in path.split(":") if directory]
    return any(is_there(view, name) for name in names)


def is_there(view: View, path: str) -> bool:
    """Also where it may not be looked at: no reason to complain."""
    try:
        view._close(view.open(path)[0])
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}
    return True


def _no_interpreter(head: bytes, shown: str) -> Finding:
    hint = f"#!/bin/sh in the first line of {shown}"
    if not head:
        return Finding(FAULT, f"{shown}: it is empty", hint)
    if head.startswith(BYTE_ORDER_MARK):
        return Finding(FAULT, f"{shown}: it begins with a byte order mark: the kernel does not see its first line", f"sed -i '1s/^\\xef\\xbb\\xbf//' {shown}")
    if head.lstrip().startswith(b"#!"):
        return Finding(FAULT, f"{shown}: the #! is not at its very beginning", f"take out what stands before #! in {shown}")
    return Finding(FAULT, f"{shown}: neither a program nor a script: it does not begin with #!", hint)


def _check_exec_lines(view: View, head: bytes, shown: str, path: str) -> Iterator[Finding]:
    """`exec PROGRAM` in a shell script, where that is a plain word: whether the jail has it."""
    text = head.decode(errors="replace")
    has_own_path = re.search(r"\bPATH=", text) is not None
    for number, line in enumerate(text.split("\n"), 1):
        match = _EXEC_LINE.match(line)
        if not match:
            continue
        program = match["program"]
        if program.startswith("./"):
            program = f"{SERVICE_AT}/{program[2:]}"
        elif program.startswith(_FILLED_LATER) or ("/" not in program and (has_own_path or _is_builtin(view))):
            continue
        if not _is_in_path(view, program, path):
            where = "" if "/" in program else f" in its PATH ({path})"
            yield Finding(WARNING, f"{shown}: line {number} starts {program}, and the jail has no such program{where}", f"see line {number} of {shown}, and rootfs")


def _is_builtin(view: View) -> bool:
    """Whether the jail's shell is busybox, which may hold the program itself."""
    try:
        fd, place = view.open("/bin/sh")
    except OSError:
        return False
    view._close(fd)
    return place.endswith("/busybox")


# ---- names, needs, rights


def check_names(directory: str, names: Collection[str], *, is_text_rootfs: bool) -> Iterator[Finding]:
    """What lies in a service directory and is not used, though it looks as if it were meant to be."""
    for name in sorted(names):
        if name in KNOWN:
            continue
        path = f"{directory}/{name}"
        meant = _meant(name)
        if not meant:
            continue
        if meant in names:
            yield Finding(WARNING, f"{path}: not used: beside {meant} it is a leftover", f"rm {path}")
        else:
            yield Finding(WARNING, f"{path}: not used: the name is {meant}", f"mv {path} {directory}/{meant}")
    if is_text_rootfs and "rootfs.toml" in names:
        path = f"{directory}/rootfs.toml"
        yield Finding(WARNING, f"{path}: not used: rootfs itself is the text", f"move its keys into {directory}/rootfs")


def _meant(name: str) -> str:
    """Which name of ours was meant, "" for none: an editor's copy, an ending, capitals, a slip of the pen."""
    match = _LEFTOVER.match(name)
    stem = match["stem"] if match else name
    for candidate in (stem, stem.lower(), stem.lstrip(".").partition(".")[0].lower()):
        if candidate in KNOWN - {"supervise"}:
            return candidate
    close = get_close_matches(name.lower(), KNOWN - {"supervise", "down", "env", "log", "run"}, 1, 0.82)
    return close[0] if close else ""


def check_needs(needs: Mapping[str, Collection[str]], known: Collection[str], name: str, shown: str) -> Iterator[Finding]:
    """What the service `name` needs: names that nobody has, and circles. `shown` is its policy file."""
    for need in needs.get(name, ()):
        if need not in known:
            close = get_close_matches(need, known, 1)
            yield Finding(FAULT, f"{shown}: needs {need}, and there is no such service", f"did you mean {close[0]}?" if close else f"grep -n needs {quote(shown)}  # take it out there")
        around = find_circle(need, lambda one: needs.get(one, ()))
        if name not in around and around:
            yield Finding(WARNING, f"{shown}: needs {need}, which waits for itself: {' -> '.join(around)}", f"ljsv lint {need}")
    circle = find_circle(name, lambda one: needs.get(one, ()))
    if circle:
        yield Finding(FAULT, f"{shown}: needs run in a circle: {' -> '.join(circle)}", f"take one of them out of needs in {shown}")


def check_capabilities(
    changes: Iterable[str], defaults: Collection[str], user: str, network: str, port_start: int, shown: str, *, is_privileged: bool = False, has_filter: bool = True
) -> Iterator[Finding]:
    """Capabilities that were asked for and do nothing. `port_start` is the host's net.ipv4.ip_unprivileged_port_start.

    `is_privileged`: it is in the host's user namespace itself; then only the filter may stand in the way.
    """
    for text in changes:
        name = text.lstrip("+-").upper().removeprefix("CAP_")
        if text.startswith("-"):
            if name not in defaults:
                yield Finding(NOTE, f"{shown}: {text} has no effect: it is not in the default set")
        elif user not in {"", "root", "0", "0:0"}:
            yield Finding(WARNING, f"{shown}: {name} has no effect: only the jail's root has capabilities, and user is {user}", f"take {name} out of {shown}")
        elif is_privileged and has_filter and name in FILTERED:
            refused = f"{shown}: {name} has no effect: the system call filter refuses what it is for"
            yield Finding(WARNING, refused, f'seccomp = "off" in {shown}, or take {name} out')
        elif is_privileged:
            continue
        elif name in OF_THE_HOST:
            yield Finding(WARNING, f"{shown}: {name} has no effect in a jail: the kernel asks for it in the host's user namespace", f"take {name} out of {shown}")
        elif name in OF_THE_NETWORK and network == "host" and (name != "NET_BIND_SERVICE" or port_start > LOW_PORT):
            yield Finding(WARNING, f'{shown}: {name} has no effect with network = "host", which belongs to the host\'s user namespace', _network_hint(name, shown))


def check_devices(paths: Iterable[str], shown: str) -> Iterator[Finding]:
    """Devices that give more away than they seem to."""
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue  # told by whoever looks for what the jail needs
        name = path.removeprefix("/dev/")
        what = "a disk: whoever has it has every file on it" if stat.S_ISBLK(mode) else OPEN_DEVICES.get(name, "")
        if what:
            yield Finding(WARNING, f"{shown}: {path} is {what}", f"take it out of {shown} where the service can do without")


def check_terminal(tty: str, names: Collection[str], stop_signal: str, directory: str) -> Iterator[Finding]:
    """What goes to a terminal is in no log, and a shell there takes no notice of TERM."""
    if not tty:
        return
    if "log" in names:
        yield Finding(WARNING, f"{directory}: run writes to {tty}: log/run gets nothing of it", f"rm -r {directory}/log")
    if stop_signal == "TERM":
        text = f"{directory}/rootfs: tty = {tty}: an interactive shell ignores TERM, and would be killed when its time is up"
        yield Finding(NOTE, text, f'stop = {{signal = "HUP"}} in {directory}/policy')


def _network_hint(name: str, shown: str) -> str:
    if name == "NET_BIND_SERVICE":
        return f"to let everybody bind low ports: sysctl -w net.ipv4.ip_unprivileged_port_start={LOW_PORT}"
    return f'network = "none" in {shown}, or take {name} out'


def check_ports(env: Mapping[str, str | None], script: str, network: str, port_start: int, shown: str) -> Iterator[Finding]:
    """Ports that `env/` or run's `--port` name, and that a jail may not bind in the host's network."""
    if network != "host":
        return
    found = [(f"env/{name}", value) for name, value in env.items() if value and (name == "PORT" or name.endswith("_PORT"))]
    found += [("run", value) for value in _PORT_OPTION.findall(script)]
    for where, value in found:
        if value.isascii() and value.isdigit() and 0 < int(value) < port_start:
            text = f"{shown}/{where}: port {int(value)} cannot be bound: below {port_start} they belong to the host's user namespace"
            yield Finding(WARNING, text, f"a port from {port_start} on, or: sysctl -w net.ipv4.ip_unprivileged_port_start={int(value)}")

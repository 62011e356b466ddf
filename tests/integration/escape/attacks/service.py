"""From inside a service: its supervisor's files and locks, its own log, its pid 1."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time

from kit import ARGUMENTS, attempt, attempt_here, say

SERVICE = "/run/service"
FILES = ("control", "ok", "lock", "status", "stat", "pid", "detail", "jail", "exit", "log.fifo", "staging", "owner", "event", "event/x")
what, *rest = ARGUMENTS


def opened(path: str, flags: int) -> str:
    os.close(os.open(path, flags | os.O_NONBLOCK))
    return path


def supervise() -> None:
    """Open what the supervisor has, by its place in the service directory and by wherever the symlink leads."""
    try:
        places = [f"{SERVICE}/supervise", os.readlink(f"{SERVICE}/supervise")]
    except OSError:
        places = [f"{SERVICE}/supervise"]
    places += [f"{SERVICE}/log/supervise", f"{SERVICE}/../service/supervise", f"{SERVICE}/./supervise", "/proc/self/cwd/supervise", *rest]
    for place in places:
        attempt(f"list {place}", lambda place=place: os.listdir(place) or nothing())
        for name in FILES:
            for word, flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY)):
                attempt(f"{word} {place}/{name}", lambda place=place, name=name, flags=flags: opened(f"{place}/{name}", flags))
            attempt(f"make {place}/{name}", lambda place=place, name=name: os.mkfifo(f"{place}/{name}"))
        attempt(f"rename {place}", lambda place=place: os.rename(place, f"{SERVICE}/moved"))
        attempt(f"remove {place}", lambda place=place: os.rmdir(place))
        attempt(f"replace {place}", lambda place=place: os.symlink("/tmp", place))


def nothing() -> None:
    raise FileNotFoundError(2, "nothing in it")


def directory() -> None:
    """Change the service directory through its read-only bind."""
    for name in ("run", "rootfs", "policy", "env/SECRET", "."):
        path = f"{SERVICE}/{name}"
        if name != ".":
            attempt(f"write {name}", lambda path=path: opened(path, os.O_WRONLY))
            attempt(f"truncate {name}", lambda path=path: os.truncate(path, 0))
            attempt(f"append {name}", lambda path=path: opened(path, os.O_RDWR | os.O_APPEND))
            attempt(f"unlink {name}", lambda path=path: os.unlink(path))
            attempt(f"link {name}", lambda path=path: os.link(path, "/tmp/linked"))
            attempt(f"link {name} beside", lambda path=path: os.link(path, f"{path}.linked"))
            attempt(f"rename {name}", lambda path=path: os.rename(path, f"{path}.moved"))
        attempt(f"chmod {name}", lambda path=path: os.chmod(path, 0o777))
        attempt(f"chown {name}", lambda path=path: os.chown(path, 0, 0))
        attempt(f"touch {name}", lambda path=path: os.utime(path))
        attempt(f"attribute {name}", lambda path=path: os.setxattr(path, "user.attacked", b"1"))
        attempt(f"through /proc/self/fd {name}", lambda path=path: opened(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", os.O_WRONLY))
    for name in ("down", "new", "control", "supervise.new", "finish", "check"):
        attempt(f"make {name}", lambda name=name: opened(f"{SERVICE}/{name}", os.O_CREAT | os.O_WRONLY))
        attempt(f"mkdir {name}", lambda name=name: os.mkdir(f"{SERVICE}/{name}"))
        attempt(f"symlink {name}", lambda name=name: os.symlink("/etc/passwd", f"{SERVICE}/{name}"))
    attempt("read env", lambda: open(f"{SERVICE}/env/SECRET").read())
    attempt("temporary file", lambda: os.close(os.open(SERVICE, os.O_TMPFILE | os.O_RDWR)))


def lock() -> None:
    """Wait for the lock that the supervisor has on the service directory, and keep it."""
    fd = os.open(SERVICE, os.O_RDONLY)
    attempt_here("lock at once", lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    say("waiting", "for the lock")
    fcntl.flock(fd, {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}[rest[0]])
    say("lock", "held")
    time.sleep(1000)


def lease() -> None:
    """A write lease on every file that the supervisor reads: whoever opens one waits until we give it back."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    held = []
    for name in ("rootfs", "policy", "limits", "run", "rootfs.toml"):
        try:
            fd = os.open(f"{SERVICE}/{name}", os.O_RDONLY)
        except OSError:
            continue
        held.append(fd)
        attempt_here(f"lease {name}", lambda fd=fd: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK))
    say("leases", "tried")
    time.sleep(1000)


def log() -> None:
    """What a service can do with its own log's FIFO."""
    attempt("read it", lambda: os.read(os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK), 10))
    attempt("shrink it", lambda: fcntl.fcntl(1, 1031, 4096))
    attempt("own mode", lambda: os.fchmod(1, 0))
    attempt("remove it", lambda: os.unlink(os.readlink("/proc/self/fd/1")))
    attempt("up from it", lambda: os.listdir("/proc/self/fd/1/.."))
    say("log", "tried")
    sys.stdout.flush()
    time.sleep(1000)


def limits() -> None:
    """Limits of pid 1 that would keep it from its work, by prlimit(2), which asks for the same ids alone."""
    for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_STACK"):
        attempt(f"limit {name}", lambda name=name: resource.prlimit(1, getattr(resource, name), (0, 0)))
    say("limits", "tried")
    sys.stdout.flush()
    time.sleep(0.2)
    os._exit(7)


{"supervise": supervise, "directory": directory, "lock": lock, "lease": lease, "log": log, "limits": limits}[what]()
if what in {"supervise", "directory"}:
    say("END", "of it")
    time.sleep(1000)

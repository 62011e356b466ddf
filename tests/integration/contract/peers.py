"""The two supervisors that are compared: real runsv(8), and ljsv. One interface, so that a scenario does not know which it plays in.

Both keep the same files below `SERVICE/supervise`, which is what is observed.
What a service prints is its trace: runsv's own output for the one, the log for
the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import struct
import subprocess
import termios
from pathlib import Path

from tests.conftest import Tree, is_alive, wait_for

POLICY = '[restart]\nstable_after = "0s"\n[stop]\ntimeout = "1000s"\n[scripts]\nfinish = "1000s"\n'
STATES = ("down", "run", "finish")


class Peer:
    """A scan directory whose services somebody supervises."""

    kind = ""

    def __init__(self, tree: Tree, svdir: Path) -> None:
        self.tree = tree
        self.svdir = svdir
        self.lsb = tree.root / "init.d"
        self.lsb.mkdir(exist_ok=True)

    def add(self, name: str, files: dict[str, str]) -> None:
        """Write a service directory and begin to supervise it."""
        raise NotImplementedError

    def trace(self, name: str) -> list[str]:
        """The lines that the service has printed."""
        raise NotImplementedError

    def log_lines(self, name: str) -> list[str]:
        """The lines in svlogd's `current`, of a service with a log service."""
        raise NotImplementedError

    def supervisor(self, name: str) -> int:
        """The supervisor's pid, 0 when it has gone."""
        raise NotImplementedError

    def is_settled(self, name: str) -> bool:
        """Whether nothing more is going to happen by itself, as far as can be told."""
        raise NotImplementedError

    # ---- the contract's files

    def path(self, name: str) -> Path:
        return self.svdir / name

    def supervise(self, name: str) -> Path:
        """Of a service; or of its log service, `web/log`."""
        return self.svdir / name / "supervise"

    def read(self, name: str, file: str) -> bytes:
        """Empty when it is not there."""
        try:
            return (self.supervise(name) / file).read_bytes()
        except OSError:
            return b""

    def pid(self, name: str) -> int:
        """By the bytes 12 to 15 of status."""
        status = self.read(name, "status")
        return int(struct.unpack_from("<I", status, 12)[0]) if len(status) == 20 else 0

    def write_control(self, name: str, data: bytes) -> None:
        """As `printf ... > supervise/control` does it. OSError (ENXIO) when nobody reads."""
        fd = os.open(self.supervise(name) / "control", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def is_supervised(self, name: str) -> bool:
        try:
            os.close(os.open(self.supervise(name) / "ok", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def is_drained(self, name: str) -> bool:
        """Whether every byte of the control FIFO has been read."""
        try:
            fd = os.open(self.supervise(name) / "control", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return True
        try:
            return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0] == 0
        finally:
            os.close(fd)

    def files(self, name: str) -> str:
        """Type, mode and, where the contract gives it, size of the contract's files."""
        if not self.supervise(name).is_dir():
            return "no supervise"
        found = [f"supervise {stat.filemode(self.supervise(name).stat().st_mode)}"]
        for file in ("lock", "control", "ok", "status", "stat", "pid"):
            try:
                entry = (self.supervise(name) / file).stat()
            except OSError as error:
                found.append(f"{file} {error.strerror}")
                continue
            size = f" {entry.st_size}" if file in {"lock", "status"} else ""
            found.append(f"{file} {stat.filemode(entry.st_mode)}{size}")
        return "; ".join(found)

    # ---- clients

    def client(self, name: str, argv: tuple[str, ...]) -> subprocess.Popen[str]:
        """One of the real programs, as the user; `{name}`, `{path}` and `{lsb}` are replaced in its words."""
        if "{lsb}" in argv[0] and not (self.lsb / name).is_symlink():
            (self.lsb / name).symlink_to("/usr/bin/sv")
        words = [word.format(name=name, path=self.path(name), lsb=self.lsb / name, supervise=self.supervise(name)) for word in argv]
        return subprocess.Popen(
            words, cwd=self.tree.root, env=self.tree.env | {"SVDIR": str(self.svdir)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **self.tree._as_user(),
        )

    def normalise(self, text: str) -> str:
        """Without what differs from run to run: pids, times and places."""
        text = text.replace(str(self.svdir.resolve()), "SVDIR").replace(str(self.svdir), "SVDIR").replace(str(self.lsb), "INIT.D")
        text = re.sub(r"\(?pid \d+\)?", "(pid N)", text)
        return re.sub(r"\b\d+( seconds|s\b)", r"N\1", text).strip()

    def close(self) -> None:
        """End everything."""


class Runit(Peer):
    """One runsv for each service directory, a session each."""

    kind = "runit"

    def __init__(self, tree: Tree, name: str = "runit") -> None:
        svdir = tree.root / name
        svdir.mkdir()
        os.chown(svdir, tree.uid, tree.uid)
        super().__init__(tree, svdir)
        self.output = tree.root / f"{name}.output"
        self.output.mkdir()
        self.runsvs: dict[str, subprocess.Popen[bytes]] = {}

    def add(self, name: str, files: dict[str, str]) -> None:
        path = self.path(name)
        write_files(path, files)
        self.tree.own(path)
        self.begin(name)

    def begin(self, name: str) -> None:
        """A supervisor for a directory that is there."""
        with open(self.output / name, "ab") as out, open(self.output / f"{name}.errors", "ab") as errors:
            self.runsvs[name] = subprocess.Popen(
                ["runsv", str(self.path(name))], env=self.tree.env, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                start_new_session=True, umask=0o022, **self.tree._as_user(),
            )

    def trace(self, name: str) -> list[str]:
        return (self.output / name).read_text().splitlines()

    def log_lines(self, name: str) -> list[str]:
        return read_log(self.path(name) / "log/main")

    def supervisor(self, name: str) -> int:
        runsv = self.runsvs[name]
        return runsv.pid if runsv.poll() is None else 0

    def is_settled(self, name: str) -> bool:
        if not self.supervisor(name):
            return True
        status = self.read(name, "status")
        if len(status) != 20 or not self.is_drained(name):
            return False
        if status[19] == 0:
            return status[17:18] == b"d"  # else runsv sleeps, and starts it again
        return is_alive(self.pid(name))

    def close(self) -> None:
        for runsv in self.runsvs.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runsv.pid, signal.SIGKILL)
        for runsv in self.runsvs.values():
            runsv.wait()
        sessions = {runsv.pid for runsv in self.runsvs.values()}
        wait_for(lambda: not sessions & living_sessions(), "the sessions of runsv to end")


class Ljsv(Peer):
    """A scanner in the background, as everywhere in these tests."""

    kind = "ljsv"

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree, tree.sv)
        tree.ljsv("scan", "--daemon")
        self.logs: dict[str, Path] = {}

    def add(self, name: str, files: dict[str, str]) -> None:
        path = self.tree.staging / name
        write_files(path, {"rootfs": 'base = "host"\n', "policy": POLICY} | files)
        self.tree.own(path)
        path.rename(self.path(name))

    def trace(self, name: str) -> list[str]:
        if name not in self.logs and "log" in self.tree.detail(name):
            self.logs[name] = Path(self.tree.detail(name)["log"])
        try:
            return [line.partition("Z ")[2] for line in self.logs[name].read_text().splitlines()]
        except (OSError, KeyError):
            return []

    def log_lines(self, name: str) -> list[str]:
        places = [self.path(name) / "log/main"]
        if log := self.tree.detail(name).get("log"):
            places += [Path(log), Path(log).parent, Path(log).parent / "main"]
        return next((read_log(place) for place in places if (place / "current").is_file()), [])

    def supervisor(self, name: str) -> int:
        return self.tree.supervisor_pid(name)

    def is_settled(self, name: str) -> bool:
        return self.is_drained(name)

    def close(self) -> None:
        """Exit for all, by force: many of them are deaf."""
        names = [entry.name for entry in self.svdir.iterdir() if entry.is_dir()]
        for name in names:
            with contextlib.suppress(OSError):
                self.write_control(name, b"x")
        wait_for(lambda: not sum(self._end(name) for name in names), "the supervisors to exit")

    def _end(self, name: str) -> bool:
        if not self.is_supervised(name):
            return False
        for service in (name, f"{name}/log"):
            if pid := self.pid(service):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return True


def write_files(path: Path, files: dict[str, str]) -> None:
    """A service directory; what begins with `#!` is executable, what ends with `/` is a directory, `-> TARGET` a symlink."""
    path.mkdir()
    for name, text in files.items():
        target = path / name
        if name.endswith("/"):
            target.mkdir(parents=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            target.symlink_to(text.removeprefix("-> "))
            continue
        target.write_text(text)
        target.chmod(0o755 if text.startswith("#!") else 0o644)


def read_log(path: Path) -> list[str]:
    """All lines of an svlogd's log directory; it renames the `current` of one before it that was killed."""
    try:
        old = sorted(entry for entry in path.iterdir() if entry.name.startswith("@"))
        return [line for file in (*old, path / "current") for line in file.read_text().splitlines()]
    except OSError:
        return []


def living_sessions() -> set[int]:
    """The sessions of all processes that live."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found.add(int(fields[3]))
    return found

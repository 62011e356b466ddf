"""What happens in the chaos story: a table of deeds, drawn with a seed, written down as they are done.

A deed does one thing and never waits for what comes of it. The runtime
directory is deleted last, if at all: a supervisor that is killed after that has
nothing to find its jail by (two faults at once: see test_named_moments).
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos import cast as roles
from tests.integration.chaos.marked import Marked, find_nurseries, kill, scanner_files, scanner_pid, write_fifo

BYTES = ("u", "u", "d", "o", "t", "k", "p", "c", "h", "a", "i", "q", "1", "2", "tcu", "du", "dudu", "x", "?\n")
CLIENTS_MAX = 4
SUPERVISED_S = 70.0  # a supervisor that was killed often comes again after a minute
PAUSES_S = (0.0, 0.0, 0.005, 0.02, 0.1)


class Storm:
    """`blow` does one deed after the other until its time is over; `told` says what was done, and when."""

    def __init__(self, tree: Tree, cast: dict[str, Marked], seed: int) -> None:
        self.tree = tree
        self.cast = cast
        self.random = random.Random(seed)
        self.told: list[str] = []
        self.problems: list[str] = []
        self.edited: dict[str, str] = {}  # those whose policy has a fault now, with what was there
        self.clients: list[tuple[list[str], subprocess.Popen[str]]] = []
        self.begun_at = time.monotonic()

    def blow(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        deeds = [deed for deed, weight in DEEDS.items() for _ in range(weight)]
        until = time.monotonic() + seconds
        while time.monotonic() < until and not is_enough() and not self.problems:
            self.random.choice(deeds)(self)
            time.sleep(self.random.choice(PAUSES_S))
        if self.random.random() < 0.5:
            self.remove_runtime()

    def tell(self, what: str) -> None:
        self.told.append(f"{time.monotonic() - self.begun_at:8.3f} {what}")

    def commanded(self) -> Marked:
        return self.cast[self.random.choice(roles.COMMANDED)]

    def anyone(self) -> Marked:
        return self.cast[self.random.choice(list(self.cast))]

    # ---- clients

    def run(self, *argv: str) -> None:
        """A client in the background; what it said is looked at when it has ended."""
        self.reap()
        if len(self.clients) < CLIENTS_MAX:
            self.tell(" ".join(argv))
            self.clients.append((list(argv), self.tree.start(*argv)))

    def reap(self, *, wait: bool = False) -> None:
        for argv, client in list(self.clients):
            if wait or client.poll() is not None:
                text = client.communicate(timeout=60)[0]
                self.clients.remove((argv, client))
                if "Traceback" in text or client.returncode not in {0, 1, 102, 111}:
                    self.problems.append(f"{' '.join(argv)}: exit {client.returncode}\n{text}")

    def tell_scanner(self, text: str) -> None:
        write_fifo(scanner_files(self.tree) / "control", text)

    # ---- deeds

    def send_bytes(self) -> None:
        service, text = self.commanded(), self.random.choice(BYTES)
        self.tell(f"bytes {text!r} to {service.name}")
        service.control(text)

    def command(self) -> None:
        self.run("ljsv", self.random.choice(("up", "up", "down", "restart", "once")), self.commanded().name, "-w", "5")

    def up_twice(self) -> None:
        for _ in range(2):
            self.run("ljsv", "up", "calm", "-w", "5")

    def upgrade(self) -> None:
        """The tree moves to the code that it runs already: every process of ours is replaced."""
        self.run("ljsv", "upgrade")

    def edit(self) -> None:
        """A fault in the policy of one, or the end of it; its jail is none the wiser."""
        service = self.commanded()
        self.tell(f"{'mend' if service.name in self.edited else 'break'} the policy of {service.name}")
        if service.name in self.edited:
            self.mend(service.name)
        else:
            path = self.tree.sv / service.name / "policy"
            self.edited[service.name] = path.read_text()
            path.write_text("no policy\n")

    def mend(self, *names: str) -> None:
        """These, or all that were edited."""
        for name in names or list(self.edited):
            (self.tree.sv / name / "policy").write_text(self.edited.pop(name))

    def kill_supervisor(self) -> None:
        service = self.anyone()
        self.tell(f"kill the supervisor of {service.name}")
        kill(self.tree.supervisor_pid(service.name))
        if self.random.random() < 0.7:
            self.tell_scanner(f"supervise {service.name}\n")

    def kill_scanner(self) -> None:
        self.tell("kill the scanner")
        kill(scanner_pid(self.tree))
        self.run("ljsv", "up", "calm", "-w", "5")

    def kill_journal(self) -> None:
        scanner = scanner_pid(self.tree)
        for pid in children(scanner):
            with contextlib.suppress(OSError):
                if b"ljsv.supervise.journal" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    self.tell("kill the journal")
                    kill(pid)

    def kill_nursery(self) -> None:
        for pid in find_nurseries(self.tree):
            self.tell("kill the nursery")
            kill(pid)

    def kill_everything(self) -> None:
        self.tell("kill scanner, journal and supervisors")
        scanner = scanner_pid(self.tree)
        for pid in (scanner, *children(scanner), *(self.tree.supervisor_pid(service.name) for service in self.cast.values())):
            if is_ours(pid):
                kill(pid)
        self.run("ljsv", "up", *self.random.sample(list(roles.COMMANDED), 2), "-w", "5")

    def kill_service(self) -> None:
        service = self.commanded()
        self.tell(f"kill the process of {service.name}")
        service.signal(signal.SIGKILL)

    def kill_pid1(self) -> None:
        service = self.commanded()
        with contextlib.suppress(OSError, StopIteration, ValueError):
            text = (self.tree.supervise(service.name) / "jail").read_text()
            pid, started = (int(next(line.split()[1] for line in text.splitlines() if line.startswith(key))) for key in ("pid ", "start_time "))
            if start_time(pid) == started:
                self.tell(f"kill pid 1 of {service.name}")
                kill(pid)

    def stall_supervisor(self) -> None:
        pid = self.tree.supervisor_pid(self.anyone().name)
        if is_ours(pid):
            self.tell("stop a supervisor for a moment")
            kill(pid, signal.SIGSTOP)
            time.sleep(self.random.choice((0.01, 0.05, 0.2)))
            kill(pid, signal.SIGCONT)

    def scan_again(self) -> None:
        """A second scanner is refused with 111."""
        before = scanner_pid(self.tree)
        done = self.tree.run("ljsv", "scan", "--daemon")
        self.tell(f"a second scanner: exit {done.returncode}")
        if done.returncode != (111 if before else 0) and scanner_pid(self.tree) == before:
            self.problems.append(f"a second scanner: exit {done.returncode}, the first is {before}\n{done.stdout}{done.stderr}")

    def rename(self) -> None:
        service = self.cast["wander"]
        one, other = roles.RENAMED if service.name == roles.RENAMED[0] else reversed(roles.RENAMED)
        self.tell(f"rename {one} to {other}")
        (self.tree.sv / one).rename(self.tree.sv / other)
        service.name = other

    def remove_runtime(self) -> None:
        """All of the runtime directory, or one service's, under a tree of which every process of ours lives; services go on dying."""
        self.reap(wait=True)
        self.tree.ljsv("up", "calm", "-w", "20", code=None)
        self.problems += self.wait_supervised()
        folder = scanner_files(self.tree)
        if folder.parent != self.tree.sv:
            folder = folder.parent
        if self.random.random() < 0.5:
            folder = Path(self.tree.supervise(self.anyone().name)).resolve()
        pids = [self.tree.pid(self.cast[name].name) for name in roles.COMMANDED]
        self.tell(f"remove {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        for pid in self.random.sample(pids, 2):
            time.sleep(self.random.choice(PAUSES_S))
            kill(pid)
        self.problems += self.wait_supervised()

    def wait_supervised(self) -> list[str]:
        """Until each service has a supervisor that says so; those that get none."""
        for service in self.cast.values():
            self.tell_scanner(f"supervise {service.name}\n")
        self.tell("wait for all to be supervised")
        try:
            wait_for(lambda: scanner_pid(self.tree) and not self.unsupervised(), "all to be supervised", SUPERVISED_S)
        except pytest.fail.Exception:
            return [f"nobody supervises {service.name}: {self.tree.detail(service.name)}" for service in self.unsupervised()]
        return []

    def unsupervised(self) -> list[Marked]:
        return [service for service in self.cast.values() if not is_ours(self.tree.supervisor_pid(service.name))]


def is_ours(pid: int) -> bool:
    """A scanner, journal or supervisor: not the process that has its pid by now."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return pid > 1 and is_alive(pid) and name.startswith(("ljsv", "python")) and not name.startswith("ljsv 1 ")
    return False


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] if pid else []
    return []


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


DEEDS: dict[Callable[[Storm], None], int] = {
    Storm.send_bytes: 10, Storm.command: 3, Storm.kill_supervisor: 6, Storm.kill_service: 4, Storm.kill_pid1: 2, Storm.kill_scanner: 1,
    Storm.kill_journal: 1, Storm.kill_nursery: 1, Storm.kill_everything: 1, Storm.stall_supervisor: 2, Storm.scan_again: 1, Storm.up_twice: 1, Storm.rename: 1, Storm.upgrade: 1,
    Storm.edit: 2,
}

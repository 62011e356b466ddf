"""runsvdir(8) and `ljsv scan`: the same questions, each with its two answers; where they differ, the reason stands beside them.

One scanner of each kind is asked everything, since runsvdir takes up to five
seconds to notice anything. It is played once a session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.contract.driver import Measure
from tests.integration.contract.peers import Peer, living_sessions, write_files

NAMES = ("web", "a.b", "link", ".hidden", "file", "dangling", "later", "leaves", "exits", "killed", "empty")
RUN = "#!/bin/sh\nexec sleep 1000\n"


class Scanning(Peer):
    """A scan directory and the scanner in the foreground."""

    def __init__(self, tree: Tree, kind: str) -> None:
        self.kind = kind
        svdir = tree.root / "scanned" if kind == "runit" else tree.sv
        svdir.mkdir(exist_ok=True)
        super().__init__(tree, svdir)
        self.elsewhere = tree.root / f"elsewhere.{kind}"
        self.elsewhere.mkdir()
        for path in (svdir, self.elsewhere):
            os.chown(path, tree.uid, tree.uid)
        self.argv = ("runsvdir", str(svdir)) if kind == "runit" else ("ljsv", "scan")
        self.scanner: subprocess.Popen[str] | None = None
        self.sessions: set[int] = set()
        self.old: dict[str, int] = {}

    def write(self, name: str) -> Path:
        """A service directory, not in the scan directory."""
        path = self.elsewhere / name
        write_files(path, {"run": RUN, "rootfs": 'base = "host"\n', "policy": '[restart]\nstable_after = "0s"\n'})
        self.tree.own(path)
        return path

    def add(self, name: str, files: dict[str, str] | None = None) -> None:
        self.write(name).rename(self.svdir / name)

    def start(self) -> subprocess.Popen[str]:
        scanner = subprocess.Popen(
            self.argv, cwd=self.tree.root, env=self.tree.env | {"SVDIR": str(self.svdir)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT, text=True, start_new_session=True, **self.tree._as_user(),
        )
        self.sessions.add(scanner.pid)
        return scanner

    def is_up(self, name: str) -> bool:
        return self.is_supervised(name) and self.read(name, "stat") == b"run\n" and is_alive(self.pid(name))

    def holder(self, name: str) -> int:
        """The supervisor: who holds the lock."""
        lock = (self.supervise(name) / "lock").stat()
        want = f":{lock.st_ino} "
        for line in Path("/proc/locks").read_text().splitlines():
            if want in line and "FLOCK" in line:
                return int(line.split()[4])
        return 0

    def copies(self, name: str) -> int:
        """How many processes run in that service directory, wherever it is bound."""
        entry = self.path(name).resolve().stat()
        count = 0
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and (process / "cmdline").read_bytes() == b"sleep\x001000\0":
                    here = (process / "cwd").stat()
                    count += (here.st_dev, here.st_ino) == (entry.st_dev, entry.st_ino)
        return count

    def close(self) -> None:
        for session in self.sessions:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
        if self.kind == "runit":
            for name in os.listdir(self.svdir):
                with contextlib.suppress(OSError):
                    self.write_control(name, b"x")
            wait_for(lambda: not any(self.is_supervised(name) for name in os.listdir(self.svdir)), "the runsvs to exit")
            self._end_copies()
            wait_for(lambda: not self.sessions & living_sessions(), "its sessions to end")

    def _end_copies(self) -> None:
        """What runit has left."""
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and str(self.tree.root) in os.readlink(process / "cwd"):
                    os.kill(int(process.name), signal.SIGKILL)


@dataclass(frozen=True)
class Question:
    """What is asked of both, and what each has to answer; a reason where it is not the same."""

    name: str
    ask: Callable[[Scanning], object] = field(repr=False)
    runit: object = True
    ljsv: object = True
    reason: str = ""




def kill_supervisor(peer: Scanning) -> None:
    peer.old["supervisor"] = peer.holder("killed")
    os.kill(peer.old["supervisor"], signal.SIGKILL)


def leave(peer: Scanning) -> None:
    peer.old["leaves"] = peer.pid("leaves")
    peer.path("leaves").rename(peer.elsewhere / "left")


def exit_one(peer: Scanning) -> None:
    peer.old["exits"] = peer.pid("exits")
    peer.write_control("exits", b"x")


def copies_after_kill(peer: Scanning) -> int:
    """Once another supervisor has the lock and says that it runs."""
    if peer.holder("killed") in {0, peer.old["supervisor"]} or not peer.is_up("killed"):
        return 0
    return peer.copies("killed")


def second_scanner(peer: Scanning) -> object:
    second = peer.start()
    try:
        return second.wait(3)
    except subprocess.TimeoutExpired:
        second.kill()
        second.wait()
        return "it runs as well"


def end_scanner(peer: Scanning, number: int) -> int:
    assert peer.scanner is not None
    peer.scanner.send_signal(number)
    return peer.scanner.wait(30)


AT_FIRST = (
    Question("a directory is a service", lambda peer: peer.is_up("web")),
    Question("so is one with a dot in its name", lambda peer: peer.is_up("a.b")),
    Question("so is a symlink to a directory", lambda peer: peer.is_up("link")),
    Question("a name that begins with a dot is none", lambda peer: (peer.svdir / ".hidden/supervise").exists(), False, False),
    Question("a file is none", lambda peer: peer.is_supervised("file"), False, False),
    Question("a symlink to nothing is none", lambda peer: peer.is_supervised("dangling"), False, False),
    Question(
        "a directory without run", lambda peer: peer.is_supervised("empty"), True, False,
        "it is perhaps just being filled: ljsv waits for run and rootfs; runsv tries once a second to execute what is not there",
    ),
)
ACTIONS: tuple[Callable[[Scanning], object], ...] = (lambda peer: peer.add("later"), leave, exit_one, kill_supervisor)
AFTERWARDS = (
    Question("one that is added is started", lambda peer: peer.is_up("later")),
    Question("one that goes away is stopped", lambda peer: is_alive(peer.old["leaves"]), False, False),
    Question(
        "copies of a service whose supervisor was killed", copies_after_kill, 2, 1,
        "the next supervisor takes over what runs; runsv knows nothing of it, and starts another",
    ),
    Question(
        "one that was told to exit comes again", lambda peer: peer.is_up("exits") and peer.pid("exits") != peer.old["exits"], True, False,
        "runsvdir starts every runsv that has ended; `exit` is meant: ljsv leaves it alone until `up`, or until its directory comes anew",
    ),
    Question("one that was not touched goes on", lambda peer: peer.is_up("web")),
    Question("the exit code of a second scanner", second_scanner, "it runs as well", 111, "two scanners would supervise the same services twice"),
)
AT_THE_END = (
    Question("TERM: exit code", lambda peer: end_scanner(peer, signal.SIGTERM), 0, 0),
    Question("TERM: the services run", lambda peer: peer.is_up("web") and peer.is_up("later")),
    Question("TERM: they are obeyed", lambda peer: peer.write_control("a.b", b"d") is None and wait_for(lambda: peer.read("a.b", "stat") == b"down\n", "down")),
)


def play(peer: Scanning) -> dict[str, object]:
    """All questions, each asked until it has the answer that is due, or for a while."""
    for name in ("web", "a.b", ".hidden", "leaves", "exits", "killed"):
        peer.add(name)
    peer.write("target")
    (peer.svdir / "link").symlink_to(peer.elsewhere / "target")
    (peer.svdir / "file").write_text("")
    (peer.svdir / "dangling").symlink_to("nothing")
    (peer.svdir / "empty").mkdir()
    peer.tree.own(peer.svdir / "empty")
    peer.scanner = peer.start()
    wait_for(lambda: all(peer.is_up(name) for name in ("web", "leaves", "exits", "killed")), "the services to run")
    answers = {question.name: ask(peer, question) for question in AT_FIRST}
    for act in ACTIONS:
        act(peer)
    answers |= {question.name: ask(peer, question) for question in (*AFTERWARDS, *AT_THE_END)}
    peer.add("fresh")  # once it runs, the scanner has begun
    peer.scanner = peer.start()
    if peer.kind == "runit":  # its runsvs of before hold the locks: a second runsvdir can only wait for them
        end_scanner(peer, signal.SIGKILL)
        peer.close()
        for name in ("killed", "exits", "later", "a.b"):
            peer.path(name).rename(peer.elsewhere / f"old.{name}")
        peer.scanner = peer.start()
    wait_for(lambda: peer.is_up("web") and peer.is_up("link") and peer.is_up("fresh"), "the services to run again")
    pids = [peer.pid("web"), peer.pid("link")]
    answers["HUP: exit code"] = end_scanner(peer, signal.SIGHUP)
    with contextlib.suppress(pytest.fail.Exception):
        wait_for(lambda: not any(is_alive(pid) for pid in pids) and not peer.is_supervised("web"), "the services to end")
    answers["HUP: the services have ended"] = not any(is_alive(pid) for pid in pids) and not peer.is_supervised("web")
    return answers


def ask(peer: Scanning, question: Question) -> object:
    due = question.runit if peer.kind == "runit" else question.ljsv
    answer = question.ask(peer)
    with contextlib.suppress(pytest.fail.Exception):
        if answer != due:
            answer = wait_for(lambda: due == question.ask(peer) and [due], question.name)[0]
    return answer


AT_HUP = (Question("HUP: exit code", lambda _: None, 111, 111), Question("HUP: the services have ended", lambda _: None))
QUESTIONS = (*AT_FIRST, *AFTERWARDS, *AT_THE_END, *AT_HUP)


@pytest.fixture(scope="module")
def runsvdir(measure: Measure) -> Iterator[dict[str, object]]:
    peer = Scanning(measure.tree, "runit")
    try:
        yield play(peer)
    finally:
        peer.close()


def test_runsvdir_answers_as_is_said_here(runsvdir: dict[str, object]) -> None:
    """What is said of runit is true."""
    assert runsvdir == {question.name: question.runit for question in QUESTIONS}


def test_ljsv_scan_answers_as_runsvdir_less_what_is_intended(tree: Tree) -> None:
    """The same answers, or another with its reason."""
    peer = Scanning(tree, "ljsv")
    try:
        assert play(peer) == {question.name: question.ljsv for question in QUESTIONS}
    finally:
        peer.close()
    assert all(question.reason for question in QUESTIONS if question.runit != question.ljsv)

"""A hostile log service: it may write the log directory, and whoever reads or writes there is not led astray."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ljsv.supervise.log_cap import LogCap
from ljsv.supervise.logfile import LogFile
from tests.conftest import Tree, wait_for

RUN = "while :; do sleep 0.2; test -e /tmp/../run/never || exit 1; done"
QUICK = '[restart]\nstable_after = "0s"\nfirst_delay = "0s"\ndelay = "100ms"\n'


def log_directory(tree: Tree, name: str) -> Path:
    return Path(tree.detail(name)["log"]).parent


def test_its_own_log_is_out_of_its_reach(scanning: Tree) -> None:
    """What it says itself is written elsewhere, so no symlink of its making leads the supervisor to another directory."""
    victim = scanning.root / "victim"
    victim.mkdir()
    scanning.own(victim)
    script = f"#!/bin/sh\nprintf x >&2; sleep 0.3\nrm -rf /run/log/log; ln -s {victim} /run/log/log; echo led astray >&2; echo done >/run/log/done; exec cat >/dev/null\n"
    scanning.add("a", log__run=script)
    scanning.wait_state("a", "ready")
    wait_for((log_directory(scanning, "a") / "done").exists, "the attack")
    wait_for(lambda: "led astray" in scanning.ljsv("logs", "a/log").stdout, "its own log")
    assert not list(victim.iterdir())
    old = Path(scanning.ljsv("status", "a/log", "-o", "log").stdout.strip())
    assert log_directory(scanning, "a") not in old.parents
    (scanning.sv / "a").rename(scanning.sv / "b")
    wait_for(lambda: "log" in scanning.detail("b") and "/b/" in scanning.detail("b")["log"], "its new name")
    wait_for(lambda: "led astray" in scanning.ljsv("logs", "b/log").stdout, "its own log, under the new name")
    scanning.ljsv("exit", "b")
    scanning.ljsv("purge", "b", "--yes")
    assert not old.parent.parent.exists() or not list(old.parent.parent.iterdir())


@pytest.mark.parametrize("what", ["mkfifo /run/log/current", "ln -s /dev/zero /run/log/current", "mkdir /run/log/current"])
def test_what_it_leaves_in_the_place_of_the_log(scanning: Tree, what: str) -> None:
    """The supervisor, `why` and `logs` neither wait for it nor follow it; the supervisor's own log begins anew once it reads again."""
    scanning.add("a", RUN, log__run=f"#!/bin/sh\nrm -rf /run/log/current; {what}; echo done >/run/log/done; exec cat >/dev/null\n", policy=QUICK)
    wait_for(lambda: scanning.detail("a").get("log") and (log_directory(scanning, "a") / "done").exists(), "the attack")
    restarts = int(scanning.detail("a")["restarts"])
    wait_for(lambda: int(scanning.detail("a")["restarts"]) > restarts + 2, "more restarts")
    assert "it ended: exit 1" in scanning.ljsv("why", "a", timeout_s=10).stdout
    scanning.ljsv("logs", "a", code=None, timeout_s=10)
    assert "MemoryError" not in scanning.events() and "supervisor's loop" not in scanning.events()
    scanning.ljsv("down", "a")


def test_a_log_that_begins_in_another_file(tmp_path: Path) -> None:
    """A FIFO or a symlink in its place is removed; a half line that went elsewhere leaves no line without its stamp."""
    victim = tmp_path / "victim"
    victim.write_text("kept\n")
    for put in (os.mkfifo, lambda path: os.symlink(victim, path)):
        put(tmp_path / "current")
        log = LogFile(str(tmp_path), 1 << 20, 2)
        log.open()
        log.append(b"line\n")
        log.close()
        assert (tmp_path / "current").read_text() == "line\n" and victim.read_text() == "kept\n"
        (tmp_path / "current").unlink()


def test_a_cap_empties_what_it_has_seen(tmp_path: Path) -> None:
    """Whatever is exchanged for it in that moment stays as it is."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * 4096)
    folder = tmp_path / "logs/a"
    folder.mkdir(parents=True)
    current, link = folder / "current", folder / "x"
    current.write_bytes(b"y" * (1 << 20))
    os.utime(current, (1, 1))
    link.symlink_to(victim)
    is_over = threading.Event()

    def exchange() -> None:
        while not is_over.is_set():
            for one, other, away in ((current, link, folder / "z"), (link, current, folder / "z")):
                os.rename(one, away)
                os.rename(other, one)
                os.rename(away, other)
            if link.is_symlink() and current.stat().st_size == 0:
                current.write_bytes(b"y" * (1 << 20))

    attacker = threading.Thread(target=exchange)
    attacker.start()
    try:
        until = time.monotonic() + 2
        cap = LogCap(str(tmp_path / "logs"), 1 << 16)
        while time.monotonic() < until:
            cap.written(1 << 20, "")
    finally:
        is_over.set()
        attacker.join()
    assert victim.stat().st_size == 4096

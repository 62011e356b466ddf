"""control/*, log services under kill, the record of deaths, and `ljsv upgrade`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

from tests.conftest import Tree, is_alive, wait_for

COUNTING = "i=0\nwhile :; do i=$((i+1)); echo line $i; sleep 0.01; done"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def numbers(tree: Tree, name: str) -> list[int]:
    """The numbers of all its lines. svlogd sets aside what it finds in `current` (`@TAI64N.u`)."""
    current = Path(tree.detail(name).get("log", "/nothing/current"))
    files = [*sorted(current.parent.glob("@*")), current]
    return [int(line.split()[-1]) for file in files if file.exists() for line in file.read_text().splitlines() if "line " in line]


def test_the_fifo_is_read_while_a_script_runs(scanning: Tree) -> None:
    """A control script that hangs holds up its own signal only until its time is up; a kill is not held up by it."""
    path = scanning.add("a", down="", policy='[scripts]\ncontrol = "60s"\n')
    script(path / "control" / "h", "exec sleep 1001")
    scanning.ljsv("up", "a")
    pid = scanning.pid("a")
    scanning.ljsv("hup", "a")
    wait_for(lambda: any("sleep 1001" in text for text in scanning.processes().values()), "the script")
    scanning.ljsv("kill", "a")
    wait_for(lambda: not is_alive(pid), "the service's end")
    wait_for(lambda: not any("sleep 1001" in text for text in scanning.processes().values()), "the script's end with its jail")


def test_scripts_are_spared_no_more_than_their_service_when_memory_is_short(scanning: Tree) -> None:
    """Root's supervisors are protected from the kernel's killer; what they start is not."""
    show = "cat /proc/self/oom_score_adj"
    path = scanning.add("a", f"echo run $({show})\nexec sleep 1000", down="")
    script(path / "control" / "h", f"echo script $({show})")
    scanning.ljsv("up", "a")
    scanning.ljsv("hup", "a")
    wait_for(lambda: "script" in scanning.log("a"), "the script")
    assert len({line.split()[1] for line in scanning.log("a").splitlines()}) == 1, scanning.log("a")


def test_deaths_are_bounded(scanning: Tree) -> None:
    """The last 20 are kept, with end, times and last lines."""
    scanning.add("a", "echo words; exit 7", policy='[restart]\ndelay = "1ms"\nmax_delay = "1ms"\n')
    wait_for(lambda: int(scanning.detail("a").get("restarts", "0")) > 21, "many deaths")
    scanning.ljsv("down", "a")
    deaths = [json.loads(line) for line in (scanning.supervise("a") / "deaths").read_text().splitlines()]
    assert len(deaths) == 20
    ended = [death for death in deaths if not death["is_commanded"]]  # the last one may be what `down` has ended
    assert len(ended) >= 19
    assert all(death["code"] == 7 and death["end"] == "exit 7" and death["log"][-1].endswith("words") for death in ended)
    assert deaths == sorted(deaths, key=lambda death: death["time"])


def test_death_of_what_could_not_be_built(scanning: Tree) -> None:
    """The stage and the fault are in the record."""
    scanning.add("a", rootfs='base = "host"\nuser = "nosuchuser"')
    wait_for((scanning.supervise("a") / "deaths").exists, "the record")
    death = json.loads((scanning.supervise("a") / "deaths").read_text().splitlines()[-1])
    assert death["code"] == 111
    assert "nosuchuser" in death["fault"]
    assert death["next"] == "failed"
    assert "nosuchuser" in scanning.ljsv("why", "a").stdout


def test_log_service_comes_and_goes(scanning: Tree) -> None:
    """A log service that is added, killed with its supervisor, and removed: every line once, in order."""
    path = scanning.add("a", COUNTING)
    wait_for(lambda: len(numbers(scanning, "a")) > 5, "lines")
    script(path / "log" / "run", "exec svlogd -tt /run/log")
    scanning.own(path)
    wait_for(lambda: scanning.detail("a/log").get("state") == "ready", "the log service")
    pid = scanning.pid("a")
    for _ in range(3):
        old = scanning.supervisor_pid("a")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda old=old: scanning.supervisor_pid("a") not in {0, old}, "the next supervisor")
    scanning.ljsv("pause", "a")  # svlogd 2.1.2 forgets a line that comes together with TERM
    time.sleep(0.3)
    logger = scanning.pid("a/log")
    os.kill(logger, signal.SIGTERM)
    wait_for(lambda: not is_alive(logger), "its end")
    (path / "log" / "run").unlink()
    wait_for(lambda: scanning.detail("a/log").get("state") == "down", "its end")
    scanning.ljsv("cont", "a")
    count = len(numbers(scanning, "a"))
    wait_for(lambda: len(numbers(scanning, "a")) > count + 5, "lines of ours again")
    assert scanning.pid("a") == pid
    scanning.ljsv("down", "a")
    found = numbers(scanning, "a")
    assert found == list(range(1, len(found) + 1))


def test_upgrade(scanning: Tree) -> None:
    """Scanner and supervisors are replaced; services and their pids stay, and status is readable throughout."""
    names = [f"s{number}" for number in range(8)]
    for name in names:
        scanning.add(name)
    for name in names:
        scanning.wait_state(name, "ready")
    pids = {name: scanning.pid(name) for name in names}
    supervisors = {name: scanning.supervisor_pid(name) for name in names}
    gaps: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            for name in names:
                try:
                    os.close(os.open(scanning.supervise(name) / "ok", os.O_WRONLY | os.O_NONBLOCK))
                    status = (scanning.supervise(name) / "status").read_bytes()
                except OSError as error:
                    gaps.append(f"{name}: {error}")
                    continue
                if int.from_bytes(status[12:16], "little") != pids[name]:
                    gaps.append(f"{name}: {status!r}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = scanning.ljsv("upgrade")
    finally:
        is_over.set()
        watcher.join()
    assert "8 supervisors run the installed code" in result.stdout
    assert not gaps
    assert {name: scanning.pid(name) for name in names} == pids
    assert not set(supervisors.values()) & {scanning.supervisor_pid(name) for name in names}
    assert all(is_alive(pid) for pid in pids.values())
    scanning.ljsv("restart", "s0")
    scanning.add("later")
    scanning.wait_state("later", "ready")


def test_nothing_keeps_the_signal_from_a_service_that_is_stopped(scanning: Tree) -> None:
    """./check gives way at once; a control script that hangs has its time, and then the service has its own."""
    told = "trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done"
    path = scanning.add("checked", told, down="", policy='[ready]\nby = "check"\n[stop]\ntimeout = "20s"\n[scripts]\ncheck = "30s"\n')
    script(path / "check", "exec sleep 1001")
    scanning.ljsv("up", "checked", "-w", "1", code=1)
    begun = time.monotonic()
    scanning.ljsv("down", "checked")
    assert scanning.log("checked") == "told" and time.monotonic() - begun < 10
    path = scanning.add("hangs", told, down="", policy='[stop]\ntimeout = "1s"\n')
    script(path / "control" / "t", "exec sleep 1001")
    scanning.ljsv("up", "hangs")
    scanning.ljsv("down", "hangs")
    assert scanning.log("hangs") == "told"


def test_it_was_told_once(scanning: Tree) -> None:
    """`got TERM` stays as long as the process lives, though control/t does something else the next time."""
    path = scanning.add("a", "trap '' TERM; while :; do sleep 0.05; done", down="", policy='[stop]\ntimeout = "2s"\n')
    script(path / "control" / "t", "test -e /run/seen && exit 0; touch /run/seen; exit 1")
    scanning.ljsv("up", "a")
    for _ in range(2):
        scanning.ljsv("term", "a")
        wait_for(lambda: "got TERM" in (scanning.supervise("a") / "stat").read_text(), "TERM")
        time.sleep(0.3)
    assert "got TERM" in (scanning.supervise("a") / "stat").read_text()

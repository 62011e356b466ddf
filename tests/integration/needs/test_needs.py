"""What a service needs: started when that is ready, stopped before it, and who depends on it is named."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.marked import scanner_pid
from tests.integration.chaos.strace import Traced, needs_strace

LATE = "while ! test -e /run/go; do sleep 0.02; done\necho >&3\nexec sleep 1000"
BY_FD = '[ready]\nby = "fd"\n'


def ended_at(tree: Tree, name: str) -> int:
    """The line of the journal that tells of its end."""
    lines = tree.events().splitlines()
    return next(number for number, line in enumerate(lines) if f'"service": "{name}"' in line and '"event": "down"' in line and '"was": "stopping"' in line)


def test_waits_visibly_then_starts(scanning: Tree) -> None:
    """It waits for what it needs, says so, and starts when that is ready."""
    scanning.add("db", LATE, policy=BY_FD)
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanning.wait_state("db", "up")
    assert scanning.state("web") == "down"
    assert "waiting for db" in scanning.ljsv("status").stdout
    assert scanning.run("sv", "status", str(scanning.root / "sv" / "web")).stdout.startswith("down: ")
    scanning.ljsv("enter", "db", "touch", "/run/go")
    scanning.wait_state("web", "ready")


def test_up_starts_what_it_needs(tree: Tree) -> None:
    """`up web` starts db and, before it, disk; and says so."""
    tree.add("disk", down="")
    tree.add("db", policy='needs = ["disk"]\n', down="")
    tree.add("web", policy='needs = ["db"]\n', down="")
    result = tree.ljsv("up", "web")
    assert "also starting what they need: disk db" in result.stderr
    assert [tree.state(name) for name in ("disk", "db", "web")] == ["ready"] * 3


def test_stopped_in_reverse_order(scanning: Tree) -> None:
    """`down --all` ends web before db, however long web takes; `exit --all` too."""
    slow = "trap 'sleep 0.5; exit 0' TERM\nwhile :; do sleep 0.02; done"
    scanning.add("db")
    scanning.add("web", slow, policy='needs = ["db"]\n')
    scanning.wait_state("web", "ready")
    scanning.ljsv("down", "--all")
    assert ended_at(scanning, "web") < ended_at(scanning, "db")
    scanning.ljsv("up", "--all")
    count = len(scanning.events().splitlines())
    scanning.ljsv("exit", "--all")
    lines = scanning.events().splitlines()[count:]
    ends = [line.split('"service": "')[1].split('"')[0] for line in lines if '"was": "stopping"' in line]
    assert ends == ["web", "db"]


STUBBORN = "trap '' TERM\necho trapped\nwhile :; do sleep 0.05; done"


def test_one_that_stops_slowly(scanning: Tree) -> None:
    """Whoever waits for it is told when its turn comes, though that is later than the usual wait; with -w at the end of it, which is said."""
    scanning.add("db")
    scanning.add("app", STUBBORN, policy='needs = ["db"]\n[stop]\ntimeout = "8s"\n')
    scanning.wait_state("app", "ready")
    wait_for(lambda: "trapped" in scanning.log("app"), "its trap")
    done = scanning.ljsv("down", "--all", "-w", "1", code=1)
    assert "note: db was told as well, before its turn" in done.stderr, done
    scanning.wait_state("db", "down")
    scanning.wait_state("app", "down")
    scanning.ljsv("up", "app")
    wait_for(lambda: scanning.log("app").count("trapped") == 2, "its trap")
    done = scanning.ljsv("down", "--all")
    assert [line.split(":")[1].strip() for line in done.stdout.splitlines()] == ["app", "db"], done
    assert scanning.state("db") == "down"


def test_waiting_is_not_down(scanning: Tree) -> None:
    """`wait NAME down`: not while it starts as soon as it has what it needs."""
    scanning.add("app", policy='needs = ["db"]\n')
    scanning.wait_state("app", "down")
    wait_for(lambda: "waiting" in scanning.detail("app"), "it to wait")
    assert "timeout: app: down" in scanning.ljsv("wait", "app", "down", "-w", "0.3", code=1).stdout
    scanning.ljsv("down", "app")
    scanning.ljsv("wait", "app", "down")


def test_a_need_that_ends_stops_nobody(scanning: Tree) -> None:
    """db crashes, and is taken down: web goes on, and is named."""
    scanning.add("db")
    scanning.add("web", policy='needs = ["db"]\n')
    web, db = (int(scanning.wait_state(name, "ready")["pid"]) for name in ("web", "db"))
    os.kill(db, signal.SIGKILL)
    wait_for(lambda: scanning.pid("db") not in {0, db}, "the next db")
    assert '"needed_by": "web"' in scanning.events()
    result = scanning.ljsv("down", "db")
    assert "db is needed by what goes on: web" in result.stderr
    assert scanning.pid("web") == web
    assert is_alive(web)


def test_restarted_when_it_is_ready_again(scanning: Tree) -> None:
    """web dies while db is down: it waits for db, and starts with it."""
    scanning.add("db")
    scanning.add("web", policy='needs = ["db"]\n')
    web = int(scanning.wait_state("web", "ready")["pid"])
    scanning.ljsv("down", "db")
    os.kill(web, signal.SIGKILL)
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanning.ljsv("up", "db")
    scanning.wait_state("web", "ready")


def test_waiting_survives_kill(scanning: Tree) -> None:
    """Supervisors that are killed while one waits for the other: the wait goes on, and ends."""
    scanning.add("db", LATE, policy=BY_FD)
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanning.wait_state("db", "up")
    for name in ("web", "db"):
        old = scanning.supervisor_pid(name)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda name=name, old=old: scanning.supervisor_pid(name) not in {0, old}, "the next supervisor")
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait again")
    scanning.wait_state("db", "up")
    scanning.ljsv("enter", "db", "touch", "/run/go")
    scanning.wait_state("web", "ready")


def test_waiting_can_be_ended(scanning: Tree) -> None:
    """`down` ends the wait; what becomes ready later starts nothing."""
    scanning.add("db", LATE, policy=BY_FD)
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanning.ljsv("down", "web")
    assert "waiting" not in scanning.detail("web")
    scanning.wait_state("db", "up")
    scanning.ljsv("enter", "db", "touch", "/run/go")
    scanning.wait_state("db", "ready")
    assert scanning.state("web") == "down"


def test_a_need_that_comes_later(scanning: Tree) -> None:
    """One that is no service yet is waited for; `up` refuses it at once."""
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    result = scanning.ljsv("up", "web", code=1)
    assert "needs what is not there: db" in result.stderr
    scanning.add("db")
    scanning.wait_state("web", "ready")
    shutil.rmtree(scanning.root / "sv" / "db")
    wait_for(lambda: not scanning.supervise("db").exists(), "db to be gone")
    assert scanning.state("web") == "ready"


def test_a_need_that_is_renamed_to_its_name(scanning: Tree) -> None:
    """Ready already: who waits for that name is told."""
    scanning.add("db2")
    scanning.wait_state("db2", "ready")
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    (scanning.sv / "db2").rename(scanning.sv / "db")
    scanning.wait_state("web", "ready")


def needed_by(tree: Tree, name: str) -> set[str]:
    """As `ljsv down` names them."""
    return set(tree.ljsv("down", name).stderr.partition("is needed by what goes on: ")[2].split())


def test_a_name_that_two_have_had(scanning: Tree) -> None:
    """Each is heard and named by itself, whatever the other one is called, was called, and does."""
    scanning.add("db")
    old = scanning.add("web", policy='needs = ["db"]\n')
    scanning.wait_state("web", "ready")
    old.rename(scanning.sv / "shop")
    wait_for(lambda: "renamed" in scanning.events(), "the rename")
    scanning.add("web", policy='needs = ["db"]\n')
    scanning.wait_state("web", "ready")
    assert needed_by(scanning, "db") == {"shop", "web"}
    os.kill(scanning.pid("web"), signal.SIGKILL)
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanning.ljsv("down", "shop")
    scanning.ljsv("up", "db")
    scanning.wait_state("web", "ready")
    assert needed_by(scanning, "db") == {"web"}


@needs_strace
def test_announced_while_its_next_supervisor_begins(scanning: Tree) -> None:
    """Who announces finds a FIFO that nobody reads, as its supervisor was killed, and does not take away what the next one has just opened."""
    scanning.add("db", down="")
    scanning.wait_state("db", "down")
    scanning.add("web", policy='needs = ["db"]\n')
    wait_for(lambda: scanning.detail("web").get("waiting") == "db", "web to wait")
    scanner, web = scanner_pid(scanning), scanning.supervisor_pid("web")
    os.kill(scanner, signal.SIGSTOP)
    try:
        os.kill(web, signal.SIGKILL)
        traced = Traced(scanning, scanning.supervisor_pid("db"), "db", at=1, calls="unlink,unlinkat", action="delay_enter=1500ms")
        with contextlib.closing(traced):
            (scanning.supervise("db") / "control").open("wb", buffering=0).write(b"u")
            wait_for(lambda: "ENXIO" in traced.output.read_text(), "it to find that nobody reads")
            os.kill(scanner, signal.SIGCONT)
            wait_for(lambda: scanning.supervisor_pid("web") not in {0, web}, "the next supervisor")
            scanning.wait_state("web", "ready")
    finally:
        os.kill(scanner, signal.SIGCONT)


def test_circle(scanning: Tree) -> None:
    """Needs that go in a circle: failed, with the way shown; mended, it starts."""
    scanning.add("a", policy='needs = ["b"]\n', down="")
    scanning.add("b", policy='needs = ["c"]\n', down="")
    scanning.add("c", policy='needs = ["a"]\n', down="")
    result = scanning.ljsv("up", "a", code=1)
    assert "a -> b -> c -> a" in result.stderr
    assert "hint: grep needs" in result.stderr
    for name in ("a", "b", "c"):
        wait_for(lambda name=name: scanning.state(name) == "down", "its supervisor")
    scanning.run("sv", "up", str(scanning.root / "sv" / "a"))
    wait_for(lambda: scanning.state("a") == "failed", "the fault")
    assert "a -> b -> c -> a" in scanning.detail("a")["fault"]


def test_essential(scanning: Tree) -> None:
    """When one that is essential has failed for good, everything stops, and the scanner says so."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    scanning.add("e", "sleep 0.1; exit 3", policy='essential = true\n[restart]\ngive_up_after = 2\ndelay = "100ms"\n')
    wait_for(lambda: '"event": "scanner ended", "exit": 1' in scanning.events(), "the scanner's end")
    assert scanning.state("a") == "down"

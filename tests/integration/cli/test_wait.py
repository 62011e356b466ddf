"""`ljsv wait`: the last word is the state, all others are names; nothing is sent."""

from __future__ import annotations

import os

import pytest

from tests.conftest import Tree


def test_words_are_names_and_the_last_one_the_state(scanning: Tree) -> None:
    """`wait a b ready`, `wait a down`, without a state `ready`; a line a service, 0 when all are there."""
    for name in ("a", "b"):
        scanning.add(name)
    done = scanning.ljsv("wait", "a", "b", "ready", "-w", "20")
    assert [line.split(" (pid")[0] for line in sorted(done.stdout.splitlines())] == ["ok: a: ready", "ok: b: ready"]
    assert scanning.ljsv("wait", "a").stdout.startswith("ok: a: ready")
    assert scanning.ljsv("wait", "a", "up").stdout.startswith("ok: a: ready")
    scanning.ljsv("down", "b")
    assert scanning.ljsv("wait", "b", "down").stdout.startswith("ok: b: down")
    assert scanning.ljsv("wait", "--all", "--for", "down", "-w", "0", code=1).stdout.count("timeout: ") == 1


def test_services_that_are_called_like_states(scanning: Tree) -> None:
    """`wait up ready` and `wait ./sv/up` wait for the service up; `wait up` says how to say it."""
    for name in ("up", "down"):
        scanning.add(name)
    done = scanning.ljsv("wait", "up", "down", "ready", "-w", "20")
    assert "ok: up: ready" in done.stdout and "ok: down: ready" in done.stdout
    assert "ok: up: ready" in scanning.ljsv("wait", str(scanning.sv / "up")).stdout
    assert "ljsv wait up ready" in scanning.ljsv("wait", "up", code=100).stderr
    assert "--for wants" in scanning.ljsv("wait", "up", "--for", "there", code=100).stderr


def test_it_sleeps_until_the_state_is_announced(scanning: Tree) -> None:
    """A waiter is woken when somebody else starts and stops the service."""
    scanning.add("a", down="")
    scanning.wait_state("a", "down")
    waiter = scanning.start("ljsv", "wait", "a", "ready", "-w", "60")
    scanning.ljsv("up", "a")
    output, _ = waiter.communicate(timeout=30)
    assert waiter.returncode == 0 and output.startswith("ok: a: ready"), output
    waiter = scanning.start("ljsv", "wait", "a", "down", "-w", "60")
    scanning.ljsv("term", "a")
    scanning.ljsv("down", "a")
    output, _ = waiter.communicate(timeout=30)
    assert waiter.returncode == 0 and output.startswith("ok: a: down"), output


def test_a_service_that_has_just_been_dropped_is_waited_for(scanning: Tree) -> None:
    """`mv staged sv/web && ljsv wait web`: also before its supervisor runs."""
    for number in range(5):
        name = f"s{number}"
        scanning.add(name)
        assert scanning.ljsv("wait", name, "-w", "20").stdout.startswith(f"ok: {name}: ready")


def test_not_reached(scanning: Tree) -> None:
    """A timeout and a service that failed are 1 with a hint; unknown names are 4."""
    scanning.add("a")
    scanning.add("bad", rootfs="x = 1")
    scanning.ljsv("wait", "a", "-w", "20")
    done = scanning.ljsv("wait", "a", "down", "-w", "0.2", code=1)
    assert done.stdout.startswith("timeout: a: ready") and done.stdout.endswith(", after 0.2s\n")
    scanning.wait_state("bad", "failed")
    done = scanning.ljsv("wait", "bad", "ready", "-w", "60", code=1)
    assert done.stdout.startswith("fail: bad: failed") and "hint: " in done.stderr
    assert scanning.ljsv("wait", "bad", "down").stdout.startswith("ok: bad: failed")
    assert "did you mean bad?" in scanning.ljsv("wait", "baad", "ready", code=4).stderr


def test_a_job_that_is_done(scanning: Tree) -> None:
    """It may be started by somebody: that is waited for, and then the hint says how."""
    scanning.add("job", "echo done", down="", policy='[restart]\nwhen = "failure"\n')
    scanning.ljsv("once", "job")
    scanning.wait_state("job", "down")
    done = scanning.ljsv("wait", "job", "ready", "-w", "0.2", code=1)
    assert done.stdout.startswith("timeout: job: down") and "done" in done.stdout
    assert "hint: ljsv once job" in done.stderr


def test_with_nobody_there(tree: Tree) -> None:
    """Without a scanner: down is true at once, anything else is 102."""
    tree.add("a")
    assert tree.ljsv("wait", "a", "down", "-w", "60").stdout.startswith("ok: a: down")
    assert "no scanner runs" in tree.ljsv("wait", "a", "ready", "-w", "60", code=102).stderr


def test_a_jail_that_lost_its_supervisor_is_not_down(scanning: Tree) -> None:
    """`wait down` does not believe in an end that nobody saw."""
    scanning.add("a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    supervisor = scanning.supervisor_pid("a")
    os.kill(scanner_pid(scanning), 9)
    os.kill(supervisor, 9)
    try:
        done = scanning.ljsv("wait", "a", "down", "-w", "0.5", code=102)
        assert "nobody supervises it" in done.stderr
        os.kill(pid, 0)
    finally:
        scanning.ljsv("up", "a")
    assert scanning.pid("a") == pid


def scanner_pid(tree: Tree) -> int:
    base = f"/run/ljsv/sv-{tree.scan_hash()}" if not tree.uid else f"{tree.env['XDG_RUNTIME_DIR']}/ljsv/sv-{tree.scan_hash()}"
    with open(f"{base}/.scanner/pid") as file:
        return int(file.read().split()[0])


@pytest.mark.parametrize("by", ["fd", "notify"])
def test_up_and_ready_are_two_things(scanning: Tree, by: str) -> None:
    """A service that has not said that it is ready is up, and not ready."""
    scanning.add("a", "exec sleep 1000", policy=f'[ready]\nby = "{by}"\ntimeout = "60s"\n')
    scanning.wait_state("a", "up")
    assert scanning.ljsv("wait", "a", "up").stdout.startswith("ok: a: up")
    assert f"not ready yet ({by})" in scanning.ljsv("wait", "a", "ready", "-w", "0.2", code=1).stdout
    assert f"not ready yet ({by})" in scanning.ljsv("status").stdout


def test_what_waits_for_another_is_waited_for(scanning: Tree) -> None:
    """`wait web` goes on while web waits for db, and ends when both are ready."""
    scanning.add("web", policy='needs = ["db"]\n')
    assert "waiting for db" in scanning.ljsv("wait", "web", "-w", "0.5", code=1).stdout
    waiter = scanning.start("ljsv", "wait", "web", "-w", "60")
    scanning.add("db")
    output, _ = waiter.communicate(timeout=30)
    assert waiter.returncode == 0 and output.startswith("ok: web: ready"), output

"""Whatever is killed during a deployment, and whenever: the service ends up in one generation, image and overlay together.

The supervisor is killed before its Nth system call (a sample of all moments;
`--long`: every one); command, supervisor, scanner and all of them together at
random moments (`--long`: for minutes). LJSV_CHAOS_SEED is told when it fails.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.strace import Traced, may_trace
from tests.integration.generations.test_generations import NOTIFY, QUICK, make_images

SEED = int(os.environ.get("LJSV_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
AT_ONCE, SAMPLE = 3, 6
ROUNDS, LONG_ROUNDS = 5, 150
RESTART = '[restart]\nstable_after = "0s"\ndelay = "100ms"\n'


def state_of(tree: Tree, name: str) -> Path:
    base = Path("/var/lib/ljsv") if not tree.uid else tree.home / ".local/state/ljsv"
    return next(base.glob(f"sv-{tree.scan_hash()}")) / name


def record(tree: Tree, name: str) -> dict:
    path = state_of(tree, name) / "generations"
    return json.loads(path.read_text()) if path.exists() else {"current": 0, "trial": None, "kept": []}


def version(tree: Tree, name: str) -> str:
    return tree.ljsv("enter", name, "cat", "/version").stdout


def told(tree: Tree, name: str) -> list[str]:
    """The runs that the overlay in effect has seen."""
    return tree.ljsv("enter", name, "cat", "/told").stdout.split()


def wait_decided(tree: Tree, name: str) -> None:
    """Until nothing is under way, and the service runs."""
    wait_for(lambda: record(tree, name)["trial"] is None and tree.state(name) == "ready" and is_alive(tree.pid(name)), f"{name} to be decided: {record(tree, name)}")


def add(tree: Tree, name: str) -> None:
    tree.add(name, NOTIFY, f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"', policy=QUICK + RESTART)
    tree.wait_state(name, "ready")


def check(tree: Tree, name: str, image: str, before: list[str]) -> None:
    """That image, with the overlay that belongs to it, and nothing of a copy left behind for good."""
    assert version(tree, name) == image
    runs = told(tree, name)
    assert runs[: len(before)] == before
    assert set(runs[len(before) :]) <= {image}, runs
    assert runs[-1] == image
    effective = [item for item in record(tree, name)["kept"] if item["number"] == record(tree, name)["current"]]
    assert (effective[0]["image"] if effective else "one.squashfs") == f"{image}.squashfs"


@pytest.mark.skipif(not may_trace(), reason="kernel.yama.ptrace_scope forbids strace to follow a process that is no child")
@pytest.mark.parametrize(("kind", "result"), [("later", "two"), ("ends", "one")])
def test_supervisor_killed_at_every_moment(tree: Tree, kind: str, result: str, pytestconfig: pytest.Config) -> None:
    """A good image is kept and a bad one is not, as if nothing had been."""
    make_images(tree, one="good", two=kind)
    tree.ljsv("scan", "--daemon")
    add(tree, "measure")
    traced = Traced(tree, tree.supervisor_pid("measure"), "measure")
    tree.ljsv("deploy", "measure", "--image", f"{tree.root}/two.squashfs", code=None)
    wait_decided(tree, "measure")
    time.sleep(0.2)
    traced.close()
    tree.ljsv("down", "measure")
    total = len(traced.calls())
    moments = list(range(1, total + 1))
    if not pytestconfig.getoption("long"):
        moments = sorted(random.Random(SEED).sample(moments, min(SAMPLE, total)))
    problems: list[str] = []
    for first in range(0, len(moments), AT_ONCE):
        problems += walk(tree, moments[first : first + AT_ONCE], result)
    assert not problems, f"LJSV_CHAOS_SEED={SEED}; {total} moments\n" + "\n".join(problems)


def walk(tree: Tree, moments: list[int], result: str) -> list[str]:
    names = [f"web{moment}" for moment in moments]
    for name in names:
        add(tree, name)
    traces = [Traced(tree, tree.supervisor_pid(name), name, moment) for name, moment in zip(names, moments, strict=True)]
    commands = [tree.start("ljsv", "deploy", name, "--image", f"{tree.root}/two.squashfs") for name in names]
    problems = []
    for name, traced, command in zip(names, traces, commands, strict=True):
        said = command.communicate(timeout=120)[0]
        last = traced.last_call()
        traced.close()
        try:
            if "nobody supervises it" in said:  # it was not even asked
                tree.ljsv("deploy", name, "--image", f"{tree.root}/two.squashfs", code=None)
            wait_decided(tree, name)
            check(tree, name, result, ["one"])
        except (AssertionError, pytest.fail.Exception) as error:
            problems.append(f"{name} after {last[:150]}: {error}\n{said}\n{record(tree, name)}\n{tree.ljsv('events', name, '-n', '12').stdout}")
        tree.ljsv("exit", name, code=None)
    return problems


VICTIMS = ("command", "supervisor", "scanner", "supervisor and scanner", "all")


def test_random_kills(tree: Tree, pytestconfig: pytest.Config) -> None:
    """Command, supervisor, scanner, all of them and what they have started; good and bad images in turn."""
    dice = random.Random(SEED)
    make_images(tree, one="good", two="later", three="ends")
    tree.ljsv("scan", "--daemon")
    add(tree, "web")
    before, now = ["one"], "one"
    for number in range(LONG_ROUNDS if pytestconfig.getoption("long") else ROUNDS):
        image = dice.choice([name for name in ("one", "two", "three") if name != now])
        victim = VICTIMS[number % len(VICTIMS)]
        command = tree.start("ljsv", "deploy", "web", "--image", f"{tree.root}/{image}.squashfs")
        time.sleep(dice.uniform(0.0, 1.5))
        kill(tree, victim, command.pid)
        command.communicate(timeout=120)
        where = f"LJSV_CHAOS_SEED={SEED}, round {number}: {victim} killed while {image} came after {now}"
        if record(tree, "web")["trial"] or not is_alive(tree.pid("web")) or tree.state("web") != "ready":
            tree.ljsv("up", "web", "-w", "60", code=None)
        try:
            wait_decided(tree, "web")
            reached = version(tree, "web")
            assert reached in {now, image}
            assert reached != "three"
            check(tree, "web", reached, before)
        except (AssertionError, pytest.fail.Exception) as error:
            pytest.fail(f"{where}\n{error}\n{record(tree, 'web')}\n{tree.events()}")
        before, now = told(tree, "web"), reached
    layers = {path.name for path in (state_of(tree, "web") / "overlay/layers").iterdir()}
    assert len(layers) <= 7, layers
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/{'two' if now == 'one' else 'one'}.squashfs")
    assert not [name for name in (state_of(tree, "web") / "overlay/layers").iterdir() if name.name.startswith(".")]
    assert not [name for name in (state_of(tree, "web") / "images").iterdir() if name.name.startswith(".")]


def kill(tree: Tree, victim: str, command_pid: int) -> None:
    """At once, and until they are gone; what is gone already is gone."""
    scanner = scanner_pid(tree)
    pids = {
        "command": [command_pid], "supervisor": [tree.supervisor_pid("web")], "scanner": [scanner],
        "supervisor and scanner": [scanner, tree.supervisor_pid("web")],
    }.get(victim) or [scanner, tree.supervisor_pid("web"), *tree.processes(), command_pid]
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(pid) for pid in pids if pid != command_pid), "what was killed to be gone")


def scanner_pid(tree: Tree) -> int:
    base = Path("/run") if not tree.uid else tree.runtime
    path = base / f"ljsv/sv-{tree.scan_hash()}/.scanner/pid"
    return int(path.read_text().split()[0])


def test_after_a_reboot_what_was_comes_back(tree: Tree) -> None:
    """A generation that was not kept before the machine went down is not tried again. (The record is made one of another boot.)"""
    make_images(tree, one="good", two="never")
    tree.ljsv("scan", "--daemon")
    tree.add("web", NOTIFY, f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"', policy=QUICK.replace('"15s"', '"60s"'))
    tree.wait_state("web", "ready")
    command = tree.start("ljsv", "deploy", "web", "--image", f"{tree.root}/two.squashfs")
    wait_for(lambda: (record(tree, "web")["trial"] or {}).get("phase") == "trying" and tree.state("web") == "up", "the trial")
    assert "trying two.squashfs (generation 1)" in tree.ljsv("status", "web", code=None).stdout
    kill(tree, "all", command.pid)
    command.communicate(timeout=60)
    path = state_of(tree, "web") / "generations"
    path.write_text(re.sub(r'"boot": "[^"]*"', '"boot": "another"', path.read_text()))
    for file in (tree.supervise("web") / "detail", tree.supervise("web") / "jail"):
        file.unlink(missing_ok=True)
    tree.ljsv("up", "web")
    assert version(tree, "web") == "one"
    assert told(tree, "web") == ["one", "one"]
    assert "the machine was started anew" in tree.ljsv("why", "web").stdout

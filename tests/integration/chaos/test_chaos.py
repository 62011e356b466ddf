"""Chaos: everything that can happen, at random, to real processes, under the eyes of a checker.

Short by default; `--long` takes ten minutes. LJSV_CHAOS_SEED repeats the
schedule of deeds that a failure has printed; what the kernel makes of it is
its own.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.conftest import Tree, users, wait_for
from tests.integration.chaos import cast as roles
from tests.integration.chaos.marked import Marked
from tests.integration.chaos.storm import Storm
from tests.integration.chaos.test_every_moment import SEED
from tests.integration.chaos.watch import Watch

SHORT_S, LONG_S = 14.0, 600.0
TOLD_MAX = 60


def test_nobody_is_indispensable(scanning: Tree, pytestconfig: pytest.Config) -> None:
    """No service runs twice, none is stopped unasked, none is lost; logs, exit statuses and restart counts are right; and nothing is left."""
    weather(scanning, pytestconfig)


def test_nor_is_a_runtime_directory(plain_tree: Tree, pytestconfig: pytest.Config) -> None:
    """The same where `supervise` is a plain directory."""
    plain_tree.ljsv("scan", "--daemon")
    weather(plain_tree, pytestconfig)


def weather(tree: Tree, pytestconfig: pytest.Config) -> None:
    cast = roles.bring(tree)
    for name in roles.LASTING:
        tree.wait_state(name, "ready")
    watch, storm = Watch(cast, roles.LASTING), Storm(tree, cast, SEED)
    watch.start()
    try:
        storm.blow((LONG_S if pytestconfig.getoption("long") else SHORT_S) / len(users()), lambda: bool(watch.problems))
        problems = calm_down(tree, cast, storm, watch)
    finally:
        watch.stop()
    problems = [*watch.problems, *storm.problems, *problems]
    assert watch.looks > 5
    assert not problems, "\n".join([*problems, f"LJSV_CHAOS_SEED={SEED}; the last deeds of {len(storm.told)}:", *storm.told[-TOLD_MAX:]])


def calm_down(tree: Tree, cast: dict[str, Marked], storm: Storm, watch: Watch) -> list[str]:
    """Everything up, then everything down, and the accounts are closed."""
    storm.reap(wait=True)
    storm.mend()
    endless = [service for service in cast.values() if service.label_name not in roles.ENDING]
    done = tree.ljsv("up", *[service.name for service in endless], "-w", "40", code=None)
    problems = [] if done.returncode == 0 else [f"not everything is up again: {done.stdout}{done.stderr}"]
    problems += storm.wait_supervised()
    with contextlib.suppress(pytest.fail.Exception):  # one that was sent a signal may be between two runs
        wait_for(lambda: all(len(service.jails()) == 1 for service in endless), "each to run", 5)
    problems += [f"{service.name} runs in {len(service.jails())} jails" for service in endless if len(service.jails()) != 1]
    problems += [f"{service.name} has another pid than it says" for service in endless if tree.pid(service.name) not in service.pids()]
    for name in roles.LASTING:
        detail = tree.detail(cast[name].name)
        if detail.get("restarts") != "0" or "end" in detail:
            problems.append(f"{name} was never restarted, but it says {detail}")
    watch.release()
    names = [service.name for service in cast.values()]
    done = tree.ljsv("down", *names, "-w", "40", code=None)
    if done.returncode:
        problems.append(f"not everything is down: {done.stdout}{done.stderr}")
    problems += still_alive(cast)
    return problems + [problem for service in cast.values() for problem in roles.check_end(service)]


def still_alive(cast: dict[str, Marked]) -> list[str]:
    """What lives of services that are down; it may take a moment to end."""
    try:
        wait_for(lambda: not any(service.jails() for service in cast.values()), "what was in the jails to end")
    except pytest.fail.Exception:
        return [f"{service.name} is down, but in its jail live {service.jails()}: {service.tree.detail(service.name)}" for service in cast.values() if service.jails()]
    return []

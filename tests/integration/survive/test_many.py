"""Many services in one tree: all of them run, each writes its log, and a kill of what holds them together costs none.

A thousand with `--long`, which as an unprivileged user is more than the soft
limits of descriptors (1,024) and of pages in pipes (16,384) would let one
process have; without it as many as start in seconds.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.survive.test_survive import scanner_pid

MANY, FEW = 1_000, 60
PATIENCE_S = 240.0


def test_many_services_run(tree: Tree, pytestconfig: pytest.Config) -> None:
    """Started from cold, and again by the next scanner and supervisors after the ones before were killed."""
    names = [f"s{number:03}" for number in range(MANY if pytestconfig.getoption("long") else FEW)]
    for name in names:
        tree.add(name, f"echo hello from {name}\nexec sleep 1000")
    tree.ljsv("scan", "--daemon")
    wait_for(lambda: all(tree.state(name) == "ready" for name in names), "all to be ready", PATIENCE_S)
    wait_for(lambda: all(tree.log(name) == f"hello from {name}" for name in names), "all to have written", PATIENCE_S)
    pids = {name: tree.pid(name) for name in names}
    assert len(set(pids.values())) == len(names)
    table = tree.ljsv("status").stdout
    assert all(name in table for name in names)
    supervisors = [tree.supervisor_pid(name) for name in names]
    for pid in {scanner_pid(tree), *supervisors}:
        with suppress(ProcessLookupError):  # it has just gone to sleep
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(is_alive(pid) for pid in supervisors), "supervisors to end")
    tree.ljsv("scan", "--daemon")
    wait_for(lambda: all(tree.supervisor_pid(name) not in {0, *supervisors} for name in names), "all to be supervised", PATIENCE_S)
    assert {name: tree.pid(name) for name in names} == pids
    assert all(is_alive(pid) for pid in pids.values())
    tree.ljsv("down", "--all", "-w", "200", timeout_s=240)
    assert not any(is_alive(pid) for pid in pids.values())

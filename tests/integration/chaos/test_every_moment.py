"""The supervisor is killed before each of its system calls, one walk for each thing that it does.

A sample of the moments is tried (`--long`: all of them), in services of their
own, several at a time. The sample is drawn with a seed: LJSV_CHAOS_SEED, told
when a story fails.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.marked import FINISH, RUN, Marked
from tests.integration.chaos.strace import Traced, needs_strace

AT_ONCE = 8
SAMPLE = 16
POLICY = '[restart]\nstable_after = "0s"\nfirst_delay = "0s"\n[stop]\ntimeout = "5s"\n[log]\nmax_size = "4K"\nkeep = 1000\n'
SAYS_READY = RUN.replace("echo began", """trap 'echo >&3' HUP\necho began""")
NOTIFY = 'import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])'
NOTIFIES_READY = RUN.replace("echo began", f"notify() {{ /usr/bin/python3 -c '{NOTIFY}'; }}\ntrap notify HUP\necho began")
SEED = int(os.environ.get("LJSV_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)


@dataclass
class Deed:
    """One thing that a supervisor does: how it is set off, when it is over, and what is true once another has taken over."""

    begin: Callable[[Marked], object]
    is_over: Callable[[Marked], bool]
    check: Callable[[Marked], None]
    state: str = "ready"
    policy: str = ""
    run: str = RUN


def count(service: Marked, word: str) -> int:
    return sum(line.split()[0] == word for line in service.told())


def is_ready(service: Marked) -> bool:
    return service.state == "ready" and is_alive(service.tree.pid(service.name))


def check_crash(service: Marked) -> None:
    """One death by itself: one finish with its arguments, one restart, which is counted."""
    wait_for(lambda: is_ready(service) and count(service, "began") == 2, f"{service.name} to run again: {service.told()}")
    assert service.told() == ["run", "began", "finish 7 0", "run", "began"]
    assert service.tree.detail(service.name)["restarts"] == "1"
    assert service.tree.detail(service.name)["end"] == "7 0"


def check_start(service: Marked) -> None:
    """A command that was read may be lost with its reader; then nothing runs, and the next one starts it."""
    wait_for(lambda: (is_ready(service) and count(service, "began") == 1) or (service.state == "down" and not service.jails()), f"{service.name} to be what it says")
    service.control("u")
    wait_for(lambda: is_ready(service) and count(service, "began"), f"{service.name} to run")
    assert service.told() == ["run", "began"]


def check_stop(service: Marked) -> None:
    """Down, or up where the command was lost; and then it obeys the next one."""
    wait_for(lambda: is_ready(service) or (service.state == "down" and not service.jails()), f"{service.name} to be what it says")
    service.control("d")
    wait_for(lambda: service.state == "down" and not service.jails(), f"{service.name} to be down")
    assert count(service, "run") == count(service, "finish")
    assert {line for line in service.told() if line.startswith("finish")} == {"finish -1 15"}


def check_restart(service: Marked) -> None:
    """Both commands are obeyed, or both are lost with their reader: it is never left half done, which is down."""
    wait_for(lambda: is_ready(service) and count(service, "began") == count(service, "finish") + 1, f"{service.name} to run")
    assert set(service.told()) <= {"run", "began", "finish -1 15"}


def check_log(service: Marked) -> None:
    """Each line once, in order, over the rotations."""
    expected = [f"line {number}" for number in range(1, 301)]
    wait_for(lambda: len(service.log_lines()) >= 300, f"the lines of {service.name}")
    assert service.log_lines() == expected
    assert service.told() == ["run", "began"]


def check_ready(service: Marked) -> None:
    """What the service has said once is heard, whoever had begun to read it."""
    wait_for(lambda: is_ready(service), f"{service.name} to be ready")
    assert service.told() == ["run", "began"]


def is_settled_down(service: Marked) -> bool:
    return service.state == "down"


DEEDS = {
    "start": Deed(lambda s: s.control("u"), lambda s: is_ready(s) and count(s, "began") == 1, check_start, state="down"),
    "crash": Deed(lambda s: s.signal(signal.SIGUSR1), lambda s: is_ready(s) and count(s, "began") == 2, check_crash),
    "stop": Deed(lambda s: s.control("d"), is_settled_down, check_stop),
    "restart": Deed(lambda s: s.control("du"), lambda s: is_ready(s) and count(s, "began") == 2, check_restart),
    "log": Deed(lambda s: s.signal(signal.SIGUSR2), lambda s: len(s.log_lines()) >= 300, check_log),
    "ready fd": Deed(lambda s: s.signal(signal.SIGHUP), is_ready, check_ready, "up", '[ready]\nby = "fd"\n', SAYS_READY),
    "ready notify": Deed(lambda s: s.signal(signal.SIGHUP), is_ready, check_ready, "up", '[ready]\nby = "notify"\n', NOTIFIES_READY),
}


def make(tree: Tree, deed: Deed, names: list[str]) -> list[Marked]:
    """Services of these names, in the state in which the deed begins."""
    extra = {"down": ""} if deed.state == "down" else {}
    services = [Marked(tree, name, deed.run, finish=FINISH, policy=deed.policy + POLICY, **extra) for name in names]
    for service in services:
        tree.wait_state(service.name, deed.state)
        if deed.state != "down":
            wait_for(lambda service=service: count(service, "began"), "its traps")
    return services


def count_calls(tree: Tree, deed: Deed) -> int:
    """How many system calls the deed takes."""
    (service,) = make(tree, deed, ["measure"])
    traced = Traced(tree, tree.supervisor_pid("measure"), "measure")
    deed.begin(service)
    wait_for(lambda: deed.is_over(service), "the deed that is measured")
    time.sleep(0.2)
    traced.close()
    tree.ljsv("down", "measure")
    return len(traced.calls())


@needs_strace
@pytest.mark.parametrize("deed_name", DEEDS)
def test_supervisor_killed_at_every_moment(scanning: Tree, deed_name: str, pytestconfig: pytest.Config) -> None:
    """Start, crash, stop, restart, log, the word that it is ready: whenever the supervisor is killed, the next one ends it as if nothing had been."""
    deed = DEEDS[deed_name]
    total = count_calls(scanning, deed)
    moments = list(range(1, total + 1))
    if not pytestconfig.getoption("long"):
        moments = sorted(random.Random(SEED).sample(moments, min(SAMPLE, total)))
    problems = []
    for first in range(0, len(moments), AT_ONCE):
        problems += walk(scanning, deed, deed_name, moments[first : first + AT_ONCE])
    assert not problems, f"LJSV_CHAOS_SEED={SEED}; {total} moments\n" + "\n".join(problems)


def walk(tree: Tree, deed: Deed, deed_name: str, moments: list[int]) -> list[str]:
    """Kill at these moments, each in a service of its own; what was not as it should be."""
    services = make(tree, deed, [f"{deed_name.replace(' ', '-')}{moment}" for moment in moments])
    traces = [Traced(tree, tree.supervisor_pid(service.name), service.name, moment) for service, moment in zip(services, moments, strict=True)]
    for service in services:
        deed.begin(service)
    problems = []
    for service, traced, moment in zip(services, traces, moments, strict=True):
        wait_for(lambda traced=traced, service=service: traced.has_killed or deed.is_over(service), f"{service.name}: the kill")
        last = traced.last_call()
        traced.close()
        try:
            if traced.has_killed:
                wait_for(lambda traced=traced, service=service: tree.supervisor_pid(service.name) not in {0, traced.pid} and is_alive(tree.supervisor_pid(service.name)), "another supervisor")
            deed.check(service)
            assert len(service.jails()) <= 1
            assert "twice" not in service.told()
        except (AssertionError, pytest.fail.Exception) as error:
            problems.append(f"{deed_name}, killed before system call {moment}: {last}\n  {str(error).splitlines()[0]}\n  told {service.told()}\n  jails {service.jails()}\n  {tree.detail(service.name)}")
        service.control("x")
    return problems

"""When a service counts as ready: by a newline on descriptor 3, by sd_notify, by ./check; and what happens when it does not."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, _read_quietly, wait_for

NOTIFY = r"""#!/usr/bin/python3
import os, signal, socket, time
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
def wait(name):
    while not os.path.exists("/shared/" + name):
        time.sleep(0.02)
"""


def add_notify(tree: Tree, body: str, ready: str = "") -> None:
    """A service `n` that says of itself what `body` makes it say; it waits for files in a shared directory."""
    shared = tree.root / "shared"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)
    rootfs = f'base = "host"\n[[bind]]\nfrom = "{shared}"\nto = "/shared"\n'
    tree.add("n", run=NOTIFY + body, rootfs=rootfs, policy=f'[ready]\nby = "notify"\n{ready}')


def deaths(tree: Tree, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tree.supervise(name) / "deaths").read_text().splitlines()]


def test_newline_on_descriptor_3(scanning: Tree) -> None:
    """Up until the newline, ready from then on; what is written before it does not count."""
    scanning.add("a", "printf almost >&3\nwhile ! test -e /run/go; do sleep 0.02; done\necho >&3\nexec sleep 1000", policy='[ready]\nby = "fd"\n')
    pid = int(scanning.wait_state("a", "up")["pid"])
    assert scanning.ljsv("up", "a", "-w", "0.3", code=1).stdout.startswith("timeout: a")
    scanning.ljsv("enter", "a", "touch", "/run/go")
    scanning.wait_state("a", "ready")
    assert scanning.pid("a") == pid


@pytest.mark.parametrize("by", ["fd", "notify", "check"])
def test_where_supervise_is_a_plain_directory(scanning: Tree, by: str) -> None:
    """As runsv leaves one, and as it is made where there is no runtime directory; also under another name later."""
    say = "echo >&3" if by == "fd" else "python3 -c \"import os,socket; socket.socket(1, 2).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\"" if by == "notify" else ""
    path = scanning.write("a", f"{say}\nexec sleep 1000", policy=f'[ready]\nby = "{by}"\n', check="#!/bin/sh\nexit 0\n")
    (path / "supervise").mkdir(mode=0o700)
    os.chown(path / "supervise", scanning.uid, scanning.uid)
    path.rename(scanning.sv / "a")
    scanning.wait_state("a", "ready")
    (scanning.sv / "a").rename(scanning.sv / "b")
    scanning.ljsv("restart", "b")
    assert scanning.state("b") == "ready" and not scanning.supervise("b").is_symlink()


@pytest.mark.parametrize("by", ["fd", "notify"])
def test_said_while_nobody_supervises(tree: Tree, by: str) -> None:
    """The supervisor and the scanner are gone when the service becomes ready: the next supervisor hears it."""
    tree.ljsv("scan", "--daemon")
    say = "echo >&3" if by == "fd" else "python3 -c \"import os,socket; socket.socket(1, 2).sendto(b'READY=1\\nSTATUS=told', os.environ['NOTIFY_SOCKET'])\""
    tree.add("a", f"while ! test -e /run/go; do sleep 0.02; done\n{say}\necho said\nexec sleep 1000", policy=f'[ready]\nby = "{by}"\n')
    pid = int(tree.wait_state("a", "up")["pid"])
    scanner = int(tree.scanner_pid() if hasattr(tree, "scanner_pid") else _scanner(tree))
    os.kill(scanner, signal.SIGSTOP)
    os.kill(tree.supervisor_pid("a"), signal.SIGKILL)
    try:
        tree.ljsv("enter", "a", "touch", "/run/go")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}") or _sleeps(pid), "the service to have said it")
    finally:
        os.kill(scanner, signal.SIGCONT)
    detail = tree.wait_state("a", "ready")
    assert int(detail["pid"]) == pid


def _scanner(tree: Tree) -> int:
    return next(pid for pid, text in tree.processes().items() if text.startswith("ljsv scan") or "supervise.scanner" in text)


def _sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/comm") as file:
        return file.read() == "sleep\n"


def test_notify(scanning: Tree) -> None:
    """STATUS is shown, RELOADING too; READY makes it ready; after STOPPING its end is awaited."""
    add_notify(scanning, """
say("STATUS=waking up")
wait("ready")
say("READY=1\\nSTATUS=serves")
wait("reload")
say("RELOADING=1")
wait("reloaded")
say("READY=1")
wait("stop")
say("STOPPING=1")
wait("end")
""")
    shared = scanning.root / "shared"
    scanning.wait_state("n", "up")
    wait_for(lambda: scanning.detail("n").get("status_text") == "waking up", "its status")
    (shared / "ready").touch()
    scanning.wait_state("n", "ready")
    assert "serves" in scanning.ljsv("status", "n").stdout
    (shared / "reload").touch()
    wait_for(lambda: scanning.detail("n").get("status_text") == "reloading; serves", "the reload to be shown")
    (shared / "reloaded").touch()
    wait_for(lambda: scanning.detail("n").get("status_text") == "serves", "the end of the reload")
    (shared / "stop").touch()
    scanning.wait_state("n", "stopping")
    (shared / "end").touch()
    wait_for((scanning.supervise("n") / "deaths").exists, "its end")
    assert deaths(scanning, "n")[-1] | {"was": "stopping", "end": "exit 0", "is_commanded": False} == deaths(scanning, "n")[-1]


def test_not_ready_in_time(scanning: Tree) -> None:
    """It is stopped, which counts as a failure, and `up` says so with its last lines."""
    scanning.add("a", "echo never; exec sleep 1000", down="", policy='[ready]\nby = "fd"\ntimeout = "300ms"\n[restart]\ngive_up_after = 2\ndelay = "100ms"\n')
    result = scanning.ljsv("up", "a", code=1)
    assert result.stdout.startswith("fail: a: ")
    assert "never" in result.stderr
    scanning.wait_state("a", "failed")
    assert [(death["was"], death["is_commanded"]) for death in deaths(scanning, "a")] == [("stopping", False)] * 2


def test_watchdog(scanning: Tree) -> None:
    """One that goes silent gets ABRT and is started again; one that speaks goes on."""
    add_notify(scanning, """
say("READY=1")
assert os.environ["WATCHDOG_USEC"] == "1000000"
while not os.path.exists("/shared/silent"):
    say("WATCHDOG=1")
    time.sleep(0.1)
time.sleep(1000)
""", 'watchdog = "1s"')
    pid = int(scanning.wait_state("n", "ready")["pid"])
    (scanning.root / "shared" / "silent").touch()
    wait_for(lambda: scanning.pid("n") not in {0, pid}, "another run")
    assert str(deaths(scanning, "n")[0]["end"]).startswith("SIGABRT")


def test_watchdog_outlives_its_supervisor(scanning: Tree) -> None:
    """One that goes silent under the next supervisor is started again by that."""
    add_notify(scanning, """
say("READY=1")
while not os.path.exists("/shared/silent"):
    say("WATCHDOG=1")
    time.sleep(0.1)
time.sleep(1000)
""", 'watchdog = "1s"')
    pid = int(scanning.wait_state("n", "ready")["pid"])
    (scanning.root / "shared" / "silent").touch()
    supervisor = scanning.supervisor_pid("n")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: scanning.supervisor_pid("n") not in {0, supervisor}, "the next supervisor")
    wait_for(lambda: scanning.pid("n") not in {0, pid}, "another run")


def test_check(scanning: Tree) -> None:
    """./check runs in the jail, with the service's pid, until it exits 0."""
    check = 'echo "check of $(cat /proc/$LJSV_PID/comm) as $(id -u)"\ntest -e /run/go'
    scanning.add("a", "exec sleep 1000", check=f"#!/bin/sh\n{check}\n", policy='[ready]\nby = "check"\n')
    scanning.wait_state("a", "up")
    wait_for(lambda: "check: exit 1" in scanning.detail("a").get("status_text", ""), "the first check")
    scanning.ljsv("enter", "a", "touch", "/run/go")
    scanning.wait_state("a", "ready")
    assert "check of sleep as 0" in scanning.log("a")
    assert "check: exit 1" not in scanning.ljsv("status", "a").stdout


def test_check_that_hangs(scanning: Tree) -> None:
    """It is killed when its time is up, and tried again."""
    policy = '[ready]\nby = "check"\n[scripts]\ncheck = "200ms"\n'
    scanning.add("a", "exec sleep 1000", check="#!/bin/sh\ntest -e /run/go || exec sleep 1001\n", policy=policy)
    wait_for(lambda: "its time was up" in scanning.detail("a").get("status_text", ""), "the check to be killed")
    scanning.ljsv("enter", "a", "touch", "/run/go")
    scanning.wait_state("a", "ready")
    assert not any("sleep 1001" in text for text in scanning.processes().values())


def test_check_that_cannot_run(scanning: Tree) -> None:
    """A check that is not executable is an error that says so."""
    path = scanning.add("a", "exec sleep 1000", check="#!/bin/sh\n", policy='[ready]\nby = "check"\n')
    (path / "check").chmod(0o644)
    result = scanning.ljsv("restart", "a", code=1)
    assert "check is not executable" in result.stderr
    assert f"chmod +x {path}/check" in result.stderr


def test_up_that_fails_at_once(scanning: Tree) -> None:
    """A start that fails shows the service's last words in the error of `up` itself."""
    scanning.add("a", "echo there is no configuration; exit 7", down="")
    result = scanning.ljsv("up", "a", code=1)
    assert "exit 7" in result.stdout
    assert "there is no configuration" in result.stderr


@pytest.mark.parametrize("why", ["not ready", "silent"])
def test_a_clean_end_is_no_success_then(scanning: Tree, why: str) -> None:
    """What was not ready in time, or went silent, has failed, whatever it makes of its signal: it is started again, and `up` says so."""
    ends = "signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); signal.signal(signal.SIGABRT, lambda *_: os._exit(0))\n"
    says = 'say("READY=1")\n' if why == "silent" else ""
    limit = 'watchdog = "300ms"\n' if why == "silent" else 'timeout = "300ms"\n'
    add_notify(scanning, f"{ends}{says}time.sleep(1000)\n", f'{limit}[restart]\nwhen = "failure"\ndelay = "100ms"\n')
    wait_for(lambda: int(scanning.detail("n").get("restarts", "0")) >= 2, "it to be started again")


def test_paused_is_not_silent(scanning: Tree) -> None:
    """Whom ljsv has stopped has its time when it goes on: its watchdog's, and the one to get ready."""
    add_notify(scanning, 'say("READY=1")\nwhile True:\n    time.sleep(0.1)\n    say("WATCHDOG=1")\n', 'watchdog = "600ms"\n')
    pid = int(scanning.wait_state("n", "ready")["pid"])
    scanning.add("a", "sleep 0.7; echo >&3; exec sleep 1000", policy='[ready]\nby = "fd"\ntimeout = "1s"\n')
    other = int(scanning.wait_state("a", "up")["pid"])
    scanning.ljsv("pause", "n", "a")
    time.sleep(1.5)
    scanning.ljsv("cont", "n", "a")
    scanning.wait_state("a", "ready")
    time.sleep(1)
    assert (scanning.pid("n"), scanning.pid("a")) == (pid, other)


def test_a_check_that_is_late_leaves_nothing(scanning: Tree) -> None:
    """It is killed with what it has started, each time."""
    mark = f"7770.{scanning.uid}"
    scanning.add("a", policy='[ready]\nby = "check"\n[scripts]\ncheck = "200ms"\n', check=f"#!/bin/sh\necho tried\nsleep {mark}\nexit 0\n")
    wait_for(lambda: scanning.log("a").count("tried") > 3, "some tries", 30)
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _read_quietly(path) == f"sleep\0{mark}\0".encode()]
    assert len(found) <= 1
    scanning.ljsv("down", "a")

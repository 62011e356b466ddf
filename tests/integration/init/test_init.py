"""PID 1 of a container: what a box needs of it, whatever its services do."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, need, users, wait_for
from tests.integration.init.box import Box


@pytest.fixture(params=users())
def box(request: pytest.FixtureRequest, programs: Path) -> Iterator[Box]:
    root = Path(tempfile.mkdtemp(prefix="ljsv-box."))
    root.chmod(0o755)
    box = Box(root, programs, request.param[0])
    try:
        yield box
    finally:
        box.close()
        shutil.rmtree(root)


def test_a_life(box: Box) -> None:
    """Boot, services, orphans reaped, the scanner killed and back with the services staying, and poweroff in order."""
    shared = 'base = "host"\n[[bind]]\nfrom = "/run/shared"\nto = "/tmp"\nwritable = true\n'
    box.add("db", "trap ': > /tmp/db; exit' TERM; sleep 1000 & wait", rootfs=shared)
    box.add("web", "trap 'sleep 0.5; : > /tmp/web; exit' TERM; sleep 1000 & wait", rootfs=shared, policy='needs = ["db"]\n')
    box.write("boot", 'mkdir -m 1777 /run/shared; echo "boot as $(id -u) under $PPID"')
    box.write("shutdown", 'echo "shutdown $1, left: $(pgrep -c "^ljsv [swd]"), ended: $(ls -tr /run/shared | tr "\\n" " ")"')
    box.start()
    pid = box.ready("web")
    assert "boot as 0 under 1\n" in box.out
    box.run("sh", "-c", "(sleep 0.1 &) ; sleep 0.3")
    assert box.run("sh", "-c", "ps -eo stat= | grep -c Z", code=1) == "0\n"
    (scanner,) = box.find("ljsv scan")
    box.run("kill", "-KILL", str(scanner))
    wait_for(lambda: box.find("ljsv scan") not in ([], [scanner]), "another scanner")
    assert box.ready("web") == pid
    box.run("ljsv", "poweroff")
    assert box.end() == 0
    assert "shutdown poweroff, left: 0, ended: web db \n" in box.out


def test_everything_that_can_be_killed_is_killed(box: Box) -> None:
    """KILL of all processes but PID 1, twice: it stays, and the services run again."""
    box.add("web")
    box.start()
    for _ in range(2):
        before = box.ready("web")
        box.run("sh", "-c", "kill -KILL -1", code=None)
        wait_for(lambda: box.run("ljsv", "status", "web", "-o", "pid", code=None).strip() not in {"", "-", before}, "its next run")
    assert is_alive(box.pid)
    box.signal(signal.SIGUSR2)
    assert box.end() == 0


@pytest.mark.parametrize(("client", "code"), [
    (("busybox", "poweroff"), 0), (("busybox", "halt"), 0), (("busybox", "reboot"), 0), (("sh", "-c", "kill -INT 1"), 0), (("sh", "-c", "kill -PWR 1"), 0),
    (("ljsv", "halt"), 0), (("ljsv", "reboot"), -signal.SIGHUP),
    (("sh", "-c", "kill -CONT 1; kill -HUP 1; : > /run/runit.stopit; kill -CONT 1; sleep 0.3; pgrep -x 'ljsv scan' || exit 1; chmod 100 /run/runit.stopit; kill -CONT 1"), 0),
])
def test_clients(programs: Path, client: tuple[str, ...], code: int) -> None:
    """Busybox's (TERM is a container's end), the kernel's INT, lxc-stop's PWR, ours, and what runit-init does; a reboot's end is the kernel's, by HUP."""
    if os.geteuid():
        pytest.skip("root's own pid namespace is needed")
    need(client[0])
    root = Path(tempfile.mkdtemp(prefix="ljsv-box."))
    root.chmod(0o755)
    box = Box(root, programs, 0)
    try:
        box.start()
        wait_for(lambda: box.find("ljsv scan"), "the scanner")
        box.run(*client)
        assert box.end() == code, box.out
    finally:
        box.close()
        shutil.rmtree(root)


def test_services_that_will_not_stop(box: Box) -> None:
    """One deadline for all; a boot script that hangs is no obstacle, a shutdown script neither."""
    box.add("deaf", "trap '' TERM; while :; do sleep 1000; done", policy='[stop]\ntimeout = "60s"\n')
    box.write("boot", "trap '' TERM; sleep 1000 & sleep 1000")
    box.start("--deadline", "1")
    wait_for(lambda: box.find("sleep"), "the boot script")
    box.signal(38)
    assert box.end() == 0

    (box.etc / "boot").unlink()
    box.start("--deadline=1")
    box.ready("deaf")
    begun = time.monotonic()
    box.run("ljsv", "poweroff")
    assert box.end() == 0
    assert time.monotonic() - begun < 15
    assert "stop: not done in time" in box.out


def test_nothing_to_scan(box: Box) -> None:
    """The scanner cannot start: PID 1 says why, tries again, and can be told to end."""
    (box.etc / "sv").rmdir()
    box.start("--nonsense")
    wait_for(lambda: "No such file" in box.out and "next in 1 s" in box.out, "the reason")
    assert "ignored: --nonsense" in box.out
    box.run("mkdir", "-p", "/etc/ljsv/sv/web")
    wait_for(lambda: "services begun" in box.out, "the scanner")
    box.run("ljsv", "poweroff")
    assert box.end() == 0


def test_last_resort(box: Box) -> None:
    """Five scanners have failed: a shell on the console; its end tries again at once."""
    shutil.rmtree(box.etc / "sv")
    ours, theirs = pty.openpty()
    os.chmod(os.ttyname(theirs), 0o666)
    (box.root / "console").write_text(os.ttyname(theirs))
    box.start()
    wait_for(lambda: "a shell on the console" in box.out, "the shell", timeout_s=40)
    os.write(ours, b"mkdir /etc/ljsv/sv; echo pid $PPID; tty; exit\n")
    wait_for(lambda: "services begun" in box.out, "the scanner")
    said = os.read(ours, 4096)
    assert b"pid 1\r\n" in said
    box.run("ljsv", "poweroff")
    assert box.end() == 0
    os.close(ours)
    os.close(theirs)


def test_essential_service(box: Box) -> None:
    """It fails for good: the box ends, and its exit status says so."""
    box.add("heart", "exit 3", policy='essential = true\n[restart]\ngive_up_after = 1\nwhen = "always"\n')
    box.start()
    assert box.end() == 1
    assert "an essential service has failed" in box.out


def test_watchdog_is_fed(box: Box) -> None:
    """A byte, three times in each timeout; where there is no such device it is told."""
    box.write("boot", "test -s /run/dog/bytes || exit 9")
    box.start("--watchdog=/tmp/no-such-dog")
    wait_for(lambda: "cannot open the watchdog: /tmp/no-such-dog" in box.out, "the word")
    box.signal(38)
    assert box.end() == 0
    dog = box.root / "dog"
    dog.touch()
    os.chown(dog, box.uid, box.uid)
    box.start(f"--watchdog={dog}", "--watchdog-timeout=2")
    wait_for(lambda: dog.read_bytes() == b"\0\0\0", "three bytes")
    box.signal(38)
    assert box.end() == 0


def test_other_processes_are_refused(tree: Tree) -> None:
    """Another pid: exit 100 and a hint; no init of ours to ask: 102; --explain changes nothing."""
    done = tree.ljsv("init", code=100)
    assert "process 1" in done.stderr and "hint: ljsv init --explain" in done.stderr
    (tree.root / "init").symlink_to(tree.programs / "ljsv")
    by_name = tree.run(str(tree.root / "init"))
    assert (by_name.returncode, by_name.stderr.partition("and this is")[0]) == (100, done.stderr.partition("and this is")[0])
    done = tree.ljsv("poweroff", code=102)
    assert "not ljsv init" in done.stderr and "hint:" in done.stderr
    assert "run /etc/ljsv/boot" in tree.ljsv("init", "--explain").stdout

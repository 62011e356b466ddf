"""A complete box, in a virtual machine: it boots read-only from 1970, serves pages, survives what can happen, and powers off."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.vm import image
from tests.vm.box_image import build
from tests.vm.box_machine import BOOT_S, Machine

CUTS = 40
STATUS = "ljsv status -o name,state | cat"  # no terminal: tabs
KILL_ALL = "for p in $(ls /proc | grep '^[0-9]*$'); do [ $p = $$ ] || [ $p = $PPID ] || kill -9 $p; done 2> /dev/null"  # all but these shells
ALL_READY = "console\tready\ncounter\tready\nweb\tready\n"


@pytest.fixture(scope="module")
def disks() -> Iterator[Path]:
    missing = image.find_missing()
    if missing or not shutil.which("mkfs.erofs"):
        pytest.skip(f"the box needs {', '.join([*missing, 'mkfs.erofs (erofs-utils)'])}")
    with tempfile.TemporaryDirectory(prefix="ljsv-box.") as name:
        build(Path(name))
        yield Path(name)


@pytest.fixture
def power_on(disks: Path, tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    """A function that switches the box on; all have the same second disk."""
    data = tmp_path / "data"
    shutil.copy(disks / "data.ext4", data)
    machines: list[Machine] = []

    def power_on() -> Machine:
        machines.append(Machine(disks, data, tmp_path / f"machine-{len(machines)}"))
        return machines[-1]

    yield power_on
    for machine in machines:
        machine.cut_power()
    checked = subprocess.run(["e2fsck", "-fn", str(data)], env=os.environ | {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_life_of_a_box(power_on: Callable[[], Machine]) -> None:
    """Boot, pages, a clock that jumps by decades, and poweroff."""
    box = power_on()
    box.wait_page()
    assert box.shell(STATUS) == ALL_READY
    assert box.shell("date +%Y") == "1970\n"
    assert box.shell("touch /etc/x") == "touch: /etc/x: Read-only file system\n"
    mounts = box.shell("cat /proc/mounts").splitlines()
    for place in ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp", "/sys/fs/cgroup"):
        assert sum(line.split()[1] == place for line in mounts) == 1, place
    assert any("cgroup2" in line and "nsdelegate" in line and "memory_recursiveprot" in line for line in mounts)
    assert "lo" in box.shell("ip link show up") and box.shell("uname -n") == "box\n"
    assert box.shell("ls -l /proc/1/fd | grep -c watchdog") == "1\n"
    _check_oom(box)
    assert "console-is-here" in box.shell("echo console-is-here; tty", name="console")

    first = box.count()
    for year in ("2055", "1999"):
        box.shell(f"date -s {year}-06-01")
        assert box.count() > first
        assert box.shell(f"ljsv -w 100 restart web > /dev/null && {STATUS}") == ALL_READY
    box.type("ljsv poweroff")
    assert box.wait_end(BOOT_S) == 0
    assert "Power down" in box.said()


def test_everything_killed_and_rebooted(power_on: Callable[[], Machine], pytestconfig: pytest.Config) -> None:
    """KILL of everything killable, ctrl-alt-del; then another boot with what was kept."""
    if not pytestconfig.getoption("--long"):
        pytest.skip("two boots more: only with --long")
    box = power_on()
    box.wait_page()
    before = box.shell("ljsv status web -o pid | cat").strip()
    box.shell(KILL_ALL)
    wait_for(lambda: box.shell("ljsv status web -o pid,state | cat") != f"{before}\tready\n", "the death of web", timeout_s=BOOT_S)
    wait_for(lambda: box.shell(STATUS) == ALL_READY, "all to be ready again", timeout_s=BOOT_S)
    box.wait_page()
    last = box.count()
    box.type("kill -INT 1")  # what the kernel does for ctrl-alt-del
    assert box.wait_end(BOOT_S) == 0
    box = power_on()
    box.wait_page()
    assert box.count() > last


def test_hung_init_is_reset(power_on: Callable[[], Machine]) -> None:
    """PID 1 feeds the watchdog for longer than its timeout; frozen it no longer does, and the machine is reset."""
    box = power_on()
    box.wait_page()
    timeout_s = float(box.shell("cat /sys/class/watchdog/watchdog0/timeout"))
    time.sleep(timeout_s + 5)
    assert box.shell(STATUS) == ALL_READY
    box.type("mkdir /sys/fs/cgroup/hung && echo 1 > /sys/fs/cgroup/hung/cgroup.procs && echo 1 > /sys/fs/cgroup/hung/cgroup.freeze")
    assert box.wait_end(BOOT_S) == 0
    assert "softdog: Initiating system reboot" in box.said()


def _check_oom(box: Machine) -> None:
    """Scanner and supervisors are spared when memory is short, services are as any other process."""
    listing = box.shell("for p in /proc/[0-9]*; do echo $(cat $p/oom_score_adj $p/comm); done 2>/dev/null").splitlines()
    found = {name: value for value, _, name in (line.partition(" ") for line in listing)}
    assert {found[name] for name in ("ljsv scan", "ljsv web", "ljsv counter", "ljsv console")} == {"-900"}
    assert found["httpd"] == "0"


def test_power_cuts(power_on: Callable[[], Machine], pytestconfig: pytest.Config) -> None:
    """At random moments, of the boot as well: each number that was told has been kept, and no number comes twice."""
    if not pytestconfig.getoption("--long"):
        pytest.skip(f"{CUTS} boots: only with --long")
    chance = random.Random()
    last = 0
    for number in range(CUTS):
        box = power_on()
        if number % 3 == 2:
            time.sleep(chance.uniform(0, 10))
        else:
            box.wait_page()
            give_up_at = time.monotonic() + chance.uniform(0, 3)
            while time.monotonic() < give_up_at:
                with contextlib.suppress(OSError):
                    told = box.count()
                    assert told > last
                    last = told
        box.cut_power()
    box = power_on()
    box.wait_page()
    assert box.count() > last
    assert box.shell("ls -1 /data/counter") == "upper\nwork\n"
    box.type("poweroff")
    assert box.wait_end(BOOT_S) == 0

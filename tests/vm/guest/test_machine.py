"""What owns the machine: its clock, its network, its consoles, its devices, its kernel's log. Root's scanner."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for

TIOCSTI, TIOCVHANGUP = 0x5412, 0x5437
SIOCSIFMTU = 0x8922
HOST = 'base = "host"\n'
PRIVILEGED = '[security]\nuser_namespace = "host"\n'


@pytest.fixture(autouse=True)
def _root(tree: Tree) -> None:
    if tree.uid:
        pytest.skip("a story of root's scanner")


def end_of(tree: Tree, name: str, run: str, rootfs: str) -> tuple[str, str]:
    """(how a script ended, what it said)."""
    tree.add(name, run, rootfs, policy='[restart]\nwhen = "never"\n')
    wait_for(lambda: tree.state(name) == "down" and tree.detail(name).get("end_text"), f"{name} to end: {tree.detail(name)}")
    return tree.detail(name)["end_text"], tree.log(name)


def test_clock_is_set_only_by_who_may(scanning: Tree) -> None:
    """SYS_TIME, the host's user namespace and no filter: all three are needed. And what is awaited is not moved by it."""
    before = time.time()
    wanted = int(before) + 86_400
    set_it = f"date -s @{wanted}"
    time_of = 'capabilities = ["SYS_TIME"]\n'
    for name, rootfs in (("own", HOST + "[security]\n" + time_of + 'seccomp = "off"\n'), ("filtered", HOST + PRIVILEGED + time_of), ("plain", HOST + PRIVILEGED + 'seccomp = "off"\n')):
        end, said = end_of(scanning, name, set_it, rootfs)
        assert end == "exit 1" and "cannot set date" in said, (name, said)
    assert time.time() < before + 3600
    try:
        end, said = end_of(scanning, "clock", set_it, HOST + PRIVILEGED + time_of + 'seccomp = "off"\n')
        assert end == "exit 0", said
        assert time.time() >= wanted
        scanning.add("after")
        scanning.wait_state("after", "ready")
    finally:
        time.clock_settime(time.CLOCK_REALTIME, before)


def test_network_of_the_machine_is_changed_only_by_who_may(scanning: Tree) -> None:
    """NET_ADMIN has effect on the host's interfaces in its own user namespace, and in no other."""
    run = f"exec python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), {SIOCSIFMTU}, struct.pack(\"16si12x\", b\"lo\", 4000))'"
    mtu = Path("/sys/class/net/lo/mtu")
    before = mtu.read_text()
    admin = 'capabilities = ["NET_ADMIN"]\n'
    end, said = end_of(scanning, "own", run, HOST + "[security]\n" + admin)
    assert end == "exit 1" and "PermissionError" in said and mtu.read_text() == before
    end, said = end_of(scanning, "dhcp", run, HOST + PRIVILEGED + admin)
    assert end == "exit 0" and mtu.read_text() == "4000\n", said
    mtu.write_text(before)


def screen(number: int) -> str:
    return Path(f"/dev/vcs{number}").read_bytes().decode("latin-1")


@pytest.mark.parametrize("security", ["", PRIVILEGED], ids=["jailed", "privileged"])
def test_console_of_the_machine(scanning: Tree, security: str) -> None:
    """A virtual console: its name, keys, a hang-up, and a start anew."""
    number = 20 if security else 21
    path = f"/dev/tty{number}"
    scanning.add("console", "echo at $(tty) $TERM; while read line; do echo got $line; done", f'{HOST}tty = "{path}"\n{security}')
    scanning.wait_state("console", "ready")
    wait_for(lambda: f"at {path} linux" in screen(number), f"the console's name: {screen(number).strip()}")
    tty_fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    for key in b"hello\n":
        fcntl.ioctl(tty_fd, TIOCSTI, bytes([key]))
    wait_for(lambda: "got hello" in screen(number), "what was typed")
    pid = scanning.pid("console")
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4] == str(os.makedev(4, number))
    os.kill(scanning.supervisor_pid("console"), 9)
    scanning.ljsv("restart", "console", "-w", "30")
    assert scanning.pid("console") not in {0, pid}
    wait_for(lambda: screen(number).count(f"at {path}") == 2, "the second start")
    os.close(tty_fd)


def test_device_of_the_kernels_own_file_system(scanning: Tree) -> None:
    """devtmpfs cannot be id-mapped: what only root may open is opened all the same, and only what was given."""
    Path("/dev/tty22").write_text("on the screen")
    end, said = end_of(scanning, "reader", "head -c 13 /dev/vcs22; echo; ls /dev/vcs*", f'{HOST}[[device]]\npath = "/dev/vcs22"')
    assert end == "exit 0" and said.splitlines() == ["on the screen", "/dev/vcs22"]
    assert os.stat("/dev/vcs22").st_mode & 0o006 == 0


def test_kernel_takes_all_lines_when_told_to(scanning: Tree) -> None:
    """kernel.printk_devkmsg = on: the service's own rate counts."""
    setting = Path("/proc/sys/kernel/printk_devkmsg")
    before = setting.read_text()
    setting.write_text("on\n")
    try:
        scanning.add("talk", "seq 60", policy='[log]\nto = "kmsg"\nrate = 40\n[restart]\nwhen = "never"\n')
        scanning.wait_state("talk", "down")
        wait_for(lambda: "talk: 20 lines left out: more than 40 in 5s" in subprocess.run(["dmesg"], capture_output=True, text=True).stdout, "the rest to be counted")
        lines = [line for line in subprocess.run(["dmesg"], capture_output=True, text=True).stdout.splitlines() if "] talk: " in line]
        assert len(lines) == 41
    finally:
        setting.write_text(before)

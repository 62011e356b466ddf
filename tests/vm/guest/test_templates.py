"""What templates have only on a whole machine: limits that hold, and a console to spare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.vm.guest.test_limits import home, limited

__all__ = ["home", "limited"]  # the fixtures

CONSOLE = 8


def test_login_on_a_console(tree: Tree) -> None:
    """It shows a login there, again after it was killed, and ends when it is told to."""
    if tree.uid:
        pytest.skip("a terminal of the machine is root's")
    screen = Path(f"/dev/vcs{CONSOLE}")
    tree.ljsv("new", "it", "--template", "getty", "--set", f"tty=/dev/tty{CONSOLE}", "--set", "term=linux")
    tree.ljsv("up", "it")
    wait_for(lambda: screen.exists() and b"login:" in screen.read_bytes(), "the login")
    assert "privileged" in tree.ljsv("status", "it").stdout
    pid = tree.kill("it")
    wait_for(lambda: tree.pid("it") not in {0, pid} and tree.state("it") == "ready", "the next one")
    tree.ljsv("down", "it")
    assert tree.detail("it")["end_text"] in {"exit 0", "exit 1", "SIGHUP"}


def test_limits_of_a_template_hold(limited: Tree) -> None:
    """They are those of its group; who takes more memory in its jail ends it, by that name, and it starts again."""
    limited.ljsv("new", "it", "--template", "static")
    limited.ljsv("up", "it", "-w", "60")
    group = Path(limited.detail("it")["cgroup"])
    assert [(group / name).read_text().strip() for name in ("memory.max", "pids.max")] == [str(64 << 20), "64"]
    if limited.uid:
        return  # a user's shell outside of the group that was given to him may not enter it
    limited.ljsv("enter", "it", "python3", "-c", "held = b'x' * (200 << 20)", code=None)
    wait_for(lambda: "memory" in limited.ljsv("why", "it", code=None).stdout, "the death")
    limited.wait_state("it", "ready")

"""Ctrl-C before a command has begun: it ends as by the kernel, and prints nothing."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

# The finder below stands for a person who is quick: it presses Ctrl-C when that module is looked for.
QUICK = """
import os, sys, signal
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ljsv.errors":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from ljsv.cli.entry import {command}
sys.exit({command}())
"""


@pytest.mark.parametrize("command", ["ljsv", "ljexec"])
def test_ctrl_c_during_the_imports(programs: Path, command: str) -> None:
    """No traceback; a shell sees that it was interrupted."""
    done = subprocess.run([programs / "python", "-I", "-c", QUICK.format(command=command), "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", ["ljsv", "ljexec"])
def test_an_ignored_interrupt_stays_ignored(programs: Path, command: str) -> None:
    """As in a background job of a script."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + QUICK.format(command=command)
    done = subprocess.run([programs / "python", "-I", "-c", code, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

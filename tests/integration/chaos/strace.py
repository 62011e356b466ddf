"""A process that is killed before its Nth system call from now on: `strace -e inject`, for kills at named moments.

strace delivers SIGKILL where a system call is entered, and the kernel then
does not carry it out: a walk over N kills between any two of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tree, is_alive, need, wait_for


class Traced:
    """strace on one process. `at` is the number of the system call that is its last; 0 only counts."""

    def __init__(self, tree: Tree, pid: int, name: str, at: int = 0, calls: str = "all", action: str = "signal=SIGKILL") -> None:
        need("strace")
        self.pid = pid
        self.output = tree.root / f"strace.{name}"
        inject = ["-e", f"inject={calls}:{action}:when={at}"] if at else []
        argv = ["strace", "-qq", "-s", "60", "-o", str(self.output), "-e", "trace=all", *inject, "-p", str(pid)]
        self.strace = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self._is_attached() or self.strace.poll() is not None, "strace to attach")
        if self.strace.poll() is not None and not self.has_killed:
            error = self.strace.communicate()[1]
            raise AssertionError(f"strace: {error}")

    def _is_attached(self) -> bool:
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False
        return re.search(r"TracerPid:\s*0\n", text) is None

    @property
    def has_killed(self) -> bool:
        return not is_alive(self.pid)

    def calls(self) -> list[str]:
        """What was called so far, a line each."""
        return self.output.read_text(errors="replace").splitlines()

    def last_call(self) -> str:
        lines = [line for line in self.calls() if not line.startswith(("+++", "---"))]
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Let the process go."""
        if self.strace.poll() is None:
            self.strace.terminate()
        self.strace.communicate()


@contextlib.contextmanager
def standing_still(tree: Tree, uid: int, call: str, where: str, *argv: str) -> Iterator[int]:
    """A command of that user, all of whose processes take 1.5 s to `enter` that system call or to `exit` it; its pid, once one of them does."""
    need("strace")
    output = tree.home / "trace"
    words = ["strace", "-f", "-o", str(output), "-e", f"trace={call}", "-e", f"inject={call}:delay_{where}=1500ms", *argv]
    user: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    with subprocess.Popen(words, env=tree.env, cwd=tree.root, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user) as strace:
        try:
            wait_for(lambda: output.exists() and call in output.read_text(), call)
            yield int(Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split()[0])
        finally:
            strace.kill()


def may_trace() -> bool:
    """Whether a process of the same user may be traced that is no child (yama's ptrace_scope)."""
    if os.geteuid() == 0:
        return True
    try:
        return Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip() == "0"
    except OSError:
        return True


needs_strace = pytest.mark.skipif(not may_trace(), reason="kernel.yama.ptrace_scope forbids strace to follow a process that is no child")

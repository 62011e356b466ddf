"""A person at a terminal: a command on a pty, what it shows, what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SLOW_S, Tree


class Terminal:
    """`argv` as the tree's user, with a controlling terminal of its own. Ended at the end of `with`, whatever it does."""

    def __init__(self, tree: Tree, *argv: str, rows: int = 33, columns: int = 99, **env: str) -> None:
        prefix = tree._prefix(str(tree.root))
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(tree.root)
                if os.geteuid() == 0 and tree.uid and not prefix:
                    os.setgroups([])
                    os.setresgid(tree.uid, tree.uid, tree.uid)
                    os.setresuid(tree.uid, tree.uid, tree.uid)
                os.execvpe([*prefix, *argv][0], [*prefix, *argv], tree.env | {"TERM": "dumb", "PS1": "OUTER> "} | env)
            finally:
                os._exit(99)
        self.shown = ""
        self.status: int | None = None
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, *, since: int = 0) -> int:
        """Until it shows `text`; where that ends."""
        give_up_at = time.monotonic() + SLOW_S
        while (found := self.shown.find(text, since)) < 0:
            if time.monotonic() > give_up_at or not self._read(0.2):
                if self.shown.find(text, since) >= 0:
                    continue
                pytest.fail(f"never showed {text!r}: {self.shown!r}")
        return found + len(text)

    def ask(self, command: str, answer: str) -> None:
        """Type a line, and wait for an answer that is not its echo."""
        begin = len(self.shown)
        self.type(command + "\n")
        after_echo = self.wait_for("\n", since=begin)
        self.wait_for(answer, since=after_echo)

    def wait_for_job(self, program: str = "") -> None:
        """Until another process group than that of the command, a shell, has the terminal's foreground: only then is a key for the job.

        And until its first process is `program`: the shell's fork still ignores Ctrl-Z.
        """

        def is_job(group: int) -> bool:
            if group in {0, self.pid}:
                return False
            with contextlib.suppress(OSError):
                return program.encode() in Path(f"/proc/{group}/cmdline").read_bytes()
            return False

        self._wait_for_foreground("a job", is_job)

    def wait_for_shell(self) -> None:
        """Until the command has the foreground (back)."""
        self._wait_for_foreground("the shell", lambda group: group == self.pid)

    def _wait_for_foreground(self, who: str, is_it: Callable[[int], bool]) -> None:
        give_up_at = time.monotonic() + SLOW_S
        while not is_it(os.tcgetpgrp(self.fd)):
            if time.monotonic() > give_up_at or not self._read(0.01):
                pytest.fail(f"{who} never had the foreground: {self.shown!r}")

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.shown += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def end(self, *, pause_s: float = 0.0) -> int:
        """Wait for its end; its exit code. `pause_s`: between two reads, as of a slow terminal."""
        give_up_at = time.monotonic() + SLOW_S
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > give_up_at:
                pytest.fail(f"does not end: {self.shown!r}")
            else:
                self._read(0.05)
                time.sleep(pause_s)
        while self._read(0.1) and select.select([self.fd], [], [], 0)[0]:
            pass
        return self.status

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_caught: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

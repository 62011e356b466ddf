"""What a build says while it goes on: on a terminal one line that changes, elsewhere a line a step. To standard error."""

from __future__ import annotations

import os
import sys
import time

AGAIN_S = 0.1


class Progress:
    """Steps with a name, and how much of one is done."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_terminal = not is_quiet and os.isatty(2)
        self._name = ""
        self._next = 0.0
        self._is_open = False

    def step(self, name: str) -> None:
        """A new step begins."""
        self.end()
        self._name = name
        if not self.is_quiet:
            print(name, file=sys.stderr, end="" if self.is_terminal else "\n", flush=True)
            self._is_open = self.is_terminal

    def tell(self, done: int, total: int = 0) -> None:
        """So many bytes of it are done."""
        now = time.monotonic()
        if not self.is_terminal or now < self._next:
            return
        self._next = now + AGAIN_S
        share = f" {min(100, done * 100 // total):3d}%" if total else ""
        print(f"\r\033[K{self._name} {done / 1e6:.0f} MB{share}", end="", file=sys.stderr, flush=True)
        self._is_open = True

    def end(self) -> None:
        """The last line is whole."""
        if self._is_open:
            print(f"\r\033[K{self._name}", file=sys.stderr, flush=True)
        self._is_open = False

"""Standard input, output and error, for a command that was started without one of them."""

from __future__ import annotations

import os
import sys


def open_standard_files() -> None:
    """What was closed becomes /dev/null, so that no file of ours takes its number, nor one of what we execute."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # `fd` is the lowest number that is free
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))

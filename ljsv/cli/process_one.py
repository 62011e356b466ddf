"""PID 1, also where it cannot be.

A PID 1 that ends is a panic of the kernel. Where not even its modules can be
read (a broken disk, half an installation), it says so and opens shells.
"""

from __future__ import annotations

import os
import time

SHELL = "/bin/sh"
PAUSE_S = 1.0


def be_init(words: list[str]) -> None:
    """It does not return."""
    try:
        from ljsv.init.main import main as init

        init(words)
    except BaseException as error:  # noqa: BLE001 - nothing ends PID 1
        _open_shells(error)


def _open_shells(error: BaseException) -> None:
    """One after the other, and every orphan is reaped; it does not return."""
    while True:
        try:
            os.write(2, f"ljsv init: cannot run: {error!r}\nljsv init: a shell\n".encode())
            shell = os.spawnv(os.P_NOWAIT, SHELL, [SHELL])
            while os.wait()[0] != shell:
                pass
        except OSError:
            pass
        time.sleep(PAUSE_S)

"""How long a control byte waits while its service floods its log: from the write into the FIFO until `stat` shows it."""

from __future__ import annotations

import os
import time
from time import perf_counter

from side_by_side import Bench, Figure, Ljsv, median, spread

BUDGET_MS = 50.0
ROUNDS = 100
TIMEOUT_S = 10
PROGRAM = "#!/bin/sh\necho {name} >at/started\nexec yes 'a line of some sixty characters, as a program may write one'\n"


def measure(bench: Bench) -> list[Figure]:
    tree = bench.tree(Ljsv, 0, program=PROGRAM, policy='[log]\nmax_size = "64M"\nkeep = 1\n')
    assert isinstance(tree, Ljsv)
    directory = tree.make_service("s0", tree.scan)
    tree.start()
    tree.wait_started(1)
    tree.wait_ready(["s0"])
    time.sleep(0.5)
    control_fd = os.open(directory / "supervise/control", os.O_WRONLY)
    waits = []
    for number in range(bench.count(ROUNDS)):
        byte, shown = (b"p", "run, paused\n") if number % 2 == 0 else (b"c", "run\n")
        begin = perf_counter()
        os.write(control_fd, byte)
        while (directory / "supervise/stat").read_text() != shown:
            if perf_counter() - begin > TIMEOUT_S:
                raise TimeoutError(f"{byte!r} was not obeyed in {TIMEOUT_S} s")
        if byte == b"p":
            waits.append((perf_counter() - begin) * 1000)
        time.sleep(0.05)  # it floods again
    os.close(control_fd)
    bench.end_everything()
    note = f"longest {max(waits):.1f}; {spread(waits)}"
    return [Figure(row="flood: control byte", reference_name="-", unit="ms", ours=median(waits), budget=BUDGET_MS, note=note)]

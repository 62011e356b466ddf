"""`ljsv status` with 1 and with 1,000 supervised services, beside the interpreter's start."""

from __future__ import annotations

import time

from side_by_side import START_TIMEOUT_S, Bench, Figure, Ljsv, median, run_process, spread, take_turns

BUDGETS_MS = ((1, 12.0), (1000, 70.0))
SAMPLES = 40


def measure(bench: Bench) -> list[Figure]:
    figures = []
    for services, budget in BUDGETS_MS:
        tree = bench.tree(Ljsv, services, down="")
        assert isinstance(tree, Ljsv)
        tree.start()
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not all((tree.scan / f"s{number}/supervise/status").exists() for number in range(services)):
            if time.monotonic() > give_up_at:
                message = f"not every one of {services} services is supervised"
                raise TimeoutError(message)
            time.sleep(0.05)
        time.sleep(0.5)
        command = [bench.command("ljsv"), "--svdir", str(tree.scan), "status"]
        ours, floor = take_turns(
            bench.count(SAMPLES), lambda command=command: run_process(command), lambda: run_process([bench.python, "-I", "-c", "pass"])
        )
        figures.append(
            Figure(
                row=f"status {services}", reference_name="python -I -c pass", unit="ms", ours=median(ours), reference=median(floor),
                budget=budget, is_added=True, note=spread(ours),
            )
        )
        bench.end_everything()
    return figures

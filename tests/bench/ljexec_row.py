"""The whole process `ljexec -- true`, beside what cannot be saved: an interpreter's start, and bwrap."""

from __future__ import annotations

from side_by_side import Bench, Figure, bwrap_arguments, median, run_process, spread, take_turns

BUDGET = 1.4
SAMPLES = 60


def measure(bench: Bench) -> list[Figure]:
    bwrap = [*bwrap_arguments(), "--", "true"]
    ours, floor, theirs = take_turns(
        bench.count(SAMPLES),
        lambda: run_process([bench.command("ljexec"), "--", "true"]),
        lambda: run_process([bench.python, "-I", "-c", "pass"]),
        lambda: run_process(bwrap),
    )
    reference = median(floor) + median(theirs)
    return [
        Figure(
            row="ljexec", reference_name="python + bwrap", unit="ms", ours=median(ours), reference=reference, budget=BUDGET,
            note=f"python alone {median(floor):.1f}; {spread(ours)}",
        )
    ]

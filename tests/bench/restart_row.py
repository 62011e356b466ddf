"""Service killed until its replacement runs: alone, in the middle of 200, and where its supervisor sleeps.

runit and s6 wait when a run was shorter than a second, so a service is killed only after it has run for longer;
ours restarts at once because its policy says so (`stable_after = "0s"`).
"""

from __future__ import annotations

import time

from side_by_side import S6, Bench, Figure, Ljsv, Runit, median, spread

ROUNDS_ALONE = 25
SAMPLES_AMONG = 60
AMONG = 200
LONG_ENOUGH_S = 1.1
SIDES = (Ljsv, Runit, S6)


def measure(bench: Bench) -> list[Figure]:
    return [*_alone(bench), *_among(bench), *_asleep(bench)]


def _alone(bench: Bench) -> list[Figure]:
    trees = [bench.tree(kind, 1) for kind in SIDES]
    samples: list[list[float]] = [[] for _ in trees]
    for tree in trees:
        tree.start()
        tree.wait_started(1)
    for number in range(bench.count(ROUNDS_ALONE, least=3) + 1):
        time.sleep(LONG_ENOUGH_S)
        for tree, taken in zip(trees, samples, strict=True):
            took = tree.kill_service("s0")
            if number:
                taken.append(took)
    bench.end_everything()
    return _figures("restart alone", samples, 0.9)


def _among(bench: Bench) -> list[Figure]:
    count = bench.count(SAMPLES_AMONG, least=10)
    trees = [bench.tree(kind, AMONG) for kind in SIDES]
    samples: list[list[float]] = [[] for _ in trees]
    for tree in trees:
        tree.start()
        tree.wait_started(AMONG)
    time.sleep(LONG_ENOUGH_S)
    for number in range(count):
        for tree, taken in zip(trees, samples, strict=True):
            taken.append(tree.kill_service(f"s{number * AMONG // count}"))
    bench.end_everything()
    return _figures(f"restart among {AMONG}", samples, 0.6)


def _asleep(bench: Bench) -> list[Figure]:
    """Each of them once: after that its supervisor is awake."""
    count = bench.count(ROUNDS_ALONE, least=3)
    ours, runit = bench.tree(Ljsv, count), bench.tree(Runit, count)
    ours.start_sleepy(count)
    runit.start()
    runit.wait_started(count)
    time.sleep(LONG_ENOUGH_S)
    samples = [[tree.kill_service(f"s{number}") for number in range(count)] for tree in (ours, runit)]
    bench.end_everything()
    return _figures("restart, its supervisor asleep", [*samples, []], None)


def _figures(row: str, samples: list[list[float]], budget: float | None) -> list[Figure]:
    ours, runit, s6 = samples
    found = [Figure(row=row, reference_name="runit + bwrap", unit="ms", ours=median(ours), reference=median(runit), budget=budget, note=spread(ours))]
    if s6:
        found.append(Figure(row=row, reference_name="s6 + bwrap", unit="ms", ours=median(ours), reference=median(s6)))
    return found

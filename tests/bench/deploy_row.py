"""A directory renamed into the scan directory until its service runs.

s6 has to be told to look (s6-svscanctl -a), which counts; runit looks by itself, every 1 to 5 s.
"""

from __future__ import annotations

from time import perf_counter

from side_by_side import S6, Bench, Figure, Ljsv, Runit, Tree, median, spread

BUDGET = 1.0
SAMPLES = 40
SAMPLES_RUNIT = 3


def measure(bench: Bench) -> list[Figure]:
    trees = [bench.tree(kind, 1) for kind in (Ljsv, S6, Runit)]
    for tree in trees:
        (tree.folder / "staged").mkdir()
        tree.start()
        tree.wait_started(1)
    ours, s6, runit = trees
    samples: dict[str, list[float]] = {tree.name: [] for tree in trees}
    for number in range(bench.count(SAMPLES, least=4) + 1):
        for tree in (ours, s6):
            took = _deploy(tree, f"d{number}")
            if number:
                samples[tree.name].append(took)
    for number in range(bench.count(SAMPLES_RUNIT, least=1)):
        samples[runit.name].append(_deploy(runit, f"d{number}"))
    return [
        Figure(
            row="deploy", reference_name="s6 + rescan + bwrap", unit="ms", ours=median(samples["ljsv"]), reference=median(samples["s6"]),
            budget=BUDGET, note=spread(samples["ljsv"]),
        ),
        Figure(row="deploy", reference_name="runit + bwrap", unit="ms", ours=median(samples["ljsv"]), reference=median(samples["runit"])),
    ]


def _deploy(tree: Tree, name: str) -> float:
    staged = tree.make_service(name, tree.folder / "staged")
    begin = perf_counter()
    staged.rename(tree.scan / name)
    if isinstance(tree, S6):
        tree.rescan()
    tree.wait_started(1)
    return (perf_counter() - begin) * 1e3

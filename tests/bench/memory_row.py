"""Private memory for one of 200 services: our supervisor and pid 1 of its jail; runsv and its two bwraps."""

from __future__ import annotations

import time

from side_by_side import Bench, Figure, Ljsv, Runit, Tree

BUDGET_MB = 0.9
SERVICES = 200


def measure(bench: Bench) -> list[Figure]:
    figures: dict[str, float | None] = {}
    note = ""
    for kind in (Ljsv, Runit):
        tree = bench.tree(kind, SERVICES)
        tree.start()
        names = tree.wait_started(SERVICES)
        if isinstance(tree, Ljsv):
            tree.wait_ready(names)
        time.sleep(1)
        parts = _mean_mb(bench, tree, names)
        figures[tree.name] = None if any(part < 0 for part in parts) else sum(parts)
        if tree.name == Ljsv.name:
            note = "supervisor {:.2f} + pid 1 {:.2f}".format(*parts) if figures["ljsv"] else "only root may read it of pid 1"
        bench.end_everything()
    return [
        Figure(row=f"memory at {SERVICES}", reference_name="(runsv + 2 bwrap)", unit="MB", ours=figures["runit"], note="for information"),
        Figure(row=f"memory at {SERVICES}", reference_name="-", unit="MB", ours=figures["ljsv"], budget=BUDGET_MB, note=note),
    ]


def _mean_mb(bench: Bench, tree: Tree, names: list[str]) -> list[float]:
    """The mean over all services, for each of a service's processes; -1 where one may not be read."""
    rows = [[bench.private_kb(pid) for pid in tree.supervisor_pids(name)] for name in names]
    if any(kb < 0 for row in rows for kb in row):
        return [-1.0]
    return [sum(column) / len(rows) / 1024 for column in zip(*rows, strict=True)]

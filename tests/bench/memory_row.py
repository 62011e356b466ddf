"""Memory for one of 200 services: its part of the dormitory, where all supervisors sleep that have been idle for a while, and pid 1 of its jail; runsv and its two bwraps.

Private: pages that nobody else has. Proportional: a page that two have counts half for each, so that what one
process has copied from another is not overlooked, and what a service costs on top of the tree is seen whole.
"""

from __future__ import annotations

import time

from side_by_side import Bench, Figure, Ljsv, Runit, Tree

BUDGET_MB = 0.9
SERVICES = 200
PRIVATE, PROPORTIONAL = 0, 1
AWAKE, ASLEEP = "awake", "asleep"


def measure(bench: Bench) -> list[Figure]:
    parts: dict[str, list[list[float]]] = {}
    for kind, row in ((Ljsv, AWAKE), (Ljsv, ASLEEP), (Runit, Runit.name)):
        tree = bench.tree(kind, SERVICES)
        if row == ASLEEP:
            names = tree.start_sleepy(SERVICES)
        else:
            tree.start()
            names = tree.wait_started(SERVICES)
        if row == AWAKE:
            tree.wait_ready(names)
        time.sleep(1)
        parts[row] = _mean_mb(bench, tree, names)
        bench.end_everything()
    return [
        _figure(parts, ASLEEP, "memory", PRIVATE, BUDGET_MB),
        _figure(parts, ASLEEP, "proportional", PROPORTIONAL, None),
        _figure(parts, AWAKE, "memory, its supervisor awake", PRIVATE, None),
        _figure(parts, AWAKE, "proportional, its supervisor awake", PROPORTIONAL, None),
    ]


def _figure(parts: dict[str, list[list[float]]], which_row: str, row: str, which: int, budget: float | None) -> Figure:
    ours, theirs = ([part[which] for part in parts[name]] for name in (which_row, Runit.name))
    is_known = min(*ours, *theirs) >= 0
    note = "supervisor, or its part of the dormitory {:.2f} + pid 1 {:.2f}; runsv + 2 bwrap {:.2f}".format(*ours, sum(theirs)) if is_known else "only root may read it of pid 1"
    return Figure(row=f"{row} at {SERVICES}", reference_name="-", unit="MB", ours=sum(ours) if is_known else None, budget=budget, note=note)


def _mean_mb(bench: Bench, tree: Tree, names: list[str]) -> list[list[float]]:
    """The mean over all services for each of a service's processes: (private, proportional); -1 where one may not be read.

    A process that several services share counts once.
    """
    columns = zip(*(tree.supervisor_pids(name) for name in names), strict=True)
    used = [[bench.memory_kb(pid) for pid in set(column)] for column in columns]
    if any(kb < 0 for column in used for pair in column for kb in pair):
        return [[-1.0, -1.0]] * 2
    return [[sum(pair[which] for pair in column) / len(names) / 1024 for which in (PRIVATE, PROPORTIONAL)] for column in used]

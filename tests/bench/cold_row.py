"""200 jailed services: from executing the scanner until the last of them says that it runs."""

from __future__ import annotations

from time import perf_counter

from side_by_side import S6, Bench, Figure, Ljsv, Runit, Tree, median, spread, take_turns

BUDGET = 0.6
SERVICES = 200
ROUNDS = 4


def measure(bench: Bench) -> list[Figure]:
    def start_cold(kind: type[Tree]) -> float:
        tree = bench.tree(kind, SERVICES)
        begin = perf_counter()
        tree.start()
        tree.wait_started(SERVICES)
        took = (perf_counter() - begin) * 1e3
        bench.end_everything()
        return took

    ours, s6, runit = take_turns(
        bench.count(ROUNDS, least=1), lambda: start_cold(Ljsv), lambda: start_cold(S6), lambda: start_cold(Runit)
    )
    return [
        Figure(row=f"cold {SERVICES}", reference_name="s6 + bwrap", unit="ms", ours=median(ours), reference=median(s6), budget=BUDGET, note=spread(ours)),
        Figure(row=f"cold {SERVICES}", reference_name="runit + bwrap", unit="ms", ours=median(ours), reference=median(runit)),
    ]

"""Wake-ups of an idle tree: every process of ours, journal and pid 1s too; services are not ours.

Each time that a process sleeps again is a voluntary context switch (proc_pid_status(5)); the kernel may also
preempt, so involuntary ones are not counted.
"""

from __future__ import annotations

import time

from side_by_side import Bench, Figure, Ljsv, list_descendants

SERVICES = 200
SECONDS = 60
SETTLE_S = 3


def measure(bench: Bench) -> list[Figure]:
    tree = bench.tree(Ljsv, SERVICES)
    tree.start()
    tree.wait_started(SERVICES)
    time.sleep(SETTLE_S)
    process = tree.process
    services = {tree.service_pid(f"s{number}") for number in range(SERVICES)}
    pids = [pid for pid in [process.pid, *list_descendants(process.pid)] if pid not in services] if process else []
    seconds = SECONDS if not bench.is_quick else SECONDS // 10
    before = {pid: _count_wakeups(pid) for pid in pids}
    time.sleep(seconds)
    woken = {pid: _count_wakeups(pid) - before[pid] for pid in pids}
    guilty = ", ".join(f"{_name(pid)}: {count}" for pid, count in woken.items() if count)
    return [
        Figure(
            row=f"idle {SERVICES}, {seconds} s", reference_name="-", unit="wakes", ours=float(sum(woken.values())), budget=0,
            note=f"{len(pids)} processes" + (f"; {guilty}" if guilty else ""),
        )
    ]


def _count_wakeups(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline") as file:
        words = file.read().split("\0")
    return f"{pid} {words[3] if len(words) > 3 else words[0]}"

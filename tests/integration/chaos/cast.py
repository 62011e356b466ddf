"""Who plays in the chaos story, and what has to be true of each when it is over.

`calm`, `logged`, `quick`, `single` and `wander` are never told anything: whatever
happens to the processes of ours, they go on. `calm` is essential, so one false
word of its death would end the scanner; `single` runs once and never again. The
others are commanded, killed and badly edited as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Tree
from tests.integration.chaos.marked import GUARD, Marked, read_stamped

SMALL_LOG = '[log]\nmax_size = "8K"\nkeep = 1000\n'
QUICKLY = '[restart]\nstable_after = "0s"\ndelay = "50ms"\nmax_delay = "200ms"\n[stop]\ntimeout = "300ms"\n'
WRITE = 'trap \'echo "last $i" >>/mark/told; exit 0\' TERM\ni=1\nwhile :; do echo "line $i"; i=$((i + 1)); [ $((i % 20)) = 0 ] && sleep 0.05; done'
CHATTER = (
    "echo run >>/mark/told\nrun=$(grep -cx run /mark/told)\n"  # appended: a kill at any moment leaves nothing half written
    'trap \'echo "last $run $i" >>/mark/told; exit 0\' TERM\n'
    'i=1\nwhile :; do echo "$run $i"; i=$((i + 1)); [ $((i % 20)) = 0 ] && sleep 0.05; done'
)
FINISH = "#!/bin/sh\n" + GUARD + 'echo "finish $1 $2" >>/mark/told\n'
FORKS = "echo run >>/mark/told\nsetsid sleep 1000 &\n(setsid sleep 1000 & ) &\n(trap '' TERM INT HUP; sleep 1000) &\nsleep 1000 & wait"

RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "calm": (WRITE, {"policy": "essential = true\n" + SMALL_LOG}),
    "logged": (WRITE, {"log__run": "#!/bin/sh\nexec cat >>/run/log/lines\n"}),
    "wander": (WRITE, {"policy": SMALL_LOG}),
    "quick": ("echo run >>/mark/told\nsleep 0.03\nexit 7", {"policy": QUICKLY, "finish": FINISH}),
    "single": ("echo run >>/mark/told\nsleep 4\nexit 5", {"policy": '[restart]\nwhen = "never"\n', "finish": FINISH}),
    "chatty": (CHATTER, {"policy": QUICKLY + SMALL_LOG}),
    "mixed": ("echo run >>/mark/told\ntrap 'exit 3' TERM\nwhile :; do sleep 1000 & wait; done", {"policy": QUICKLY, "finish": FINISH}),
    "deaf": ("echo run >>/mark/told\ntrap '' TERM HUP INT USR1 USR2 ALRM QUIT\nwhile :; do sleep 0.1; done", {"policy": QUICKLY}),
    "forks": (FORKS, {"policy": QUICKLY}),
}
LASTING = ("calm", "logged", "wander")
ENDING = ("quick", "single")  # of themselves
COMMANDED = ("chatty", "mixed", "deaf", "forks")


def bring(tree: Tree) -> dict[str, Marked]:
    """All of them, in the scan directory."""
    cast = {}
    for name, (run, files) in RUNS.items():
        (tree.root / "marks" / name).mkdir(parents=True)
        cast[name] = Marked(tree, name, GUARD + run, **files)
    return cast


# ---- what is true in the end, of services that are down


def check_numbered(service: Marked) -> list[str]:
    """Each line that was written is in the log, once and in order."""
    told = [line for line in service.told() if line.startswith("last")]
    if len(told) != 1:
        return [f"it has ended {len(told)} times: {service.told()}"]
    last = int(told[0].split()[1])
    expected = [f"line {number}" for number in range(1, last + 1)]
    found = log_service_lines(service) if service.label_name == "logged" else all_lines(service)
    return [] if found in (expected, expected[:-1]) else [f"the log has not each line once: {describe_difference(found, expected)}"]


def all_lines(service: Marked) -> list[str]:
    """Its log; a service that was renamed while its supervisor was killed has parts of it under both names."""
    current = Path(service.tree.detail(service.name).get("log", "/nowhere/current"))
    folders = sorted(path for path in current.parent.parent.glob(f"{RENAMED[0]}*")) if service.name in RENAMED else [current.parent]
    lines = [line for folder in folders for line in read_stamped(folder / "current")]
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def log_service_lines(service: Marked) -> list[str]:
    """What its log service has written down."""
    return (Path(service.tree.detail(service.name)["log"]).parent / "lines").read_text().splitlines()


RENAMED = ("wander", "wander2")


def describe_difference(found: list[str], expected: list[str]) -> str:
    place = next((n for n, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), min(len(found), len(expected)))
    return f"{len(found)} lines, {len(expected)} expected; from {place} on {found[place : place + 5]}, expected {expected[place : place + 5]}"


def check_quick(service: Marked) -> list[str]:
    """A finish for each run, with its arguments, and a restart for each run but the first."""
    told = service.told()
    runs = told.count("run")
    problems = []
    pairs = [told[n : n + 2] for n in range(0, len(told), 2)]
    wrong = [(n, pair) for n, pair in enumerate(pairs[:-1]) if pair != ["run", "finish 7 0"]]
    if wrong:
        problems.append(f"not run and finish 7 0 in turn: {len(wrong)} times, first {wrong[0]}, {told[2 * wrong[0][0] - 2 :][:8]}")
    restarts = int(service.tree.detail(service.name).get("restarts", "-1"))
    if restarts - (runs - 1) not in {0, 1}:  # 1: the last was cut short in backoff
        problems.append(f"{runs} runs, but {restarts} restarts")
    return problems


def check_single(service: Marked) -> list[str]:
    """One run and its finish, and that was all, whoever was killed meanwhile."""
    told, state = service.told(), service.state
    return [] if (told, state) == (["run", "finish 5 0"], "down") else [f"not one run and its finish: {state}, {told}"]


def check_chatty(service: Marked) -> list[str]:
    """The lines of each run in order, none twice and none left out; all of them where it ended in peace."""
    runs: dict[int, list[int]] = {}
    order = []
    for line in service.log_lines():
        run, number = map(int, line.split())
        runs.setdefault(run, []).append(number)
        order.append(run)
    problems = [] if order == sorted(order) else ["lines of an earlier run come after those of a later one"]
    for run, numbers in runs.items():
        if numbers != list(range(1, len(numbers) + 1)):
            problems.append(f"run {run}: {describe_difference([str(n) for n in numbers], [str(n) for n in range(1, len(numbers) + 1)])}")
    for line in service.told():
        if line.startswith("last"):
            run, last = map(int, line.split()[1:])
            if len(runs.get(run, [])) not in {last - 1, last}:
                problems.append(f"run {run} wrote {last} lines, {len(runs.get(run, []))} are in the log")
    return problems


def check_mixed(service: Marked) -> list[str]:
    """Between two runs at most one finish, and its arguments are those of a possible end."""
    problems = []
    by_signal = {f"finish -1 {number}" for number in (1, 2, 3, 9, 10, 12, 14, 15, 131)}  # what it was sent, before its trap was there or instead of it
    unstarted = {"finish 111 0"}  # it was told to end while its jail was built
    before = ""
    for line in service.told():
        if line.startswith("finish"):
            if line not in {"finish 3 0"} | by_signal | unstarted:
                problems.append(f"arguments of no possible end: {line}")
            if before != "run" and line not in by_signal | unstarted:  # else it had no time to say that it runs
                problems.append(f"finish without a run before it: {before!r}, {line!r}")
        before = line
    return problems


CHECKS: dict[str, Callable[[Marked], list[str]]] = {
    "calm": check_numbered, "logged": check_numbered, "wander": check_numbered, "quick": check_quick, "single": check_single, "chatty": check_chatty,
    "mixed": check_mixed,
}


def check_end(service: Marked) -> list[str]:
    """Everything that has to be true of a service that is down now."""
    problems = CHECKS[service.label_name](service) if service.label_name in CHECKS else []
    if "twice" in service.told():
        problems.append("a second jail ran beside the first: its lock was held")
    return [f"{service.name}: {problem}" for problem in problems]

"""What `ljsv status`, `metrics` and `doctor` say where limits are enforced: figures of the service's control group."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.conftest import Tree, wait_for
from tests.vm.guest.test_limits import HOLD, home, limited

__all__ = ["home", "limited"]  # the fixtures


def test_what_is_used_of_each_limit_is_shown(limited: Tree) -> None:
    """In the table, in the long form, in JSON and as metrics: the same figures, from the same group."""
    limited.add("web", HOLD, limits='memory = "64M"\ncpu = "50%"\npids = 20\n')
    limited.wait_state("web", "ready")
    group = Path(limited.detail("web")["cgroup"])
    wait_for(lambda: int((group / "memory.current").read_text()) > 25 << 20, "its memory")
    row = limited.ljsv("status").stdout.splitlines()[1]
    assert re.search(r" (2\d|3\d)(\.\d)?M +host", row), row
    text = limited.ljsv("status", "web").stdout
    assert re.search(r"limits: +memory [\d.]+M of 64M \(peak [\d.]+M\), cpu [\d.]+s, at most 50%.*, pids \d of 20", text), text
    (web,) = json.loads(limited.ljsv("status", "web", "--json").stdout)
    assert web["memory_max_bytes"] == 64 << 20 and 25 << 20 < web["memory_bytes"] <= web["memory_peak_bytes"]
    assert web["cpu_max_percent"] == 50 and web["cpu_s"] > 0 and web["pids_max"] == 20 and web["pids"] >= 2
    assert web["oom_kills"] == 0 and web["not_enforced"] == []
    metrics = dict(line.rsplit(" ", 1) for line in limited.ljsv("metrics").stdout.splitlines() if line[0] != "#")
    assert metrics['ljsv_service_memory_limit_bytes{service="web"}'] == str(64 << 20)
    assert metrics['ljsv_service_processes_limit{service="web"}'] == "20" and metrics['ljsv_service_oom_kills_total{service="web"}'] == "0"
    assert float(metrics['ljsv_service_cpu_seconds_total{service="web"}']) > 0


def test_the_doctor_makes_a_group_and_finds_each_controller(tree: Tree, home: Path) -> None:
    """From a place where groups may be made; and nothing stays of what was tried."""
    before = sorted(home.rglob("*"))
    found = {finding["name"]: finding for finding in json.loads(tree.ljsv("doctor", "--json").stdout)}
    for name in ("cgroup", "cgroup memory", "cgroup cpu", "cgroup pids"):
        assert found[name]["level"] == "ok", found[name]
    assert str(home) in found["cgroup"]["evidence"]
    assert sorted(home.rglob("*")) == before

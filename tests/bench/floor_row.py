"""What the jail row could come to at best: the same mounts by a bare prototype (see `floor`), beside the same bwrap."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from side_by_side import Bench, Figure, bwrap_arguments, median, spread

from ljsv.jail.facts import gather_facts
from ljsv.jail.spec import HOST, JailSpec

SAMPLES = 150


def measure(bench: Bench) -> list[Figure]:
    facts = gather_facts(JailSpec(name="jail", base_kind=HOST, base_path="/", argv=("true",)))
    binds = [(path, True) for path in facts.host_directories] + [(f"/etc/{name}", is_directory) for name, is_directory in facts.etc]
    given = {
        "scratch": facts.scratch, "links": [(path[1:], target) for path, target in facts.host_links], "binds": binds,
        "devices": facts.devices, "proc_read_only": [name for name, _ in facts.proc_read_only], "proc_masked": facts.proc_masked,
        "last_capability": facts.last_capability, "argv": [*bwrap_arguments(), "--", "/bin/true"], "count": bench.count(SAMPLES),
    }
    script = str(Path(__file__).with_name("floor.py"))
    done = subprocess.run(["/usr/bin/python3", "-I", "-S", script], input=json.dumps(given), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    ours, theirs = zip(*json.loads(done.stdout), strict=True)
    return [Figure(row="floor host", reference_name="bwrap", unit="ms", ours=median(ours), reference=median(theirs), note=spread(list(ours)))]

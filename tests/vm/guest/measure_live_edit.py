"""How long an edit of `limits` takes to hold, in the virtual machine; not collected by itself.

    tests/vm/run tests/vm/guest/measure_live_edit.py -s

From the rename of the new file to the new memory.max, 20 times. The machine is emulated, and about ten times slower than what it runs on.
"""

from __future__ import annotations

import statistics
import time

from tests.conftest import Tree
from tests.vm.guest.test_limits import group_of, home, limited, rewrite, value

__all__ = ["home", "limited"]  # the fixtures


def test_live_edit(limited: Tree) -> None:
    path = limited.add("web", limits='memory = "64M"\n')
    limited.wait_state("web", "ready")
    group = group_of(limited, "web")
    took = []
    for number in range(20):
        wanted = 65 + number
        begin = time.monotonic()
        rewrite(path / "limits", f'memory = "{wanted}M"\n')
        while value(group, "memory.max") != str(wanted << 20):
            assert time.monotonic() < begin + 20
            time.sleep(0.001)
        took.append((time.monotonic() - begin) * 1000)
        time.sleep(0.2)
    print(f"\nuid {limited.uid}: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms")

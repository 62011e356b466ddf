"""A real core dump: the bit is where the contract has it (finish's second argument), and in words where people look."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for

CRASH = "cd /tmp; echo crashing; kill -SEGV $$"


@pytest.mark.skipif(not Path("/proc/sys/kernel/core_pattern").read_text().strip(), reason="kernel.core_pattern is empty: this kernel writes no core")
@pytest.mark.parametrize(("limits", "status"), [('core = "16M"\n', 11 | 0x80), ("", 11)], ids=["core", "no-core"])
def test_core_bit(scanning: Tree, limits: str, status: int) -> None:
    """With a `core` limit the crash leaves a core, and says so; without one there is none."""
    finish = "#!/bin/sh\necho finish $1 $2\n"
    scanning.add("a", CRASH, limits=limits, policy='[restart]\nwhen = "never"\n', finish=finish)
    scanning.wait_state("a", "down")
    wait_for(lambda: f"finish -1 {status}" in scanning.log("a"), f"finish's arguments: {scanning.log('a')}")
    detail = scanning.detail("a")
    assert detail["end"] == f"-1 {status}"
    assert detail["end_text"] == ("SIGSEGV (core)" if status & 0x80 else "SIGSEGV")
    why = scanning.ljsv("why", "a").stdout
    assert ("core dump" in why) == bool(status & 0x80), why

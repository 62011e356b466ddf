"""Stories that change what belongs to the whole machine: only in the virtual one, where they are run by name."""

from __future__ import annotations

from pathlib import Path

collect_ignore_glob = [] if b"guest_init.py" in Path("/proc/1/cmdline").read_bytes() else ["test_*.py"]

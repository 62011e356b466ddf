"""A Debian root with nginx, redis and gcc, as mmdebstrap makes it: once a session, or out of $LJSV_TEST_CACHE.

`--variant=extract` unpacks packages without configuring them, which takes a
fraction of the time; what their scripts would have made of it and the services
need (passwd, group, the loader's cache) is done here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need

PACKAGES = ("nginx-light", "redis-server", "gcc", "libc6-dev", "dash", "coreutils", "base-files", "base-passwd", "libc-bin", "sed", "grep")
LEFT_OUT = ("doc", "man", "locale", "info")
CACHED = "ljsv-debian-bookworm-1.tar"
HOOK = r"""
set -e
cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
echo 'redis:x:101:101::/var/lib/redis:/bin/false' >>"$1/etc/passwd"
echo 'redis:x:101:' >>"$1/etc/group"
mkdir -p "$1/var/lib/redis" "$1/var/www/html"
chown 101:101 "$1/var/lib/redis"
ldconfig -r "$1" 2>/dev/null || true
"""


@pytest.fixture(scope="session")
def debian() -> Iterator[Path]:
    """The tar."""
    kept = os.environ.get("LJSV_TEST_CACHE", "")
    cached = Path(kept) / CACHED if kept else None
    if cached and cached.exists():
        yield cached
        return
    need("mmdebstrap")
    if os.geteuid():
        pytest.skip("mmdebstrap makes a root with all its ids only as root")
    folder = Path(tempfile.mkdtemp(prefix="ljsv-debian."))
    folder.chmod(0o755)
    target = folder / "debian.tar"
    hook = folder / "hook"
    hook.write_text(f"#!/bin/sh\n{HOOK}")
    hook.chmod(0o755)
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=root", f"--include={','.join(PACKAGES)}", *excludes, f"--extract-hook={hook}", "bookworm", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"mmdebstrap reaches no Debian mirror here: {done.stderr[-300:]}")
    target.chmod(0o644)
    if cached:
        shutil.copy(target, cached)
    yield target
    shutil.rmtree(folder)

"""A Debian root with what the stories run, as mmdebstrap makes it: once on a machine, kept in $LJSV_TEST_CACHE (/var/tmp/ljsv-tests.UID).

`--variant=extract` unpacks packages without configuring them, which takes a
fraction of the time; what their scripts would have made of it and the services
need (passwd, group, the loader's cache) is done here. LLVM, two thirds of
PostgreSQL's size, stays out: it is asked for only by queries that cost a lot.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need

PACKAGES = (
    "base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "diffutils", "dropbear-bin", "gcc", "grep", "gunicorn", "libc-bin", "libc6-dev",
    "nginx-light", "postgresql-15", "prometheus-node-exporter", "python3-croniter", "python3-venv", "redis-server", "sed",
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/lib/*/libLLVM*", "/usr/lib/llvm*")
HOOK = r"""
set -e
cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
for user in redis:101:/var/lib/redis postgres:102:/var/lib/postgresql; do
    name=${user%%:*} home=${user##*:} id=${user#*:} id=${id%:*}
    echo "$name:x:$id:$id::$home:/bin/false" >>"$1/etc/passwd"
    echo "$name:x:$id:" >>"$1/etc/group"
    mkdir -p "$1$home"
    chown "$id:$id" "$1$home"
done
printf '/bin/sh\n/bin/bash\n' >"$1/etc/shells"
mkdir -p "$1/var/www/html"
ldconfig -r "$1" 2>/dev/null || true
"""


@contextmanager
def cached(kind: str, recipe: str) -> Iterator[Path]:
    """Where the file that the recipe makes is kept; held for one to make it, and its predecessors removed."""
    folder = Path(os.environ.get("LJSV_TEST_CACHE") or f"/var/tmp/ljsv-tests.{os.geteuid()}")
    folder.mkdir(mode=0o755, exist_ok=True)
    entry = folder.stat()
    if entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
        pytest.exit(f"{folder}: others may write it; name another directory in $LJSV_TEST_CACHE")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.{kind}"
        yield path
        for old in folder.glob(f"*.{kind}"):
            if old != path:
                old.unlink()


@pytest.fixture(scope="session")
def debian() -> Path:
    """The tar; everybody can read it."""
    need("mmdebstrap")
    with cached("tar", f"{PACKAGES} {LEFT_OUT} {HOOK}") as target:
        if not target.exists():
            if os.geteuid():
                pytest.skip("mmdebstrap makes a root with all its ids only as root")
            _make(target)
    return target


def _make(target: Path) -> None:
    hook, new = target.with_suffix(".hook"), target.with_suffix(".new.tar")
    hook.write_text(f"#!/bin/sh\n{HOOK}")
    hook.chmod(0o755)
    excludes = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=root", f"--include={','.join(PACKAGES)}", *excludes, f"--extract-hook={hook}", "bookworm", str(new)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    hook.unlink()
    if done.returncode:
        new.unlink(missing_ok=True)
        pytest.skip(f"mmdebstrap reaches no Debian mirror here: {done.stderr[-300:]}")
    new.chmod(0o644)
    new.rename(target)


@pytest.fixture(scope="session")
def debian_image(debian: Path, programs: Path) -> Path:
    """The same as a squashfs image; everybody can read it."""
    with cached("squashfs", str(debian)) as target:
        if not target.exists():
            new = target.with_suffix(".new.squashfs")
            new.unlink(missing_ok=True)
            subprocess.run([programs / "ljsv", "image", "build", debian, "-o", new, "--compression", "lz4"], check=True, capture_output=True, timeout=300)
            new.chmod(0o644)
            new.rename(target)
    return target

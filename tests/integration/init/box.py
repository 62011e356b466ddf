"""A box: `ljsv init` as PID 1 of namespaces of its own, as root and as root of a user's namespace.

/run, /etc, /var/log and /var/lib are the box's; nothing of it is left when its PID 1 has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import SLOW_S, wait_for

SET_UP = """
mount --make-rprivate /
mount --rbind /tmp /tmp
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc
mount -t tmpfs log /var/log
mount -t tmpfs lib /var/lib
mkdir /etc/ljsv
cp -r "$BOX/etc/." /etc/ljsv
[ ! -e "$BOX/console" ] || mount --bind "$(cat "$BOX/console")" /dev/console
exec "$BOX/init" "$@"
"""


class Box:
    """`etc` becomes /etc/ljsv; `out` is what PID 1 and its scripts said."""

    def __init__(self, root: Path, programs: Path, uid: int) -> None:
        self.root, self.programs, self.uid = root, programs, uid
        self.etc = root / "etc"
        (self.etc / "sv").mkdir(parents=True)
        (root / "init").symlink_to(programs / "ljsv")
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def write(self, name: str, text: str) -> None:
        """An executable script in /etc/ljsv."""
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def add(self, name: str, run: str = "exec sleep 1000", **files: str) -> None:
        self.write(f"sv/{name}/run", run)
        for file, text in ({"rootfs": 'base = "host"\n'} | files).items():
            (self.etc / "sv" / name / file).write_text(text)

    def start(self, *words: str) -> None:
        """Boot it; returns when PID 1 has its name."""
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
        own_user = ["--user", "--map-root-user"] if self.uid else []
        with open(self.root / "out", "wb") as out:
            self.process = subprocess.Popen(
                ["unshare", *own_user, "--pid", "--mount", "--fork", "--mount-proc", "sh", "-e", "-c", SET_UP, "box", *words],
                env={"PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin", "BOX": str(self.root)},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", **self._as_user(),
            )
        self.pid = wait_for(self._find_init, "PID 1 to have its name")

    def _as_user(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.uid, "extra_groups": []} if self.uid and os.geteuid() == 0 else {}

    def _find_init(self) -> int:
        assert self.process and self.process.poll() is None, self.out
        for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{word}/comm").read_text() == "ljsv init\n":
                    return int(word)
        return 0

    def run(self, *argv: str, code: int | None = 0) -> str:
        """A command inside, as its root; what it said."""
        own_user = ["--user", "--preserve-credentials"] if self.uid else []
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), *own_user, "-m", "-p", *argv], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            **self._as_user(), env={"PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin", "SVDIR": "/etc/ljsv/sv", "HOME": "/root", "LANG": "C.UTF-8"},
        )
        assert code is None or done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.out}"
        return done.stdout + done.stderr

    def ready(self, name: str) -> str:
        """Wait for that service; its pid inside."""
        wait_for(lambda: self.run("ljsv", "status", name, "-o", "state", code=None) == "ready\n", f"{name} to be ready")
        return self.run("ljsv", "status", name, "-o", "pid").strip()

    def find(self, comm: str) -> list[int]:
        """Pids inside, by the name in comm."""
        return [int(word) for word in self.run("pgrep", "-x", comm, code=None).split()]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Wait for the end of PID 1: its exit status, negative for a signal."""
        assert self.process
        return self.process.wait(SLOW_S)

    @property
    def out(self) -> str:
        return (self.root / "out").read_text()

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid or self.process.pid, signal.SIGKILL)
            self.process.wait(SLOW_S)

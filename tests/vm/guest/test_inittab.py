"""Under an init with an inittab, busybox's: the line that `ljsv enable-boot` adds, with a scanner that is killed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.chaos.storm import children

PATIENCE_S = 120
INIT, INITTAB = Path("/sbin/init"), Path("/etc/inittab")
SVDIR = Path("/etc/ljsv/sv")
Command = Callable[..., str]


@pytest.fixture
def command(tree: Tree) -> Iterator[Command]:
    """A function that runs a command where busybox's init is PID 1, which has read its inittab by then."""
    if tree.uid:
        pytest.skip("a machine's init is root's")
    program = Path("/usr/bin/ljsv")
    program.write_text((tree.programs / "ljsv").read_text())
    program.chmod(0o755)
    INITTAB.write_text("::sysinit:/bin/true\n")
    INIT.symlink_to("/bin/busybox")  # which tells that the line is of its kind
    done = tree.ljsv("enable-boot", "--init", "inittab", "--command", str(program))
    assert "kill -HUP 1" in done.stdout
    tree.write("web").rename(SVDIR / "web")
    started = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "busybox", "init"], env=tree.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        (pid,) = wait_for(lambda: children(started.pid), "init")

        def run(*argv: str, code: int | None = 0) -> str:
            done = subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", *argv], env=tree.env, capture_output=True, text=True, timeout=PATIENCE_S)
            assert code is None or done.returncode == code, f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            return done.stdout

        yield run
    finally:
        started.kill()
        started.wait()
        for path in (INITTAB, INIT, program):
            path.unlink()
        subprocess.run(["rm", "-r", "/etc/ljsv"], check=True)


def test_line(command: Command) -> None:
    """A killed scanner is started again, and its service goes on."""

    def scanner() -> str:
        return command("sh", "-c", "cat /run/ljsv/sv-*/.scanner/pid", code=None).strip()

    def ask(*argv: str) -> str:
        return command("ljsv", "--svdir", str(SVDIR), *argv)

    first = wait_for(scanner, "the scanner", PATIENCE_S)
    ask("wait", "web", "ready", "-w", "60")
    before = ask("status", "web", "-o", "pid,state,supervisor_pid")
    assert "ready" in before
    command("kill", "-KILL", first.split()[0])
    wait_for(lambda: scanner() not in {"", first}, "the next scanner", PATIENCE_S)
    assert ask("status", "web", "-o", "pid,state,supervisor_pid") == before
    ask("exit", "--all", "-w", "60")

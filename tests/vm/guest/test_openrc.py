"""Under OpenRC: the script that `ljsv enable-boot` makes, from start to stop, with a scanner that is killed in between."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, need, wait_for

PATIENCE_S = 120
LOCAL_MOUNT = "#!/sbin/openrc-run\nstart() { return 0; }\n"  # what a system that boots by OpenRC has, and its package here has not
STATES = ("daemons", "exclusive", "failed", "hotplugged", "inactive", "options", "scheduled", "started", "starting", "stopping", "tmp", "wasinactive")
MADE = ("/etc/init.d/ljsv", "/etc/init.d/localmount", "/etc/runlevels/default/ljsv", "/usr/bin/ljsv")


class OpenRc:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def run(self, *argv: str, code: int = 0) -> str:
        """Output and errors; the exit code has to be `code`."""
        done = subprocess.run(argv, env=self.tree.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == code, f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def scanner(self) -> int:
        """Its pid, 0 for none."""
        try:
            pid = int(self.run("sh", "-c", "cat /run/ljsv/sv-*/.scanner/pid").split()[0])
        except (AssertionError, IndexError):
            return 0
        return pid if is_alive(pid) else 0


@pytest.fixture
def openrc(tree: Tree) -> Iterator[OpenRc]:
    """It is told that it has booted this machine, and has nothing else to do."""
    if tree.uid:
        pytest.skip("OpenRC is root's")
    need("openrc-run")
    for path in ("/etc/init.d", "/etc/runlevels/default", *(f"/run/openrc/{state}" for state in STATES)):
        Path(path).mkdir(parents=True, exist_ok=True)
    Path("/run/openrc/softlevel").write_text("default\n")
    Path("/etc/init.d/localmount").write_text(LOCAL_MOUNT)
    Path("/usr/bin/ljsv").write_text((tree.programs / "ljsv").read_text())
    for path in ("/etc/init.d/localmount", "/usr/bin/ljsv"):
        Path(path).chmod(0o755)
    yield OpenRc(tree)
    subprocess.run(["rc-service", "ljsv", "stop"], check=False)
    for path in (*MADE, "/run/openrc", "/etc/ljsv"):
        subprocess.run(["rm", "-rf", path], check=True)


def test_script(openrc: OpenRc) -> None:
    """supervise-daemon starts a killed scanner again, reload replaces supervisors, stop ends everything; nothing of it touches a service unasked."""
    tree, svdir = openrc.tree, Path("/etc/ljsv/sv")
    said = openrc.run("ljsv", "enable-boot", "--command", "/usr/bin/ljsv")
    assert "rc-service ljsv start" in said and os.path.realpath("/etc/runlevels/default/ljsv") == "/etc/init.d/ljsv"
    tree.write("web").rename(svdir / "web")
    openrc.run("rc-service", "ljsv", "start")
    wait_for(openrc.scanner, "the scanner: supervise-daemon does not wait for it", PATIENCE_S)
    tree.ljsv("--svdir", str(svdir), "wait", "web", "ready", "-w", "60")
    assert "status: started" in openrc.run("rc-service", "ljsv", "status")
    pid = int((svdir / "web/supervise/pid").read_text())

    scanner = openrc.scanner()
    os.kill(scanner, 9)
    wait_for(lambda: openrc.scanner() not in {0, scanner}, "the next scanner", PATIENCE_S)
    assert tree.ljsv("--svdir", str(svdir), "status", "web", "-o", "pid,state").stdout == f"{pid}\tready\n"

    supervisor = tree.ljsv("--svdir", str(svdir), "status", "web", "-o", "supervisor_pid").stdout
    openrc.run("rc-service", "ljsv", "reload")
    assert tree.ljsv("--svdir", str(svdir), "status", "web", "-o", "supervisor_pid").stdout != supervisor
    assert "status: started" in openrc.run("rc-service", "ljsv", "status") and is_alive(pid)

    openrc.run("rc-service", "ljsv", "stop")
    assert not is_alive(pid) and not openrc.scanner()
    assert "status: stopped" in openrc.run("rc-service", "ljsv", "status", code=3)

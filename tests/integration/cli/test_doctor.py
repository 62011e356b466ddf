"""`ljsv doctor`: what it finds here, and on machines that lack something: made so by namespaces and limits, not by mocks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree

NEEDED = {"kernel", "python", "namespaces", "overlay", "a whole jail", "inotify"}


def findings(tree: Tree, *prefix: str, code: int | None = None, **options: object) -> dict[str, dict[str, str]]:
    done = tree.run(*prefix, "ljsv", "doctor", "--json", **options)  # type: ignore[arg-type]
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert not done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_what_is_needed_is_here(tree: Tree) -> None:
    """Each thing is `ok` with its evidence, or says what of it and a command."""
    found = findings(tree, code=0)
    assert {name for name in NEEDED if found[name]["level"] != "ok"} == set()
    for finding in found.values():
        assert set(finding) == {"name", "level", "evidence", "consequence", "hint"} and finding["evidence"]
        assert finding["level"] == "ok" or (finding["level"] == "WARN" and finding["consequence"] and finding["hint"]), finding
    text = tree.ljsv("doctor").stdout
    assert "ok    a whole jail: " in text and text.splitlines()[-1].startswith("all that ljsv needs is here")
    for finding in found.values():
        assert f"{finding['level']:4}  {finding['name']}: " in text or finding["name"] in text.partition("likewise: ")[2].partition("\n")[0]


def test_nothing_stays(tree: Tree) -> None:
    """No directory, FIFO, mount or group of what was tried."""
    before = Path("/proc/self/mountinfo").read_text()
    findings(tree)
    assert Path("/proc/self/mountinfo").read_text() == before
    places = [Path("/run"), Path("/var/lib"), Path("/var/log"), tree.home, tree.root, getattr(tree, "runtime", tree.root)]
    assert [path for place in places for path in place.glob("*doctor*")] == []


def test_without_user_namespaces_it_fails_and_says_what_forbids_them(tree: Tree) -> None:
    """In a namespace that may have none below it."""
    if os.geteuid():
        pytest.skip("the limit is made by root")
    script = "echo 0 > /proc/sys/user/max_user_namespaces && exec ljsv doctor"
    done = tree.run("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  namespaces: " in done.stdout and "      no jail can be made\n" in done.stdout
    assert "hint: sysctl -w user.max_user_namespaces=10000" in done.stdout
    assert "FAIL  a whole jail: " in done.stdout and "missing without which no service runs" in done.stdout


def test_what_a_user_lacks_is_a_warning(plain_tree: Tree) -> None:
    """No runtime directory, few open files."""
    found = findings(plain_tree, "prlimit", "--nofile=1024:1024", code=0)
    assert found["runtime directory"]["level"] == "WARN" and "XDG_RUNTIME_DIR is not set" in found["runtime directory"]["evidence"]
    assert found["open files"]["level"] == "WARN" and found["open files"]["evidence"] == "hard limit 1024"


def test_a_full_disk_is_told(tree: Tree) -> None:
    """On a file system of 1 MB."""
    if os.geteuid():
        pytest.skip("the file system is mounted by root")
    small = tree.root / "small"
    small.mkdir()
    command = f"mount -t tmpfs -o size=1M,mode=777 none {small} && exec env XDG_STATE_HOME={small} HOME={small} setpriv --reuid {tree.uid} --regid {tree.uid} --clear-groups ljsv doctor"
    if not tree.uid:
        command = "mount -t tmpfs -o size=1M none /var/lib && exec ljsv doctor"
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", command], env=tree.env, capture_output=True, text=True, cwd=tree.root)
    assert "WARN  disk: " in done.stdout and "M are left" in done.stdout, done.stdout + done.stderr
    assert "hint: df -h " in done.stdout


def test_a_read_only_disk_is_told(tree: Tree) -> None:
    """A box whose root is read-only, and which has mounted nothing for its state."""
    if tree.uid or os.geteuid():
        pytest.skip("mounted by root, over root's directory")
    command = "mount -t tmpfs -o size=100M none /var/lib && mount -o remount,ro /var/lib && exec ljsv doctor"
    done = tree.run("unshare", "--mount", "--propagation", "private", "sh", "-c", command)
    assert "WARN  disk: /var/lib: nothing can be written: Read-only file system" in done.stdout, done.stdout + done.stderr


def test_a_mount_may_have_any_name(tree: Tree) -> None:
    """A user's own, at a directory whose name is no UTF-8: control groups are looked for in the same table."""
    if tree.uid or os.geteuid():
        pytest.skip("mounted by root")
    odd = os.fsencode(tree.root / "odd") + b"\xff\r"
    os.mkdir(odd)
    done = tree.run("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none "$0" && exec ljsv doctor', os.fsdecode(odd))
    assert done.returncode == 0 and "cgroup: " in done.stdout, done.stdout + done.stderr


def test_names_are_refused(tree: Tree) -> None:
    """It looks at the machine, not at services."""
    assert "hint: ljsv lint NAME" in tree.ljsv("doctor", "web", code=100).stderr

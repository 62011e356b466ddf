"""enable, disable, remove: done twice they do nothing more, they say what they changed, and refuse nonsense."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.terminals import Terminal


def test_enable_and_disable_are_idempotent(scanning: Tree) -> None:
    """They make and remove the down file, say what has changed, and what it takes to change what runs."""
    path = scanning.add("a")
    scanning.wait_state("a", "ready")
    assert scanning.ljsv("disable", "a").stdout == "ok: a: disabled: it does not start by itself; to stop it now: ljsv down a\n"
    assert (path / "down").exists()
    assert scanning.ljsv("disable", "a").stdout.startswith("ok: a: was disabled already")
    wait_for(lambda: scanning.detail("a")["normally"] == "down", "status to know")
    assert scanning.state("a") == "ready", "what runs goes on"
    scanning.ljsv("down", "a")
    assert scanning.ljsv("enable", "a").stdout == "ok: a: enabled: it starts with its supervisor; to start it now: ljsv up a\n"
    assert not (path / "down").exists()
    assert scanning.ljsv("enable", "a").stdout.startswith("ok: a: was enabled already")
    assert scanning.state("a") == "down"


def test_now(scanning: Tree) -> None:
    """`--now` starts or stops it as well, and says how that went."""
    scanning.add("a", down="")
    scanning.wait_state("a", "down")
    lines = scanning.ljsv("enable", "--now", "a").stdout.splitlines()
    assert lines[0] == "ok: a: enabled: it starts with its supervisor" and lines[1].startswith("ok: a: ready")
    lines = scanning.ljsv("disable", "--now", "a").stdout.splitlines()
    assert lines[0] == "ok: a: disabled: it does not start by itself" and lines[1].startswith("ok: a: down")


def test_enable_and_disable_without_a_scanner(tree: Tree) -> None:
    """Files are all it takes; --all takes all; unknown names are 4, none 100."""
    tree.add("a")
    tree.add("b", down="")
    assert tree.ljsv("disable", "--all", "--now").stdout.count("ok: ") == 2
    assert (tree.sv / "a/down").exists()
    assert "did you mean a?" in tree.ljsv("enable", "aa", code=4).stderr
    assert "which service?" in tree.ljsv("enable", code=100).stderr
    (tree.sv / "a/down").unlink()
    (tree.sv / "a/down").mkdir()
    done = tree.ljsv("enable", "a", code=111)
    assert "cannot enable" in done.stderr and "hint: " in done.stderr


def test_a_directory_that_may_not_be_written(tree: Tree) -> None:
    """The cause and the object are named, and nothing is done."""
    if not tree.uid:
        pytest.skip("root may write everywhere")
    path = tree.add("a")
    tree.ljsv("up", "a")
    os.chown(path, 0 if os.geteuid() == 0 else tree.uid, tree.uid)
    path.chmod(0o555)
    done = tree.ljsv("disable", "a", code=111)
    assert "cannot disable" in done.stderr and "Permission denied" in done.stderr
    tree.sv.chmod(0o555)
    done = tree.ljsv("remove", "a", "--yes", code=111)
    assert "cannot delete" in done.stderr and tree.state("a") == "ready"
    for place in (tree.sv, path):
        place.chmod(0o755)


def test_remove_stops_first_and_waits(scanning: Tree) -> None:
    """The service sees its TERM with its files in place, and is gone when the command returns; nothing is left but log and state."""
    scanning.add("a", "trap 'cat /run/service/rootfs; echo last words; exit 0' TERM\necho begun\nwhile :; do sleep 0.02; done")
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    detail = scanning.detail("a")
    folder, log = os.path.realpath(scanning.supervise("a")), Path(detail["log"])
    done = scanning.ljsv("remove", "a", "--yes")
    assert done.stdout == "ok: a: removed; its logs and state stay until: ljsv purge a\n"
    assert not is_alive(int(detail["pid"]))
    assert not [path for path in scanning.sv.iterdir() if path.name.endswith("a") or "removed" in path.name]
    wait_for(lambda: not is_alive(int(detail["supervisor"].split()[0])), "its supervisor to end")
    assert not os.path.exists(folder)
    assert "last words" in log.read_text() and 'base = "host"' in log.read_text()
    scanning.ljsv("remove", "a", "--yes", code=4)
    assert scanning.ljsv("logs", "a", "-n", "1").stdout.endswith("last words\n")
    scanning.ljsv("purge", "a", "--yes")
    assert not log.exists()
    assert "no such service" in scanning.ljsv("logs", "a", code=4).stderr


def test_what_does_not_stop_is_not_removed(scanning: Tree) -> None:
    """A timeout leaves the directory where it is."""
    scanning.add("a", "trap '' TERM\necho deaf\nwhile :; do sleep 0.05; done", policy='[stop]\ntimeout = "300s"\n')
    wait_for(lambda: "deaf" in scanning.log("a"), "its trap")
    done = scanning.ljsv("remove", "a", "--yes", "-w", "0.3", code=1)
    assert done.stdout.startswith("timeout: a: still stopping") and "not removed" in done.stdout
    assert (scanning.sv / "a/run").exists()
    scanning.ljsv("kill", "a")
    scanning.wait_state("a", "down")
    scanning.ljsv("remove", "a", "--yes")


def test_remove_many_and_without_a_supervisor(tree: Tree) -> None:
    """With nothing running the directory is just deleted; again and again under the same name."""
    for name in ("a", "b", "c"):
        tree.add(name)
    assert tree.ljsv("remove", "a", "b", "--yes").stdout.count("ok: ") == 2
    assert [path.name for path in tree.sv.iterdir()] == ["c"]
    tree.ljsv("scan", "--daemon")
    for _ in range(5):
        tree.add("a")
        pid = int(tree.wait_state("a", "ready")["pid"])
        tree.ljsv("remove", "a", "--yes")
        assert not is_alive(pid)
    tree.wait_state("c", "ready")


def test_remove_of_a_symlink_leaves_what_it_leads_to(scanning: Tree) -> None:
    """As `rm` does."""
    target = scanning.write("a")
    (scanning.sv / "a").symlink_to(target)
    pid = int(scanning.wait_state("a", "ready")["pid"])
    scanning.ljsv("remove", "a", "--yes")
    assert not is_alive(pid) and not (scanning.sv / "a").is_symlink()
    assert (target / "run").exists()


def test_remove_deletes_no_other_directory(tree: Tree) -> None:
    """A directory that is no service, one that no scanner ever had and that lies anywhere, one that something is mounted in: all stay, with --yes too."""
    other = tree.sv / "other"
    (other / "run").mkdir(parents=True)  # as /var and / have it
    (other / "precious").touch()
    done = tree.ljsv("remove", "other", "--yes", code=4)
    assert "not a service" in done.stderr and "neither run nor rootfs" in done.stderr
    assert "not a service" in tree.ljsv("remove", str(other), "--yes", code=4).stderr
    assert (other / "precious").exists()
    tree.add("a")
    elsewhere = Path(shutil.copytree(tree.sv / "a", tree.root / "project"))
    del tree.env["SVDIR"]
    done = tree.ljsv("remove", str(elsewhere), "--yes", code=4)
    assert "it was never supervised" in done.stderr and f"--svdir {tree.root} remove project" in done.stderr
    assert (elsewhere / "run").exists()
    tree.env["SVDIR"] = str(tree.sv)
    if os.geteuid() == 0:
        place = tree.sv / "a/disk"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "disk", place], check=True)
        try:
            (place / "precious").touch()
            done = tree.ljsv("remove", "a", "--yes", code=111)
            assert "a file system is mounted in it" in done.stderr and (place / "precious").exists()
        finally:
            subprocess.run(["umount", place], check=True)
    tree.ljsv("remove", "a", "--yes")


def test_remove_in_a_plain_tree(plain_tree: Tree) -> None:
    """Without a runtime directory the supervise files lie in what is deleted."""
    plain_tree.ljsv("scan", "--daemon")
    plain_tree.add("a")
    pid = int(plain_tree.wait_state("a", "ready")["pid"])
    plain_tree.ljsv("remove", "a", "--yes")
    assert not is_alive(pid)
    assert not [path for path in plain_tree.sv.iterdir() if path.name != ".ljsv"]


def test_remove_with_the_scanner_dead(scanning: Tree) -> None:
    """Its supervisor is told by the command itself."""
    scanning.add("a")
    detail = scanning.wait_state("a", "ready")
    base = f"/run/ljsv/sv-{scanning.scan_hash()}" if not scanning.uid else f"{scanning.env['XDG_RUNTIME_DIR']}/ljsv/sv-{scanning.scan_hash()}"
    os.kill(int(Path(f"{base}/.scanner/pid").read_text().split()[0]), signal.SIGTERM)
    wait_for(lambda: "no scanner runs" in scanning.ljsv("status").stderr, "the scanner to end")
    scanning.ljsv("remove", "a", "--yes")
    assert not is_alive(int(detail["pid"]))
    wait_for(lambda: not is_alive(int(detail["supervisor"].split()[0])), "its supervisor to end")
    assert not (scanning.sv / "a").exists()


def test_remove_refuses_a_jail_without_a_supervisor(scanning: Tree) -> None:
    """What runs unseen is not deleted from under itself."""
    scanning.add("a")
    detail = scanning.wait_state("a", "ready")
    base = f"/run/ljsv/sv-{scanning.scan_hash()}" if not scanning.uid else f"{scanning.env['XDG_RUNTIME_DIR']}/ljsv/sv-{scanning.scan_hash()}"
    os.kill(int(Path(f"{base}/.scanner/pid").read_text().split()[0]), signal.SIGKILL)
    os.kill(int(detail["supervisor"].split()[0]), signal.SIGKILL)
    wait_for(lambda: not is_alive(int(detail["supervisor"].split()[0])), "the supervisor to end")
    done = scanning.ljsv("remove", "a", "--yes", code=1)
    assert "its jail runs" in done.stderr and "ljsv up a" in done.stderr
    assert is_alive(int(detail["pid"])) and (scanning.sv / "a/run").exists()


def test_remove_asks_on_a_terminal(scanning: Tree) -> None:
    """No is no; off a terminal it wants --yes; without a name nothing."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    with Terminal(scanning, "ljsv", "remove", "a") as terminal:
        terminal.wait_for("[y/N] ")
        terminal.type("n\n")
        terminal.wait_for("left as it is")
    assert scanning.state("a") == "ready"
    assert "hint: ljsv remove a --yes" in scanning.ljsv("remove", "a", code=100).stderr
    assert "which service" in scanning.ljsv("remove", "--yes", code=100).stderr
    with Terminal(scanning, "ljsv", "remove", "a") as terminal:
        terminal.wait_for("[y/N] ")
        terminal.type("y\n")
        terminal.wait_for("ok: a: removed")


def test_who_needs_it_is_named(scanning: Tree) -> None:
    """A service that others need is removed all the same, and they are told."""
    scanning.add("db")
    scanning.add("web", policy='needs = ["db"]\n')
    scanning.wait_state("db", "ready")
    scanning.wait_state("web", "ready")
    assert "web needs db" in scanning.ljsv("remove", "db", "--yes").stderr


def test_remove_of_what_cannot_be_deleted(scanning: Tree) -> None:
    """Said before anything is stopped."""
    if not scanning.uid:
        pytest.skip("root may write everything: needs an unprivileged user")
    path = scanning.add("a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    path.chmod(0o555)
    done = scanning.ljsv("remove", "a", "--yes", code=111)
    assert "a: cannot delete" in done.stderr and f"hint: ls -ld {path}" in done.stderr
    assert is_alive(pid) and path.exists()
    path.chmod(0o755)

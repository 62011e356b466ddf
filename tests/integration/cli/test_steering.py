"""What is asked of several, of what needs another, and of a scanner that is not where one looks first."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, scan_hash, wait_for
from tests.integration.chaos.marked import scanner_folder


def test_one_that_cannot_start_keeps_no_other_from_it(tree: Tree) -> None:
    """up, restart and once do the rest and tell each fault; so does down of a name that is none. The exit code is that of the first."""
    for name, policy in (("good", ""), ("bad", "x=\n"), ("lost", 'needs = ["typo"]\n'), ("user", 'needs = ["good"]\n')):
        tree.add(name, policy=policy)
    done = tree.ljsv("up", "--all", code=1)
    assert "bad: " in done.stderr and "needs what is not there: typo" in done.stderr
    assert (tree.state("good"), tree.state("user")) == ("ready", "ready")
    pid = tree.pid("good")
    assert "not valid TOML" in tree.ljsv("restart", "bad", "good", code=1).stderr
    assert tree.state("good") == "ready" and tree.pid("good") != pid
    done = tree.ljsv("down", "user", "nosuch", "good", code=4)
    assert "no such service" in done.stderr and (tree.state("good"), tree.state("user")) == ("down", "down")


def test_restart_starts_what_is_needed(scanning: Tree) -> None:
    """As up does: else what ran would be down, and wait."""
    scanning.add("db")
    scanning.add("api", policy='needs = ["db"]\n')
    scanning.wait_state("api", "ready")
    assert "needed by what goes on: api" in scanning.ljsv("down", "db").stderr
    done = scanning.ljsv("restart", "api")
    assert "also starting what they need: db" in done.stderr and scanning.state("db") == "ready"


def test_restart_where_nothing_is_supervised(tree: Tree) -> None:
    """What the new scanner starts by itself is not waited for to begin once more."""
    tree.add("db")
    tree.add("api", policy='needs = ["db"]\n')
    for _ in range(3):
        done = tree.ljsv("restart", "api")
        assert "ok: api: ready" in done.stdout and "timeout" not in done.stdout
        tree.ljsv("exit", "--all")


@pytest.mark.parametrize("reader", ["| true", "| head -1", "2>&1 | true", ">/dev/full"])
def test_all_is_done_whoever_reads(scanning: Tree, reader: str) -> None:
    """What a verb that acts says cannot be written: it acts all the same, and its exit code is that of what it did. A full disk is told."""
    for name, needs in (("c", []), ("b", ["c"]), ("a", ["b"])):
        scanning.add(name, policy=f"needs = {needs}\n")
    scanning.wait_state("a", "ready")
    done = scanning.run("bash", "-c", f"ljsv down --all {reader}; echo ${{PIPESTATUS[0]}} >&2")
    assert [scanning.state(name) for name in "abc"] == ["down"] * 3
    assert done.stderr.splitlines()[-1] == ("111" if "full" in reader else "0")
    assert ("No space left" in done.stderr) == ("full" in reader)
    scanning.run("bash", "-c", f"ljsv disable a b c {reader}")
    assert all((scanning.sv / name / "down").exists() for name in "abc")
    scanning.run("bash", "-c", f"ljsv remove --yes a b c {reader}")
    assert not [path for path in scanning.sv.iterdir() if path.name in "abc"]


def test_a_wait_for_ever(scanning: Tree) -> None:
    """-w and $SVWAIT as long as somebody may write them."""
    scanning.add("web", "trap 'sleep 0.2; exit' TERM\nwhile :; do sleep 0.1; done")
    scanning.wait_state("web", "ready")
    assert scanning.run("ljsv", "restart", "web", env={"SVWAIT": "9" * 400}).returncode == 0
    assert scanning.run("ljsv", "restart", "web", env={"SVWAIT": "\N{SUPERSCRIPT TWO}"}).returncode == 0
    scanning.ljsv("-w", "3000000", "remove", "web", "--yes")
    assert not [path for path in scanning.sv.iterdir() if "web" in path.name]
    scanning.ljsv("-w", "900000000", "exit", "--all")


def test_answers_while_the_runtime_directory_is_made_again(scanning: Tree) -> None:
    """Deleted under a living tree: status, down and exit wait for it, and none says that nobody runs."""
    scanning.add("web")
    pid = int(scanning.wait_state("web", "ready")["pid"])
    shutil.rmtree(scanner_folder(scanning))
    assert "1 ready" in scanning.ljsv("status").stdout
    shutil.rmtree(scanner_folder(scanning))
    scanning.ljsv("down", "web")
    assert not is_alive(pid)
    scanning.ljsv("up", "web")
    shutil.rmtree(scanner_folder(scanning))
    assert "have ended" in scanning.ljsv("exit", "--all").stdout
    assert not scanning.processes()


def test_scanner_with_another_runtime_directory(tree: Tree) -> None:
    """One who has no XDG_RUNTIME_DIR (cron, su) finds the scanner of one who has, and the other way round."""
    if not tree.uid:
        return  # root has but one
    tree.add("web")
    here = tree.env["XDG_RUNTIME_DIR"]
    for first, second in ((here, ""), ("", here)):
        tree.ljsv("up", "web", env={"XDG_RUNTIME_DIR": first})
        done = tree.ljsv("status", env={"XDG_RUNTIME_DIR": second})
        assert "1 ready" in done.stdout and "no scanner" not in done.stderr
        tree.ljsv("restart", "web", env={"XDG_RUNTIME_DIR": second})
        tree.ljsv("upgrade", env={"XDG_RUNTIME_DIR": second})
        tree.ljsv("exit", "--all", env={"XDG_RUNTIME_DIR": second})
        wait_for(lambda: not tree.processes(), "all to end")


def test_scanner_of_another_user(tree: Tree) -> None:
    """Nobody is told that none runs: whose it is, and what to type."""
    if not tree.uid:
        return
    svdir = tree.root / "theirs"
    svdir.mkdir()
    env = {"PATH": tree.env["PATH"]}
    subprocess.run([tree.programs / "ljsv", "--svdir", svdir, "scan", "--daemon"], env=env, check=True)
    try:
        done = tree.ljsv("--svdir", str(svdir), "metrics", code=111)
        assert "its scanner (pid " in done.stderr and "is root's" in done.stderr and "hint: sudo ljsv --svdir" in done.stderr
        shutil.copytree(tree.write("web"), svdir / "web")
        for argv in (("upgrade",), ("rollback", "web"), ("overlay", "diff", "web")):
            assert "is root's" in tree.ljsv("--svdir", str(svdir), *argv, code=111).stderr
        assert "is root's" in tree.ljsv("--svdir", str(svdir), "status").stderr
    finally:
        pid = int((Path("/run/ljsv") / f"{svdir.name}-{scan_hash(svdir)}" / ".scanner/pid").read_text().split()[0])
        subprocess.run([tree.programs / "ljsv", "--svdir", svdir, "exit", "--all"], env=env, check=True)
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        for base in ("/run/ljsv", "/var/log/ljsv", "/var/lib/ljsv"):
            shutil.rmtree(f"{base}/{svdir.name}-{scan_hash(svdir)}", ignore_errors=True)


def test_ready_is_what_stays(scanning: Tree) -> None:
    """`wait NAME ready` is not taken in by a run that ends at once, again and again; the reason of a failed start is in its error."""
    scanning.add("crash", "sleep 0.05; exit 3", policy='[restart]\ndelay = "100ms"\nmax_delay = "100ms"\n')
    scanning.add("silent", policy='[ready]\nby = "fd"\ntimeout = "1s"\n')
    assert "ok:" not in scanning.ljsv("wait", "crash", "ready", "-w", "2", code=1).stdout
    assert "SIGTERM (not ready within 1s" in scanning.ljsv("up", "silent", "-w", "5", code=1).stdout
    scanning.add("web")
    assert "ok: web: ready" in scanning.ljsv("wait", "web", "ready").stdout


def test_restart_of_what_could_not_start_again(scanning: Tree) -> None:
    """A service directory that root's jails may not enter any more: what runs is left alone."""
    if scanning.uid:
        pytest.skip("unprivileged, the jail's id is the owner's: needs root")
    path = scanning.add("a", "echo begun; exec sleep 1000")
    wait_for(lambda: "begun" in scanning.log("a"), "the script to have been read")
    pid = scanning.pid("a")
    path.chmod(0o700)
    done = scanning.ljsv("restart", "a", code=1)
    assert "the jail's ids may not enter and read it (mode 0700)" in done.stderr and f"chmod a+rx {path}" in done.stderr
    assert scanning.pid("a") == pid


def test_something_else_in_the_place_of_a_fifo(scanning: Tree) -> None:
    """Who cannot be supervised is told with what mends it, as a path that others find; and nothing is said of other services."""
    scanning.add("good")
    path = scanning.write("bad", supervise__control="")
    path.rename(scanning.sv / "bad")
    wait_for(lambda: "not a FIFO" in scanning.ljsv("status", "bad", code=None).stdout, "the scanner to find it")
    done = scanning.ljsv("up", "bad", code=102)
    assert f"hint: rm {scanning.sv}/bad/supervise/control\n" in done.stderr and "/proc/self/fd" not in done.stderr
    assert "no services" not in done.stderr
    (scanning.sv / "bad/supervise/control").unlink()
    scanning.ljsv("up", "bad")


def test_hints_are_about_the_tree_that_was_named(tree: Tree) -> None:
    """Pasted elsewhere they would be about another."""
    for words, verb in ((("shutdown",), "exit --all"), (("show", "a"), "status a --json"), (("is-enabled", "a"), "status a -o normally")):
        done = tree.run("ljsv", "--svdir", str(tree.sv), *words)
        assert f"hint: ljsv --svdir {tree.sv} {verb}" in done.stderr


def test_exit_of_a_log_service(scanning: Tree) -> None:
    """It exits with its service: said at once, with what can be done."""
    scanning.add("a", log__run="#!/bin/sh\nexec cat > /dev/null\n")
    scanning.wait_state("a", "ready")
    done = scanning.ljsv("exit", "a/log", code=100)
    assert "a log service exits with its service" in done.stderr and "ljsv exit a" in done.stderr


@pytest.mark.parametrize("to", ["loop", "/proc/1/cwd/x"])
def test_a_symlink_that_leads_nowhere_we_may_look(tree: Tree, to: str) -> None:
    """It is told, and nothing else is hindered by it."""
    if to != "loop" and not tree.uid:
        pytest.skip("root may look everywhere: needs an unprivileged user")
    (tree.sv / "loop").symlink_to(to)
    tree.add("web")
    assert "ok: web: ready" in tree.ljsv("up", "web").stdout
    done = tree.ljsv("status")
    assert "web" in done.stdout and "cannot open a service directory" in done.stderr and f"hint: ls -l {tree.sv}/loop" in done.stderr
    tree.ljsv("lint", code=None)
    tree.ljsv("restart", "--all")
    tree.ljsv("exit", "--all")

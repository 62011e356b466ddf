"""Deploying by dropping: a directory that arrives runs, one that goes away leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.chaos.marked import scanner_pid


def test_rename_into_the_scan_directory_starts_the_service(scanning: Tree) -> None:
    """`mv staged sv/api` is all it takes."""
    scanning.add("api")
    detail = scanning.wait_state("api", "ready")
    assert is_alive(int(detail["pid"]))


def test_symlink_to_a_directory_counts(scanning: Tree) -> None:
    """`ln -s` starts it, and removing the link stops it."""
    target = scanning.write("api")
    (scanning.sv / "api").symlink_to(target)
    pid = int(scanning.wait_state("api", "ready")["pid"])
    (scanning.sv / "api").unlink()
    wait_for(lambda: not is_alive(pid), "the service to end")
    wait_for(lambda: "0 services" in scanning.ljsv("status").stdout, "status to forget it")


def test_a_path_that_is_not_utf_8(tree: Tree) -> None:
    """Behind a symlink, and as the scan directory; a supervisor that is killed is followed by one that knows its jail."""
    place = os.fsdecode(os.fsencode(tree.root) + b"/lat\xe9in")
    os.mkdir(place)
    os.chown(place, tree.uid, tree.uid)
    tree.write("web").rename(f"{place}/web")
    (tree.sv / "web").symlink_to(f"{place}/web")
    tree.ljsv("up", "web")
    pid, supervisor = tree.pid("web"), tree.supervisor_pid("web")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: tree.supervisor_pid("web") not in {0, supervisor}, "the next supervisor")
    assert (tree.state("web"), tree.pid("web")) == ("ready", pid)
    shown = json.loads(tree.ljsv("status", "web", "--json").stdout)
    assert shown[0]["directory"] == f"{place}/web"
    tree.ljsv("exit", "--all")
    assert "ok: web: ready" in tree.ljsv("up", "web", env={"SVDIR": place}).stdout
    tree.ljsv("exit", "--all", env={"SVDIR": place})


def test_hidden_name_is_ignored_until_it_is_renamed(scanning: Tree) -> None:
    """`.web` is nobody's business; `.web` -> `web` counts."""
    scanning.write("web").rename(scanning.sv / ".web")
    assert scanning.ljsv("status").stdout.splitlines()[-1].startswith("0 services")
    (scanning.sv / ".web").rename(scanning.sv / "web")
    scanning.wait_state("web", "ready")


def test_directory_filled_in_place_starts_when_it_has_settled(scanning: Tree) -> None:
    """`cp -r` starts it once run and rootfs are there and nothing changes any more."""
    source = scanning.write("api")
    scanning.run("cp", "-r", str(source), str(scanning.sv / "api"))
    scanning.wait_state("api", "ready")


def test_directory_filled_slowly_is_not_started_half_made(scanning: Tree) -> None:
    """run alone is not enough; status says what it waits for."""
    path = scanning.sv / "slow"
    path.mkdir()
    scanning.own(path)
    (path / "run").write_text("#!/bin/sh\nexec sleep 1000\n")
    (path / "run").chmod(0o755)
    wait_for(lambda: "waits for rootfs" in scanning.ljsv("status").stdout, "status to say what is missing")
    assert not scanning.detail("slow")
    (path / "rootfs").write_text('base = "host"\n')
    scanning.own(path)
    scanning.wait_state("slow", "ready")


def test_tree_with_a_root_directory_settles_below_as_well(scanning: Tree) -> None:
    """A rootfs/ that is still being filled holds the start back."""
    path = scanning.sv / "deep"
    (path / "rootfs/bin").mkdir(parents=True)
    for name in ("dev", "proc", "tmp", "run"):
        (path / "rootfs" / name).mkdir()
    (path / "run").write_text("#!/bin/sh\nexec sleep 1000\n")
    (path / "run").chmod(0o755)
    scanning.own(path)
    for name in ("busybox", "sh", "sleep"):
        assert not scanning.detail("deep"), "it was started while it was being filled"
        wait_for(lambda: True, "a moment")
        shutil.copy("/bin/busybox", path / "rootfs/bin" / name)
        scanning.own(path)
    scanning.wait_state("deep", "ready")


def test_deleted_directory_leaves_nothing(scanning: Tree) -> None:
    """`rm -rf sv/api` stops it; no process, no runtime folder."""
    scanning.add("api")
    detail = scanning.wait_state("api", "ready")
    folder = os.path.realpath(scanning.supervise("api"))
    done = scanning.run("rm", "-rf", str(scanning.sv / "api"))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not is_alive(int(detail["pid"])), "the service to end")
    wait_for(lambda: not is_alive(int(detail["supervisor"].split()[0])), "the supervisor to end")
    assert not Path(folder).exists()
    assert not (scanning.sv / "api").exists()


def test_plain_supervise_directory_does_not_stand_in_the_way_of_rm(plain_tree: Tree) -> None:
    """Without a runtime directory, `rm -rf` still succeeds and nothing is made again."""
    plain_tree.ljsv("scan", "--daemon")
    plain_tree.add("api")
    pid = int(plain_tree.wait_state("api", "ready")["pid"])
    assert not plain_tree.supervise("api").is_symlink()
    done = plain_tree.run("rm", "-rf", str(plain_tree.sv / "api"))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not is_alive(pid), "the service to end")
    assert not (plain_tree.sv / "api").exists()


def test_directory_moved_away_is_stopped(scanning: Tree) -> None:
    """Moving it out of the scan directory is the same as deleting it; its files stay whole."""
    path = scanning.add("api")
    pid = int(scanning.wait_state("api", "ready")["pid"])
    away = path.rename(scanning.staging / "away")
    wait_for(lambda: not is_alive(pid), "the service to end")
    assert (away / "run").exists()


def test_rename_keeps_the_jail(scanning: Tree) -> None:
    """`mv sv/web sv/www`: the same process goes on under the new name, and can be steered by it."""
    path = scanning.add("web")
    pid = int(scanning.wait_state("web", "ready")["pid"])
    path.rename(scanning.sv / "www")
    wait_for(lambda: "www" in scanning.ljsv("status").stdout, "the new name")
    assert scanning.pid("www") == pid
    assert is_alive(pid)
    scanning.ljsv("down", "www")
    assert not is_alive(pid)
    assert not (scanning.sv / "web").exists()


def test_rename_in_a_plain_tree_keeps_the_jail(plain_tree: Tree) -> None:
    """The same without a runtime directory: nothing is made again under the old name."""
    plain_tree.ljsv("scan", "--daemon")
    path = plain_tree.add("web")
    pid = int(plain_tree.wait_state("web", "ready")["pid"])
    path.rename(plain_tree.sv / "www")
    plain_tree.ljsv("hup", "www")
    plain_tree.ljsv("restart", "www")
    assert not is_alive(pid)
    assert not (plain_tree.sv / "web").exists()


def test_another_directory_under_the_same_name_waits_for_the_old_jail(scanning: Tree) -> None:
    """A replacement starts when the old service has ended: never both."""
    old = scanning.add("api", "trap 'sleep 0.3; exit 0' TERM\necho old\nwhile :; do sleep 0.05; done")
    first = int(scanning.wait_state("api", "ready")["pid"])
    new = scanning.write("api", "echo new; exec sleep 1000")
    old.rename(scanning.staging / "old")
    new.rename(scanning.sv / "api")
    wait_for(lambda: scanning.state("api") == "ready" and scanning.pid("api") not in {0, first}, "the replacement")
    assert not is_alive(first)


def test_fifty_directories_at_once(scanning: Tree) -> None:
    """All of them run."""
    names = [f"s{number}" for number in range(50)]
    for name in names:
        scanning.write(name)
    for name in names:
        (scanning.staging / name).rename(scanning.sv / name)
    for name in names:
        scanning.wait_state(name, "ready", timeout_s=60)


def test_inotify_queue_overflow_loses_nothing(tree: Tree) -> None:
    """With a scanner that is stopped while thousands of events pass, what has arrived runs, what has gone is gone."""
    tree.ljsv("scan", "--daemon")
    tree.add("stays")
    gone = tree.add("goes")
    pid = int(tree.wait_state("goes", "ready")["pid"])
    scanner = int((Path(tree_scanner(tree)) / "pid").read_text().split()[0])
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    os.kill(scanner, 19)
    try:
        shutil.rmtree(gone)
        for number in range(limit // 2 + 100):
            path = tree.sv / f".noise{number % 2}"
            path.mkdir()
            path.rmdir()
        tree.add("arrives")
    finally:
        os.kill(scanner, 18)
    tree.wait_state("arrives", "ready")
    wait_for(lambda: not is_alive(pid), "the deleted service to end")
    assert "overflow" in tree.events()
    assert tree.state("stays") == "ready"


def tree_scanner(tree: Tree) -> str:
    """The scanner's folder."""
    if not tree.uid:
        return f"/run/ljsv/sv-{tree.scan_hash()}/.scanner"
    return f"{tree.env['XDG_RUNTIME_DIR']}/ljsv/sv-{tree.scan_hash()}/.scanner"


def test_copied_directory_does_not_share_the_runtime_folder(scanning: Tree) -> None:
    """`cp -a` brings the symlink along; it is replaced, and both services run."""
    path = scanning.add("one")
    scanning.wait_state("one", "ready")
    scanning.run("cp", "-a", str(path), str(scanning.sv / "two"))
    scanning.ljsv("up", "two")
    scanning.ljsv("down", "two")
    assert os.path.realpath(scanning.supervise("one")) != os.path.realpath(scanning.supervise("two"))
    assert scanning.state("one") == "ready"


def test_copy_of_a_plain_directory_does_not_adopt_the_other_jail(plain_tree: Tree) -> None:
    """`cp -a` brings even the jail's record along; it is not believed."""
    plain_tree.ljsv("scan", "--daemon")
    path = plain_tree.add("one")
    first = int(plain_tree.wait_state("one", "ready")["pid"])
    plain_tree.run("cp", "-a", str(path), str(plain_tree.staging / "two"))
    (plain_tree.staging / "two").rename(plain_tree.sv / "two")
    wait_for(lambda: plain_tree.state("two") == "ready" and plain_tree.pid("two") not in {0, first}, "a jail of its own")
    assert is_alive(first)


@pytest.fixture
def of_root(tree: Tree) -> Iterator[Path]:
    """A runtime directory that only root may enter, with a service's files in it."""
    if not tree.uid:
        pytest.skip("root may enter everything")
    scan = Path(f"/run/ljsv/sv-{tree.scan_hash()}-root")
    (scan / "web").mkdir(parents=True)
    (scan / "web" / "detail").write_text("state ready\n")
    scan.chmod(0o700)
    yield scan / "web"
    shutil.rmtree(scan)


@pytest.mark.parametrize("has_runtime", [True, False])
def test_given_to_a_user_by_root(tree: Tree, of_root: Path, *, has_runtime: bool) -> None:
    """What root has run once leads into root's runtime directory: `chown -R` makes it the user's; before that it says whose it is."""
    runtime = tree.env["XDG_RUNTIME_DIR"] if has_runtime else tree.env.pop("XDG_RUNTIME_DIR") and ""
    path = tree.write("web")
    (path / "supervise").symlink_to(of_root)
    path.rename(tree.sv / "web")
    os.chown(tree.sv / "web", 0, 0)
    done = tree.ljsv("up", "web", code=111)
    assert "not permitted" in done.stderr and "hint: sudo ljsv" in done.stderr
    assert "not yours to see" in tree.ljsv("status").stdout
    os.chown(tree.sv / "web", tree.uid, tree.uid)
    assert "unsupervised" in tree.ljsv("status", "web", code=3).stdout
    tree.ljsv("up", "web")
    supervise = tree.sv / "web/supervise"
    assert os.path.realpath(supervise) == (f"{runtime}/ljsv/sv-{tree.scan_hash()}/web" if has_runtime else str(supervise))


def test_directory_deleted_while_its_supervisor_is_dead_leaves_no_jail(scanning: Tree) -> None:
    """Killed supervisor and `rm -rf` at the same moment: the jail is found and stopped all the same."""
    path = scanning.add("api")
    for _ in range(3):
        pid = int(scanning.wait_state("api", "ready")["pid"])
        os.kill(scanning.supervisor_pid("api"), 9)
        while path.exists():  # a supervisor that is just beginning may put its link there once
            shutil.rmtree(path, ignore_errors=True)
        wait_for(lambda pid=pid: not is_alive(pid), "the service to end")
        path = scanning.add("api")


def test_out_and_in_again_under_another_name(scanning: Tree) -> None:
    """`mv sv/w1 x; mv x sv/w2`, at once or after a moment: it runs as w2, kept or started again, never twice."""
    path = scanning.add("w1")
    for turn in range(6):
        first = int(scanning.wait_state(path.name, "ready")["pid"])
        away = path.rename(scanning.staging / "x")
        time.sleep(turn / 200)
        path = away.rename(scanning.sv / f"w{turn + 2}")
        wait_for(lambda path=path: scanning.state(path.name) == "ready" and is_alive(scanning.pid(path.name)), f"it to run as {path.name}")
        assert scanning.pid(path.name) == first or not is_alive(first)
        scanning.ljsv("hup", path.name, code=None)


def test_names_swapped(scanning: Tree) -> None:
    """a and b change names through a hidden one: each directory runs its own program."""
    for name in ("a", "b"):
        scanning.add(name, f"echo I am {name}; exec sleep 1000")
        scanning.wait_state(name, "ready")
    (scanning.sv / "a").rename(scanning.sv / ".t")
    (scanning.sv / "b").rename(scanning.sv / "a")
    (scanning.sv / ".t").rename(scanning.sv / "b")
    wait_for(lambda: all(scanning.state(n) == "ready" and is_alive(scanning.pid(n)) for n in ("a", "b")), "both")
    for name, other in (("a", "b"), ("b", "a")):
        scanning.ljsv("restart", name)
        wait_for(lambda name=name, other=other: f"I am {other}" in scanning.log(name), "its program")


def test_a_start_takes_the_name_of_now(scanning: Tree) -> None:
    """Renamed, and started again before anybody has told its supervisor: host name and log are the new name's."""
    scanning.add("old", "hostname; exec sleep 1000")
    scanning.wait_state("old", "ready")
    scanner = scanner_pid(scanning)
    os.kill(scanner, signal.SIGSTOP)
    try:
        (scanning.sv / "old").rename(scanning.sv / "new")
        scanning.ljsv("restart", "new")
        wait_for(lambda: "new" in scanning.log("new"), "its new name")
        assert Path(scanning.detail("new")["log"]).parent.name == "new"
    finally:
        os.kill(scanner, signal.SIGCONT)


def test_churn_does_not_hurt_the_scanner(scanning: Tree) -> None:
    """Directories that come and go faster than they can be looked at."""
    for _ in range(3000):
        (scanning.sv / "e").mkdir()
        (scanning.sv / "e").rmdir()
    scanning.add("a")
    scanning.wait_state("a", "ready")


def test_unreadable_service_directory_hurts_nobody_else(scanning: Tree) -> None:
    """`chmod 000` and a killed supervisor: the scanner goes on."""
    path = scanning.add("a")
    scanning.wait_state("a", "ready")
    supervisor = scanning.supervisor_pid("a")
    path.chmod(0)
    os.kill(supervisor, 9)
    scanning.add("b")
    scanning.wait_state("b", "ready")
    path.chmod(0o755)
    wait_for(lambda: scanning.supervisor_pid("a") not in {0, supervisor}, "a to be supervised again", 60)


@pytest.mark.parametrize("how", ["renamed", "deleted", "empty"])
def test_scan_directory_renamed_or_deleted_ends_the_scanner(tree: Tree, how: str) -> None:
    """Everything is stopped, nothing of it is made again, and a new scan directory can be used at once."""
    take_scan_directory_away(tree, how)


@pytest.mark.parametrize("how", ["renamed", "deleted", "empty"])
def test_plain_scan_directory_renamed_or_deleted_ends_the_scanner(plain_tree: Tree, how: str) -> None:
    """The same where the scanner's own folder is in it."""
    take_scan_directory_away(plain_tree, how)


def take_scan_directory_away(tree: Tree, how: str) -> None:
    tree.ljsv("scan", "--daemon")
    scanner, pid = scanner_pid(tree), 0
    if how != "empty":
        tree.add("a")
        pid = int(tree.wait_state("a", "ready")["pid"])
    if how == "renamed":
        tree.sv.rename(tree.root / "old")
    else:
        wait_for(lambda: tree.run("rm", "-rf", str(tree.sv)).returncode == 0, "nothing to be written while it is deleted")
    wait_for(lambda: not is_alive(scanner) and not (pid and is_alive(pid)), "the scanner and its service to end")
    assert not tree.sv.exists()
    tree.sv.mkdir()
    os.chown(tree.sv, tree.uid, tree.uid)
    tree.add("b")
    wait_for(lambda: tree.ljsv("up", "b", code=None).returncode == 0, "a new tree")


def test_log_follows_a_rename_to_a_name_that_had_one(scanning: Tree) -> None:
    """The renamed service writes into its new name's log, and the old name's next service into its own."""
    scanning.add("n2", "echo old n2; exec sleep 1000")
    wait_for(lambda: "old n2" in scanning.log("n2"), "its line")
    shutil.rmtree(scanning.sv / "n2", ignore_errors=True)
    wait_for(lambda: "0 services" in scanning.ljsv("status").stdout, "it to go")
    scanning.add("n1", "trap 'echo more' USR1\necho A\nwhile :; do sleep 0.02; done")
    wait_for(lambda: "A" in scanning.log("n1"), "its line")
    (scanning.sv / "n1").rename(scanning.sv / "n2")
    wait_for(lambda: scanning.detail("n2").get("log", "").endswith("/n2/current"), "the log to follow")
    scanning.add("n1", "echo B; exec sleep 1000")
    wait_for(lambda: "B" in scanning.log("n1"), "its line")
    scanning.ljsv("usr1", "n2")
    wait_for(lambda: "more" in scanning.log("n2"), "the next line of the renamed one")
    assert "more" not in scanning.log("n1") and "B" not in scanning.log("n2")

"""Broken service directories of every kind: a clear error with a hint, state failed, and nothing else is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for

# (files, what the fault says, what the hint says)
BROKEN = {
    "no run": ({"run": None}, "there is no run script", "chmod +x"),
    "no rootfs": ({"rootfs": None}, "there is no rootfs", 'base = "host"'),
    "run not executable": ({"run_mode": 0o644}, "run is not executable", "chmod +x"),
    "run is a directory": ({"run": "DIRECTORY"}, "run is not a file", "ls -l"),
    "rootfs leads nowhere": ({"rootfs": "LINK"}, "rootfs leads nowhere", "ls -l"),
    "rootfs is a FIFO": ({"rootfs": "FIFO"}, "rootfs is of no known kind", "ls -l"),
    "unknown key": ({"rootfs": 'base = "host"\nwritabel = "no"'}, "unknown key writabel", "rootfs"),
    "bad value": ({"rootfs": 'base = "host"\nwritable = "yes"'}, 'allowed: "no", "tmpfs"', "rootfs"),
    "no unit": ({"limits": "memory = 512\n"}, "memory: found 512", "limits"),
    "a path with NUL": ({"rootfs": 'base = "/a\\u0000b"'}, "base: found", "rootfs"),
    "deep TOML": ({"rootfs": "base = " + "[" * 100_000}, "not valid TOML", "rootfs"),
    "not TOML": ({"policy": "restart = [\n"}, "not valid TOML", "policy"),
    "base missing": ({"rootfs": 'base = "/no/such"'}, "base does not exist", "base"),
    "no base": ({"rootfs": 'hostname = "x"'}, "missing key base", "base"),
    "unsupported writable": ({"rootfs": 'base = "host"\nwritable = "overlay"'}, "needs a base of its own", "another base"),
    "unknown user": ({"rootfs": 'base = "host"\nuser = "nosuchuser"'}, "the jail has no user nosuchuser", "number"),
    "bind source missing": ({"rootfs": 'base = "host"\n[[bind]]\nfrom = "/no/such"\nto = "/x"'}, "cannot bind: /no/such", "bind"),
    "interpreter missing": ({"run": "#!/no/such/shell\n"}, "the jail has no /no/such/shell", "it is run by /no/such/shell"),
    "not a program": ({"run": "no interpreter line\n"}, "Exec format error", "#!/bin/sh"),
}


def break_it(path: Path, change: dict[str, object]) -> None:
    for name, value in change.items():
        if name == "run_mode":
            (path / "run").chmod(int(str(value)))
            continue
        target = path / name
        target.unlink(missing_ok=True)
        if value == "DIRECTORY":
            target.mkdir()
        elif value == "LINK":
            target.symlink_to("/no/such/place")
        elif value == "FIFO":
            os.mkfifo(target)
        elif value is not None:
            target.write_text(str(value))
            target.chmod(0o755)


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_directory_fails_with_cause_and_hint(scanning: Tree, kind: str) -> None:
    """State failed, no retries; `ljsv up` says the same; mended, it starts by itself."""
    change, fault, hint = BROKEN[kind]
    path = scanning.write("a")
    break_it(path, change)
    scanning.own(path)
    path = path.rename(scanning.sv / "a")
    detail = scanning.wait_state("a", "failed")
    assert fault in detail["fault"], detail["fault"]
    assert hint in detail["hint"], detail["hint"]
    assert fault in scanning.ljsv("status").stdout
    done = scanning.ljsv("up", "a", code=1)
    assert fault in done.stdout + done.stderr
    assert "hint: " in done.stderr
    assert scanning.detail("a")["restarts"] == "0"
    for name in ("run", "rootfs", "limits", "policy"):
        target = path / name
        if target.is_dir() and not target.is_symlink():
            target.rmdir()
        elif name in {"limits", "policy"} or target.is_symlink() or target.is_fifo():
            target.unlink(missing_ok=True)
    (path / "run").write_text("#!/bin/sh\nexec sleep 1000\n")
    (path / "run").chmod(0o755)
    (path / "rootfs").write_text('base = "host"\n')
    scanning.own(path)
    scanning.wait_state("a", "ready")


@pytest.mark.parametrize("name", ["cap_sys_ptrace", "+-SYS_PTRACE"])
def test_privileged_and_tracing(scanning: Tree, name: str) -> None:
    """With SYS_PTRACE the machine's root could write into what is not dumpable: pid 1 of its jail, and what enters it."""
    rootfs = 'base = "host"\n[security]\nuser_namespace = "host"\ncapabilities = ["{}"]\n'
    scanning.add("web", rootfs=rootfs.format(name))
    fault = scanning.wait_state("web", "failed")["fault"]
    assert ("SYS_PTRACE" if not scanning.uid else "only for root") in fault
    if not scanning.uid:
        assert "it would let the jail write into its pid 1" in scanning.ljsv("lint", "web", code=1).stdout
        scanning.add("db", rootfs=rootfs.format("-SYS_PTRACE"))
        scanning.wait_state("db", "ready")


def test_bad_edit_never_harms_a_running_service(scanning: Tree) -> None:
    """It is shown beside the state; a crash restarts with the last good values; restart refuses; mended, it is gone."""
    path = scanning.add("a", policy='[restart]\nstable_after = "0s"\n')
    pid = int(scanning.wait_state("a", "ready")["pid"])
    (path / "limits").write_text("memory = lots\n")
    wait_for(lambda: "fault" in scanning.detail("a"), "the fault to be shown")
    assert is_alive(pid)
    assert "bad edit" in scanning.ljsv("status").stdout
    assert "not valid TOML" in scanning.ljsv("restart", "a", code=1).stderr
    assert is_alive(pid)
    os.kill(pid, 9)
    wait_for(lambda: scanning.state("a") == "ready" and scanning.pid("a") not in {0, pid}, "a restart with the last good values")
    (path / "limits").write_text("nofile = 100\n")
    wait_for(lambda: "fault" not in scanning.detail("a"), "the fault to go")
    assert scanning.detail("a")["changed"] == "limits"
    scanning.ljsv("restart", "a")
    assert "changed" not in scanning.detail("a")


def test_bad_edit_while_it_waits_for_the_next_try(scanning: Tree) -> None:
    """Beside why it waits, not in its place."""
    path = scanning.add("a", "exit 3", policy='[restart]\nfirst_delay = "1000s"\n')
    scanning.wait_state("a", "backoff")
    (path / "limits").write_text("memory = lots\n")
    wait_for(lambda: "fault" in scanning.detail("a"), "the fault to be shown")
    assert "last run: exit 3" in scanning.ljsv("status", "a", code=3).stdout
    (line,) = [line for line in scanning.ljsv("status").stdout.splitlines() if line.startswith("a ")]
    assert "exit 3, next try in" in line and "bad edit: " in line and "not valid TOML" in line
    assert "last run: exit 3" in scanning.ljsv("why", "a").stdout


@pytest.mark.parametrize("how", ["kill", "upgrade"])
@pytest.mark.parametrize(("file", "text"), [("policy", "x=\n"), ("limits", "memory = 7\n"), ("rootfs", "base = 7\n")])
def test_bad_edit_outlives_its_supervisor(scanning: Tree, how: str, file: str, text: str) -> None:
    """The next one restarts with the last good values as well; mended, the edit counts."""
    path = scanning.add("a", "ulimit -n\nexec sleep 1000", limits="nofile = 77\n", policy='[restart]\nfirst_delay = "0s"\nstable_after = "0s"\n')
    pid = int(scanning.wait_state("a", "ready")["pid"])
    good = (path / file).read_text()
    (path / file).write_text(text)
    wait_for(lambda: "fault" in scanning.detail("a"), "the fault to be shown")
    before = scanning.supervisor_pid("a")
    if how == "kill":
        os.kill(before, signal.SIGKILL)
    else:
        scanning.ljsv("upgrade")
    wait_for(lambda: scanning.supervisor_pid("a") not in {0, before} and "fault" in scanning.detail("a"), "the next supervisor")
    assert scanning.pid("a") == pid and scanning.detail("a")["jail"] == "host"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: scanning.state("a") == "ready" and scanning.pid("a") not in {0, pid}, "a restart with the last good values")
    wait_for(lambda: scanning.log("a") == "77\n77", "its word")
    (path / file).write_text(good)
    wait_for(lambda: "fault" not in scanning.detail("a"), "the fault to go")
    scanning.ljsv("restart", "a")
    if "LJSV_SLEEP_AFTER" not in scanning.env:  # they keep it for what may happen while they sleep
        assert not (scanning.supervise("a") / "good").exists()


def test_a_symlink_that_leads_nowhere_is_no_absence(scanning: Tree) -> None:
    """What it would say is unknown: no limits are not what was meant. It is a bad edit, found by lint, and told at a start."""
    path = scanning.add("a")
    pid = int(scanning.wait_state("a", "ready")["pid"])
    for target in ("/nonexistent/limits", "limits"):
        (path / "limits").unlink(missing_ok=True)
        (path / "limits").symlink_to(target)
        wait_for(lambda: "limits" in scanning.detail("a").get("fault", ""), "the fault")
        assert "limits" in scanning.ljsv("restart", "a", code=1).stderr and is_alive(pid)
        assert "FAIL  a: " in scanning.ljsv("lint", "a", code=1).stdout
        (path / "limits").unlink()
        wait_for(lambda: "fault" not in scanning.detail("a"), "the fault to go")


def test_bad_edit_of_needs(scanning: Tree) -> None:
    """A circle, and a need that is not there: shown as such, and a crash restarts without them."""
    for name, needs in (("a", ""), ("b", 'needs = ["a"]\n'), ("c", "")):
        scanning.add(name, policy=needs)
        scanning.wait_state(name, "ready")
    for name, needs, fault in (("a", '["b"]', "needs go in a circle"), ("c", '["typo"]', "needs what is not there: typo")):
        (scanning.sv / name / "policy").write_text(f"needs = {needs}\n")
        wait_for(lambda name=name, fault=fault: fault in scanning.detail(name).get("fault", ""), "the fault")
        pid = scanning.pid(name)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda name=name, pid=pid: scanning.state(name) == "ready" and scanning.pid(name) not in {0, pid}, "a restart without it")


def test_bad_edit_of_needs_that_becomes_good(scanning: Tree) -> None:
    """What it needs now comes later: the fault goes."""
    path = scanning.add("a")
    scanning.wait_state("a", "ready")
    (path / "policy").write_text('needs = ["late"]\n')
    wait_for(lambda: "needs what is not there" in scanning.detail("a").get("fault", ""), "the fault")
    scanning.add("late")
    wait_for(lambda: "fault" not in scanning.detail("a"), "the fault to go")
    assert scanning.detail("a")["changed"] == "policy" and scanning.detail("a")["needs"] == "late"


def test_circle_that_is_broken(scanning: Tree) -> None:
    """All that were in it start, and what has waited for them."""
    for name, need in (("a", "b"), ("b", "c"), ("c", "a"), ("after", "a")):
        scanning.write(name, policy=f'needs = ["{need}"]\n').rename(scanning.sv / name)
    for name in ("a", "b", "c"):
        scanning.wait_state(name, "failed")
    (scanning.sv / "c/policy").write_text("")
    for name in ("c", "b", "a", "after"):
        scanning.wait_state(name, "ready")


def test_bad_edit_by_rename_is_seen_too(scanning: Tree) -> None:
    """Editors write a new file and rename it."""
    path = scanning.add("a")
    scanning.wait_state("a", "ready")
    (path / ".policy.swp").write_text("x = 1\n")
    (path / ".policy.swp").rename(path / "policy")
    wait_for(lambda: "unknown key x" in scanning.detail("a").get("fault", ""), "the fault")


def test_lint_and_explain_change_nothing(tree: Tree) -> None:
    """Both work with nothing running; lint says each fault once and exits 1."""
    tree.add("good", rootfs='base = "host"\nnetwork = "none"\n[[tmpfs]]\nat = "/var/cache"\nsize = "1M"')
    tree.add("bad", policy="x = 1\n")
    done = tree.ljsv("lint", code=1)
    assert "ok    good" in done.stdout
    assert "FAIL  bad: " in done.stdout and "unknown key x" in done.stdout
    text = tree.ljsv("explain", "good").stdout
    for word in ("clone3", "pivot_root", "lo", "/var/cache", "no_new_privs", "exec ./run"):
        assert word in text
    assert not tree.supervise("good").exists()


def test_run_that_the_ids_of_the_jail_may_not_execute(scanning: Tree) -> None:
    """As root the jail's ids are others: a run of mode 0700 is refused with the reason."""
    if scanning.uid:
        pytest.skip("unprivileged, the jail's id is the owner's: needs root")
    path = scanning.write("a")
    (path / "run").chmod(0o700)
    path.rename(scanning.sv / "a")
    detail = scanning.wait_state("a", "failed")
    assert detail["fault"].endswith("/a/run: Permission denied")
    assert "chmod a+rx" in detail["hint"]


def tell(tree: Tree, story: str) -> str:
    """What a script of root's says that has mounts of its own; `as_user` in it is the tree's user, `small` a directory."""
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    root = tree.root / "small"
    root.mkdir()
    script = tree.root / "story"
    script.write_text(story.format(root=root, as_user=AS_USER.format(root=root, programs=tree.programs, uid=tree.uid), uid=tree.uid))
    done = subprocess.run(["unshare", "-m", "sh", "-eu", str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


AS_USER = """
as_user() {{ env -i PATH={programs}:/usr/bin:/bin HOME={root}/home XDG_RUNTIME_DIR={root}/run SVDIR={root}/sv setpriv --reuid {uid} --regid {uid} --clear-groups "$@"; }}
"""


def test_full_disk_under_the_supervise_directory(plain_tree: Tree) -> None:
    """A scan directory on a full file system: a clear error, nothing runs half; with room again, it starts."""
    said = tell(plain_tree, FULL_DISK)
    assert "No space left on device" in said
    assert "ok: a: ready" in said


FULL_DISK = """
mount -t tmpfs -o size=256k,mode=755 small {root}
cd {root}
mkdir sv sv/a home
printf '#!/bin/sh\\nexec sleep 1000\\n' > sv/a/run; chmod +x sv/a/run
echo 'base = "host"' > sv/a/rootfs
chown -R {uid}:{uid} {root}
dd if=/dev/zero of=filler bs=4096 2>/dev/null || true
{as_user}
as_user ljsv up a 2>&1 && exit 1
rm filler
as_user ljsv up a -w 70 2>&1
as_user ljsv exit --all 2>&1
"""


def test_full_runtime_directory_when_a_service_is_to_start_again(plain_tree: Tree) -> None:
    """It waits, whatever its policy says of giving up, and is there again with room; an essential one takes nothing down."""
    said = tell(plain_tree, FULL_RUNTIME)
    assert "No space left on device" in said and '"backoff"' in said
    assert '"failed"' not in said and "stopping everything" not in said
    assert said.endswith("with room: ready ready\n"), said


FULL_RUNTIME = """
mkdir {root}/run {root}/home {root}/sv {root}/sv/es {root}/sv/other
mount -t tmpfs -o size=2M,mode=700 small {root}/run
printf '#!/bin/sh\necho began\n[ -e /run/service/stay ] && exec sleep 1000\nsleep 1\nexit 3\n' > {root}/sv/es/run; chmod +x {root}/sv/es/run
printf 'essential = true\n[restart]\ngive_up_after = 2\ndelay = "100ms"\nmax_delay = "1s"\n' > {root}/sv/es/policy
printf '#!/bin/sh\nexec sleep 1000\n' > {root}/sv/other/run; chmod +x {root}/sv/other/run
for name in es other; do echo 'base = "host"' > {root}/sv/$name/rootfs; done
chown -R {uid}:{uid} {root}
{as_user}
as_user ljsv up es other
dd if=/dev/zero of={root}/run/filler bs=4096 2>/dev/null || true
sleep 4
as_user ljsv events -n 100
touch {root}/sv/es/stay
rm {root}/run/filler
as_user ljsv wait es ready -w 20
sleep 0.3
echo "with room: $(echo $(as_user ljsv status es other -o state))"
as_user ljsv exit --all > /dev/null 2>&1
"""


def test_full_runtime_directory_when_a_service_that_sleeps_is_stopped(plain_tree: Tree) -> None:
    """To stop it is how one makes room: who wakes needs none."""
    assert "ok: a: down" in tell(plain_tree, FULL_ASLEEP)


FULL_ASLEEP = """
mkdir {root}/run {root}/home {root}/sv {root}/sv/a
mount -t tmpfs -o size=2M,mode=700 small {root}/run
printf '#!/bin/sh\necho $$ > /run/me\nexec sleep 1000\n' > {root}/sv/a/run; chmod +x {root}/sv/a/run
echo 'base = "host"' > {root}/sv/a/rootfs
chown -R {uid}:{uid} {root}
{as_user}
as_user env LJSV_SLEEP_AFTER=200ms ljsv up a
pid=$(as_user ljsv status a -o pid)
for _ in $(seq 100); do sleep 0.1; [ "$(as_user ljsv status a -o supervisor_pid | xargs -I@ cat /proc/@/comm)" = "ljsv dormitory" ] && break; done
dd if=/dev/zero of={root}/run/filler bs=4096 2>/dev/null || true
as_user ljsv down a -w 3 > {root}/said 2>&1 || true
[ ! -e /proc/$pid ]
rm {root}/run/filler
as_user ljsv down a
as_user ljsv exit --all > /dev/null 2>&1
"""


def test_full_disk_under_the_log(plain_tree: Tree) -> None:
    """What ends is followed within a moment, and a stop is one: its last lines wait for room, and none is lost."""
    said = tell(plain_tree, FULL_LOG)
    assert "replaced" in said and "ok: a: ready" in said, said
    assert said.endswith("lines: 40 without a gap\n"), said


FULL_LOG = """
mkdir {root}/run {root}/home {root}/sv {root}/sv/a
mount -t tmpfs -o size=2M,mode=700 small {root}/home
printf '#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done\nexec sleep 1000\n' > {root}/sv/a/run; chmod +x {root}/sv/a/run
echo 'base = "host"' > {root}/sv/a/rootfs
printf '[restart]\nfirst_delay = "0s"\nstable_after = "0s"\n' > {root}/sv/a/policy
chown -R {uid}:{uid} {root}
{as_user}
as_user ljsv up a
sleep 0.5
dd if=/dev/zero of={root}/home/filler bs=4096 2>/dev/null || true
pid=$(as_user ljsv status a -o pid)
as_user ljsv restart a
pid=$(as_user ljsv status a -o pid)
kill -9 $pid
for _ in $(seq 40); do sleep 0.1; now=$(as_user ljsv status a -o pid || true); case $now in $pid | -) ;; *) [ -e /proc/$now ] && echo replaced && break;; esac; done
rm {root}/home/filler
as_user ljsv restart a
sleep 2
as_user ljsv logs a -n all | sed 's/^[^ ]* //' > {root}/lines
yes "$(seq 10 | sed 's/^/line /')" | head -40 | cmp - {root}/lines && echo "lines: $(grep -c line {root}/lines) without a gap"
as_user ljsv exit --all > /dev/null 2>&1
"""


def test_root_refuses_directories_that_others_may_write(tree: Tree) -> None:
    """Root runs nothing that somebody else could have put there."""
    if tree.uid:
        pytest.skip("about root's trust")
    path = tree.add("a")
    path.chmod(0o777)
    tree.ljsv("scan", "--daemon")
    wait_for(lambda: "root will not run it" in tree.ljsv("status").stdout, "the refusal")
    assert not tree.pid("a")
    path.chmod(0o755)
    wait_for(lambda: tree.state("a") == "ready" or tree.ljsv("hup", "a", code=None) is None, "it to run")
    tree.sv.chmod(0o777)
    assert "others may write it" in tree.ljsv("status", code=None).stderr
    tree.sv.chmod(0o755)


def test_dot_sv_of_a_stranger_is_not_used(tree: Tree) -> None:
    """`./sv` counts only where nobody else may write it or its parent."""
    place = tree.root / "place"
    (place / "sv").mkdir(parents=True)
    os.chown(place / "sv", tree.uid, tree.uid)
    place.chmod(0o777)
    done = tree.run("ljsv", "status", cwd=place, env={"SVDIR": ""})
    assert done.returncode != 0
    assert "./sv" in done.stderr and "may write" in done.stderr
    place.chmod(0o755)
    done = tree.run("ljsv", "status", cwd=place, env={"SVDIR": ""})
    assert "0 services in ./sv" in done.stdout

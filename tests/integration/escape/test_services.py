"""A service against its own supervisor: files, locks, log and pid 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OTHER_UID, Tree, is_alive, make_tree, wait_for
from tests.integration.escape.jail import PYTHON, Jail, assert_refused, results_of
from tests.integration.escape.test_setuid import marked
from tests.integration.roots import small_root

CLOSED = ("EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "ENXIO", "EBUSY", "EEXIST", "EXDEV", "ELOOP", "EISDIR", "EINVAL")
NEVER = '[restart]\nwhen = "never"\n'


@pytest.fixture(params=["runtime", "plain"])
def either(request: pytest.FixtureRequest, programs: Path) -> Iterator[Tree]:
    """A tree with a scanner; with `supervise` in the runtime directory, and as a plain directory in the service directory."""
    uid = OTHER_UID if os.geteuid() == 0 else os.geteuid()
    for tree in make_tree(programs, uid, has_runtime=request.param == "runtime"):
        tree.ljsv("scan", "--daemon")
        yield tree


def start(tree: Tree, *arguments: str, seccomp: str = "off", rootfs: str = "", done: str = "", **files: str) -> str:
    """A service that attacks; its log when it says that it is done."""
    jail = Jail(tree, seccomp)
    run = f"exec {PYTHON} -u /attacks/service.py {' '.join(arguments)}"
    bind = f'[[bind]]\nfrom = "{jail.attacks}"\nto = "/attacks"'
    tree.add("web", run, f'base = "host"\n{bind}\n{rootfs}\n[security]\nseccomp = "{seccomp}"', **files)
    wait_for(lambda: (done or "END\t") in tree.log("web") or tree.state("web") == "failed", f"the attack: {tree.detail('web')} {tree.log('web')}")
    return tree.log("web")


@pytest.mark.parametrize("what", ["itself", "limits", "link to rootfs", "link above", "rootfs", "own data"])
def test_what_says_what_its_jail_is(scanning: Tree, what: str) -> None:
    """A writable bind of its own service directory, of a file there, or of what one leads to: with that it could make itself the machine's root."""
    path = scanning.write("web", rootfs=None)
    shared, small = scanning.root / "shared", small_root(scanning)
    (shared / "conf").mkdir(parents=True)
    (path / "limits").write_text("")
    (path / "data").mkdir()
    source, base = {
        "itself": (scanning.sv / "web", "host"), "limits": (scanning.sv / "web/limits", "host"), "link to rootfs": (shared, "host"),
        "link above": (shared, str(scanning.root / "conf")), "rootfs": (shared, "host"), "own data": (scanning.sv / "web/data", "host"),
    }[what]
    rootfs = f'base = "{base}"\n[[bind]]\nfrom = "{source}/"\nto = "/me"\nwritable = true\n'
    if what == "limits":
        rootfs = rootfs.replace("limits/", "limits")
    target = shared / "rootfs" if what == "link to rootfs" else path / "rootfs"
    target.write_text(rootfs)
    if target != path / "rootfs":
        (path / "rootfs").symlink_to(target)
    if what == "link above":
        (shared / "conf/root").symlink_to(small)
        (scanning.root / "conf").symlink_to(shared / "conf/root")
    scanning.own(shared)
    scanning.own(path)
    path.rename(scanning.sv / "web")
    is_refused = what not in {"rootfs", "own data"}
    scanning.wait_state("web", "failed" if is_refused else "ready")
    assert ("which the jail may write" in scanning.detail("web").get("fault", "")) == is_refused
    assert ("which the jail may write" in scanning.ljsv("lint", "web", code=None).stdout) == is_refused


def test_files_of_the_supervisor(either: Tree) -> None:
    """control, lock, exit, status and the rest of `supervise`: neither read, nor written, nor made, nor moved, in the service directory or where its symlink leads."""
    real = os.path.realpath(either.sv / "web/supervise")
    results = results_of(start(either, "supervise", real, str(either.sv / "web/supervise")))
    results.pop("END")
    assert len(results) > 150
    assert_refused(results, *CLOSED)
    assert either.state("web") == "ready"


@pytest.mark.parametrize("link", ["relative", "absolute", "the log's"])
def test_supervise_that_lies_elsewhere_in_the_service_directory(scanning: Tree, link: str) -> None:
    """A symlink to a directory beside it: it is covered there, and the commands find it, whatever the working directory."""
    path = scanning.write("web", "while :; do for f in /run/service/.st/* /run/service/.log/env/*; do [ ! -e $f ] || echo seen $f; done; echo looked; sleep 0.1; done")
    (path / ".st").mkdir()
    (path / "supervise").symlink_to(scanning.sv / "web/.st" if link == "absolute" else ".st")
    if link == "the log's":
        (path / ".log/env").mkdir(parents=True)
        (path / ".log/env/SECRET").write_text("secret\n")
        (path / ".log/run").write_text("#!/bin/sh\nexec cat > /run/service/log/all\n")
        (path / "log").symlink_to(".log")
    scanning.own(path)
    path.rename(scanning.sv / "web")
    scanning.wait_state("web", "ready")
    if link != "the log's":
        wait_for(lambda: "looked" in scanning.log("web"), "its word")
        assert "seen" not in scanning.log("web")
    assert scanning.ljsv("status", "web", "-o", "state").stdout == "ready\n"
    assert "it is supervised" in scanning.ljsv("purge", "web", "--yes", code=1).stderr
    assert (scanning.sv / "web/.st/control").is_fifo()


def test_supervise_that_is_the_service_directory_itself(scanning: Tree) -> None:
    """Nothing could keep the jail from its supervisor's control FIFO: refused."""
    path = scanning.write("web")
    (path / "supervise").symlink_to(".")
    scanning.own(path)
    path.rename(scanning.sv / "web")
    scanning.wait_state("web", "failed")
    assert "could steer its supervisor" in scanning.detail("web")["fault"]


def test_log_directory_elsewhere(scanning: Tree) -> None:
    """A `log` that leads out of the service directory, as with runit, may have env/ and supervise/: the jail does not see them, and starts."""
    path = scanning.write("web")
    (path / "log").symlink_to(scanning.root / "elsewhere")
    for name in ("env", "supervise"):
        (scanning.root / "elsewhere" / name).mkdir(parents=True)
    scanning.own(path)
    path.rename(scanning.sv / "web")
    scanning.wait_state("web", "ready")


def test_files_of_the_supervisor_as_root(scanning: Tree) -> None:
    """The same where the supervisor may be root's."""
    results = results_of(start(scanning, "supervise"))
    results.pop("END")
    assert_refused(results, *CLOSED)


def test_read_only_bind(scanning: Tree) -> None:
    """Nothing of the service directory is written, made, moved, linked, or given another mode or time; env is covered."""
    results = results_of(start(scanning, "directory", policy=NEVER, env__SECRET="secret\n"))
    results.pop("END")
    assert len(results) > 60
    assert_refused(results, *CLOSED)
    assert (scanning.sv / "web/env/SECRET").read_text() == "secret\n"
    assert {path.name for path in (scanning.sv / "web").iterdir()} == {"run", "rootfs", "policy", "env", "supervise"}
    assert (scanning.sv / "web/run").stat().st_mode & 0o7777 == 0o755


def test_variables_of_the_log_service(scanning: Tree) -> None:
    """They are for the log service alone, as env/ is for the service."""
    scanning.add("a", "cat /run/service/log/env/* /run/service/env/*; exec sleep 1000", env__MINE="one\n", log__run='#!/bin/sh\necho "told $TOKEN"\nexec cat\n', log__env__TOKEN="two\n")
    scanning.wait_state("a", "ready")
    shown = scanning.ljsv("enter", "a", "sh", "-c", "ls -A /run/service/log/env /run/service/env").stdout
    assert "TOKEN" not in shown and "MINE" not in shown and "env:" in shown


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_lock_on_the_service_directory(either: Tree, kind: str) -> None:
    """A jail that waits for the supervisor's lock on the service directory, and gets it when the supervisor is killed, keeps no new one from coming."""
    start(either, "lock", kind, done="waiting")
    old = either.supervisor_pid("web")
    service = either.pid("web")
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: not is_alive(old), "the supervisor to die")
    time.sleep(0.2)
    try:
        wait_for(lambda: either.supervisor_pid("web") not in {0, old} and is_alive(either.supervisor_pid("web")), "another supervisor: the jail holds its lock", 8)
        assert either.pid("web") == service
        either.ljsv("down", "web")
    finally:
        if is_alive(service):  # or else nobody would end it
            os.kill(service, signal.SIGKILL)
            wait_for(lambda: not is_alive(service), "the jail's end")


def test_leases_do_not_stall_the_supervisor(either: Tree) -> None:
    """A jail with a write lease on the files of its service directory (fcntl, F_SETLEASE): down, restart and other services take no longer than without."""
    answer = start(either, "lease", done="leases", limits="nofile = 77\n", policy=NEVER)
    began, old = time.monotonic(), either.pid("web")
    either.add("other", policy=NEVER)
    either.wait_state("other", "ready")
    done = either.ljsv("restart", "web", code=None, timeout_s=60)
    took = time.monotonic() - began
    assert took < 15, f"it took {took:.0f} s: {answer}"
    assert done.returncode == 0 and either.pid("web") != old, f"{done.stderr}{answer}"
    either.ljsv("down", "web")


def test_own_log(either: Tree) -> None:
    """Whatever a service does with its log's FIFO, a new supervisor carries on and the service can be restarted."""
    start(either, "log", done="log\ttried")
    old, service = either.supervisor_pid("web"), either.pid("web")
    os.kill(old, signal.SIGKILL)
    try:
        wait_for(lambda: either.supervisor_pid("web") not in {0, old} and is_alive(either.supervisor_pid("web")), f"another supervisor: {either.log('web')}", 5)
        count = either.log("web").count("log\ttried")
        either.ljsv("restart", "web")
        wait_for(lambda: either.log("web").count("log\ttried") > count, f"the next run's log: {either.detail('web')}", 8)
    finally:
        if is_alive(service) and not is_alive(either.supervisor_pid("web")):  # nobody would end it
            os.kill(service, signal.SIGKILL)
            wait_for(lambda: not is_alive(service), "the jail's end")


def test_pid_one_keeps_its_limits(scanning: Tree) -> None:
    """A jail cannot make its pid 1 unable to tell how the service has ended."""
    start(scanning, "limits", done="limits\ttried", policy=NEVER, seccomp="default")
    detail = scanning.wait_state("web", "down", "failed")
    assert detail["end"] == "7 0", (detail, scanning.log("web"))


def test_nothing_left_in_a_mapped_bind_can_be_reached(scanning: Tree) -> None:
    """`ids = "map"` on a writable bind: as root, what the jail's root writes there is the host's root's."""
    shared = scanning.root / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    jail = Jail(scanning, "default")
    scanning.own(shared)
    rootfs = f'base = "host"\n[[bind]]\nfrom = "{jail.attacks}"\nto = "/attacks"\n[[bind]]\nfrom = "{shared}"\nto = "/shared"\nwritable = true\nids = "map"'
    scanning.add("web", f"{PYTHON} /attacks/setuid.py leave /shared; echo END; exec sleep 1000", rootfs)
    wait_for(lambda: "END" in scanning.log("web") or scanning.state("web") == "failed", "the attack")
    assert "run setuid\tOK '0'" in scanning.log("web"), scanning.log("web")
    left = marked(shared)
    assert not left, "\n".join(left)


def test_purge_of_a_hostile_overlay(scanning: Tree) -> None:
    """What a jail leaves in its overlay is removed all the same: very deep, without rights, full of symlinks to the host's directories, which stay."""
    victim = scanning.root / "victim"
    victim.mkdir()
    (victim / "file").write_text("stays\n")
    victim.chmod(0o777)
    root = small_root(scanning)
    run = f"""#!/bin/sh
cd /
ln -s {victim} /link; ln -s / /whole; ln -s ../../../../../../../../.. /up
mkdir /closed; touch /closed/file; chmod 0 /closed
i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || break; i=$((i+1)); done
ln -s {victim} link; echo END $i
exec sleep 1000
"""
    scanning.add("web", run, f'base = "{root}"\nwritable = "overlay"')
    wait_for(lambda: "END 1500" in scanning.log("web"), f"its doing: {scanning.log('web')}")
    scanning.ljsv("down", "web")
    shutil.rmtree(scanning.sv / "web")
    wait_for(lambda: not scanning.state("web"), "the service to go")
    scanning.ljsv("purge", "web", "--yes", code=None)
    place = scanning.home / f".local/state/ljsv/sv-{scanning.scan_hash()}/web" if scanning.uid else Path(f"/var/lib/ljsv/sv-{scanning.scan_hash()}/web")
    try:
        assert (victim / "file").read_text() == "stays\n"
        assert not place.exists(), sorted(path.name for path in place.rglob("*"))[:5]
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)

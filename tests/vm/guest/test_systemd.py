"""Under a systemd that lives: the units that `ljsv enable-boot` makes, root's and a user's, and a scope of `systemd-run`.

It is PID 1 of a pid namespace and of a control group of its own, as in a container.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, need, wait_for
from tests.integration.chaos.storm import children
from tests.vm.guest.test_limits import CONTROLLERS, HOG, ROOT, remove

BOX = ROOT / "box"
ETC = Path("/etc/systemd/system")
PATIENCE_S = 120
LOG_MAX = 3000
BOOT = (
    "umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs -o mode=755 run /run && "  # /run/systemd tells who is init
    "exec /usr/lib/systemd/systemd --system --unit=story.target --log-target=console --log-level=info"
)


class Systemd:
    """Commands in its namespaces, for the tree's user or for root."""

    def __init__(self, tree: Tree, pid: int) -> None:
        self.tree = tree
        self.pid = pid

    def run(self, *argv: str, uid: int = 0, code: int | None = 0, group: str = "") -> str:
        """Output and errors; the exit code has to be `code`. `group`: in which it begins."""
        enter = ["sh", "-c", f'echo $$ > {BOX}{group}/cgroup.procs && exec "$@"', "sh"] if group else []
        become = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"] if uid else []
        env = self.tree.env | {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
        done = subprocess.run(
            [*enter, "nsenter", "-t", str(self.pid), "-a", *become, *argv], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S,
        )
        said = done.stdout + done.stderr
        if code is not None and done.returncode != code:
            said += (self.tree.root / "systemd.log").read_text()[-LOG_MAX:]
        assert code is None or done.returncode == code, f"{' '.join(argv)}: exit {done.returncode}\n{said}"
        return said

    def show(self, unit: str, name: str, *more: str, uid: int = 0) -> str:
        return self.run("systemctl", *more, "show", "-P", name, unit, uid=uid).strip()

    def group_of(self, directory: str, uid: int) -> str:
        """The control group of a service, as it is seen there."""
        return self.run("sed", "-n", "s/^cgroup //p", f"{directory}/supervise/detail", uid=uid).strip()


@pytest.fixture
def systemd(tree: Tree) -> Iterator[Systemd]:
    """It runs, with nothing but what is asked of it; afterwards everything in its pid namespace is dead."""
    need("systemd-run")
    Path("/etc/machine-id").touch()
    ETC.mkdir(parents=True, exist_ok=True)
    (ETC / "story.target").write_text("[Unit]\nDescription=nothing\n")
    masks = [ETC / path.name for kind in ("sysinit", "timers") for path in Path(f"/usr/lib/systemd/system/{kind}.target.wants").iterdir()]
    for mask in masks:  # what it would do to the machine: empty /tmp, for one
        mask.symlink_to("/dev/null")
    handed_on = ROOT / "cgroup.subtree_control"
    before = handed_on.read_text().split()
    handed_on.write_text(" ".join(f"+{name}" for name in CONTROLLERS))
    BOX.mkdir()
    begin = f"echo $$ > {BOX}/cgroup.procs && exec unshare --cgroup --pid --mount --uts --ipc --fork --kill-child --mount-proc env -i container=story PATH=$PATH sh -c '{BOOT}'"
    with open(tree.root / "systemd.log", "w") as log:
        started = subprocess.Popen(["sh", "-c", begin], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        (pid,) = wait_for(lambda: children(started.pid), "its first process")
        (ROOT / "cgroup.procs").write_text(str(started.pid))  # a group with a process hands nothing on
        found = Systemd(tree, pid)
        wait_for(lambda: "running" in found.run("systemctl", "is-system-running", code=None), "systemd", PATIENCE_S)
        yield found
    finally:
        started.kill()
        started.wait()
        wait_for(lambda: "populated 0" in (BOX / "cgroup.events").read_text(), "all to be dead")
        remove(BOX)
        handed_on.write_text(" ".join(f"-{name}" for name in CONTROLLERS if name not in before))
        for path in (*masks, ETC / "story.target"):
            path.unlink()


def outer_pid(pid: str) -> int:
    """Of a process with this pid in systemd's namespace."""
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended
            numbers = next(line.split()[1:] for line in path.read_text().splitlines() if line.startswith("NSpid:"))
            if len(numbers) > 1 and numbers[1] == pid:
                return int(numbers[0])
    return 0


def check_life(systemd: Systemd, uid: int, *user: str) -> None:
    """Start, a scanner that is killed, an upgrade, the end: the unit's whole life."""

    def show(name: str) -> str:
        return systemd.show("ljsv", name, *user, uid=uid)

    def ljsv(*argv: str) -> str:
        return systemd.run("ljsv", "--svdir", svdir, *argv, uid=uid)

    svdir = show("ExecStart").partition("--svdir ")[2].split()[0]
    source = systemd.tree.write("web", f"trap 'exit 0' TERM\n{HOG}; while :; do sleep 0.1; done", limits='memory = "64M"\npids = 20\n')
    source.rename(f"{svdir}/web")
    systemd.run("systemctl", *user, "daemon-reload", uid=uid)
    systemd.run("systemctl", *user, "start", "ljsv", uid=uid)
    assert show("ActiveState") == "active" and "supervising 1 services" in show("StatusText")
    assert ljsv("wait", "web", "ready", "-w", "60")
    pid, group = ljsv("status", "web", "-o", "pid").strip(), systemd.group_of(f"{svdir}/web", uid)
    assert group.startswith(f"/sys/fs/cgroup{show('ControlGroup')}/") and "not enforced" not in ljsv("status", "web")
    limits = systemd.run("cat", f"{group}/memory.max", f"{group}/pids.max")
    assert limits.split() == [str(64 << 20), "20"]

    scanner = show("MainPID")
    systemd.run("kill", "-KILL", scanner)
    wait_for(lambda: show("MainPID") not in {"0", scanner} and show("ActiveState") == "active", "the next scanner", PATIENCE_S)
    wait_for(lambda: systemd.run("cat", f"{group}/memory.max", f"{group}/pids.max", uid=uid, code=None) == limits, "its limits", PATIENCE_S)
    assert ljsv("status", "web", "-o", "pid,state") == f"{pid}\tready\n" and "not enforced" not in ljsv("status", "web")

    supervisor = ljsv("status", "web", "-o", "supervisor_pid")
    systemd.run("systemctl", *user, "reload", "ljsv", uid=uid)
    assert show("ActiveState") == "active" and ljsv("status", "web", "-o", "pid,state") == f"{pid}\tready\n"
    assert ljsv("status", "web", "-o", "supervisor_pid") != supervisor

    outer = outer_pid(pid)
    assert is_alive(outer)
    systemd.run("systemctl", *user, "stop", "ljsv", uid=uid)
    assert (show("ActiveState"), show("Result")) == ("inactive", "success") and not is_alive(outer)
    assert not show("ControlGroup") or not (BOX / show("ControlGroup").lstrip("/")).exists()


def test_unit_of_the_machine(systemd: Systemd) -> None:
    """Type=notify, Delegate=yes, KillMode=process and Restart=always do what they are for; it is enabled."""
    tree = systemd.tree
    if tree.uid:
        pytest.skip("the machine's unit is root's; the user's is the next story")
    command = Path("/usr/bin/ljsv")
    command.write_text((tree.programs / "ljsv").read_text())
    command.chmod(0o755)
    try:
        said = systemd.run("ljsv", "enable-boot", "--init", "systemd", "--command", str(command))
        assert "systemctl daemon-reload" in said
        systemd.run("systemctl", "daemon-reload")
        assert systemd.run("systemctl", "is-enabled", "ljsv") == "enabled\n"
        check_life(systemd, 0)
    finally:
        command.unlink()
        for path in (ETC / "ljsv.service", ETC / "multi-user.target.wants/ljsv.service"):
            path.unlink(missing_ok=True)
        subprocess.run(["rm", "-r", "/etc/ljsv"], check=True)


@pytest.fixture
def manager(subordinate: None, systemd: Systemd) -> Systemd:
    """A systemd of the user's own, in a group that was delegated to him, as logind has it started."""
    tree = systemd.tree
    runtime = f"/run/user/{tree.uid}"
    systemd.run("install", "-d", "-m", "700", "-o", str(tree.uid), "-g", str(tree.uid), runtime)
    systemd.run(
        "systemd-run", f"--slice=user-{tree.uid}", f"--unit=manager-{tree.uid}", f"--uid={tree.uid}", "-p", "Delegate=yes", "-p", "KillMode=mixed",
        "-E", f"XDG_RUNTIME_DIR={runtime}", "-E", f"HOME={tree.home}", "-E", f"PATH={tree.env['PATH']}", "/usr/lib/systemd/systemd", "--user",
    )
    wait_for(lambda: systemd.run("systemctl", "--user", "is-system-running", uid=tree.uid, code=None).strip() in {"running", "degraded"}, "the user's systemd", PATIENCE_S)
    return systemd


def test_unit_of_a_user(manager: Systemd) -> None:
    """The same, of `enable-boot --user` in the user's own systemd."""
    uid = manager.tree.uid
    manager.run("ljsv", "enable-boot", "--user", uid=uid)
    manager.run("systemctl", "--user", "daemon-reload", uid=uid)
    assert manager.run("systemctl", "--user", "is-enabled", "ljsv", uid=uid) == "enabled\n"
    check_life(manager, uid, "--user")


def test_limits_in_a_scope(manager: Systemd) -> None:
    """`systemd-run --user --scope -p Delegate=yes`: limits of ljexec hold there, and in a tree that is begun there."""
    tree, scope = manager.tree, ("systemd-run", "--user", "--scope", "-q", "-p", "Delegate=yes", "--")
    caller = f"{manager.show(f'manager-{tree.uid}', 'ControlGroup')}/caller"  # else the system's bus would have to move him
    manager.run("sh", "-c", f"cd /sys/fs/cgroup && mkdir .{caller} && chown {tree.uid} .{caller} .{caller}/cgroup.procs")
    said = manager.run(*scope, "ljexec", "--mem", "16", "--", "sh", "-c", HOG, uid=tree.uid, code=137, group=caller)
    assert said.endswith("ljexec: out of memory: it used all of --mem 16\n")
    tree.add("web", limits='memory = "64M"\n')
    manager.run(*scope, "ljsv", "up", "web", "-w", "60", uid=tree.uid, group=caller)
    group = manager.group_of(str(tree.sv / "web"), tree.uid)
    assert manager.run("cat", f"{group}/memory.max") == f"{64 << 20}\n"
    manager.run("ljsv", "exit", "--all", "-w", "60", uid=tree.uid)

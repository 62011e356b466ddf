"""sd_notify on a real socket, and `ljsv enable-boot` for each init, checked by their own programs where there are any."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for

SVDIR = "/etc/ljsv/sv"


# ---- sd_notify


@pytest.fixture
def notified(tree: Tree) -> Iterator[socket.socket]:
    """A socket as systemd's, which the scanner of the tree is told of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = tree.root / "notify"
        listener.bind(str(path))
        os.chmod(path, 0o777)
        listener.settimeout(30)
        tree.env["NOTIFY_SOCKET"] = str(path)
        yield listener


def hear(listener: socket.socket) -> dict[str, str]:
    """One datagram."""
    return dict(line.split("=", 1) for line in listener.recv(4096).decode().splitlines())


def test_scanner_says_ready_reloading_and_stopping(tree: Tree, notified: socket.socket) -> None:
    """Ready when all services are supervised; reloading at upgrade, and ready again; stopping at the end. The same process throughout."""
    tree.add("web")
    scanner = tree.start("ljsv", "scan")
    said = hear(notified)
    assert said["READY"] == "1" and "supervising 1 services" in said["STATUS"]
    pid = int(tree.wait_state("web", "ready")["pid"])
    tree.ljsv("upgrade", "-w", "30")
    said = hear(notified)
    assert said["RELOADING"] == "1" and int(said["MONOTONIC_USEC"]) > 0
    assert hear(notified)["READY"] == "1"
    assert tree.pid("web") == pid and scanner.poll() is None
    tree.ljsv("exit", "--all")
    assert hear(notified)["STOPPING"] == "1"
    assert scanner.wait(30) == 0
    scanner.communicate()


def test_scanner_that_ends_alone_says_so(tree: Tree, notified: socket.socket) -> None:
    """TERM: it is stopping, and the services are not."""
    tree.add("web")
    scanner = tree.start("ljsv", "scan")
    hear(notified)
    pid = int(tree.wait_state("web", "ready")["pid"])
    scanner.send_signal(signal.SIGTERM)
    assert hear(notified) == {"STOPPING": "1", "STATUS": "ending; supervisors and services go on"}
    assert scanner.wait(30) == 0
    scanner.communicate()
    assert tree.pid("web") == pid


def test_scanner_in_the_background_says_nothing(tree: Tree, notified: socket.socket) -> None:
    """It is nobody's main process, and no jail is told of the socket."""
    tree.add("web", "env\nexec sleep 1000")
    tree.ljsv("up", "web")
    wait_for(lambda: "PATH=" in tree.log("web"), "its environment")
    assert "NOTIFY_SOCKET" not in tree.log("web")
    notified.settimeout(0.2)
    with pytest.raises(TimeoutError):
        notified.recv(4096)


# ---- enable-boot


def make_root(tree: Tree, *paths: str) -> Path:
    """A system's root, with what tells its init. How it is called does not count."""
    root = tree.root / "systemd-runit-busybox"
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def root_only(tree: Tree) -> None:
    if tree.uid:
        pytest.skip("a machine's boot is root's")


INITS = {
    "systemd": ("lib/systemd/systemd", "etc/systemd/system/ljsv.service"),
    "openrc": ("sbin/openrc-run", "etc/init.d/ljsv"),
    "inittab": ("etc/inittab", "etc/inittab"),
    "runit": ("etc/runit/2", "etc/sv/ljsv/run"),
}


@pytest.mark.parametrize("init", INITS)
def test_each_init_gets_its_own(tree: Tree, init: str) -> None:
    """Found out by what is there; made once, and not again; nothing of another's is overwritten."""
    root_only(tree)
    mark, path = INITS[init]
    root = make_root(tree, mark)
    argv = ("enable-boot", "--root", str(root), "--command", "/usr/bin/ljsv")
    printed = tree.ljsv(*argv, "--print").stdout
    assert not (root / path).exists() or init == "inittab"
    done = tree.ljsv(*argv)
    assert f"wrote {root / path}" in done.stdout and "to start it now" not in done.stdout  # another system's
    text = (root / path).read_text()
    assert f"--svdir {SVDIR} scan" in text and "/usr/bin/ljsv" in text and "@" not in text
    assert text.strip() in printed
    assert (root / "etc/ljsv/sv").is_dir()
    assert "nothing to do" in tree.ljsv(*argv).stdout and (root / path).read_text() == text
    if init == "inittab":
        assert "lj:2345:respawn:/usr/bin/ljsv --svdir" in text
    else:
        links = [item for item in root.rglob("*") if item.is_symlink()]
        assert len(links) == 1
        assert bool((root / path).stat().st_mode & stat.S_IXUSR) == (init != "systemd")
    (root / path).write_text("of another\n")
    if init != "inittab":
        refused = tree.ljsv(*argv, code=111)
        assert "will not overwrite" in refused.stderr and "--print" in refused.stderr
        assert (root / path).read_text() == "of another\n"


def test_inittab_of_busybox_keeps_its_lines(tree: Tree) -> None:
    """Without runlevels, after what is there; an older line of ours is not doubled."""
    root_only(tree)
    root = make_root(tree, "bin/busybox")
    (root / "sbin").mkdir()
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc").mkdir()
    (root / "etc/inittab").write_text("::sysinit:/etc/rc")
    tree.ljsv("enable-boot", "--root", str(root), "--command", "/usr/bin/ljsv")
    lines = (root / "etc/inittab").read_text().splitlines()
    assert lines[0] == "::sysinit:/etc/rc" and lines[-1] == f"::respawn:/usr/bin/ljsv --svdir {SVDIR} scan"
    refused = tree.ljsv("enable-boot", "--root", str(root), "--command", "/opt/ljsv", code=111)
    assert "there is an older line of ours" in refused.stderr
    assert (root / "etc/inittab").read_text().splitlines() == lines


def test_unit_of_a_package_is_only_enabled(tree: Tree) -> None:
    """Where a package has brought it."""
    root_only(tree)
    root = make_root(tree, "lib/systemd/systemd", "lib/systemd/system/ljsv.service")
    tree.ljsv("enable-boot", "--root", str(root), "--command", "/usr/bin/ljsv")
    assert not (root / "etc/systemd/system/ljsv.service").exists()
    assert os.readlink(root / "etc/systemd/system/multi-user.target.wants/ljsv.service") == "/lib/systemd/system/ljsv.service"


def test_a_link_out_of_the_root_is_not_followed(tree: Tree) -> None:
    """An absolute link in an image is that of the machine which boots it; nor is a link where the new file is prepared."""
    root_only(tree)
    root = make_root(tree, "etc/inittab")
    outside = tree.root / "outside"
    outside.mkdir()
    argv = ("enable-boot", "--root", str(root), "--command", "/usr/bin/ljsv")
    (root / "etc/inittab.ljsv-new").symlink_to(outside / "file")
    tree.ljsv(*argv)
    (root / "etc/init.d").symlink_to(outside)
    refused = tree.ljsv(*argv, "--init", "openrc", code=111)
    assert "will not write outside of the root" in refused.stderr and f"it leads to {outside}" in refused.stderr
    assert list(outside.iterdir()) == []


def test_what_a_user_could_replace_is_not_run_at_boot(tree: Tree) -> None:
    """Root's program by a user's link, or below a user's directory."""
    root_only(tree)
    theirs = tree.root / "theirs"
    (theirs / "bin").mkdir(parents=True)
    (theirs / "ljsv").symlink_to("/bin/true")
    (theirs / "bin/ljsv").write_text("#!/bin/sh\n")
    (theirs / "bin/ljsv").chmod(0o755)
    os.chown(theirs, 12345, 12345)
    for name in ("ljsv", "bin/ljsv"):
        script = f"mount -t tmpfs none /etc && exec ljsv enable-boot --init systemd --command {theirs / name}"
        refused = tree.run("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
        assert refused.returncode == 111, refused.stdout
        assert f"root will not run it at boot: {theirs / name}: {theirs}: belongs to uid 12345" in refused.stderr


def test_what_cannot_be_is_refused(tree: Tree) -> None:
    """An init that is none, a path with a space, an unprivileged caller."""
    root = make_root(tree, "etc/hostname")
    done = tree.ljsv("enable-boot", "--print", "--root", str(root), code=111)
    assert "cannot tell what starts this system" in done.stderr and "--init systemd|openrc|inittab|runit" in done.stderr
    assert "--init: found upstart" in tree.ljsv("enable-boot", "--init", "upstart", code=100).stderr
    assert "cannot be named in a boot file" in tree.ljsv("enable-boot", "--print", "--init", "systemd", "--command", "/opt/my tools/ljsv", code=111).stderr
    if tree.uid:
        done = tree.ljsv("enable-boot", "--init", "systemd", "--root", str(root), "--command", "/usr/bin/ljsv", code=111)
        assert "cannot change how the machine starts" in done.stderr and "--user" in done.stderr


def test_user_unit(tree: Tree) -> None:
    """In the caller's own configuration directory."""
    done = tree.ljsv("enable-boot", "--user")
    unit = tree.home / ".config/systemd/user/ljsv.service"
    assert f"ExecStart={tree.programs}/ljsv --svdir {tree.home}/.config/ljsv/sv scan" in unit.read_text()
    assert (tree.home / ".config/systemd/user/default.target.wants/ljsv.service").resolve() == unit
    assert (tree.home / ".config/ljsv/sv").is_dir() and "loginctl enable-linger" in done.stdout


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_takes_its_units(tree: Tree, user: bool) -> None:  # noqa: FBT001
    """`systemd-analyze verify` has no complaint."""
    need("systemd-analyze")
    unit = tree.root / "ljsv.service"
    argv = ("--user",) if user else ("--init", "systemd", "--command", f"{tree.programs}/ljsv")
    printed = tree.ljsv("enable-boot", "--print", *argv).stdout
    unit.write_text(printed.replace("man:ljsv(1)", "https://example.org/"))
    verify = subprocess.run(["systemd-analyze", *(["--user"] if user else []), "verify", str(unit)], capture_output=True, text=True, env=tree.env | {"XDG_RUNTIME_DIR": str(tree.root)})
    ours = [line for line in verify.stderr.splitlines() if "ljsv" in line]
    assert (verify.returncode, ours) == (0, []), verify.stderr
    for line in ("Type=notify", "Delegate=yes", "KillMode=process", "Restart=always"):
        assert line in printed.splitlines()


def test_scripts_are_shell(tree: Tree) -> None:
    """OpenRC's and runit's: no syntax error."""
    for init in ("openrc", "runit"):
        printed = tree.ljsv("enable-boot", "--print", "--init", init, "--command", "/usr/bin/ljsv").stdout
        for part in printed.split("# /etc/")[1:]:
            script = part.partition("\n")[2]
            assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0, script


def test_real_runit_supervises_the_scanner(tree: Tree) -> None:
    """`sv term` starts the scanner again and no service notices; `sv down` ends all."""
    need("runsv")
    printed = tree.ljsv("enable-boot", "--print", "--init", "runit", "--command", f"{tree.programs}/ljsv", "--svdir", str(tree.sv)).stdout
    folder = tree.root / "runit"
    for part in printed.split("# /etc/sv/ljsv/")[1:]:
        head, _, script = part.partition("\n")
        path = folder / head.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    tree.own(folder)
    tree.add("web")
    runsv = tree.start("runsv", str(folder))
    pid = int(tree.wait_state("web", "ready", timeout_s=60)["pid"])
    scanner = (folder / "supervise/pid").read_text()
    tree.run("sv", "term", str(folder))
    wait_for(lambda: (folder / "supervise/pid").read_text() not in {"", scanner}, "another scanner")
    wait_for(lambda: tree.run("ljsv", "status").returncode == 0, "it to answer")
    assert tree.pid("web") == pid
    tree.run("sv", "-w", "60", "down", str(folder))
    assert tree.state("web") in {"down", ""}
    tree.run("sv", "exit", str(folder))
    runsv.communicate(timeout=30)

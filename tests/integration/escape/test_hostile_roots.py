"""A root directory that was made to harm whoever starts it: nothing outside is read, written or waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Tree
from tests.integration.escape.jail import Jail
from tests.integration.roots import small_root

SECRET = "root:SECRET:0:0:secret:/:/bin/sh\n"


@pytest.fixture
def victim(tree: Tree) -> Path:
    """A directory of the host with a secret, which must neither be seen nor change."""
    path = tree.root / "victim"
    path.mkdir()
    (path / "passwd").write_text(SECRET)
    (path / "shadow").write_text(SECRET)
    tree.own(path)
    (path / "shadow").chmod(0o600)
    return path


def snapshot(path: Path) -> list[tuple[str, int, int, bytes]]:
    return [(str(item), item.lstat().st_mode, item.lstat().st_mtime_ns, item.read_bytes() if item.is_file() else b"") for item in sorted(path.rglob("*"))]


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        for item in sorted(path.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() and not item.is_symlink() else item.unlink()
        path.rmdir()
    make(path)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 30)


def sh(jail: Jail, root: Path, script: str, *options: str) -> tuple[int, str, str]:
    done = jail.tree.run("ljexec", "--seccomp", jail.seccomp, "--root", str(root), *options, "--", "/bin/busybox", "sh", "-c", script, timeout_s=20)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["dev", "proc", "run", "tmp"])
@pytest.mark.parametrize("trick", ["absolute", "relative", "up", "magic", "loop", "file", "fifo", "socket"])
def test_standard_places_that_are_something_else(open_jail: Jail, name: str, trick: str) -> None:
    """/dev, /proc, /run and /tmp as symlinks to the host's places or to /proc/self/fd/N, to themselves, as files: refused by name, at once, and nothing happens there."""
    jail = open_jail
    place = jail.tree.root / "victim"
    place.mkdir()
    jail.tree.own(place)
    root = small_root(jail.tree)
    target = {"absolute": str(place), "relative": f"../../../../../../../..{place}", "up": "../../..", "magic": "/proc/self/fd/7", "loop": name}.get(trick)
    if target:
        replace(root / name, lambda path: path.symlink_to(target))
    else:
        replace(root / name, {"file": Path.touch, "fifo": os.mkfifo, "socket": lambda path: os.mknod(path, 0o140666)}[trick])
    for options in ((), ("--writable", "tmpfs"), ("--rw",)):
        code, out, err = sh(jail, root, "echo ran", *options)
        assert (code, out) == (125, ""), (options, out, err)
        assert f"/{name}" in err
    assert not list(place.iterdir())


PASSWD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "socket": lambda path: os.mknod(path, 0o140666),
    "a gigabyte of nothing": sparse,
    "descriptor": lambda path: path.symlink_to("/proc/self/fd/0"),
    "environment": lambda path: path.symlink_to("/proc/self/environ"),
    "itself": lambda path: path.symlink_to("passwd"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "host's shadow": lambda path: path.symlink_to("../../../../../../../../../../../etc/shadow"),
    "negative ids": lambda path: path.write_text("web:x:-1:-1::/:/bin/sh\n"),
    "large ids": lambda path: path.write_text("web:x:4294967296:4294967296::/:/bin/sh\n"),
    "numbers that are none": lambda path: path.write_text("web:x:٣:²::/:/bin/sh\n", encoding="utf-8"),
    "no lines": lambda path: path.write_bytes(b"\0" * 5000 + b"\xff" * 5000),
    "a long line": lambda path: path.write_bytes(b"web:x:33:33:" + b"a" * (3 << 20) + b":/:/bin/sh\n"),
}


@pytest.mark.parametrize("kind", list(PASSWD))
def test_passwd_that_is_a_trap(open_jail: Jail, kind: str) -> None:
    """It is not waited for, not read beyond a bound, and leads nowhere; root is found without it, a name is not."""
    root = small_root(open_jail.tree)
    replace(root / "etc/passwd", PASSWD[kind])
    look = "grep -w Uid /proc/self/status; echo $HOME $SHELL"  # a program that does not read passwd itself
    code, out, err = sh(open_jail, root, look)
    assert (code, out) == (0, "Uid:\t0\t0\t0\t0\n/ /bin/sh\n"), err
    code, out, err = sh(open_jail, root, look, "--user", "web")
    assert code == 125 and not out, (out, err)
    assert "Traceback" not in err and "SECRET" not in err


@pytest.mark.parametrize("name", ["etc/resolv.conf", "etc/hosts"])
@pytest.mark.parametrize("writable", [(), ("--rw",), ("--writable", "tmpfs")], ids=["read-only", "rw", "tmpfs"])
def test_files_of_ours_in_etc(open_jail: Jail, victim: Path, name: str, writable: tuple[str, ...]) -> None:
    """resolv.conf and hosts as symlinks to places outside, there or not: nothing is made or covered outside."""
    before = snapshot(victim)
    root = small_root(open_jail.tree)
    for target in (
        f"{victim}/new", f"../../../../../../../../..{victim}/new", f"{victim}/shadow", f"../../../../../..{victim}/shadow", "/proc/self/fd/7/new", "/proc/1/root/new",
        f"/proc/self/cwd/..{victim}/new", "/dev/null", "resolv.conf", "/proc/sys/kernel/core_pattern", "/run/service/../../../x", "/proc/self/environ",
    ):
        replace(root / name, lambda path, target=target: path.symlink_to(target))
        code, out, err = sh(open_jail, root, "echo ran", *writable)
        assert (code, out) in {(0, "ran\n"), (125, "")}, (target, code, out, err)
        assert "Traceback" not in err
        assert snapshot(victim) == before, target
        assert not (victim / "new").exists()
    replace(root / name, Path.touch)
    assert sh(open_jail, root, "echo ran", *writable)[:2] == (0, "ran\n")


def test_etc_that_leads_outside(open_jail: Jail, victim: Path) -> None:
    """/etc itself is a symlink to the host's: what is bound there, and who is looked up there, is found in the root alone."""
    before = snapshot(victim)
    root = small_root(open_jail.tree)
    for target in (str(victim), f"../../../../../../..{victim}", "/proc/self/fd/8", "/proc/1/root/etc", "../../../../etc"):
        replace(root / "etc", lambda path, target=target: path.symlink_to(target))
        for options in ((), ("--rw",), ("--writable", "tmpfs")):
            code, out, err = sh(open_jail, root, "cat /etc/passwd /etc/shadow; echo ran", *options)
            assert code in {0, 125}, err
            assert "SECRET" not in out + err and "daemon" not in out
            assert snapshot(victim) == before


def test_binds_through_symlinks_of_the_root(open_jail: Jail, victim: Path) -> None:
    """The place of a bind or a tmpfs is a symlink to the host's, or to another process's: it goes to the root's own, or is refused; the host's stays."""
    jail = open_jail
    before = snapshot(victim)
    root = small_root(jail.tree)
    shared = jail.tree.root / "shared"
    shared.mkdir()
    (shared / "content").write_text("shared\n")
    shared.chmod(0o755)
    for target in (str(victim), f"../../../../../../..{victim}", "/proc/self/fd/7", "/proc/1/root", "/proc/sys", "..", "/dev/../.."):
        for place in ("srv", "deep"):
            replace(root / place, lambda path, target=target: path.symlink_to(target))
        for options in (("--bind", f"{shared}:/srv:rw"), ("--bind", f"{shared}:/deep/er/and/deeper"), ("--tmpfs", "/srv"), ("--tmpfs", "/deep/er")):
            for writable in ((), ("--rw",), ("--writable", "tmpfs")):
                code, out, err = sh(jail, root, f"cat {victim}/passwd; echo ran", *options, *writable)
                assert code in {0, 125}, (target, options, err)
                assert "SECRET" not in out and "Traceback" not in err
                assert snapshot(victim) == before, (target, options)
    assert not os.path.ismount(victim)


def test_extended_attributes_of_an_overlay(jail: Jail, victim: Path) -> None:
    """A base whose user.overlay.* attributes say that its files are elsewhere: they are not followed."""
    root = small_root(jail.tree)
    (root / "moved").mkdir()
    (root / "file").write_text("plain\n")
    try:
        for name, value in (("redirect", f"/../../../../..{victim}"), ("opaque", "y"), ("metacopy", "")):
            os.setxattr(root / "moved", f"user.overlay.{name}", value.encode())
            os.setxattr(root / "file", f"user.overlay.{name}", (f"{victim}/passwd" if name == "redirect" else value).encode())
    except OSError as error:
        pytest.skip(f"this file system has no user attributes: {error}")
    jail.tree.own(root)
    for options in (("--writable", "tmpfs"), ("--overlay-dir", str(jail.tree.root / "overlay")), ("--tmpfs", "/lacking")):
        code, out, err = sh(jail, root, "cat /file /moved/passwd; echo more >> /file; cat /file; echo ran", *options)
        assert "SECRET" not in out, (options, out)
        assert code in {0, 125}, err
    assert (root / "file").read_text() == "plain\n"

"""`ljexec`: every option, every wrong combination, exit codes, signals, and what is left when it dies."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import SUBORDINATE, Tree, find_executed, need, wait_for
from tests.integration.chaos.strace import needs_strace, standing_still
from tests.integration.roots import make_image, small_root


@pytest.fixture
def root(tree: Tree) -> Path:
    return small_root(tree)


def run(tree: Tree, *argv: str, **options: object) -> str:
    """What the jail's program wrote; it has to succeed."""
    done = tree.run("ljexec", *argv, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the original's options


def test_root_is_read_only(tree: Tree, root: Path) -> None:
    """`ljexec --root DIR --exec "/bin/sh"`: word for word; nothing in DIR changes."""
    done = tree.run("ljexec", "--root", str(root), "--exec", "/bin/sh -c 'cat /etc/passwd; touch /x'")
    assert "web:x:33" in done.stdout
    assert "Read-only file system" in done.stderr
    assert not (root / "x").exists()


def test_exec_is_a_shell_by_default(tree: Tree, root: Path) -> None:
    """Without --exec and -- it is /bin/sh, reading its standard input."""
    with open(root / "script", "w") as file:
        file.write("echo from standard input\n")
    with open(root / "script") as file:
        assert run(tree, "--root", str(root), stdin=file) == "from standard input\n"


def test_rw_writes_into_the_root_itself(tree: Tree, root: Path) -> None:
    """--rw; files are their owner's on disk, as root too."""
    run(tree, "--root", str(root), "--rw", "--", "sh", "-c", "echo new > /made; mkdir /dir; chmod 750 /dir")
    assert (root / "made").read_text() == "new\n"
    assert (root / "made").stat().st_uid == tree.uid
    assert (root / "dir").stat().st_mode & 0o777 == 0o750


def test_overlay_keeps_changes_beside_the_root(tree: Tree, root: Path) -> None:
    """--overlay-dir with upper/ and work/; the root is not touched; a second jail at the same time is refused."""
    overlay = tree.root / "my-overlay"
    command = ("--root", str(root), "--overlay-dir", str(overlay), "--", "sh", "-c")
    run(tree, *command, "echo kept > /kept; rm /bin/grep; mv /etc/passwd /etc/moved; rmdir /tmp/x 2>/dev/null; exit 0")
    assert run(tree, *command, "cat /kept; ls /bin/grep /etc/passwd 2>/dev/null; cat /etc/moved | wc -l") == "kept\n2\n"
    assert (overlay / "upper/kept").exists() and (overlay / "work").is_dir()
    assert not (root / "kept").exists() and (root / "bin/grep").exists()
    assert overlay.stat().st_mode & 0o777 == 0o700
    first = tree.start("ljexec", *command, "echo runs; exec sleep 1000")
    assert first.stdout is not None
    assert first.stdout.readline() == "runs\n"
    second = tree.run("ljexec", *command, "true")
    assert second.returncode == 125
    assert "another jail uses it" in second.stderr
    first.kill()
    first.communicate()
    wait_for(lambda: tree.run("ljexec", *command, "true").returncode == 0, "the overlay to be free")


def test_limits_hold_or_it_is_said_why_not(tree: Tree, root: Path) -> None:
    """--mem, --cpu and --pids: the jail runs; what does not hold is named on standard error, with the reason."""
    done = tree.run("ljexec", "--root", str(root), "--mem", "512", "--cpu", "25", "--pids", "10", "--", "echo", "ran")
    assert done.stdout == "ran\n"
    has_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    for option in ("--mem", "--cpu", "--pids"):
        assert has_v2 or option in done.stderr
    for line in done.stderr.splitlines():
        assert line.startswith(("ljexec: not enforced: --", "  hint: "))


# ---- more of its own


def test_command_after_two_dashes(tree: Tree) -> None:
    """Words as they are: no splitting, no shell."""
    assert run(tree, "--", "printf", "%s|", "a b", "$HOME", "--root") == "a b|$HOME|--root|"


def test_binds(tree: Tree, root: Path) -> None:
    """Read-only unless rw; files and directories; places that the root lacks; a source that is not there is refused."""
    shared = tree.root / "shared"
    shared.mkdir()
    (shared / "file").write_text("content\n")
    (tree.root / "one").write_text("content\n")
    tree.own(shared)
    shared.chmod(0o777)
    command = ("--root", str(root), "--bind", f"{shared}:/srv/ro", "--bind", f"{shared}:/srv/rw:rw", "--bind", f"{tree.root}/one:/etc/one")
    done = tree.run("ljexec", *command, "--", "sh", "-c", "cat /srv/ro/file /etc/one; touch /srv/ro/no; touch /srv/rw/yes && echo written")
    assert done.stdout == "content\ncontent\nwritten\n"
    assert "Read-only file system" in done.stderr
    assert (shared / "yes").exists()
    missing = tree.run("ljexec", "--bind", f"{shared}/none:/srv", "--", "true")
    assert (missing.returncode, "No such file" in missing.stderr, f"{shared}/none" in missing.stderr) == (125, True, True)


def test_tmpfs(tree: Tree, root: Path) -> None:
    """Writable, of its size, gone with the jail."""
    done = tree.run("ljexec", "--root", str(root), "--tmpfs", "/cache:1M", "--", "sh", "-c", "dd if=/dev/zero of=/cache/big bs=64k count=100; echo here > /cache/small; ls /cache")
    assert "No space left" in done.stderr
    assert not (root / "cache").exists()


def test_environment(tree: Tree, root: Path) -> None:
    """Made, not inherited; --env adds; --inherit-env passes the caller's on, --env over it."""
    names = [line.partition("=")[0] for line in run(tree, "--root", str(root), "--env", "COLOUR=blue=x", "--", "env").splitlines()]
    assert sorted(set(names) - {"SHLVL", "PWD", "TERM"}) == ["COLOUR", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]
    text = run(tree, "--root", str(root), "--inherit-env", "--env", "LANG=xx", "--", "env", env={"SECRET": "shown"})
    assert "SECRET=shown" in text and "LANG=xx" in text and "LANG=C.UTF-8" not in text


def test_workdir_hostname_user(tree: Tree, root: Path) -> None:
    """Where it starts, what it is called, who it is."""
    text = run(tree, "--root", str(root), "--workdir", "/etc", "--hostname", "box-7", "--user", "web", "--", "sh", "-c", "pwd; hostname; id -u; id -g; echo $HOME")
    assert text.split() == ["/etc", "box-7", "33", "34", "/tmp"]
    assert run(tree, "--root", str(root), "--user", "7:8", "--", "sh", "-c", "id -u; id -g").split() == ["7", "8"]
    done = tree.run("ljexec", "--root", str(root), "--workdir", "/none", "--", "true")
    assert (done.returncode, "working directory: /none: No such file" in done.stderr) == (125, True)


def test_network(tree: Tree) -> None:
    """none: only a loopback, which is up."""
    assert run(tree, "--net", "none", "--", "sh", "-c", "grep -c : /proc/net/dev").strip() == "1"
    assert run(tree, "--net", "none", "--", "python3", "-c", "import socket; socket.create_server(('127.0.0.1', 0)); print('up')") == "up\n"


def test_capabilities(tree: Tree, root: Path) -> None:
    """+X adds to the default set, -X takes away; SYS_ADMIN is refused."""
    text = run(tree, "--root", str(root), "--cap", "+NET_RAW", "--cap", "-CHOWN", "--", "grep", "CapEff", "/proc/self/status")
    assert int(text.split()[1], 16) == 0x800405FB | 1 << 13 & ~1 or int(text.split()[1], 16) == (0x800405FB | 1 << 13) & ~1
    done = tree.run("ljexec", "--cap", "+SYS_ADMIN", "--", "true")
    assert (done.returncode, "SYS_ADMIN" in done.stderr) == (100, True)


def test_seccomp(tree: Tree, root: Path) -> None:
    """On by default, off when asked."""
    for choice, mode in (("default", "2"), ("off", "0")):
        assert run(tree, "--root", str(root), "--seccomp", choice, "--", "grep", "Seccomp:", "/proc/self/status").split()[1] == mode


def test_json_status(tree: Tree, root: Path) -> None:
    """The program's pid on the host when it runs, its exit code at the end; the descriptor is not the jail's."""
    r, w = os.pipe()
    done = tree.run("sh", "-c", f"exec ljexec --root {root} --json-status-fd {w} -- sh -c 'ls /proc/self/fd; sleep 0.1; exit 3'", pass_fds=(w,))
    os.close(w)
    with open(r) as file:
        first, second = [json.loads(line) for line in file]
    assert first["child-pid"] > 1
    assert first["pid-namespace"] != os.stat("/proc/self/ns/pid").st_ino
    assert second == {"exit-code": 3}
    assert done.returncode == 3
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_explain_changes_nothing(tree: Tree, root: Path) -> None:
    """Every step, no jail: not even the overlay's directory is made."""
    overlay = tree.root / "overlay"
    text = run(tree, "--root", str(root), "--overlay-dir", str(overlay), "--explain")
    for word in ("clone3 with new namespaces: user mount pid ipc uts cgroup", "pivot_root", "no_new_privs", "seccomp filter", "overlay (", "exec /bin/sh"):
        assert word in text
    assert not overlay.exists()


def test_what_is_asked_for_replaces_ours(tree: Tree, root: Path) -> None:
    """A bind at a place of the jail's own, with and without a slash at its end; two at one place are refused."""
    mine = tree.root / "mine"
    mine.write_text("mine\n")
    mine.chmod(0o644)
    assert run(tree, "--bind", f"{mine}:/etc/hosts", "--", "cat", "/etc/hosts") == "mine\n"
    assert run(tree, "--root", str(root), "--bind", f"{mine}:/etc/resolv.conf", "--", "cat", "/etc/resolv.conf") == "mine\n"
    assert run(tree, "--bind", f"{mine}:/dev/null", "--", "cat", "/dev/null") == "mine\n"
    assert run(tree, "--root", str(root), "--tmpfs", "/tmp/", "--bind", f"{mine}:/tmp//x", "--", "cat", "/tmp/x") == "mine\n"
    done = tree.run("ljexec", "--bind", f"{mine}:/x", "--tmpfs", "/x/", "--", "true")
    assert (done.returncode, "at one place: /x" in done.stderr) == (100, True)


def test_places_below_symlinks_of_the_base(tree: Tree, root: Path) -> None:
    """etc and home that are symlinks within the base, as image-based distributions have them; and very deep places."""
    (root / "usretc").mkdir()
    (root / "etc/passwd").rename(root / "usretc/passwd")
    (root / "etc").rmdir()
    (root / "etc").symlink_to("usretc")
    (root / "var").mkdir()
    (root / "home").symlink_to("var/home")
    (root / "var/home").mkdir()
    (tree.root / "mine").write_text("mine\n")
    deep = "/d" * 60
    text = run(tree, "--root", str(root), "--bind", f"{tree.root}/mine:/home/u/file", "--bind", f"{tree.root}/mine:{deep}/file", "--", "sh", "-c", f"cat /home/u/file /var/home/u/file {deep}/file; grep -c . /etc/resolv.conf; cat /etc/passwd | head -1")
    assert text.startswith("mine\nmine\nmine\n")


def test_names_that_are_no_text(tree: Tree, root: Path) -> None:
    """Bytes outside UTF-8 in paths work like others."""
    odd = os.fsencode(tree.root) + b"/odd \xff,:\n"
    os.rename(root, odd)
    done = subprocess.run([str(tree.programs / "ljexec"), "--root", odd, "--", "cat", "/etc/passwd"], capture_output=True, env=tree.env, cwd="/", **tree._as_user())
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(tree.programs / "ljexec"), "--root", odd, "--explain"], capture_output=True, env=tree.env, cwd="/", **tree._as_user())
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(tree.programs / "ljexec"), "--root", odd + b"none", "--", "true"], capture_output=True, env=tree.env, cwd="/", **tree._as_user())
    assert done.returncode == 125
    assert b"Traceback" not in done.stderr
    os.rename(odd, root)


def test_hints_are_about_the_jail(tree: Tree, root: Path) -> None:
    """A path of the jail is never told as one of the host's: where the root is a directory, its place there."""
    (root / "etc/script").write_text("#!/usr/bin/perl\n")
    (root / "etc/script").chmod(0o755)
    (root / "bin/loop").symlink_to("loop")
    for words, told in (
        (["/etc/passwd"], f"chmod a+rx {root}/etc/passwd"), (["/etc/script"], "the jail has no /usr/bin/perl"),
        (["/bin/none"], "looked up in the jail"), (["/bin/loop"], "Too many levels of symbolic links"),
    ):
        done = tree.run("ljexec", "--root", str(root), "--", *words)
        assert told in done.stderr, done.stderr
    for words in (["--exec"], ["--rw=1"]):
        assert "hint: ljexec --help" in tree.run("ljexec", *words).stderr


def test_a_jail_in_a_jail_is_refused_with_a_reason(tree: Tree) -> None:
    """ljexec in ljexec: 125, and said why."""
    inner = ("--bind", f"{tree.programs.parent}:{tree.programs.parent}", "--")
    for seccomp in ("default", "off"):
        done = tree.run("ljexec", "--seccomp", seccomp, *inner, str(tree.programs / "ljexec"), "--", "true")
        assert done.returncode == 125, done.stderr
        assert "cannot make namespaces" in done.stderr and "hint:" in done.stderr


def test_root_of_a_user_namespace_is_no_root(tree: Tree) -> None:
    """As in a rootless container: one id, as for any user."""
    if not tree.uid:
        pytest.skip("root has its own: needs an unprivileged user")
    done = tree.run("unshare", "--user", "--map-root-user", "ljexec", "--", "cat", "/proc/self/uid_map")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[2] == "1"


def test_nohup_is_kept(tree: Tree) -> None:
    """What the caller ignores, stays ignored: for ljexec and for the program."""
    jail = tree.start("sh", "-c", "trap '' HUP; exec ljexec -- sh -c 'echo ready; sleep 0.5; echo lived'")
    assert jail.stdout is not None
    assert jail.stdout.readline() == "ready\n"
    jail.send_signal(signal.SIGHUP)
    assert jail.communicate(timeout=20)[0] == "lived\n"
    assert jail.returncode == 0


# ---- ids


def test_range_of_ids(tree: Tree, root: Path) -> None:
    """`--ids range`: many ids inside; unprivileged those of /etc/subuid, or an error that names what is missing."""
    need("newuidmap")
    done = tree.run("ljexec", "--root", str(root), "--ids", "range", "--", "sh", "-c", "cat /proc/self/uid_map; touch /tmp/x; chown 33:34 /tmp/x; stat -c %u:%g /tmp/x")
    if tree.uid and not has_subordinate_ids(tree.uid):
        assert done.returncode == 125
        assert "no subordinate ids: /etc/subuid" in done.stderr or "no entry in passwd" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "33:34"
    assert sum(int(line.split()[2]) for line in lines[:-1]) > 1000
    assert run(tree, "--root", str(root), "--ids", "range", "--user", "web", "--", "id", "-u").strip() == "33"


def has_subordinate_ids(uid: int) -> bool:
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{uid}:") for line in lines)


@pytest.mark.usefixtures("subordinate")
def test_subordinate_range(tree: Tree, root: Path) -> None:
    """0 is the caller, 1 and up his subordinate ids; files of theirs are kept in an overlay, and can be deleted by purge."""
    overlay = tree.root / "overlay"
    command = ("--root", str(root), "--ids", "range", "--overlay-dir", str(overlay), "--", "sh", "-c")
    assert run(tree, *command, "mkdir /d; touch /d/f; chown -R 33:34 /d; chmod 700 /d; stat -c %u:%g /d/f").strip() == "33:34"
    assert (overlay / "upper/d").stat().st_uid == SUBORDINATE + 32
    assert run(tree, *command, "stat -c %u:%g /d/f").strip() == "33:34"


def test_a_base_whose_ids_cannot_be_mapped(tree: Tree, root: Path) -> None:
    """As root on an overlay mount, which no kernel maps: shown as nobody's and said so; to be written, refused. Never the real root."""
    if tree.uid:
        pytest.skip("what root gets: needs root")
    for name in ("upper", "work", "merged"):
        (tree.root / name).mkdir()
    merged = tree.root / "merged"
    mounted = f"mount -t overlay -o lowerdir={root},upperdir={tree.root}/upper,workdir={tree.root}/work overlay {merged} && exec ljexec --root {merged} "
    in_namespace = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    done = tree.run(*in_namespace, mounted + "-- sh -c 'cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /x'")
    assert int(done.stdout.split()[1]) >= 0x7000_0000
    assert done.stdout.split()[3] == "65534"
    assert "ids not mapped" in done.stderr and "Read-only" in done.stderr
    refused = tree.run(*in_namespace, mounted + "--rw -- true")
    assert refused.returncode == 125
    assert "cannot id-map the base" in refused.stderr and "never the real root" in refused.stderr


def test_root_is_never_the_real_root(tree: Tree, root: Path) -> None:
    """As root --ids one is refused; every process of the jail has shifted ids."""
    if tree.uid:
        pytest.skip("what root gets: needs root")
    assert tree.run("ljexec", "--ids", "one", "--", "true").returncode == 100
    for extra in ((), ("--user", "web"), ("--rw",), ("--overlay-dir", str(tree.root / "o"))):
        outside = int(run(tree, "--root", str(root), *extra, "--", "cat", "/proc/self/uid_map").split()[1])
        assert outside >= 0x7000_0000


# ---- wrong use


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--root", "/", "--image", "/x"], "either --root or --image"),
        (["--rw"], "--rw goes only with --root"),
        (["--image", "/x", "--rw"], "an image is never written"),
        (["--root", "/", "--rw", "--overlay-dir", "/x"], "either --rw or --overlay-dir"),
        (["--overlay-dir", "/x"], "--overlay-dir goes with --root or --image"),
        (["--root", "/", "--writable", "tmpfs", "--rw"], "--writable goes without"),
        (["--exec", "true", "--", "true"], "either --exec or --"),
        (["true"], "unexpected word 'true'"),
        (["echo", "--", "hi"], "unexpected word 'echo'"),
        (["--exec", "'"], "cannot be split"),
        (["--exec", ""], "names no program"),
        (["--mem", "0"], "--mem wants"),
        (["--mem", "12.5"], "--mem wants"),
        (["--mem", "lots"], "--mem wants"),
        (["--cpu", "-5"], "--cpu wants"),
        (["--cpu", "."], "--cpu wants"),
        (["--pids", "x"], "--pids wants"),
        (["--net", "bridge"], "--net wants host or none"),
        (["--ids", "many"], "--ids wants one or range"),
        (["--seccomp", "none"], "--seccomp wants default or off"),
        (["--bind", "/etc"], "--bind wants"),
        (["--bind", "/etc:relative"], "--bind wants"),
        (["--bind", "/etc:/x:wr"], "--bind wants"),
        (["--bind", "/etc:/a/../b"], "--bind wants"),
        (["--tmpfs", "x"], "--tmpfs wants"),
        (["--tmpfs", "/x:12"], "--tmpfs wants"),
        (["--env", "NAME"], "--env wants"),
        (["--cap", "+NONE"], "--cap wants"),
        (["--workdir", "relative"], "--workdir wants"),
        (["--hostname", "a b"], "--hostname wants"),
        (["--root", ""], "--root wants"),
        (["--root", "/a", "--root", "/b"], "--root is given twice"),
        (["--json-status-fd", "99"], "--json-status-fd wants"),
        (["--nonsense"], "unknown option --nonsense"),
        (["--rw=yes"], "--rw takes no value"),
        (["--image"], "--image wants FILE"),
    ],
)
def test_wrong_use_is_refused(tree: Tree, words: list[str], told: str) -> None:
    """Exit 100, what is wrong, and a hint."""
    done = tree.run("ljexec", *words)
    assert done.returncode == 100, done.stderr
    assert told in done.stderr
    assert "hint:" in done.stderr
    assert not done.stdout


def elf(loader: str, start: int = 64, *, claims: bytes = b"\x02\x01", before: int = 0) -> bytes:
    """A program of 64 bits with one header that names that loader, after `before` empty ones; of the class and byte order that it `claims`."""
    text = loader.encode() + b"\0"
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF" + claims + b"\x01", 3, 62, 1, 0x1000, start, 0, 0, 64, 56, before + 1, 0, 0, 0)
    entry = struct.pack("<IIQQQQQQ", 3, 4, 120 + 56 * before, 0, 0, len(text), len(text), 1)
    return header + b"\0" * 56 * before + entry + text + b"\0" * 4096


def elf_32(loader: str) -> bytes:
    """The same for i386, which says that it is of 64 bits."""
    text = loader.encode() + b"\0"
    header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 3, 1, 0x1000, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return header + struct.pack("<IIIIIIII", 3, 84, 0, 0, len(text), len(text), 4, 1) + text + b"\0" * 4096


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        (elf("/no/loader"), 127, "the jail has no /no/loader"),
        (elf("/proc/self/exe"), 126, "it leads through /proc out of the jail"),
        (elf("/proc/self/exe", claims=b"\x01\x01"), 126, "it leads through /proc out of the jail"),
        (elf("/proc/self/exe", claims=b"\x02\x02"), 126, "it leads through /proc out of the jail"),
        (elf("/proc/self/exe", before=1000), 126, "it leads through /proc out of the jail"),
        (elf_32("/proc/self/exe"), 126, "it leads through /proc out of the jail"),
        (elf("x", 1 << 63), 126, "Exec format error"),
    ],
    ids=["missing", "magic", "magic, claims 32 bits", "magic, claims the other byte order", "magic, the last of many", "magic of 32 bits", "nonsense"],
)
def test_the_loader_of_a_program(tree: Tree, root: Path, program: bytes, code: int, told: str) -> None:
    """It is opened by the kernel like the program itself: never the host's Python (CVE-2019-5736), and named where it is missing."""
    (root / "bin/program").write_bytes(program)
    (root / "bin/program").chmod(0o755)
    done = tree.run("ljexec", "--root", str(root), "--", "/bin/program")
    assert done.returncode == code and told in done.stderr, done


def test_nothing_is_looked_up_where_the_jail_may_write(tree: Tree, root: Path) -> None:
    """A bind, a base, an overlay below a writable bind could be a symlink of the jail's making at the next start (CVE-2017-1002101): refused."""
    outer, link = tree.root / "outer", tree.root / "link"
    for name in ("bind", "base", "overlay"):
        (outer / name).mkdir(parents=True)
    link.symlink_to(outer)
    tree.open_fuse()
    image = str(tree.root / "root.squashfs")
    subprocess.run(["mksquashfs", str(root), image, "-quiet", "-noappend", "-no-progress", "-all-root"], check=True, capture_output=True)
    os.chown(image, tree.uid, tree.uid)
    for name in ("bind", "base", "overlay"):
        (tree.root / f"to-{name}").symlink_to(outer / name)
    (outer / "to-root").symlink_to(root)
    (outer / "to-image").symlink_to(image)
    tree.own(outer)
    writable = ("--bind", f"{outer}:/outer:rw")
    for options in (
        ("--bind", f"{outer}/bind:/bind"), ("--bind", f"{link}/bind:/bind"), ("--root", f"{outer}/base"),
        ("--root", str(root), "--overlay-dir", f"{outer}/overlay"),
        ("--bind", f"{tree.root}/to-bind:/bind"), ("--root", f"{tree.root}/to-base"), ("--root", f"{outer}/to-root"), ("--image", f"{outer}/to-image"),
        ("--root", str(root), "--overlay-dir", f"{tree.root}/to-overlay"), ("--root", str(root), "--overlay-dir", str(outer)),
    ):
        done = tree.run("ljexec", *writable, *options, "--", "/bin/true")
        assert done.returncode == 125 and "which the jail may write, and could put something else in its place" in done.stderr, done
    assert "cannot trust the path" in tree.run("ljexec", "--root", str(root), "--rw", "--bind", f"{root}/etc:/tmp/etc", "--", "/bin/true").stderr
    own = ("--root", str(root), "--overlay-dir", f"{tree.root}/own")
    assert tree.run("ljexec", *own, "--", "/bin/mkdir", "/made").returncode == 0
    assert "cannot trust the path" in tree.run("ljexec", *own, "--bind", f"{tree.root}/own/upper/made:/tmp/made", "--", "/bin/true").stderr
    assert "cannot trust the path" in tree.run("ljexec", "--image", image, "--bind", f"{image}:/image:rw", "--", "/bin/true").stderr
    assert tree.run("ljexec", *writable, "--bind", f"{outer}:/again", "--bind", f"{root}:/root", "--", "/bin/true").returncode == 0


def test_whatever_is_renamed_meanwhile(tree: Tree, root: Path) -> None:
    """The kernel gives a path with ".." up where anything on the machine is renamed just then: it is asked again."""
    (root / "etc/passwd").rename(root / "pw")
    (root / "etc/passwd").symlink_to("../pw")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    moving = "import os,sys\na, b = sys.argv[1] + 'a', sys.argv[1] + 'b'\nopen(a, 'w')\nwhile True: os.rename(a, b); os.rename(b, a)"
    mover = subprocess.Popen([sys.executable, "-c", moving, f"{tree.root}/moved-"])
    try:
        for _ in range(40):
            assert run(tree, "--root", str(root), "--user", "web", "--", "/bin/id", "-u").strip() == "33"
    finally:
        mover.kill()
        mover.wait()


def test_a_lock_on_its_image(tree: Tree) -> None:
    """Whoever may read an image can lock it: that keeps no jail from starting."""
    tree.open_fuse()
    image = make_image(tree)
    with open(image, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(tree, "--image", str(image), "--", "/bin/echo", "runs") == "runs\n"


def test_a_umask_that_forbids_all(tree: Tree, root: Path) -> None:
    """The overlay's directory is its owner's, for this run and the next."""
    overlay = tree.root / "made/overlay"
    script = f"umask 0777; exec ljexec --root {root} --overlay-dir {overlay} -- /bin/touch /kept"
    for _ in range(2):
        assert tree.run("sh", "-c", script).returncode == 0
    assert overlay.stat().st_mode & 0o7777 == 0o700 and (overlay / "upper/kept").exists()


def test_a_working_directory_that_is_gone(tree: Tree) -> None:
    """A relative path leads nowhere then, which is told; an absolute one does."""
    script = f"mkdir {tree.root}/gone; cd {tree.root}/gone; rmdir {tree.root}/gone; ljexec --bind x:/x -- true; echo $?; ljexec -- echo runs"
    done = tree.run("sh", "-c", script)
    assert done.stdout == "125\nruns\n" and "the working directory is gone" in done.stderr, done


def test_inherited_environment_is_the_callers(tree: Tree) -> None:
    """And has nothing that Python has put there for itself."""
    shown = tree.run("env", "-i", f"PATH={tree.env['PATH']}", "ONE=1", "ljexec", "--inherit-env", "--", "/usr/bin/env").stdout.splitlines()
    assert "ONE=1" in shown and not [line for line in shown if line.startswith("LC_")]


def test_exit_codes(tree: Tree, root: Path) -> None:
    """The program's own; 128+N; 127 not found; 126 not executable; 125 the jail could not be built."""
    (root / "etc/noexec").write_text("#!/bin/sh\n")
    (root / "etc/nosuch").write_text("#!/no/such/interpreter\n")
    (root / "etc/nosuch").chmod(0o755)
    for words, code in (
        (["sh", "-c", "exit 9"], 9), (["sh", "-c", "kill -KILL $$"], 137), (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-program"], 127), (["/bin/none"], 127), (["/etc/noexec"], 126), (["/etc"], 126), (["/etc/nosuch"], 127),
    ):
        assert tree.run("ljexec", "--root", str(root), "--", *words).returncode == code, words
    for words in (["--root", "/no/such"], ["--root", str(root / "etc/passwd")], ["--user", "nobody-here"], ["--root", str(root), "--bind", "/none:/x"]):
        done = tree.run("ljexec", *words, "--", "true")
        assert done.returncode == 125, done.stderr
        assert "hint:" in done.stderr


# ---- its life


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT])
def test_signals_are_passed_on(tree: Tree, number: signal.Signals) -> None:
    """To the program, which decides."""
    jail = tree.start("ljexec", "--", "sh", "-c", f"trap 'echo got; exit 40' {number.name[3:]}; echo ready; while :; do sleep 0.05; done")
    assert jail.stdout is not None
    assert jail.stdout.readline() == "ready\n"
    jail.send_signal(number)
    text, _ = jail.communicate(timeout=20)
    assert (text, jail.returncode) == ("got\n", 40)


def test_what_it_started_dies_with_it(tree: Tree, root: Path) -> None:
    """KILL of ljexec: the jail is gone, double-forked children with it."""
    jail = tree.start("ljexec", "--root", str(root), "--", "sh", "-c", "(sleep 1000 &) ; echo runs; exec sleep 1001")
    assert jail.stdout is not None
    assert jail.stdout.readline() == "runs\n"
    jail.kill()
    jail.communicate(timeout=20)
    wait_for(lambda: not tree.processes(), "the jail to die")


@needs_strace
def test_killed_while_its_first_process_changes_ids(tree: Tree) -> None:
    """A change of ids takes away the signal at a parent's death, and the word to go on is there already: it looks whether anybody is left."""
    if tree.uid:
        return  # who has one id has none to change
    mark = f"/bin/sleep 3{os.getpid()}"
    with standing_still(tree, tree.uid, "setresuid", "exit", str(tree.programs / "ljexec"), "--", *mark.split()) as pid:
        time.sleep(0.5)  # until it was told to go on
        os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            assert not find_executed(mark)
            time.sleep(0.2)


def test_end_of_the_program_is_the_end_of_the_jail(tree: Tree, root: Path) -> None:
    """Its children do not keep it alive."""
    assert run(tree, "--root", str(root), "--", "sh", "-c", "sleep 1000 & echo done") == "done\n"
    wait_for(lambda: not tree.processes(), "its child to die")


def test_closed_standard_descriptors(tree: Tree) -> None:
    """Started without standard input or error, no file of ours takes its place."""
    done = tree.run("sh", "-c", "exec ljexec -- ls -l /proc/self/fd <&- 2>&-")
    assert done.returncode == 0
    assert done.stdout.count("/dev/null") == 2


def test_many_jails_leak_nothing(tree: Tree, root: Path, pytestconfig: pytest.Config) -> None:
    """From one warm process, 200 (`--long`: 1,000): descriptors, memory, mounts and children are what they were."""
    number = "1000" if pytestconfig.getoption("long") else "200"
    program = tree.root / "warm.py"
    program.write_text(WARM)
    python = str(tree.programs / "python")
    done = tree.run(python, "-I", str(program), str(root), number, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (json.loads(line) for line in done.stdout.splitlines())
    assert after["fds"] == before["fds"]
    assert after["mounts"] == before["mounts"]
    assert after["children"] == before["children"] == ""
    assert after["rss_kb"] < before["rss_kb"] + 1024


WARM = """
import json, os, sys
from select import poll, POLLIN
from ljsv.jail import builder, launch
from ljsv.jail.ids import take_ids
from ljsv.jail.spec import DIRECTORY, OVERLAY, TMPFS, JailSpec

def run_jail(number):
    writable = ("no", TMPFS, OVERLAY)[number % 3]
    overlay = os.path.dirname(sys.argv[1]) + "/overlay" if writable == OVERLAY else ""
    spec = JailSpec("warm", DIRECTORY, sys.argv[1], ("/bin/true",), writable=writable, overlay=overlay)
    ids, slot_fd = take_ids("warm")
    null_fd = os.open("/dev/null", os.O_RDWR)
    jail = launch.begin(spec, ids, builder.Wiring(null_fd, null_fd, 2, held_fds=(slot_fd,)))
    for fd in (null_fd, slot_fd):
        if fd >= 0:
            os.close(fd)
    poller = poll()
    poller.register(jail.channel_fd, POLLIN)
    has_gone = False
    while poller.poll(20000) and jail.read_report():
        if jail.service_pid and not has_gone:
            jail.give_go()
            has_gone = True
    assert not jail.failure, jail.failure
    assert os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED).si_status == 0
    jail.close()
    os.close(jail.pidfd)

def look():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps({"fds": sorted(os.listdir("/proc/self/fd")), "mounts": len(open("/proc/self/mountinfo").readlines()),
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(), "rss_kb": int(status["VmRSS"].split()[0])}))

for number in range(60):
    run_jail(number)
look()
for number in range(int(sys.argv[2])):
    run_jail(number)
look()
"""


# ---- what is told is what is done


MOUNT_CALLS = "open_tree,move_mount,fsopen,fsmount,mount_setattr,mount,umount2,pivot_root"


@pytest.mark.parametrize("writable", ["no", "tmpfs", "overlay", "rw", "host"])
def test_the_mount_calls_are_those_that_explain_prints(tree: Tree, root: Path, writable: str) -> None:
    """strace of the mount family: as many of each call as the printed steps take, and no other."""
    need("strace")
    options = {"no": [], "tmpfs": ["--writable", "tmpfs"], "overlay": ["--overlay-dir", str(tree.root / "o")], "rw": ["--rw"], "host": []}[writable]
    base = [] if writable == "host" else ["--root", str(root)]
    command = ["ljexec", *base, *options, "--tmpfs", "/tmp/cache", "--bind", "/usr/share:/tmp/share", "--seccomp", "off"]
    told = tree.run(*command, "--explain").stdout.splitlines()
    trace = tree.root / "trace"
    done = tree.run("strace", "-f", "-qq", "-e", f"trace={MOUNT_CALLS}", "-o", str(trace), *command, "--", "/bin/true")
    assert done.returncode == 0, done.stderr
    calls = [line.split("(", 1)[0].split()[-1] for line in trace.read_text().splitlines() if "(" in line and " = " in line and " = -1" not in line]
    wanted: dict[str, int] = dict.fromkeys(MOUNT_CALLS.split(","), 0)
    probes = 0 if tree.uid else (1 if base else 0) + (1 if writable == "overlay" else 0)  # root tries whether ids can be mapped
    wanted["open_tree"] += probes
    wanted["mount_setattr"] += probes
    for line in told:
        for call in calls_of(line):
            wanted[call] += 1
    assert {call: calls.count(call) for call in wanted} == wanted, "\n".join(told)


def calls_of(line: str) -> tuple[str, ...]:
    """The mount-family calls of one printed step."""
    words = line.split()
    if words[0] == "copy":
        return ("open_tree", "mount_setattr")
    if words[0] in {"attach", "bind"}:
        return ("move_mount",)
    if words[0] in {"tmpfs", "devpts", "proc"}:
        return ("fsopen", "fsmount", "move_mount")
    if words[0] == "overlay":
        return ("mount",)
    if words[0] == "cover" or (words[0] == "make" and line.endswith("read-only") and words[1] != "/"):
        return ("open_tree", "mount_setattr", "move_mount")
    if line == "make / read-only":
        return ("mount_setattr",)
    if words[0].startswith("pivot_root"):
        return ("pivot_root", "umount2")
    return ()


def test_a_service_has_the_mounts_that_explain_prints(scanning: Tree, root: Path) -> None:
    """The steps of `ljexec --explain` for the same rootfs and those of its directory; each mount in the jail is a printed one."""
    scanning.add("a", "#!/bin/sh\nexec sleep 1000", f'base = "{root}"')
    scanning.wait_state("a", "ready")
    told = [line.split(None, 1)[1] for line in scanning.ljsv("explain", "a").stdout.splitlines()[1:]]
    by_hand = scanning.run("ljexec", "--root", str(root), "--explain").stdout.splitlines()
    own = {line for line in told if line not in by_hand}
    assert all(f"{scanning.sv}/a" in line or "/run/service" in line or "host name a" in line or line.startswith(("map ids", "exec", "resource limits", "environment")) for line in own), own
    mounts = subprocess.run(["cat", f"/proc/{scanning.pid('a')}/mountinfo"], capture_output=True, text=True, check=True).stdout
    assert len([line for line in told if line.startswith(("attach", "bind", "tmpfs", "devpts", "proc ", "cover", "make /proc"))]) == len(mounts.splitlines()) + 1  # the scratch is gone


def test_a_symlink_through_more_directories_than_anybody_has(tree: Tree, root: Path) -> None:
    """In the base: told by what it is, not by what it does to us."""
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("x/" * 1500 + "x")
    done = tree.run("ljexec", "--root", str(root), "--rw", "--", "/bin/true")
    assert done.returncode == 125 and "more than 200 directories in each other" in done.stderr, done


def test_what_is_mounted_in_the_base(tree: Tree) -> None:
    """A layer above the base has nothing of it: told as root, and refused where the kernel makes no layer of such a base."""
    if os.geteuid():
        pytest.skip("mounting for another user needs root")
    root = small_root(tree)
    (root / "data").mkdir()
    as_user = ["setpriv", "--reuid", str(tree.uid), "--regid", str(tree.uid), "--clear-groups"] if tree.uid else []
    mounted = f"mount -t tmpfs t {root}/data && echo x > {root}/data/file && exec \"$@\""
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", *as_user, "ljexec", "--root", str(root), "--writable", "tmpfs", "--", "sh", "-c", "echo /data/*"]
    done = subprocess.run(command, env=tree.env, capture_output=True, text=True, check=False, timeout=60)
    if tree.uid:
        assert done.returncode == 125 and "something is mounted in it, at /data" in done.stderr
    else:
        assert done.stdout == "/data/*\n" and f"not shown: what is mounted in {root}, at /data" in done.stderr
    plain = [*command[: command.index("--writable")], "--rw", *command[command.index("--") :]]
    done = subprocess.run(plain, env=tree.env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "/data/file\n" and "not shown" not in done.stderr

"""What a service finds in its jail, and what it does not."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.roots import small_root


def ask(tree: Tree, commands: str, rootfs: str = 'base = "host"', **files: str) -> str:
    """What a shell in the jail of a service answers."""
    tree.add("ask", f"{commands}\necho END\nexec sleep 1000", rootfs, **files)
    tree.wait_state("ask", "ready", "failed", "backoff")
    wait_for(lambda: "END" in tree.log("ask") or tree.state("ask") == "failed", f"an answer: {tree.detail('ask')} {tree.log('ask')}")
    assert tree.state("ask") == "ready", tree.detail("ask")
    return tree.log("ask")


@pytest.mark.kernel
def test_ids_are_never_the_real_root(scanning: Tree) -> None:
    """Unprivileged one id, the caller's; as root a range of 65,536, never 0 to 0."""
    text = ask(scanning, "id -u\nread a b c < /proc/self/uid_map\necho map $a $b $c")
    assert "0" in text.splitlines()
    outside = int(next(line for line in text.splitlines() if line.startswith("map")).split()[2])
    count = int(next(line for line in text.splitlines() if line.startswith("map")).split()[3])
    if scanning.uid:
        assert (outside, count) == (scanning.uid, 1)
    else:
        assert outside >= 0x7000_0000 and outside % 65536 == 0 and count == 65536
        assert os.stat(f"/proc/{scanning.pid('ask')}").st_uid == outside


def test_two_jails_of_root_have_different_ids(scanning: Tree) -> None:
    """A slot each."""
    scanning.add("a")
    scanning.add("b")
    owners = {os.stat(f"/proc/{scanning.wait_state(name, 'ready')['pid']}").st_uid for name in ("a", "b")}
    assert len(owners) == (1 if scanning.uid else 2)


def test_host_base_shows_programs_and_no_secrets(scanning: Tree) -> None:
    """/usr and a few files of /etc; no home, no /var, no shadow; nothing of it can be written."""
    text = ask(scanning, "ls /\nls /etc\nfor f in / /usr /etc /proc/sys/kernel/hostname; do test -w $f && echo writable $f; done")
    lines = text.splitlines()
    assert "usr" in lines and "passwd" in lines
    for name in ("home", "root", "var", "boot", "shadow", "ssh"):
        assert name not in lines
    assert "writable" not in text.replace("writable /proc/sys/kernel/hostname", "writable" if "ro" not in text else "")


@pytest.mark.kernel
def test_pid_one_is_closed(scanning: Tree) -> None:
    """Its directory, descriptors and memory cannot be reached from inside."""
    text = ask(scanning, "for f in cwd root exe fd/0 mem; do if cat /proc/1/$f >/dev/null 2>&1 || ls /proc/1/$f/ >/dev/null 2>&1; then echo open $f; fi; done\nls /proc/1/fd 2>&1")
    assert "open" not in text.replace("cannot open", "")
    assert "Permission denied" in text


def test_no_descriptor_of_ours_is_left(scanning: Tree) -> None:
    """0, 1 and 2, and the one that ls opens itself."""
    text = ask(scanning, "ls -1 /proc/self/fd | tr '\\n' ' '; echo")
    assert text.splitlines()[0].split() == ["0", "1", "2", "3"]


@pytest.mark.kernel
def test_hardening(scanning: Tree) -> None:
    """no_new_privs, the default capabilities and no more, no nested user namespaces."""
    text = ask(scanning, "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status\ncat /proc/sys/user/max_user_namespaces\nunshare -U true && echo nested\nmount -t tmpfs x /tmp && echo mounted")
    values = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert values["NoNewPrivs"] == "1"
    assert values["CapEff"] == values["CapBnd"] == "00000000800405fb"
    assert "nested" not in text and "mounted" not in text
    assert "0" in text.splitlines()


def test_capabilities_can_be_taken_away(scanning: Tree) -> None:
    """security.capabilities with a minus."""
    text = ask(scanning, "grep CapEff /proc/self/status", 'base = "host"\n[security]\ncapabilities = ["-CHOWN", "-CAP_KILL"]')
    assert "00000000800405da" in text


def test_service_directory_is_bound_and_its_secrets_are_covered(scanning: Tree) -> None:
    """/run/service is the working directory, read-only; supervise and env lead nowhere."""
    text = ask(scanning, "pwd\nls\necho $SECRET\nls env/ supervise/ 2>&1\ntouch run 2>&1", env__SECRET="only in the environment\n")
    assert text.splitlines()[0] == "/run/service"
    assert "only in the environment" in text
    assert "Read-only file system" in text or "Permission denied" in text
    assert "control" not in text


def test_environment_is_made_not_inherited(scanning: Tree) -> None:
    """PATH, HOME, USER, LOGNAME, SHELL and env/; an empty file unsets; umask 022."""
    text = ask(scanning, "env | sort\numask", env__COLOUR="blue  \nsecond line\n", env__SHELL="")
    lines = text.splitlines()
    assert "COLOUR=blue" in lines and "USER=root" in lines and "HOME=/" in lines
    assert not any(line.startswith(("SHELL=", "SVDIR=", "XDG_")) for line in lines)
    assert "0022" in lines


def test_directory_base_with_all_mount_points(scanning: Tree) -> None:
    """A plain bind, read-only."""
    root = small_root(scanning)
    (root / "etc/resolv.conf").touch()
    (root / "etc/hosts").touch()
    text = ask(scanning, "#!/bin/sh\ncat /etc/passwd\ntouch /x 2>&1\ntouch /tmp/y && echo tmp works", f'base = "{root}"')
    assert "web:x:33" in text and "Read-only file system" in text and "tmp works" in text


def test_missing_mount_points_come_from_a_skeleton_and_the_base_is_not_touched(scanning: Tree) -> None:
    """A base without /dev, /proc, /run, and a bind to a place that it lacks."""
    root = small_root(scanning, "dev", "proc", "run")
    before = sorted(str(path) for path in root.rglob("*"))
    text = ask(scanning, "#!/bin/sh\nls /dev\ncat /data/file\ncat /proc/self/comm", f'base = "{root}"\n[[bind]]\nfrom = "{data(scanning)}"\nto = "/data"')
    assert "null" in text and "content" in text
    assert sorted(str(path) for path in root.rglob("*")) == before


def data(tree: Tree) -> Path:
    path = tree.staging / "data"
    path.mkdir(exist_ok=True)
    (path / "file").write_text("content\n")
    tree.own(path)
    return path


def test_resolv_conf_that_leads_nowhere_in_the_base(scanning: Tree) -> None:
    """As distributions ship it: a symlink into /run, which is ours and empty."""
    root = small_root(scanning)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    text = ask(scanning, "#!/bin/sh\ncat /etc/resolv.conf && echo readable", f'base = "{root}"')
    assert "readable" in text


SEARCH = "import ctypes; print('found', ctypes.CDLL(None).syscall(250, 10, -3, b'user', b'ljsv-test', 0) > 0)"
WITH_KEY = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
libc.syscall(250, 1, None)  # a session keyring of our own
libc.syscall(248, b"user", b"ljsv-test", b"secret", 6, -3)
subprocess.run([sys.executable, "-c", sys.argv[1]])
sys.stdout.flush()
os.execvp("ljexec", ["ljexec", "--", "/usr/bin/python3", "-c", sys.argv[1]])
"""


def test_session_keyring_is_left_behind(tree: Tree) -> None:
    """A key in the caller's session keyring is found outside, and not in the jail."""
    if os.uname().machine != "x86_64":
        pytest.skip("the system call numbers in this test are x86-64's")
    done = tree.run("/usr/bin/python3", "-c", WITH_KEY, SEARCH)
    assert done.stdout.split() == ["found", "True", "found", "False"], done.stdout + done.stderr


def test_rootfs_as_directory_and_as_symlink(scanning: Tree) -> None:
    """`rootfs/` beside run, or a symlink to one, with rootfs.toml beside it."""
    root = small_root(scanning)
    path = scanning.write("a", "exec sleep 1000", None)
    (path / "rootfs").symlink_to(root)
    (path / "rootfs.toml").write_text('hostname = "beside"\n')
    scanning.own(path)
    path.rename(scanning.sv / "a")
    scanning.wait_state("a", "ready")
    path = scanning.write("b", "exec sleep 1000", None)
    shutil.copytree(root, path / "rootfs", symlinks=True)
    scanning.own(path)
    path.rename(scanning.sv / "b")
    scanning.wait_state("b", "ready")


@pytest.mark.kernel
def test_writable_tmpfs_is_forgotten(scanning: Tree) -> None:
    """Changes can be made, and are gone with the next start; the base is not touched."""
    root = small_root(scanning)
    text = ask(scanning, "#!/bin/sh\nls /note 2>&1\ntouch /note && echo written", f'base = "{root}"\nwritable = "tmpfs"')
    assert "written" in text or not scanning.uid
    assert not (root / "note").exists()
    scanning.ljsv("restart", "ask")
    wait_for(lambda: scanning.log("ask").count("END") == 2, "the second answer")
    assert scanning.log("ask").count("No such file") == 2


def test_binds_and_tmpfs(scanning: Tree) -> None:
    """A read-only and a writable bind, and a tmpfs of a size."""
    shared = data(scanning)
    shared.chmod(0o777)
    rootfs = f'base = "host"\n[[bind]]\nfrom = "{shared}"\nto = "/srv/ro"\n[[bind]]\nfrom = "{shared}"\nto = "/srv/rw"\nwritable = true\n[[tmpfs]]\nat = "/var/cache"\nsize = "1M"'
    text = ask(scanning, "cat /srv/ro/file\ntouch /srv/ro/x 2>&1\ntouch /srv/rw/made && echo made\ndd if=/dev/zero of=/var/cache/big bs=64k count=100 2>&1", rootfs)
    assert "content" in text and "Read-only file system" in text and "made" in text and "No space left" in text
    assert (shared / "made").exists()


def test_user_of_the_jail(scanning: Tree) -> None:
    """A name in the jail's own passwd; the service has that id inside, no capabilities, and may write its log."""
    root = small_root(scanning)
    text = ask(scanning, "#!/bin/sh\nid -u\nid -g\necho $HOME $USER\ngrep CapEff /proc/self/status\necho out > /dev/stdout", f'base = "{root}"\nuser = "web"')
    assert text.splitlines()[:3] == ["33", "34", "/tmp web"]
    assert "0000000000000000" in text and "out" in text


def test_network_none_has_only_a_loopback(scanning: Tree) -> None:
    """The host's loopback is not reachable, its own is up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = ask(scanning, f"cat /proc/net/dev\nls /etc/resolv.conf 2>&1\n/usr/bin/python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 2)' 2>&1 | tail -1", 'base = "host"\nnetwork = "none"')
    assert "Connection refused" in text
    assert "eth" not in text and "lo:" in text


def test_hostname_and_limits(scanning: Tree) -> None:
    """hostname, nofile, nice and core; a limit of the control group holds, or it is said why not."""
    text = ask(scanning, "cat /proc/sys/kernel/hostname\nulimit -n\nulimit -c\nnice", 'base = "host"\nhostname = "box-1"', limits="nofile = 77\nnice = 5\nmemory = \"64M\"\n")
    assert text.splitlines()[:4] == ["box-1", "77", "0", "5"]
    group = scanning.detail("ask").get("cgroup", "/nowhere")
    assert Path(group, "memory.max").exists() or "not enforced: memory" in scanning.ljsv("status", "ask").stdout


def test_more_files_than_the_scanner_was_given(tree: Tree) -> None:
    """As LimitNOFILE: root's service may (with CAP_SYS_RESOURCE); others are told the hard limit. Whoever asks for nothing has what the scanner had."""
    few, ask_both = ("prlimit", "--nofile=500:1000"), "ulimit -Sn\nulimit -Hn"
    check = f"#!/bin/sh\n{{\n{ask_both}\n}} >&2\n"
    for name, limits in (("many", "nofile = 2000\n"), ("plain", "")):
        tree.add(name, f"{ask_both}\nexec sleep 1000", limits=limits, check=check, policy='[ready]\nby = "check"\n')
    done = tree.run(*few, "ljsv", "up", "--all")
    assert tree.log("plain").splitlines() == ["500", "1000"] * 2
    if tree.run(*few, "prlimit", "--nofile=2000:2000", "true").returncode:
        assert "nofile = 2000: the hard limit is 1000" in done.stdout
        return
    assert tree.log("many").splitlines() == ["2000", "2000"] * 2
    assert tree.run(*few, "ljsv", "enter", "many", "sh", "-c", ask_both).stdout == "2000\n2000\n"


@pytest.mark.parametrize("trick", ["dev", "proc", "run", "tmp"])
def test_hostile_symlinks_in_the_base_are_harmless(scanning: Tree, trick: str) -> None:
    """`/dev -> /etc` and the like: refused by name, and nothing outside is touched."""
    root = small_root(scanning, trick)
    victim = scanning.staging / "victim"
    victim.mkdir()
    (root / trick).symlink_to(f"../../../../../../..{victim}")
    scanning.own(root)
    scanning.add("a", "#!/bin/sh\nsleep 1000", f'base = "{root}"')
    detail = scanning.wait_state("a", "failed")
    assert f"/{trick}" in detail["fault"] and "symlink" in detail["fault"]
    assert not list(victim.iterdir())


def test_mount_point_of_the_wrong_kind_is_told(scanning: Tree) -> None:
    """A file where /dev should be, a directory where a file is bound: named, and why."""
    root = small_root(scanning, "dev")
    (root / "dev").write_text("not a directory\n")
    scanning.own(root)
    scanning.add("a", "#!/bin/sh\nsleep 1000", f'base = "{root}"')
    assert "/dev: Not a directory" in scanning.wait_state("a", "failed")["fault"]
    scanning.add("b", "sleep 1000", f'base = "host"\n[[bind]]\nfrom = "{data(scanning)}/file"\nto = "/tmp"')
    assert "/tmp: Is a directory" in scanning.wait_state("b", "failed")["fault"]


def test_passwd_that_is_no_file_is_harmless(scanning: Tree) -> None:
    """A FIFO in its place is not waited for."""
    root = small_root(scanning)
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    scanning.own(root)
    scanning.add("a", "#!/bin/sh\nsleep 1000", f'base = "{root}"')
    scanning.wait_state("a", "ready")


def test_finish_runs_in_a_jail_with_code_and_status(scanning: Tree) -> None:
    """`./finish CODE STATUS` after every end: exit code or -1, and the wait status."""
    finish = "#!/bin/sh\necho finish $1 $2 $$\n"
    scanning.add("a", "trap 'exit 7' USR1\necho begun\nwhile :; do sleep 0.02; done", finish=finish, policy='[restart]\nstable_after = "0s"\n')
    scanning.wait_state("a", "ready")
    wait_for(lambda: "begun" in scanning.log("a"), "its trap")
    scanning.ljsv("usr1", "a")
    wait_for(lambda: "finish 7 0 2" in scanning.log("a"), "finish after an exit")
    scanning.wait_state("a", "ready")
    wait_for(lambda: scanning.log("a").count("begun") == 2, "the next run")
    scanning.ljsv("kill", "a")
    wait_for(lambda: "finish -1 9 2" in scanning.log("a"), "finish after a kill")
    scanning.wait_state("a", "ready")
    wait_for(lambda: scanning.log("a").count("begun") == 3, "the next run")
    scanning.ljsv("down", "a")
    assert "finish -1 15 2" in scanning.log("a")


def test_ljexec_runs_one_jail_and_passes_its_code_on(tree: Tree) -> None:
    """The program's own exit code, 127 and 126 and 125 for what cannot run, 100 for usage."""
    assert tree.run("ljexec", "--exec", "sh -c 'exit 9'").returncode == 9
    assert tree.run("ljexec", "--", "sh", "-c", "kill -KILL $$").returncode == 137
    assert tree.run("ljexec", "--", "no-such-program").returncode == 127
    assert tree.run("ljexec", "--", "/etc/passwd").returncode == 126
    assert tree.run("ljexec", "--root", "/no/such").returncode == 125
    assert tree.run("ljexec", "--exec", "true", "--", "true").returncode == 100
    assert "pivot_root" in tree.run("ljexec", "--explain").stdout


def test_jail_of_ljexec_dies_with_it(tree: Tree) -> None:
    """KILL of ljexec: nothing stays."""
    jail = tree.start("ljexec", "--exec", "sleep 1000.5")
    wait_for(lambda: any("sleep 1000.5" in text and "ljexec" not in text for text in _commands()), "the program")
    jail.kill()
    jail.wait(10)
    wait_for(lambda: not any("sleep 1000.5" in text for text in _commands()), "the jail to die")


def _commands() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def test_slots_that_nobody_holds_are_swept(scanning: Tree) -> None:
    """As root: the next scanner removes their files; a slot that is held stays."""
    if scanning.uid:
        pytest.skip("slots are root's: needs root")
    scanning.add("a")
    scanning.wait_state("a", "ready")
    slots = Path("/run/ljsv/.slots")
    stale = slots / "36000"
    stale.touch()
    uid = os.stat(f"/proc/{scanning.pid('a')}").st_uid
    held = slots / str((uid - 0x7000_0000) // 65536)
    scanning.add("b")
    scanning.wait_state("b", "ready")
    shutil.rmtree(scanning.sv / "b", ignore_errors=True)
    wait_for(lambda: not stale.exists(), "the stale slot to go")
    assert held.exists()


REPLACED = """
import os, sys
from ljsv.jail.mounts import Bind
from ljsv.jail.outside import CloneTree
from ljsv.jail.step import READ_ONLY, Build

os.mkdir("root")
open("source", "w").write("old")
build = Build()
build.root_fd = build.own["/"] = os.open("root", os.O_PATH | os.O_DIRECTORY)
for may_be_replaced in (False, True):
    CloneTree(os.path.abspath("source"), "/shown", READ_ONLY).execute(build)
    open("new", "w").write("new")
    os.rename("new", "source")
    try:
        Bind(os.path.abspath("source"), "/shown", READ_ONLY, is_directory=False, may_be_replaced=may_be_replaced).execute(build)
        print(open("root/shown").read())
    except FileNotFoundError:
        print("not found")
"""


def test_file_of_etc_that_is_replaced_while_the_jail_is_built(tree: Tree) -> None:
    """As useradd does with /etc/passwd: the kernel attaches no file that has lost its name, so the new one is taken."""
    done = tree.run("unshare", "--user", "--map-root-user", "--mount", str(tree.programs / "python"), "-I", "-c", REPLACED)
    assert done.stdout.split("\n") == ["not found", "new", ""], done.stderr

"""Privileged services, devices of the host, and its terminals."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.roots import small_root

HOST = 'base = "host"'
PRIVILEGED = f'{HOST}\n[security]\nuser_namespace = "host"'


def root_only(tree: Tree) -> None:
    if tree.uid:
        pytest.skip("a story of root's scanner")


def ask(tree: Tree, commands: str, rootfs: str, name: str = "ask") -> str:
    """What a shell in the jail of a service answers."""
    tree.add(name, f"{commands}\necho END\nexec sleep 1000", rootfs)
    tree.wait_state(name, "ready", "failed", "backoff")
    wait_for(lambda: "END" in tree.log(name) or tree.state(name) != "ready", f"an answer: {tree.detail(name)} {tree.log(name)}")
    assert tree.state(name) == "ready", tree.detail(name)
    return tree.log(name)


# ---- user_namespace = "host"


def test_privileged_service_has_the_machines_ids_and_a_jail_of_its_own(scanning: Tree) -> None:
    """The real root, in a root, pid namespace and mounts of its own, with the default capabilities and the filter."""
    root_only(scanning)
    before = Path("/proc/self/mountinfo").read_text()
    namespaces = Path("/proc/sys/user/max_user_namespaces").read_text()
    text = ask(
        scanning,
        "cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/self/ns/pid; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status\n"
        "test -w /etc && echo writable; ls / | tr '\\n' ' '; mount -t tmpfs x /tmp && echo mounted; unshare -U true && echo nested; cat /proc/1/environ && echo open",
        PRIVILEGED,
    )
    assert text.split()[:3] == ["0", "0", "4294967295"]
    assert os.readlink("/proc/self/ns/user") in text and os.readlink("/proc/self/ns/pid") not in text
    values = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert values == {"CapEff": "00000000800405fb", "CapBnd": "00000000800405fb", "NoNewPrivs": "1", "Seccomp": "2"}
    for word in ("writable", "mounted", "nested", "open", "home"):
        assert word not in text.split()
    assert Path("/proc/self/mountinfo").read_text() == before, "its mounts are seen on the host"
    assert Path("/proc/sys/user/max_user_namespaces").read_text() == namespaces, "the machine's own limit was changed"
    assert os.stat(f"/proc/{scanning.pid('ask')}").st_uid == 0


def test_privileged_is_shown(scanning: Tree) -> None:
    """In status, its JSON, lint and explain."""
    root_only(scanning)
    scanning.add("clock", rootfs=PRIVILEGED)
    scanning.wait_state("clock", "ready")
    assert "host + privileged" in scanning.ljsv("status").stdout
    assert "privileged: user_namespace" in scanning.ljsv("status", "clock").stdout
    assert scanning.ljsv("status", "clock", "-o", "privileged").stdout == "yes\n"
    assert "privileged: user_namespace" in scanning.ljsv("lint", "clock").stdout
    explained = scanning.ljsv("explain", "clock").stdout
    assert "the machine's own" in explained and "make all mounts private" in explained and "max_user_namespaces" not in explained
    assert "with new namespaces: mount pid" in explained


def test_privileged_is_what_runs(scanning: Tree) -> None:
    """Not what its files have said since; nor does a bad edit hide it."""
    root_only(scanning)
    path = scanning.add("clock", rootfs=PRIVILEGED)
    scanning.wait_state("clock", "ready")
    for text in ('base = "host"\n', "nonsense = 1\n"):
        (path / "rootfs").write_text(text)
        wait_for(lambda: "changed" in scanning.detail("clock"), "the edit to be seen")
        assert scanning.ljsv("status", "clock", "-o", "privileged,jail").stdout.split() == ["yes", "host", "+", "privileged"]
        assert "is_privileged 1" in (scanning.supervise("clock") / "jail").read_text()
    (path / "rootfs").write_text('base = "host"\n')
    scanning.ljsv("restart", "clock")
    assert scanning.ljsv("status", "clock", "-o", "privileged").stdout == "no\n"


def test_capability_of_the_machine_has_effect_only_when_privileged(scanning: Tree) -> None:
    """NET_ADMIN on the host's network, and a file system that is the real root's."""
    root_only(scanning)
    directory = scanning.root / "kept"
    directory.mkdir(mode=0o700)
    bind = f'[[bind]]\nfrom = "{directory}"\nto = "/mnt"\nwritable = true\n'
    text = ask(scanning, "touch /mnt/file && echo touched; nice -n -5 true && echo nicer", f"{HOST}\n{bind}[security]\nuser_namespace = \"host\"\ncapabilities = [\"SYS_NICE\"]")
    assert "touched" in text
    assert (directory / "file").stat().st_uid == 0


def test_a_set_id_program_that_a_privileged_service_could_write(scanning: Tree) -> None:
    """It is read-only there as well: writing to it would leave it the bit."""
    root_only(scanning)
    place = scanning.root / "place"
    place.mkdir()
    tool = place / "tool"
    tool.write_bytes(b"#!/bin/sh\n")
    tool.chmod(0o4755)
    bind = f'[[bind]]\nfrom = "{place}"\nto = "/mnt"\nwritable = true\n'
    text = ask(scanning, "echo evil >/mnt/tool || echo refused; echo new >/mnt/other && echo written", f"{HOST}\n{bind}[security]\nuser_namespace = \"host\"")
    assert "refused" in text and "written" in text
    assert tool.read_bytes() == b"#!/bin/sh\n"


def test_privileged_service_is_entered_and_survives_its_supervisor(scanning: Tree) -> None:
    """`ljsv enter`, control scripts and adoption work as for others."""
    root_only(scanning)
    scanning.add("clock", rootfs=PRIVILEGED)
    pid = int(scanning.wait_state("clock", "ready")["pid"])
    assert scanning.ljsv("enter", "clock", "cat", "/proc/self/uid_map").stdout.split() == ["0", "0", "4294967295"]
    assert "clock" in scanning.ljsv("enter", "clock", "hostname").stdout
    supervisor = scanning.supervisor_pid("clock")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: scanning.supervisor_pid("clock") not in {0, supervisor}, "another supervisor")
    scanning.wait_state("clock", "ready")
    assert scanning.pid("clock") == pid
    scanning.ljsv("restart", "clock")
    assert scanning.pid("clock") != pid


def test_privileged_with_a_directory_and_an_overlay(scanning: Tree) -> None:
    """A base with ids as they are; what is written is root's."""
    root_only(scanning)
    root = small_root(scanning)
    text = ask(scanning, "#!/bin/sh\necho kept > /etc/made && cat /etc/made", f'base = "{root}"\nwritable = "overlay"\n[security]\nuser_namespace = "host"')
    assert "kept" in text and not (root / "etc/made").exists()
    made = list(Path("/var/lib/ljsv").glob(f"sv-{scanning.scan_hash()}/ask/overlay/upper/etc/made"))
    assert [path.stat().st_uid for path in made] == [0]


def test_privileged_is_refused_without_root(scanning: Tree) -> None:
    """With what is not allowed, who is asked, and what to do."""
    if not scanning.uid:
        pytest.skip("root may")
    scanning.add("clock", rootfs=PRIVILEGED)
    detail = scanning.wait_state("clock", "failed")
    assert 'security.user_namespace = "host" is only for root' in detail["fault"] and f"uid {scanning.uid}" in detail["fault"]
    assert "root's scanner" in detail["hint"]
    assert "is only for root" in scanning.ljsv("lint", "clock", code=1).stdout


# ---- [[device]]


def test_device_that_everybody_may_open(scanning: Tree) -> None:
    """It is there, it works, and no other is."""
    text = ask(scanning, "ls /dev | tr '\\n' ' '; echo > /dev/null; echo", f'{HOST}\n[[device]]\npath = "/dev/null"')
    assert text.splitlines()[-2].split() == ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]


def _make_node(path: Path, mode: int) -> None:
    try:
        os.mknod(path, 0o020600, os.makedev(1, 5))  # another /dev/zero
        path.chmod(mode)
        path.open("rb").close()
    except OSError as error:
        pytest.skip(f"this machine lets root make no device node: {error}")


@pytest.fixture
def closed_device() -> Iterator[str]:
    """A device that only root may open, in a directory of /dev."""
    if os.geteuid():
        pytest.skip("only root can make a device")
    path = Path("/dev/ljsv-test/zero")
    path.parent.mkdir()
    try:
        _make_node(path, 0o600)
        yield str(path)
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def test_device_that_only_root_may_open(scanning: Tree, closed_device: str) -> None:
    """As root the jail may use it, and cannot change it; others are refused, with what helps."""
    rootfs = f'{HOST}\n[[device]]\npath = "{closed_device}"'
    if scanning.uid:
        scanning.add("ask", rootfs=rootfs)
        detail = scanning.wait_state("ask", "failed")
        assert "you may not open it" in detail["fault"] and "usermod -aG" in detail["hint"]
        return
    commands = f"head -c 3 {closed_device} | od -An -tx1; chmod 600 {closed_device} && echo changed; rm -f {closed_device} && echo removed; stat -c 'owner %u' {closed_device}"
    text = ask(scanning, commands, rootfs)
    assert "00 00 00" in text and "changed" not in text and "removed" not in text
    assert "owner 65534" in text
    assert os.stat(closed_device).st_mode & 0o777 == 0o600, "the host's node was changed"
    explained = scanning.ljsv("explain", "ask").stdout
    assert f"make device nodes on a tmpfs, mode 0666: {closed_device} (c 1:5)" in explained
    assert f"bind device node 0 at {closed_device}" in explained


def test_device_of_a_privileged_service(scanning: Tree, closed_device: str) -> None:
    """Its node belongs to root, whom it is."""
    root_only(scanning)
    text = ask(scanning, f"stat -c 'owner %u' {closed_device}; head -c 3 {closed_device} | od -An -tx1", f'{HOST}\n[[device]]\npath = "{closed_device}"\n[security]\nuser_namespace = "host"')
    assert "owner 0" in text and "00 00 00" in text


def test_device_that_is_plugged_in_later(scanning: Tree) -> None:
    """Tried again, as after a crash; started when it is there."""
    if os.geteuid():
        pytest.skip("only root can make a device")
    path = Path("/dev/ljsv-later")
    scanning.add("ask", rootfs=f'{HOST}\n[[device]]\npath = "{path}"')
    detail = scanning.wait_state("ask", "backoff")
    assert "cannot show the device: /dev/ljsv-later: No such file" in detail["fault"]
    try:
        _make_node(path, 0o666)
        scanning.wait_state("ask", "ready")
    finally:
        path.unlink(missing_ok=True)


def test_what_is_no_device_is_refused(scanning: Tree) -> None:
    """A directory; a path outside of /dev."""
    scanning.add("directory", rootfs=f'{HOST}\n[[device]]\npath = "/dev/shm"')
    assert "it is none" in scanning.wait_state("directory", "failed")["fault"]
    scanning.add("outside", rootfs=f'{HOST}\n[[device]]\npath = "/etc/passwd"')
    assert "device[0].path: found '/etc/passwd'" in scanning.wait_state("outside", "failed")["fault"]


@pytest.mark.parametrize(("path", "said"), [("/dev/mem", "all of the machine's memory"), ("/dev/loop0", "a disk")])
def test_lint_warns_of_devices_that_give_the_machine_away(tree: Tree, path: str, said: str) -> None:
    """Memory, disks."""
    if not Path(path).exists():
        pytest.skip(f"no {path}")
    tree.add("ask", rootfs=f'{HOST}\n[[device]]\npath = "{path}"')
    assert said in tree.ljsv("lint", "ask", code=None).stdout


def test_lint_tells_what_the_filter_takes_from_a_privileged_service(tree: Tree) -> None:
    """SYS_TIME needs seccomp = "off" as well, and then nothing is said."""
    root_only(tree)
    tree.add("clock", rootfs=f'{PRIVILEGED}\ncapabilities = ["SYS_TIME"]')
    assert "SYS_TIME has no effect: the system call filter refuses" in tree.ljsv("lint", "clock").stdout
    tree.add("clocks", rootfs=f'{PRIVILEGED}\ncapabilities = ["SYS_TIME"]\nseccomp = "off"')
    assert "SYS_TIME" not in tree.ljsv("lint", "clocks").stdout


# ---- tty


class Line:
    """A terminal line: `path` is what a service is given, the master is the other end of the cable."""

    def __init__(self, uid: int) -> None:
        self.master, slave = pty.openpty()
        self.path = os.ttyname(slave)
        os.chown(self.path, uid, uid)
        os.close(slave)
        self.text = ""

    def expect(self, word: str) -> str:
        """What came, up to that word."""
        give_up_at = time.monotonic() + 20
        while word not in self.text:
            if time.monotonic() > give_up_at:
                pytest.fail(f"waited for {word!r} on the terminal: {self.text!r}")
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.master, 4096).decode()
                except OSError:
                    time.sleep(0.05)  # nobody has its other end
        before, _, self.text = self.text.partition(word)
        return before

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@pytest.fixture
def line(tree: Tree) -> Iterator[Line]:
    line = Line(tree.uid)
    yield line
    with contextlib.suppress(OSError):
        os.close(line.master)


def test_terminal_is_the_services_own(scanning: Tree, line: Line) -> None:
    """Controlling terminal and standard descriptors: keys come in, Ctrl-C is its signal, and a restart takes it again."""
    run = "trap 'echo interrupted' INT\necho pid $$ of $(ps -o tty= -p $$) $TERM\n(: < /dev/tty) && echo controlling\nwhile :; do if read line; then echo got $line; test \"$line\" = end && exit; fi; done"
    scanning.add("console", run, f'{HOST}\ntty = "{line.path}"')
    scanning.wait_state("console", "ready")
    line.expect("controlling")
    line.type("hello\n")
    line.expect("got hello")
    line.type("\x03")
    line.expect("interrupted")
    pid = scanning.pid("console")
    assert os.readlink(f"/proc/{pid}/fd/1") == line.path
    line.type("end\n")
    wait_for(lambda: scanning.pid("console") not in {0, pid}, "a restart")
    line.expect("controlling")
    line.type("again\n")
    line.expect("got again")
    scanning.ljsv("down", "console")


def test_terminal_left_raw_is_sane_again(scanning: Tree, line: Line) -> None:
    """What ended before may have switched everything off."""
    slave = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(slave)
    attributes[0] = attributes[1] = attributes[3] = 0
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    scanning.add("console", "read line; echo got $line\nexec sleep 1000", f'{HOST}\ntty = "{line.path}"')
    scanning.wait_state("console", "ready")
    line.type("word\r")
    line.expect("got word\r\n")
    os.close(slave)


def test_terminal_that_hangs_up(scanning: Tree, line: Line) -> None:
    """The service gets HUP and ends; it is tried again until there is a line, and then has it."""
    link = scanning.root / "line"
    link.symlink_to(line.path)
    os.chown(link, scanning.uid, scanning.uid, follow_symlinks=False)
    path = f"/dev/{os.path.relpath(link, '/dev')}"
    if ".." in path:
        path = line.path
    scanning.add("console", "echo here\nread line", f'{HOST}\ntty = "{path}"')
    scanning.wait_state("console", "ready")
    line.expect("here")
    os.close(line.master)
    line.master = -1
    detail = scanning.wait_state("console", "backoff")
    wait_for(lambda: "cannot open the terminal" in scanning.detail("console").get("fault", ""), f"it to be missed: {detail}")
    assert "cannot open the terminal" in scanning.ljsv("status", "console", code=3).stdout


def test_terminal_of_another_session_is_waited_for(scanning: Tree, line: Line) -> None:
    """Told who is in the way, and taken when he has gone."""
    other = subprocess.Popen(["setsid", "--ctty", "sh", "-c", "trap '' HUP; read end"], stdin=open(line.path, "rb+", buffering=0), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[4]) != "0", "the other session to have it")
        scanning.add("console", "echo mine\nexec sleep 1000", f'{HOST}\ntty = "{line.path}"')
        wait_for(lambda: "another session has it" in scanning.detail("console").get("fault", ""), "the fault to be told")
        assert "fuser -v" in scanning.detail("console")["hint"]
    finally:
        other.kill()
        other.wait()
    scanning.ljsv("up", "console")
    line.expect("mine")


def test_what_is_no_terminal_is_refused(scanning: Tree) -> None:
    """With its name and where it was said."""
    scanning.add("console", rootfs=f'{HOST}\ntty = "/dev/null"')
    detail = scanning.wait_state("console", "failed")
    assert "cannot open the terminal: /dev/null" in detail["fault"] and "rootfs" in detail["hint"]


def test_supervisor_killed_keeps_the_terminal_of_its_service(scanning: Tree, line: Line) -> None:
    """The service goes on reading; the next supervisor has no part in the line."""
    scanning.add("console", "while read line; do echo got $line; done", f'{HOST}\ntty = "{line.path}"')
    scanning.wait_state("console", "ready")
    supervisor, pid = scanning.supervisor_pid("console"), scanning.pid("console")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: scanning.supervisor_pid("console") not in {0, supervisor}, "another supervisor")
    line.type("still\n")
    line.expect("got still")
    assert scanning.pid("console") == pid
    links = [os.readlink(link) for link in Path(f"/proc/{scanning.supervisor_pid('console')}/fd").iterdir()]
    assert line.path not in links

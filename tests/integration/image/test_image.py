"""A jail whose root is an image: squashfs and erofs, by the kernel or through FUSE, and nothing of it is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.roots import is_served, make_image, require_image_mount

KINDS = ("squashfs", "erofs")


@pytest.fixture(params=KINDS)
def image(request: pytest.FixtureRequest, tree: Tree) -> Path:
    """An image that this user can mount."""
    require_image_mount(tree, request.param)
    return make_image(tree, request.param)


@pytest.fixture
def squashfs(tree: Tree) -> Path:
    require_image_mount(tree)
    return make_image(tree)


def leftovers(tree: Tree) -> list[str]:
    """Loop devices, mounts and servers that belong to images of this tree."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = backing.read_text()
        except OSError:
            continue
        if str(tree.root) in text:
            found.append(f"{backing.parts[3]}: {text.strip()}")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if b"squashfuse" in command and str(tree.root) in mounts and is_alive(int(entry.name)):
                found.append(f"{entry.name}: {command!r}")
    with open("/proc/self/mountinfo") as file:
        return found + [line for line in file if str(tree.root) in line]


@pytest.mark.kernel
def test_ids_in_the_image_are_those_of_the_jail(tree: Tree, image: Path) -> None:
    """Root's files are root's in the jail, whatever id it is outside, and everything is read-only."""
    done = tree.run("ljexec", "--image", str(image), "--", "sh", "-c", "id -u; cat /data/file; stat -c '%u %g' /bin/busybox /data/file; touch /x; touch /etc/x; touch /tmp/y && echo tmp")
    assert done.stdout.split("\n")[:4] == ["0", "content", "0 0", "0 0"], done.stdout + done.stderr
    assert "tmp" in done.stdout
    assert done.stderr.count("Read-only file system") == 2
    assert not leftovers(tree)


def test_another_user_is_found_in_the_images_passwd(tree: Tree, squashfs: Path) -> None:
    """By name, with ids inside; as root the files of that id are readable for it."""
    done = tree.run("ljexec", "--image", str(squashfs), "--user", "web", "--", "sh", "-c", "id -u; id -g; cat /web/file")
    assert done.stdout.split()[:2] == ["33", "34"]
    if not tree.uid:
        assert "web" in done.stdout.split()
    missing = tree.run("ljexec", "--image", str(squashfs), "--user", "nobody-here", "--", "true")
    assert missing.returncode == 125
    assert "the jail has no user nobody-here" in missing.stderr


@pytest.mark.parametrize("missing", [(), ("dev", "proc", "run", "tmp", "etc")])
def test_mount_points_that_an_image_lacks(tree: Tree, missing: tuple[str, ...]) -> None:
    """They come from a layer below; so do places for binds."""
    require_image_mount(tree)
    image = make_image(tree)
    if missing:
        image.unlink()
        root = tree.staging / "bare"
        (root / "bin").mkdir(parents=True)
        for name in ("busybox", "sh", "ls", "cat"):
            (root / "bin" / name).write_bytes(Path("/bin/busybox").read_bytes())
            (root / "bin" / name).chmod(0o755)
        subprocess.run(["mksquashfs", str(root), str(image), "-noappend", "-quiet", "-no-progress", "-all-root"], check=True, capture_output=True)
    (tree.root / "shown").write_text("shown\n")
    done = tree.run("ljexec", "--image", str(image), "--bind", f"{tree.root}/shown:/deep/place/file", "--tmpfs", "/scratch/here", "--", "sh", "-c", "ls / /dev; cat /deep/place/file /proc/self/comm")
    assert done.returncode == 0, done.stderr
    assert "null" in done.stdout and "shown" in done.stdout and "scratch" in done.stdout


def test_changes_are_kept_in_an_overlay(tree: Tree, image: Path) -> None:
    """Across runs, deletions too; the image is not touched."""
    before = image.read_bytes()
    overlay = tree.root / "overlay"
    command = ("ljexec", "--image", str(image), "--overlay-dir", str(overlay), "--", "sh", "-c")
    first = tree.run(*command, "echo kept > /kept; rm -r /data; mkdir /data; echo changed >> /etc/passwd; cat /kept")
    assert first.stdout == "kept\n", first.stderr
    second = tree.run(*command, "cat /kept; ls /data; grep -c changed /etc/passwd")
    assert second.stdout == "kept\n1\n", second.stdout + second.stderr
    assert image.read_bytes() == before
    assert (overlay / "upper/kept").read_text() == "kept\n"
    assert (overlay / "upper/kept").stat().st_uid == tree.uid
    assert tree.run("ljexec", "--image", str(image), "--", "cat", "/data/file").stdout == "content\n"
    assert not leftovers(tree)


def test_the_original_example_word_for_word(tree: Tree, squashfs: Path) -> None:
    """--image with --overlay-dir, --exec, --mem and --cpu: it runs."""
    done = tree.run("ljexec", "--image", str(squashfs), "--overlay-dir", str(tree.root / "my-overlay"), "--exec", "/bin/sh", "--mem", "512", "--cpu", "25")
    assert done.returncode == 0
    assert all(line.startswith(("ljexec: not enforced: --", "  hint: ")) for line in done.stderr.splitlines()), done.stderr


@pytest.mark.kernel
def test_service_on_an_image(tree: Tree, image: Path) -> None:
    """`base` names it, or `rootfs` is it; overlay in the state directory; down leaves nothing of it."""
    tree.ljsv("scan", "--daemon")
    tree.add("named", "#!/bin/sh\necho begun >> /count\ncat /count\nexec sleep 1000", f'base = "{image}"\nwritable = "overlay"')
    path = tree.write("itself", "#!/bin/sh\ncat /data/file\nexec sleep 1000", None)
    (path / "rootfs").write_bytes(image.read_bytes())
    tree.own(path)
    path.rename(tree.sv / "itself")
    for name in ("named", "itself"):
        tree.wait_state(name, "ready", "failed", "backoff")
        assert tree.state(name) == "ready", tree.detail(name)
    wait_for(lambda: "content" in tree.log("itself"), "its output")
    tree.ljsv("restart", "named")
    wait_for(lambda: tree.log("named").count("begun") == 3, "both lines of the second run")
    assert tree.detail("named")["jail"] == f"{image.name} + overlay"
    tree.ljsv("down", "--all")
    wait_for(lambda: not leftovers(tree), "image mounts to go")


def test_many_jails_on_one_image(tree: Tree, squashfs: Path) -> None:
    """At once, each with its own view; none is left when they end."""
    tree.ljsv("scan", "--daemon")
    names = [f"s{number}" for number in range(8)]
    for name in names:
        tree.add(name, "#!/bin/sh\nexec sleep 1000", f'base = "{squashfs}"')
    for name in names:
        tree.wait_state(name, "ready")
    assert tree.uid or leftovers(tree)
    tree.ljsv("down", "--all")
    wait_for(lambda: not leftovers(tree), "image mounts to go")


def test_end_of_the_server_is_the_end_of_its_jail(tree: Tree, squashfs: Path) -> None:
    """A squashfuse that is killed ends its jail like a crash, and the service starts again; also after its supervisor was replaced."""
    if not is_served(tree):
        pytest.skip("the kernel mounts the image itself: no server")
    tree.ljsv("scan", "--daemon")
    tree.add("a", "#!/bin/sh\nexec sleep 1000", f'base = "{squashfs}"', policy='[restart]\nstable_after = "0s"\n')
    pid = int(tree.wait_state("a", "ready")["pid"])
    for kill_supervisor in (False, True):
        if kill_supervisor:
            old = tree.supervisor_pid("a")
            os.kill(old, signal.SIGKILL)
            wait_for(lambda old=old: tree.supervisor_pid("a") not in {0, old}, "another supervisor")
            assert tree.pid("a") == pid
        server = int(record(tree, "a")["server_pid"])
        assert server > 1, record(tree, "a")
        os.kill(server, signal.SIGKILL)
        wait_for(lambda pid=pid: tree.pid("a") not in {0, pid} and tree.state("a") == "ready", "the next run")
        assert tree.detail("a")["end"].split()[0] == "-1"  # KILL, or BUS when a page of its program was missing first
        said = tree.ljsv("why", "a").stdout
        assert "the program that serves its image has ended" in said or "SIGBUS" in said
        pid = tree.pid("a")


def test_why_a_service_on_an_image_cannot_start(tree: Tree, squashfs: Path) -> None:
    """What the builder says of it is told, and it is not tried again."""
    tree.ljsv("scan", "--daemon")
    tree.add("a", "#!/bin/sh\nexec sleep 1000", f'base = "{squashfs}"\nuser = "nosuch"\n')
    tree.add("b", "#!/bin/bash\nexec sleep 1000", f'base = "{squashfs}"\n')
    assert "the jail has no user nosuch" in tree.wait_state("a", "failed")["fault"]
    assert "the jail has no /bin/bash" in tree.wait_state("b", "failed")["fault"]
    assert "error in the supervisor's loop" not in tree.events()


@pytest.mark.parametrize("where", ["compression", "inodes"])
def test_services_on_a_damaged_image(tree: Tree, squashfs: Path, where: str) -> None:
    """Each says so, is never ready, and is stopped at once; also where what serves it ends while the jail is built."""
    broken = bytearray(squashfs.read_bytes())
    if where == "compression":
        broken[20] = ord("c")
    else:
        inodes = int.from_bytes(broken[64:72], "little")
        broken[inodes : inodes + 64] = bytes(64)
    squashfs.write_bytes(broken)
    tree.ljsv("scan", "--daemon")
    names = [f"s{number}" for number in range(6)]
    for name in names:
        tree.add(name, "#!/bin/sh\nexec sleep 1000", f'base = "{squashfs}"\n')
    for name in names:
        assert str(squashfs) in tree.wait_state(name, "failed", "backoff")["fault"]
    time.sleep(2)
    assert {tree.state(name) for name in names} <= {"failed", "backoff", "starting"}
    assert "error in the supervisor's loop" not in tree.events()
    by_hand = tree.run("ljexec", "--image", str(squashfs), "--", "true")
    assert by_hand.returncode == 125 and "Recursion" not in by_hand.stderr
    tree.ljsv("exit", "--all")


def test_a_server_that_hangs_goes_with_ljexec(tree: Tree, squashfs: Path) -> None:
    """What waits for it cannot be killed until it has ended."""
    if not is_served(tree):
        pytest.skip("the kernel mounts the image itself: no server")
    started = tree.start("ljexec", "--image", str(squashfs), "--", "sh", "-c", "echo begun; i=0; while :; do test -e /bin/x$i; i=$((i + 1)); done")
    assert started.stdout is not None and started.stdout.readline() == "begun\n"
    (server,) = (int(line.split(":")[0]) for line in leftovers(tree) if "squashfuse" in line)
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.1)
    started.kill()
    wait_for(lambda: not leftovers(tree), "the server to go")
    started.communicate(timeout=20)


def record(tree: Tree, name: str) -> dict[str, str]:
    try:
        lines = (tree.supervise(name) / "jail").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize("what", ["cut short", "no image", "tar", "directory", "missing", "fifo"])
def test_files_that_are_no_image_are_refused(tree: Tree, what: str) -> None:
    """With exit 125, the path and the reason."""
    image = make_image(tree)
    if what == "cut short":
        os.truncate(image, image.stat().st_size // 2)
    elif what == "no image":
        image.write_bytes(b"hello" * 1000)
    elif what == "tar":
        subprocess.run(["tar", "-czf", str(image), "-C", "/etc", "passwd"], check=True)
    elif what in {"directory", "missing", "fifo"}:
        image.unlink()
        if what == "directory":
            image.mkdir()
        elif what == "fifo":
            os.mkfifo(image)
    done = tree.run("ljexec", "--image", str(image), "--", "true")
    assert done.returncode == 125, done.stderr
    words = {"cut short": "cut short", "no image": "neither squashfs nor erofs", "tar": "gzip", "directory": "not a regular file", "missing": "No such file", "fifo": "not a regular file"}
    assert words[what] in done.stderr
    assert str(image) in done.stderr
    assert "hint:" in done.stderr


def test_damaged_images_are_contained(tree: Tree, squashfs: Path) -> None:
    """Whatever bytes are wrong: an error or a jail that runs, an end within seconds, and nothing left."""
    whole = squashfs.read_bytes()
    dice = random.Random(7)
    for _ in range(12):
        broken = bytearray(whole)
        for _ in range(dice.choice((1, 20, 400))):
            broken[dice.randrange(8, 96) if dice.random() < 0.2 else dice.randrange(96, len(broken))] = dice.randrange(256)
        squashfs.write_bytes(broken)
        done = tree.run("ljexec", "--image", str(squashfs), "--", "sh", "-c", "find / -xdev -type f | head -50 | xargs md5sum", timeout_s=60)
        assert done.returncode in {0, 1, 123, 125, 126, 127, *range(128, 160)}, done.stderr
        assert "Traceback" not in done.stderr
    wait_for(lambda: not leftovers(tree), "image mounts to go")


def test_nothing_is_left_after_kills_at_random_moments(tree: Tree, squashfs: Path) -> None:
    """Two hundred times: ljexec is killed while it builds, runs or ends its jail; no loop device, mount, server or process stays."""
    dice = random.Random(20)
    for number in range(200):
        overlay = ["--overlay-dir", str(tree.root / "overlay")] if number % 3 == 0 else []
        jail = tree.start("ljexec", "--image", str(squashfs), *overlay, "--", "sleep", "0.05")
        time.sleep(dice.uniform(0, 0.09))
        victims = children(jail.pid) if number % 2 else [jail.pid]
        for victim in victims or [jail.pid]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        jail.communicate(timeout=30)
    wait_for(lambda: not leftovers(tree), "image mounts to go")
    wait_for(lambda: not tree.processes(), "processes to go")


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_nothing_is_left_after_a_service_was_killed_at_random(tree: Tree, squashfs: Path) -> None:
    """Supervisor, pid 1 of the jail, service, server: whichever dies, the service comes back, and in the end nothing of the image stays."""
    tree.ljsv("scan", "--daemon")
    tree.add("a", "#!/bin/sh\nexec sleep 1000", f'base = "{squashfs}"\nwritable = "overlay"', policy='[restart]\nstable_after = "0s"\ndelay = "100ms"\n')
    dice = random.Random(5)
    for _ in range(25):
        tree.wait_state("a", "ready")
        victims = [tree.supervisor_pid("a"), tree.pid("a"), int(record(tree, "a").get("pid", "0")), int(record(tree, "a").get("server_pid", "0"))]
        for victim in dice.sample([pid for pid in victims if pid > 1], dice.choice((1, 1, 2))):
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(dice.uniform(0, 0.1))
    tree.wait_state("a", "ready")
    tree.ljsv("exit", "--all")
    wait_for(lambda: not leftovers(tree), "image mounts to go")

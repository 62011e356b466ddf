"""`ljsv overlay diff|ls|snapshot|restore`: what a service has written, and copies of it that are the same in every respect."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for
from tests.integration.overlay.test_overlay import overlay_of, start, wait_log
from tests.integration.roots import make_image, require_image_mount, small_root

WRITE = """
if [ ! -e /made ]; then
echo new >/made; echo other >/etc/passwd; rm /bin/ls; ln /made /again
ln -s made /link; mkdir -p /d/e; echo x >/d/e/f; chmod 2750 /d/e; touch -d 2001-02-03 /d/e/f
rm -r /proc2/a; rm -r /opaque; mkdir /opaque; echo y >/opaque/own
dd if=/dev/zero of=/holes bs=1 count=1 seek=50000000 2>/dev/null; busybox mkfifo /fifo; chmod 4755 /made; chmod 0 /d/e/f
fi
echo END"""


def begin(tree: Tree, rootfs: str = 'writable = "overlay"', after: str = "") -> None:
    """A service that writes once, of every kind."""
    root = small_root(tree)
    (root / "proc2/a").mkdir(parents=True)
    (root / "proc2/a/b").touch()
    (root / "opaque").mkdir()
    (root / "opaque/below").touch()
    tree.own(root)
    tree.ljsv("scan", "--daemon")
    tree.add("web", f"#!/bin/sh\n{WRITE}{after}\nexec sleep 1000", f'base = "{root}"\n{rootfs}')
    tree.wait_state("web", "ready", "failed", "backoff")
    assert tree.state("web") == "ready", tree.detail("web")
    wait_log(tree, "END")


def describe(top: Path) -> dict[str, tuple[object, ...]]:
    """All that a copy has to keep: kind, mode, owner, times, contents, blocks, xattrs, and which names are one file."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in sorted((top, *top.rglob("*"))):
        entry = path.lstat()
        name = str(path.relative_to(top))
        one = first.setdefault(entry.st_ino, name) if not stat.S_ISDIR(entry.st_mode) else name
        data = path.read_bytes() if stat.S_ISREG(entry.st_mode) and entry.st_size < 1 << 20 else os.readlink(path) if path.is_symlink() else entry.st_size
        keys = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
        keys = {key: value for key, value in keys.items() if "uuid" not in key}
        keys = {key: b"" if key.endswith("origin") else value for key, value in keys.items()}
        if stat.S_ISDIR(entry.st_mode):
            data = 0
        found[name] = (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_rdev, entry.st_mtime_ns, data, keys, one)
    return found


def test_a_snapshot_is_the_same_in_every_respect(tree: Tree) -> None:
    """Modes, owners, times, holes, hard links, whiteouts, opaque directories, xattrs; and it can be restored."""
    begin(tree)
    assert "the service is ready" in tree.ljsv("overlay", "snapshot", "web", code=1).stderr
    tree.ljsv("down", "web")
    overlay = overlay_of(tree, "web")
    assert "snapshot 1 (before)" in tree.ljsv("overlay", "snapshot", "web", "before").stdout
    if os.geteuid() == 0:
        assert describe(overlay / "layers/1/upper") == describe(overlay / "upper")
    made = (overlay / "layers/1/upper/holes").stat()
    assert made.st_size == 50_000_001
    assert made.st_blocks < 1000
    assert (overlay / "layers/1/upper/made").stat().st_ino == (overlay / "layers/1/upper/again").stat().st_ino
    assert stat.S_ISCHR((overlay / "layers/1/upper/bin/ls").lstat().st_mode)
    (tree.sv / "web/run").write_text("#!/bin/sh\ncat /made /opaque/own; ls /opaque; echo changed >/made; echo END\nexec sleep 1000\n")
    tree.ljsv("up", "web")
    wait_log(tree, "END", 2)
    tree.ljsv("down", "web")
    assert (overlay / "upper/made").read_text() == "changed\n"
    tree.ljsv("overlay", "restore", "web")
    listed = tree.ljsv("overlay", "ls", "web").stdout
    assert "snapshot before" in listed and "2*" in listed, listed
    tree.ljsv("up", "web")
    wait_log(tree, "END", 3)
    assert tree.log("web").splitlines()[-3:-1] == ["y", "own"]
    assert tree.log("web").count("new") == 2
    assert (overlay / "layers/2/upper/made").read_text() == "changed\n"


def test_a_running_service_is_restored_as_a_deployment(tree: Tree) -> None:
    """It starts anew with the snapshot; one that was taken while it runs, by --live."""
    begin(tree, after="\ncat /made; echo TOLD")
    wait_log(tree, "TOLD")
    tree.ljsv("overlay", "snapshot", "web", "--live")
    tree.ljsv("enter", "web", "sh", "-c", "echo worse >/made")
    before = tree.pid("web")
    tree.ljsv("overlay", "restore", "web", "1")
    assert tree.pid("web") not in {0, before}
    wait_log(tree, "TOLD", 2)
    assert tree.log("web").count("new") == 2
    assert "worse" not in tree.log("web")


def test_snapshots_are_bounded(tree: Tree) -> None:
    """The newest five stay; what a killed copy has left goes."""
    begin(tree)
    tree.ljsv("down", "web")
    left = overlay_of(tree, "web") / "layers/.new-12345/upper"
    left.mkdir(parents=True)
    tree.own(overlay_of(tree, "web") / "layers")
    for number in range(7):
        tree.ljsv("overlay", "snapshot", "web", f"s{number}")
    rows = json.loads(tree.ljsv("overlay", "ls", "web", "--json").stdout)
    assert [row["why"] for row in rows] == ["the first", *(f"snapshot s{number}" for number in range(2, 7))]
    assert sorted(path.name for path in (overlay_of(tree, "web") / "layers").iterdir()) == ["3", "4", "5", "6", "7"]


DEPTH = 1500
DIFFERENCES = ["A again", "D bin/ls", "A d", "A d/e", "A d/e/f", "C etc/passwd", "A fifo", "A holes", "A link", "A made", "A opaque/own", "D opaque/below", "D proc2/a"]


def test_differences_to_a_directory(tree: Tree) -> None:
    """Added, changed, deleted; what is in a directory only because something below it is, is not told."""
    begin(tree, after="\necho >/etc/same; cp /bin/busybox /bin/busybox.new; mv /bin/busybox.new /bin/busybox; rm /etc/same")
    found = sorted(tree.ljsv("overlay", "diff", "web").stdout.splitlines())
    assert found == sorted(f"{line[0]} /{line[2:]}" for line in DIFFERENCES)
    assert {"change": "deleted", "path": "/bin/ls"} in json.loads(tree.ljsv("overlay", "diff", "web", "--json").stdout)


def test_differences_to_an_image(tree: Tree) -> None:
    """As root by its contents; unprivileged by its listing."""
    image = make_image(tree)
    require_image_mount(tree)
    if tree.uid:
        need("unsquashfs")
    tree.ljsv("scan", "--daemon")
    script = "echo x >/new; rm /bin/ls; rm -r /data; mkdir /data; echo other >/data/more; chmod 600 /etc/passwd; chmod 644 /etc/passwd; echo END"
    tree.add("web", f"#!/bin/sh\n{script}\nexec sleep 1000", f'base = "{image}"\nwritable = "overlay"')
    tree.wait_state("web", "ready")
    wait_log(tree, "END")
    found = sorted(tree.ljsv("overlay", "diff", "web").stdout.splitlines())
    same = [] if not tree.uid else ["C /etc/passwd"]
    assert found == sorted(["A /new", "A /data/more", "D /bin/ls", "D /data/file", *same]), f"{found} {tree.log('web')}"


@pytest.mark.usefixtures("subordinate")
def test_files_of_subordinate_ids_are_copied(tree: Tree) -> None:
    """With their owners, though the caller is none of them, and though they forbid it."""
    begin(tree, 'writable = "overlay"\nids = "range"', after="\nmkdir -p /o/p; echo z >/o/p/q; chown -R 33:34 /o; chmod 600 /o/p/q; chmod 700 /o/p /o; echo OWNED")
    wait_log(tree, "OWNED")
    tree.ljsv("down", "web")
    overlay = overlay_of(tree, "web")
    tree.ljsv("overlay", "snapshot", "web")
    assert describe(overlay / "layers/1/upper") == describe(overlay / "upper")
    assert (overlay / "layers/1/upper/o/p/q").stat().st_uid not in {0, tree.uid}
    assert "A /o/p/q" in tree.ljsv("overlay", "diff", "web").stdout
    tree.ljsv("exit", "web")
    tree.ljsv("purge", "web", "--yes")
    assert not overlay.exists()


def test_capabilities_of_files_are_copied(tree: Tree) -> None:
    """As root: what a jail may give a program, its copy has as well."""
    if tree.uid:
        pytest.skip("file capabilities of a jail with one id are of no use to compare: run as root")
    need("setcap")
    begin(tree)
    tree.ljsv("down", "web")
    upper = overlay_of(tree, "web") / "upper"
    shutil.copy("/bin/true", upper / "tool")
    os.setxattr(upper / "tool", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    tree.ljsv("overlay", "snapshot", "web")
    assert os.getxattr(overlay_of(tree, "web") / "layers/1/upper/tool", "security.capability") == os.getxattr(upper / "tool", "security.capability")


def test_very_deep_trees_are_copied_and_compared(tree: Tree) -> None:
    """Far deeper than PATH_MAX, with a bounded number of descriptors."""
    begin(tree)
    tree.ljsv("down", "web")
    fd = os.open(overlay_of(tree, "web") / "upper", os.O_RDONLY)
    for number in range(DEPTH):
        name = f"deep{number:0120}"
        os.mkdir(name, dir_fd=fd)
        os.chown(name, tree.uid, tree.uid, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    tree.ljsv("overlay", "snapshot", "web")
    for layer in ("0", "1"):
        assert f"deep{DEPTH - 1:0120}" in tree.ljsv("overlay", "diff", "web", layer).stdout
    tree.ljsv("exit", "web")
    tree.ljsv("purge", "web", "--yes")


def test_nothing_to_copy(tree: Tree) -> None:
    """A service that has written nothing, one without an overlay, and layers that are not there."""
    start(tree, "echo END")
    wait_log(tree, "END")
    tree.ljsv("down", "web")
    assert "no snapshot" in tree.ljsv("overlay", "restore", "web", code=1).stderr
    for action, word in (("restore", "9"), ("diff", "9"), ("diff", "newest")):
        assert "no such layer" in tree.ljsv("overlay", action, "web", word, code=1).stderr
    assert "in effect" in tree.ljsv("overlay", "restore", "web", "0", code=1).stderr
    tree.add("plain")
    wait_for(lambda: tree.state("plain") == "ready", "it")
    assert "it has no overlay" in tree.ljsv("overlay", "diff", "plain", code=1).stderr
    assert "wants one of" in tree.ljsv("overlay", "undo", "web", code=100).stderr

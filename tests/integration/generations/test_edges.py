"""Deployments at their edges: images by name, refusals, calling off, edits of base, a service directory that may not be written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ljsv.status import read_detail
from tests.conftest import Tree, wait_for
from tests.integration.generations.test_generations import NOTIFY, QUICK, begin, in_jail, make_images, record, state_of
from tests.integration.store_kit import own_store, use_store


def test_an_image_of_the_store_is_pinned(tree: Tree) -> None:
    """By its name, as it is now: the name may stand for another later, and the image cannot be removed while there is a way back to it."""
    use_store(tree)
    make_images(tree, one="good", two="good")
    begin(tree)
    for name in ("one", "two"):
        tree.ljsv("image", "import", f"{tree.root}/{name}.squashfs", "-t", f"web:{name}")
    tree.ljsv("deploy", "web", "--image", "web:two")
    assert tree.detail("web")["jail"] == "web:two + overlay"
    tree.ljsv("image", "tag", "web:one", "web:two")
    tree.ljsv("restart", "web")
    assert in_jail(tree, "cat", "/version") == "two"
    tree.ljsv("rollback", "web")
    assert in_jail(tree, "cat", "/version") == "one"
    gone = tree.ljsv("image", "gc").stdout
    tree.ljsv("rollback", "web", "--to", "1")
    assert in_jail(tree, "cat", "/version") == "two", gone
    tree.ljsv("image", "tag", "web:one", "team/web")
    tree.ljsv("deploy", "web", "--image", "team/web")
    assert in_jail(tree, "cat", "/version") == "one"
    assert "no such image" in tree.ljsv("deploy", "web", "--image", "web:9", code=111).stderr
    before = tree.pid("web")
    (lost,) = (Path(kept["path"]) for kept in record(tree)["kept"] if kept["number"] == 1)
    lost.unlink()
    assert "the image is gone: web:two" in tree.ljsv("rollback", "web", "--to", "1", code=1).stderr
    assert tree.pid("web") == before


def test_who_is_deleted_by_hand_keeps_no_image(tree: Tree) -> None:
    """The way back is gone with the state directory, and nobody could let go of the image any more."""
    use_store(tree)
    make_images(tree, one="good", two="good")
    begin(tree)
    tree.ljsv("image", "import", f"{tree.root}/two.squashfs", "-t", "web:two")
    tree.ljsv("deploy", "web", "--image", "web:two")
    tree.ljsv("exit", "--all")
    assert "deployments of web" in tree.ljsv("image", "rm", "web:two", code=1).stderr
    shutil.rmtree(state_of(tree))
    assert "deleted sha256:" in tree.ljsv("image", "rm", "web:two").stdout
    tree.ljsv("image", "gc")
    assert not list((own_store(tree) / "pins").iterdir())


def test_what_is_refused(tree: Tree) -> None:
    """Before anything is stopped, with file and hint."""
    make_images(tree, one="good")
    begin(tree)
    before = tree.pid("web")
    (tree.root / "text").write_text("no image")
    assert "neither squashfs nor erofs" in tree.ljsv("deploy", "web", "--image", f"{tree.root}/text", code=111).stderr
    assert "which image?" in tree.ljsv("deploy", "web", code=100).stderr
    assert "nothing was deployed" in tree.ljsv("rollback", "web", code=1).stderr
    assert "no such service" in tree.ljsv("deploy", "wob", "--image", f"{tree.root}/one.squashfs", code=4).stderr
    assert "kept are: none" in tree.ljsv("rollback", "web", "--to", "7", code=1).stderr
    assert tree.pid("web") == before


def test_down_calls_it_off_and_another_waits_its_turn(tree: Tree) -> None:
    """While the old one is still ending: nothing has changed, and nothing runs."""
    make_images(tree, one="good", two="good")
    tree.ljsv("scan", "--daemon")
    run = "#!/bin/sh\ntrap 'while [ ! -e /go ]; do sleep 0.1; done; exit 0' TERM\necho ready >&3\nwhile :; do sleep 0.1; done\n"
    tree.add("web", run, f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"', policy=QUICK.replace('"1s"', '"60s"'))
    tree.wait_state("web", "ready")
    command = tree.start("ljsv", "deploy", "web", "--image", f"{tree.root}/two.squashfs")
    tree.wait_state("web", "stopping")
    assert "a deployment is under way" in tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs", code=1).stderr
    down = tree.start("ljsv", "down", "web", "-w", "60")
    wait_for(lambda: record(tree)["trial"] is None, "it to be called off")
    tree.ljsv("enter", "web", "touch", "/go")
    down.communicate(timeout=60)
    said = command.communicate(timeout=60)[0]
    assert command.returncode == 1
    assert "told to go down before it was begun" in said
    assert tree.state("web") == "down"
    tree.ljsv("up", "web")
    assert in_jail(tree, "cat", "/version") == "one"


def test_of_several_at_once_one_is_done(tree: Tree) -> None:
    """The others are refused: image, record and overlay are those of the one."""
    images = ("two", "three", "four")
    make_images(tree, one="good", **dict.fromkeys(images, "good"))
    begin(tree)
    commands = {name: tree.start("ljsv", "deploy", "web", "--image", f"{tree.root}/{name}.squashfs", "--settle", "3") for name in images}
    said = {name: command.communicate(timeout=60)[0] for name, command in commands.items()}
    done = [name for name, command in commands.items() if command.returncode == 0]
    assert len(done) == 1, said
    assert all("a deployment is under way" in said[name] for name in images if name not in done), said
    assert in_jail(tree, "cat", "/version") == done[0]
    assert tree.detail("web")["image"] == f"{done[0]}.squashfs"
    assert in_jail(tree, "cat", "/told").split() == ["one", done[0]]


@pytest.mark.parametrize("kind", ["good", "ends"])
def test_a_service_that_is_down(tree: Tree, kind: str) -> None:
    """A good image starts it; a bad one leaves it down."""
    make_images(tree, one="good", two=kind)
    begin(tree)
    tree.ljsv("down", "web")
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs", code=0 if kind == "good" else 1)
    tree.wait_state("web", "ready" if kind == "good" else "down")


def test_while_its_log_service_reads_the_rest(tree: Tree) -> None:
    """It was told to exit: what is deployed then is deployed by the supervisor that follows, and the exit is called off."""
    make_images(tree, one="good", two="good")
    begin(tree)
    log = tree.write("log", "#!/bin/sh\ncat >/dev/null\nsleep 1\n", rootfs=None)
    log.rename(tree.sv / "web/log")
    wait_for(lambda: read_detail(str(tree.sv / "web/log/supervise")).get("state") == "ready", "its log service")
    with open(tree.supervise("web") / "control", "w") as control:
        control.write("x")
    tree.wait_state("web", "down")
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs")
    assert in_jail(tree, "cat", "/version") == "two"


def test_an_edited_base_is_the_newer_word(tree: Tree) -> None:
    """From the next start on, with the overlay as it is; and that is said."""
    make_images(tree, one="good", two="good", three="good")
    begin(tree)
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs")
    (tree.sv / "web/rootfs").write_text(f'base = "{tree.root}/three.squashfs"\nwritable = "overlay"\n')
    wait_for(lambda: "rootfs" in tree.detail("web").get("changed", ""), "the edit to be seen")
    assert in_jail(tree, "cat", "/version") == "two"
    tree.ljsv("restart", "web")
    assert in_jail(tree, "cat", "/version") == "three"
    assert in_jail(tree, "cat", "/told") == "one\ntwo\nthree\n"
    assert "base was edited after two.squashfs was deployed" in tree.ljsv("status", "web").stdout


def test_a_service_directory_that_is_replaced_keeps_what_was_deployed(tree: Tree) -> None:
    """Nothing was written into it: generations live in the state directory."""
    make_images(tree, one="good", two="good")
    begin(tree)
    before = {path.name: path.stat().st_mtime_ns for path in (tree.sv / "web").iterdir() if path.name != "supervise"}
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs")
    assert {path.name: path.stat().st_mtime_ns for path in (tree.sv / "web").iterdir() if path.name != "supervise"} == before
    replacement = tree.write("other", NOTIFY, f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"', policy=QUICK)
    pid = tree.pid("web")
    (tree.sv / "web").rename(tree.staging / "old")
    replacement.rename(tree.sv / "web")
    wait_for(lambda: tree.pid("web") not in {0, pid} and tree.state("web") == "ready", "the new directory's")
    assert in_jail(tree, "cat", "/version") == "two"
    (tree.sv / "web").rename(tree.sv / "site")
    wait_for(lambda: "site" in tree.detail("site").get("directory", ""), "the new name")
    tree.ljsv("restart", "site")
    assert tree.ljsv("enter", "site", "cat", "/version").stdout == "two"


def test_a_finish_script_runs_with_the_image_that_has_ended(tree: Tree) -> None:
    """Also that of a trial: what it says is of the new image; then the old one comes back."""
    make_images(tree, one="good", two="ends")
    tree.ljsv("scan", "--daemon")
    tree.add("web", NOTIFY, f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"', policy=QUICK, finish="#!/bin/sh\necho finish $1 $(cat /version)\n")
    tree.wait_state("web", "ready")
    tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs", code=1)
    tree.wait_state("web", "ready")
    assert [line for line in tree.log("web").splitlines() if line.startswith("finish")] == ["finish -1 one", "finish 7 two"]
    assert in_jail(tree, "cat", "/told") == "one\none\n"


def test_generations_are_bounded(tree: Tree) -> None:
    """Three before the current one, with their images and layers; what is older is gone, and cannot be gone back to."""
    make_images(tree, one="good", two="good", three="good")
    begin(tree)
    for number in range(6):
        tree.ljsv("deploy", "web", "--image", f"{tree.root}/{('two', 'three')[number % 2]}.squashfs")
    assert [item["number"] for item in record(tree)["kept"]] == [3, 4, 5, 6]
    layers = sorted(path.name for path in (state_of(tree) / "overlay/layers").iterdir())
    assert len(layers) <= 5
    assert len(list((state_of(tree) / "images").iterdir())) == 2
    assert "kept are: " in tree.ljsv("rollback", "web", "--to", "1", code=1).stderr
    tree.ljsv("exit", "web")
    tree.ljsv("purge", "web", "--yes")
    assert not state_of(tree).exists()


def test_what_cannot_be_copied_is_told_and_what_was_runs(tree: Tree) -> None:
    """No room for a copy: the old one is started again, and nothing of the copy is left."""
    if tree.uid:
        pytest.skip("a small file system to be full is mounted by root")
    make_images(tree, one="good", two="good")
    place = tree.root / "small"
    place.mkdir()
    assert os.system(f"mount -t tmpfs -o size=3M none {place}") == 0
    try:
        tree.ljsv("scan", "--daemon")
        rootfs = f'base = "{tree.root}/one.squashfs"\nwritable = "overlay"\noverlay = "{place}/data"'
        tree.add("web", "#!/bin/sh\ndd if=/dev/urandom of=/big bs=1M count=2 2>/dev/null\n/bin/serve\n", rootfs, policy=QUICK)
        if tree.wait_state("web", "ready", "failed")["state"] == "failed":
            pytest.skip("this kernel cannot id-map tmpfs")
        failed = tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs", code=1)
        assert "No space left on device" in failed.stdout
        tree.wait_state("web", "ready")
        assert in_jail(tree, "cat", "/version") == "one"
        assert list((place / "data/layers").iterdir()) == []
        tree.ljsv("exit", "web")
    finally:
        os.system(f"umount {place}")
        shutil.rmtree(place)

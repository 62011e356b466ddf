"""The image store: names, services that need no run, what is in use, and what is left behind."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ljsv.service.stored import HealthCheck
from tests.conftest import Tree, wait_for
from tests.integration.roots import make_image, require_image_mount
from tests.integration.store_kit import own_store, store_image


@pytest.fixture
def image(tree: Tree) -> Path:
    require_image_mount(tree)
    return make_image(tree)


def test_a_service_that_is_only_an_image(tree: Tree, image: Path) -> None:
    """No run: the image's program, user, variables, folder and stop signal; env/ and policy say otherwise where they do. It is in use, then not."""
    argv = ("/bin/sh", "-c", "trap 'echo hup; exit 0' HUP; echo $(id -u) $PWD $A $B; while :; do sleep 0.1; done")
    digest = store_image(tree, image, "web:1", env=(("A", "image"), ("B", "image")), entrypoint=argv[:2], command=argv[2:], workdir="/web", user="web", stop_signal="HUP")
    assert (own_store(tree) / f"images/sha256-{digest}.squashfs").exists()
    tree.ljsv("scan", "--daemon")
    path = tree.write("web", rootfs='base = "web:1"', env__B="service\n")
    (path / "run").unlink()
    path.rename(tree.sv / "web")
    tree.wait_state("web", "ready", timeout_s=40)
    assert tree.detail("web")["jail"] == "web:1"
    wait_for(lambda: "33 /web image service" in tree.log("web"), "its word")
    refused = tree.ljsv("image", "rm", "web:1", code=1)
    assert "in use" in refused.stderr and "sv/web" in refused.stderr, refused.stderr
    tree.ljsv("down", "web")
    assert "hup" in tree.log("web")
    tree.ljsv("exit", "--all")
    tree.ljsv("remove", "web", "--yes", code=None)
    assert "deleted" in tree.ljsv("image", "rm", "web:1").stdout
    assert not list((own_store(tree) / "images").iterdir())


def test_names_come_and_go(tree: Tree, image: Path) -> None:
    """tag, rm by name and by digest, gc, verify: an image stays while it has a name, a user or a pin; damage is found."""
    digest = store_image(tree, image, "web:1")
    tree.ljsv("image", "tag", "web:1", "team/web")
    assert "untagged" in tree.ljsv("image", "rm", "web:1").stdout
    assert tree.run("ljexec", "--image", "team/web:latest", "--", "cat", "/data/file").stdout == "content\n"
    assert tree.run("ljexec", "--image", f"sha256:{digest[:12]}", "--", "cat", "/data/file").stdout == "content\n"
    (tree.home / "Upper.squashfs").write_bytes(image.read_bytes())
    assert "Upper.squashfs" in tree.ljsv("image", "inspect", "Upper.squashfs", cwd=tree.home).stdout
    assert "did you mean team/web:latest" in tree.ljsv("image", "inspect", "team/wb", code=111).stderr
    assert "not an image's name" in tree.ljsv("image", "tag", "team/web", "UPPER", code=111).stderr
    assert "not an image's name" in tree.ljsv("image", "tag", "team/web", f"sha256:{digest[:12]}", code=111).stderr
    tree.add("down", rootfs='base = "team/web"', down="")
    refused = tree.ljsv("image", "rm", "team/web", code=1).stderr
    assert "in use" in refused and "service directory" in refused and "sv/down" in refused
    tree.ljsv("image", "tag", "team/web", "other")
    assert "the name is in use" in tree.ljsv("image", "rm", "team/web", code=1).stderr  # though the image stays
    assert "untagged" in tree.ljsv("image", "rm", "other").stdout
    (tree.sv / "down/rootfs").write_text('base = "host"\n')
    pin = "from ljsv.images.store import open_store; import sys; open_store().pin('a test', tuple(sys.argv[1:]))"
    python = str(tree.programs / "python")
    assert tree.run(python, "-I", "-c", pin, digest).returncode == 0
    assert "a test" in tree.ljsv("image", "rm", "team/web", code=1).stderr
    (own_store(tree) / "names/team+web:latest").unlink()
    assert digest not in tree.ljsv("image", "gc").stdout
    tree.ljsv("image", "verify")
    assert tree.run(python, "-I", "-c", pin).returncode == 0
    path = own_store(tree) / f"images/sha256-{digest}.squashfs"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    assert f"damaged: {digest}" in tree.ljsv("image", "verify", code=1).stdout
    assert f"deleted: sha256:{digest}" in tree.ljsv("image", "gc").stdout
    assert not path.exists()
    assert "no such image: team/web" in tree.run("ljexec", "--image", "team/web", "--", "true").stderr


def test_builds_at_the_same_time_and_ends_at_any_moment(tree: Tree, image: Path) -> None:
    """Twelve imports of one name at once, half of them killed at moments of their own: the store is whole, and the name leads to an image."""
    store_image(tree, image, "web:1")
    copies = []
    for number in range(4):
        copy = tree.root / f"copy{number}"
        copy.write_bytes(image.read_bytes() + bytes(4096 * (number + 1)))
        tree.own(copy)
        copies.append(copy)
    running = [tree.start("ljsv", "image", "import", str(copies[number % 4]), "-t", "web:1") for number in range(12)]
    for number, process in enumerate(running[::2]):
        time.sleep(0.03 * number)
        process.kill()
    assert [process.wait() for process in running[1::2]] == [0] * 6
    for process in running[::2]:
        process.wait()
    tree.ljsv("image", "verify")
    seen = json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)
    assert seen["name"] == "web:1"
    # what a killed one has forked may hold its folder a moment longer
    wait_for(lambda: tree.ljsv("image", "gc") and list((own_store(tree) / "build").iterdir()) == [], "the folders of those that were killed to go")
    rows = [row for row in json.loads(tree.ljsv("image", "ls", "--json").stdout) if row["is_own"]]
    assert [(row["name"], f"sha256:{row['digest']}") for row in rows] == [("web:1", seen["digest"])]


def test_a_name_that_stands_for_another_image(tree: Tree, image: Path) -> None:
    """A restart takes the new one; a health check makes it ready; the jail keeps its image while it runs, whatever becomes of the name."""
    loop = "while :; do sleep 0.1; done"
    check = HealthCheck(("/bin/sh", "-c", "test -e /tmp/well"))
    first = store_image(tree, image, "web:1", entrypoint=("/bin/sh", "-c", f"echo one; {loop}"))
    tree.ljsv("new", "web", "--image", "web:1")
    tree.ljsv("up", "web", "-w", "30")
    second = store_image(tree, image, "web:1", entrypoint=("/bin/sh", "-c", f"echo two; sleep 0.5; : > /tmp/well; {loop}"), health=check)
    assert first != second
    assert "a jail of" in tree.ljsv("image", "rm", f"sha256:{first}", code=1).stderr
    tree.ljsv("image", "gc")
    assert (own_store(tree) / f"images/sha256-{first}.squashfs").exists()
    tree.ljsv("restart", "web", "-w", "30")
    wait_for(lambda: "two" in tree.log("web"), "the new image")
    assert tree.wait_state("web", "ready")["ready_by"] == "check"
    assert first in tree.ljsv("image", "gc").stdout
    assert tree.ljsv("lint", "web", code=None).returncode == 0

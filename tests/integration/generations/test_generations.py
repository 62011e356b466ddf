"""`ljsv deploy` and `ljsv rollback`: another image with a way back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, need
from tests.integration.roots import require_image_mount, small_root

NOTIFY = "#!/bin/sh\n/bin/serve\n"
QUICK = '[ready]\nby = "fd"\ntimeout = "15s"\n[stop]\ntimeout = "1s"\n'
# What the images run: they say who they are, count their runs in the overlay, and are ready on descriptor 3 or not.
SERVE = {
    "good": "echo ready >&3; exec sleep 1000",
    "ends": "exit 7",
    "never": "exec sleep 1000",
    "later": "sleep 0.3; echo ready >&3; exec sleep 1000",
    "fades": "echo ready >&3; sleep 0.3; exit 9",
}


def make_images(tree: Tree, **kinds: str) -> None:
    """NAME.squashfs for each, whose /bin/serve does what `SERVE` says."""
    need("mksquashfs")
    require_image_mount(tree)
    root = small_root(tree)
    for name, kind in kinds.items():
        serve = root / "bin/serve"
        serve.write_text(f"#!/bin/sh\necho {name} >>/told\necho begin {name}\n{SERVE[kind]}\n")
        serve.chmod(0o755)
        (root / "version").write_text(name)
        image = tree.root / f"{name}.squashfs"
        image.unlink(missing_ok=True)
        subprocess.run(["mksquashfs", str(root), str(image), "-noappend", "-quiet", "-no-progress", "-all-root"], check=True, capture_output=True)
        image.chmod(0o644)


def begin(tree: Tree, policy: str = QUICK, rootfs: str = 'writable = "overlay"', image: str = "one") -> None:
    tree.ljsv("scan", "--daemon")
    tree.add("web", NOTIFY, f'base = "{tree.root}/{image}.squashfs"\n{rootfs}', policy=policy)
    tree.wait_state("web", "ready")


def state_of(tree: Tree) -> Path:
    base = Path("/var/lib/ljsv") if not tree.uid else tree.home / ".local/state/ljsv"
    return next(base.glob(f"sv-{tree.scan_hash()}")) / "web"


def record(tree: Tree) -> dict:
    return json.loads((state_of(tree) / "generations").read_text())


def in_jail(tree: Tree, *argv: str) -> str:
    return tree.ljsv("enter", "web", *argv).stdout


def test_a_good_image_is_kept(tree: Tree) -> None:
    """Ready: it is the current one, with what the one before had written; rollback gives both back as they were."""
    make_images(tree, one="good", two="later")
    begin(tree)
    done = tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs")
    assert "ok: web: ready" in done.stdout and "two.squashfs (generation 1)" in done.stdout
    assert in_jail(tree, "cat", "/version") == "two"
    assert in_jail(tree, "cat", "/told") == "one\ntwo\n"
    detail = tree.detail("web")
    assert (detail["image"], detail["image_generation"], detail["jail"]) == ("two.squashfs", "1", "two.squashfs + overlay")
    (tree.root / "two.squashfs").unlink()  # it is kept
    tree.ljsv("restart", "web")
    assert in_jail(tree, "cat", "/version") == "two"
    tree.ljsv("rollback", "web")
    assert in_jail(tree, "cat", "/version") == "one"
    assert in_jail(tree, "cat", "/told") == "one\none\n"
    tree.ljsv("rollback", "web", "--to", "1")
    assert in_jail(tree, "cat", "/told") == "one\ntwo\ntwo\ntwo\n"


@pytest.mark.parametrize(
    ("kind", "reason"), [("ends", "its run ended before it was ready"), ("never", "not ready within 4s"), ("fades", "it was ready, and ended before it was kept")],
)
def test_a_bad_image_goes_back_by_itself(tree: Tree, kind: str, reason: str) -> None:
    """Old image, and overlay as it was; told by the command, in status and why."""
    make_images(tree, one="good", two=kind)
    begin(tree, QUICK.replace("15s", "4s" if kind == "never" else "15s"))
    settle = ["--settle", "2"] if kind == "fades" else []
    failed = tree.ljsv("deploy", "web", "--image", f"{tree.root}/two.squashfs", *settle, code=1)
    assert f"fail: web: two.squashfs (generation 1): {reason}" in failed.stdout, failed.stdout
    assert "its overlay as it was" in failed.stdout and "log: " in failed.stderr and "hint: ljsv why web" in failed.stderr
    tree.wait_state("web", "ready")
    assert in_jail(tree, "cat", "/version") == "one"
    assert in_jail(tree, "cat", "/told") == "one\none\n"
    for verb in ("status", "why"):
        assert "two.squashfs (generation 1)" in tree.ljsv(verb, "web").stdout
        assert reason in tree.ljsv(verb, "web").stdout
    assert reason in json.loads(tree.ljsv("status", "web", "--json").stdout)[0]["not_deployed"]
    assert record(tree)["current"] == 0
    assert record(tree)["trial"] is None

"""ljsv out of one file: every process of it, and the file replaced under a living tree."""

from __future__ import annotations

import json
import shutil
import zipapp
from pathlib import Path

import pytest

from tests.conftest import PACKAGES, Tree, wait_for

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def pyz(tree: Tree) -> Path:
    """The file, made of what is installed here."""
    (site,) = tree.programs.parent.glob("lib/python3.*/site-packages")
    work = tree.root / "work"
    work.mkdir()
    for name in PACKAGES:
        source = site / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / name)
    shutil.copy(CHECKOUT / "tools/packaging/__main__.py", work)
    return build(tree, "0.1.0")


def build(tree: Tree, version: str) -> Path:
    """Made beside its place and renamed there, as an upgrade does it; a module that nobody has asked for makes all offsets others."""
    init = tree.root / "work/ljsv/__init__.py"
    init.write_text(f'__version__ = "{version}"\n')
    (tree.root / "work/aaa.py").write_text(f"# {version}\n" * len(version))
    new, path = tree.root / "new.pyz", tree.root / "ljsv.pyz"
    zipapp.create_archive(tree.root / "work", new, interpreter=f"{tree.programs}/python -IS", compressed=True)
    new.chmod(0o755)
    new.replace(path)
    return path


def versions(tree: Tree) -> list[str]:
    """Of each scanner that has started."""
    return [json.loads(line)["version"] for line in tree.events().splitlines() if "scanner started" in line]


def test_zipapp_runs_and_is_replaced(tree: Tree, pyz: Path) -> None:
    """Scanner and journal come out of it; replaced, the old ones go on, new services too, until `upgrade`."""
    tree.add("web", "echo hello\nexec sleep 1000")
    assert tree.run(str(pyz), "--version").stdout == "ljsv 0.1.0\n"
    done = tree.run(str(pyz), "up", "web")
    assert done.returncode == 0, done.stderr
    pid = tree.pid("web")
    wait_for(lambda: versions(tree) == ["0.1.0"], f"the first scanner's word: {tree.events()}")
    build(tree, "0.2.0.with.more")
    tree.add("later", "echo later\nexec sleep 1000", finish="#!/bin/sh\nexit 0\n", log__run="#!/bin/sh\nexec cat > /run/log/out\n")
    tree.wait_state("later", "ready")
    bad = tree.add("bad", rootfs="base = ")
    tree.wait_state("bad", "failed")
    (bad / "rootfs").write_text('base = "host"\n')
    tree.wait_state("bad", "ready")
    tree.kill("later")
    wait_for(lambda: tree.detail("later").get("restarts") == "1" and tree.state("later") == "ready", "a restart")
    done = tree.run(str(pyz), "upgrade", "-w", "30")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: versions(tree) == ["0.1.0", "0.2.0.with.more"], "the new scanner")
    assert tree.pid("web") == pid
    assert "PostgreSQL" in tree.run(str(pyz), "new", "--templates").stdout
    assert tree.run(str(pyz), "new", "job", "--template", "job", "--down").returncode == 0
    assert (tree.sv / "job/run").read_text().endswith('echo "the job is done"\n')
    assert tree.run(str(pyz), "completion", "bash").stdout.startswith("# Completion")
    assert tree.run(str(pyz), "exit", "--all").returncode == 0


def test_zipapp_is_ljexec_by_that_name(tree: Tree, pyz: Path) -> None:
    """A link is enough."""
    (tree.root / "ljexec").symlink_to(pyz)
    done = tree.run(str(tree.root / "ljexec"), "--exec", "echo from a jail")
    assert (done.stdout, done.returncode) == ("from a jail\n", 0), done.stderr

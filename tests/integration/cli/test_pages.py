"""README and the pages for people who know a neighbour, typed as they stand: what is the reader's own lies in the tree instead."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for
from tests.integration.ports import ask, free_port
from tests.integration.roots import make_image, small_root
from tests.integration.store_kit import store_image, use_store

CHECKOUT = Path(__file__).parents[3]


def blocks(page: str, kind: str, heading: str = "") -> list[str]:
    """The contents of all blocks of that kind, below that heading where one is given."""
    text = (CHECKOUT / page).read_text()
    if heading:
        text = re.split(r"(?m)^## ", text.partition(f"\n## {heading}\n")[2])[0]
    found = [block for name, block in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if name == kind]
    assert found, f"{page}: no {kind} block below {heading!r}"
    return found


def type_in(tree: Tree, script: str, **places: object) -> str:
    """All lines of a block, each of which has to succeed; paths of the reader's machine are put where they may be."""
    for place, here in places.items():
        script = script.replace(place, str(here))
    done = tree.run("bash", "-e", "-o", "pipefail", "-c", script, env={"SVDIR": ""})
    assert done.returncode == 0, f"{script}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_readme_first_five_minutes(tree: Tree) -> None:
    """All of it, after `ljsv up web`."""
    for name in ("web", "flaky"):
        shutil.copytree(CHECKOUT / "sv" / name, tree.sv / name, ignore=shutil.ignore_patterns("supervise"))
    tree.own(tree.sv)
    (tree.sv / "web/env").mkdir()
    (tree.sv / "web/env/PORT").write_text(f"{free_port()}\n")
    tree.ljsv("up", "web")
    for block in blocks("README.md", "sh", "The first five minutes"):
        for line in block.splitlines():
            if line.startswith("ljsv logs "):  # a reader is slower: a service that has just begun has written nothing yet
                name = line.split()[2]
                wait_for(lambda name=name: tree.log(name), f"the first words of {name}")
            said = type_in(tree, line, **{"/tmp/clock": tree.root / "clock"})
            if line.startswith("ljsv why flaky"):
                assert said.startswith("flaky: ") and "exit " in said
    wait_for(lambda: not tree.processes(), "everything to be gone")


def test_readme_one_jail_by_hand(tree: Tree) -> None:
    """A root of busybox, read-only, then with an overlay that keeps what was written."""
    need("busybox")
    (block,) = blocks("README.md", "sh", "One jail by hand")
    said = type_in(tree, block.replace("echo read-only", "echo read-only; ! touch /new 2>&1"), **{"/tmp/root": tree.root / "root", "/tmp/my-overlay": tree.root / "overlay"})
    assert "read-only\n" in said and "kept\n" in said


def test_coming_from_runit(tree: Tree) -> None:
    """A service directory of runit's, taken over by hand, and steered by the real sv."""
    need("sv")
    theirs = tree.root / "theirs/web"
    (theirs / "supervise").mkdir(parents=True)
    (theirs / "run").write_text("#!/bin/sh\nexec 2>&1\nexec sleep 1000\n")
    (theirs / "run").chmod(0o755)
    tree.own(tree.root / "theirs")
    tree.ljsv("scan", "--daemon")
    (block,) = blocks("docs/coming-from-runit.md", "sh")
    type_in(tree, block, **{"/etc/sv/web": theirs, "/tmp/web": tree.root / "web"})
    tree.wait_state("web", "ready")
    assert tree.run("sv", "status", "web").stdout.startswith("run: web: (pid ")


def test_coming_from_supervisord(tree: Tree) -> None:
    """The section's program as a service of its user; it answers, and INT ends it."""
    place, port = tree.root / "www", free_port()
    place.mkdir()
    (place / "index.html").write_text("theirs\n")
    place.chmod(0o755)
    type_in(tree, "\n".join(blocks("docs/coming-from-supervisord.md", "sh")), **{"/srv/www": place, "8090": port})
    assert "200 OK" in wait_for(lambda: ask(port, b"GET /index.html HTTP/1.0\r\n\r\n"), "its answer")
    assert tree.ljsv("enter", "web", "sh", "-c", "tr '\\0' '\\n' < /proc/2/environ; id -un").stdout.splitlines()[-1] == "www-data"
    tree.ljsv("down", "web")
    assert tree.detail("web")["end_text"] == "exit 0"


def test_coming_from_docker_compose(tree: Tree) -> None:
    """`--from-compose` makes of the page's file what the page shows."""
    pytest.importorskip("yaml")
    store_image(tree, make_image(tree), "api:3")
    (compose,) = blocks("docs/coming-from-docker-compose.md", "yaml")
    data = tree.root / "data"
    data.mkdir()
    (tree.root / "compose.yaml").write_text(compose.replace("/srv/api", str(data)))
    tree.ljsv("new", "--from-compose", "compose.yaml", "--down", code=None)
    (shown,) = blocks("docs/coming-from-docker-compose.md", "")
    files: dict[str, str] = {}
    name = ""
    for line in shown.splitlines():
        name = line[:26].strip() or name
        files[name] = files.get(name, "") + line[26:] + "\n"
    assert len(files) == 5
    for path, text in files.items():
        made = (tree.root / path).read_text()
        for wanted in textwrap.dedent(text).replace("/srv/api", str(data)).splitlines():
            assert wanted in made, f"{path}: {wanted!r} is not in\n{made}"


def test_a_template_of_ones_own(tree: Tree) -> None:
    """As docs/templates.md has it."""
    declaration, rootfs = blocks("docs/templates.md", "toml")
    script, commands = blocks("docs/templates.md", "sh", "Templates of your own")[:2]
    folder = tree.root / "templates/hello"
    folder.mkdir(parents=True)
    (folder / "template.toml").write_text(declaration)
    (folder / "run").write_text(script)
    (folder / "rootfs").write_text(rootfs)
    said = type_in(tree, commands)
    assert "says hello, again and again" in said
    tree.ljsv("up", "hi")
    wait_for(lambda: tree.log("hi") == "hello, world", "its word")


def test_images(tree: Tree) -> None:
    """What docs/images.md builds, from a root of busybox: into a file, into the store, from a Dockerfile; started, and moved to another image."""
    need("busybox", "mksquashfs")
    pytest.importorskip("dockerfile")
    tree.open_fuse()
    use_store(tree)
    root, project = small_root(tree), tree.root / "project"
    subprocess.run(["tar", "-C", str(root), "-czf", str(tree.root / "alpine-minirootfs.tar.gz"), "."], check=True)
    shutil.move(root, tree.root / "rootdir")
    project.mkdir()
    dockerfile = 'ARG VERSION=1\nFROM web:1 AS release\nARG VERSION\nRUN echo $VERSION > /version\nCMD ["sleep", "1000"]\nFROM release\nRUN false\n'
    (project / "Dockerfile").write_text(dockerfile.partition("FROM release\n")[0])
    (project / "other.dockerfile").write_text("FROM scratch\nCOPY other.dockerfile /\n")
    first, second = blocks("docs/images.md", "sh")
    *builds, deploy = first.splitlines()
    type_in(tree, "\n".join(builds))
    assert tree.state("web") in {"up", "ready"} and "web:2" in tree.ljsv("status", "web", "-o", "jail").stdout
    (project / "Dockerfile").write_text(dockerfile)
    of_a_stage, of_another_file = second.splitlines()
    type_in(tree, of_a_stage.replace("web:1", "web:3"))
    type_in(tree, deploy)
    assert tree.ljsv("enter", "web", "cat", "/version").stdout == "3\n"
    type_in(tree, of_another_file)
    assert "/other.dockerfile" in tree.ljsv("image", "inspect", "--files", "web:1").stdout

"""Inputs that are rarer: extended attributes, EROFS below, ids of others in RUN, and the corners of Dockerfiles."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Tree, need
from tests.integration.images.test_build import build, leftovers, listing, make_context
from tests.integration.roots import require_image_mount

# cap_net_raw+ep, as the kernel writes it down (struct vfs_cap_data, revision 2)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def test_extended_attributes_come_through(tree: Tree) -> None:
    """Those of users and file capabilities are kept from a tar, through the image and back; an overlay's own and a label are not."""
    archive, back = tree.home / "root.tar", tree.home / "back.tar"
    wanted = {"user.note": "kept", "security.capability": CAPABILITY.decode("latin-1")}
    others = {"trusted.overlay.opaque": "y", "user.overlay.opaque": "y", "security.selinux": "label"}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        item = tarfile.TarInfo("tool")
        item.mode = 0o755
        item.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in (wanted | others).items()}
        tar.addfile(item)
    # tarfile writes what is no ASCII as UTF-8; a real archiver writes the bytes
    data = archive.read_bytes()
    assert CAPABILITY in data
    first = build(tree, archive, "-t", "web:1")
    tree.ljsv("image", "export", "web:1", "-o", str(back))
    assert CAPABILITY in back.read_bytes()
    with tarfile.open(back) as tar:
        names = {name.removeprefix("SCHILY.xattr.") for name in tar.getmember("./tool").pax_headers if "xattr" in name}
    assert names == set(wanted)
    assert build(tree, back, "-t", "web:2") == first
    if tree.uid == 0:
        need("unsquashfs")
        path = json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)["path"]
        subprocess.run(["unsquashfs", "-q", "-n", "-d", str(tree.home / "out"), path], check=True, capture_output=True)
        assert os.getxattr(tree.home / "out/tool", "security.capability") == CAPABILITY


def test_names_that_lead_nowhere(tree: Tree) -> None:
    """A Dockerfile that is not there, an output that is a directory, a source that the context lacks: each is named."""
    context = tree.root / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY nowhere /\n")
    assert "cannot read the Dockerfile: missing: there is no such file" in build(tree, context, "-f", "missing", "-t", "x:1", code=111)
    assert f"hint: -o {context}/image.squashfs" in build(tree, context, "-o", str(context), code=111)
    assert "Dockerfile:2: not found: nowhere" in build(tree, context, "-t", "x:1", code=111)


def test_deployed_as_erofs(tree: Tree) -> None:
    """A service moves from squashfs to an EROFS image and back, its data with it. FROM takes none, and says so."""
    need("busybox", "mkfs.erofs")
    require_image_mount(tree, "erofs")
    context = make_context(tree, "FROM root:1\nRUN echo made > /made\nCMD [\"sleep\", \"1000\"]\n")
    build(tree, context, "-t", "web:1")
    build(tree, context, "-t", "web:2", "--type", "erofs")
    tree.ljsv("new", "web", "--image", "web:1")
    tree.ljsv("up", "web")
    tree.ljsv("enter", "web", "sh", "-c", "echo kept > /data")
    tree.ljsv("deploy", "web", "--image", "web:2")
    assert tree.ljsv("enter", "web", "sh", "-c", "grep ' / ' /proc/self/mounts; cat /data /made").stdout.splitlines()[-2:] == ["kept", "made"]
    tree.ljsv("rollback", "web")
    assert "web:1" in tree.ljsv("status", "web", "-o", "jail").stdout
    (context / "Dockerfile").write_text("FROM web:2\n")
    refused = build(tree, context, "-t", "web:3", code=111)
    assert "cannot read files out of an erofs image" in refused and "hint: " in refused


def test_rollback_may_keep_the_data(tree: Tree) -> None:
    """Without --keep-overlay they are those of then."""
    need("busybox")
    tree.open_fuse()
    context = make_context(tree, 'FROM root:1\nARG N\nRUN echo $N > /number\nCMD ["sleep", "1000"]\n')
    for number in "12":
        build(tree, context, "-t", f"web:{number}", "--build-arg", f"N={number}")
    tree.ljsv("new", "web", "--image", "web:1")
    tree.ljsv("up", "web")
    for options, data in ((("--keep-overlay",), "new"), ((), "old")):
        tree.ljsv("enter", "web", "sh", "-c", "echo old > /data")
        tree.ljsv("deploy", "web", "--image", "web:2")
        tree.ljsv("enter", "web", "sh", "-c", "echo new > /data")
        tree.ljsv("rollback", "web", *options)
        assert tree.ljsv("enter", "web", "cat", "/number", "/data").stdout.split() == ["1", data]


@pytest.mark.usefixtures("subordinate")
def test_run_gives_files_to_others(tree: Tree) -> None:
    """With subordinate ids RUN is root of many, as a container's is; the image keeps whom a file was given to."""
    need("busybox")
    context = make_context(tree, "FROM root:1\nRUN mkdir /given && touch /given/file && chown 33:34 /given/file && id -u\n")
    build(tree, context, "-t", "web:1")
    assert "-rw-r--r-- 33/34 /given/file" in listing(tree, "web:1")
    assert not leftovers(tree)


CORNERS = """# escape=`
ARG TAG=1
FROM root:${TAG}
SHELL ["/bin/sh", "-e", "-c"]
ENV ONE=1 `
    TWO="two words" THREE=$TAG-
LABEL first=1 `
      second="a b"
COPY <<-first <<second /texts/
	tab is gone
first
and $ONE
second
RUN test "$TWO" = "two words" && test "$THREE" = - && test -z "$TAG"
"""


def test_corners_of_dockerfiles(tree: Tree) -> None:
    """Another escape, ARG before FROM and its scope, several values a line, several heredocs; with the line ends of Windows as well."""
    need("busybox")
    for text, name in ((CORNERS, "web:1"), (CORNERS.replace("\n", "\r\n"), "web:2")):
        context = tree.home / "context"
        if not context.exists():
            context = make_context(tree, text)
        (context / "Dockerfile").write_bytes(text.encode())
        build(tree, context, "-t", name)
        said = json.loads(tree.ljsv("image", "inspect", "--json", name).stdout)
        assert dict(said["defaults"]["env"])["TWO"] == "two words", name
        assert {"/texts/first", "/texts/second"} <= {line.split()[-1] for line in listing(tree, name)}, name


UNSUPPORTED = {
    "ONBUILD RUN true": "ONBUILD",
    "RUN --mount=type=secret,id=x true": "RUN --mount",
    "COPY --link a.txt /": "--link",
    "FROM --platform=linux/s390x root:1": "FROM --platform",
    "MAINTAINER me": "MAINTAINER",
}


@pytest.mark.parametrize("line", UNSUPPORTED)
def test_an_instruction_is_obeyed_or_refused_by_line(tree: Tree, line: str) -> None:
    """Whatever is not done is said, with its line, before anything runs; whatever is not refused is done."""
    context = make_context(tree, f"FROM root:1\nRUN echo has run >&2\n{line}\n")
    done = tree.ljsv("image", "build", str(context), "-t", "web:1", code=None)
    if done.returncode:
        assert f"Dockerfile:3: {UNSUPPORTED[line]}" in done.stderr and "has run" not in done.stderr, done.stderr
        assert "hint: " in done.stderr
    else:
        assert line.split(maxsplit=1)[0] in {"COPY", "MAINTAINER"}, done.stderr


def test_many_small_files(tree: Tree) -> None:
    """20,000 of them, some with holes, in seconds; more than the bound is refused by name."""
    archive = tree.home / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"d{number % 100}/f{number}"))
    hole = tree.home / "hole"
    with hole.open("wb") as file:
        file.truncate(50 << 20)
    subprocess.run(["tar", "-C", str(tree.home), "-S", "-rf", str(archive), "hole"], check=True)
    build(tree, archive, "-t", "web:1")
    assert len(listing(tree, "web:1")) > 20_000
    path = Path(json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)["path"])
    assert path.stat().st_size < 5 << 20
    assert "too many files" in build(tree, archive, "-t", "web:2", "--max-files", "10000", code=111)

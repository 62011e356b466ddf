"""Building from what people have: the same bytes whoever builds, what is refused, and nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for
from tests.integration.roots import small_root
from tests.integration.store_kit import own_store

Member = tuple[str, bytes, str | bytes]  # name, type, content or target


def build(tree: Tree, source: Path | str, *options: str, code: int = 0, **env: str) -> str:
    """`ljsv image build`: the digest, or what it says when it fails."""
    done = tree.ljsv("image", "build", str(source), *options, code=code, env=env)
    return done.stdout.rpartition("sha256:")[2].strip() if code == 0 else done.stderr


def make_tar(path: Path, *members: Member, **options: int) -> Path:
    """A tar of these members, whatever they are."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            item = tarfile.TarInfo(name)
            item.type, item.mode, item.mtime = kind, 0o755, 1000
            for key, value in options.items():
                setattr(item, key, value)
            if kind == tarfile.REGTYPE:
                data = content.encode() if isinstance(content, str) else content
                item.size = len(data)
                tar.addfile(item, io.BytesIO(data))
                continue
            item.linkname = str(content)
            tar.addfile(item)
    return path


def listing(tree: Tree, image: str) -> list[str]:
    return [" ".join((*line.split()[:2], line.rpartition(" ")[2])) for line in tree.ljsv("image", "inspect", "--files", image).stdout.splitlines()]


def own_names(tree: Tree) -> list[str]:
    """Of the images in the tree's own store; the machine may have others."""
    return [row["name"] for row in json.loads(tree.ljsv("image", "ls", "--json").stdout) if row["is_own"]]


def leftovers(tree: Tree) -> list[str]:
    """What builds have left in the store and beside their outputs."""
    found = [str(path) for path in (own_store(tree) / "build").glob("*")] if own_store(tree).exists() else []
    return found + [str(path) for path in tree.root.rglob(".ljsv-build-*")]


def test_the_same_bytes_whoever_builds_and_when(tree: Tree) -> None:
    """Another folder, another owner, other times, another order of entries, another umask: one digest. Known, so that users and machines agree."""
    root = small_root(tree)
    (root / "bin/busybox").unlink()
    (root / "bin/busybox").write_text("not really\n")
    os.link(root / "etc/passwd", root / "etc/passwd-")
    (root / "bin/busybox").chmod(0o755)
    tree.own(root)
    first = build(tree, root, "-o", str(tree.root / "home/one.squashfs"))
    time.sleep(1.1)
    other = tree.home / "elsewhere/deep"
    other.parent.mkdir()
    names = [path.relative_to(root) for path in sorted(root.rglob("*"), reverse=True)]
    for name in sorted(names, key=lambda name: len(name.parts)):  # made in another order, at another time
        (other / name.parent).mkdir(parents=True, exist_ok=True)
        if (root / name).is_symlink():
            (other / name).symlink_to(os.readlink(root / name))
        elif (root / name).is_dir():
            (other / name).mkdir(exist_ok=True)
        elif name.name != "passwd-":
            shutil.copy(root / name, other / name)
    os.link(other / "etc/passwd", other / "etc/passwd-")
    tree.own(other.parent)
    os.umask(0o077)
    try:
        second = build(tree, other, "-t", "same:1")
    finally:
        os.umask(0o022)
    assert first == second == hashlib.sha256((tree.home / "one.squashfs").read_bytes()).hexdigest()
    if os.geteuid() == 0:
        owned = build(tree, root, "-o", str(tree.home / "dated.squashfs"), SOURCE_DATE_EPOCH="1700000000")
        assert owned == build(tree, other, "-o", str(tree.home / "dated2.squashfs"), SOURCE_DATE_EPOCH="1700000000") != first
    seen = listing(tree, "same:1")
    assert any(line.startswith("-rwxr-xr-x 0/0 /bin/busybox") for line in seen), seen
    assert first == SEEN.setdefault("digest", first), "root and an unprivileged user make different images"
    assert not leftovers(tree)


SEEN: dict[str, str] = {}


def test_archives_keep_ids_times_and_links(tree: Tree) -> None:
    """gzip, xz, bzip2, zstd and plain: one image, with the ids of the archive whoever builds; no file on disk ever had them."""
    need("zstd", "xz")
    plain = make_tar(
        tree.home / "root.tar", ("./", tarfile.DIRTYPE, ""), ("./bin/", tarfile.DIRTYPE, ""), ("./bin/tool", tarfile.REGTYPE, "x" * 5000),
        ("./bin/hard", tarfile.LNKTYPE, "./bin/tool"), ("./bin/soft", tarfile.SYMTYPE, "../../../etc/passwd"), ("./dev/", tarfile.DIRTYPE, ""),
        ("./pipe", tarfile.FIFOTYPE, ""), uid=33, gid=44,
    )
    digests = {build(tree, plain, "-t", "plain:1")}
    for program, suffix in (("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2"), ("zstd", "zst")):
        packed = tree.home / f"other-{suffix}.tar.{suffix}"
        if shutil.which(program):
            with packed.open("wb") as file:
                subprocess.run([program, "-c", str(plain)], stdout=file, check=True)
            digests.add(build(tree, packed, "-t", f"packed:{suffix}"))
    assert len(digests) == 1
    seen = listing(tree, "plain:1")
    assert "-rwxr-xr-x 33/44 /bin/tool" in seen and "-rwxr-xr-x 33/44 /bin/hard" in seen and "prwxr-xr-x 33/44 /pipe" in seen, seen
    back = tree.home / "back.tar"
    tree.ljsv("image", "export", "plain:1", "-o", str(back))
    with tarfile.open(back) as tar:
        assert {(item.name, item.uid, item.mtime) for item in tar} >= {("./bin/tool", 33, 1000), ("./pipe", 33, 1000)}
    assert "-> ../../../etc/passwd" in tree.ljsv("image", "inspect", "--files", "plain:1").stdout


HOSTILE: dict[str, tuple[tuple[Member, ...], str]] = {
    "climbing": ((("../evil", tarfile.REGTYPE, "x"),), "a path that climbs: ../evil"),
    "climbing inside": ((("a/../../evil", tarfile.REGTYPE, "x"),), "a path that climbs: a/../../evil"),
    "absolute": ((("/etc/evil", tarfile.REGTYPE, "x"),), "an absolute path: /etc/evil"),
    "through a symlink": ((("l", tarfile.SYMTYPE, "/etc"), ("l/evil", tarfile.REGTYPE, "x")), "through a symlink: l/evil"),
    "through a file": ((("f", tarfile.REGTYPE, "x"), ("f/evil", tarfile.REGTYPE, "x")), "through what is no directory: f/evil"),
    "hard link out": ((("h", tarfile.LNKTYPE, "../../etc/shadow"),), "a path that climbs: ../../etc/shadow"),
    "hard link to nothing": ((("h", tarfile.LNKTYPE, "etc/shadow"),), "a hard link: h"),
    "hard link through a symlink": ((("l", tarfile.SYMTYPE, "/etc"), ("h", tarfile.LNKTYPE, "l/shadow")), "a hard link: h"),
    "block device": ((("dev/sda", tarfile.BLKTYPE, ""),), "a device node: dev/sda"),
    "device in disguise": ((("dev/null", tarfile.CHRTYPE, ""),), "a device node: dev/null"),
    "long name": ((("x" * 300, tarfile.REGTYPE, "x"),), "a path that is too long"),
    "deep": ((("d/" * 300 + "f", tarfile.REGTYPE, "x"),), "a path that is too long"),
    "root is a file": (((".", tarfile.REGTYPE, "x"),), "the root is not a directory"),
    "unknown type": ((("odd", b"Z", "x"),), "an entry of unknown type: odd"),
}


@pytest.mark.parametrize("ahead_s", [1, 10_000_000])
def test_times_of_the_future(tree: Tree, ahead_s: int) -> None:
    """An entry that its tool has rounded up, and one of a clock that goes wrong: the image is the same a moment later."""
    archive = tree.home / "future.tar"
    with tarfile.open(archive, "w") as tar:
        for name, mtime in (("past", 1000), ("future", int(time.time()) + ahead_s)):
            item = tarfile.TarInfo(name)
            item.mtime = mtime
            tar.addfile(item)
    first = build(tree, archive, "-t", "future:1")
    time.sleep(1.1)
    assert build(tree, archive, "-t", "future:2") == first


def test_hostile_archives_are_refused_by_name(tree: Tree) -> None:
    """Climbing, links, devices, bombs: each with its name in the message, and nothing is left."""
    for name, (members, said) in HOSTILE.items():
        path = make_tar(tree.home / f"{name.replace(' ', '-')}.tar", *members)
        if name == "unknown type":  # tarfile takes it for a file; the type is what we say
            pass
        stderr = build(tree, path, "-t", "evil:1", code=111)
        assert said in stderr, f"{name}: {stderr}"
        assert "hint:" in stderr or name in {"root is a file", "unknown type", "through a file"}, stderr
    bomb = tree.home / "bomb.tar.gz"
    subprocess.run(f"head -c 300M /dev/zero | gzip -1 > {bomb}", shell=True, check=True)
    assert "too large: bomb.tar.gz" in build(tree, bomb, "-t", "evil:1", "--max-size", "64M", "--max-files", "1000", code=111)
    many = make_tar(tree.home / "many.tar", *((f"f{number}", tarfile.REGTYPE, "") for number in range(200)))
    assert "too many files: f100: more than 100" in build(tree, many, "-t", "evil:1", "--max-files", "100", code=111)
    large = tree.home / "large.tar"
    with tarfile.open(large, "w") as tar:
        item = tarfile.TarInfo("huge")
        item.size = 1 << 50
        tar.addfile(item, None)  # the header alone
    assert "huge: it is cut short" in build(tree, large, "-t", "evil:1", code=111)
    whole = make_tar(tree.home / "whole.tar", ("bin/a", tarfile.REGTYPE, "x" * 100_000), ("bin/b", tarfile.REGTYPE, "y"))
    (tree.home / "short.tar").write_bytes(whole.read_bytes()[:60_000])
    assert "the archive is damaged" in build(tree, tree.home / "short.tar", "-t", "evil:1", code=111)
    subprocess.run(["gzip", "-k", str(whole)], check=True)
    packed = whole.with_suffix(".tar.gz")
    (tree.home / "short.tar.gz").write_bytes(packed.read_bytes()[:-20])
    assert "the archive is damaged" in build(tree, tree.home / "short.tar.gz", "-t", "evil:1", code=111)
    (tree.home / "text").write_text("hello\n" * 1000)
    assert "not an archive" in build(tree, tree.home / "text", "-t", "evil:1", code=111)
    assert "No such file" in build(tree, tree.home / "nothing", "-t", "evil:1", code=111)
    assert own_names(tree) == []
    assert not leftovers(tree)
    assert not (Path("/etc/evil").exists() or (tree.home.parent / "evil").exists())


def test_layers_with_whiteouts_and_opaque_directories(tree: Tree) -> None:
    """A docker save archive, made by hand: removed files, a hidden directory, hard links, a symlinked folder below, defaults; digests are checked."""
    layers = [
        ((("usr/lib/a", tarfile.REGTYPE, "one"), ("lib", tarfile.SYMTYPE, "usr/lib"), ("etc/x", tarfile.REGTYPE, "x"), ("etc/y", tarfile.REGTYPE, "y"), ("opq/old", tarfile.REGTYPE, "o")), {}),
        ((("etc/.wh.x", tarfile.REGTYPE, ""), ("opq/new", tarfile.REGTYPE, "n"), ("opq/.wh..wh..opq", tarfile.REGTYPE, ""), ("lib/b", tarfile.REGTYPE, "two"), ("etc/z", tarfile.LNKTYPE, "etc/y")), {}),
    ]
    folder = tree.home / "save"
    folder.mkdir()
    names, ids = [], []
    for number, (members, _) in enumerate(layers):
        path = make_tar(folder / f"layer{number}.tar", *members)
        names.append(path.name)
        ids.append("sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())
    config = {
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids},
        "config": {"Env": ["A=b=c"], "Entrypoint": ["/bin/a"], "Cmd": ["x"], "StopSignal": "SIGQUIT", "User": "5:6", "WorkingDir": "/opq", "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps([{"Config": "config.json", "RepoTags": ["web:1"], "Layers": names}]))
    archive = tree.home / "web.tar"
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    build(tree, archive, "-t", "web:1")
    seen = {line.split()[-1] for line in listing(tree, "web:1")}
    assert {"/etc/y", "/etc/z", "/opq/new", "/usr/lib/a", "/usr/lib/b"} <= seen
    assert not {"/etc/x", "/opq/old", "/etc/.wh.x"} & seen
    said = json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)["defaults"]
    assert (said["env"], said["entrypoint"], said["stop_signal"], said["user"], said["health"]["interval_s"]) == ([["A", "b=c"]], ["/bin/a"], "QUIT", "5:6", 5.0)
    (folder / "layer1.tar").write_bytes((folder / "layer0.tar").read_bytes())
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    assert "the image is damaged: layer layer1.tar" in build(tree, archive, "-t", "web:2", code=111)


DOCKERFILE = """
ARG BASE=root:1
FROM $BASE AS build
ARG VERSION=7
ENV GREETING="hello there"
WORKDIR /src
COPY *.txt /tmp/
COPY --chmod=640 folder/ ./folder/
RUN cat /tmp/a.txt > out && echo "$VERSION $GREETING" >> out; mkdir sub; rm /etc/gone
RUN <<EOF
test -f out && test ! -e /etc/gone
echo heredoc >> out
EOF
RUN ["/bin/sh", "-c", "pwd >> out"]
COPY <<EOT /etc/note
note of "$VERSION"
EOT

FROM scratch AS unused
COPY nothing-like-that /

FROM build
RUN sleep 1000; exit 1

FROM scratch
COPY --from=build /bin /bin/
COPY --from=build --chown=5:6 /src/out /etc/note /data/
COPY --from=build /src/folder /data/folder
WORKDIR /data
USER 5:6
EXPOSE 80 443/udp
VOLUME /var/lib
LABEL who="me"
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=1m30s --retries=2 CMD test -f out
ENTRYPOINT ["/bin/cat"]
CMD ["/data/out"]
"""


def make_context(tree: Tree, text: str) -> Path:
    root = small_root(tree)
    (root / "etc/gone").write_text("gone\n")
    tree.own(root)
    build(tree, root, "-t", "root:1")
    shutil.rmtree(root)
    context = tree.home / "context"
    (context / "folder/.git").mkdir(parents=True)
    (context / "Dockerfile").write_text(text)
    (context / "a.txt").write_text("content\n")
    (context / "b.txt").write_text("b\n")
    (context / "folder/kept").write_text("kept\n")
    (context / "folder/secret").write_text("secret\n")
    (context / ".dockerignore").write_text("# not these\n**/.git\nfolder/*\n!folder/kept\n")
    tree.own(context)
    return context


def test_a_dockerfile_with_stages(tree: Tree) -> None:
    """Instructions in all their forms; stages that nobody needs are not built; a second build takes RUN from the cache; the result runs."""
    need("busybox")
    context = make_context(tree, DOCKERFILE)
    first = tree.ljsv("image", "build", str(context), "-t", "web:1", "--build-arg", "VERSION=8")
    assert "from the cache" not in first.stderr
    second = tree.ljsv("image", "build", str(context / "Dockerfile"), "-t", "web:2", "--build-arg", "VERSION=8")
    assert second.stderr.count("from the cache") == 3
    assert first.stdout.split("sha256:")[1] == second.stdout.split("sha256:")[1]
    again = tree.ljsv("image", "build", str(context), "-t", "web:3", "--no-cache", "--build-arg", "VERSION=8")
    assert again.stdout.split("sha256:")[1] == first.stdout.split("sha256:")[1]
    seen = listing(tree, "web:1")
    assert "-rw-r--r-- 5/6 /data/note" in seen and "-rw-r----- 0/0 /data/folder/kept" in seen, seen
    assert not any("secret" in line or ".git" in line or "/etc" in line for line in seen)
    said = json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)
    assert said["defaults"]["exposed"] == ["443/udp", "80/tcp"]
    assert said["defaults"]["health"] == {"argv": ["/bin/sh", "-c", "test -f out"], "interval_s": 90.0, "timeout_s": 0.0, "start_period_s": 0.0, "retries": 2}
    assert "USER 5:6" in said["history"]
    (context / "a.txt").write_text("other\n")
    changed = tree.ljsv("image", "build", str(context), "-t", "web:4")
    assert "from the cache" not in changed.stderr
    tree.open_fuse()
    assert tree.run("ljexec", "--image", "web:1").stdout == "content\n8 hello there\nheredoc\n/src\n"
    assert tree.run("ljexec", "--image", "web:1", "--", "/bin/sh", "-c", "id -u; pwd; cat note").stdout == '5\n/data\nnote of "8"\n'
    assert not leftovers(tree)


REFUSED = {
    "FROM scratch\nRUN true\n\nADD https://example.org/x /\n": "Dockerfile:4: ADD of a URL is not supported",
    "FROM scratch\nRUN true\nFROM nothing:1\n": "Dockerfile:3: FROM: no such image: nothing:1",
    "FROM scratch AS a\nRUN true\nFROM a\nRUN --network=host x\n": "Dockerfile:4: RUN --network=host",
    "FROM scratch\nCOPY nothing /\n": "Dockerfile:2: not found: nothing",
}


def test_what_cannot_be_is_refused_by_name_and_line(tree: Tree) -> None:
    """Before anything runs: the RUN before it would fail."""
    context = tree.home / "context"
    context.mkdir()
    for text, said in REFUSED.items():
        (context / "Dockerfile").write_text(text)
        tree.own(context)
        stderr = build(tree, context, "-t", "web:1", code=111)
        assert said in stderr and "RUN failed" not in stderr, f"{text!r}: {stderr}"
    assert not leftovers(tree)


def test_a_run_that_fails_or_wants_the_network(tree: Tree) -> None:
    """It says which line, and what it had said; offline is offline."""
    context = make_context(tree, "FROM root:1\nRUN echo so far; ls /sys/class/net 2>&1; cat /proc/net/dev; exit 7\n")
    stderr = build(tree, context, "-t", "web:1", code=111)
    assert "Dockerfile:2: RUN failed" in stderr and "exit 7" in stderr and "so far" in stderr
    assert " lo:" in stderr and "eth0:" not in stderr
    for text, said in {"RUN true": "Dockerfile:2: RUN: cannot start: /bin/sh: No such file", "USER web\nRUN true": "Dockerfile:3: the jail has no user web"}.items():
        (context / "Dockerfile").write_text(f"FROM scratch\n{text}\n")
        assert said in build(tree, context, "-t", "web:1", code=111), text
    (context / "Dockerfile").write_text("FROM root:1\nRUN exit 3\n")
    assert "eth0:" not in build(tree, context, "-t", "web:1", code=111)
    (context / "Dockerfile").write_text("FROM root:1\nRUN cat /proc/net/dev >&2\n")
    host = tree.ljsv("image", "build", str(context), "-t", "web:1", "--net", "host", "--no-cache").stderr
    ours = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert all(f"{name}:" in host for name in ours)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_in_the_middle(tree: Tree, number: int) -> None:
    """Ctrl-C and TERM leave nothing; what KILL leaves is swept by the next build, and the jail of RUN is gone."""
    context = make_context(tree, "FROM root:1\nRUN echo begun; sleep 4242\n")
    started = tree.start("ljsv", "image", "build", str(context), "-t", "web:1")
    assert started.stdout is not None
    wait_for(lambda: started.stdout.readline() == "begun\n", "RUN")
    wait_for(lambda: [pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and _command(pid) == b"sleep\x004242\x00"], "its sleep")
    pids = {pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and _command(pid) == b"sleep\x004242\x00"}
    assert pids
    os.kill(started.pid, number)
    assert started.wait() == (128 + number if number != signal.SIGKILL else -9)
    wait_for(lambda: not any(_command(pid) == b"sleep\x004242\x00" for pid in pids), "the jail to end")
    if number == signal.SIGKILL:
        assert leftovers(tree)
        (context / "Dockerfile").write_text("FROM root:1\nRUN echo again\n")
        build(tree, context, "-t", "web:2")
    assert not leftovers(tree)
    assert own_names(tree) == (["root:1", "web:2"] if number == signal.SIGKILL else ["root:1"])
    tree.ljsv("image", "verify")


def _command(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:
        return b""

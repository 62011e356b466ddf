"""Images by their magic, users by a passwd that is not trusted, subordinate ids."""

from __future__ import annotations

import copy
import io
import os
import struct
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.errors import Fault
from ljsv.images.archive import Times, apply_archive
from ljsv.images.output import write_tar
from ljsv.images.store import open_store
from ljsv.images.tree import Budget, Tree, scan_directory
from ljsv.jail.ids import subordinate_range
from ljsv.jail.overlay import delete
from ljsv.jail.passwd import find_user
from ljsv.service.images import HEAD_SIZE, check_image, image_type


def squashfs(size_said: int, length: int) -> bytes:
    return (b"hsqs".ljust(40, b"\0") + struct.pack("<Q", size_said)).ljust(length, b"\0")


def erofs(blocks: int, length: int) -> bytes:
    head = bytearray(max(length, HEAD_SIZE))
    head[1024:1028] = b"\xe2\xe1\xf5\xe0"
    head[1024 + 12] = 12
    struct.pack_into("<I", head, 1024 + 36, blocks)
    return bytes(head[:length])


@given(st.binary(max_size=3000))
def test_any_bytes_have_a_type_or_none(head: bytes) -> None:
    """Never an exception; squashfs and erofs only by their magic."""
    found = image_type(head)
    assert found == ("squashfs" if head[:4] == b"hsqs" else "erofs" if head[1024:1028] == b"\xe2\xe1\xf5\xe0" else "")


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (squashfs(4096, 4096), "squashfs"),
        (squashfs(4000, 4096), "squashfs"),
        (squashfs(4097, 4096), "cut short"),
        (b"hsqs", "squashfs"),
        (erofs(2, 8192), "erofs"),
        (erofs(3, 8192), "cut short"),
        (erofs(1, 1500), "cut short"),
        (b"sqsh" + b"\0" * 100, "big-endian"),
        (b"\x1f\x8b" + b"\0" * 100, "gzip"),
        (b"\x7fELF" + b"\0" * 100, "a program"),
        (b"\0" * 257 + b"ustar" + b"\0" * 500, "tar archive"),
        (b"", "neither squashfs nor erofs"),
    ],
)
def test_whole_cut_short_and_foreign_files(tmp_path: Path, data: bytes, answer: str) -> None:
    """The type, or a refusal that names what it is."""
    path = tmp_path / "image"
    path.write_bytes(data)
    try:
        assert check_image(str(path)) == answer
    except Fault as fault:
        assert answer in fault.cause, fault
        assert fault.hint


def root_with(tmp_path: Path, passwd: str | None) -> int:
    (tmp_path / "etc").mkdir()
    (tmp_path / "home/web").mkdir(parents=True)
    if passwd is not None:
        (tmp_path / "etc/passwd").write_text(passwd)
    return os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)


PASSWD = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/home/web:/bin/ash\nnumbers:x:one:2::/:/\nbig:x:99999999999:1::/:/\n1000:x:5:6::/:/\n"


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("", ("root", 0, 0, "/", "/bin/sh")),
        ("root", ("root", 0, 0, "/", "/bin/sh")),
        ("web", ("web", 33, 34, "/home/web", "/bin/ash")),
        ("33", ("web", 33, 34, "/home/web", "/bin/ash")),
        ("33:7", ("web", 33, 7, "/home/web", "/bin/ash")),
        ("1000", ("1000", 1000, 1000, "/", "/bin/sh")),
        ("1000:5", ("1000", 1000, 5, "/", "/bin/sh")),
        ("nobody", "the jail has no user nobody"),
        ("numbers", "the jail has no user numbers"),
        ("big", "the jail has no user big"),
        ("65536", "below 65536"),
        ("5:65536", "below 65536"),
        ("web:web", "the jail has no group web"),
    ],
)
def test_users(tmp_path: Path, wanted: str, answer: object) -> None:
    """By name or number; a home that is not there is /; what is broken is passed over."""
    fd = root_with(tmp_path, PASSWD)
    try:
        user = find_user(wanted, fd, "rootfs")
        assert (user.name, user.uid, user.gid, user.home, user.shell) == answer
    except Fault as fault:
        assert str(answer) in str(fault), fault
    finally:
        os.close(fd)


def test_user_that_is_root_by_another_name(tmp_path: Path) -> None:
    """A passwd that gives the jail's root away is refused; its number is not."""
    fd = root_with(tmp_path, "root:x:0:0::/root:/bin/sh\nwww-data:x:0:0::/:/bin/sh\n")
    try:
        with pytest.raises(Fault, match="the jail's user www-data is root"):
            find_user("www-data", fd, "rootfs")
        assert [find_user(wanted, fd, "rootfs").uid for wanted in ("", "root", "0", "root:7")] == [0, 0, 0, 0]
    finally:
        os.close(fd)


@given(st.text(max_size=300))
def test_any_passwd_is_harmless(text: str) -> None:
    """A user with ids of a jail, or a refusal."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "etc").mkdir()
        (Path(folder) / "etc/passwd").write_bytes(text.encode(errors="surrogatepass"))
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            user = find_user("web", fd, "rootfs")
            assert 0 <= user.uid < 65536
            assert 0 <= user.gid < 65536
        except Fault:
            pass
        finally:
            os.close(fd)


@pytest.mark.parametrize("kind", ["fifo", "directory", "outside", "loop", "missing", "large"])
def test_passwd_that_is_no_file_is_none(tmp_path: Path, kind: str) -> None:
    """Not waited for, not followed out, read with a bound."""
    fd = root_with(tmp_path, None)
    path = tmp_path / "etc/passwd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "outside":
        path.symlink_to("/../../../../../../etc/passwd")
    elif kind == "loop":
        path.symlink_to("passwd")
    elif kind == "large":
        with open(path, "w") as file:
            file.truncate(1 << 30)
    with pytest.raises(Fault, match="no user daemon"):
        find_user("daemon", fd, "rootfs")
    assert find_user("", fd, "rootfs").uid == 0
    os.close(fd)


def test_subordinate_ids_need_a_name() -> None:
    """newuidmap does: told before anything is tried."""
    with pytest.raises(Fault, match="no entry in passwd"):
        subordinate_range(61_999, 61_999)


def test_a_very_deep_tree_is_deleted(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, with directories that forbid it and a symlink to what must stay."""
    stays = tmp_path / "stays"
    stays.mkdir()
    (stays / "file").touch()
    top = tmp_path / "top"
    top.mkdir()
    here = os.getcwd()
    os.chdir(top)
    try:
        for number in range(200):
            os.mkdir("d" * 100)
            Path("file").touch()
            os.symlink(stays, "link")
            os.chdir("d" * 100)
            if number % 50 == 0:
                os.chmod(".", 0)
                os.chmod(".", 0o700)
    finally:
        os.chdir(here)
    (top / "closed").mkdir()
    (top / "closed/inner").mkdir()
    (top / "closed").chmod(0)
    delete(str(top))
    assert not top.exists()
    assert (stays / "file").exists()
    delete(str(top))


def take_in(path: Path, budget: Budget, *members: tarfile.TarInfo, is_layer: bool = False) -> Tree:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    tree = Tree(budget)
    fd = os.open(path, os.O_RDONLY)
    try:
        apply_archive(tree, fd, path.name, str(path.parent), Times(), is_layer=is_layer)
    finally:
        os.close(fd)
    return tree


@pytest.mark.parametrize(("said", "is_good"), [("0,8,24,8", True), ("0,8,32,0", True), ("0,8,4096,8", False), ("0,8,-8,8", False), ("8,-8,0,16", False)])
def test_the_map_of_a_sparse_file_is_not_believed(tmp_path: Path, said: str, is_good: bool) -> None:  # noqa: FBT001
    """Nothing is written beyond its size, and no byte of the archive is taken twice."""
    member = tarfile.TarInfo("holes")
    member.size = 16
    member.pax_headers = {"GNU.sparse.map": said, "GNU.sparse.size": "32"}
    if is_good:
        other = copy.copy(member)
        other.name = "others"
        nodes = [node for _, node in take_in(tmp_path / "good.tar", Budget(), member, other).walk()]
        assert len({node.content.fd for node in nodes}) == 1
        for node in nodes:
            assert node.content.size == 32
            assert os.pread(node.content.fd, 24, node.content.offset) == b"x" * 8 + bytes(16)
        os.close(nodes[0].content.fd)
        return
    with pytest.raises(Fault, match="damaged: holes"):
        take_in(tmp_path / "lying.tar", Budget(), member)


def test_a_layer_of_nothing_but_whiteouts_is_bounded_as_well(tmp_path: Path) -> None:
    """They take nothing of the budget, but are all in memory at once."""
    members = [tarfile.TarInfo(f".wh.{number}") for number in range(11)]
    take_in(tmp_path / "few.tar", Budget(max_entries=10), *members[:10], is_layer=True)
    with pytest.raises(Fault, match="too many files"):
        take_in(tmp_path / "many.tar", Budget(max_entries=10), *members, is_layer=True)


@pytest.mark.parametrize("said", [f"sha256:{'0' * 64}\n", "damage\n", ""])
def test_a_name_of_no_image_can_be_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """As the hint says that tells of it: nothing else could be removed or collected beside a damaged one."""
    monkeypatch.setenv("LJSV_IMAGES", str(tmp_path))
    store = open_store()
    (tmp_path / "names/web:1").write_text(said)
    assert store.remove("web:1") == ("web:1", "")
    assert list((tmp_path / "names").iterdir()) == []
    assert store.collect() == []


def test_a_tar_is_written_to_an_output_that_appends(tmp_path: Path) -> None:
    """`-o - >> FILE`: the kernel's sendfile refuses that."""
    data = os.urandom(3 << 20)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/large").write_bytes(data)
    tree = Tree(Budget())
    scan_directory(tree, str(tmp_path / "root"))
    fd = os.open(tmp_path / "out.tar", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        write_tar(tree, fd)
    finally:
        os.close(fd)
    with tarfile.open(tmp_path / "out.tar") as tar:
        file = tar.extractfile("./large")
        assert file is not None
        assert file.read() == data

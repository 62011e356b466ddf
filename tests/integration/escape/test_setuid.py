"""Set-user-id programs: they gain nothing inside, and what a jail leaves on the host's disk cannot be reached by anybody else."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tests.integration.escape.jail import Jail, succeeded
from tests.integration.escape.test_kernel import PYTHON_BINDS
from tests.integration.roots import small_root

STRANGER = 61_299


def marked(path: Path) -> list[str]:
    """What below `path` has set-user-id, set-group-id or file capabilities, as the host's disk has it."""
    found = []
    for item in path.rglob("*"):
        entry = item.lstat()
        if not stat.S_ISREG(entry.st_mode):
            continue
        capable = "security.capability" in os.listxattr(item)
        if entry.st_mode & 0o6000 or capable:
            found.append(f"{item} mode {entry.st_mode & 0o7777:04o} uid {entry.st_uid}{' with capabilities' if capable else ''}")
    return found


def stranger_reaches(path: Path) -> bool:
    """Whether another user gets to what lies in the directory."""
    if os.geteuid():
        return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))
    done = subprocess.run(["ls", f"{path}/."], user=STRANGER, group=STRANGER, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.kernel
def test_programs_gain_nothing(jail: Jail) -> None:
    """A set-user-id copy of id, set-user-id programs of the host, one with file capabilities: by a bind, in the root, in an overlay. Outside the same gains."""
    if os.geteuid():
        pytest.skip("only root can make a set-user-id program that belongs to another: needs root")
    shared = jail.tree.root / "shared"
    root = small_root(jail.tree)
    shared.mkdir()
    everything = struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0x1FF, 0)
    owner = 0 if jail.tree.uid else STRANGER
    for directory in (shared, root / "bin"):
        shutil.copy("/usr/bin/id", directory / "setuid")
        shutil.copy("/bin/cat", directory / "capable")
        os.chown(directory / "setuid", owner, owner)
        (directory / "setuid").chmod(0o6755)
        os.setxattr(directory / "capable", "security.capability", everything)
        (directory / "capable").chmod(0o755)
    assert jail.outside("setuid", "gain", str(shared / "setuid")) == {str(shared / "setuid"): f"OK '{owner}'"}
    binds = ("--bind", f"{shared}:/srv/ro", "--bind", f"{shared}:/srv/rw:rw")
    rooted = ("--root", str(root), *PYTHON_BINDS)
    for options, places in (
        ((), ("/srv/ro", "/srv/rw")), (rooted, ("/srv/ro", "/srv/rw")), ((*rooted, "--writable", "tmpfs"), ("/srv/rw",)), ((*rooted, "--rw"), ("/srv/rw",)),
        ((*rooted, "--overlay-dir", str(jail.tree.root / "overlay")), ("/srv/rw",)), (("--user", "1000"), ("/srv/ro",)),
    ):
        mine = "1000" if "--user" in options else "0"
        results = jail.attack("setuid", "gain", *(f"{place}/setuid" for place in places), options=(*binds, *options))
        assert set(results.values()) == {f"OK '{mine}'"}, results
        results = jail.attack("setuid", "capabilities", *(f"{place}/capable" for place in places), options=(*binds, *options))
        own = "0000000000000000" if "--user" in options else "00000000800405fb"
        assert set(results.values()) <= {f"{own} {own}", "EXIT 126 "}, results


@pytest.mark.parametrize("before", ["absent", "0755", "0755 with upper"])
def test_nothing_left_in_an_overlay_can_be_reached(jail: Jail, before: str) -> None:
    """The overlay's directory is 0700 from the start, also where it was there before and open."""
    overlay = jail.tree.root / "overlay"
    if before != "absent":
        overlay.mkdir(mode=0o755)
        overlay.chmod(0o755)
        if "upper" in before:
            (overlay / "upper").mkdir()
            (overlay / "upper").chmod(0o755)
        jail.tree.own(overlay)
        assert stranger_reaches(overlay)
    root = small_root(jail.tree)
    options = ("--root", str(root), *PYTHON_BINDS, "--overlay-dir", str(overlay))
    results = jail.attack("setuid", "leave", "/tmp/..", options=options)
    assert overlay.stat().st_mode & 0o7777 == 0o700
    assert not stranger_reaches(overlay)
    assert not stranger_reaches(overlay / "upper")
    if "setuid" in succeeded(results):
        assert marked(overlay), "nothing was left: the attack was never made"
    for name in ("run setuid", "run setgid", "run capable"):
        assert results[name] in {"OK '0'", "EACCES"}, results


@pytest.mark.parametrize("place", ["root", "bind"])
def test_nothing_left_in_a_writable_place_can_be_reached(jail: Jail, place: str) -> None:
    """`--rw` and a writable bind, whose directory everybody can enter: no set-user-id program and no file capabilities stay there."""
    root = small_root(jail.tree)
    shared = jail.tree.root / "shared"
    shared.mkdir()
    shared.chmod(0o755 if jail.tree.uid else 0o1777)  # as root ljexec binds no ids: what the jail writes is another jail's, which may get the same
    os.chown(shared, jail.tree.uid, jail.tree.uid)
    if jail.seccomp == "off":  # nothing keeps it from that, and it is told
        options = ["--root", str(root), "--rw"] if place == "root" or not jail.tree.uid else ["--bind", f"{shared}:/shared:rw"]
        done = jail.tree.run("ljexec", "--seccomp", "off", *options, "--", "/bin/true")
        assert "seccomp is off, and others can reach" in done.stderr
        return
    if place == "root":
        results = jail.attack("setuid", "leave", "/", options=("--root", str(root), *PYTHON_BINDS, "--rw"))
        left = marked(root)
    else:
        results = jail.attack("setuid", "leave", "/shared", options=("--bind", f"{shared}:/shared:rw"))
        left = marked(shared)
    assert len(results) > 5
    assert not left, "\n".join(left)


def exposed_places(jail: Jail) -> list[tuple[tuple[str, ...], Path, str]]:
    """(options, the place on the host, the same in the jail) of what a jail may write and others reach."""
    root, shared = small_root(jail.tree), jail.tree.root / "shared"
    (root / "place").mkdir()
    shared.mkdir()
    jail.tree.own(root)
    jail.tree.own(shared)
    bound = ("--bind", f"{shared}:/place:rw")
    rooted = ("--root", str(root), *PYTHON_BINDS, "--rw")
    return [(rooted, root / "place", "/place"), *([(bound, shared, "/place")] if jail.tree.uid else [])]  # as root ljexec binds no ids


def test_a_set_id_program_that_is_there_is_not_written(jail: Jail) -> None:
    """A tree of Debian has some: through mmap, by another name, with its folder moved away. The same attack outside succeeds."""
    for options, place, inside in exposed_places(jail):
        folder = place / "folder"
        folder.mkdir()
        shutil.copy("/usr/bin/id", folder / "id")
        jail.tree.own(folder)
        (folder / "id").chmod(0o4755)
        before = (folder / "id").read_bytes()
        results = jail.attack("overwrite", f"{inside}/folder/id", options=options)
        assert set(results.values()) <= {"EROFS", "EXDEV", "EBUSY"} and len(results) == 4, results
        assert (folder / "id").read_bytes() == before and [str(folder / "id") in line for line in marked(place)] == [True]
        outside = jail.outside("overwrite", str(folder / "id"))
        assert len(succeeded(outside)) == 4 and marked(place), outside


def test_what_is_put_over_a_set_id_program_by_another_name(jail: Jail) -> None:
    """A bind at a place that the root has by a symlink covers the program: the jail starts, and sees what was asked for."""
    root, shared = small_root(jail.tree), jail.tree.root / "shared"
    (root / "real/d").mkdir(parents=True)
    (root / "link").symlink_to("real")
    shutil.copy("/usr/bin/id", root / "real/d/id")
    shared.mkdir()
    (shared / "mine").touch()
    jail.tree.own(root)
    (root / "real/d/id").chmod(0o4755)
    for option, seen in (("--bind", "mine"), ("--tmpfs", "")):
        given = f"{shared}:/link/d" if option == "--bind" else "/link/d"
        done = jail.tree.run("ljexec", "--root", str(root), "--rw", option, given, "--seccomp", jail.seccomp, "--", "/bin/ls", "/real/d")
        assert (done.returncode, done.stdout.strip()) == (0, seen), done


def test_what_its_caller_may_not_look_into(jail: Jail) -> None:
    """A directory of mode 0 is open to the jail's root, and so to the one that looks for such programs; one that may be listed and not entered likewise."""
    for options, place, inside in exposed_places(jail):
        for mode in (0, 0o400):
            folder = place / f"folder{mode}"
            folder.mkdir()
            shutil.copy("/usr/bin/id", folder / "id")
            jail.tree.own(folder)
            (folder / "id").chmod(0o4755)
            folder.chmod(mode)
            results = jail.attack("overwrite", f"{inside}/folder{mode}/id", options=options)
            folder.chmod(0o755)
            assert set(results.values()) <= {"EROFS", "EXDEV", "EBUSY"} and len(results) == 4, results


def test_what_may_be_entered_and_not_listed(jail: Jail) -> None:
    """A directory of another user, with x and without r: what lies there may be opened by its name, so not all was looked at."""
    if os.geteuid() or not jail.tree.uid:
        pytest.skip("needs root, to make a directory of another user for one")
    if jail.seccomp == "off":
        pytest.skip("without a filter nothing keeps it from that")
    for options, place, _ in exposed_places(jail):
        (place / "folder").mkdir(mode=0o711)
        (place / "folder").chmod(0o711)
        done = jail.tree.run("ljexec", *options, "--seccomp", jail.seccomp, "--", "/bin/true")
        assert done.returncode == 0 and "may be entered, but not listed" in done.stderr, done


def test_capabilities_of_what_nobody_may_execute_yet(jail: Jail) -> None:
    """A program whose x bits an administrator has taken away keeps them, and the jail could give it the bits."""
    if os.geteuid():
        pytest.skip("only root can give file capabilities: needs root")
    for options, place, inside in exposed_places(jail):
        program = place / "program"
        shutil.copy("/usr/bin/id", program)
        jail.tree.own(program)
        os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1, 0, 0, 0))
        program.chmod(0o644)
        results = jail.attack("overwrite", f"{inside}/program", options=options)
        assert results["through_mmap"] == "EROFS", results


@pytest.mark.parametrize(("name", "count"), [("d" * 200, 22), ("d", 250)], ids=["long", "many"])
def test_what_lies_too_deep_to_be_protected(jail: Jail, name: str, count: int) -> None:
    """Where paths are longer than the kernel takes, or there are too many directories in each other: root's jail is refused, a user's is told."""
    for options, place, _ in exposed_places(jail):
        here_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(count):
            os.mkdir(name, 0o755, dir_fd=here_fd)
            os.chown(name, jail.tree.uid, jail.tree.uid, dir_fd=here_fd)
            below_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here_fd)
            os.close(here_fd)
            here_fd = below_fd
        os.close(here_fd)
        done = jail.tree.run("ljexec", "--seccomp", jail.seccomp, *options, "--", "/bin/true")
        if not jail.tree.uid:
            assert done.returncode == 125 and "cannot protect set-user-id programs" in done.stderr, done.stderr
        elif jail.seccomp != "off":
            assert done.returncode == 0 and "not all that may be there were looked for: there are directories in each other" in done.stderr, done.stderr


def test_a_place_that_is_closed_by_somebody_else(jail: Jail) -> None:
    """Root's jail below a home of mode 0700: it is closed to all but the one whom it must not give a set-user-id program of root's."""
    if jail.tree.uid or jail.seccomp == "off":
        pytest.skip("what is another's cannot be closed to him: needs root and a filter")
    home = jail.tree.root / "theirs"
    home.mkdir(mode=0o700)
    root = small_root(jail.tree).rename(home / "root")
    os.chown(home, STRANGER, STRANGER)
    jail.attack("setuid", "leave", "/tmp/..", options=("--root", str(root), *PYTHON_BINDS, "--rw"))
    assert not marked(root), marked(root)


@pytest.mark.parametrize("how", ["closed itself", "open to a group", "a symlink"])
def test_places_that_only_seem_closed(jail: Jail, how: str) -> None:
    """What the jail may write, it may open; a group is somebody; a bind's symlink lies elsewhere than what it leads to."""
    if jail.seccomp == "off":
        pytest.skip("without a filter nothing keeps it from that")
    for given, place, inside in exposed_places(jail):
        options = given
        closed = place.parent if options[0] == "--root" else place
        if how == "closed itself":
            closed.chmod(0o700)
        elif how == "open to a group":
            closed.chmod(0o750)
        elif options[0] == "--bind":
            private = jail.tree.root / "private"
            private.mkdir(mode=0o700)
            (private / "link").symlink_to(place)
            os.chown(private, jail.tree.uid, jail.tree.uid)
            options = ("--bind", f"{private}/link:/place:rw")
        jail.attack("setuid", "leave", inside, options=options)
        assert not marked(place), marked(place)


def test_a_closed_place_may_have_them(jail: Jail) -> None:
    """Below a directory that only its owner may enter: no note, no stricter filter, nothing read-only."""
    closed = jail.tree.root / "closed"
    closed.mkdir(mode=0o700)
    root = small_root(jail.tree).rename(closed / "root")
    jail.tree.own(closed)
    options = ("--root", str(root), *PYTHON_BINDS, "--rw")
    done = jail.tree.run("ljexec", "--explain", *options, "--", "true")
    assert "others can reach" not in done.stderr and "set-user-id" not in done.stdout
    assert "setuid" in succeeded(jail.attack("setuid", "leave", "/tmp/..", options=options)) and marked(root)

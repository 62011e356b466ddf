"""`writable = "overlay"` and `"direct"`: what a service writes, where it is kept, and how it goes."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.roots import small_root
from tests.integration.terminals import Terminal


def overlay_of(tree: Tree, name: str) -> Path:
    base = Path("/var/lib/ljsv") if not tree.uid else tree.home / ".local/state/ljsv"
    (found,) = base.glob(f"sv-{tree.scan_hash()}/{name}/overlay")
    return found


def start(tree: Tree, script: str, rootfs: str = 'writable = "overlay"') -> None:
    root = small_root(tree)
    tree.ljsv("scan", "--daemon")
    tree.add("web", f"#!/bin/sh\n{script}\nexec sleep 1000", f'base = "{root}"\n{rootfs}')
    tree.wait_state("web", "ready", "failed", "backoff")
    assert tree.state("web") == "ready", tree.detail("web")


def wait_log(tree: Tree, text: str, count: int = 1) -> None:
    wait_for(lambda: tree.log("web").count(text) >= count, f"{count} x {text!r} in {tree.log('web')!r}")


@pytest.mark.kernel
def test_changes_are_kept_over_restarts_and_redeployments(tree: Tree) -> None:
    """In the state directory, under the service's name; the base is not touched; a directory that replaces it finds them."""
    start(tree, "echo run >> /count; cat /count; echo END")
    wait_log(tree, "END")
    tree.ljsv("restart", "web")
    wait_log(tree, "END", 2)
    assert tree.log("web").count("run") == 3
    assert not (tree.staging / "root/count").exists()
    assert (overlay_of(tree, "web") / "upper/count").read_text() == "run\nrun\n"
    assert stat.S_IMODE(overlay_of(tree, "web").stat().st_mode) == 0o700
    before = tree.pid("web")
    replacement = tree.write("other", "#!/bin/sh\ncat /count; echo END\nexec sleep 1000", f'base = "{tree.staging}/root"\nwritable = "overlay"')
    (tree.sv / "web").rename(tree.staging / "old")
    replacement.rename(tree.sv / "web")
    wait_for(lambda: tree.pid("web") not in {0, before}, "the new one")
    wait_log(tree, "END", 3)
    assert tree.log("web").count("run") == 5


@pytest.mark.parametrize("supervisor", ["lives", "is killed", "has exited", "is killed, and another has the name"])
def test_a_renamed_service_keeps_what_it_wrote(tree: Tree, supervisor: str) -> None:
    """While it runs, and at its next start; also where its supervisor has not heard of it."""
    start(tree, "echo run >> /count; cat /count; echo END")
    wait_log(tree, "END")
    before = tree.supervisor_pid("web")
    if supervisor == "has exited":
        tree.ljsv("exit", "--all")
    if "killed" in supervisor:
        os.kill(before, signal.SIGSTOP)
    (tree.sv / "web").rename(tree.sv / "site")
    if "another" in supervisor:
        tree.add("web", "echo other > /count; exec sleep 1000", (tree.sv / "site/rootfs").read_text())
    if "killed" in supervisor:
        os.kill(before, signal.SIGKILL)
    if supervisor == "has exited":
        tree.ljsv("up", "site")
    else:
        wait_for(lambda: "site" in tree.detail("site").get("directory", "") and tree.supervisor_pid("site"), "the new name")
        tree.ljsv("restart", "site")
    wait_for(lambda: written(tree, "site") == "run\nrun\n", "the second run")
    if "another" not in supervisor:
        wait_for(lambda: tree.log("site").count("END") == 2, "its log")
    else:
        wait_for(lambda: written(tree, "web") == "other\n", "the other one's own")


def written(tree: Tree, name: str) -> str:
    """What it has counted, "" before that."""
    try:
        return (overlay_of(tree, name) / "upper/count").read_text()
    except (OSError, ValueError):
        return ""


def test_elsewhere(tree: Tree) -> None:
    """`overlay` names the directory; purge deletes what is in it, and nothing else."""
    place = tree.root / "data"
    place.mkdir()
    (place / "mine").touch()
    tree.own(place)
    place.chmod(0o700)
    start(tree, "echo x > /written; echo END", f'writable = "overlay"\noverlay = "{place}"')
    wait_log(tree, "END")
    assert (place / "upper/written").exists()
    tree.ljsv("exit", "web")
    tree.ljsv("purge", "web", "--yes")
    assert sorted(path.name for path in place.iterdir()) == ["mine"]


def test_reset_moves_it_aside(tree: Tree) -> None:
    """One copy is kept; refused while it runs; asked for off a terminal; the next start is from the base."""
    start(tree, "cat /count 2>/dev/null || echo fresh; echo run >> /count; rm -rf /bin/ls; echo END")
    wait_log(tree, "END")
    running = tree.ljsv("overlay", "reset", "web", "--yes", code=1)
    assert "the service is ready" in running.stderr and "hint: ljsv down web" in running.stderr
    tree.ljsv("down", "web")
    assert "hint: ljsv overlay reset web --yes" in tree.ljsv("overlay", "reset", "web", code=100).stderr
    for number in (2, 3):
        moved = tree.ljsv("overlay", "reset", "web", "--yes").stdout
        aside = overlay_of(tree, "web") / "upper.old"
        assert str(aside) in moved
        assert (aside / "count").read_text() == "run\n"
        tree.ljsv("up", "web")
        wait_log(tree, "END", number)
        tree.ljsv("down", "web")
        assert tree.log("web").count("fresh") == number
    tree.ljsv("overlay", "reset", "web", "--yes")
    assert "nothing was written" in tree.ljsv("overlay", "reset", "web", "--yes").stdout
    assert not (overlay_of(tree, "web") / "upper").exists()


def test_purge_deletes_what_forbids_it(tree: Tree) -> None:
    """Overlay's own work directory of mode 000, directories of mode 000, very deep ones, files that are read-only."""
    deep = "i=0; while [ $i -lt 60 ]; do d=$(printf '%0120d' $i); mkdir $d 2>/dev/null; cd $d || break; i=$((i+1)); done; cd /"
    start(tree, f"mkdir -p /a/b; touch /a/b/c; chmod 0 /a/b/c /a/b /a; rm -r /etc; mkdir /etc; mkdir /deep; cd /deep; {deep}; echo END")
    wait_log(tree, "END")
    tree.ljsv("exit", "web")
    overlay = overlay_of(tree, "web")
    assert stat.S_IMODE((overlay / "work/work").stat().st_mode) == 0
    tree.ljsv("purge", "web", "--yes")
    assert not overlay.exists()


def test_direct_writes_into_the_base(tree: Tree) -> None:
    """Files there are their owner's on disk, also as root."""
    start(tree, "echo x > /written; echo END", 'writable = "direct"')
    wait_log(tree, "END")
    made = tree.staging / "root/written"
    assert made.stat().st_uid == tree.uid
    assert tree.detail("web")["jail"] == "root + direct"


@pytest.mark.kernel
def test_binds_can_show_the_jails_ids(tree: Tree) -> None:
    """ids = "map" on a bind: as root, what the jail writes there belongs on disk to the id that it has inside."""
    shared = tree.root / "shared"
    shared.mkdir()
    tree.own(shared)
    start(tree, "touch /srv/made; chown 33 /srv/made 2>/dev/null; echo END", f'[[bind]]\nfrom = "{shared}"\nto = "/srv"\nwritable = true\nids = "map"')
    wait_log(tree, "END")
    assert (shared / "made").stat().st_uid == (33 if not tree.uid else tree.uid)


@pytest.mark.parametrize(
    ("rootfs", "told"),
    [
        ('base = "host"\nwritable = "overlay"', "needs a base of its own"),
        ('base = "host"\nwritable = "direct"', "needs a base of its own"),
        ('base = "{root}"\nwritable = "overlay"\noverlay = "relative"', "an absolute path"),
        ('base = "{root}"\nwritable = "tmpfs"\noverlay = "/x"', 'only together with writable = "overlay"'),
    ],
)
def test_what_cannot_be(scanning: Tree, rootfs: str, told: str) -> None:
    """Refused at start and by lint, with file and hint."""
    root = small_root(scanning)
    scanning.add("web", "#!/bin/sh\nexec sleep 1000", rootfs.replace("{root}", str(root)))
    scanning.wait_state("web", "failed")
    assert told in scanning.detail("web")["fault"]
    assert told in scanning.ljsv("lint", "web", code=1).stdout


def test_two_services_never_share_an_overlay(scanning: Tree) -> None:
    """The second one waits, saying why, and starts when the first has ended."""
    root = small_root(scanning)
    place = scanning.root / "data"
    rootfs = f'base = "{root}"\nwritable = "overlay"\noverlay = "{place}"'
    scanning.add("one", "#!/bin/sh\nexec sleep 1000", rootfs)
    scanning.wait_state("one", "ready")
    scanning.add("two", "#!/bin/sh\nexec sleep 1000", rootfs)
    scanning.wait_state("two", "backoff")
    assert "another jail uses it" in scanning.detail("two")["fault"]
    scanning.ljsv("down", "one")
    scanning.wait_state("two", "ready")


def test_a_directory_that_others_may_enter_is_closed(tree: Tree) -> None:
    """A set-user-id program that the jail makes must not be one for other users of the host."""
    place = tree.root / "data"
    place.mkdir(mode=0o755)
    tree.own(place)
    start(tree, "cp /bin/busybox /made; chmod 4755 /made; echo END", f'writable = "overlay"\noverlay = "{place}"')
    wait_log(tree, "END")
    assert (place / "upper/made").stat().st_mode & stat.S_ISUID
    assert place.stat().st_mode & 0o077 == 0
    assert os.stat(place).st_uid == tree.uid


@pytest.mark.kernel
@pytest.mark.usefixtures("subordinate")
@pytest.mark.parametrize("verb", ["reset", "purge"])
def test_files_of_subordinate_ids_go_as_well(tree: Tree, verb: str) -> None:
    """Files that on disk belong to ids that the caller is not: reset twice, and purge, delete them."""
    start(tree, "mkdir -p /d/e; touch /d/e/f; chown -R 33:34 /d; chmod 700 /d /d/e; echo END", 'writable = "overlay"\nids = "range"')
    wait_log(tree, "END")
    overlay = overlay_of(tree, "web")
    assert (overlay / "upper/d").stat().st_uid not in {0, tree.uid}
    if verb == "purge":
        tree.ljsv("exit", "web")
        tree.ljsv("purge", "web", "--yes")
        assert not overlay.exists()
        return
    for number in (2, 3):
        tree.ljsv("down", "web")
        tree.ljsv("overlay", "reset", "web", "--yes")
        tree.ljsv("up", "web")
        wait_log(tree, "END", number)
    assert (overlay / "upper.old/d").stat().st_uid not in {0, tree.uid}
    tree.ljsv("exit", "web")
    tree.ljsv("purge", "web", "--yes")


def test_a_directory_with_something_else_in_it_is_not_closed(scanning: Tree) -> None:
    """Others may enter it, and it is not the overlay's own: refused, its mode as it was; so is a base inside the overlay."""
    root = small_root(scanning)
    place = scanning.root / "data"
    place.mkdir(mode=0o755)
    (place / "mine").touch()
    scanning.own(place)
    for overlay, told in ((place, "holds more than an overlay (mine)"), (root, "lie in each other"), (root / "below", "lie in each other"), (scanning.staging, "lie in each other")):
        done = scanning.run("ljexec", "--root", str(root), "--overlay-dir", str(overlay), "--", "true")
        assert done.returncode == 125
        assert told in done.stderr and "hint:" in done.stderr
    assert place.stat().st_mode & 0o777 == 0o755
    assert root.stat().st_mode & 0o777 == 0o755


def test_purge_is_refused_while_a_jail_lives(tree: Tree) -> None:
    """Scanner and supervisor are killed, the jail lives on: its record and what it writes stay, and it is adopted, not doubled."""
    start(tree, "echo x > /written; echo END")
    wait_log(tree, "END")
    pid, supervisor = tree.pid("web"), tree.supervisor_pid("web")
    scanner = int(next(Path(tree.runtime if tree.uid else "/run").glob(f"ljsv/sv-{tree.scan_hash()}/.scanner/pid")).read_text().split()[0])
    os.kill(scanner, 9)
    os.kill(supervisor, 9)
    wait_for(lambda: not is_alive(supervisor), "the supervisor's end")
    refused = tree.ljsv("purge", "web", "--yes", code=1)
    assert "its jail runs" in refused.stderr and "hint: ljsv up web" in refused.stderr
    assert (overlay_of(tree, "web") / "upper/written").exists()
    tree.ljsv("up", "web")
    assert tree.pid("web") == pid


def test_purge_is_refused_while_another_jail_uses_the_overlay(tree: Tree) -> None:
    """One that was started by hand, say."""
    place = tree.root / "data"
    start(tree, "echo END", f'writable = "overlay"\noverlay = "{place}"')
    wait_log(tree, "END")
    tree.ljsv("exit", "web")
    by_hand = tree.start("ljexec", "--root", f"{tree.staging}/root", "--overlay-dir", str(place), "--", "sh", "-c", "echo in; exec sleep 1000")
    assert by_hand.stdout is not None
    assert by_hand.stdout.readline() == "in\n"
    assert "in use" in tree.ljsv("purge", "web", "--yes", code=None).stderr
    assert (place / "upper").exists()
    by_hand.kill()
    by_hand.communicate()


def test_names_that_a_service_has_chosen_for_a_terminal(scanning: Tree) -> None:
    """`overlay diff` on a terminal shows them without what it would take for a command; elsewhere they are as they are."""
    root = small_root(scanning)
    scanning.add("a", r"""touch "$(printf '/tmp/../etc/a\033]0;x\007b')" "$(printf '/etc/x\ny')"; exec sleep 1000""", f'base = "{root}"\nwritable = "overlay"\n')
    scanning.wait_state("a", "ready")
    wait_for(lambda: "y" in scanning.ljsv("overlay", "diff", "a").stdout, "its files")
    assert "a\x1b]0;x\x07b" in scanning.ljsv("overlay", "diff", "a").stdout
    with Terminal(scanning, "ljsv", "overlay", "diff", "a") as terminal:
        terminal.wait_for("x\N{REPLACEMENT CHARACTER}y")
        assert "\x1b" not in terminal.shown


@pytest.mark.parametrize("what", ["work/report", "work/work/draft", "layers/poster", "photos/one"])
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_that_is_no_overlays_is_left_alone(scanning: Tree, what: str, mode: int) -> None:
    """Whoever may enter it: overlayfs empties work/, and reset and purge delete what they take for a jail's."""
    root, place = small_root(scanning), scanning.root / "proj"
    kept = [place / what, place / "upper/body"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    scanning.own(place)
    place.chmod(mode)
    done = scanning.run("ljexec", "--root", str(root), "--overlay-dir", str(place), "--", "true")
    assert done.returncode == 125 and "holds more than an overlay" in done.stderr and what.split("/", maxsplit=1)[0] in done.stderr
    scanning.add("a", rootfs=f'base = "{root}"\nwritable = "overlay"\noverlay = "{place}"\n')
    assert "holds more than an overlay" in scanning.wait_state("a", "failed")["fault"]
    scanning.ljsv("down", "a")
    scanning.ljsv("overlay", "reset", "a", "--yes", code=None)
    scanning.ljsv("exit", "a")
    assert "holds more than an overlay" in scanning.ljsv("purge", "a", "--yes", code=None).stderr
    assert all(path.read_text() == "mine" for path in kept)


@pytest.mark.parametrize("when", ["running", "down", "no scanner"])
def test_services_that_swap_names_keep_what_they_wrote(tree: Tree, when: str) -> None:
    """Whatever they had under those names, and at once."""
    root = small_root(tree)
    tree.ljsv("scan", "--daemon")
    for name in ("one", "two"):
        tree.add(name, f"#!/bin/sh\necho {name} >> /id\necho $(cat /id) END\nexec sleep 1000", f'base = "{root}"\nwritable = "overlay"\n')
    for name in ("one", "two"):
        tree.wait_state(name, "ready")
        wait_for(lambda name=name: "END" in tree.log(name), "its first run")
    if when == "down":
        tree.ljsv("down", "one", "two")
    elif when == "no scanner":
        tree.ljsv("exit", "--all")
    (tree.sv / "one").rename(tree.sv / "third")
    (tree.sv / "two").rename(tree.sv / "one")
    (tree.sv / "third").rename(tree.sv / "two")
    tree.ljsv("restart", "one", "two")
    for name, text in (("one", "two two END"), ("two", "one one END")):
        wait_for(lambda name=name, text=text: text in tree.log(name), "what it wrote before")
        assert (overlay_of(tree, name) / "upper/id").exists()


def test_renamed_to_a_name_that_has_left_something(scanning: Tree) -> None:
    """What a service that is gone has written is put aside, and deleted with a purge of its name."""
    root = small_root(scanning)
    for name in ("gone", "one"):
        scanning.add(name, f"#!/bin/sh\necho {name} >> /id\necho $(cat /id) END\nexec sleep 1000", f'base = "{root}"\nwritable = "overlay"\n')
        wait_for(lambda name=name: "END" in scanning.log(name), "its first run")
    scanning.ljsv("remove", "gone", "--yes")
    (scanning.sv / "one").rename(scanning.sv / "gone")
    scanning.ljsv("restart", "gone")
    wait_for(lambda: "one one END" in scanning.log("gone"), "what it wrote before")
    aside = [path for path in overlay_of(scanning, "gone").parent.parent.iterdir() if path.name.startswith(".")]
    assert [(path / "overlay/upper/id").read_text() for path in aside] == ["gone\n"]
    assert str(aside[0]) in scanning.events()
    scanning.ljsv("exit", "gone")
    scanning.ljsv("purge", "gone", "--yes")
    assert not aside[0].exists()


def test_purge_finds_an_overlay_elsewhere_without_its_service(scanning: Tree) -> None:
    """Its service directory, which said where, is gone."""
    root, place = small_root(scanning), scanning.root / "data"
    scanning.add("a", "#!/bin/sh\necho x > /written; echo END; exec sleep 1000", f'base = "{root}"\nwritable = "overlay"\noverlay = "{place}"\n')
    wait_for(lambda: "END" in scanning.log("a"), "its run")
    assert (place / "upper/written").exists()
    scanning.ljsv("remove", "a", "--yes")
    assert f"{place}/upper" in scanning.ljsv("purge", "a", "--yes").stdout
    assert not list(place.iterdir())

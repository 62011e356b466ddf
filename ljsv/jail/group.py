"""A tree's control groups: made where `cgroup.survey` found a place, one for each jail, removed afterwards.

    ROOT/ljsv.SCAN/             hands its controllers on, holds no process
    ROOT/ljsv.SCAN/.scanner     scanner, supervisors, journal: never in a service's group
    ROOT/ljsv.SCAN/sv.web       the jail of web; log.web that of its log service
    ROOT/ljsv.others            who was in ROOT when it was to hand its controllers on, and has to be out of it

A group is made anew for each jail, so that its counters are that jail's.
Nothing here raises for a machine without groups: then a tree has no path, and
`missing` says why. Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import time

from ljsv.errors import quote
from ljsv.frozen import Frozen
from ljsv.jail.cgroup import LEAF, OTHERS, TREE_PREFIX, Missing, Survey, has_processes, is_inner, is_to_be_opened, without_leaf
from ljsv.linux import cgroup
from ljsv.linux.cgroup import CONTROLLERS

SERVICE, LOG_SERVICE, BY_HAND = "sv.", "log.", "jail"
HAND_PREFIX = "ljexec."
PREFIXES = (SERVICE, LOG_SERVICE, BY_HAND)
YOUNG_S = 5.0
SAME_NAME_MAX = 16
MOVES_MAX = 16
SWEEP_MAX = 10_000


class Tree(Frozen):
    """The groups of one scan directory (or of one `ljexec`): `path` is "" where there are none, `origin` the group we came from.

    `is_regained`: a controller is handed on again, or for the first time, to
    groups that are there already, whose limits have to be written once more.
    """

    path: str = ""
    origin: str = ""
    missing: tuple[tuple[str, Missing], ...] = ()
    is_regained: bool = False

    def why_missing(self, controller: str) -> Missing | None:
        """None where the controller is handed on to the jails' groups."""
        return dict(self.missing).get(controller)


def prepare(found: Survey, name: str) -> Tree:
    """Make the tree's own group, move who is in the root into a leaf where that has to be, and hand the controllers on."""
    if not found.root or len(found.missing) == len(CONTROLLERS):  # a hierarchy without controllers is not worth touching
        return Tree(missing=found.missing)
    path = f"{found.root.rstrip('/')}/{TREE_PREFIX}{name}"
    missing = dict(found.missing)
    try:
        if is_to_be_opened(found.root):
            os.chmod(found.root, os.stat(found.root).st_mode & 0o7777 | 0o200)
        _make(path)
        if found.own and os.path.samefile(found.own, found.root):
            _make(f"{path}/{LEAF}")
            cgroup.write_file(f"{path}/{LEAF}", "cgroup.procs", "0")
        if is_inner(found.root) and has_processes(found.root):
            _make(f"{found.root}/{OTHERS}")
            _move_all(found.root, f"{found.root}/{OTHERS}")
    except OSError as error:
        why = Missing(f"{error.filename or path}: {error.strerror}", "ljsv doctor")
        return Tree(missing=tuple((controller, missing.get(controller, why)) for controller in CONTROLLERS))
    before = cgroup.read_words(path, "cgroup.subtree_control")
    for controller in CONTROLLERS:
        if controller not in missing:
            why_not = _hand_on(controller, found.root) or _hand_on(controller, path)
            if why_not:
                missing[controller] = why_not
    is_regained = set(CONTROLLERS) > {*before, *missing} and any(name.startswith(PREFIXES) for name in os.listdir(path))
    return Tree(path, without_leaf(found.own), tuple(missing.items()), is_regained)


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass


def _move_all(root: str, to: str) -> None:
    """All that are in the root, which is ours alone then (see `survey`)."""
    for _ in range(MOVES_MAX):
        pids = cgroup.read_words(root, "cgroup.procs")
        if not pids:
            return
        for pid in pids:
            try:
                cgroup.write_file(to, "cgroup.procs", pid)
            except ProcessLookupError:
                continue


def _hand_on(controller: str, group: str) -> Missing | None:
    """Enable it for the groups below; why not."""
    if controller in cgroup.read_words(group, "cgroup.subtree_control"):
        return None
    try:
        cgroup.write_file(group, "cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        hint = f"echo +{controller} > {group}/cgroup.subtree_control"
        if error.errno == errno.EBUSY:
            return Missing(f"processes are in {group}, so it cannot hand {controller} on", f"cat {quote(f'{group}/cgroup.procs')}  # move them into a group below it")
        return Missing(f"{group} does not hand {controller} on: {error.strerror}", hint if os.geteuid() == 0 else f"as root: {hint}")
    return None


# ---- a jail's group


def make_group(tree: Tree, name: str) -> str:
    """A new group; under another name where the one before it still holds a process. OSError."""
    error = OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{tree.path}/{name}")
    for number in range(1, SAME_NAME_MAX + 1):
        path = f"{tree.path}/{name}" + (f"~{number}" if number > 1 else "")
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not remove_group(path):
                continue
            os.mkdir(path, 0o755)
        return path
    raise error


def remove_group(path: str) -> bool:
    """Whether it is gone; False while a process, or a group, is in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def kill_group(path: str) -> bool:
    """KILL to all that is in it, frozen or not, forks included (cgroup.kill, since Linux 5.14). False where that cannot be done."""
    try:
        cgroup.write_file(path, "cgroup.kill", "1")
    except OSError:
        return False
    return True


def freeze_group(path: str, *, is_frozen: bool) -> bool:
    """Stop all that is in it, or let it go on. False where that cannot be done."""
    try:
        cgroup.write_file(path, "cgroup.freeze", "1" if is_frozen else "0")
    except OSError:
        return False
    return True


def open_group(path: str) -> int:
    """For CLONE_INTO_CGROUP. OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


# ---- the end


def sweep_groups(tree: str, prefixes: tuple[str, ...], *, young_s: float = YOUNG_S) -> bool:
    """Remove the groups of jails that are gone; not those that are so new that their jail may just be being made: whether there are some."""
    if not tree:
        return False
    try:
        names = [name for name in os.listdir(tree) if name.startswith(prefixes)][:SWEEP_MAX]
    except OSError:
        return False
    has_young = False
    for name in names:
        try:
            age_s = time.time() - os.stat(f"{tree}/{name}").st_ctime
        except OSError:
            continue
        if not 0 <= age_s <= young_s:
            remove_group(f"{tree}/{name}")
        else:
            has_young |= not cgroup.is_populated(f"{tree}/{name}")
    return has_young


def dissolve(tree: Tree) -> None:
    """Go back where we came from, and leave no group behind. What still holds a process stays."""
    if not tree.path:
        return
    sweep_groups(tree.path, PREFIXES, young_s=-1.0)
    leaf = f"{tree.path}/{LEAF}"
    if set(cgroup.read_words(leaf, "cgroup.procs")) == {str(os.getpid())} and tree.origin and not _leave(leaf, tree):
        return
    remove_group(leaf)
    remove_group(tree.path)
    remove_group(f"{os.path.dirname(tree.path)}/{OTHERS}")


def sweep_by_hand(root: str) -> None:
    """What an `ljexec` that was killed has left."""
    try:
        names = [name for name in os.listdir(root or "/nothing") if name.startswith(TREE_PREFIX + HAND_PREFIX)][:SWEEP_MAX]
    except OSError:
        return
    for name in names:
        if not os.path.exists(f"/proc/{name.rpartition('.')[2]}"):
            for path in (f"{root}/{name}/{BY_HAND}", f"{root}/{name}/{LEAF}", f"{root}/{name}"):
                remove_group(path)


def _leave(leaf: str, tree: Tree) -> bool:
    """Out of the leaf; the root may hold processes again only when it hands nothing on."""
    root = os.path.dirname(tree.path)
    try:
        if is_inner(root) and os.path.samefile(root, tree.origin):
            for group in (tree.path, root):
                given = cgroup.read_words(group, "cgroup.subtree_control")
                if given:
                    cgroup.write_file(group, "cgroup.subtree_control", " ".join(f"-{name}" for name in given))
        cgroup.write_file(tree.origin, "cgroup.procs", "0")
    except OSError:
        return False
    return True

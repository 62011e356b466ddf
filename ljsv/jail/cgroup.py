"""Where a tree of jails may have its control groups, and why a limit would not hold there.

`survey` only looks; it changes nothing, so `ljsv doctor` may call it too. A
tree's groups live in `ROOT/ljsv.SCAN` (see `group`). ROOT is what $LJSV_CGROOT names, or
the nearest group from our own upwards in which we may make groups and hand
controllers on. Sources: cgroups(7),
Documentation/admin-guide/cgroup-v2.rst (delegation, no internal processes).
"""

from __future__ import annotations

import os

from ljsv.frozen import Frozen
from ljsv.linux import cgroup
from ljsv.linux.cgroup import CONTROLLERS, Hierarchy, Use

LEAF = ".scanner"
OTHERS = "ljsv.others"
TREE_PREFIX = "ljsv."
NOT_ENFORCED = "not enforced: "
_V1_NAMES = {"io": "blkio"}
COMMANDS = {"LJSV_CGROOT": "ljsv up --all", "LJEXEC_CGROOT": "ljexec"}
_BOOT_V2 = "boot with systemd.unified_cgroup_hierarchy=1 (cgroup_no_v1=all where there is no systemd)"


class Missing(Frozen):
    """Why a controller cannot be had, and what mends it: best a command that can be pasted."""

    cause: str
    hint: str


class Survey(Frozen):
    """Where a tree may have its groups.

    `root` is the directory ("": nowhere), `own` that of the group in which
    this process is; `is_delegated`: we are in `root` itself, and it is ours.
    """

    root: str = ""
    own: str = ""
    is_delegated: bool = False
    missing: tuple[tuple[str, Missing], ...] = ()

    def why_missing(self, controller: str) -> Missing | None:
        """None where it can be had."""
        return dict(self.missing).get(controller)


# ---- for `ljsv status` and whoever shows a service


def service_use(detail: dict[str, str]) -> Use | None:
    """What a service uses, from its `detail`; None where nothing runs, or it has no group of its own."""
    return cgroup.read_use(detail.get("cgroup", ""))


def unenforced(detail: dict[str, str]) -> tuple[str, ...]:
    """The limits of a service that do not hold, each with its reason: `memory (the memory controller is on cgroup v1)`."""
    notes = [value for key, value in detail.items() if key.startswith("note")]
    return tuple(note.removeprefix(NOT_ENFORCED) for note in notes if note.startswith(NOT_ENFORCED))


# ---- looking


def survey(named: str = "", *, variable: str = "LJSV_CGROOT") -> Survey:
    """Look for a place; `named` is what `variable` says ("": look from our own group upwards)."""
    hierarchies = cgroup.find_hierarchies(_read("/proc/self/mountinfo"))
    own = cgroup.place_of(cgroup.find_group(_read("/proc/self/cgroup")), hierarchies)
    if named:
        problem = _why_not_named(named, hierarchies)
        if problem:
            why = Missing(f"{variable}={named}: {problem}", f"name a directory of a cgroup2 mount that you may write, or unset {variable}")
            return Survey(own=own, missing=tuple((name, why) for name in CONTROLLERS))
        return _survey_at(os.path.realpath(named), own, hierarchies)
    if not hierarchies:
        return Survey(missing=tuple((name, _why_no_v2(name)) for name in CONTROLLERS))
    root = _find_root(own)
    if not root:
        missing = tuple((name, _why_elsewhere(name) or _why_not_delegated(own, hierarchies[0].at, COMMANDS[variable])) for name in CONTROLLERS)
        return Survey(own=own, missing=missing)
    return _survey_at(root, own, hierarchies)


def _read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape", newline="\n") as file:  # whoever may mount chooses the bytes of a name
            return file.read()
    except OSError:
        return ""


def _survey_at(root: str, own: str, hierarchies: tuple[Hierarchy, ...]) -> Survey:
    available = cgroup.read_words(root, "cgroup.controllers")
    missing = [
        (name, _why_elsewhere(name) or _why_not_handed_down(name, root, hierarchies)) for name in CONTROLLERS if name not in available
    ]
    return Survey(root, own, root == without_leaf(own), tuple(missing))


def is_inner(group: str) -> bool:
    """Whether it is not the root of all: only that one may hold processes and hand controllers on at once."""
    return cgroup.has_file(group, "cgroup.type")


def has_processes(group: str) -> bool:
    return bool(cgroup.read_words(group, "cgroup.procs"))


def may_use(group: str) -> bool:
    """Whether we may make groups in it, and move processes about below it."""
    is_writable = os.access(group, os.W_OK, effective_ids=True) or is_to_be_opened(group)
    return is_writable and os.access(f"{group}/cgroup.procs", os.W_OK, effective_ids=True)


def is_to_be_opened(group: str) -> bool:
    """Whether it is ours, and only its mode (0555: the root of all, given away by chown) keeps us from writing it."""
    try:
        entry = os.stat(group)
        is_read_only = bool(os.statvfs(group).f_flag & os.ST_RDONLY)
    except OSError:
        return False
    return entry.st_uid == os.geteuid() and not entry.st_mode & 0o200 and not is_read_only


def is_ours_alone(group: str) -> bool:
    """Whether all that is in the group may be moved into a leaf of it: it was delegated to us, or there is nobody else to mind it."""
    if _is_marked(group):
        return True
    if os.path.isdir("/run/systemd/system"):
        return _is_only_ours(group)
    try:
        is_owner = os.geteuid() != 0 and os.stat(group).st_uid == os.geteuid()
    except OSError:
        return False
    return is_owner or _is_only_ours(group) or os.path.ismount(group)


def _is_marked(group: str) -> bool:
    """Whether systemd says that it has delegated this very group: the first name since version 251, the second, for root to see, before."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(group, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _is_systemds(group: str) -> bool:
    """Whether systemd alone may write it, whatever root can: a group has one writer, and none from here up is given away."""
    if os.geteuid() or not os.path.isdir("/run/systemd/system"):
        return False
    while cgroup.has_file(group, "cgroup.procs"):
        if _is_marked(group):
            return False
        group = os.path.dirname(group)
    return True


def _is_only_ours(group: str) -> bool:
    """Whether nobody is in it but this process."""
    return set(cgroup.read_words(group, "cgroup.procs")) <= {str(os.getpid())}


def _find_root(own: str) -> str:
    """The nearest group from our own upwards in which a tree may begin; "" for none."""
    group = without_leaf(own)
    while group and cgroup.has_file(group, "cgroup.procs") and not _is_systemds(group):
        if may_use(group) and (not is_inner(group) or not has_processes(group) or _is_handing_on(group) or is_ours_alone(group)):
            return group
        group = os.path.dirname(group)
    return ""


def without_leaf(own: str) -> str:
    """The group of which this one is a leaf that a tree has made."""
    if os.path.basename(own) == LEAF:
        return os.path.dirname(os.path.dirname(own))
    return os.path.dirname(own) if os.path.basename(own) == OTHERS else own


def _is_handing_on(group: str) -> bool:
    return bool(cgroup.read_words(group, "cgroup.subtree_control"))


# ---- why not


def _why_not_named(named: str, hierarchies: tuple[Hierarchy, ...]) -> str:
    if not cgroup.has_file(named, "cgroup.procs") or not cgroup.has_file(named, "cgroup.controllers"):
        return "not a directory of cgroup v2" if os.path.isdir(named) else "No such directory"
    if not any(f"{os.path.realpath(named)}/".startswith(f"{mount.at.rstrip('/')}/") for mount in hierarchies):
        return "not below a mount of cgroup v2"
    if not may_use(named):
        return f"uid {os.geteuid()} may not make groups in it: Permission denied"
    return _why_not_reached(os.path.realpath(named), hierarchies)


def _why_not_reached(root: str, hierarchies: tuple[Hierarchy, ...]) -> str:
    """Who moves a process has to be allowed to write the cgroup.procs of what both groups are in."""
    mount = max((mount for mount in hierarchies if f"{root}/".startswith(f"{mount.at.rstrip('/')}/")), key=lambda mount: len(mount.at))
    there = f"{mount.root.rstrip('/')}{root[len(mount.at.rstrip('/')) :]}" or "/"
    common = os.path.commonpath([there, cgroup.find_group(_read("/proc/self/cgroup")) or "/"])
    place = cgroup.place_of(common, hierarchies)
    if place and not os.access(f"{place}/cgroup.procs", os.W_OK, effective_ids=True):
        return f"uid {os.geteuid()} may not move a process there: {place}/cgroup.procs: Permission denied"
    return ""


def _on_v1() -> dict[str, int]:
    """The hierarchy of each controller as /proc/cgroups has it: 0 is version 2; disabled ones are -1."""
    found = {}
    for line in _read("/proc/cgroups").splitlines():
        words = line.split()
        if len(words) == 4 and words[1].isdigit():
            found[words[0]] = int(words[1]) if words[3] == "1" else -1
    return found


def _why_elsewhere(controller: str) -> Missing | None:
    """None where the controller is version 2's to give."""
    place = _on_v1().get(_V1_NAMES.get(controller, controller))
    if place is None:
        return Missing(f"this kernel has no {controller} controller", "a kernel built with it: CONFIG_MEMCG, CFS_BANDWIDTH, CGROUP_PIDS, BLK_CGROUP, CPUSETS")
    if place < 0:
        return Missing(f"the {controller} controller is switched off", f"boot with cgroup_enable={controller}")
    if place > 0:
        return Missing(f"the {controller} controller is on cgroup v1", _BOOT_V2)
    return None


def _why_no_v2(controller: str) -> Missing:
    mount = "mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup"
    return _why_elsewhere(controller) or Missing("cgroup v2 is not mounted", mount if os.geteuid() == 0 else f"as root: {mount}")


def _why_not_delegated(own: str, top: str, command: str) -> Missing:
    uid = os.geteuid()
    try:
        is_read_only = bool(os.statvfs(own or "/").f_flag & os.ST_RDONLY)
    except OSError:
        is_read_only = False
    if is_read_only:
        return Missing(f"{own} is mounted read-only", f"mount -o remount,rw {own}; in a container its runtime has to allow that")
    hint = f"systemd-run {'--user ' if uid else ''}--scope -p Delegate=yes {command}"
    if not os.path.isdir("/run/systemd/system"):
        given = f"ljsv-{uid}"
        hint = (
            f"as root: cd {top}; echo +cpu +memory +pids > cgroup.subtree_control; mkdir -p {given}; "
            f"chown {uid} {given} {given}/cgroup.procs {given}/cgroup.threads {given}/cgroup.subtree_control; echo {os.getppid()} > {given}/cgroup.procs"
        )
    return Missing(f"the cgroup {own or '/'} is not delegated to uid {uid}", hint)


def _why_not_handed_down(controller: str, root: str, hierarchies: tuple[Hierarchy, ...]) -> Missing:
    """The highest group above `root` that has the controller, and does not hand it on."""
    tops = {mount.at.rstrip("/") for mount in hierarchies}
    group, found = root, ""
    while group not in tops and cgroup.has_file(os.path.dirname(group), "cgroup.procs"):
        group = os.path.dirname(group)
        has_it = controller in cgroup.read_words(group, "cgroup.controllers")
        if has_it and controller not in cgroup.read_words(group, "cgroup.subtree_control"):
            found = group
    if not found:
        return Missing(f"the {controller} controller was not handed down to {root}", f"on the host: echo +{controller} > .../cgroup.subtree_control")
    hint = f"echo +{controller} > {found}/cgroup.subtree_control"
    if "/user@" in root and os.path.isdir("/run/systemd/system"):
        folder = "/etc/systemd/system/user@.service.d"
        hint = (
            f"mkdir -p {folder}; printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > {folder}/delegate.conf; "
            "systemctl daemon-reload; then log in anew"
        )
    return Missing(f"the {controller} controller is not handed on in {found}", hint if os.geteuid() == 0 else f"as root: {hint}")

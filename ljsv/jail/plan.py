"""plan(spec, facts): the steps of one jail, in order. Pure: the same values give the same list, always."""

from __future__ import annotations

from ljsv.frozen import Frozen
from ljsv.jail import hardening, mounts, outside
from ljsv.jail.facts import FUSE, LOOP, Facts
from ljsv.jail.passwd import ROOT_NAMES
from ljsv.jail.spec import DIRECT, DIRECTORY, HOST, IMAGE, NO, OVERLAY, SERVICE_AT, TMPFS, JailSpec, workdir
from ljsv.jail.step import NOSUID_NODEV, PLAIN, READ_ONLY, Step
from ljsv.linux import process
from ljsv.linux.mount import MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

NAMESPACES = (
    (process.CLONE_NEWUSER, "user"),
    (process.CLONE_NEWNS, "mount"),
    (process.CLONE_NEWPID, "pid"),
    (process.CLONE_NEWIPC, "ipc"),
    (process.CLONE_NEWUTS, "uts"),
    (process.CLONE_NEWCGROUP, "cgroup"),
    (process.CLONE_NEWNET, "net"),
)
_NO_EXEC = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC


def namespaces(spec: JailSpec) -> int:
    """The flags for clone3."""
    flags = 0
    for flag, name in NAMESPACES:
        if (name != "net" or spec.network == "none") and (name != "user" or not spec.is_privileged):
            flags |= flag
    return flags


class Plan(Frozen):
    """`outside` is for the launcher, before clone3; `inside` for the builder, between clone3 and exec."""

    outside: tuple[Step, ...]
    inside: tuple[Step, ...]


def plan(spec: JailSpec, facts: Facts) -> Plan:
    """Every step, in order."""
    asked = _asked(spec, facts)
    places = {place for place, _ in asked}
    of_root, of_binds = _protected(spec, facts)
    ours = [*_root(spec, facts), *of_root, *_dev(facts), *_proc(facts), *_tmp_and_run(spec, facts), *_shown(facts)]
    tree = [step for step in ours if not (isinstance(step, mounts.Bind) and step.to in places)]  # what was asked for is there instead
    tree += [*_nodes_home(facts), *(step for _, step in asked), *of_binds]
    prepared = _prepared(spec, facts)
    brought = _brought(spec, facts, tree)
    if facts.is_root:  # only the launcher may reach and map all of it
        prepared, brought = prepared + brought, []
    opening = [mounts.MakePrivate()] if spec.is_privileged else []
    inside = (*opening, mounts.KeepProc(), *brought, *tree, *_closing(spec), *_hardening(spec, facts))
    return Plan(tuple(prepared), inside)


def _prepared(spec: JailSpec, facts: Facts) -> list[Step]:
    taken: list[Step] = []
    if spec.base_kind == IMAGE:
        taken.append(outside.HoldImage(spec.base_path))
    if spec.base_kind == IMAGE and facts.image_how != FUSE:
        taken.append(outside.MountImage(spec.base_path, spec.image_type, facts.userns_fd, facts.image_how == LOOP))
    if spec.writable == OVERLAY:
        taken.append(outside.MakeOverlay(spec.overlay, spec.base_path if spec.base_kind == DIRECTORY else "", spec.layer))
    if facts.is_root and facts.nodes:
        taken.append(outside.MakeDevices(facts.nodes))
    return taken


def _brought(spec: JailSpec, facts: Facts, tree: list[Step]) -> list[Step]:
    """Copies of the host's mounts: one for each place where the tree wants one."""
    taken: list[Step] = []
    if spec.base_kind == DIRECTORY:
        at = "root" if _is_plain(spec, facts) else "base"
        attributes = NOSUID_NODEV if spec.writable == DIRECT else READ_ONLY
        taken.append(outside.CloneTree(spec.base_path, at, attributes, facts.userns_fd if facts.is_base_mapped else -1))
    if spec.writable == OVERLAY:
        taken.append(outside.CloneTree(spec.overlay, "overlay", NOSUID_NODEV, facts.userns_fd))
    mapped = {bind.to for bind in spec.binds if bind.is_mapped}
    for step in tree:
        if isinstance(step, mounts.Bind):
            userns_fd = facts.userns_fd if step.to in mapped else -1
            taken.append(outside.CloneTree(step.source, step.to, step.attributes, userns_fd))
    return taken


def _is_plain(spec: JailSpec, facts: Facts) -> bool:
    """Whether the root is the base itself, without layers."""
    return spec.base_kind == DIRECTORY and (spec.writable == DIRECT or (spec.writable == NO and not facts.missing))


def _root(spec: JailSpec, facts: Facts) -> list[Step]:
    if spec.base_kind == HOST:
        root: list[Step] = [_scratch(facts, "root"), mounts.NewRoot(), mounts.OpenRoot()]
        root += [mounts.MakeSymlink(path, target) for path, target in facts.host_links]
        return root + [mounts.Bind(path, path, READ_ONLY, is_directory=True) for path in facts.host_directories]
    if _is_plain(spec, facts):
        return [_scratch(facts, "root"), mounts.Attach(spec.base_path, "root"), mounts.OpenRoot()]
    upper = {OVERLAY: "overlay", TMPFS: "changes"}.get(spec.writable, "")
    directories = ["root", "base", "skeleton", *([upper] if upper else [])]
    if upper == "changes":
        directories += [f"changes/{outside.UPPER}", f"changes/{outside.WORK}"]
    root = [_scratch(facts, *directories), mounts.MakeSkeleton(facts.missing)]
    if spec.base_kind == IMAGE and facts.image_how == FUSE:
        root.append(mounts.MountFuse(spec.base_path, "base"))
    else:
        root.append(mounts.Attach(spec.base_path, "base"))
    if upper == "overlay":
        root.append(mounts.Attach(spec.overlay, "overlay"))
    return [*root, mounts.OverlayRoot(upper, spec.overlay or spec.base_path, spec.layer), mounts.OpenRoot()]


def _nodes_home(facts: Facts) -> list[Step]:
    return [mounts.Attach("devices", outside.NODES)] if facts.is_root and facts.nodes else []


def _scratch(facts: Facts, *directories: str) -> Step:
    nodes = (outside.NODES,) if facts.is_root and facts.nodes else ()
    return mounts.MakeScratch(facts.scratch, (*directories, *nodes))


def _shown(facts: Facts) -> list[Step]:
    """What the host's /etc is seen by."""
    return [
        mounts.Bind(f"/etc/{name}", f"/etc/{name}", READ_ONLY, is_directory, may_be_replaced=not is_directory) for name, is_directory in facts.etc
    ]


def _dev(facts: Facts) -> list[Step]:
    dev: list[Step] = [mounts.NewMount("tmpfs", "/dev", (("mode", "0755"), ("size", "64k"), ("nr_inodes", "256")), PLAIN)]
    dev += [mounts.Bind(f"/dev/{name}", f"/dev/{name}", _NO_EXEC, is_directory=False, follow=False) for name in facts.devices]
    dev += [
        mounts.NewMount("devpts", "/dev/pts", (("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")), _NO_EXEC),
        mounts.NewMount("tmpfs", "/dev/shm", (("mode", "1777"),), PLAIN),
    ]
    links = (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))
    return dev + [mounts.MakeSymlink(f"/dev/{name}", target) for name, target in links]


def _proc(facts: Facts) -> list[Step]:
    proc: list[Step] = [mounts.NewMount("proc", "/proc", (), PLAIN)]
    proc += [mounts.Remount(f"/proc/{name}", is_directory) for name, is_directory in facts.proc_read_only]
    return proc + [mounts.Cover(f"/proc/{name}", is_directory) for name, is_directory in facts.proc_masked]


def _tmp_and_run(spec: JailSpec, facts: Facts) -> list[Step]:
    if not spec.has_own_tmp:
        return []
    made: list[Step] = [
        mounts.NewMount("tmpfs", "/tmp", (("mode", "1777"),), NOSUID_NODEV),
        mounts.NewMount("tmpfs", "/run", (("mode", "0755"),), NOSUID_NODEV),
    ]
    if spec.directory:
        made.append(mounts.Bind(spec.directory, SERVICE_AT, READ_ONLY, is_directory=True, follow=False))
        made += [mounts.Cover(f"{SERVICE_AT}/{name}", is_directory=True) for name in facts.covered]
    return made


def _asked(spec: JailSpec, facts: Facts) -> list[tuple[str, Step]]:
    """tmpfs, binds and devices with their places, a parent before what lies in it."""
    asked: list[tuple[str, Step]] = [
        (tmpfs.at, mounts.NewMount("tmpfs", tmpfs.at, (("mode", "1777"), ("size", str(tmpfs.size))), NOSUID_NODEV, follow=True))
        for tmpfs in spec.tmpfs
    ]
    for bind, is_directory in zip(spec.binds, facts.bind_is_directory, strict=True):
        attributes = NOSUID_NODEV if bind.writable else READ_ONLY
        asked.append((bind.to, mounts.Bind(bind.source, bind.to, attributes, is_directory)))
    for number, (path, _, _) in enumerate(facts.nodes):
        if facts.is_root:
            asked.append((path, mounts.ShowDevice(path, number)))
        else:
            asked.append((path, mounts.Bind(path, path, _NO_EXEC, is_directory=False, follow=False)))
    return sorted(asked, key=lambda pair: pair[0].count("/"))


def _protected(spec: JailSpec, facts: Facts) -> tuple[list[Step], list[Step]]:
    """The set-user-id programs of the root itself, before anything is put over it, and those of the binds."""
    sides: tuple[list[Step], list[Step]] = ([], [])
    for path, inode in facts.set_id:
        is_bound = any(f"{path}/".startswith(f"{bind.to}/") for bind in spec.binds)
        sides[is_bound].append(mounts.WriteProtect(path, inode))
    return sides


def _closing(spec: JailSpec) -> list[Step]:
    closing: list[Step] = []
    if spec.writable == NO:
        closing.append(mounts.ReadOnlyRoot())
    closing.append(hardening.SetHostname(spec.hostname))
    if spec.network == "none":
        closing.append(hardening.LoopbackUp())
    return [*closing, mounts.Pivot()]


def _hardening(spec: JailSpec, facts: Facts) -> list[Step]:
    return rights(spec, facts.last_capability, facts.filter, is_range=facts.is_range, is_first=True)


def rights(spec: JailSpec, last_capability: int, program: bytes, *, is_range: bool, is_first: bool) -> list[Step]:
    """What a process of the jail may do, in the design's order: limits, ids, bounding set, user namespaces, no_new_privs,
    capabilities, seccomp. For its first process, and for each that enters it later.

    With one id the one that enters is in the user's own namespace already.
    """
    steps: list[Step] = [hardening.NewKeyring(), hardening.FindUser(spec.user, spec.origin)]
    if spec.rlimits:
        steps.append(hardening.SetLimits(spec.rlimits))
    if spec.user not in ROOT_NAMES and (is_first or is_range):
        steps.append(hardening.SwitchIds(nested=not is_range))
    steps.append(hardening.DropBoundingSet(spec.capabilities, last_capability))
    if is_first and not spec.is_privileged:  # there it would be the machine's own
        steps.append(hardening.ForbidUserNamespaces())
    steps += [hardening.NoNewPrivileges(), hardening.SetCapabilities(spec.capabilities)]
    if program:
        steps.append(hardening.FilterSystemCalls(program))
    return steps


def explain(spec: JailSpec, facts: Facts, id_map: str) -> list[str]:
    """The whole start of a jail, a line a step."""
    steps = plan(spec, facts)
    names = [name for flag, name in NAMESPACES if namespaces(spec) & flag]
    given = " ".join(name if value is None else f"{name}={value}" for name, value in sorted(spec.env))
    return [
        *[step.describe() for step in steps.outside],
        *([f"control group: {' '.join(setting.describe() for setting in spec.settings)}"] if spec.settings else []),
        f"clone3 with new namespaces: {' '.join(names)}",
        f"map ids: {id_map}",
        "fork: the parent half stays as pid 1 of the jail",
        *[step.describe() for step in steps.inside],
        f"working directory {workdir(spec)}",
        f"environment: PATH HOME USER LOGNAME SHELL{' ' if given else ''}{given}",
        f"exec {' '.join(spec.argv)}",
    ]

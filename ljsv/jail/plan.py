"""plan(spec, facts): the steps of one jail, in order. Pure: the same values give the same list, always."""

from __future__ import annotations

from ljsv.jail import steps
from ljsv.jail.facts import Facts
from ljsv.jail.spec import DIRECTORY, PATH, SERVICE_AT, JailSpec
from ljsv.jail.steps import PLAIN, READ_ONLY, Step
from ljsv.linux import process
from ljsv.linux.mount import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

NAMESPACES = (
    (process.CLONE_NEWUSER, "user"),
    (process.CLONE_NEWNS, "mount"),
    (process.CLONE_NEWPID, "pid"),
    (process.CLONE_NEWIPC, "ipc"),
    (process.CLONE_NEWUTS, "uts"),
    (process.CLONE_NEWCGROUP, "cgroup"),
)


def namespaces(spec: JailSpec) -> int:
    """The flags for clone3."""
    flags = 0
    for flag, _ in NAMESPACES:
        flags |= flag
    return flags | (process.CLONE_NEWNET if spec.network == "none" else 0)


def plan(spec: JailSpec, facts: Facts) -> tuple[Step, ...]:
    """Every step between clone3 and exec."""
    inside = [*_root(spec, facts), *_dev(facts), *_proc(facts), *_tmp_and_run(spec, facts), *_shown(spec, facts)]
    sources = dict.fromkeys(step.source for step in inside if isinstance(step, (steps.Bind, steps.BindBase)))
    return (*map(steps.OpenSource, sources), *inside, *_closing(spec), *_hardening(spec, facts))


def _root(spec: JailSpec, facts: Facts) -> list[Step]:
    if spec.base_kind != DIRECTORY:
        root: list[Step] = [steps.MakeScratch(facts.scratch, ("root",)), steps.NewRoot(), steps.OpenRoot()]
        root += [steps.MakeSymlink(path, target) for path, target in facts.host_links]
        root += [steps.Bind(path, path, READ_ONLY, is_directory=True) for path in facts.host_directories]
        return root
    if not facts.missing and spec.writable == "no":
        return [steps.MakeScratch(facts.scratch, ("root",)), steps.BindBase(spec.base_path, "root"), steps.OpenRoot()]
    is_writable = spec.writable == "tmpfs"
    directories = ("root", "base", "skeleton", *(("upper", "work") if is_writable else ()))
    return [
        steps.MakeScratch(facts.scratch, directories),
        steps.MakeSkeleton(facts.missing),
        steps.BindBase(spec.base_path, "base"),
        steps.OverlayRoot(is_writable),
        steps.OpenRoot(),
    ]


def _dev(facts: Facts) -> list[Step]:
    no_exec = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    dev: list[Step] = [steps.NewMount("tmpfs", "/dev", (("mode", "0755"), ("size", "64k"), ("nr_inodes", "256")), no_exec)]
    dev += [steps.Bind(f"/dev/{name}", f"/dev/{name}", no_exec, is_directory=False, follow=False) for name in facts.devices]
    dev += [
        steps.NewMount("devpts", "/dev/pts", (("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")), no_exec),
        steps.NewMount("tmpfs", "/dev/shm", (("mode", "1777"),), PLAIN),
    ]
    links = (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))
    return dev + [steps.MakeSymlink(f"/dev/{name}", target) for name, target in links]


def _proc(facts: Facts) -> list[Step]:
    proc: list[Step] = [steps.NewMount("proc", "/proc", (), PLAIN)]
    proc += [steps.Remount(f"/proc/{name}") for name in facts.proc_read_only]
    return proc + [steps.Cover(f"/proc/{name}", is_directory) for name, is_directory in facts.proc_masked]


def _tmp_and_run(spec: JailSpec, facts: Facts) -> list[Step]:
    plain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    made: list[Step] = [
        steps.NewMount("tmpfs", "/tmp", (("mode", "1777"),), plain),
        steps.NewMount("tmpfs", "/run", (("mode", "0755"),), plain),
    ]
    if spec.directory:
        made.append(steps.Bind(spec.directory, SERVICE_AT, READ_ONLY, is_directory=True, follow=False))
        made += [steps.Cover(f"{SERVICE_AT}/{name}", is_directory=True) for name in facts.covered]
    return made


def _shown(spec: JailSpec, facts: Facts) -> list[Step]:
    """/etc, tmpfs and binds, a parent before what lies in it."""
    shown: list[Step] = [
        steps.Bind(real, f"/etc/{name}", READ_ONLY, is_directory) for name, real, is_directory in facts.etc
    ]
    asked: list[tuple[str, Step]] = [
        (tmpfs.at, steps.NewMount("tmpfs", tmpfs.at, (("mode", "1777"), ("size", str(tmpfs.size))), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, follow=True))
        for tmpfs in spec.tmpfs
    ]
    for bind, is_directory in zip(spec.binds, facts.bind_is_directory, strict=True):
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV if bind.writable else READ_ONLY
        asked.append((bind.to, steps.Bind(bind.from_, bind.to, attributes, is_directory)))
    asked.sort(key=lambda pair: pair[0].rstrip("/").count("/"))
    return shown + [step for _, step in asked]


def _closing(spec: JailSpec) -> list[Step]:
    closing: list[Step] = []
    if spec.writable == "no":
        closing.append(steps.ReadOnlyRoot())
    closing.append(steps.SetHostname(spec.hostname))
    if spec.network == "none":
        closing.append(steps.LoopbackUp())
    return [*closing, steps.Pivot(SERVICE_AT if spec.directory else "/")]


def _hardening(spec: JailSpec, facts: Facts) -> list[Step]:
    user = facts.user
    keep = spec.capabilities if user.uid == 0 else frozenset[int]()
    hardening: list[Step] = [steps.NewKeyring()]
    if spec.rlimits:
        hardening.append(steps.SetLimits(spec.rlimits))
    if (user.uid, user.gid) != (0, 0):
        hardening.append(steps.SwitchIds(user.uid, user.gid, nested=not facts.is_root))
    return [
        *hardening,
        steps.DropBoundingSet(spec.capabilities, facts.last_capability),
        steps.ForbidUserNamespaces(),
        steps.NoNewPrivileges(),
        steps.SetCapabilities(keep),
    ]


def environment(spec: JailSpec, facts: Facts) -> dict[str, str]:
    """What the program finds: nothing inherited."""
    user = facts.user
    env = {"PATH": PATH, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}
    for name, value in spec.env:
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def explain(spec: JailSpec, facts: Facts, id_map: str) -> list[str]:
    """The whole start of a jail, a line a step."""
    names = [name for flag, name in NAMESPACES] + (["net"] if spec.network == "none" else [])
    lines = [f"clone3 with new namespaces: {' '.join(names)}", f"map ids: {id_map}"]
    lines += ["fork: the parent half stays as pid 1 of the jail"]
    lines += [step.describe() for step in plan(spec, facts)]
    environ = " ".join(f"{name}={value}" for name, value in sorted(environment(spec, facts).items()))
    return [*lines, f"environment: {environ}", f"exec {' '.join(spec.argv)}"]

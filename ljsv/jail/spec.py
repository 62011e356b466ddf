"""JailSpec: all that a jail is, as one frozen value. Pure."""

from __future__ import annotations

from ljsv.frozen import Frozen
from ljsv.linux import capabilities
from ljsv.service.kinds import DIRECTORY, HOST, IMAGE

CHECK = ("./check",)
TYPE_CHECKING = False  # what only annotations need is not imported: `ljexec` is started often
if TYPE_CHECKING:
    from ljsv.jail.limits import Setting
    from ljsv.jail.passwd import User
    from ljsv.service.read import Service
    from ljsv.service.schema import Rootfs

__all__ = ["DIRECTORY", "HOST", "IMAGE", "PATH", "SERVICE_AT", "BindMount", "JailSpec", "TmpfsMount", "resolve_capabilities", "spec_of"]

SERVICE_AT = "/run/service"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NO, TMPFS, OVERLAY, DIRECT = "no", "tmpfs", "overlay", "direct"
DEFAULT_CAPABILITIES = frozenset(
    capabilities.NUMBERS[name]
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SETFCAP",
        "SYS_CHROOT", "NET_BIND_SERVICE",
    )
)


class BindMount(Frozen):
    """`source` of the host at `to`. `is_mapped`: as root, files there show the jail's ids."""

    source: str
    to: str
    writable: bool = False
    is_mapped: bool = False


class TmpfsMount(Frozen):
    """An empty file system of `size` bytes at `at`."""

    at: str
    size: int = 64 << 20


class JailSpec(Frozen):
    """One jail. Paths are absolute; `directory` is the service directory ("" for none).

    `writable` is no, tmpfs, overlay (upper/ and work/ in `overlay`, below `layer` there) or direct;
    `user` a name in the jail's passwd, UID or UID:GID ("": its root);
    `is_range`: more than one id is mapped, as always for root.
    `is_privileged`: no user namespace of its own, the ids are the machine's.
    `devices` are paths below /dev, `tty` the host's terminal that it is given.
    `settings` are what its control group gets. `has_own_tmp`: /tmp and /run are
    empty and forgotten, not those of the base. `origin` says where it was
    configured, for hints.
    """

    name: str
    base_kind: str
    base_path: str
    argv: tuple[str, ...]
    base_named: str = ""  # its path before symlinks were followed; "" where nobody has named one
    image_type: str = ""
    directory: str = ""
    writable: str = NO
    overlay: str = ""
    layer: str = ""  # "" or "layers/N/"
    hostname: str = "jail"
    user: str = ""
    is_range: bool = False
    network: str = "host"
    dns: str = "host"
    binds: tuple[BindMount, ...] = ()
    tmpfs: tuple[TmpfsMount, ...] = ()
    devices: tuple[str, ...] = ()
    tty: str = ""
    is_privileged: bool = False
    capabilities: frozenset[int] = DEFAULT_CAPABILITIES
    has_filter: bool = True
    env: tuple[tuple[str, str | None], ...] = ()
    workdir: str = ""
    has_own_tmp: bool = True
    rlimits: tuple[tuple[int, int], ...] = ()
    nice: int | None = None
    oom_score_adj: int | None = None
    settings: tuple[Setting, ...] = ()
    origin: str = ""


def resolve_capabilities(changes: tuple[str, ...]) -> frozenset[int]:
    """The default set with each "+X" added and each "-X" taken away, in order."""
    kept = set(DEFAULT_CAPABILITIES)
    for text in changes:
        added, number = capabilities.parse(text)
        (kept.add if added else kept.discard)(number)
    return frozenset(kept)


def overlay_of(rootfs: Rootfs, state: str) -> str:
    """Where what is written to it is kept; "" where nothing is."""
    return (rootfs.overlay or f"{state}/overlay") if rootfs.writable == OVERLAY else ""


def spec_of(service: Service, name: str, state: str, argv: tuple[str, ...] = ()) -> JailSpec:
    """The jail of a service, for what it runs or another of its scripts. `state` is its state directory."""
    import resource

    from ljsv.jail.limits import settings_of
    from ljsv.paths import clean_place

    argv = argv or service.argv
    rootfs, limits = service.rootfs, service.limits
    rlimits = [(resource.RLIMIT_CORE, limits.core or 0)]
    if limits.nofile is not None:
        rlimits.append((resource.RLIMIT_NOFILE, limits.nofile))
    overlay, named = overlay_of(rootfs, state), rootfs.base or "rootfs"
    return JailSpec(
        name=name,
        base_kind=service.base_kind,
        base_path=service.base_path,
        base_named="" if service.image_name or service.deployed else named if named.startswith("/") else f"{service.directory}/{named}",
        argv=argv,
        image_type=service.image_type,
        directory=service.directory,
        writable=rootfs.writable,
        overlay=overlay,
        layer=f"layers/{service.layer}/" if overlay and service.layer else "",
        hostname=rootfs.hostname or name,
        user=rootfs.user,
        is_range=rootfs.ids == "range",
        network=rootfs.network,
        dns=rootfs.dns,
        binds=tuple(BindMount(bind.from_, clean_place(bind.to), bind.writable, bind.ids == "map") for bind in rootfs.bind),
        tmpfs=tuple(TmpfsMount(clean_place(tmpfs.at), tmpfs.size) for tmpfs in rootfs.tmpfs),
        devices=tuple(device.path for device in rootfs.device),
        tty=rootfs.tty,
        is_privileged=rootfs.security.user_namespace == "host",
        capabilities=resolve_capabilities(rootfs.security.capabilities),
        has_filter=rootfs.security.seccomp == "default",
        workdir=service.workdir if argv in {service.argv, service.check_argv} and argv != CHECK else "",
        env=((("TERM", "linux" if rootfs.tty[8:].isdigit() or rootfs.tty == "/dev/console" else "vt220"),) if rootfs.tty else ()) + service.env,
        rlimits=tuple(rlimits),
        nice=limits.nice,
        oom_score_adj=limits.oom_score_adj,
        settings=settings_of(limits),
        origin=f"{service.directory}/rootfs",
    )


def workdir(spec: JailSpec) -> str:
    return spec.workdir or (SERVICE_AT if spec.directory else "/")


def environment(spec: JailSpec, user: User) -> dict[str, str]:
    """What the program finds: nothing inherited."""
    env = {"PATH": PATH, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell}
    for name, value in spec.env:
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env

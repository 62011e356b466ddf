"""JailSpec: all that a jail is, as one frozen value. Pure."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from ljsv.linux import capabilities
from ljsv.service.kinds import DIRECTORY, HOST

TYPE_CHECKING = False  # what only annotations need is not imported: `ljexec` is started often
if TYPE_CHECKING:
    from ljsv.service.read import Service
    from ljsv.service.schema import Bind, Tmpfs

__all__ = ["DIRECTORY", "HOST", "PATH", "SERVICE_AT", "JailSpec", "resolve_capabilities", "spec_of"]

SERVICE_AT = "/run/service"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = frozenset(
    capabilities.NUMBERS[name]
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SETFCAP",
        "SYS_CHROOT", "NET_BIND_SERVICE",
    )
)


@dataclass(frozen=True, kw_only=True)
class JailSpec:
    """One jail. Paths are absolute; `directory` is the service directory ("" for none)."""

    name: str
    base_kind: str
    base_path: str
    argv: tuple[str, ...]
    directory: str = ""
    writable: str = "no"
    hostname: str = "jail"
    user: str = ""
    network: str = "host"
    dns: str = "host"
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    capabilities: frozenset[int] = DEFAULT_CAPABILITIES
    env: tuple[tuple[str, str | None], ...] = ()
    rlimits: tuple[tuple[int, int], ...] = ()
    nice: int | None = None
    oom_score_adj: int | None = None
    origin: str = ""


def resolve_capabilities(changes: tuple[str, ...]) -> frozenset[int]:
    """The default set with each "+X" added and each "-X" taken away, in order."""
    kept = set(DEFAULT_CAPABILITIES)
    for text in changes:
        added, number = capabilities.parse(text)
        (kept.add if added else kept.discard)(number)
    return frozenset(kept)


def spec_of(service: Service, name: str, argv: tuple[str, ...] = ("./run",)) -> JailSpec:
    """The jail of a service, for `./run` or another of its scripts."""
    rootfs, limits = service.rootfs, service.limits
    rlimits = [(resource.RLIMIT_CORE, limits.core or 0)]
    if limits.nofile is not None:
        rlimits.append((resource.RLIMIT_NOFILE, limits.nofile))
    return JailSpec(
        name=name,
        base_kind=service.base_kind,
        base_path=service.base_path,
        argv=argv,
        directory=service.directory,
        writable=rootfs.writable,
        hostname=rootfs.hostname or name,
        user=rootfs.user,
        network=rootfs.network,
        dns=rootfs.dns,
        binds=rootfs.bind,
        tmpfs=rootfs.tmpfs,
        capabilities=resolve_capabilities(rootfs.security.capabilities),
        env=service.env,
        rlimits=tuple(rlimits),
        nice=limits.nice,
        oom_score_adj=limits.oom_score_adj,
        origin=f"{service.directory}/rootfs",
    )

"""`rootfs`, `limits` and `policy` as frozen values.

The schema is the manual: each field carries its meaning in `doc`, and the
reference in docs/ is held complete against it by a test. A default of None
means "as if the key were not there".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NewType

Duration = NewType("Duration", float)
Size = NewType("Size", int)
OptionalSize = NewType("OptionalSize", int)  # may be "0"
Percent = NewType("Percent", float)


def key(doc: str, default: Any = None, *, factory: Any = None, required: bool = False) -> Any:
    """A field with its documentation."""
    metadata = {"doc": doc}
    if required:
        return field(metadata=metadata)
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Bind:
    from_: str = key("an absolute path on the host", required=True)
    to: str = key("an absolute path in the jail; missing directories of a writable root are made", required=True)
    writable: bool = key("whether the jail may write there", False)
    ids: Literal["map"] | None = key('"map": as root, files there show the jail\'s ids, and on disk what they are in the jail')


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    at: str = key("an absolute path in the jail", required=True)
    size: Size = key("how much it may hold", Size(64 << 20))


@dataclass(frozen=True, kw_only=True)
class Device:
    path: str = key("a device of the host, shown in the jail at the same place: an absolute path below /dev", required=True)


@dataclass(frozen=True, kw_only=True)
class Security:
    capabilities: tuple[str, ...] = key('added to the default set, or with "-" taken from it', ())
    seccomp: Literal["default", "off"] = key("the system call filter", "default")
    user_namespace: Literal["own", "host"] = key('"host": its ids are the machine\'s own, and its root is the real root; only for root\'s scanner', "own")


@dataclass(frozen=True, kw_only=True)
class Rootfs:
    base: str = key('a directory or an image file (relative to the service directory), an image of the store by name or digest, or "host"', "")
    writable: Literal["no", "tmpfs", "overlay", "direct"] = key(
        '"no"; "tmpfs": changes are forgotten at stop; "overlay": kept; "direct": the directory itself', "no"
    )
    overlay: str = key("where upper/ and work/ live instead of the state directory", "")
    hostname: str = key("the jail's host name; by default the service's", "")
    user: str = key("a name in the jail's /etc/passwd, or UID, or UID:GID; by default root of the jail", "")
    ids: Literal["one", "range"] | None = key('"one" or "range"; by default "one", as root always a range', None)
    network: Literal["host", "none"] = key("the host's network, or only a loopback of its own", "host")
    dns: Literal["host", "image"] = key("whose resolv.conf and hosts the jail sees", "host")
    bind: tuple[Bind, ...] = key("what else of the host is visible", ())
    tmpfs: tuple[Tmpfs, ...] = key("empty writable places, forgotten at stop", ())
    device: tuple[Device, ...] = key("devices of the host that the jail may use", ())
    tty: str = key("a terminal of the host: its controlling terminal, standard input, output and error", "")
    security: Security = key("hardening", factory=Security)


@dataclass(frozen=True, kw_only=True)
class Io:
    path: str = key("a disk (/dev/sda), or a file or directory on it", required=True)
    read: Size | None = key("most bytes read a second")
    write: Size | None = key("most bytes written a second")
    read_ops: int | None = key("most reads a second")
    write_ops: int | None = key("most writes a second")


@dataclass(frozen=True, kw_only=True)
class Limits:
    memory: Size | None = key("most memory (memory.max)")
    memory_high: Size | None = key("memory above which it is slowed down (memory.high); stuck there for 10 s, it is killed")
    swap: OptionalSize | None = key('most swap (memory.swap.max); "0" for none')
    oom: Literal["all", "one"] = key('when `memory` is used up the kernel kills "all" of the jail, or only its largest process (memory.oom.group)', "all")
    cpu: Percent | None = key("most processor time; 100% = one processor (cpu.max)")
    cpu_weight: int | None = key("share of the processors when they are short, 1 to 10000, others have 100 (cpu.weight)")
    cpus: str = key('the processors that it may use: "0-1,3" (cpuset.cpus)', "")
    pids: int | None = key("most processes and threads, the jail's own pid 1 among them (pids.max)")
    io_weight: int | None = key("share of the disks when they are busy, 1 to 10000, others have 100 (io.weight)")
    io: tuple[Io, ...] = key("most input and output on a disk (io.max)", ())
    nofile: int | None = key("most open files of one process (RLIMIT_NOFILE); root's services may have more than root was given")
    core: Size | None = key("largest core file (RLIMIT_CORE); none by default")
    nice: int | None = key("scheduling priority, -20 to 19")
    oom_score_adj: int | None = key("how early the kernel kills it when memory is short, -1000 to 1000")


@dataclass(frozen=True, kw_only=True)
class Restart:
    when: Literal["always", "failure", "never"] = key("after which ends it is started again", "always")
    first_delay: Duration = key("wait after a run that was stable", Duration(0.0))
    delay: Duration = key("wait after one that was not, doubled each time", Duration(1.0))
    max_delay: Duration = key("the longest wait", Duration(60.0))
    stable_after: Duration = key("a run this long was stable, and resets the wait", Duration(10.0))
    give_up_after: int = key("so many runs in a row that were not stable end in `failed`; 0 = never", 0)


@dataclass(frozen=True, kw_only=True)
class Stop:
    signal: str = key("the signal that asks it to end; by default the image's, or else TERM", "")
    timeout: Duration = key("after this the whole jail is killed", Duration(10.0))


@dataclass(frozen=True, kw_only=True)
class Ready:
    by: Literal["start", "fd", "notify", "check"] | None = key('what makes it ready; by default "start", or "check" where the image has a health check', None)
    timeout: Duration = key("how long that may take", Duration(30.0))
    watchdog: Duration = key('with "notify": restarted when WATCHDOG=1 does not come this often; "0s": never', Duration(0.0))


@dataclass(frozen=True, kw_only=True)
class Scripts:
    check: Duration = key("how long ./check may take", Duration(10.0))
    control: Duration = key("how long ./control/* may take", Duration(10.0))
    finish: Duration = key("how long ./finish may take", Duration(60.0))


@dataclass(frozen=True, kw_only=True)
class Log:
    max_size: Size = key("a log file of this size is rotated", Size(10 << 20))
    keep: int = key("rotated files kept", 5)
    to: Literal["file", "kmsg", "none"] = key('where the output goes; "kmsg": the kernel\'s log, with root\'s scanner', "file")
    rate: int = key('with "kmsg": most lines in 5 seconds', 50)


@dataclass(frozen=True, kw_only=True)
class Policy:
    needs: tuple[str, ...] = key("services that must be ready first", ())
    essential: bool = key("when it fails for good, the scanner stops", False)
    restart: Restart = key("how it is restarted", factory=Restart)
    stop: Stop = key("how it is stopped", factory=Stop)
    ready: Ready = key("when it counts as ready", factory=Ready)
    scripts: Scripts = key("timeouts of the scripts", factory=Scripts)
    log: Log = key("where its output goes", factory=Log)


@dataclass(frozen=True, kw_only=True)
class Scan:
    log_cap: Size = key("most that all logs of a scan directory together may hold; 0 = no bound but that of each", Size(0))
    sleep_after: Duration = key("a supervisor that has been idle for so long gives back its memory; 0s = never", Duration(300))

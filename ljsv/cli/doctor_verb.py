"""`ljsv doctor`: try each thing that ljsv needs, for real, in a throw-away child, and say what is missing."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

from ljsv.cli.options import Options
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault
from ljsv.linux import mount, process

OPTIONS: dict[str, str] = {}
OLDEST_KERNEL = (5, 15)
USERNS_HINT = "sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1; in a container: allow unshare"


def run(_verb: str, _options: Options) -> int:
    failures = 0
    for name, check, consequence, hint in CHECKS:
        try:
            evidence = check()
            print(f"ok    {name}: {evidence}")
        except (OSError, Fault) as error:
            is_warning = name in ADVISORY
            failures += not is_warning
            cause = str(error) if isinstance(error, Fault) else f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
            print(f"{'WARN' if is_warning else 'FAIL'}  {name}: {cause}")
            print(f"      {consequence}")
            print(f"      hint: {getattr(error, 'hint', '') or hint}")
    print("all that ljsv needs is here" if not failures else f"{failures} missing")
    return EXIT_NOT_REACHED if failures else EXIT_OK


def in_child(flags: int, work: Callable[[], None]) -> None:
    """Run `work` in a child with new namespaces; its OSError comes back. The id map is the caller's to 0."""
    r, w = os.pipe2(os.O_CLOEXEC)
    go_r, go_w = os.pipe2(os.O_CLOEXEC)
    pid, _ = process.clone3(flags)
    if pid == 0:
        try:
            os.close(go_w)
            os.read(go_r, 1)
            work()
            os._exit(0)
        except OSError as error:
            os.write(w, f"{error.errno}\0{error.strerror}\0{error.filename or ''}".encode())
        finally:
            os._exit(1)
    os.close(w)
    os.close(go_r)
    try:
        if flags & process.CLONE_NEWUSER:
            from ljsv.jail.ids import IdMap, write_maps

            write_maps(pid, IdMap(os.geteuid(), os.getegid(), 1))
    finally:
        os.close(go_w)
        answer = os.read(r, 4096).decode()
        os.close(r)
        os.waitpid(pid, 0)
    if answer:
        number, text, name = answer.split("\0")
        raise OSError(int(number), text, name)


def _kernel() -> str:
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < OLDEST_KERNEL:
        raise Fault(f"Linux {release} is too old", hint="Linux 5.15 or newer")
    return f"Linux {release} on {os.uname().machine}"


def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def _namespaces() -> str:
    from ljsv.jail.plan import NAMESPACES

    for flag, name in (*NAMESPACES, (process.CLONE_NEWNET, "net")):
        try:
            in_child(process.CLONE_NEWUSER | flag, lambda: None)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{name} namespace") from None
    return "user mount pid ipc uts cgroup net"


def _overlay() -> str:
    def work() -> None:
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", "/tmp", "tmpfs", 0)
        os.chdir("/tmp")
        for name in ("lower", "skeleton", "root"):
            os.mkdir(name)
        mount.mount("overlay", "root", "overlay", 0, "lowerdir=lower:skeleton,userxattr")

    in_child(process.CLONE_NEWUSER | process.CLONE_NEWNS, work)
    return "in a user namespace"


def _jail() -> str:
    from ljsv.jail.foreground import run_foreground
    from ljsv.jail.spec import HOST, JailSpec

    spec = JailSpec(name="doctor", base_kind=HOST, base_path="/", argv=("/bin/sh", "-c", "exit 42"))
    code = run_foreground(spec)
    if code != 42:
        raise Fault(f"its program should have ended with 42, but ended with {code}")
    return 'base = "host", a shell ran and ended'


def _inotify() -> str:
    def value(name: str) -> int:
        with open(f"/proc/sys/fs/inotify/{name}") as file:
            return int(file.read())

    instances, watches = value("max_user_instances"), value("max_user_watches")
    if watches < 4096 or instances < 8:
        raise Fault(f"max_user_instances {instances}, max_user_watches {watches}")
    return f"{instances} instances, {watches} watches"


def _runtime() -> str:
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    if not base:
        raise Fault("XDG_RUNTIME_DIR is not set")
    if not os.access(base, os.W_OK):
        raise Fault(f"{base} cannot be written")
    return base


def _cgroup() -> str:
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[4] for line in file if " - cgroup2 " in line]
    if not roots:
        raise Fault("cgroup v2 is not mounted")
    with open(f"{roots[0]}/cgroup.controllers") as file:
        controllers = file.read().split()
    missing = {"cpu", "memory", "pids"} - set(controllers)
    if missing:
        raise Fault(f"no {', '.join(sorted(missing))} controller at {roots[0]}")
    return f"{' '.join(controllers)} at {roots[0]}"


def _nofile() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != -1 and hard < 4096:
        raise Fault(f"hard limit {hard}")
    return f"{soft}, at most {hard}"


ADVISORY = frozenset({"cgroup v2", "runtime directory", "inotify", "open files"})
CHECKS: tuple[tuple[str, Callable[[], str], str, str], ...] = (
    ("kernel", _kernel, "jails need the mount API and clone3", "a newer kernel"),
    ("python", _python, "", ""),
    ("namespaces", _namespaces, "no jail can be made", USERNS_HINT),
    ("overlay", _overlay, 'a base without mount points, and writable = "tmpfs", cannot be used', "modprobe overlay"),
    ("a whole jail", _jail, "no service can run", "ljsv explain NAME shows each step"),
    ("inotify", _inotify, "many services cannot be watched", "sysctl -w fs.inotify.max_user_watches=65536"),
    ("open files", _nofile, "many services cannot be supervised", "raise LimitNOFILE or ulimit -Hn"),
    ("runtime directory", _runtime, "supervise/ is a plain directory: slower, and written to disk", "log in through systemd or elogind, or set XDG_RUNTIME_DIR"),
    ("cgroup v2", _cgroup, "memory, cpu and pids limits are not enforced", "boot with systemd.unified_cgroup_hierarchy=1"),
)

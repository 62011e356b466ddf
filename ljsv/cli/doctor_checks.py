"""What `ljsv doctor` tries. A check returns its evidence, or raises OSError or Fault with the cause, and the hint where it knows better.

Everything that is tried is taken away again: namespaces and mounts go with
the child, files, FIFOs and control groups by name.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress

from ljsv.errors import Fault, quote
from ljsv.frozen import Frozen
from ljsv.linux import mount, process

OLDEST_KERNEL = (5, 15)
DISK_LEAST_BYTES = 64 << 20
DISK_LEAST_SHARE = 0.02
EARLIEST_TIME_S = 1_735_689_600  # 2025: before this was written
PIPE_PAGES_LEAST = 1024
TOOL_TIMEOUT_S = 10.0


class Check(Frozen):
    """`is_advice`: what does not work is a warning."""

    name: str
    attempt: Callable[[], str]
    consequence: str
    hint: str
    is_advice: bool = True


def sudo(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def in_child(flags: int, work: Callable[[], None], write: Callable[[int], None] | None = None) -> None:
    """Run `work` in a child with new namespaces; its OSError comes back. The id map is the caller's to 0, or what `write` makes it."""
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
            from ljsv.jail.ids import one_id, write_maps

            (write or (lambda child: write_maps(child, one_id(os.geteuid(), os.getegid()))))(pid)
    finally:
        os.close(go_w)
        answer = os.read(r, 4096).decode()
        os.close(r)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code and not answer:
        raise Fault("the child that tried it", "", f"ended by signal {-code}" if code < 0 else f"ended with {code}", hint="dmesg | tail  # the kernel's word on it")
    if answer:
        number, text, name = answer.split("\0")
        raise OSError(int(number), text, name)


def read_setting(path: str) -> str:
    """A file below /proc/sys; "" where this kernel has none."""
    try:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()
    except OSError:
        return ""


# ---- the kernel and what runs us


def try_kernel() -> str:
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < OLDEST_KERNEL:
        raise Fault(f"Linux {release} is too old", hint="install Linux 5.15 or newer")
    return f"Linux {release} on {os.uname().machine}"


def try_python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


def try_namespaces() -> str:
    """Each by itself, and a mount in them: AppArmor lets them be made, and forbids what they are for."""
    from ljsv.jail.plan import NAMESPACES

    for flag, name in NAMESPACES:
        try:
            in_child(process.CLONE_NEWUSER | flag, lambda: None)
        except OSError as error:
            raise Fault(f"{name} namespace", "", error.strerror or str(error), hint=explain_namespaces()) from None

    def work() -> None:
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", "/tmp", "tmpfs", 0)

    try:
        in_child(process.CLONE_NEWUSER | process.CLONE_NEWNS, work)
    except OSError as error:
        raise Fault("a mount in a user namespace", error.filename or "", error.strerror or str(error), hint=explain_namespaces()) from None
    return "user mount pid ipc uts cgroup net, and a mount in them"


def explain_namespaces() -> str:
    """The switch that forbids them, as a command that turns it."""
    if read_setting("kernel/unprivileged_userns_clone") == "0":
        return sudo("sysctl -w kernel.unprivileged_userns_clone=1")
    if read_setting("user/max_user_namespaces") == "0":
        return sudo("sysctl -w user.max_user_namespaces=10000")
    if read_setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return sudo("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0  # or an AppArmor profile with userns for this Python")
    if read_setting("kernel/apparmor_restrict_unprivileged_unconfined") == "1":
        return sudo("sysctl -w kernel.apparmor_restrict_unprivileged_unconfined=0")
    return "in a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"


def try_overlay() -> str:
    def work() -> None:
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount("none", "/tmp", "tmpfs", 0)
        os.chdir("/tmp")
        for name in ("lower", "skeleton", "root"):
            os.mkdir(name)
        mount.mount("overlay", "root", "overlay", 0, "lowerdir=lower:skeleton,userxattr")

    in_child(process.CLONE_NEWUSER | process.CLONE_NEWNS, work)
    return "in a user namespace"


def try_seccomp() -> str:
    from ljsv.jail.filters import read_filter
    from ljsv.linux.libc import MACHINE
    from ljsv.linux.seccomp import seccomp_set_mode_filter

    program = read_filter(MACHINE)

    def work() -> None:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        seccomp_set_mode_filter(program)

    in_child(0, work)
    return f"a filter of {len(program) // 8} instructions for {MACHINE}"


def try_range() -> str:
    if os.geteuid() == 0:
        return "as root, a jail has 65,536 ids of its own"
    from ljsv.jail.ids import subordinate_range, write_maps

    ids = subordinate_range(os.geteuid(), os.getegid())
    in_child(process.CLONE_NEWUSER, lambda: None, lambda pid: write_maps(pid, ids))
    return ids.describe()


def try_interpreter() -> str:
    """What a jail could reach of the Python that builds it: its file, through /proc/PID/exe, is writable for its owner (CVE-2019-5736)."""
    path = os.path.realpath(sys.executable)
    owner = os.stat(path).st_uid
    if os.geteuid() and owner == os.geteuid():
        raise Fault(f"{path} belongs to you", hint="LJSV_PYTHON=/usr/bin/python3 ./bootstrap true  # with a Python that is root's")
    return f"{path} belongs to uid {owner}"


def try_jail() -> str:
    from ljsv.jail.foreground import run_foreground
    from ljsv.jail.spec import HOST, JailSpec

    spec = JailSpec(name="doctor", base_kind=HOST, base_path="/", argv=("/bin/sh", "-c", "exit 42"))
    code = run_foreground(spec)
    if code != 42:
        raise Fault(f"its program should have ended with 42, but ended with {code}", hint="LJSV_DEBUG=1 ljexec --exec 'sh -c id'")
    return 'base = "host", a shell ran and ended'


# ---- images


def try_images() -> str:
    """How images are mounted: tried as far as that goes without one."""
    from ljsv.jail.facts import MAPPED_SQUASHFS, SERVERS, host_facts

    if os.geteuid() == 0 and host_facts().kernel >= MAPPED_SQUASHFS:
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
        return "squashfs and erofs by the kernel"
    server = next((path for path in SERVERS if os.access(path, os.X_OK)), "")
    if not server:
        raise Fault("squashfuse is not installed", hint=sudo("apt-get install squashfuse"))

    def work() -> None:
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        mount.new_mount("fuse", {"fd": str(fuse_fd), "rootmode": "40000", "user_id": "0", "group_id": "0"}, 0)

    in_child(process.CLONE_NEWUSER | process.CLONE_NEWNS, work)
    return f"squashfs by {server}"


def try_image_tools() -> str:
    """They are run, and asked for their version."""
    import subprocess

    found = []
    for name, option in (("mksquashfs", "-version"), ("mkfs.erofs", "-V")):
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin")
        if not path:
            continue
        try:
            done = subprocess.run([path, option], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            continue
        words = (done.stdout + done.stderr).split("\n")[0].split()
        number = next((word for word in words if word[:1].isdigit()), "of an unknown version")
        found.append(f"{name} {number}")
    if not found:
        raise Fault("neither mksquashfs nor mkfs.erofs is installed", hint=sudo("apt-get install squashfs-tools"))
    return ", ".join(found)


# ---- limits


def try_controller(controller: str) -> Callable[[], str]:
    def attempt() -> str:
        from ljsv.jail.cgroup import survey

        found = survey(os.environ.get("LJSV_CGROOT", ""))
        missing = found.why_missing(controller)
        if missing:
            raise Fault(missing.cause, hint=missing.hint)
        return f"at {found.root}"

    return attempt


def try_group() -> str:
    """A group of our own, with a throw-away child in it; not where no controller could be had in it anyway."""
    from ljsv.jail.cgroup import survey
    from ljsv.linux.cgroup import CONTROLLERS, write_file

    found = survey(os.environ.get("LJSV_CGROOT", ""))
    missing = found.why_missing("memory")
    if missing and (not found.root or len(found.missing) == len(CONTROLLERS)):
        raise Fault("no place for control groups", "", missing.cause, hint=missing.hint)
    path = f"{found.root}/ljsv-doctor.{os.getpid()}"
    os.mkdir(path)
    try:
        r, w = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(w)
            os.read(r, 1)
            os._exit(0)
        os.close(r)
        try:
            write_file(path, "cgroup.procs", str(pid))
        finally:
            os.close(w)
            os.waitpid(pid, 0)
    finally:
        _remove_group(path)
    return f"made, entered and removed in {found.root}"


def _remove_group(path: str) -> None:
    """The kernel lets it go a moment after its last process."""
    for _ in range(100):
        try:
            os.rmdir(path)
        except OSError:
            time.sleep(0.01)
        else:
            return


def try_inotify() -> str:
    from ljsv.supervise.watch import Watch

    instances, watches = (int(read_setting(f"fs/inotify/{name}") or 0) for name in ("max_user_instances", "max_user_watches"))
    try:
        Watch()
    except OSError as error:
        cause = f"{error.strerror}: of {instances} instances none is left"
        raise Fault("inotify cannot be used", "", cause, hint=sudo(f"sysctl -w fs.inotify.max_user_instances={2 * instances + 128}")) from None
    if watches < 4096:
        raise Fault(f"max_user_watches {watches}", hint=sudo("sysctl -w fs.inotify.max_user_watches=65536"))
    return f"one made; {instances} instances, {watches} watches"


def try_pipes() -> str:
    """Pipes are made and filled as the supervisors make them, until a hundred services could have theirs."""
    pages = int(read_setting("fs/pipe-user-pages-soft") or 0)
    r, w = os.pipe2(os.O_CLOEXEC)
    os.close(r)
    os.close(w)
    if os.geteuid() and 0 < pages < PIPE_PAGES_LEAST:
        raise Fault(f"pipe-user-pages-soft {pages}", hint=sudo("sysctl -w fs.pipe-user-pages-soft=16384"))
    return f"at most {pages} pages a user" if pages and os.geteuid() else "no limit for root" if pages else "no limit"


def try_nofile() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        raise Fault(f"hard limit {hard}")
    return f"{soft}, at most {hard}"


# ---- places


def try_runtime() -> str:
    """A directory and a FIFO in it."""
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    if not base:
        raise Fault("XDG_RUNTIME_DIR is not set")
    with tempfile.TemporaryDirectory(prefix="ljsv-doctor.", dir=base) as path:
        os.mkfifo(f"{path}/fifo")
    return base


def try_lingering() -> str:
    """Whether systemd ends what a user has started when he logs out."""
    if os.geteuid() == 0 or not os.path.isdir("/run/systemd/system"):
        return "what you start is not ended when you log out"
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    if not os.path.exists(f"/var/lib/systemd/linger/{user}"):
        raise Fault(f"not switched on for {user}", hint=f"loginctl enable-linger {user}")
    return f"switched on for {user}"


def try_low_ports() -> str:
    """The lowest port that a jail with the host's network may take: taken."""
    import socket

    first = int(read_setting("net/ipv4/ip_unprivileged_port_start") or 1024)

    def work() -> None:
        with socket.socket() as taken:
            for port in range(max(first, 1), max(first, 1) + 64):
                try:
                    taken.bind(("127.0.0.1", port))
                except OSError as error:
                    if isinstance(error, PermissionError):
                        raise OSError(error.errno, error.strerror, f"port {port}") from None
                else:
                    return

    in_child(process.CLONE_NEWUSER, work)
    lower = f"; for lower ones: {sudo('sysctl -w net.ipv4.ip_unprivileged_port_start=80')}" if first > 80 else ""
    return f'from {first} on may be taken by a jail with network = "host"{lower}'


def try_clock() -> str:
    now = time.time()
    if now < EARLIEST_TIME_S:
        raise Fault(f"it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC", hint=sudo("date -u -s '2026-01-31 12:00'  # better: an NTP client"))
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))


def try_disk() -> str:
    """Where state and logs go: room, inodes, and a file that is written through to the disk."""
    told = []
    for place in _disk_places():
        entry = os.statvfs(place)
        free = entry.f_bavail * entry.f_frsize
        if free < max(DISK_LEAST_BYTES, DISK_LEAST_SHARE * min(entry.f_blocks * entry.f_frsize, 10 << 30)):
            raise Fault(f"{place}: {free >> 20}M are left", hint=f"df -h {quote(place)}; du -xh {quote(place)} | sort -h | tail")
        if entry.f_files and entry.f_favail < max(1000, entry.f_files // 1000):
            raise Fault(f"{place}: {entry.f_favail} inodes are left", hint=f"df -i {quote(place)}")
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"ljsv doctor\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Fault(f"{place}: nothing can be written", "", error.strerror or "", hint=f"findmnt -T {quote(place)}; ls -ld {quote(place)}") from None
        told.append(f"{free >> 20}M free at {place}")
    return ", ".join(told)


def _disk_places() -> list[str]:
    """The nearest directories that exist above state, logs and images; each file system once."""
    if os.geteuid() == 0:
        wanted = ["/var/lib/ljsv", "/var/log/ljsv"]
    else:
        home = os.environ.get("HOME", "/")
        wanted = [os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state", os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"]
    places: dict[int, str] = {}
    for path in wanted:
        there = path
        while not os.path.isdir(there) and there != "/":
            there = os.path.dirname(there) or "/"
        with suppress(OSError):
            places.setdefault(os.stat(there).st_dev, there)
    return list(places.values())


NO_LIMIT = "that limit is not enforced; services run all the same, and status says so"
CHECKS = (
    Check("kernel", try_kernel, "jails need the mount API and clone3", "install Linux 5.15 or newer", is_advice=False),
    Check("python", try_python, "", "", is_advice=False),
    Check("namespaces", try_namespaces, "no jail can be made", "", is_advice=False),
    Check("overlay", try_overlay, 'a base without mount points, and writable = "tmpfs" or "overlay", cannot be used', sudo("modprobe overlay"), is_advice=False),
    Check("a whole jail", try_jail, "no service can run", "LJSV_DEBUG=1 ljexec --exec 'sh -c id'", is_advice=False),
    Check("seccomp", try_seccomp, 'jails start only with seccomp = "off"', "zgrep SECCOMP_FILTER /proc/config.gz  # it has to be built in"),
    Check("subordinate ids", try_range, 'ids = "range" cannot be used; one id is enough for most services', sudo("apt-get install uidmap")),
    Check("interpreter", try_interpreter, "a program that breaks out of its jail could change the Python that starts the next one", "LJSV_PYTHON=/usr/bin/python3 ./bootstrap true"),
    Check("images", try_images, "a squashfs or erofs file cannot be the base", sudo("modprobe fuse && chmod 0666 /dev/fuse") if os.geteuid() == 0 else "sudo sh -c 'modprobe fuse && chmod 0666 /dev/fuse'"),
    Check("image tools", try_image_tools, "ljsv image build cannot make images", sudo("apt-get install squashfs-tools")),
    Check("cgroup", try_group, "no limit on memory, processor and processes is enforced; services run all the same", ""),
    *(Check(f"cgroup {name}", try_controller(name), NO_LIMIT, "") for name in ("memory", "cpu", "pids", "io", "cpuset")),
    Check("inotify", try_inotify, "new and changed service directories are not seen", sudo("sysctl -w fs.inotify.max_user_instances=512"), is_advice=False),
    Check("pipes", try_pipes, "many services cannot be supervised", sudo("sysctl -w fs.pipe-user-pages-soft=16384")),
    Check("open files", try_nofile, "many services cannot be supervised", "ulimit -Hn 65536  # in a unit: LimitNOFILE=65536"),
    Check("runtime directory", try_runtime, "supervise/ is a plain directory: slower, and written to disk", "export XDG_RUNTIME_DIR=/run/user/$(id -u)  # logind makes it"),
    Check("lingering", try_lingering, "when you log out, systemd ends your services", "loginctl enable-linger"),
    Check("low ports", try_low_ports, "no port can be taken", sudo("sysctl -w net.ipv4.ip_unprivileged_port_start=80")),
    Check("clock", try_clock, "the stamps of logs are wrong; nothing else is", sudo("date -u -s '2026-01-31 12:00'")),
    Check("disk", try_disk, "logs and overlays cannot be written", "df -h"),
)

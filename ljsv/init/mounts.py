"""What a box needs mounted: a table, a pure plan of what is missing, and its execution.

It runs in a child that PID 1 forks for it: mounts are the same for both, and PID 1
keeps neither ctypes nor what goes wrong in there. A mount that fails is told, and
the rest goes on: a container has most of them, and may not make any.
"""

from __future__ import annotations

import fcntl
import os
import struct

from ljsv.frozen import Frozen
from ljsv.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from ljsv.linux.mountinfo import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
AF_INET, SOCK_DGRAM_CLOEXEC = 2, 0o2000002
DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
HOSTNAME_MAX = 64


class Mount(Frozen):
    """`sign` is a file that is there where something serves the purpose already, "" where only a mount at `at` does."""

    at: str
    kind: str
    flags: int
    options: str = ""
    sign: str = ""

    def describe(self) -> str:
        return f"mount -t {self.kind}{f' -o {self.options}' if self.options else ''} {self.kind} {self.at}"


MOUNTS = (  # in order: what others are found by comes first
    Mount("/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, sign="/proc/self/mountinfo"),
    Mount("/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, sign="/sys/kernel"),
    Mount("/dev", "devtmpfs", MS_NOSUID, "mode=755", sign="/dev/null"),
    Mount("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", sign="/dev/pts/ptmx"),
    Mount("/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    Mount("/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"),
    Mount("/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    Mount("/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,memory_recursiveprot"),
)


def plan_mounts(mounted: Collection[str], is_there: Callable[[str], bool]) -> list[Mount]:
    """Those of MOUNTS that are missing. Pure: `is_there` tells whether a sign is."""
    return [one for one in MOUNTS if one.at not in mounted and not (one.sign and is_there(one.sign))]


def read_mount_points(mountinfo: str = "/proc/self/mountinfo") -> list[str]:
    """In the order of mounting; nothing before /proc is there. proc_pid_mountinfo(5)."""
    return [words[4] for words in read_table(mountinfo)]


def read_table(path: str) -> list[list[str]]:
    """The words of each line of one of the kernel's tables; none where it is not there.

    The kernel escapes what parts words and lines, and nothing else: whoever may
    mount chooses the bytes of a name, and none of them may end a shutdown.
    """
    try:
        with open(path, "rb") as file:
            return [[unescape(os.fsdecode(word)) for word in line.rstrip(b"\n").split(b" ")] for line in file]
    except OSError:
        return []


def set_up(say: Callable[[str], None]) -> None:
    """The mounts that are missing, one after the other since each may bring the next one's sign; then links, loopback, host name."""
    for one in MOUNTS:
        if plan_mounts(read_mount_points(), os.path.exists).count(one):
            _attempt(say, one.describe(), lambda one=one: _mount(one))  # type: ignore[misc]
    for name, target in DEV_LINKS.items():
        if not os.path.lexists(f"/dev/{name}"):
            _attempt(say, f"ln -s {target} /dev/{name}", lambda name=name, target=target: os.symlink(target, f"/dev/{name}"))  # type: ignore[misc]
    _attempt(say, "ip link set lo up", _raise_loopback)
    _attempt(say, "hostname -F /etc/hostname", _set_hostname)


def _attempt(say: Callable[[str], None], what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        say(f"{what}: {error.strerror}")


def _mount(one: Mount) -> None:
    if not os.path.isdir(one.at):
        os.makedirs(one.at)
    mount(one.kind, one.at, one.kind, one.flags, one.options)


def _raise_loopback() -> None:
    """netdevice(7); nothing is done where it is up already."""
    from ljsv.linux.process import socket

    socket_fd = socket(AF_INET, SOCK_DGRAM_CLOEXEC)
    try:
        asked = fcntl.ioctl(socket_fd, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack("16sh22x", asked)[1]
        if not flags & IFF_UP:
            fcntl.ioctl(socket_fd, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
    finally:
        os.close(socket_fd)


def _set_hostname() -> None:
    """Only where none was given: a container's runtime gives one."""
    from ljsv.linux.process import sethostname

    if os.uname().nodename not in {"", "(none)", "localhost"}:
        return
    try:
        with open("/etc/hostname") as file:
            name = file.read(256).strip()
    except FileNotFoundError:
        return
    if name:
        sethostname(name[:HOSTNAME_MAX])

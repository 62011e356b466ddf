"""Pid 1, other processes of the jail's own, and one outside."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

from kit import ARGUMENTS, LIBC, attempt, attempt_here, check, open_for, syscall, write

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
READ = (
    "mem", "environ", "maps", "smaps", "smaps_rollup", "numa_maps", "auxv", "io", "stack", "syscall", "personality", "pagemap", "fdinfo/0", "fd/0", "exe",
    "patch_state", "root/etc/passwd", "cwd/etc/passwd", "task/1/mem", "task/1/environ", "task/1/root/etc/passwd", "task/1/cwd/etc/passwd",
)
LISTED = ("root/", "cwd/", "fd", "fdinfo", "map_files", "task/1/fd", "task/1/root/", "task/1/cwd/")
LINKS = ("root", "cwd", "exe", "fd/0", "fd/3", "ns/mnt", "ns/pid", "ns/user", "ns/net", "task/1/exe", "task/1/root")
WRITTEN = (
    "mem", "clear_refs", "coredump_filter", "comm", "oom_score_adj", "oom_adj", "uid_map", "gid_map", "projid_map", "setgroups", "timerslack_ns", "loginuid",
    "sched", "autogroup", "attr/current", "attr/exec", "make-it-fail", "timens_offsets",
)


def files(pid: str) -> None:
    """Everything of /proc/PID that needs rights over it."""
    at = f"/proc/{pid}"
    for name in READ:
        path = f"{at}/{name.replace('task/1', f'task/{pid}')}"
        if os.path.lexists(os.path.dirname(path) if "/" in name else path) or "/" in name:
            attempt(f"read {name}", lambda path=path: open_for(path, os.O_RDONLY))
    for name in LISTED:
        attempt(f"list {name}", lambda name=name: len(os.listdir(f"{at}/{name.replace('task/1', f'task/{pid}')}")))
    for name in LINKS:
        attempt(f"readlink {name}", lambda name=name: os.readlink(f"{at}/{name.replace('task/1', f'task/{pid}')}"))
    for name in WRITTEN:
        if os.path.lexists(f"{at}/{name}"):
            attempt(f"write {name}", lambda name=name: write(f"{at}/{name}", "1"))  # some can be opened, and only then ask
    for name in ("root", "cwd"):
        attempt(f"chdir {name}", lambda name=name: os.chdir(f"{at}/{name}"))
        attempt(f"chroot {name}", lambda name=name: os.chroot(f"{at}/{name}"))


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def take_over(pid: int) -> None:
    """The calls that read, write or steer another process."""
    here = ctypes.create_string_buffer(64)
    local, remote = Vector(ctypes.addressof(here), 64), Vector(ctypes.addressof(here), 64)
    long = ctypes.c_ulong
    attempt("ptrace attach", lambda: check(LIBC.ptrace(long(PTRACE_ATTACH), pid, None, None)))
    attempt("ptrace seize", lambda: check(LIBC.ptrace(long(PTRACE_SEIZE), pid, None, None)))
    attempt("process_vm_readv", lambda: check(LIBC.process_vm_readv(pid, ctypes.byref(local), long(1), ctypes.byref(remote), long(1), long(0))))
    attempt("process_vm_writev", lambda: check(LIBC.process_vm_writev(pid, ctypes.byref(local), long(1), ctypes.byref(remote), long(1), long(0))))
    for fd in (0, 1, 3, 4):
        attempt(f"pidfd_getfd {fd}", lambda fd=fd: syscall("pidfd_getfd", os.pidfd_open(pid), fd, 0))
    attempt("kcmp", lambda: syscall("kcmp", os.getpid(), pid, 0, 0, 0))
    for name in ("mnt", "user", "pid", "net", "ipc", "uts", "cgroup"):
        attempt(f"setns /proc/{pid}/ns/{name}", lambda name=name: check(LIBC.setns(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0)))
    for flag in (0x20000, 0x10000000, 0x40000000, 0x20020000):
        attempt(f"setns pidfd {flag:#x}", lambda flag=flag: check(LIBC.setns(os.pidfd_open(pid), flag)))


def outside(pid: int) -> None:
    """A process of the host, by its number there."""
    attempt("kill", lambda: os.kill(pid, signal.SIGKILL))
    attempt("killpg", lambda: os.killpg(pid, signal.SIGKILL))
    attempt("pidfd_open", lambda: os.pidfd_open(pid))
    attempt("tgkill", lambda: check(LIBC.tgkill(pid, pid, signal.SIGKILL)))
    attempt("ptrace", lambda: check(LIBC.ptrace(ctypes.c_ulong(PTRACE_SEIZE), pid, None, None)))
    attempt("prlimit", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE))
    attempt("look", lambda: os.listdir(f"/proc/{pid}"))
    attempt("own a pipe for it", lambda: signal_through_pipe(pid))


def signal_through_pipe(pid: int) -> None:
    """F_SETOWN names a process by its number here."""
    import fcntl

    read_fd, _ = os.pipe()
    fcntl.fcntl(read_fd, fcntl.F_SETOWN, pid)
    fcntl.fcntl(read_fd, 10, signal.SIGKILL)  # F_SETSIG


def signals() -> None:
    """Everything at pid 1, then at everybody: pid 1 has to stay, and this process too (kill -1 spares it)."""
    for number in range(1, 65):
        if number not in (32, 33):
            attempt(f"signal {number}", lambda number=number: os.kill(1, number))
    attempt_here("kill everybody", lambda: os.kill(-1, signal.SIGKILL))
    say_alive()


def say_alive() -> None:
    from kit import say

    say("pid 1", "there" if os.path.exists("/proc/1/stat") else "gone")


def seen() -> None:
    """Numbers and names of all that /proc shows."""
    from kit import say

    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with open(f"/proc/{entry}/comm") as file:
                say(entry, file.read().strip())


def code() -> None:
    """i386's mount(2) by int 0x80: another table of numbers than the filter's."""
    import mmap

    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attempt("getpid by int 0x80", ctypes.CFUNCTYPE(ctypes.c_int)(address))
    attempt("getpid by x32", lambda: check(LIBC.syscall(ctypes.c_long(0x4000_0000 | 39))))


def rights() -> None:
    """What a process may do to its own rights: only lose them."""
    pr_set_securebits, pr_set_seccomp, pr_set_no_new_privs, pr_cap_ambient, pr_set_dumpable = 28, 22, 38, 47, 4
    attempt("take back no_new_privs", lambda: check(LIBC.prctl(pr_set_no_new_privs, 0, 0, 0, 0)))
    attempt("leave seccomp", lambda: check(LIBC.prctl(pr_set_seccomp, 0, 0, 0, 0)))
    attempt("dump as root", lambda: check(LIBC.prctl(pr_set_dumpable, 2, 0, 0, 0)))
    attempt("ambient SYS_ADMIN", lambda: check(LIBC.prctl(pr_cap_ambient, 2, 21, 0, 0)))
    attempt("securebits beyond", lambda: check(LIBC.prctl(pr_set_securebits, 1 << 20, 0, 0, 0)))
    header, everything = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *([0xFFFFFFFF] * 3), *([0x1FF] * 3))
    attempt("capset everything", lambda: check(LIBC.capset(ctypes.c_char_p(header), ctypes.c_char_p(everything))))
    admin = struct.pack("6I", 1 << 21, 1 << 21, 1 << 21, 0, 0, 0)
    attempt("capset SYS_ADMIN", lambda: check(LIBC.capset(ctypes.c_char_p(header), ctypes.c_char_p(admin))))
    for name in ("uid_map", "gid_map"):
        attempt(f"own {name}", lambda name=name: write(f"/proc/self/{name}", "0 0 4294967295"))
    attempt("allow setgroups", lambda: write("/proc/self/setgroups", "allow"))
    attempt("an id that is not mapped", lambda: os.setresuid(70000, 70000, 70000))
    attempt("raise a hard limit", lambda: resource.setrlimit(resource.RLIMIT_NICE, (40, 40)))
    attempt("lower oom_score_adj", lambda: write("/proc/self/oom_score_adj", "-1000"))
    attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


what, *rest = ARGUMENTS
if what == "files":
    files(rest[0])
elif what == "take_over":
    pid = int(rest[0]) if rest else os.fork()
    if pid == 0:
        signal.pause()
    take_over(pid)
    if not rest:
        os.kill(pid, signal.SIGKILL)
else:
    {"outside": lambda: outside(int(rest[0])), "signals": signals, "seen": seen, "code": code, "rights": rights}[what]()

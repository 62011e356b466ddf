"""Processes: clone3, prctl, identity of a process beyond its reusable pid.

Sources: clone(2), prctl(2), unshare(2), close_range(2), capabilities(7),
proc_pid_stat(5), pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p

from ljsv.linux.descriptors import is_readable
from ljsv.linux.libc import LIBC, SYS_CLONE3, SYS_CLOSE_RANGE, SYS_KEYCTL, check, define

PF_EXITING = 0x4  # include/linux/sched.h
CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
CLONE_CLEAR_SIGHAND = 0x1_0000_0000
CLONE_INTO_CGROUP = 0x2_0000_0000

FD_MAX = 0xFFFF_FFFF
SIGCHLD = 17
KEYCTL_JOIN_SESSION_KEYRING = 1

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    )


_clone3 = define(SYS_CLONE3, c_void_p, c_size_t)
_close_range = define(SYS_CLOSE_RANGE, c_uint, c_uint, c_uint)
_keyctl = define(SYS_KEYCTL, c_int, c_char_p)
_prctl_text = LIBC["prctl"]  # a function of its own, with types of its own
_prctl_text.argtypes = [c_int, c_char_p]


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child; pidfd is -1 without CLONE_PIDFD.

    With `cgroup_fd` the child is born in that cgroup (version 2), which is the root of its cgroup namespace.

    No stack is given, so the child goes on with a copy of this one, as after
    fork. Python's own after-fork steps do not run: the caller has one thread.
    """
    pidfd = c_int(-1)
    arguments = _CloneArgs(flags=flags, exit_signal=0 if flags & CLONE_PARENT else SIGCHLD)  # then it is this process's own, to the same parent
    if flags & CLONE_PIDFD:
        arguments.pidfd = ctypes.addressof(pidfd)
    if cgroup_fd >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    pid = _clone3(ctypes.byref(arguments), ctypes.sizeof(arguments), object_="clone3")
    return pid, pidfd.value if pid else -1


def fork() -> int:
    """fork(2), without what Python does after it: the caller has one thread."""
    return check(LIBC.fork(), "fork")


def wait_for(pid: int) -> int:
    """Reap every child until `pid` has ended, or (0) until there is none; the wait status of `pid`. waitpid(2).

    In a loop of C calls, since pid 1 of a jail spends its life here and has
    to leave the pages that it shares untouched.
    """
    waitpid, status = LIBC.waitpid, c_int()
    address = ctypes.addressof(status)
    while True:
        found = waitpid(-1, address, 0)
        if found == pid or (found < 0 and ctypes.get_errno() == errno.ECHILD):
            return status.value


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    result: int = LIBC.prctl(option, arg2, arg3, 0, 0)
    return result if result >= 0 else check(result, f"prctl({option}, {arg2})")


def prctl_name(name: str) -> None:
    """PR_SET_NAME: what `ps` calls this process; the kernel keeps 15 bytes."""
    check(_prctl_text(PR_SET_NAME, name.encode()[:15]), name)


def unshare(flags: int) -> None:
    check(LIBC.unshare(flags), "unshare")


def leave_terminal() -> None:
    """A session of its own, with /dev/null as standard descriptors: it outlives the terminal, and a pipe's reader sees its end. setsid(2)."""
    os.setsid()
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null_fd, standard)


def setns(fd: int, flags: int) -> None:
    """Join the namespaces of `flags`: of the process whose pidfd `fd` is, or that one namespace. setns(2)."""
    check(LIBC.setns(fd, flags), "setns")


def close_range(first: int, last: int, flags: int = 0) -> None:
    _close_range(first, last, flags, object_="close_range")


def close_all_except(*keep: int) -> None:
    """Close every descriptor of this process but those in `keep` (standard ones too)."""
    first = 0
    for fd in sorted(keep):
        if fd > first:
            close_range(first, fd - 1)
        if fd >= first:
            first = fd + 1
    close_range(first, FD_MAX)


def read_start_time(pid: int) -> int:
    """The 22nd field of /proc/PID/stat, in clock ticks since boot; 0 when there is no such process.

    A pid may be used again; pid and start time together may not.
    """
    fields = _read_stat(pid)
    return int(fields[19]) if fields else 0


def has_ended(pidfd: int) -> bool:
    """Whether the process, of whomever it is a child, has ended, and has let go of all that it had open."""
    return is_readable(pidfd)


def is_exiting(pid: int) -> bool:
    """Whether the process is on its way out, or is gone: PF_EXITING in the ninth field of /proc/PID/stat."""
    fields = _read_stat(pid)
    return not fields or bool(int(fields[6]) & PF_EXITING)


def _read_stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; none when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        text = os.read(fd, 4096)
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)
    return text.rpartition(b")")[2].split()


def find_lock_taker(fd: int) -> int:
    """The pid that has taken a flock(2) for writing on the file of that descriptor; 0 for none (proc_locks(5))."""
    device = _lock_device(fd)
    with open("/proc/locks") as file:
        for line in file:
            words = line.split()
            if words[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and words[5] == device:
                return int(words[4])
    return 0


def _lock_device(fd: int) -> str:
    entry = os.fstat(fd)
    return f"{os.major(entry.st_dev):02x}:{os.minor(entry.st_dev):02x}:{entry.st_ino}"


def find_lock_holders(fd: int, prefix: str) -> list[int]:
    """The pids of our own processes with such names that hold it: a child may have inherited it from who took it (`lock:` in proc_pid_fdinfo(5))."""
    device = _lock_device(fd)
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if read_name(pid).startswith(prefix) and _has_lock(pid, device)]


def _has_lock(pid: int, device: str) -> bool:
    folder = f"/proc/{pid}/fdinfo"
    try:
        for name in os.listdir(folder):
            with open(f"{folder}/{name}") as file:
                locks = [line.split()[2:] for line in file if line.startswith("lock:")]
            if any(words[:3] == ["FLOCK", "ADVISORY", "WRITE"] and words[4] == device for words in locks):
                return True
    except OSError:  # it ends, or is not ours to look at
        pass
    return False


def read_name(pid: int) -> str:
    """What `prctl_name` gave it; "" when there is no such process. proc_pid_comm(5)."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def is_signal_pending(pidfd: int, number: int) -> bool:
    """Whether that process has still to take that signal: `ShdPnd` of proc_pid_status(5)."""
    pid = _read_field(f"/proc/self/fdinfo/{pidfd}", "Pid:")
    pending = _read_field(f"/proc/{pid}/status", "ShdPnd:")
    return bool(pending) and bool(int(pending, 16) >> number - 1 & 1)


def _read_field(path: str, name: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return next((line.split()[1] for line in file if line.startswith(name)), "")
    except OSError:
        return ""


def read_inner_pid(pid: int) -> str:
    """What a process is called in its own pid namespace (`NSpid` of proc_pid_status(5))."""
    with open(f"/proc/{pid}/status", errors="replace") as file:  # its name may be any bytes
        return next(line.split()[-1] for line in file if line.startswith("NSpid:"))


def open_process(pid: int, start_time: int) -> int:
    """A pidfd of exactly that process, or -1 when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    if read_start_time(pid) == start_time:
        return fd
    os.close(fd)
    return -1


def join_session_keyring() -> None:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): an empty one. A kernel without keyrings has nothing to leave."""
    try:
        _keyctl(KEYCTL_JOIN_SESSION_KEYRING, None)
    except OSError:
        pass


def sethostname(name: str) -> None:
    """sethostname(2); the socket module has it too, and costs 5 ms to import."""
    data = name.encode()
    check(LIBC.sethostname(data, len(data)), name)


def socket(family: int, kind: int) -> int:
    """socket(2), for an ioctl on it."""
    return check(LIBC.socket(family, kind, 0), "socket")


_boot_id: list[str] = []


def read_boot_id() -> str:
    """Of this run of the kernel, "unknown" without /proc; looked up once. random(4)."""
    if not _boot_id:
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                _boot_id.append(file.read().strip())
        except OSError:
            _boot_id.append("unknown")
    return _boot_id[0]


OOM_PROTECTED = -900
_is_protected: list[bool] = []  # this process is, as are those that it forks


def protect_from_oom() -> None:
    """Have the kernel end others first when memory is short; only root may. proc_pid_oom_score_adj(5)."""
    try:
        _write_oom_score_adj(OOM_PROTECTED)
    except OSError:
        return  # a container's root may not
    _is_protected.append(True)


def inherit_protection() -> None:
    """Of a process that was executed by one that is protected: know that it is as well."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            if int(file.read()) == OOM_PROTECTED:
                _is_protected.append(True)
    except OSError:
        return


def unprotect_from_oom() -> None:
    """Undo that, in a child whose program shall be as any other."""
    if _is_protected:
        _write_oom_score_adj(0)


def _write_oom_score_adj(value: int) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(value))

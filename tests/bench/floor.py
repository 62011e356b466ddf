"""The least that a jail costs in this language: no plan, no facts, no record, no checks, nothing imported but C modules and ctypes.

Executed as `python3 -I -S floor.py`, as lean as an interpreter can be; what to mount comes as JSON on standard input,
made by `floor_row` from the facts that ljsv's own plan is made of, and milliseconds of both sides go out the same way.
x86-64 and Linux only, one id, errors are fatal: it is a measure, not a model.
"""

import _socket
import ctypes
import json
import os
import sys
import time

LIBC = ctypes.PyDLL(None, use_errno=True)
LIBC.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
LIBC.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
LIBC.waitpid.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.fork.argtypes = []
SYS_PIVOT_ROOT, SYS_CLONE3, SYS_MOUNT_SETATTR = 155, 435, 442
NAMESPACES = 0x10000000 | 0x20000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x02000000  # user mount pid ipc uts cgroup
PIDFD_CLEAR_SIGHAND = 0x1000 | 0x100000000
BIND, REC, PRIVATE, RDONLY, REMOUNT, NOSUID, NODEV, NOEXEC = 0x1000, 0x4000, 1 << 18, 1, 32, 2, 4, 8
PLAIN = NOSUID | NODEV | NOEXEC
KEPT_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31})


def syscall(number, *types):
    function = LIBC["syscall"]
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, *types)
    return lambda *arguments: check(function(number, *arguments))


def check(result):
    if result < 0:
        os.write(2, f"floor: {os.strerror(ctypes.get_errno())}\n".encode())
        os._exit(1)
    return result


class CloneArgs(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ["flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"])


class MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ["set", "clear", "propagation", "userns"])


clone3 = syscall(SYS_CLONE3, ctypes.c_void_p, ctypes.c_size_t)
pivot_root = syscall(SYS_PIVOT_ROOT, ctypes.c_char_p, ctypes.c_char_p)
mount_setattr = syscall(SYS_MOUNT_SETATTR, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t)


def mount(source, target, fstype, flags, options=None):
    check(LIBC.mount(source, target, fstype, flags, options))


def write(path, data):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def build(facts, uid, gid, last_capability):
    """In the jail's second process: everything up to exec."""
    write("/proc/self/setgroups", b"deny")
    write("/proc/self/uid_map", b"0 %d 1" % uid)
    write("/proc/self/gid_map", b"0 %d 1" % gid)
    os.setsid()
    mount(None, b"/", None, REC | PRIVATE)
    mount(b"root", facts["scratch"], b"tmpfs", NOSUID | NODEV, b"mode=0755")
    os.chdir(facts["scratch"])
    for name in (b"etc", b"dev", b"proc", b"tmp", b"run"):
        os.mkdir(name, 0o755)
    for name, target in facts["links"]:
        os.symlink(target, name)
    for path, inside, is_directory in facts["binds"]:
        if is_directory:
            os.makedirs(inside, exist_ok=True)
        else:
            os.mknod(inside)
        mount(path, inside, None, BIND | REC)
    read_only = MountAttr(RDONLY | NOSUID | NODEV, 0, PRIVATE, 0)
    mount_setattr(-100, facts["scratch"], 0x8000, ctypes.byref(read_only), ctypes.sizeof(read_only))
    mount(b"dev", b"dev", b"tmpfs", NOSUID | NOEXEC, b"mode=0755,size=64k")
    for path, inside in facts["devices"]:
        os.mknod(inside)
        mount(path, inside, None, BIND)
    os.mkdir(b"dev/pts")
    mount(b"devpts", b"dev/pts", b"devpts", NOSUID | NOEXEC, b"newinstance,ptmxmode=0666,mode=0620")
    os.mkdir(b"dev/shm")
    mount(b"shm", b"dev/shm", b"tmpfs", PLAIN, b"mode=1777")
    for name, target in ((b"ptmx", b"pts/ptmx"), (b"fd", b"/proc/self/fd"), (b"stdin", b"fd/0"), (b"stdout", b"fd/1"), (b"stderr", b"fd/2")):
        os.symlink(target, b"dev/" + name)
    mount(b"proc", b"proc", b"proc", PLAIN)
    for name in facts["proc_read_only"]:
        mount(name, name, None, BIND | REC)
        mount(None, name, None, BIND | REMOUNT | RDONLY | PLAIN)
    for name, is_directory in facts["proc_masked"]:
        if is_directory:
            mount(b"empty", name, b"tmpfs", RDONLY | PLAIN)
        else:
            mount(b"dev/null", name, None, BIND)
    mount(b"tmp", b"tmp", b"tmpfs", NOSUID | NODEV, b"mode=1777")
    mount(b"run", b"run", b"tmpfs", NOSUID | NODEV, b"mode=0755")
    LIBC.sethostname(b"jail", 4)
    pivot_root(b".", b".")
    check(LIBC.umount2(b".", 2))
    os.chdir(b"/")
    for number in range(last_capability + 1):
        if number not in KEPT_CAPABILITIES:
            LIBC.prctl(24, number, 0, 0, 0)
    LIBC.prctl(38, 1, 0, 0, 0)


def keep(pid):
    """In the jail's first process."""
    LIBC.prctl(4, 0, 0, 0, 0)
    os.chdir(b"/")
    os.closerange(0, 64)
    status = ctypes.c_int()
    while LIBC.waitpid(-1, ctypes.addressof(status), 0) not in {pid, -1}:
        pass
    try:
        os.kill(-1, 9)
    except OSError:
        pass
    os._exit(status.value >> 8)


def run_jail(facts, uid, gid, last_capability):
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pidfd = ctypes.c_int(-1)
    arguments = CloneArgs(flags=NAMESPACES | PIDFD_CLEAR_SIGHAND, pidfd=ctypes.addressof(pidfd), exit_signal=17)
    if clone3(ctypes.byref(arguments), ctypes.sizeof(arguments)) == 0:
        try:
            pid = LIBC.fork()
            if pid:
                keep(pid)
            theirs.send(b"P" + os.readlink(b"/proc/self"))
            build(facts, uid, gid, last_capability)
            theirs.recv(1)
            os.execve("/bin/true", ("true",), {})
        finally:
            os._exit(1)
    theirs.close()
    ours.recv(64)
    ours.send(b"G")
    ours.recv(64)
    ours.close()
    result = os.waitid(os.P_PIDFD, pidfd.value, os.WEXITED)
    os.close(pidfd.value)
    if result.si_status:
        sys.exit("floor: the jail failed")


def run_reference(argv):
    pid = os.posix_spawn(argv[0], argv, os.environ)
    if os.waitpid(pid, 0)[1]:
        sys.exit("floor: the reference failed")


def time_ms(work, *arguments):
    begin = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - begin) * 1e3


def main():
    given = json.load(sys.stdin)
    facts = {
        "scratch": os.fsencode(given["scratch"]),
        "links": [(os.fsencode(name), os.fsencode(target)) for name, target in given["links"]],
        "binds": [(os.fsencode(path), os.fsencode(path[1:]), is_directory) for path, is_directory in given["binds"]],
        "devices": [(os.fsencode(f"/dev/{name}"), os.fsencode(f"dev/{name}")) for name in given["devices"]],
        "proc_read_only": [os.fsencode(f"proc/{name}") for name in given["proc_read_only"]],
        "proc_masked": [(os.fsencode(f"proc/{name}"), is_directory) for name, is_directory in given["proc_masked"]],
    }
    jail = facts, os.geteuid(), os.getegid(), given["last_capability"]
    run_jail(*jail)
    run_reference(given["argv"])
    pairs = [(time_ms(run_jail, *jail), time_ms(run_reference, given["argv"])) for _ in range(given["count"])]
    json.dump(pairs, sys.stdout)


main()

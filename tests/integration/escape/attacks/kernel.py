"""The kernel's own files and calls. Files are opened and not written; calls have arguments that would do no harm."""

from __future__ import annotations

import ctypes
import os
import socket
import stat

from kit import ARGUMENTS, LIBC, attempt, check, open_for, say, syscall

KNOWN = (
    "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/hotplug", "sys/kernel/hostname", "sys/kernel/domainname", "sys/kernel/poweroff_cmd",
    "sys/kernel/usermodehelper/bset", "sys/kernel/ns_last_pid", "sys/kernel/randomize_va_space", "sys/kernel/unprivileged_bpf_disabled", "sys/kernel/keys/maxkeys",
    "sys/vm/panic_on_oom", "sys/vm/overcommit_memory", "sys/vm/drop_caches", "sys/fs/binfmt_misc/register", "sys/fs/suid_dumpable", "sys/fs/protected_symlinks",
    "sys/user/max_user_namespaces", "sys/net/ipv4/ip_forward", "sys/net/ipv4/ip_unprivileged_port_start", "sysrq-trigger", "kcore", "kmsg", "mtrr", "keys",
    "timer_list", "sched_debug", "kpageflags", "kpagecount", "vmallocinfo", "slabinfo", "config.gz.", "scsi/scsi", "acpi/wakeup", "bus/pci/00/00.0", "irq/0/smp_affinity",
    "fs/ext4", "fs/nfsd", "dynamic_debug/control", "sys/kernel/cad_pid",
)
ABSENT = (
    "/sys/kernel/uevent_helper", "/sys/fs/cgroup", "/sys/fs/cgroup/release_agent", "/sys/class", "/sys/firmware", "/sys/kernel/debug", "/sys/module", "/dev/mem",
    "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control", "/dev/loop0", "/dev/sda", "/dev/vda", "/dev/mapper/control",
    "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/vcs", "/dev/userfaultfd", "/dev/vsock", "/dev/vhost-net", "/dev/snapshot", "/dev/uinput", "/dev/hwrng",
    "/dev/cpu/0/msr", "/dev/dri/card0", "/dev/rtc0", "/dev/watchdog", "/dev/autofs", "/dev/btrfs-control", "/dev/initctl", "/dev/log", "/etc/shadow", "/etc/gshadow",
    "/etc/sudoers", "/etc/ssh/ssh_host_ed25519_key", "/root", "/home", "/var/lib", "/var/run/docker.sock", "/run/systemd", "/run/user", "/boot", "/mnt", "/srv", "/media",
)
ALLOWED_IN_PROC = ("self", "thread-self", "pressure")


def writable() -> None:
    """All of /proc but the processes' own folders, opened for writing; what the modes already forbid is asked as well."""
    for root, directories, files in os.walk("/proc", followlinks=False):
        if root == "/proc":
            directories[:] = [name for name in directories if not name.isdigit() and name not in ALLOWED_IN_PROC]
        for name in files:
            path = f"{root}/{name}"
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    continue
                open_for(path, os.O_WRONLY)
            except OSError:
                continue
            say(path, "OK")
    say("walked", "all of it")


def files() -> None:
    for name in KNOWN:
        if os.path.lexists(f"/proc/{name}"):
            attempt(f"write /proc/{name}", lambda name=name: open_for(f"/proc/{name}", os.O_WRONLY))
            attempt(f"truncate /proc/{name}", lambda name=name: open_for(f"/proc/{name}", os.O_WRONLY | os.O_TRUNC))
            attempt(f"chmod /proc/{name}", lambda name=name: os.chmod(f"/proc/{name}", 0o666))
    attempt("read kcore", lambda: open("/proc/kcore", "rb").read(1)[0])
    attempt("read kmsg", lambda: os.read(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK), 1)[0])
    for path in ABSENT:
        attempt(f"stat {path}", lambda path=path: os.stat(path))


def calls() -> None:
    """Refused with the filter and without: they need rights over the host."""
    now = ctypes.create_string_buffer(16)
    LIBC.clock_gettime(0, now)
    attempt("sethostname", lambda: check(LIBC.sethostname(b"attacked", 8)))
    attempt("setdomainname", lambda: check(LIBC.setdomainname(b"attacked", 8)))
    attempt("clock_settime", lambda: check(LIBC.clock_settime(0, now)))
    attempt("settimeofday", lambda: check(LIBC.settimeofday(now, None)))
    attempt("reboot (Ctrl-Alt-Del off)", lambda: check(LIBC.reboot(0)))
    attempt("swapon", lambda: check(LIBC.swapon(b"/no/such/file", 0)))
    attempt("swapoff", lambda: check(LIBC.swapoff(b"/no/such/file")))
    attempt("acct", lambda: check(LIBC.acct(b"/no/such/file")))
    attempt("vhangup", lambda: check(LIBC.vhangup()))
    attempt("init_module", lambda: syscall("init_module", ctypes.create_string_buffer(64), 64, b""))
    attempt("delete_module", lambda: syscall("delete_module", b"ljsv_no_such_module", 0o4000))
    attempt("kexec_load", lambda: syscall("kexec_load", 0, 0, None, 0))
    attempt("clear the kernel's log", lambda: check(LIBC.klogctl(5, None, 0)))
    if os.uname().machine == "x86_64":
        attempt("iopl", lambda: syscall("iopl", 3))
        attempt("ioperm", lambda: check(LIBC.ioperm(ctypes.c_ulong(0x80), ctypes.c_ulong(1), 1)))
    attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 5))


def filtered() -> None:
    """What the kernel gives everybody, and the filter nobody."""
    attribute = ctypes.create_string_buffer(128)
    attempt("bpf", lambda: syscall("bpf", 0, attribute, 72))
    attempt("perf_event_open", lambda: syscall("perf_event_open", attribute, 0, -1, -1, 0))
    attempt("userfaultfd", lambda: syscall("userfaultfd", 1))
    attempt("io_uring_setup", lambda: syscall("io_uring_setup", 1, attribute))
    attempt("keyctl", lambda: syscall("keyctl", 0, -3, 0))
    attempt("add_key", lambda: syscall("add_key", b"user", b"ljsv-test", b"x", 1, -1))
    attempt("ptrace", lambda: check(LIBC.ptrace(ctypes.c_ulong(0), 0, None, None)))
    attempt("personality", lambda: check(LIBC.personality(ctypes.c_ulong(0x40000))))
    attempt("read the kernel's log", lambda: check(LIBC.klogctl(3, ctypes.create_string_buffer(64), 64)))
    attempt("AF_ALG", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
    attempt("AF_VSOCK", lambda: socket.socket(40, socket.SOCK_STREAM))


def nodes() -> None:
    for place in ("/tmp", "/dev", "/dev/shm", "/run", *ARGUMENTS[1:]):
        for name, mode, device in (("mem", 0o20666, (1, 1)), ("null", 0o20666, (1, 3)), ("disk", 0o60666, (8, 0)), ("loop", 0o60666, (7, 0)), ("fuse", 0o20666, (10, 229))):
            attempt(f"mknod {place}/{name}", lambda place=place, name=name, mode=mode, device=device: os.mknod(f"{place}/new-{name}", mode, os.makedev(*device)))


def devices() -> None:
    say("/dev", " ".join(sorted(os.listdir("/dev"))))
    say("/dev/pts", " ".join(sorted(os.listdir("/dev/pts"))))
    for path in ARGUMENTS[1:]:
        attempt(f"open {path}", lambda path=path: open_for(path, os.O_RDWR))


{"writable": writable, "files": files, "calls": calls, "filtered": filtered, "nodes": nodes, "devices": devices}[ARGUMENTS[0]]()

"""What the seccomp filter of a jail lets through, for people and for tools/make-filters.

Never imported at run time: a filter is data, made from this and from the
tables of system calls that libseccomp has. The tests and the documentation
read it too. Sources: seccomp(2), the kernel's syscall tables; compared with
the default filters of docker and of systemd's services.

A call that is known (libseccomp's tables below 424, `NEWER`, `OWN`) is
allowed unless it is named in `REFUSED`, `HIDDEN` or `CHECKED`, or in
`NO_SETID_HIDDEN`, `NO_SETID_UNSUPPORTED` or `NO_SETID_CHECKED`, which the second
program of each machine has besides: it is for jails that write to a place of the
host that its other users reach, where a set-user-id, set-group-id or file
capability would outlive the jail and its nosuid mounts. Any other
number answers ENOSYS, as an older kernel would, so that a C library falls
back; those of the x32 ABI, which have bit 30 set, are among them. A call
of another architecture ends the process. Every argument is compared in its
low 32 bits, since the kernel takes these arguments as int or ignores the rest.

What the filter is not: it does not see what a pointer leads to, which is why
clone3 is hidden, and files, sockets and signals are the other walls' business.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

SECCOMP_RET_KILL_PROCESS = 0x8000_0000
SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000

ALLOW = SECCOMP_RET_ALLOW
REFUSE = SECCOMP_RET_ERRNO | errno.EPERM
HIDE = SECCOMP_RET_ERRNO | errno.ENOSYS
NO_FAMILY = SECCOMP_RET_ERRNO | errno.EAFNOSUPPORT
NO_SUPPORT = SECCOMP_RET_ERRNO | errno.EOPNOTSUPP
KILL = SECCOMP_RET_KILL_PROCESS

WORD = 0xFFFF_FFFF

# uname(2)'s machine, and its AUDIT_ARCH_* as linux/audit.h has it; all four are little endian.
MACHINES = {
    "x86_64": 0xC000_003E,
    "aarch64": 0xC000_00B7,
    "armv7l": 0x4000_0028,
    "riscv64": 0xC000_00F3,
}


class Group(NamedTuple):
    """Calls that get one answer for one reason."""

    name: str
    reason: str
    calls: tuple[str, ...]


REFUSED = (
    Group(
        "mounts", "the jail's root is what it was planned to be",
        (
            "mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount",
            "fspick", "mount_setattr",
        ),
    ),
    Group("namespaces", "a namespace of one's own opens most of the kernel; clone is checked, clone3 hidden", ("unshare", "setns")),
    Group(
        "kernel code", "modules, other kernels, programs in the kernel",
        (
            "init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms", "kexec_load",
            "kexec_file_load", "bpf",
        ),
    ),
    Group("measuring", "perf sees beyond the jail and has a long record of holes", ("perf_event_open", "lookup_dcookie")),
    Group(
        "other processes", "reading, steering or taking from them; signals and pidfds stay",
        (
            "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd", "migrate_pages", "move_pages",
        ),
    ),
    Group("keyrings", "they are not in a namespace", ("add_key", "request_key", "keyctl")),
    Group("fault and ring", "what kernel exploits are built with; io_uring also goes past this filter", (
        "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    )),
    Group("handles", "a file by its number, past every directory; whole-filesystem watching", ("open_by_handle_at", "fanotify_init")),
    Group(
        "clock", "the clock is the host's, and so is reading its discipline",
        ("settimeofday", "clock_settime", "clock_settime64", "adjtimex", "clock_adjtime", "clock_adjtime64"),
    ),
    Group(
        "the machine", "power, swap, quotas, accounting, kernel log, consoles, names",
        (
            "reboot", "swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "syslog", "vhangup", "sethostname", "setdomainname",
            "nfsservctl",
        ),
    ),
    Group(
        "hardware", "ports, segments, configuration of PCI",
        ("iopl", "ioperm", "modify_ldt", "pciconfig_read", "pciconfig_write", "pciconfig_iobase"),
    ),
    Group("obsolete", "nobody needs them, and nobody tests them", ("uselib", "ustat", "sysfs", "_sysctl", "bdflush")),
)

HIDDEN = (
    Group("threads", "its flags lie behind a pointer: a C library falls back to clone, which is checked", ("clone3",)),
    Group("mount tables", "a newer /proc/self/mountinfo: libmount falls back to that", ("statmount", "listmount")),
)


class OneOf(NamedTuple):
    """`matched` if the argument is one of `values`, else `otherwise`."""

    argument: int
    values: tuple[int, ...]
    matched: Decision
    otherwise: Decision


class AnyBit(NamedTuple):
    """`matched` if the argument has any of `bits`, else `otherwise`."""

    argument: int
    bits: int
    matched: Decision
    otherwise: Decision


Decision = int | OneOf | AnyBit


class Check(NamedTuple):
    """Calls that are judged by their arguments, in one way."""

    calls: tuple[str, ...]
    decision: OneOf | AnyBit
    reason: str


_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_AF_ALG = 38
_AF_VSOCK = 40
_PER_LINUX = 0x0000
_PER_LINUX32 = 0x0008
_UNAME26 = 0x2_0000
_QUERY = WORD
_CLONE_NEW = (
    0x80  # NEWTIME, of the exit signal's bits here: no signal has that one
    | 0x0002_0000  # NEWNS
    | 0x0200_0000  # NEWCGROUP
    | 0x0400_0000  # NEWUTS
    | 0x0800_0000  # NEWIPC
    | 0x1000_0000  # NEWUSER
    | 0x2000_0000  # NEWPID
    | 0x4000_0000  # NEWNET
)

_F_SETLEASE, _F_SETDELEG = 1024, 1040
_OF_THE_CALLER = 0

CHECKED = (
    Check(("clone",), AnyBit(0, _CLONE_NEW, REFUSE, ALLOW), "no new namespaces"),
    Check(
        ("ioctl",), OneOf(1, (_TIOCSTI, _TIOCLINUX), REFUSE, ALLOW),
        "no typing into the terminal that the jail shares with its caller",
    ),
    Check(
        ("socket",), OneOf(0, (_AF_ALG, _AF_VSOCK), NO_FAMILY, ALLOW),
        "the kernel's crypto (CVE-2026-31431), and the hypervisor past every network namespace; the answer is systemd's",
    ),
    Check(
        ("personality",), OneOf(0, (_PER_LINUX, _PER_LINUX32, _UNAME26, _UNAME26 | _PER_LINUX32, _QUERY), ALLOW, REFUSE),
        "only what changes no protection of memory",
    ),
    Check(("fcntl", "fcntl64"), OneOf(1, (_F_SETLEASE, _F_SETDELEG), REFUSE, ALLOW), "a lease holds up whoever opens the file, on the host too"),
    Check(("prlimit64",), OneOf(0, (_OF_THE_CALLER,), ALLOW, REFUSE), "the limits of the jail's pid 1 are not the jail's to change"),
)

# chmod(2), open(2): the same bits on all four architectures, which take them from asm-generic/fcntl.h.
_S_ISUID_OR_S_ISGID = 0o6000
_O_CREAT = 0o100
_O_TMPFILE_BIT = 0o20000000  # the kernel's __O_TMPFILE: O_TMPFILE without O_DIRECTORY
_MODE_IN_1, _MODE_IN_2, _MODE_IN_3 = (AnyBit(argument, _S_ISUID_OR_S_ISGID, REFUSE, ALLOW) for argument in (1, 2, 3))

NO_SETID_CHECKED = (
    Check(("chmod", "fchmod", "creat", "mknod"), _MODE_IN_1, "the mode is the second argument"),
    Check(("fchmodat", "mknodat"), _MODE_IN_2, "the mode is the third"),
    Check(("open",), AnyBit(1, _O_CREAT | _O_TMPFILE_BIT, _MODE_IN_2, ALLOW), "there is a mode only where a file is made"),
    Check(("openat",), AnyBit(2, _O_CREAT | _O_TMPFILE_BIT, _MODE_IN_3, ALLOW), "and the directory goes before it"),
)

NO_SETID_HIDDEN = (
    Group("newer calls", "flags and mode lie behind a pointer, or there is an older call to fall back to", ("openat2", "fchmodat2", "setxattrat")),
)

NO_SETID_UNSUPPORTED = (
    Group("attributes", "their name lies behind a pointer, and security.capability is one", ("setxattr", "lsetxattr", "fsetxattr")),
)

# From 424 on a number is one call's on every architecture; later ones than these answer ENOSYS.
NEWER = dict(enumerate(
    (
        "pidfd_send_signal", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_tree", "move_mount",
        "fsopen", "fsconfig", "fsmount", "fspick", "pidfd_open", "clone3", "close_range", "openat2", "pidfd_getfd",
        "faccessat2", "process_madvise", "epoll_pwait2", "mount_setattr", "quotactl_fd", "landlock_create_ruleset",
        "landlock_add_rule", "landlock_restrict_self", "memfd_secret", "process_mrelease", "futex_waitv",
        "set_mempolicy_home_node", "cachestat", "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue",
        "statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "mseal",
        "setxattrat", "getxattrat", "listxattrat", "removexattrat", "open_tree_attr", "file_getattr", "file_setattr",
    ),
    start=424,
))
FIRST_NEWER = min(NEWER)

# Below 424, and too new for the libseccomp of Debian 12. The two of x86_64 are the kernel's own, placed in a process that is being traced.
OWN = {
    "x86_64": {335: "uretprobe", 336: "uprobe"},
    "riscv64": {258: "riscv_hwprobe"},
}


def actions(*, no_setid: bool = False) -> dict[str, Decision]:
    """What becomes of each call that is not simply allowed."""
    groups = [(REFUSED, REFUSE), (HIDDEN, HIDE)]
    checks: tuple[Check, ...] = CHECKED
    if no_setid:
        groups += [(NO_SETID_HIDDEN, HIDE), (NO_SETID_UNSUPPORTED, NO_SUPPORT)]
        checks += NO_SETID_CHECKED
    found: dict[str, Decision] = {name: answer for those, answer in groups for group in those for name in group.calls}
    return found | {name: check.decision for check in checks for name in check.calls}

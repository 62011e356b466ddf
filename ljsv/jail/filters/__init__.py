"""The seccomp filter of a jail, two programs for each architecture.

Data that tools/make-filters has made from `policy`: nothing is compiled and
no library is needed on the machine that runs the jail. Only the module of
the program asked for is imported.
"""

from __future__ import annotations

from ljsv.errors import Fault

MACHINES = ("x86_64", "aarch64", "armv7l", "riscv64")


def read_filter(machine: str, *, no_setid: bool = False) -> bytes:
    """The program for `machine` (`libc.MACHINE`), for seccomp_set_mode_filter; Fault where there is none.

    `no_setid`: the one that also lets no file get set-user-id, set-group-id
    or capabilities, for a jail that writes where other users of the host reach.
    """
    if machine not in MACHINES:
        raise Fault(
            "find the seccomp filter", machine, f"there is none for this machine, only for {', '.join(MACHINES)}",
            hint='run it without: [security] seccomp = "off" in rootfs, or --seccomp off',
        )
    name = f"{machine}_no_setid" if no_setid else machine
    module = __import__(f"{__name__}.{name}", fromlist=("PROGRAM",))
    program: bytes = module.PROGRAM
    return program

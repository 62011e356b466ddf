"""Wait for who enters the jail, and try to get hold of it before it runs the jail's own program.

Looks at every new process again and again, as fast as it can: its
environment, its root, its program, its descriptors, its memory.
"""

from __future__ import annotations

import ctypes
import os
import time

from kit import ARGUMENTS, LIBC, say, syscall

SECRET = b"LJSV_TEST_SECRET"
OWN = {int(name) for name in os.listdir("/proc") if name.isdigit()}
PROGRAM = os.readlink("/proc/self/exe")
seen: set[str] = set()
PTRACE_SEIZE = 0x4206
LOOKS = 0
ENOUGH, LONGEST_S = 100, 60


def tell(kind: str, value: str) -> None:
    if kind + value not in seen:
        seen.add(kind + value)
        say(kind, value)


def judge(pid: int) -> None:
    """What can be had of it that is not the jail's."""
    at = f"/proc/{pid}"
    for name, look in (
        ("program", lambda: os.readlink(f"{at}/exe")),
        ("root", lambda: "the host's" if os.path.exists(f"{at}/root/{ARGUMENTS[0]}") else ""),
        ("cwd", lambda: "the host's" if os.path.exists(f"{at}/cwd/{ARGUMENTS[0]}") else ""),
        ("environ", lambda: "secret" if SECRET in open(f"{at}/environ", "rb").read() else ""),
        ("descriptors", lambda: " ".join(link for link in (os.readlink(f"{at}/fd/{fd}") for fd in os.listdir(f"{at}/fd") if int(fd) > 2) if link.startswith("/") and not os.path.exists(link))),
        ("namespaces", lambda: "" if os.readlink(f"{at}/ns/mnt") == os.readlink("/proc/self/ns/mnt") else "another"),
        ("pidfd_getfd", lambda: str(syscall("pidfd_getfd", os.pidfd_open(pid), 3, 0))),
    ):
        try:
            value = look()
        except (OSError, ValueError):
            continue
        if name == "program" and value in {PROGRAM, "/bin/busybox", "/usr/bin/dash", "/bin/dash", "/usr/bin/sleep", "/bin/sleep"}:
            tell("entered", value)
        elif value:
            tell(f"GOT {name}", value)


def new_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in OWN]


def trace() -> None:
    """Seize whoever comes; the tracer's own end lets go of it again."""
    while time.monotonic() < END + (LONGEST_S if MAY_TRACE else 0):
        for pid in new_processes():
            if LIBC.ptrace(ctypes.c_ulong(PTRACE_SEIZE), pid, None, None) == 0:
                try:
                    say("traced", os.readlink(f"/proc/{pid}/exe"))
                except OSError:
                    say("traced", "nothing that is left")
                return


say("watching", "begins")
END = time.monotonic() + float(ARGUMENTS[1])
MAY_TRACE = ARGUMENTS[2] == "off"  # without the filter it succeeds in the end
tracer = os.fork()
OWN.update({os.getpid(), tracer} | ({os.getppid()} if tracer == 0 else set()))
if tracer == 0:
    trace()
    os._exit(0)
is_tracing = True
while time.monotonic() < END or ((LOOKS <= ENOUGH or (MAY_TRACE and is_tracing)) and time.monotonic() < END + LONGEST_S):  # an emulated machine is slow
    is_tracing = is_tracing and os.waitpid(tracer, os.WNOHANG) == (0, 0)
    for pid in new_processes():
        LOOKS += 1
        judge(pid)
if is_tracing:
    os.waitpid(tracer, 0)
say("looks", LOOKS)
say("END", "of it")
time.sleep(1000)

"""Pid 1 of the jail is closed, processes outside cannot be reached, and rights can only be lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import is_alive
from tests.integration.escape.jail import Jail, assert_refused, succeeded

CLOSED = ("EACCES", "EPERM")
GONE = ("ESRCH", "ENOENT")


@pytest.fixture
def victim(jail: Jail) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user, outside."""
    process = subprocess.Popen(["sleep", "1000"], **jail.tree._as_user())
    yield process
    process.kill()
    process.wait()


def test_files_of_pid_one(jail: Jail) -> None:
    """root, cwd, exe, fd, mem, environ, ns and all else in /proc/1 that needs rights over it; of one's own process they are open."""
    results = jail.attack("processes", "files", "1")
    assert len(results) > 50
    assert_refused(results, *CLOSED, "ENOENT", "ENOTDIR")
    own = succeeded(jail.attack("processes", "files", "self"))
    assert {"read mem", "read environ", "read root/etc/passwd", "list root/", "list fd", "readlink exe", "chdir root", "write comm", "readlink ns/mnt"} <= set(own)
    for name in own:
        assert results.get(name, "EACCES") in CLOSED, f"{name}: {results[name]}"


@pytest.mark.parametrize("capabilities", [(), ("--cap", "+SYS_PTRACE", "--cap", "+SYS_RESOURCE", "--cap", "+DAC_READ_SEARCH")], ids=["default", "SYS_PTRACE"])
def test_pid_one_cannot_be_taken_over(jail: Jail, capabilities: tuple[str, ...]) -> None:
    """ptrace, process_vm_readv, pidfd_getfd, kcmp, setns: refused, with SYS_PTRACE too, since its memory belongs to the host's namespace."""
    assert_refused(jail.attack("processes", "take_over", "1", options=capabilities), *CLOSED)
    files = jail.attack("processes", "files", "1", options=capabilities)
    assert_refused(files, *CLOSED, "ENOENT", "ENOTDIR")
    if jail.seccomp == "off":
        own = succeeded(jail.attack("processes", "take_over", options=capabilities))
        assert {"ptrace attach", "process_vm_readv", "process_vm_writev", "pidfd_getfd 0"} <= set(own), own


def test_processes_outside(jail: Jail, victim: subprocess.Popen[bytes]) -> None:
    """kill, pidfd_open, ptrace, prlimit, F_SETOWN of a process by its number on the host: there is none."""
    results = jail.attack("processes", "outside", str(victim.pid))
    assert_refused(results, *GONE, "EPERM")
    assert victim.poll() is None
    assert "kill" in succeeded(jail.outside("processes", "outside", str(victim.pid)))


def test_proc_shows_the_jail_alone(jail: Jail) -> None:
    """Pid 1, and the program."""
    assert jail.attack("processes", "seen") == {"1": "ljsv pid 1", "2": "python3"}


def test_signals(jail: Jail, victim: subprocess.Popen[bytes]) -> None:
    """Every signal at pid 1 and KILL at everybody: pid 1 stays, and so does everything outside."""
    results = jail.attack("processes", "signals")
    assert results["pid 1"] == "there"
    assert len(succeeded(results)) > 50
    assert victim.poll() is None
    assert is_alive(os.getpid())
    victim.send_signal(signal.SIGCONT)


def test_rights_are_only_lost(jail: Jail) -> None:
    """no_new_privs, seccomp, capabilities, id maps, setgroups, limits, priorities."""
    for options in ((), ("--user", "1000")):
        results = jail.attack("processes", "rights", options=options)
        assert_refused(results, "EPERM", "EINVAL", "EACCES", "ValueError('not allowed to raise maximum limit')")


def test_other_tables_of_system_calls(jail: Jail) -> None:
    """i386 by int 0x80 ends the process, x32 does not exist: no way around the filter."""
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has two more tables of system calls")
    results = jail.attack("processes", "code")
    assert results["getpid by x32"] == "ENOSYS"
    if jail.seccomp == "default":
        assert results["getpid by int 0x80"] == "SIGSYS"
    else:
        assert results["getpid by int 0x80"].startswith(("OK", "SIGSEGV"))

"""The host's kernel: its files, its devices, and the calls that change the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.escape.jail import Jail, assert_refused, succeeded
from tests.integration.roots import small_root

PYTHON_BINDS = tuple(word for name in ("usr", "lib", "lib64") if os.path.isdir(f"/{name}") for word in ("--bind", f"/{name}:/{name}"))


def test_no_file_of_the_kernel_can_be_written(jail: Jail) -> None:
    """core_pattern, modprobe, sysrq-trigger, binfmt_misc and every other file of /proc outside the processes; root outside could."""
    assert jail.attack("kernel", "writable") == {"walked": "all of it"}
    if jail.tree.uid == 0:
        assert {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"} <= set(jail.outside("kernel", "writable"))


def test_files_that_escapes_go_through(jail: Jail) -> None:
    """By name: the helpers that the kernel starts as root, kernel memory, /sys, the host's devices, secrets, homes and sockets."""
    results = jail.attack("kernel", "files")
    assert_refused(results, "EROFS", "EACCES", "EPERM", "ENOENT", "ENXIO", "EINVAL", "ENOTDIR", "EISDIR", "IndexError('index out of range')")
    for path in ("/sys/kernel/uevent_helper", "/dev/mem", "/etc/shadow", "/root", "/home", "/boot"):
        assert results[f"stat {path}"] == "ENOENT"
    assert results["read kcore"] in {"EACCES", "ENOENT", "IndexError('index out of range')"}


def test_calls_that_change_the_machine(jail: Jail) -> None:
    """Clock, swap, modules, reboot, accounting, ports, raw sockets: refused by the kernel, whatever the filter."""
    assert_refused(jail.attack("kernel", "calls"), "EPERM", "EACCES", "EINVAL", "ENOSYS")


def test_calls_of_the_filter(jail: Jail) -> None:
    """bpf, perf, userfaultfd, io_uring, keyrings, ptrace, kernel log, AF_ALG, AF_VSOCK: closed with the filter, some of them open without."""
    results = jail.attack("kernel", "filtered")
    if jail.seccomp == "default":
        assert_refused(results, "EPERM", "EAFNOSUPPORT")
    else:
        assert {"keyctl", "personality"} <= set(succeeded(results))


def test_device_nodes_cannot_be_made(jail: Jail) -> None:
    """Anywhere, with MKNOD too: it means nothing outside the host's own user namespace."""
    root = small_root(jail.tree)
    for options in ((), ("--cap", "+MKNOD"), ("--root", str(root), "--rw", *PYTHON_BINDS), ("--root", str(root), "--writable", "tmpfs", *PYTHON_BINDS)):
        results = jail.attack("kernel", "nodes", *(["/"] if "--root" in options else []), options=options)
        assert_refused(results, "EPERM", "EROFS", "EACCES")
        assert results["mknod /tmp/mem"] == "EPERM"


def test_only_harmless_devices_are_there(jail: Jail) -> None:
    """As listed in docs/security.md."""
    results = jail.attack("kernel", "devices")
    assert results["/dev"] == "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert results["/dev/pts"] == "ptmx"


def test_device_nodes_on_disk_are_dead(jail: Jail) -> None:
    """One in the root directory, one in a writable bind: nodev. (Of /dev/zero's kind, which would do no harm.)"""
    if jail.tree.uid:
        pytest.skip("only root can make a device node: needs root")
    root, shared = small_root(jail.tree), jail.tree.root / "shared"
    shared.mkdir()
    for directory in (root, shared):
        os.mknod(directory / "zero", 0o20666, os.makedev(1, 5))
        (directory / "zero").chmod(0o666)
    paths = ("/zero", "/shared/zero")
    bind = ("--bind", f"{shared}:/shared:rw", *PYTHON_BINDS)
    for options in ((), ("--rw",), ("--writable", "tmpfs"), ("--overlay-dir", str(jail.tree.root / "overlay"))):
        results = jail.attack("kernel", "devices", *paths, options=("--root", str(root), *options, *bind))
        assert_refused({name: result for name, result in results.items() if name.startswith("open")}, "EACCES", "EPERM")
    assert "open " + str(root / "zero") in succeeded(jail.outside("kernel", "devices", str(root / "zero")))
    assert Path("/dev/zero").is_char_device()

"""The root, the mounts and the masks stay as they were planned."""

from __future__ import annotations

import pytest

from tests.integration.escape.jail import Jail, assert_refused, own_namespaces, succeeded

NO_RIGHT = ("EPERM",)


def test_nothing_read_only_becomes_writable(jail: Jail) -> None:
    """remount, mount_setattr and a change of propagation of the root, the host's programs, /proc/sys; as root of a namespace of one's own they work."""
    assert_refused(jail.attack("mounts", "remounts"), *NO_RIGHT)
    outside = jail.outside("mounts", "remounts", prefix=own_namespaces())
    assert {"remount /", "make private /"} <= set(succeeded(outside)), outside


@pytest.mark.kernel
def test_nothing_can_be_mounted(jail: Jail) -> None:
    """File systems, binds, moves, pivot_root, the calls of the new mount API. cgroup v1 for its release_agent (CVE-2022-0492) is among them."""
    assert_refused(jail.attack("mounts", "mounts"), *NO_RIGHT)
    outside = jail.outside("mounts", "mounts", prefix=own_namespaces())
    assert {"mount tmpfs", "mount proc", "recursive bind", "fsopen and move_mount", "open_tree and move_mount"} <= set(succeeded(outside)), outside


def test_masks_cannot_be_taken_off(jail: Jail) -> None:
    """umount2 of every mount, plainly, lazily, by force; what is masked stays empty."""
    results = jail.attack("mounts", "umounts")
    reads = {name: results.pop(name) for name in list(results) if name.startswith("read ")}
    assert len(results) > 20
    assert_refused(results, *NO_RIGHT)
    assert_refused(reads, "ENODATA", "EACCES")


def test_mounts_with_every_capability_that_can_be_given(open_jail: Jail) -> None:
    """No other capability stands in for SYS_ADMIN."""
    options = tuple(word for name in ("SYS_PTRACE", "SYS_RAWIO", "MKNOD", "DAC_READ_SEARCH", "SYS_MODULE", "NET_ADMIN", "SYS_RESOURCE") for word in ("--cap", f"+{name}"))
    for what in ("remounts", "mounts"):
        assert_refused(open_jail.attack("mounts", what, options=options), *NO_RIGHT)

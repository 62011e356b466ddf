"""No namespaces inside: they open most of the kernel to the jail's root."""

from __future__ import annotations

import pytest

from tests.integration.escape.jail import Jail, assert_refused, succeeded


@pytest.mark.parametrize("user", ["0", "1000"], ids=["root", "user"])
def test_no_namespaces(jail: Jail, user: str) -> None:
    """unshare, clone, clone3, setns, with a user namespace and without, through bits that a filter might overlook; outside they can be made."""
    results = jail.attack("namespaces", options=("--user", user))
    assert_refused(results, "EPERM", "ENOSPC", "ENOSYS", "EINVAL", "EROFS", "EACCES")
    assert {results["release_agent"], results["clone user"]} <= {"EPERM", "ENOSPC"}
    assert {"unshare user", "clone user", "clone3 mount", "unshare -Ur"} <= set(succeeded(jail.outside("namespaces")))


def test_no_namespaces_with_every_capability(open_jail: Jail) -> None:
    """Nor with more capabilities than the default."""
    options = tuple(word for name in ("SYS_PTRACE", "SYS_RESOURCE", "NET_ADMIN", "MKNOD") for word in ("--cap", f"+{name}"))
    assert_refused(open_jail.attack("namespaces", options=options), "EPERM", "ENOSPC", "ENOSYS", "EINVAL", "EROFS", "EACCES")

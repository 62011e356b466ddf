"""No way out of the root directory."""

from __future__ import annotations

import pytest

from tests.integration.escape.jail import Jail, assert_refused, succeeded
from tests.integration.roots import small_root


@pytest.mark.parametrize("base", ["host", "root", "overlay"])
def test_chroot_is_no_way_out(jail: Jail, base: str) -> None:
    """SYS_CHROOT is a default capability: the classic escapes out of a chroot end in the jail's own root, which was pivoted to."""
    marker = jail.tree.root / "marker"
    marker.write_text("host\n")
    options: tuple[str, ...] = ()
    if base != "host":
        from tests.integration.escape.test_kernel import PYTHON_BINDS

        options = ("--root", str(small_root(jail.tree)), *PYTHON_BINDS)
    if base == "overlay":
        options += ("--overlay-dir", str(jail.tree.root / "overlay"))
    results = jail.attack("chroots", str(marker), options=options)
    assert results.pop("marker") == "not seen"
    assert len(results) > 10
    assert_refused(results, "EPERM", "EACCES", "ENOTDIR", "ENOENT")
    assert results["classic"] == results["descriptor"] == results["socket"] == "EPERM"


@pytest.mark.parametrize("capabilities", [(), ("--cap", "+DAC_READ_SEARCH")], ids=["default", "DAC_READ_SEARCH"])
def test_file_handles(jail: Jail, capabilities: tuple[str, ...]) -> None:
    """open_by_handle_at of the roots of all file systems that are mounted in the jail; root outside opens them."""
    results = jail.attack("chroots", "/none", "handles", options=capabilities)
    assert_refused(results, "EPERM", "ESTALE", "EINVAL", "EOPNOTSUPP", "EACCES")
    assert results["handle 2 at /usr/bin"] == "EPERM"
    if not jail.tree.uid:
        assert succeeded(jail.outside("chroots", "/none", "handles"))

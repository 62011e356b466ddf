"""Keyrings of the caller: left behind by the jail, and by who enters it."""

from __future__ import annotations

import pytest

from tests.conftest import Tree
from tests.integration.escape.jail import PYTHON, Jail, assert_refused, results_of, succeeded

REFUSED = ("ENOKEY", "EPERM", "EACCES", "ENOSYS")


def test_keys_of_the_caller(jail: Jail) -> None:
    """Neither found, nor read, linked or revoked by number, also as the same user; outside they are."""
    outside = results_of(jail.tree.run(PYTHON, f"{jail.attacks}/keys.py", "hold", PYTHON, f"{jail.attacks}/keys.py", "seek").stdout)
    assert {"search session", "read by number"} <= set(succeeded(outside)), outside
    command = ("ljexec", "--seccomp", jail.seccomp, "--bind", f"{jail.attacks}:/attacks", "--", PYTHON, "/attacks/keys.py", "seek")
    done = jail.tree.run(PYTHON, f"{jail.attacks}/keys.py", "hold", *command)
    assert_refused(results_of(done.stdout), *REFUSED)


@pytest.mark.parametrize("seccomp", ["default", "off"])
def test_keys_of_who_enters(scanning: Tree, seccomp: str) -> None:
    """`ljsv enter` does not take the caller's session keyring along: whatever runs in the jail could use it through the process that has entered."""
    jail = Jail(scanning, seccomp)
    scanning.add("web", "exec sleep 1000", f'base = "host"\n[[bind]]\nfrom = "{jail.attacks}"\nto = "/attacks"\n[security]\nseccomp = "{seccomp}"')
    scanning.wait_state("web", "ready")
    done = scanning.run(PYTHON, f"{jail.attacks}/keys.py", "hold", "ljsv", "enter", "web", PYTHON, "/attacks/keys.py", "seek")
    assert done.returncode == 0, done.stderr
    assert_refused(results_of(done.stdout), *REFUSED)

"""A jail with an attacker in it: the programs of `attacks/`, what they got, and the same programs outside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.conftest import Tree

ATTACKS = Path(__file__).parent / "attacks"
PYTHON = "/usr/bin/python3"


class Jail:
    """Runs attacks through `ljexec`, with the seccomp filter or without."""

    def __init__(self, tree: Tree, seccomp: str) -> None:
        self.tree = tree
        self.seccomp = seccomp
        self.attacks = tree.root / "attacks"
        shutil.copytree(ATTACKS, self.attacks, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (self.attacks, *self.attacks.rglob("*")):
            path.chmod(0o755)

    def attack(self, program: str, *arguments: str, options: tuple[str, ...] = (), **more: Any) -> dict[str, str]:
        """What each attempt of the program got in a jail."""
        bind = ("--bind", f"{self.attacks}:/attacks")
        done = self.tree.run("ljexec", "--seccomp", self.seccomp, *bind, *options, "--", PYTHON, f"/attacks/{program}.py", *arguments, **more)
        assert done.returncode == 0, f"ljexec ended with {done.returncode}: {done.stderr}"
        return results_of(done.stdout)

    def outside(self, program: str, *arguments: str, prefix: tuple[str, ...] = (), **more: Any) -> dict[str, str]:
        """The same outside: what it does there shows that the attack itself is sound."""
        done = self.tree.run(*prefix, PYTHON, str(self.attacks / f"{program}.py"), *arguments, **more)
        assert done.returncode == 0, done.stderr
        return results_of(done.stdout)


def results_of(text: str) -> dict[str, str]:
    """The lines `name, tab, result`."""
    results = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    assert results, f"the attack said nothing: {text!r}"
    return results


def succeeded(results: dict[str, str]) -> dict[str, str]:
    return {name: result for name, result in results.items() if result.startswith("OK")}


def assert_refused(results: dict[str, str], *allowed: str) -> None:
    """Nothing succeeded, and each failed for one of these reasons: another means that the attack was never made."""
    wrong = {name: result for name, result in results.items() if result not in allowed}
    assert not wrong, "\n".join(f"{name}: {result}" for name, result in wrong.items())


def own_namespaces() -> tuple[str, ...]:
    """A prefix: root of a user namespace of the user's own, in which a sound attack on mounts succeeds."""
    return ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--ipc", "--cgroup", "--net")

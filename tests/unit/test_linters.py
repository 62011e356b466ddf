"""ruff, mypy --strict and the layers, as tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

# The mandatory packages, and ctypes: each has one place that imports it.
IMPORT_SITES = {
    "inotify_simple": "ljsv/supervise/watch.py",
    "structlog": "ljsv/supervise/journal.py",
    "daemon": "ljsv/supervise/daemon.py",
    "cattrs": "ljsv/service/toml.py",
    "ctypes": "ljsv/linux/",
}


@pytest.mark.parametrize(
    "command", [["ruff", "check", "ljsv", "tests", "tools/make-filters", "tools/make-resources", "tools/list-errors", "tools/make-pictures"], ["mypy"], ["lint-imports", "--no-cache"]], ids=lambda command: command[0]
)
def test_linter(command: list[str]) -> None:
    """No complaint."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=CHECKOUT, env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_each_mandatory_package_has_one_import_site() -> None:
    """And it is used there."""
    used = set()
    for path in (CHECKOUT / "ljsv").rglob("*.py"):
        name = str(path.relative_to(CHECKOUT))
        for package in imports_of(path) & set(IMPORT_SITES):
            assert name.startswith(IMPORT_SITES[package]), f"{name} imports {package}"
            used.add(package)
    assert used == set(IMPORT_SITES)


def test_status_imports_nothing_heavy() -> None:
    """`ljsv status` stays near the interpreter's own start."""
    code = "import sys, ljsv.cli.main, ljsv.cli.status_verb; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {code}"], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"re", "argparse", "json", "ctypes", "typing", "dataclasses", "tomllib", "cattrs", "structlog", "subprocess", "logging", "socket", "enum"}

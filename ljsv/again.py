"""How a module of this very installation is run in a process of its own, wherever it was installed.

In a virtual environment or in site-packages Python finds it. A zipapp, and
the folder that a package of a distribution keeps it in, are told to Python by
their path, and have a `__main__` that takes `-m MODULE` as Python does
(tools/dist). Imports nothing heavy: the scanner and every launcher go through
here.
"""

from __future__ import annotations

import os
import sys

_NOT_LOADED = frozenset({"ljsv.supervise.journal", "ljsv.supervise.daemon"})  # of other processes, with packages of their own
_ROOT = os.path.abspath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def module_argv(module: str, *arguments: str) -> list[str]:
    """The command that runs the `main` of `module` with this Python, and its arguments."""
    own = [_ROOT] if os.path.isfile(_ROOT) or os.path.isfile(f"{_ROOT}/__main__.py") else []
    return [sys.executable, "-IS" if own else "-I", *own, "-m", module, *arguments]  # site would only look for packages


def load_whole(*packages: str) -> None:
    """Out of a zipapp import all of these packages now: the file may be replaced while this process and its forks live."""
    if not os.path.isfile(_ROOT):
        return
    from pkgutil import iter_modules

    from ljsv.jail.filters import MACHINES
    from ljsv.linux.libc import MACHINE

    filters = f"ljsv.jail.filters.{MACHINE}"
    for name in (filters, f"{filters}_no_setid"):
        if MACHINE in MACHINES:
            __import__(name)
    for package in packages:
        module = __import__(package, fromlist=("",))
        for found in iter_modules(module.__path__, f"{package}."):
            if not found.ispkg and found.name not in _NOT_LOADED:
                __import__(found.name)

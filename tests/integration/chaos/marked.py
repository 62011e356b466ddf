"""Services that leave marks, and what the process table says of them.

Each has a directory of its own, writable in its jail at /mark: `told` has a
line for every run and every finish, written by the service itself past any log
of ours; `lock` is held by all that runs in its jail, so that a second jail
notices the first, whatever our own records say.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from ljsv.jail import nursery, spare
from ljsv.jail.order import FIRST_FD
from tests.conftest import Tree, is_alive

GUARD = "exec 9>>/mark/lock\nflock -n 9 || echo twice >>/mark/told\n"
RUN = (
    GUARD + "echo run >>/mark/told\ntrap 'exit 7' USR1\n"
    "trap 'i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo \"line $i\"; done' USR2\n"
    "echo began >>/mark/told\nwhile :; do sleep 1000 & wait; done"
)
FINISH = "#!/bin/sh\n" + GUARD + 'echo "finish $1 $2" >>/mark/told\n'


class Marked:
    """A service of a tree, its marks, and what is left of it in the process table."""

    def __init__(self, tree: Tree, name: str, run: str = RUN, **files: str) -> None:
        self.tree = tree
        self.name = self.label_name = name  # it may be renamed
        self.mark = tree.root / "marks" / name
        self.mark.mkdir(parents=True, exist_ok=True)
        self.mark.chmod(0o777)
        for file in ("lock", "told"):
            (self.mark / file).touch()
            (self.mark / file).chmod(0o666)
        self.label = f"MARK={self.mark}"
        rootfs = f'base = "host"\n[[bind]]\nfrom = "{self.mark}"\nto = "/mark"\nwritable = true'
        tree.add(name, run, rootfs, env__MARK=f"{self.mark}\n", **files)

    @property
    def state(self) -> str:
        return self.tree.state(self.name)

    def told(self) -> list[str]:
        """What the service itself has written down."""
        return (self.mark / "told").read_text().splitlines()

    def control(self, text: str) -> bool:
        """Bytes into its control FIFO; whether somebody reads it."""
        return write_fifo(self.tree.supervise(self.name) / "control", text)

    def signal(self, number: int) -> None:
        """To the service itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.tree.pid(self.name) or 1 << 30, number)

    def jails(self) -> dict[str, list[int]]:
        """The pid namespaces in which something of it lives, with the pids there."""
        return find_jails([self.label]).get(self.label, {})

    def pids(self) -> list[int]:
        """All that lives of it, in whatever jail."""
        return [pid for pids in self.jails().values() for pid in pids]

    def log_lines(self) -> list[str]:
        """Its log over all rotations, without time stamps."""
        path = self.tree.detail(self.name).get("log", "")
        return read_rotated(Path(path)) if path else []


def read_rotated(current: Path) -> list[str]:
    """The lines of current.N ... current.1, current without their stamps. What has no end of line yet is left out."""
    return [line for _, line in read_stamped(current)]


def read_stamped(current: Path) -> list[tuple[str, str]]:
    """The same, each with its stamp."""
    numbers = sorted((int(path.suffix[1:]) for path in current.parent.glob("current.*")), reverse=True)
    data = b"".join(path.read_bytes() for path in [*(Path(f"{current}.{number}") for number in numbers), current] if path.exists())
    return [(line.partition("Z ")[0], line.partition("Z ")[2]) for line in data.decode().split("\n")[:-1]]


def write_fifo(path: Path, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def find_jails(labels: list[str]) -> dict[str, dict[str, list[int]]]:
    """For each label the pid namespaces that have living processes with it: two at once are two jails.

    What was seen early in a walk through /proc may have ended before the
    rest was seen, so more than one namespace is looked at a second time.
    """
    found = _look(labels)
    if any(len(namespaces) > 1 for namespaces in found.values()):
        for namespaces in found.values():
            for namespace in list(namespaces):
                namespaces[namespace] = [pid for pid in namespaces[namespace] if is_alive(pid) and _namespace(pid) == namespace]
                if not namespaces[namespace]:
                    del namespaces[namespace]
    return found


def _look(labels: list[str]) -> dict[str, dict[str, list[int]]]:
    wanted = {label.encode(): label for label in labels}
    found: dict[str, dict[str, list[int]]] = {label: {} for label in labels}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{entry}/environ").read_bytes()
            for word in environment.split(b"\0") if b"MARK=" in environment else ():
                if word in wanted and is_alive(int(entry)):
                    found[wanted[word]].setdefault(_namespace(int(entry)), []).append(int(entry))
    return found


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def scanner_folder(tree: Tree) -> Path:
    """Where the supervise directories are, too."""
    base = tree.env.get("XDG_RUNTIME_DIR", "/run") if tree.uid else "/run"
    return Path(f"{base}/ljsv/sv-{tree.scan_hash()}")


def scanner_files(tree: Tree) -> Path:
    """What is the scanner's own."""
    return tree.sv / ".ljsv" if tree.uid and "XDG_RUNTIME_DIR" not in tree.env else scanner_folder(tree) / ".scanner"


def scanner_pid(tree: Tree) -> int:
    """The scanner that lives, 0 for none."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        pid = int((scanner_files(tree) / "pid").read_text().split()[0])
        return pid if is_alive(pid) else 0
    return 0


def find_nurseries(tree: Tree) -> list[int]:
    """The pids of those of a tree, an older one's where a scanner was killed."""
    return [pid for pid in _called(tree, nursery.NAME) if _namespace(pid) == _namespace(os.getpid())]


def find_builders(tree: Tree) -> list[int]:
    """The pids of what builds a jail, which has its name from the nursery until it becomes the service; not of a spare without an order."""
    return [pid for pid in _called(tree, nursery.NAME, spare.NAME) if _namespace(pid) != _namespace(os.getpid()) and os.path.lexists(f"/proc/{pid}/fd/{FIRST_FD}")]


def _called(tree: Tree, *names: str) -> list[int]:
    found = []
    for pid in tree.processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().rstrip("\n") in names:
                found.append(pid)
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def each(items: list[Marked], condition: Callable[[Marked], bool]) -> list[str]:
    """The names of those for which it does not hold."""
    return [item.name for item in items if not condition(item)]

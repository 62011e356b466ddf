"""What every row needs: samples taken in turn, the same jail for both sides, and trees that supervise it.

A service of every tree runs the same program in the same namespaces with the same mounts: ours through its
`rootfs`, those of runit and s6 through bwrap with arguments made from the same facts (`bwrap_arguments`). What
bwrap has no word for is left out of the references, in their favour: user.max_user_namespaces, capabilities.

A service says that it runs by writing its name into a FIFO: one inode, linked into each service directory, below
a folder of its own so that the write is no change that a scanner sees.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

PR_SET_CHILD_SUBREAPER = 36
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
COLUMNS = "{:<26}  {:<22} {:>11}  {:>11}  {:>11}  {:>9}  {}"
PROGRAM = "#!/bin/sh\necho {name} >at/started\nexec sleep 1000000\n"


# ---- figures


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table. `budget` bounds ours / reference, or, where `is_added`, ours - reference.

    `bigger_is_better` turns the bound around. Without a budget the line is for information.
    """

    row: str
    reference_name: str
    unit: str
    ours: float | None
    reference: float | None = None
    budget: float | None = None
    is_added: bool = False
    bigger_is_better: bool = False
    note: str = ""

    @property
    def relation(self) -> float | None:
        if self.ours is None or self.reference is None:
            return None
        return self.ours - self.reference if self.is_added else self.ours / self.reference if self.reference else None

    @property
    def is_within(self) -> bool | None:
        value = self.relation if self.reference is not None else self.ours
        if value is None or self.budget is None:
            return None
        return value >= self.budget if self.bigger_is_better else value <= self.budget

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "relation": self.relation, "is_within": self.is_within}

    def format(self) -> str:
        sign = "+" if self.is_added else ""
        suffix = "" if self.is_added else " x"
        relation = "-" if self.relation is None else f"{sign}{self.relation:.2f}{suffix}"
        budget = "-"
        if self.budget is not None:
            budget = f"{sign}{self.budget:g}{suffix}" if self.reference is not None else f"{self.budget:g} {self.unit}"
        verdict = {True: "within", False: "OVER", None: ""}[self.is_within]
        cells = (self.row, self.reference_name, _show(self.reference, self.unit), _show(self.ours, self.unit), relation, budget)
        return COLUMNS.format(*cells, f"{verdict}{'  ' if self.note else ''}{self.note}").rstrip()


def _show(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f} {unit}" if value % 1 else f"{value:.0f} {unit}"


def format_head() -> str:
    return COLUMNS.format("ROW", "REFERENCE", "REFERENCE", "OURS", "RELATION", "BUDGET", "")


def spread(samples: list[float]) -> str:
    """What a median hides."""
    ordered = sorted(samples)
    return f"ours {ordered[0]:.2f} to {ordered[int(len(ordered) * 0.9)]:.2f} (p90), n={len(ordered)}"


def take_turns(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """`count` samples of each side, in turn (A B A B ...), after one of each that does not count."""
    for side in sides:
        side()
    samples: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for side, taken in zip(sides, samples, strict=True):
            taken.append(side())
    return samples


def median(samples: Iterable[float]) -> float:
    return statistics.median(samples)


def time_ms(work: Callable[[], object]) -> float:
    begin = perf_counter()
    work()
    return (perf_counter() - begin) * 1e3


def run_process(argv: list[str]) -> float:
    """Milliseconds from posix_spawn to reaped; its output is thrown away. RuntimeError where it fails."""
    actions = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    begin = perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
    _, wait_status = os.waitpid(pid, 0)
    took = (perf_counter() - begin) * 1e3
    if wait_status:
        message = f"{' '.join(argv[:2])} ended with wait status {wait_status}"
        raise RuntimeError(message)
    return took


# ---- processes


def become_subreaper() -> None:
    """Orphans of what we start come to us, and can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def list_children(pid: int) -> list[int]:
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


def list_descendants(pid: int) -> list[int]:
    """Parents before their children."""
    found = list_children(pid)
    for child in found:
        found += list_children(child)
    return found


def find_leaf(pid: int) -> int:
    """The last process of a chain of only children: what runs in a bwrap."""
    while children := list_children(pid):
        pid = children[0]
    return pid


def kill_descendants(pid: int, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """All of them, parents first so that nothing is started again, and wait for their end."""
    give_up_at = perf_counter() + timeout_s
    while (left := list_descendants(pid)) and perf_counter() < give_up_at:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def read_memory_kb(pid: int) -> tuple[int, int]:
    """(Private_Clean + Private_Dirty, Pss) of smaps_rollup (proc(5)); -1 where it may not be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            lines = file.read().splitlines()
    except OSError:
        return -1, -1
    private = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return private, next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


# ---- the bench


class Bench:
    """One run: where things are, how many samples, and the trees that have to be ended."""

    def __init__(self, venv: Path, *, is_quick: bool, keeper_fd: int) -> None:
        become_subreaper()
        self.venv = venv
        self.is_quick = is_quick
        self.python = str(venv / "bin/python")
        self.folder = Path(os.environ["HOME"])
        self.memory_folder = Path(os.environ["XDG_RUNTIME_DIR"])
        os.set_inheritable(keeper_fd, False)
        self._keeper = socket.socket(fileno=keeper_fd)
        self._trees: list[Tree] = []
        self._number = 0

    def count(self, full: int, *, least: int = 2) -> int:
        return max(full // 10, least) if self.is_quick else full

    def command(self, name: str) -> str:
        return str(self.venv / "bin" / name)

    def memory_kb(self, pid: int) -> tuple[int, int]:
        """(private, proportional), as root, who may read it of pid 1 of a jail as well."""
        self._keeper.send(str(pid).encode())
        private, proportional = self._keeper.recv(64).split()
        return int(private), int(proportional)

    def new_folder(self, name: str) -> Path:
        self._number += 1
        folder = self.folder / f"{name}-{self._number}"
        folder.mkdir()
        return folder

    def tree(self, kind: type[Tree], services: int = 0, **given: str) -> Tree:
        """A tree of that kind with so many services, not started yet. `given`: files of each service directory."""
        tree = kind(self, self.new_folder(kind.name), given)
        self._trees.append(tree)
        for number in range(services):
            tree.make_service(f"s{number}", tree.scan)
        return tree

    def end_everything(self) -> None:
        """After every row, also one that failed."""
        for tree in self._trees:
            with suppress(Exception):
                tree.stop()
            tree.remove()
        self._trees.clear()
        kill_descendants(os.getpid())


class Tree:
    """Services under one supervision suite. `scan` is its scan directory; `supervise` files are as in runit."""

    name = ""

    def __init__(self, bench: Bench, folder: Path, given: dict[str, str]) -> None:
        self.bench = bench
        self.folder = folder
        self.given = given
        self.scan = folder / "sv"
        self.scan.mkdir()
        self.fifo = folder / "started"
        os.mkfifo(self.fifo)
        self.fifo_fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self.fifo_fd, select.POLLIN)
        self._pending = b""
        self.process: subprocess.Popen[bytes] | None = None

    def make_service(self, name: str, where: Path) -> Path:
        """A service directory below `where`."""
        directory = where / name
        (directory / "at").mkdir(parents=True)
        os.link(self.fifo, directory / "at/started")
        program = self.given.get("program", PROGRAM).format(name=name)
        self.write_files(directory, program)
        return directory

    def write_files(self, directory: Path, program: str) -> None:
        raise NotImplementedError

    def argv(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )

    def wait_started(self, count: int, timeout_s: float = START_TIMEOUT_S) -> list[str]:
        """The names of the next `count` services that say that they run. TimeoutError with what is known."""
        names: list[str] = []
        give_up_at = perf_counter() + timeout_s
        while len(names) < count:
            left = give_up_at - perf_counter()
            if left <= 0 or not self._poll.poll(left * 1000):
                tail = (self.folder / "stderr").read_text()[-600:] if self.process else ""
                message = f"{self.name}: {len(names)} of {count} services run after {timeout_s:g} s; {tail}"
                raise TimeoutError(message)
            self._pending += os.read(self.fifo_fd, 65536)
            *lines, self._pending = self._pending.split(b"\n")
            names += [line.decode() for line in lines]
        return names

    def service_pid(self, name: str) -> int:
        """The process of the service itself, inside its jail."""
        raise NotImplementedError

    def supervisor_pids(self, name: str) -> list[int]:
        """What there is for one service beside the service itself."""
        raise NotImplementedError

    def kill_service(self, name: str) -> float:
        """Kill the service; milliseconds until its replacement says that it runs."""
        pid = self.service_pid(name)
        begin = perf_counter()
        os.kill(pid, signal.SIGKILL)
        (started,) = self.wait_started(1)
        took = (perf_counter() - begin) * 1e3
        if started != name:
            message = f"{self.name}: {started} was started instead of {name}"
            raise RuntimeError(message)
        return took

    def stop(self) -> None:
        """Ask it to end; kill what is left after a while."""
        if self.process is None:
            return
        left = list_descendants(self.process.pid)
        self.process.send_signal(self.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        give_up_at = perf_counter() + 2
        while any(os.path.exists(f"/proc/{pid}/ns") for pid in left) and perf_counter() < give_up_at:
            _reap_orphans(left)
            time.sleep(0.01)
        for pid in [*([self.process.pid] if self.process.poll() is None else []), *left]:
            if os.path.exists(f"/proc/{pid}"):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)
        self.process = None

    stop_signal = signal.SIGHUP

    def remove(self) -> None:
        os.close(self.fifo_fd)
        shutil.rmtree(self.folder, ignore_errors=True)


def _reap_orphans(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


class Ljsv(Tree):
    name = "ljsv"

    def write_files(self, directory: Path, program: str) -> None:
        (directory / "run").write_text(program)
        (directory / "run").chmod(0o755)
        (directory / "rootfs").write_text('base = "host"\n' + self.given.get("rootfs", ""))
        (directory / "policy").write_text(self.given.get("policy", '[restart]\nstable_after = "0s"\n'))
        if "down" in self.given:
            (directory / "down").touch()

    def argv(self) -> list[str]:
        return [self.bench.command("ljsv"), "scan", str(self.scan)]

    def service_pid(self, name: str) -> int:
        return int((self.scan / name / "supervise/pid").read_text())

    def supervisor_pids(self, name: str) -> list[int]:
        """The supervisor and pid 1 of the jail."""
        detail = (self.scan / name / "supervise/detail").read_text().splitlines()
        supervisor = next(int(line.split()[1]) for line in detail if line.startswith("supervisor "))
        jail = (self.scan / name / "supervise/jail").read_text().splitlines()
        return [supervisor, next(int(line.split()[1]) for line in jail if line.startswith("pid "))]

    def wait_ready(self, names: list[str]) -> None:
        """Until `detail` says so: a service may run a moment before its supervisor has written that down."""
        self._wait_detail(names, "state ready")

    def _wait_detail(self, names: list[str], line: str) -> None:
        give_up_at = perf_counter() + START_TIMEOUT_S
        for name in names:
            while line not in (self.scan / name / "supervise/detail").read_text().splitlines():
                if perf_counter() > give_up_at:
                    message = f"ljsv: {name} is not: {line}"
                    raise TimeoutError(message)
                time.sleep(0.005)

    def start_sleepy(self, count: int) -> list[str]:
        """Start, with supervisors that sleep after a second instead of minutes; until all of them do: the names."""
        os.environ["LJSV_SLEEP_AFTER"] = "1s"
        try:
            self.start()
        finally:
            del os.environ["LJSV_SLEEP_AFTER"]
        names = self.wait_started(count)
        self.wait_ready(names)
        self._wait_detail(names, "asleep yes")
        return names

    def log_of(self, name: str) -> Path:
        """The log file; made when the first line is written."""
        from ljsv.paths import Places

        return Path(Places(str(self.scan), dict(os.environ), os.geteuid()).log_of(name)) / "current"

    def remove(self) -> None:
        super().remove()
        shutil.rmtree(self.bench.folder / ".local", ignore_errors=True)


class WithBwrap(Tree):
    """A service directory whose `run` executes bwrap around the program."""

    def write_files(self, directory: Path, program: str) -> None:
        (directory / "program").write_text(program)
        (directory / "program").chmod(0o755)
        words = " ".join(bwrap_arguments(name=directory.name, service_directory=str(self.scan / directory.name)))
        (directory / "run").write_text(f"#!/bin/sh\nexec {words} -- ./program\n")
        (directory / "run").chmod(0o755)

    def supervisor_pids(self, name: str) -> list[int]:
        """The supervisor, bwrap, and the bwrap that is pid 1 of the jail."""
        bwrap = self.run_pid(name)
        with open(f"/proc/{bwrap}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        return [parent, bwrap, *list_children(bwrap)]

    def service_pid(self, name: str) -> int:
        return find_leaf(self.run_pid(name))

    def run_pid(self, name: str) -> int:
        raise NotImplementedError


class Runit(WithBwrap):
    name = "runit"

    def argv(self) -> list[str]:
        return ["/usr/bin/runsvdir", str(self.scan)]

    def run_pid(self, name: str) -> int:
        return int((self.scan / name / "supervise/pid").read_text())


class S6(WithBwrap):
    name = "s6"
    stop_signal = signal.SIGTERM

    def argv(self) -> list[str]:
        return ["/usr/bin/s6-svscan", "-c", "1500", str(self.scan)]

    def run_pid(self, name: str) -> int:
        """From s6-supervise's status: two TAI64N stamps, then the pid, big-endian."""
        record = (self.scan / name / "supervise/status").read_bytes()
        return int.from_bytes(record[24:32], "big")

    def rescan(self) -> None:
        subprocess.run(["/usr/bin/s6-svscanctl", "-a", str(self.scan)], check=True)


# ---- the jail of the references


def bwrap_arguments(*, name: str = "jail", root: str = "", service_directory: str = "") -> list[str]:
    """bwrap with the namespaces and mounts that ljsv's plan has for the same jail; without `root` that of the host."""
    from ljsv.jail.facts import gather_facts
    from ljsv.jail.spec import DIRECTORY, HOST, JailSpec

    spec = JailSpec(name=name, base_kind=DIRECTORY if root else HOST, base_path=root or "/", argv=("true",), directory=service_directory)
    facts = gather_facts(spec)
    words = ["/usr/bin/bwrap", "--die-with-parent", "--uid", "0", "--gid", "0", "--hostname", name, "--clearenv"]
    words += [f"--unshare-{which}" for which in ("user", "pid", "ipc", "uts", "cgroup")]
    words += ["--setenv", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    if root:
        words += ["--ro-bind", root, "/"]
    for path, target in facts.host_links:
        words += ["--symlink", target, path]
    for path in facts.host_directories:
        words += ["--ro-bind", path, path]
    words += ["--dev", "/dev", "--tmpfs", "/dev/shm", "--proc", "/proc"]
    for proc_name, is_directory in facts.proc_masked:
        words += ["--tmpfs", f"/proc/{proc_name}"] if is_directory else ["--ro-bind", "/dev/null", f"/proc/{proc_name}"]
    words += ["--tmpfs", "/tmp", "--tmpfs", "/run"]
    if service_directory:
        words += ["--ro-bind", service_directory, "/run/service", "--chdir", "/run/service"]
    for etc_name, _ in facts.etc:
        words += ["--ro-bind", f"/etc/{etc_name}", f"/etc/{etc_name}"]
    return [*words, *([] if root else ["--remount-ro", "/"])]

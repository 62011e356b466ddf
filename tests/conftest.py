"""What all tests share: the two users, a tree of services of their own, and the search for leftovers.

As root every story runs twice: as root, and as an unprivileged user that has
no entry in passwd. Unprivileged, it runs once. A tree ends what it started by
pid, also when its test fails, and a leftover is a failure of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from binascii import crc32
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("ljsv", deadline=None)  # a timing is never asserted
hypothesis.settings.load_profile("ljsv")

PACKAGES = ("ljsv", "inotify_simple.py", "structlog", "daemon", "lockfile", "cattrs", "attr", "attrs", "typing_extensions.py", "dockerfile.abi3.so")
EXTRAS = ("yaml",)  # where they are installed
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
OTHER_UID = 61_234 + WORKER  # one for each worker: limits, keys and subordinate ids are counted by user
SUBORDINATE = 3_000_000 + WORKER * 65_536  # the first of the ids that `subordinate` gives
SLOW_S = 60.0


def pytest_configure(config: pytest.Config) -> None:
    """Started in the background of a script (SIGINT ignored) or by nohup: what the stories start shall not inherit that."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if config.getoption("--sleepy"):
        os.environ["LJSV_SLEEP_AFTER"] = "50ms"


_os_kill = os.kill


def _kill(pid: int, number: int) -> None:
    """os.kill, but for pid 0: that is everybody who runs the tests, and what a supervisor that is not there yet is called."""
    assert pid != 0, "a signal to pid 0: what it was meant for does not run"
    _os_kill(pid, number)


os.kill = _kill


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="random stories run for 10 minutes instead of seconds, and every moment is tried instead of a sample")
    parser.addoption("--sleepy", action="store_true", help="every supervisor sleeps as soon as it has been idle for 50 ms: the same stories hold")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stories in virtual machines first: they take longest, and the other workers do the rest meanwhile."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/vm/"))


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory with `ljsv` and `ljexec` that every user can read, wherever the checkout is."""
    root = Path(tempfile.mkdtemp(prefix="ljsv-programs."))
    root.chmod(0o755)
    venv = root / "venv"
    subprocess.run([sys._base_executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python3.*/site-packages")
    for name in (*PACKAGES, *(extra for extra in EXTRAS if find_spec(extra))):
        source = _find_package(name)
        if source.is_dir():
            shutil.copytree(source, site / name)
        else:
            shutil.copy(source, site / name)
    subprocess.run([str(venv / "bin/python"), "-I", "-m", "compileall", "-q", str(site)], check=True)
    for name in ("ljsv", "ljexec"):
        script = venv / "bin" / name
        script.write_text(f"#!{venv}/bin/python -I\nimport sys\nfrom ljsv.cli.entry import {name}\nsys.exit({name}())\n")
        script.chmod(0o755)
    subprocess.run(["chmod", "-R", "go+rX", str(root)], check=True)
    yield venv / "bin"
    shutil.rmtree(root)


def _find_package(name: str) -> Path:
    if name == "ljsv":
        return Path(__file__).parent.parent / "ljsv"
    for entry in sys.path:
        if (Path(entry) / name).exists():
            return Path(entry) / name
    pytest.exit(f"{name} is not installed: run the tests through tests/run")


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = SLOW_S) -> Any:
    """The condition's first true answer; a failure that names what was waited for."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Tree:
    """A scan directory `sv` with its user, environment and programs."""

    def __init__(self, root: Path, programs: Path, uid: int, *, has_runtime: bool) -> None:
        self.root = root
        self.programs = programs
        self.uid = uid
        self.sv = root / "sv"
        self.staging = root / "staging"
        self.home = root / "home"
        for path in (self.sv, self.staging, self.home):
            path.mkdir()
            os.chown(path, uid, uid)
        self.holder: subprocess.Popen[bytes] | None = None
        self.group: Path | None = None  # a cgroup in which every command begins
        self.env = {
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home), "SVDIR": str(self.sv), "LANG": "C.UTF-8",
        }
        if "LJSV_SLEEP_AFTER" in os.environ:
            self.env["LJSV_SLEEP_AFTER"] = os.environ["LJSV_SLEEP_AFTER"]
        if has_runtime and uid and "LJSV_TEST_PLAIN" not in os.environ:
            self.env["XDG_RUNTIME_DIR"] = str(self._make_runtime())

    def _make_runtime(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="ljsv-run.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        os.chown(path, self.uid, self.uid)
        self.runtime = path
        return path

    # ---- acting as the user

    def run(self, *argv: str, timeout_s: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command as the tree's user, in its root; output captured, exit code not checked."""
        options = {"stdin": subprocess.DEVNULL, "cwd": self.root} | options
        return subprocess.run(
            [*self._prefix(str(options["cwd"])), *argv], env=self.env | options.pop("env", {}), timeout=timeout_s,
            capture_output=True, text=True, errors="surrogateescape", check=False, **self._as_user(), **options,
        )

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid() == 0 and self.uid and not self.holder and not self.group:
            return {"user": self.uid, "group": self.uid, "extra_groups": []}
        return {}

    def _prefix(self, cwd: str) -> list[str]:
        """Into the holder's mount namespace, or into the cgroup, where there is one, and there to the tree's user."""
        if not self.holder and not self.group:
            return []
        become = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups"] if self.uid else []
        if self.group:
            return ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh", *become]
        assert self.holder
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "env", "-C", cwd, *become]

    def open_fuse(self) -> None:
        """Let the tree's user open /dev/fuse, as Debian has it: where the machine forbids it, in a mount namespace of the tree's own."""
        if not Path("/dev/fuse").exists():
            pytest.skip("this kernel has no FUSE: no /dev/fuse")
        if self.uid == 0 or Path("/dev/fuse").stat().st_mode & 0o006 == 0o006:
            return
        if os.geteuid():
            pytest.skip("/dev/fuse is not open to users, and only root can make one that is")
        node = self.root / "fuse"
        script = f"mknod -m 666 {node} c 10 229 && mount --bind {node} /dev/fuse && echo ready && exec sleep 3600"
        self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """A command in the background."""
        return subprocess.Popen(
            [*self._prefix(str(self.root)), *argv], cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, **self._as_user(), **options,
        )

    def ljsv(self, *argv: str, code: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """`ljsv ...`; its exit code has to be `code` (None: any)."""
        done = self.run("ljsv", *argv, **options)
        assert code is None or done.returncode == code, f"ljsv {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    # ---- service directories

    def write(self, name: str, run: str = "exec sleep 1000", rootfs: str | None = 'base = "host"', **files: str) -> Path:
        """A service directory in staging: run (a shell's lines), rootfs and other files; `down=""` and so on."""
        path = self.staging / name
        path.mkdir()
        (path / "run").write_text(run if run.startswith("#!") else f"#!/bin/sh\n{run}\n")
        (path / "run").chmod(0o755)
        if rootfs is not None:
            (path / "rootfs").write_text(rootfs + "\n")
        for file, text in files.items():
            target = path / file.replace("__", "/")
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
            if text.startswith("#!"):
                target.chmod(0o755)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        """Give a whole directory to the tree's user."""
        for item in (path, *path.rglob("*")):
            os.chown(item, self.uid, self.uid, follow_symlinks=False)

    def add(self, name: str, *args: Any, **files: Any) -> Path:
        """A service directory, renamed into the scan directory."""
        return Path(self.write(name, *args, **files).rename(self.sv / name))

    # ---- looking

    def supervise(self, name: str) -> Path:
        return self.sv / name / "supervise"

    def detail(self, name: str) -> dict[str, str]:
        """The pairs of `supervise/detail`."""
        try:
            text = (self.supervise(name) / "detail").read_text(errors="surrogateescape")
        except OSError:
            return {}
        return dict(line.split(" ", 1) for line in text.split("\n") if line)

    def state(self, name: str) -> str:
        return self.detail(name).get("state", "")

    def pid(self, name: str) -> int:
        """The service's pid, 0 for none."""
        try:
            return int((self.supervise(name) / "pid").read_text() or 0)
        except (OSError, ValueError):
            return 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """A signal to the service, which has to run: pid 0 would be all that runs the tests. Its pid."""
        pid = self.pid(name)
        assert pid > 1, f"{name} does not run: {self.detail(name)}"
        os.kill(pid, number)
        return pid

    def supervisor_pid(self, name: str) -> int:
        return int(self.detail(name).get("supervisor", "0").split()[0].replace("-", "0"))

    def wait_state(self, name: str, *states: str, timeout_s: float = SLOW_S) -> dict[str, str]:
        """Until the service is in one of the states; its detail."""
        found: dict[str, str] = {}

        def is_reached() -> bool:
            found.clear()
            found.update(self.detail(name))
            return found.get("state") in states

        try:
            wait_for(is_reached, f"{name} to be {' or '.join(states)}", timeout_s)
        except pytest.fail.Exception:
            pytest.fail(f"{name} is not {' or '.join(states)}: {self.detail(name)}\n{self.events()}")
        return found

    def events(self) -> str:
        """The end of the journal."""
        return self.run("ljsv", "events", "-n", "40").stdout

    def log(self, name: str) -> str:
        """The service's log without its time stamps."""
        path = self.detail(name).get("log", "")
        lines = _read_quietly(Path(path or "/nothing")).decode().splitlines()
        return "\n".join(line.partition("Z ")[2] for line in lines)

    def processes(self) -> dict[int, str]:
        """All living processes that belong to this tree: by their environment, arguments or open directories."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + b"\0" + _read_quietly(entry / "environ")
                links = b" ".join(os.readlink(link).encode() for link in _list_quietly(entry / "fd"))
                ours = (str(self.root).encode(), f"sv-{self.scan_hash()}".encode())
                if any(mark in text + links for mark in ours) and is_alive(int(entry.name)):
                    found[int(entry.name)] = text[:200].decode(errors="replace").replace("\0", " ")
        return found

    # ---- the end

    def close(self) -> list[str]:
        """End everything; what had to be ended by force, or is left."""
        self.run("ljsv", "exit", "--all", "-w", "30")
        problems = []
        if self.holder:
            self.holder.kill()
            self.holder.communicate()
            self.holder = None
        left = {pid: text for pid, text in self.processes().items() if text.strip()}
        time.sleep(0.1 if left else 0)
        for pid, text in left.items():
            if is_alive(pid):
                problems.append(f"process {pid} was left: {text}")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with open("/proc/self/mountinfo") as file:
            problems += [f"mount was left: {line}" for line in file if str(self.root) in line]
        return problems

    def remove(self) -> None:
        for name in ("state", "log"):
            with contextlib.suppress(OSError):
                shutil.rmtree(self.root / name)
        if os.geteuid() == 0 and not self.uid:
            for base in ("/run/ljsv", "/var/log/ljsv", "/var/lib/ljsv"):
                for svdir in {self.sv, *(path for path in self.root.iterdir() if path.is_dir())}:  # a test may have renamed it
                    shutil.rmtree(f"{base}/{svdir.name}-{scan_hash(svdir)}", ignore_errors=True)
        if hasattr(self, "runtime"):
            shutil.rmtree(self.runtime)
        shutil.rmtree(self.root)

    def scan_hash(self) -> str:
        return scan_hash(self.sv)


def scan_hash(svdir: Path) -> str:
    """What tells a scan directory from others of its name."""
    return f"{crc32(os.fsencode(svdir.resolve())):08x}"


def _read_quietly(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _list_quietly(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def find_executed(command: str) -> list[int]:
    """The pids of what was executed with this command line, wherever."""
    line = command.replace(" ", "\0").encode() + b"\0"
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _read_quietly(path) == line]


def users() -> list[Any]:
    """(uid, whether it has a runtime directory)."""
    if os.geteuid():
        return [pytest.param((os.geteuid(), True), id="unprivileged")]
    return [pytest.param((0, True), id="root"), pytest.param((OTHER_UID, True), id="unprivileged")]


@pytest.fixture(params=users())
def tree(request: pytest.FixtureRequest, programs: Path) -> Iterator[Tree]:
    """A tree of the user's own; no scanner runs yet."""
    for tree in make_tree(programs, *request.param):
        if request.node.get_closest_marker("awake"):
            tree.env.pop("LJSV_SLEEP_AFTER", None)
        yield tree


@pytest.fixture
def plain_tree(programs: Path) -> Iterator[Tree]:
    """A tree of an unprivileged user without a runtime directory: `supervise/` is a plain directory."""
    yield from make_tree(programs, OTHER_UID if os.geteuid() == 0 else os.geteuid(), has_runtime=False)


def make_tree(programs: Path, uid: int, has_runtime: bool) -> Iterator[Tree]:  # noqa: FBT001
    root = Path(tempfile.mkdtemp(prefix="ljsv-test."))
    root.chmod(0o755)
    tree = Tree(root, programs, uid, has_runtime=has_runtime)
    os.chown(root, uid, uid)
    try:
        yield tree
    finally:
        problems = tree.close()
        tree.remove()
    assert not problems, "\n".join(problems)


@pytest.fixture
def scanning(tree: Tree) -> Tree:
    """A tree whose scanner runs in the background."""
    tree.ljsv("scan", "--daemon")
    return tree


@pytest.fixture
def subordinate(tree: Tree) -> Iterator[None]:
    """A name and subordinate ids for the tree's user, for as long as the test runs."""
    if os.geteuid() or not tree.uid:
        pytest.skip("subordinate ids are an unprivileged user's, and given by root: needs both")
    need("newuidmap")
    ids = f"{tree.uid}:{SUBORDINATE}:65536\n"
    lines = {"passwd": f"ljsv-test{WORKER}:x:{tree.uid}:{tree.uid}::/:/bin/sh\n", "subuid": ids, "subgid": ids}
    for name, line in lines.items():
        _edit(Path("/etc") / name, lambda text, line=line: text + line)
    yield
    for name, line in lines.items():
        _edit(Path("/etc") / name, lambda text, line=line: text.replace(line, ""))


def _edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a file of /etc, one worker at a time, and what others write meanwhile is kept."""
    with open("/etc/.pwd.lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        text = change(path.read_text() if path.exists() else "")
        path.write_text(text)


def need(*names: str) -> None:
    """Skip the test where one of these programs is missing; the name of the Debian package is the program's."""
    for name in names:
        if not shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"{name} is not installed")

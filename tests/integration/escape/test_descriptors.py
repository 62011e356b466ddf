"""Descriptors of the host: none is inherited, and those that the builder has open lead nowhere (CVE-2019-5736, CVE-2024-21626)."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.escape.jail import Jail, assert_refused, succeeded
from tests.integration.escape.test_kernel import PYTHON_BINDS
from tests.integration.roots import small_root

UP = "../../../../../../../.."
FDS = range(3, 40)


@pytest.fixture
def tool(tree: Tree) -> Iterator[Path]:
    """A program of the user's own on the host, which no jail has been given; static, and away from the places that a builder covers."""
    folder = Path(tempfile.mkdtemp(prefix="ljsv-tool.", dir="/var/tmp"))
    folder.chmod(0o755)
    shutil.copy("/bin/busybox", folder / "busybox")
    os.chown(folder, tree.uid, tree.uid)
    os.chown(folder / "busybox", tree.uid, tree.uid)
    yield folder / "busybox"
    shutil.rmtree(folder)


def test_no_descriptor_of_the_caller_is_inherited(jail: Jail) -> None:
    """A directory, a secret file and a socket that the caller has left open: 0, 1 and 2 are all there is; outside they are seen."""
    secret = jail.tree.root / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o644)
    one, other = socket.socketpair()
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    file_fd = os.open(secret, os.O_RDONLY)
    try:
        passed = (directory_fd, file_fd, one.fileno())
        assert jail.attack("descriptors", "list", pass_fds=passed) == {"0": "open", "1": "open", "2": "open"}
        assert len(jail.outside("descriptors", "list", pass_fds=passed)) == 6
    finally:
        for fd in (directory_fd, file_fd):
            os.close(fd)
        one.close()
        other.close()


def test_program_named_through_the_builders_descriptors(jail: Jail, tool: Path) -> None:
    """CVE-2024-21626, its third way: `/proc/self/fd/N/../..` in the program's own path, for every N, never runs a program of the host."""
    root = small_root(jail.tree)
    escaped = {}
    assert_runs(jail, root)
    for fd in FDS:
        done = jail.tree.run("ljexec", "--seccomp", jail.seccomp, "--root", str(root), "--", f"/proc/self/fd/{fd}/{UP}{tool}", "echo", "escaped")
        if done.stdout:
            escaped[fd] = done.stdout
    assert not escaped


def test_program_named_through_a_descriptor_of_the_caller(jail: Jail, tool: Path) -> None:
    """The same with a directory that the caller has left open (an editor's, a build tool's): it is closed by exec, and must not lead its path."""
    root = small_root(jail.tree)
    (root / "bin/program").symlink_to(f"/proc/self/fd/50/{UP}{tool}")
    (root / "bin\f").mkdir()
    (root / "bin/script").write_text(f"#!/bin\f/../proc/self/fd/50/{UP}{tool} sh\necho escaped\n")
    (root / "bin/script").chmod(0o755)
    assert_runs(jail, root)
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(directory_fd, 50, inheritable=True)
    try:
        command = ("ljexec", "--seccomp", jail.seccomp, "--root", str(root), "--")
        for program in (f"/proc/self/fd/50/{UP}{tool}", "program", "script"):
            words = (program, "echo", "escaped") if program.startswith("/") else (program,)
            done = jail.tree.run(*command, *words, pass_fds=(50,))
            assert done.returncode in {125, 126, 127}, f"{program} ran on the host's side: {done.stdout}{done.stderr}"
    finally:
        os.close(50)
        os.close(directory_fd)


OVERWRITE = """#!/bin/sh
exec 9< /proc/self/exe
exec /own/sh -c '/bin/busybox readlink /proc/self/fd/9; echo overwritten > /proc/self/fd/9 && echo WRITTEN; echo END; exec /bin/busybox sleep 1000'
"""


@pytest.mark.parametrize("way", ["symlink", "script"])
def test_interpreter_of_a_service_through_its_supervisors_descriptors(scanning: Tree, tool: Path, way: str) -> None:
    """A root directory whose /bin/sh is `/proc/self/fd/N/..` into the host, for every directory that the supervisor has open: the program there is neither run nor overwritten."""
    before = tool.read_bytes()
    root = small_root(scanning)
    (root / "own").mkdir()
    (root / "bin\f").mkdir()
    (root / "own/sh").symlink_to("../bin/busybox")
    scanning.add("web", "#!/bin/sh\necho begun\nexec sleep 1000", f'base = "{root}"', policy='[restart]\nwhen = "never"\n')
    wait_for(lambda: scanning.log("web") == "begun", "the shell to have read its script")
    supervisor = Path(f"/proc/{scanning.supervisor_pid('web')}/fd")
    numbers = [int(link.name) for link in supervisor.iterdir() if link.is_dir()]
    assert numbers, "the attack has nothing to go by: the supervisor has no directory open"
    attack = scanning.sv / "web/run.new"  # another file: the shell that runs still reads the old one
    attack.write_text(OVERWRITE)
    attack.chmod(0o755)
    scanning.own(attack)
    attack.rename(scanning.sv / "web/run")
    for number in numbers:
        (root / "bin/sh").unlink()
        if way == "symlink":
            (root / "bin/sh").symlink_to(f"/proc/self/fd/{number}/{UP}{tool}")
        else:
            (root / "bin/sh").write_text(f"#!/bin\f/../proc/self/fd/{number}/{UP}{tool} sh\n" + OVERWRITE)
            (root / "bin/sh").chmod(0o755)
        scanning.ljsv("restart", "web", code=None)
        wait_for(lambda: scanning.state("web") in {"down", "failed", "backoff"} or "END" in scanning.log("web"), f"an end: {scanning.detail('web')}")
    assert tool.read_bytes() == before, f"the jail has overwritten a program of the host: {scanning.log('web')}"
    assert scanning.log("web") == "begun", f"a program of the host ran in the jail: {scanning.log('web')}"


def assert_runs(jail: Jail, root: Path, *options: str) -> None:
    """A plain program in the same jail does run: what fails beside it fails for its own reason."""
    done = jail.tree.run("ljexec", "--seccomp", jail.seccomp, "--root", str(root), *options, "--", "echo", "runs")
    assert done.stdout == "runs\n", done.stderr


@pytest.mark.parametrize("way", ["option", "symlink"])
def test_working_directory_through_a_descriptor(jail: Jail, way: str) -> None:
    """CVE-2024-21626 as published: `--workdir /proc/self/fd/N`, or a directory of the root that is a symlink to it, for every N."""
    marker = jail.tree.root / "marker"
    marker.write_text("host\n")
    root = small_root(jail.tree)
    directory_fd = os.open(jail.tree.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for fd in [*range(3, 20), directory_fd]:
            workdir = f"/proc/self/fd/{fd}"
            if way == "symlink":
                (root / "work").unlink(missing_ok=True)
                (root / "work").symlink_to(workdir)
                workdir = "/work"
            command = ("ljexec", "--seccomp", jail.seccomp, "--root", str(root), "--workdir", workdir, "--", "sh", "-c", "pwd -P; ls; ls ..; cat marker ../marker")
            done = jail.tree.run(*command, pass_fds=(directory_fd,))
            assert done.returncode == 125, f"{workdir}: {done.stdout}{done.stderr}"
            assert "host" not in done.stdout and "working directory" in done.stderr
    finally:
        os.close(directory_fd)


def test_working_directory_above_the_root(jail: Jail) -> None:
    """`..` in --workdir and symlinks of the root to `/..`: they end in the jail's root."""
    marker = jail.tree.root / "marker"
    marker.write_text("host\n")
    root = small_root(jail.tree)
    (root / "work").symlink_to("../../../../../..")
    for workdir in ("/work", "/../../..", "/tmp/../../.."):
        results = jail.attack("descriptors", "place", str(marker), options=("--root", str(root), *PYTHON_BINDS, "--workdir", workdir))
        assert results.pop("cwd") == "/"
        assert_refused(results, "ENOENT")


def test_file_given_for_reading_cannot_be_written(jail: Jail) -> None:
    """`ljexec < file`: it is read, and not written through /proc/self/fd/0, nor is its mode changed."""
    given = jail.tree.root / "given"
    given.write_text("content\n")
    if os.geteuid():
        pytest.skip("the file would be the caller's, who may write it (docs/security.md): needs root to give it to somebody else")
    with open(given) as file:
        results = jail.attack("descriptors", "reopen", "0", stdin=file)
    assert "reopen for reading" in succeeded(results)
    results.pop("reopen for reading")
    assert given.read_text() == "content\n", results
    assert given.stat().st_mode & 0o7777 == 0o644
    assert_refused(results, "EACCES", "EPERM", "EROFS", "EBADF", "EINVAL")


def test_directory_as_standard_input(jail: Jail) -> None:
    """`ljexec < directory` is a way out: refused, or of no use."""
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        bind = ("--bind", f"{jail.attacks}:/attacks")
        done = jail.tree.run("ljexec", "--seccomp", jail.seccomp, *bind, "--", "/usr/bin/python3", "/attacks/descriptors.py", "walk", "0", stdin=directory_fd)
        assert "OK" not in done.stdout, done.stdout
        assert jail.attack("descriptors", "list")
    finally:
        os.close(directory_fd)


# ---- the program that builds the jail


@pytest.fixture
def interpreter(tree: Tree) -> Iterator[Path]:
    """`ljexec` run by a Python that belongs to the user, as from a home directory."""
    folder = Path(tempfile.mkdtemp(prefix="ljsv-python.", dir="/var/tmp"))
    folder.chmod(0o755)
    (source,) = tree.programs.parent.glob("lib/python3.*/site-packages")
    site = folder / "venv" / source.relative_to(tree.programs.parent)
    for path in (folder / "venv/bin", site):
        path.mkdir(parents=True)
    shutil.copy(os.path.realpath(sys._base_executable), folder / "venv/bin/python")
    shutil.copy(tree.programs.parent / "pyvenv.cfg", folder / "venv/pyvenv.cfg")
    (site / "programs.pth").write_text(f"{source}\n")
    (folder / "venv/bin/ljexec").write_text(f"#!{folder}/venv/bin/python\nimport sys\nfrom ljsv.cli.ljexec import main\nsys.exit(main())\n")
    (folder / "venv/bin/ljexec").chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, tree.uid, tree.uid, follow_symlinks=False)
    yield folder / "venv/bin"
    shutil.rmtree(folder)


WAYS = {
    "script": "#!/proc/self/exe\n",
    "script with arguments": "#! \t/proc/self/exe -I\n",
    "script that leads there": "#!/bin/link\n",
    "script of a script": "#!/bin/script\n",
    "script with a form feed": "#!/bin\f/../proc/self/exe\n",  # for the kernel no end of a word
    "script with a carriage return": "#!/bin\r/../proc/self/exe\n",
    "script that cannot be read": "#!/proc/self/exe\n",
    "symlink": "",
    "option": "",
}


@pytest.mark.parametrize("way", list(WAYS))
def test_interpreter_of_ljexec_cannot_be_changed(open_jail: Jail, interpreter: Path, way: str) -> None:
    """CVE-2019-5736: a program that is `#!/proc/self/exe`, a symlink to it, or /proc/self/exe itself runs the host's interpreter; it must not be able to change it."""
    jail = open_jail
    python = (interpreter / "python").resolve()
    before = python.read_bytes(), python.stat().st_mode, python.stat().st_mtime_ns
    root = small_root(jail.tree)
    for name in ("bin\f", "bin\r"):
        (root / name).mkdir()
    (root / "bin/link").symlink_to("/proc/self/exe")
    (root / "bin/script").write_text("#!/proc/self/exe\n")
    (root / "bin/script").chmod(0o755)
    if way == "symlink":
        (root / "bin/program").symlink_to("/proc/self/exe")
    elif way != "option":
        (root / "bin/program").write_text(WAYS[way] + CHANGE)
        (root / "bin/program").chmod(0o755)
    jail.tree.own(root)
    options: tuple[str, ...] = PYTHON_BINDS
    if way == "script that cannot be read":
        (root / "bin/program").chmod(0o111)
        options += ("--user", "1000")
    words = {"symlink": ("/bin/program", "-I", "-c", CHANGE), "option": ("/proc/self/exe", "-I", "-c", CHANGE)}.get(way, ("/bin/program",))
    assert_runs(jail, root, *options)
    done = jail.tree.run(str(interpreter / "ljexec"), "--seccomp", jail.seccomp, "--root", str(root), *options, "--", *words)
    after = python.read_bytes(), python.stat().st_mode, python.stat().st_mtime_ns
    assert after == before, f"{done.stdout}{done.stderr}"
    assert done.returncode in {125, 126, 127}, f"the host's interpreter ran: {done.stdout}{done.stderr}"


CHANGE = """
import os
def attempt(name, action):
    try:
        print(name, "OK", action(), flush=True)
    except OSError as error:
        print(name, error, flush=True)
print("runs", os.readlink("/proc/self/exe"), flush=True)
attempt("write", lambda: os.open("/proc/self/exe", os.O_WRONLY))
attempt("chmod", lambda: os.chmod("/proc/self/exe", 0o4755))
attempt("touch", lambda: os.utime("/proc/self/exe", (0, 0)))
attempt("attribute", lambda: os.setxattr("/proc/self/exe", "user.attacked", b"1"))
"""

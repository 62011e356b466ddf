"""`ljsv enter` into a jail that lies in wait: who enters cannot be had before it has become the jail's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.escape.jail import PYTHON, Jail, results_of
from tests.integration.escape.test_descriptors import UP, tool
from tests.integration.roots import small_root

assert tool


def start(tree: Tree, seccomp: str, run: str, rootfs: str = "") -> Jail:
    jail = Jail(tree, seccomp)
    tree.add("web", run, f'base = "host"\n[[bind]]\nfrom = "{jail.attacks}"\nto = "/attacks"\n{rootfs}\n[security]\nseccomp = "{seccomp}"\ncapabilities = ["SYS_PTRACE"]')
    return jail


@pytest.mark.parametrize("seccomp", ["default", "off"])
def test_who_enters_cannot_be_caught(scanning: Tree, seccomp: str) -> None:
    """Its root, environment, program, descriptors and namespaces are closed until it execs; then they are the jail's own. Before exec ptrace is refused too."""
    marker = scanning.root / "marker"
    marker.write_text("host\n")
    start(scanning, seccomp, f"exec {PYTHON} -u /attacks/watch.py {marker} 1.5 {seccomp}")
    wait_for(lambda: "watching" in scanning.log("web"), f"the attack: {scanning.detail('web')} {scanning.log('web')}")
    times = 0
    while "END" not in scanning.log("web"):
        done = scanning.run("ljsv", "enter", "web", "sleep", "0.05", env={"LJSV_TEST_SECRET": "LJSV_TEST_SECRET"})
        assert done.returncode in {0, 137}, done.stderr
        times += 1
    results = results_of(scanning.log("web"))
    assert times >= 1 and int(results["looks"]) > 100
    assert "entered" in results, "nobody was ever seen: the attack was never made"
    got = {name: value for name, value in results.items() if name.startswith("GOT")}
    if seccomp == "off":
        got.pop("GOT pidfd_getfd", None)  # after exec the process is the jail's own, and so are its descriptors
        assert results.get("traced", "").endswith(("sleep", "busybox", "left")), results
    assert not got


def test_descriptors_of_who_enters(scanning: Tree) -> None:
    """What the caller of `ljsv enter` has left open does not come along."""
    start(scanning, "off", "exec sleep 1000")
    scanning.wait_state("web", "ready")
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = scanning.run("ljsv", "enter", "web", PYTHON, "/attacks/descriptors.py", "list", pass_fds=(directory_fd,))
        assert results_of(done.stdout) == {"0": "open", "1": "open", "2": "open"}, done.stderr
    finally:
        os.close(directory_fd)


def test_program_through_a_descriptor_of_who_enters(scanning: Tree, tool: Path) -> None:
    """A jail whose programs are symlinks to `/proc/self/fd/N/..`: a directory that the caller of `ljsv enter` has left open does not lead them to the host."""
    root = small_root(scanning)
    scanning.add("web", "#!/bin/sh\nexec sleep 1000", f'base = "{root}"')
    scanning.wait_state("web", "ready")
    (root / "bin/program").symlink_to(f"/proc/self/fd/50/{UP}{tool}")
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(directory_fd, 50, inheritable=True)
    try:
        assert scanning.run("ljsv", "enter", "web", "/bin/busybox", "echo", "runs").stdout == "runs\n"
        for program in ("program", f"/proc/self/fd/50/{UP}{tool}"):
            done = scanning.run("ljsv", "enter", "web", program, "echo", "escaped", pass_fds=(50,))
            assert done.returncode in {125, 126, 127}, f"{program} ran on the host's side: {done.stdout}{done.stderr}"
    finally:
        os.close(50)
        os.close(directory_fd)


def swap(scanning: Tree, target: str) -> None:
    """A service that exchanges /tmp/good/echo, which does nothing, and /tmp/bad/echo, a symlink to `target`, all the time."""
    jail = Jail(scanning, "default")
    root = small_root(scanning)
    binds = "".join(f'[[bind]]\nfrom = "{source}"\nto = "{to}"\n' for source, to in [(jail.attacks, "/attacks"), *((f"/{name}", f"/{name}") for name in ("usr", "lib", "lib64") if os.path.isdir(f"/{name}"))])
    (root / "tmp/x").mkdir()
    run = f"#!/bin/sh\ncd /tmp; mkdir good bad; echo '#!/bin/busybox true' > good/echo; chmod 755 good/echo; ln -s {target} bad/echo\nexec {PYTHON} -u /attacks/swap.py /tmp/good/echo /tmp/bad/echo"
    scanning.add("web", run, f'base = "{root}"\n{binds}')
    wait_for(lambda: "swapping" in scanning.log("web"), f"the attack: {scanning.detail('web')} {scanning.log('web')}")


def test_interpreter_of_who_enters(scanning: Tree) -> None:
    """The Python that runs ljsv is not executed either, by the name of a program that was another when it was looked at (CVE-2019-5736)."""
    swap(scanning, "/proc/self/exe")
    for which in ("good", "bad"):
        for _ in range(25):
            done = scanning.run("ljsv", "enter", "web", f"/tmp/{which}/echo", "-c", "print('escaped')")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "") or (done.returncode == 126 and "out of the jail" in done.stderr), f"the host's Python ran: {done}"


def test_program_that_is_exchanged_while_it_is_looked_at(scanning: Tree, tool: Path) -> None:
    """The same as through a descriptor, by a jail that swaps a harmless program for a symlink to the host a hundred thousand times a second."""
    swap(scanning, f"/proc/self/fd/50/{UP}{tool}")
    directory_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(directory_fd, 50, inheritable=True)
    try:
        said = {scanning.run("ljsv", "enter", "web", "/tmp/good/echo", "escaped", pass_fds=(50,)).stdout for _ in range(12)}
        ran = {scanning.run("ljsv", "enter", "web", "/tmp/bad/echo", "escaped", pass_fds=(50,)).stdout for _ in range(12)}
    finally:
        os.close(50)
        os.close(directory_fd)
    assert said | ran == {""}, f"it ran on the host's side: {said | ran}"


def test_file_given_to_who_enters(scanning: Tree) -> None:
    """`ljsv enter web command < file`: neither that command nor another process of the jail writes the file through /proc/PID/fd/0."""
    start(scanning, "default", "exec sleep 1000")
    scanning.wait_state("web", "ready")
    given = scanning.root / "given"
    given.write_text("content\n")
    if os.geteuid():
        pytest.skip("the file would be the caller's, who may write it (docs/security.md): needs root to give it to somebody else")
    with open(given) as file:
        done = scanning.run("ljsv", "enter", "web", PYTHON, "/attacks/descriptors.py", "reopen", "0", stdin=file)
    assert given.read_text() == "content\n", results_of(done.stdout)
    assert given.stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("seccomp", ["default", "off"])
def test_terminal_multiplexer_that_was_replaced(scanning: Tree, seccomp: str) -> None:
    """A jail that has put something else in the places of /dev: who enters is not led by it."""
    marker = scanning.root / "marker"
    marker.write_text("host\n")
    run = "rm -f /dev/ptmx /dev/fd /dev/stdin; ln -s /proc/1/root/etc /dev/fd; ln -s /run/service /dev/ptmx; mkdir -p /tmp/x; ln -s /proc/self/exe /tmp/x/sh\necho END; exec sleep 1000"
    start(scanning, seccomp, run)
    wait_for(lambda: "END" in scanning.log("web"), f"its doing: {scanning.detail('web')}")
    done = scanning.run("ljsv", "enter", "web", "/bin/sh", "-c", f"cat {marker}; echo entered")
    assert done.stdout == "entered\n"

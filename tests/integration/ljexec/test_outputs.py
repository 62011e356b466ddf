"""Where the output of `ljexec` itself cannot be taken: it says so, and never waits for ever."""

from __future__ import annotations

import fcntl
import os

import pytest

from tests.conftest import Tree


@pytest.mark.parametrize("options", ["--help", "--version", "--explain -- true"])
def test_a_full_disk_is_named(tree: Tree, options: str) -> None:
    """Exit 111 and one message; a reader who has had enough is no failure."""
    done = tree.run("sh", "-c", f"ljexec {options} > /dev/full")
    assert done.returncode == 111
    assert done.stderr.startswith("ljexec: cannot write: standard output: No space left on device\nhint: ")
    assert done.stderr.count("\n") == 2
    done = tree.run("bash", "-c", f"ljexec {options} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_status_that_nobody_reads_is_given_up(tree: Tree) -> None:
    """A full pipe: the program runs and ends as it would, and the reason is told."""
    r, w = os.pipe()
    os.set_blocking(w, False)
    size = fcntl.fcntl(w, fcntl.F_GETPIPE_SZ)
    assert os.write(w, bytes(size)) == size
    os.set_blocking(w, True)
    done = tree.run("ljexec", "--json-status-fd", str(w), "--", "sh", "-c", "echo ran; exit 3", pass_fds=(w,))
    assert (done.returncode, done.stdout) == (3, "ran\n")
    assert f"ljexec: cannot write the status: descriptor {w}: it is full, and nobody has read it for 1 s\nhint: " in done.stderr
    assert len(os.read(r, 2 * size)) == size
    os.close(r)
    done = tree.run("ljexec", "--json-status-fd", str(w), "--", "sh", "-c", "exit 3", pass_fds=(w,))
    assert (done.returncode, done.stderr) == (3, "")
    os.close(w)


def test_a_status_on_a_full_disk_is_named(tree: Tree) -> None:
    """The program's own code stays."""
    done = tree.run("sh", "-c", "exec ljexec --json-status-fd 3 -- sh -c 'exit 3' 3> /dev/full")
    assert done.returncode == 3
    assert "ljexec: cannot write the status: descriptor 3: No space left on device\n" in done.stderr

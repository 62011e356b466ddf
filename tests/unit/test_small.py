"""Options, names, settling, paths."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv import status
from ljsv.cli import options, show
from ljsv.cli.standard_files import open_standard_files
from ljsv.errors import Fault, quote
from ljsv.linux import descriptors, process
from ljsv.paths import Places, find_svdir, is_service_name, trust_fault
from ljsv.supervise.directory import SuperviseDirectory
from ljsv.supervise.loop import Loop
from ljsv.supervise.settle import BELOW_QUIET_S, INCOMPLETE_QUIET_S, TOP_QUIET_S, Settling
from tests.conftest import wait_for

KNOWN = {"-n": "LINES", "-f": options.FLAG, "--svdir": "DIR", "--json": options.FLAG}


@pytest.mark.parametrize(
    ("words", "values", "operands"),
    [
        (["a", "-f", "b"], {"-f": ""}, ["a", "b"]),
        (["-n5", "a"], {"-n": "5"}, ["a"]),
        (["-n", "5", "--svdir=x", "a"], {"-n": "5", "--svdir": "x"}, ["a"]),
        (["--", "-f"], {}, ["-f"]),
        (["-"], {}, ["-"]),
    ],
)
def test_options_before_between_and_after(words: list[str], values: dict[str, str], operands: list[str]) -> None:
    """As people write them."""
    parsed, rest = options.parse(words, KNOWN)
    assert (parsed.values, parsed.operands, rest) == (values, operands, [])


@pytest.mark.parametrize("words", [["-x"], ["--svdir"], ["--svdir", "-n", "5"], ["--svdir", "--", "a"], ["--json=1"], ["-n"]])
def test_options_that_are_wrong(words: list[str]) -> None:
    """Usage, with a hint."""
    with pytest.raises(Fault) as caught:
        options.parse(words, KNOWN)
    assert caught.value.exit_code == 100


def test_numbers_are_checked() -> None:
    """Not a traceback."""
    parsed, _ = options.parse(["-n", "many"], KNOWN)
    with pytest.raises(Fault, match="-n wants a number"):
        parsed.number("-n", 1)


@given(st.text(max_size=80))
def test_names_of_services(name: str) -> None:
    """Never a path, never hidden, never unprintable."""
    if is_service_name(name):
        assert name and name[0] != "." and "/" not in name and name.isprintable() and len(name.encode()) <= 64


def test_settling_waits_for_quiet() -> None:
    """200 ms at the top, 2 s below, 10 s where something is missing."""
    assert Settling(5.0, 5.0, is_complete=True).due() == 5.0 + TOP_QUIET_S
    assert Settling(5.0, 6.0, has_tree=True, is_complete=True).due() == 6.0 + BELOW_QUIET_S
    assert Settling(5.0, 5.0).due() == 5.0 + INCOMPLETE_QUIET_S


def test_places_of_root_and_others(tmp_path: Path) -> None:
    """The table of the design."""
    sv = tmp_path / "sv"
    sv.mkdir()
    root = Places(str(sv), {}, 0)
    assert root.runtime and root.runtime.startswith("/run/ljsv/sv-")
    assert root.log_of("web").startswith("/var/log/ljsv/sv-") and root.log_of("web").endswith("/web")
    user = Places(str(sv), {"HOME": "/home/u", "XDG_RUNTIME_DIR": str(tmp_path)}, 1000)
    assert user.runtime_of("web") == f"{tmp_path}/ljsv/{root.runtime.rpartition('/')[2]}/web"
    assert user.logs.startswith("/home/u/.local/state/ljsv/log/sv-")
    plain = Places(str(sv), {"HOME": "/home/u"}, 1000)
    assert plain.runtime_of("web") is None and plain.scanner == f"{sv}/.ljsv"


def test_scan_directory_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--svdir, $SVDIR, ./sv, the configuration's; each must be there."""
    for name in ("a", "b", "home/.config/ljsv/sv"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path / "home"), "SVDIR": str(tmp_path / "b")}
    uid = os.geteuid() or 1
    assert find_svdir(str(tmp_path / "a"), env, uid) == (str(tmp_path / "a"), "--svdir")
    assert find_svdir("", env, uid)[1] == "$SVDIR"
    assert find_svdir("", {"HOME": env["HOME"]}, uid) == (f"{env['HOME']}/.config/ljsv/sv", "")
    (tmp_path / "sv").mkdir(mode=0o755)
    assert find_svdir("", {"HOME": env["HOME"]}, uid) == ("sv", "./sv")
    (tmp_path / "sv").chmod(0o777)
    assert trust_fault("sv", uid, strict=True)
    with pytest.raises(Fault, match="No such file"):
        find_svdir("/no/such", {}, uid)


@pytest.mark.parametrize(("seconds", "text"), [(9.9, "9s"), (252, "4m12s"), (11520, "3h12m"), (187200, "2d4h"), (-1, "0s")])
def test_ages(seconds: float, text: str) -> None:
    """Two units at most."""
    assert show.age(seconds) == text


def test_event_of_a_closed_descriptor_is_not_given_to_the_next_one_of_its_number() -> None:
    """Two are ready in one turn; the first one's callback closes the second, and watches a new one of that number."""
    loop = Loop()
    first_r, first_w = os.pipe()
    second_r, second_w = os.pipe()
    told: list[str] = []

    def replace_second() -> None:
        told.append("first")
        os.read(first_r, 1)
        loop.forget(second_r)
        os.close(second_r)
        idle_r, idle_w = os.pipe()
        assert second_r in {idle_r, idle_w}
        loop.watch(second_r, lambda: told.append("another"))
        loop.set_timer("end", 0.0, loop.stop)

    loop.watch(first_r, replace_second)
    loop.watch(second_r, lambda: told.append("second"))
    os.write(first_w, b"x")
    os.write(second_w, b"x")
    loop.run(lambda: None)
    assert "another" not in told


def test_what_was_sent_before_the_end_is_received(tmp_path: Path) -> None:
    """Also when the other end closed without having read what was sent to it; then the end, with and without waiting."""
    ours, theirs = descriptors.socketpair()
    descriptors.send(ours, b"never read")
    with open(tmp_path / "file", "w") as file:
        descriptors.send(theirs, b"last words", file.fileno())
    os.close(theirs)
    message, fd = descriptors.receive(ours, wait=False)
    assert message == b"last words"
    assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "file")
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert descriptors.receive(ours, wait=False) == (b"", -1)
    assert descriptors.is_closed(ours)
    with pytest.raises(BrokenPipeError):
        descriptors.send(ours, b"to nobody")
    os.close(ours)


def test_file_that_does_not_fit_is_not_put_in_place(tmp_path: Path) -> None:
    """A write that takes only a part is no success: what was there stays whole."""
    status.write_by_rename(str(tmp_path), "detail", b"whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            status.write_by_rename(str(tmp_path), "detail", b"x" * 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "detail").read_bytes() == b"whole"


def test_supervise_directory_is_made_again_when_only_a_part_was_made(tmp_path: Path) -> None:
    """The lock that was taken is still ours, and no descriptor is closed before there is a new one."""
    dir_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    directory = SuperviseDirectory(str(tmp_path), dir_fd, None, "1:2:3")
    directory.make()
    control = tmp_path / "supervise" / "control"
    control.unlink()
    control.symlink_to("nowhere")
    assert directory.is_lost()
    with pytest.raises(Fault, match="cannot make the supervise directory"):
        directory.make()
    os.fstat(directory.control_fd)
    control.unlink()
    directory.make()
    assert control.is_fifo()
    assert not directory.is_lost()
    another = SuperviseDirectory(str(tmp_path), dir_fd, None, "1:2:3")
    with pytest.raises(Fault, match="another supervisor runs"):
        another.make()
    directory.close()
    os.close(dir_fd)


def test_standard_files_that_were_closed_are_handed_on() -> None:
    """What is executed has /dev/null there as well, or its first file would be its standard output."""
    pid = os.fork()
    if pid == 0:
        for fd in (0, 1, 2):
            os.close(fd)
        open_standard_files()
        os._exit(not all(os.get_inheritable(fd) and os.path.samestat(os.fstat(fd), os.stat(os.devnull)) for fd in (0, 1, 2)))
    assert os.waitpid(pid, 0)[1] == 0


def test_a_process_on_its_way_out_is_known() -> None:
    """Also before anybody has waited for it."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        assert not process.is_exiting(child.pid)
        child.kill()
        wait_for(lambda: process.is_exiting(child.pid), "its end")
    assert process.is_exiting(child.pid)


@pytest.mark.parametrize("path", ["plain", "a b", "it's", "two\nlines", "\x1b]0;title\x07", "no\udcffutf", "back\\slash\x01'"])
def test_quoted_paths_come_back_from_a_shell(path: str) -> None:
    """And nothing in them is a command to the terminal that shows them."""
    quoted = quote(path)
    assert quoted.isprintable()
    assert subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True).stdout == os.fsencode(path)


def test_a_fault_says_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A jail may have chosen the names in it."""
    show.print_fault(Fault("cannot start", "/bin/\x1b]0;x\x07\nljsv: all is well", "no", hint="ls /bin/\x1bc"))
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and said.replace("\n", "").isprintable()


EXECUTE = "import os, sys; from ljsv.jail.program import open_program; os.execve(*open_program(sys.argv[1], tuple(sys.argv[2:])), {'A': 'b'})"


def test_what_was_looked_at_is_executed(tmp_path: Path) -> None:
    """By its descriptor, as the kernel would by its path: a program, a script with an argument, a script of a script."""

    def run(path: Path | str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", EXECUTE, str(path), "name", "an argument"], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr.strip().rsplit("\n", 1)[-1]

    script, nested, forbidden = tmp_path / "script", tmp_path / "nested", tmp_path / "forbidden"
    script.write_text('#! /bin/sh -e \nprintf "%s|" "$0" "$A" "$-" "$@"')
    nested.write_text(f"#!{script} two words\n")
    forbidden.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    nested.chmod(0o755)
    assert run("/bin/echo") == (0, "an argument\n")
    assert run(script) == (0, f"{script}|b|e|an argument|") == run_plainly(script)
    assert run(nested) == (0, f"{script}|b|e|two words|{nested}|an argument|") == run_plainly(nested)
    assert run("/proc/self/exe")[1].startswith("PermissionError: [Errno 13] it leads through /proc out of the jail")
    if os.geteuid():
        assert "Permission denied" in run(forbidden)[1]
    else:
        assert run(forbidden)[0] == 1


def run_plainly(path: Path) -> tuple[int, str]:
    done = subprocess.run([path, "an argument"], capture_output=True, text=True, env={"A": "b"}, check=False)
    return done.returncode, done.stdout

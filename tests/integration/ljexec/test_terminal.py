"""`ljexec` on a terminal: job control, window size, Ctrl-C, Ctrl-Z; and the caller's terminal stays his."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for
from tests.integration.chaos.strace import Traced
from tests.integration.roots import small_root
from tests.integration.terminals import Terminal

# The child says that it runs: a key typed while dash starts one (vfork to exec) is lost or stops it for good,
# without a jail as well.
PARENT = """ljexec -- sh -c 'sh -c "echo begun; exec sleep 1000"; echo ended'"""
PIPES = (" | cat", " </dev/null 2>&1 | cat")


def test_shell_has_a_terminal_of_the_jails_own(tree: Tree) -> None:
    """/dev/pts/0 of its own devpts, the caller's window size and its changes, job control, the exit code."""
    with Terminal(tree, "ljexec", "--root", str(small_root(tree)), "--exec", "/bin/sh") as terminal:
        terminal.wait_for("#")
        terminal.ask("tty", "/dev/pts/0")
        terminal.ask("stty size", "33 99")
        terminal.resize(40, 120)
        terminal.ask("sleep 0.3; stty size", "40 120")
        terminal.ask("sh -c 'echo job $((1+1)); exec sleep 1000'", "job 2\n")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.ask("kill -9 %1; wait; sh -c 'echo job $((1+2)); exec sleep 1000'", "job 3\n")
        terminal.type("\x03")
        terminal.ask("echo still $((40 + 2))", "still 42")
        terminal.type("exit 5\n")
        assert terminal.end() == 5


def test_ctrl_c_ends_a_program_and_the_terminal_is_as_before(tree: Tree) -> None:
    """Exit 130; echo and line mode are back."""
    with Terminal(tree, "sh", "-c", "ljexec -- sh -c 'echo begun; exec sleep 1000'; echo code $?; stty -a") as terminal:
        terminal.wait_for("begun\n")
        terminal.type("\x03")
        terminal.wait_for("code 130")
        terminal.wait_for(" icanon")
        terminal.wait_for(" echo ")
        terminal.end()


def test_ctrl_z_stops_ljexec_and_fg_continues_it(tree: Tree) -> None:
    """A program that is no shell: it stops, ljexec stops, the caller's shell has its prompt; fg goes on."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask(PARENT.replace("1000", "1"), "begun\n")
        stop(terminal)
        terminal.ask("jobs; echo here", "here")
        terminal.type("fg\n")
        terminal.wait_for("OUTER>", since=terminal.wait_for("ended\n"))
        terminal.ask("echo code $?", "code 0")
        terminal.type("exit\n")
        terminal.end()


def test_output_into_a_pipe_is_not_a_terminals(tree: Tree) -> None:
    """It is as the program wrote it."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask("ljexec -- echo plain | od -c | head -1", "p   l   a   i   n  \\n")
        terminal.type("exit\n")
        terminal.end()


def test_keys_while_input_comes_from_a_pipe(tree: Tree) -> None:
    """A pager, and a question to /dev/tty: what is typed goes there. Ctrl-Z and Ctrl-C are for the whole pipe, and the terminal is as it was."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER> ")
        terminal.ask("a=$(stty -g); echo noted", "noted")
        terminal.type("seq 500 | ljexec -- more\n")
        terminal.wait_for("--More--")
        terminal.type("q")
        terminal.wait_for_shell()
        terminal.type("echo x | ljexec -- sh -c 'echo as\"k\"; read b </dev/tty; cat; echo got-$b'\n")
        terminal.wait_for("ask")
        terminal.type("keys\n")
        terminal.wait_for("got-keys")
        terminal.wait_for_shell()
        pipe = "sleep 1000 | ljexec -- sh -c 'echo be\"gun\"; exec cat'\n"  # else Ctrl-Z may find the shell in a vfork
        terminal.type(pipe)
        begun = terminal.wait_for("begun")
        terminal.type("\x03")
        terminal.wait_for_shell()
        terminal.ask("echo $? jobs $(jobs | wc -l)", "130 jobs 0")
        terminal.type(pipe)
        terminal.wait_for("begun", since=begun)
        stop(terminal)
        terminal.type("fg\n")
        terminal.wait_for_job()
        terminal.type("\x03")  # as it comes to the front cat may see its input end first: 0 or 130
        terminal.wait_for_shell()
        terminal.ask("echo jobs $(jobs | wc -l)", "jobs 0")
        terminal.ask('[ "$a" = "$(stty -g)" ] && echo as before', "as before")


@pytest.mark.parametrize("pipes", PIPES)
def test_ctrl_c_in_a_pipeline_ends_the_programs_children_too(tree: Tree, pipes: str) -> None:
    """Whether it has a terminal or not; exit 130, and the pipeline ends."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask(PARENT + pipes, "begun\n")
        terminal.type("\x03")
        terminal.wait_for("OUTER>", since=len(terminal.shown))
        terminal.ask("echo codes ${PIPESTATUS[*]}", "codes 130 ")
        terminal.type("exit\n")
        terminal.end()
    assert "ended" not in terminal.shown.split()


@pytest.mark.parametrize("pipes", PIPES)
def test_ctrl_z_fg_and_bg_in_a_pipeline(tree: Tree, pipes: str) -> None:
    """Ctrl-Z stops it, children of the program too; fg and bg continue it; in the background it ends, or comes to the front again."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask(PARENT + pipes, "begun\n")
        for way in ("fg", "bg; fg", "fg"):
            stop(terminal)
            wait_for(lambda: states_of_jail(terminal) == {"T"}, "all of the jail to stop")
            terminal.type(f"{way}\n")
            terminal.wait_for_job()
            wait_for(lambda: states_of_jail(terminal) == {"S"}, "all of the jail to go on")
        terminal.type("\x03")
        terminal.wait_for_shell()
        terminal.ask("echo jobs $(jobs | wc -l)", "jobs 0\n")
        begin = len(terminal.shown)
        terminal.ask(PARENT.replace("1000", "1") + pipes, "begun\n")
        stop(terminal)
        terminal.type("bg\n")
        terminal.wait_for("ended\n", since=begin)
        terminal.ask("wait; echo left $(jobs -r | wc -l)", "left 0\n")
        terminal.type("exit\n")
        terminal.end()


@pytest.mark.parametrize("key", ["\x1a", "\x03"], ids=["ctrl-z", "ctrl-c"])
def test_a_key_at_any_moment_of_its_start(tree: Tree, key: str) -> None:
    """Ctrl-Z stops, and fg goes on; Ctrl-C ends: also while the jail is being built, with the terminal and without it.

    Ctrl-C not before that: there is a moment at its start when Python itself prints and forgets it.
    """
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        for number in range(24):
            terminal.type(f"ljexec -- sleep 1000 {(' | cat', ' </dev/null 2>&1 | cat', '')[number % 3]}\n")
            terminal.wait_for_job("ljexec")
            if key == "\x03":
                wait_for(lambda: has_begun(terminal), "the jail's first process")
            time.sleep(number / 100)
            if key == "\x1a":
                stop(terminal)
                terminal.type("fg\n")
                terminal.wait_for_job()
            wait_for(lambda: has_begun(terminal), "the jail's first process")
            terminal.type("\x03")
            terminal.wait_for_shell()
            terminal.ask(f"echo jobs {number} $(jobs | wc -l)", f"jobs {number} 0\n")
        terminal.type("exit\n")
        terminal.end()


def test_a_job_in_the_background_takes_nothing_that_is_typed(tree: Tree) -> None:
    """What is typed is the shell's. A job that wants it stops, as any does; in the front it gets it."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask("set -b; ljexec -- sh -c 'read line; echo got $line' &", "Stopped")
        terminal.ask("echo mine $((1+1))", "mine 2")
        terminal.type("fg\n")
        terminal.wait_for_job()
        terminal.type("this\n")
        terminal.wait_for("got this\n")
        terminal.wait_for_shell()
        terminal.ask("ljexec -- cat > /dev/null &", "Stopped")
        begin = len(terminal.shown)
        terminal.type("kill %1\n")
        terminal.wait_for("Exit 143", since=begin)
        terminal.type("exit\n")
        terminal.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="strace of a process that is not dumpable: needs root")
def test_kill_ends_a_stopped_job_that_would_stop_again_first(tree: Tree) -> None:
    """The session's leader is made slow where it has continued the program: the program stops once more before it is looked at."""
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        terminal.ask("set -b; ljexec -- cat > /dev/null &", "Stopped")
        (leader,) = [pid for pid in tree.processes() if Path(f"/proc/{pid}/comm").read_text() == "ljsv session\n"]
        traced = Traced(tree, leader, "leader", at=1, calls="kill", action="delay_exit=200000")
        begin = len(terminal.shown)
        terminal.type("kill %1\n")
        terminal.wait_for("Exit 143", since=begin)
        traced.close()
        terminal.type("exit\n")
        terminal.end()


def test_a_job_that_fg_has_not_told_gets_what_is_typed(tree: Tree) -> None:
    """A shell's fg sends a job that runs no signal: it is told when it reads."""
    place = tree.root / "place"
    place.mkdir()
    tree.own(place)
    with Terminal(tree, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER>")
        program = "until test -e /srv/go; do sleep 0.05; done; read line; echo got $line; read line; echo and $line"
        terminal.ask(f"ljexec --bind {place}:/srv -- sh -c '{program}' & sleep 0.5; echo mine $((1+1))", "mine 2")
        terminal.type("fg\n")
        terminal.wait_for_job()
        (place / "go").touch()
        terminal.type("this\n")
        terminal.wait_for("got this\n")
        terminal.type("that\n")
        terminal.wait_for("and that\n")
        terminal.wait_for_shell()
        terminal.ask("stty -a", " icanon")
        terminal.type("exit\n")
        terminal.end()


def test_a_terminal_without_job_control(tree: Tree) -> None:
    """As the console of a box without a login: it controls nobody, and what is typed arrives."""
    with Terminal(tree, "setsid", "--wait", "ljexec", "--", "sh", "-c", "read line; echo got $line; kill -TSTP $$; echo on") as terminal:
        terminal.type("this\n")
        terminal.wait_for("got this\n")
        terminal.wait_for("on\n")
        assert terminal.end() == 0


def test_a_terminal_that_hangs_up_ends_what_has_stopped(tree: Tree) -> None:
    """A child that is stopped gets SIGHUP and SIGCONT, as from any terminal."""
    child = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); print('begun', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    with Terminal(tree, "ljexec", "--", "sh", "-c", f'trap "" HUP; python3 -c "{child}"') as terminal:
        terminal.wait_for("begun\n")
        os.close(terminal.fd)
        terminal.fd = os.open(os.devnull, os.O_RDWR)
        wait_for(lambda: not tree.processes(), "the jail to end")


def stop(terminal: Terminal) -> None:
    """Ctrl-Z, until the shell has its prompt."""
    begin = len(terminal.shown)
    terminal.type("\x1a")
    terminal.wait_for("OUTER>", since=terminal.wait_for("Stopped", since=begin))


def read_processes() -> dict[int, tuple[str, str, int]]:
    """Of each process its name, state and parent. proc_pid_stat(5)."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = path.read_text().partition(" (")
            name, _, rest = rest.rpartition(") ")
            found[int(pid)] = (name, rest.split()[0], int(rest.split()[1]))
    return found


def has_begun(terminal: Terminal) -> bool:
    """Whether `ljexec`, the first process of the job in the foreground, has a child."""
    job = os.tcgetpgrp(terminal.fd)
    return any(parent == job for _, _, parent in read_processes().values())


def states_of_jail(terminal: Terminal) -> set[str]:
    """Of the program and its children, the only shells and sleeps below the caller's shell."""
    processes = read_processes()

    def is_below(pid: int) -> bool:
        return pid == terminal.pid or (pid in processes and is_below(processes[pid][2]))

    return {state for pid, (name, state, _) in processes.items() if name in {"sh", "sleep"} and is_below(pid)}


def test_a_killed_ljexec_takes_its_jail_along(tree: Tree) -> None:
    """On a terminal too."""
    with Terminal(tree, "ljexec", "--", "sh", "-c", "echo begun; exec sleep 1000") as terminal:
        terminal.wait_for("begun\n")
        os.kill(terminal.pid, signal.SIGKILL)
        assert terminal.end() == -9
    wait_for(lambda: not tree.processes(), "the jail to die")


def test_much_output_comes_whole(tree: Tree) -> None:
    """More than the terminal's buffers, to the last line, also when the program ends at once."""
    with Terminal(tree, "ljexec", "--", "sh", "-c", "seq 1 20000; echo the end") as terminal:
        terminal.wait_for("\nthe end\n")
        assert terminal.end() == 0
        assert terminal.shown.split() == [*map(str, range(1, 20001)), "the", "end"]


def test_what_is_typed_ahead_arrives(tree: Tree) -> None:
    """More than a line, before the program reads."""
    with Terminal(tree, "ljexec", "--", "sh", "-c", "stty -echo; echo ready; sleep 0.3; wc -l") as terminal:
        terminal.wait_for("ready\n")
        terminal.type("".join(f"line {number}\n" for number in range(100)))
        terminal.type("\x04")
        terminal.wait_for("100\n")
        assert terminal.end() == 0


def test_the_callers_terminal_is_not_in_the_jail(tree: Tree) -> None:
    """What the jail's program pushes with TIOCSTI does not come out in the caller's terminal, with and without the filter."""
    code = "import fcntl, os, termios\ntry:\n    [fcntl.ioctl(0, termios.TIOCSTI, bytes([c])) for c in b'echo PUSHED$((1+1))\\n']\nexcept OSError as error:\n    print('refused', error.errno)\nelse:\n    print('pushed')"
    for seccomp in ("default", "off"):
        with Terminal(tree, "bash", "--norc", "-i") as terminal:
            terminal.wait_for("OUTER>")
            program = tree.root / f"push-{seccomp}.py"
            program.write_text(code)
            program.chmod(0o644)
            terminal.type(f"ljexec --seccomp {seccomp} --bind {program}:/tmp/push.py -- /usr/bin/python3 /tmp/push.py; echo done\n")
            terminal.wait_for("refused" if seccomp == "default" else "u")
            terminal.wait_for("\ndone")
            terminal.ask("echo next", "next")
            assert "PUSHED2" not in terminal.shown
            terminal.type("exit\n")
            terminal.end()
    assert termios.TIOCSTI == 0x5412

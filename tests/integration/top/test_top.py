"""`ljsv top`: plain where the output is no terminal, with keys where it is one."""

from __future__ import annotations

import os
import signal

from ljsv.cli.top_verb import Look, draw, rows_of
from ljsv.linux.cgroup import Use
from tests.conftest import Tree, wait_for
from tests.integration.terminals import Terminal


def test_table_is_made_of_two_looks() -> None:
    """Shares of the processor between them, limits beside the use, what has no group marked, sorted, cut to the width."""
    before = {
        "web": Look("web", "ready", 10.0, Use(cpu_usec=1_000_000)),
        "db": Look("db", "ready", 10.0, Use(cpu_usec=5)),
    }
    looks = [
        Look("web", "ready", 12.0, Use(cpu_usec=1_500_000, cpu_max=50.0, memory=3 << 20, memory_max=64 << 20, pids=4, pids_max=64), remark="paused"),
        Look("db", "ready", 12.0, Use(cpu_usec=5, memory=1 << 30, pids=2), is_whole=False, restarts=3),
        Look("new", "down", 12.0, Use()),
    ]
    rows = rows_of(looks, before, "memory")
    assert [row.name for row in rows] == ["db", "web", "new"]
    assert [row.name for row in rows_of(looks, before, "cpu")] == ["web", "db", "new"]
    assert [row.name for row in rows_of(looks, before, "name")] == ["db", "new", "web"]
    lines = draw(rows)
    assert lines[0].split() == ["SERVICE", "STATE", "CPU", "OF", "MEMORY", "OF", "PIDS", "OF", "RESTARTS"]
    assert lines[1].split() == ["db", "ready", "~0.0%", "-", "~1G", "-", "~2", "-", "3"]
    assert lines[2].split() == ["web", "ready", "25.0%", "50%", "3M", "64M", "4", "64", "0", "paused"]
    assert lines[3].split() == ["new", "down", "-", "-", "-", "-", "-", "-", "-"]
    assert all(len(line) <= 20 for line in draw(rows, width=20))
    assert draw(rows, selected="web")[2].startswith("\x1b[7mweb")


def test_plain_lines_where_the_output_is_no_terminal(scanning: Tree) -> None:
    """Once, or as often as it is told; by name or all; wrong words are refused."""
    scanning.add("web")
    scanning.add("idle", down="")
    scanning.wait_state("web", "ready")
    scanning.wait_state("idle", "down")
    lines = scanning.ljsv("top", "-d", "0.1").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["SERVICE", "STATE"], ["idle", "down"], ["web", "ready"]]
    assert lines[2].split()[4] not in {"-", "0"}
    twice = scanning.ljsv("top", "-d", "0.1", "-n", "2", "web").stdout.splitlines()
    assert [line.split()[0] for line in twice if line] == ["SERVICE", "web", "SERVICE", "web"]
    assert "--sort wants name, cpu" in scanning.ljsv("top", "--sort", "size", code=100).stderr
    assert "no such service" in scanning.ljsv("top", "wen", code=4).stderr


def test_keys_on_a_terminal(scanning: Tree) -> None:
    """Select, sort, restart after a yes, follow a log and come back, end; the terminal is as it was."""
    scanning.add("a")
    scanning.add("web", "while :; do echo tick; sleep 0.2; done")
    scanning.wait_state("a", "ready")
    pid = scanning.wait_state("web", "ready")["pid"]
    with Terminal(scanning, "ljsv", "top", "-d", "0.2") as terminal:
        terminal.wait_for("by name, 2 of")
        terminal.wait_for("\x1b[7ma ")
        terminal.type("j")
        terminal.wait_for("\x1b[7mweb ")
        terminal.type("M")
        terminal.wait_for("by memory, 2 of")
        terminal.type("r")
        terminal.wait_for("restart web? y or n")
        terminal.type("n")
        since = terminal.wait_for("by memory", since=len(terminal.shown))
        assert scanning.detail("web")["pid"] == pid
        terminal.type("r")
        terminal.wait_for("restart web? y or n", since=since)
        terminal.type("y")
        since = terminal.wait_for("web is told to restart")
        wait_for(lambda: scanning.detail("web").get("pid", pid) != pid, "another web")
        terminal.type("l")
        since = terminal.wait_for("--- the log of web", since=since)
        since = terminal.wait_for("tick", since=since)
        terminal.type("\x03")
        since = terminal.wait_for("\x1b[?1049h", since=since)
        terminal.wait_for("SERVICE", since=since)
        terminal.type("q")
        terminal.wait_for("\x1b[?1049l", since=since)


def test_a_signal_gives_the_terminal_back(scanning: Tree) -> None:
    """TERM."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    with Terminal(scanning, "ljsv", "top") as terminal:
        since = terminal.wait_for("by name, 1 of")
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.wait_for("\x1b[?1049l", since=since)


def test_a_serial_line_has_no_size(scanning: Tree) -> None:
    """The kernel says 0 by 0 there: the table is shown all the same."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    with Terminal(scanning, "ljsv", "top", rows=0, columns=0) as terminal:
        terminal.wait_for("\x1b[7mweb ")
        terminal.wait_for("N C M P R sort")


def test_ctrl_z_gives_the_terminal_back(scanning: Tree) -> None:
    """And fg shows the table again."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    with Terminal(scanning, "bash", "--norc", "-i") as terminal:
        terminal.wait_for("OUTER> ")
        terminal.type("ljsv top\n")
        since = terminal.wait_for("by name, 1 of")
        terminal.type("\x1a")
        since = terminal.wait_for("\x1b[?1049l", since=since)
        terminal.wait_for_shell()
        terminal.type("fg\n")
        since = terminal.wait_for("\x1b[?1049h", since=since)
        terminal.wait_for("by name, 1 of", since=since)
        terminal.type("q")
        terminal.wait_for_shell()

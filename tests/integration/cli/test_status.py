"""`ljsv status`: fields for scripts, JSON for programs, and all there is to know for a person."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ljsv.cli.fields import FIELD_DOCS
from tests.conftest import Tree, wait_for
from tests.integration.terminals import Terminal

FIELDS = {
    "name", "state", "want", "supervised", "ready", "ready_by", "status_text", "needs", "waiting", "pid", "since_s", "restarts", "failures",
    "next_try_s", "paused", "term_sent", "normally", "result", "end_text", "end_code", "end_status", "run_time", "why", "fault", "hint",
    "problem", "changed", "log_fault", "notes", "jail", "directory", "log", "log_state", "log_pid", "supervisor_pid", "overlay_bytes",
    "memory_bytes", "memory_peak_bytes", "memory_max_bytes", "swap_bytes", "rss_bytes", "cpu_s", "cpu_max_percent", "pids", "pids_max",
    "oom_kills", "not_enforced", "privileged", "ready_after_s", "image", "image_generation", "deployment", "not_deployed",
}
TYPES: dict[str, tuple[type, ...]] = {"text": (str,), "number": (int, float), "seconds": (int, float), "bytes": (int,), "true or false": (bool,), "list of texts": (list,)}


NOTIFIES = """#!/usr/bin/python3
import os, signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
say = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
say.connect(os.environ["NOTIFY_SOCKET"])
say.send(b"STATUS=12 of 40 \\x1b[2Jloaded")
signal.sigwait({signal.SIGUSR1})
say.send(b"READY=1\\nSTATUS=all of 40")
signal.pause()
"""


@pytest.mark.awake
def test_json_is_complete_and_stable(scanning: Tree) -> None:
    """Every field is there for every service, null where it does not apply, with numbers as numbers."""
    scanning.add("runs")
    scanning.add("fails", "exit 7", policy='[restart]\ndelay = "50s"\n')
    scanning.add("bad", rootfs="x = 1")
    scanning.add("rests", down="")
    for name, state in (("runs", "ready"), ("fails", "backoff"), ("bad", "failed"), ("rests", "down")):
        scanning.wait_state(name, state)
    services = {service["name"]: service for service in json.loads(scanning.ljsv("status", "--json").stdout)}
    assert all(set(service) == FIELDS for service in services.values())
    for service in services.values():
        for field, (kind, _) in FIELD_DOCS.items():
            never_null = kind in {"true or false", "list of texts"}
            assert isinstance(service[field], TYPES[kind]) or (service[field] is None and not never_null), field
    runs, fails, bad, rests = (services[name] for name in ("runs", "fails", "bad", "rests"))
    assert runs["state"] == "ready" and runs["ready"] is True and runs["pid"] == scanning.pid("runs") and runs["since_s"] >= 0
    assert runs["supervisor_pid"] == scanning.supervisor_pid("runs") and runs["supervised"] is True
    assert fails["end_code"] == 7 and fails["end_status"] == 0 and fails["end_text"] == "exit 7" and 0 < fails["next_try_s"] <= 50
    assert fails["restarts"] == 0 and fails["pid"] is None
    assert "unknown key x" in bad["fault"] and bad["hint"] and bad["ready"] is False
    assert rests["normally"] == "down" and rests["needs"] == [] and rests["notes"] == [] and rests["problem"] is None
    scanning.ljsv("exit", "rests")
    (rests,) = json.loads(scanning.ljsv("status", "rests", "--json", code=3).stdout)
    assert set(rests) == FIELDS and rests["supervised"] is False and "told to exit" in rests["problem"]


def test_fields_of_the_callers_choice(scanning: Tree) -> None:
    """`-o` prints a line a service, tabs between, no header, - for nothing; with --json the same fields."""
    scanning.add("a")
    scanning.add("b", down="")
    scanning.wait_state("a", "ready")
    scanning.wait_state("b", "down")
    pid = scanning.pid("a")
    assert scanning.ljsv("status", "-o", "name,pid,state,paused").stdout == f"a\t{pid}\tready\tno\nb\t-\tdown\tno\n"
    assert scanning.ljsv("status", "a", "-o", "pid").stdout == f"{pid}\n"
    assert scanning.ljsv("status", "a", "-o", "pid", "-o", "ready").stdout == f"{pid}\tyes\n"
    assert json.loads(scanning.ljsv("status", "a", "--json", "-o", "state,name").stdout) == [{"state": "ready", "name": "a"}]
    done = scanning.ljsv("status", "b", "-o", "state", code=3)
    assert done.stdout == "down\n"
    done = scanning.ljsv("status", "-o", "name,nosuch", code=100)
    assert "no such field: nosuch" in done.stderr
    assert set(done.stderr.split("fields: ")[1].strip().split(",")) == FIELDS
    assert "hint: ljsv status -o state" in scanning.ljsv("status", "-o", "stat", code=100).stderr


def test_fields_on_a_terminal_have_a_header(scanning: Tree) -> None:
    """For eyes: columns with the fields' names above."""
    scanning.add("a")
    scanning.wait_state("a", "ready")
    with Terminal(scanning, "ljsv", "status", "-o", "name,state") as terminal:
        terminal.wait_for("ready")
        lines = terminal.shown.splitlines()
        assert lines[0].split() == ["NAME", "STATE"] and lines[1].split() == ["a", "ready"]


def test_what_a_service_waits_for_is_shown(scanning: Tree) -> None:
    """`waiting for db, cache` in the table, in the line of one service, and as a list in JSON."""
    scanning.add("web", policy='needs = ["db", "cache"]\n')
    wait_for(lambda: "waiting" in scanning.detail("web"), "it to wait")
    assert "waiting for db, cache" in scanning.ljsv("status").stdout.splitlines()[1]
    text = scanning.ljsv("status", "web", code=3).stdout
    assert "waiting for db, cache" in text and "needs:       db cache" in text
    (web,) = json.loads(scanning.ljsv("status", "web", "--json", code=3).stdout)
    assert web["state"] == "down" and web["want"] == "up"
    assert web["waiting"] == ["db", "cache"] and web["needs"] == ["db", "cache"]
    assert scanning.ljsv("status", "web", "-o", "waiting", code=3).stdout == "db,cache\n"


def test_what_a_service_says_of_itself_is_shown(scanning: Tree) -> None:
    """sd_notify's STATUS beside the state, without what a terminal would obey."""
    scanning.add("web", NOTIFIES, policy='[ready]\nby = "notify"\n')
    wait_for(lambda: "status_text" in scanning.detail("web"), "its status")
    table = scanning.ljsv("status").stdout
    assert "not ready yet (notify), 12 of 40" in table and "\x1b" not in table
    text = scanning.ljsv("status", "web").stdout
    assert "status:      12 of 40" in text and "ready by:    notify" in text and "\x1b" not in text
    scanning.ljsv("usr1", "web")
    scanning.ljsv("wait", "web", "ready")
    assert scanning.ljsv("status", "web", "-o", "ready,status_text").stdout == "yes\tall of 40\n"


def test_the_last_death_is_told_in_a_line(scanning: Tree) -> None:
    """In the whole view of one service."""
    scanning.add("web", "exit 7", policy='[restart]\ndelay = "50s"\n')
    scanning.wait_state("web", "backoff")
    text = scanning.ljsv("status", "web", code=3).stdout
    assert re.search(r"(?m)^  last (death|end): .*exit 7", text), text


def test_a_log_service_is_shown_as_sv_shows_it(scanning: Tree) -> None:
    """`; run: log: (pid N) Ns` behind the line, and two fields."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    assert scanning.ljsv("status", "web", "-o", "log_state,log_pid").stdout == "-\t-\n"
    scanning.add("logged", log__run="#!/bin/sh\nexec cat\n")
    pid = wait_for(lambda: read_pid(scanning.sv / "logged/log/supervise/pid"), "the log service")
    wait_for(lambda: scanning.ljsv("status", "logged", "-o", "log_state", code=None).stdout == "ready\n", "the log service to be ready")
    assert f"; run: log: (pid {pid}) " in scanning.ljsv("status", "logged", code=None).stdout.splitlines()[0]
    assert scanning.ljsv("status", "logged", "-o", "log_state,log_pid", code=None).stdout == f"ready\t{pid}\n"


def read_pid(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def test_notes_are_told(scanning: Tree) -> None:
    """What is not as the files ask for, or as a reader may expect, is a note in the long form and in JSON."""
    shared = scanning.root / "shared"
    shared.mkdir()
    scanning.own(shared)
    scanning.add("web", rootfs=f'base = "host"\n[[bind]]\nfrom = "{shared}"\nto = "/srv"\nwritable = true')
    scanning.wait_state("web", "ready")
    (web,) = json.loads(scanning.ljsv("status", "web", "--json").stdout)
    assert web["notes"]
    assert f"note:        {web['notes'][0]}" in scanning.ljsv("status", "web").stdout


def test_with_no_scanner_it_says_what_is_left(scanning: Tree) -> None:
    """After `exit --all`: down, with its last end, and a hint that no scanner runs."""
    scanning.add("a", "exit 3", policy='[restart]\ndelay = "50s"\n')
    scanning.wait_state("a", "backoff")
    scanning.ljsv("exit", "--all")
    done = scanning.ljsv("status")
    assert "no scanner runs" in done.stderr and "nobody supervises it" in done.stdout
    assert scanning.ljsv("status", "a", "-o", "state,end_code,supervised", code=3).stdout == "down\t3\tno\n"


def test_a_log_service_that_crashes_is_seen(scanning: Tree) -> None:
    """Beside its service, with its own seconds, and until it runs again; the service is as it was."""
    path = scanning.add("web", log__run="#!/bin/sh\necho oops\nexit 5\n", log__policy='[restart]\ndelay = "30s"\n')
    wait_for(lambda: "log_fault" in scanning.detail("web"), "the fault to be told")
    assert "its log service does not run: exit 5" in scanning.ljsv("status").stdout
    shown = scanning.ljsv("status", "web").stdout
    assert "run: web: (pid " in shown and "; down: log: " in shown and ", normally up, want up" in shown and "ljsv why web/log" in shown
    (path / "log/run").write_text("#!/bin/sh\nexec cat >/dev/null\n")
    scanning.ljsv("up", "web/log")
    wait_for(lambda: "log_fault" not in scanning.detail("web"), "the fault to go")
    assert "; run: log: (pid " in scanning.ljsv("status", "web").stdout


def test_hints_are_about_the_scan_directory_that_was_named(tree: Tree) -> None:
    """By --svdir or in front of the name: what is pasted does not go to the one of the environment."""
    tree.add("web")
    other = tree.sv.rename(tree.root / "my services")
    tree.sv.mkdir()
    for argv in (("--svdir", str(other), "down", "web"), ("down", f"{other}/web")):
        hint = tree.ljsv(*argv, code=102).stderr.partition("hint: ")[2]
        assert hint == f"ljsv --svdir '{other}' status web\n"
    tree.ljsv("--svdir", str(other), "up", "web")
    assert tree.run("sh", "-c", hint).returncode == 0
    assert "hint: ljsv --svdir" in tree.ljsv("--svdir", str(other), "wait", "web", "down", "-w", "0.1", code=1).stderr
    tree.ljsv("--svdir", str(other), "exit", "--all")


@pytest.mark.parametrize("name", ["a;touch${IFS}pwned", "it's&x", "back\\slash", "$(touch${IFS}pwned)"])
def test_hints_about_a_name_that_a_shell_takes_for_more(tree: Tree, name: str) -> None:
    """Pasted, each is about that service and nothing else."""
    tree.env["EDITOR"] = "cat"
    tree.ljsv("scan", "--daemon")
    path = tree.write(name, "exit 127", policy='[restart]\nfirst_delay = "1000s"\n')
    path.rename(tree.sv / name)
    tree.wait_state(name, "backoff")
    said = tree.ljsv("why", name).stdout + tree.ljsv("wait", name, "-w", "0.1", code=1).stderr + tree.ljsv("up", name, code=1).stderr
    (tree.sv / name / "limits").write_text("nonsense = 1\n")
    said += tree.ljsv("up", name, code=1).stderr + tree.ljsv("lint", name, code=1).stdout + tree.ljsv("enter", name, code=1).stderr
    tree.ljsv("exit", "--all")
    said += tree.ljsv("down", name, code=102).stderr
    hints = {line.partition("hint: ")[2] for line in said.splitlines() if "hint: " in line}
    assert len(hints) > 4, said
    for hint in hints:
        tree.run("sh", "-c", hint)
        assert not list(tree.root.glob("**/pwned")), hint
        assert "not found" not in tree.run("sh", "-c", f"set -- {hint}; :").stderr, hint
    tree.ljsv("exit", "--all")


def test_while_services_come_and_go_every_answer_is_whole(scanning: Tree) -> None:
    """A status that is written while it is read is the old or the new one, never half."""
    scanning.add("a", "exit 0", policy='[restart]\ndelay = "100ms"\nmax_delay = "100ms"\n')
    wait_for(lambda: int(scanning.detail("a").get("restarts", 0)) > 0, "its first restart")
    for _ in range(30):
        (service,) = json.loads(scanning.ljsv("status", "--json").stdout)
        assert set(service) == FIELDS and service["state"] in {"starting", "ready", "backoff", "up", "down"}
    assert Path(scanning.detail("a")["directory"]) == scanning.sv / "a"


def test_a_log_service_has_a_name(tree: Tree) -> None:
    """`web/log`, as for sv: by name, and as a path; what has none is told so."""
    tree.ljsv("scan", "--daemon")
    tree.add("web", log__run="#!/bin/sh\nexec cat >/dev/null\n")
    tree.add("plain")
    tree.wait_state("web", "ready")
    wait_for(lambda: tree.ljsv("status", "web/log", code=None).stdout.startswith("run: web/log: (pid "), "its log service")
    path = str(tree.sv / "web/log")
    assert tree.run("ljsv", "status", path, env={"SVDIR": "/nothing"}).stdout.startswith("run: web/log: (pid ")
    first = tree.pid("web/log")
    tree.ljsv("restart", "web/log")
    assert tree.pid("web/log") not in {0, first}
    assert tree.state("web") == "ready"
    done = tree.ljsv("status", "plain/log", code=4)
    assert "no such service" in done.stderr


@pytest.mark.parametrize(("env", "has_colour"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_have_it(scanning: Tree, env: dict[str, str], has_colour: bool) -> None:  # noqa: FBT001
    """And nothing else of the table changes."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    with Terminal(scanning, "ljsv", "status", **env) as terminal:
        terminal.wait_for("1 ready")
        shown = terminal.shown
        terminal.end()
    assert ("\x1b[" in shown) == has_colour
    assert "web" in shown and "\x1b[" not in scanning.ljsv("status").stdout


def test_names_and_logs_that_are_hard_to_show(scanning: Tree) -> None:
    """A name of 64 characters on 40 columns, a log of bytes that are no text and would take hold of the terminal: shown, and nothing breaks."""
    name = "n" * 64
    scanning.add(name, r"printf '\377\376 \033[2Jcleared\007\n'; exec sleep 1000")
    scanning.wait_state(name, "ready")
    log = Path(scanning.detail(name)["log"])
    wait_for(lambda: log.exists() and b"cleared" in log.read_bytes(), "its line")
    for argv in (("status",), ("status", name), ("top", "-n", "1"), ("why", name), ("logs", name)):
        with Terminal(scanning, "ljsv", *argv, columns=40, TERM="xterm") as terminal:
            terminal.wait_for("cleared" if argv[0] == "logs" else "nnnn")
            terminal.end()
        assert "\x1b[2J" not in terminal.shown and "\x07" not in terminal.shown, argv
        assert "Traceback" not in terminal.shown


def test_a_directory_whose_name_is_none_is_told(scanning: Tree) -> None:
    """Too long, or with a space: it does not run, and nobody has to guess why."""
    for name in ("n" * 65, "a b"):
        scanning.add(name)
    for verb in ("status", "lint"):
        said = scanning.ljsv(verb).stderr
        assert said.count("not a service's name: ") == 2 and f"hint: mv -nT '{scanning.sv}/a b' " in said, said
    assert "not a service's name" in scanning.ljsv("up", "a b", code=4).stderr

"""The main job: `ljsv up web` from a checkout, and the verbs of the first five minutes."""

from __future__ import annotations

import json
import shutil
import signal
import time
import urllib.request
from pathlib import Path

from tests.conftest import Tree, is_alive, need, wait_for
from tests.integration.ports import free_port

CHECKOUT = Path(__file__).parents[3]


def take_web(tree: Tree) -> int:
    """The checkout's sv/web in the tree, on a port that is free."""
    path = tree.staging / "web"
    shutil.copytree(CHECKOUT / "sv/web", path, ignore=shutil.ignore_patterns("supervise"))
    port = free_port()
    (path / "env").mkdir(exist_ok=True)
    (path / "env/PORT").write_text(f"{port}\n")
    tree.own(path)
    path.rename(tree.sv / "web")
    return port


def test_up_starts_a_scanner_says_so_and_the_service_answers(tree: Tree) -> None:
    """With nothing running, `ljsv up web` is all: a line about the scanner, then `ok: web: ready (pid N) Ns`."""
    port = take_web(tree)
    done = tree.ljsv("up", "web")
    assert "started a scanner for" in done.stderr
    assert done.stdout.startswith("ok: web: ready (pid ")
    assert "It runs in a jail" in fetch(port)  # at once: ready means that it answers
    again = tree.ljsv("up", "web")
    assert "scanner" not in again.stderr


def fetch(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_every_service_of_the_checkout_is_valid(tree: Tree) -> None:
    """`ljsv lint` finds nothing wrong in sv/."""
    for path in (CHECKOUT / "sv").iterdir():
        if path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, tree.sv / path.name, ignore=shutil.ignore_patterns("supervise"))
    tree.own(tree.sv)
    assert "FAIL" not in tree.ljsv("lint").stdout


def test_status_table_and_long_form(scanning: Tree) -> None:
    """The table has a line a service and a summary; with one name all about it; the exit code says whether it is up."""
    scanning.add("one")
    scanning.add("two", down="")
    scanning.ljsv("up", "one")
    scanning.wait_state("two", "down")
    lines = scanning.ljsv("status").stdout.splitlines()
    assert lines[0].split() == ["SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "MEM", "JAIL"]
    assert lines[1].split()[:2] == ["one", "ready"]
    assert lines[2].split()[:2] == ["two", "down"]
    assert lines[3] == "2 services: 1 ready, 1 down"
    long = scanning.ljsv("status", "one").stdout
    assert long.startswith(f"run: one: (pid {scanning.pid('one')})")
    assert "supervisor:" in long
    assert scanning.ljsv("status", "two", code=3).stdout.startswith("down: two:")
    (one, _two) = json.loads(scanning.ljsv("status", "--json").stdout)
    assert one["name"] == "one" and one["pid"] == scanning.pid("one") and one["since_s"] >= 0


def test_down_once_restart_exit(scanning: Tree) -> None:
    """Each waits for what it asked, and says how it is."""
    scanning.add("a")
    first = int(scanning.wait_state("a", "ready")["pid"])
    assert scanning.ljsv("restart", "a").stdout.startswith("ok: a: ready")
    second = scanning.pid("a")
    assert second != first and not is_alive(first)
    assert scanning.ljsv("down", "a").stdout.startswith("ok: a: down")
    assert not is_alive(second)
    assert scanning.ljsv("once", "a").stdout.startswith("ok: a: ready")
    scanning.ljsv("term", "a")
    assert scanning.wait_state("a", "down")["want"] == "down"
    supervisor = scanning.supervisor_pid("a")
    assert scanning.ljsv("exit", "a").stdout == "ok: a: exited\n"
    wait_for(lambda: not is_alive(supervisor), "the supervisor to exit")
    wait_for(lambda: "told to exit" in scanning.ljsv("status", "a", code=3).stdout, "the scanner to have noticed")
    assert scanning.ljsv("up", "a").stdout.startswith("ok: a: ready")


def test_signal_verbs_reach_the_service(scanning: Tree) -> None:
    """hup, alarm, interrupt, quit, usr1, usr2: the service sees each."""
    names = {"hup": "HUP", "alarm": "ALRM", "interrupt": "INT", "quit": "QUIT", "usr1": "USR1", "usr2": "USR2"}
    traps = "\n".join(f"trap 'echo got {name}' {name}" for name in names.values())
    scanning.add("a", f"{traps}\necho begun\nwhile :; do sleep 0.02; done")
    scanning.wait_state("a", "ready")
    wait_for(lambda: "begun" in scanning.log("a"), "its first line")
    for verb, name in names.items():
        scanning.ljsv(verb, "a")
        wait_for(lambda name=name: f"got {name}" in scanning.log("a"), f"{name} to arrive")
    scanning.ljsv("pause", "a")
    wait_for(lambda: process_state(scanning.pid("a")) == "T", "it to stop")
    assert "paused" in scanning.ljsv("status", "a").stdout
    scanning.ljsv("cont", "a")
    wait_for(lambda: process_state(scanning.pid("a")) != "T", "it to continue")
    first = scanning.pid("a")
    scanning.ljsv("kill", "a")
    wait_for(lambda: not is_alive(first), "it to be killed")
    wait_for(lambda: scanning.detail("a").get("end_text") == "SIGKILL", "status to say so")


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_logs_and_follow(scanning: Tree) -> None:
    """`logs` shows the last lines with UTC stamps; `logs -f` goes on, woken by the supervisor."""
    scanning.add("a", "echo one\nread x < /proc/sys/kernel/ostype\ntrap 'echo two' USR1\nwhile :; do sleep 0.02; done")
    wait_for(lambda: "one" in scanning.log("a"), "its first line")
    line = scanning.ljsv("logs", "a").stdout
    assert line.endswith("Z one\n") and len(line.split("Z ")[0]) == len("2026-01-01T00:00:00.000000")
    follower = scanning.start("ljsv", "logs", "-f", "a")
    try:
        assert follower.stdout is not None
        assert follower.stdout.readline().endswith("one\n")
        scanning.ljsv("usr1", "a")
        assert follower.stdout.readline().endswith("two\n")
    finally:
        follower.send_signal(signal.SIGINT)
        follower.wait(10)
        follower.stdout.close() if follower.stdout else None


def test_backoff_is_shown_and_obeys_every_command_at_once(scanning: Tree) -> None:
    """A service that fails waits 1 s, 2 s, ...; status says why and when; up, down, once and exit act at once."""
    scanning.add("a", "echo ran; exit 3")
    detail = scanning.wait_state("a", "backoff")
    assert detail["end_text"] == "exit 3"
    text = scanning.ljsv("status").stdout
    assert "exit 3, next try in" in text
    wait_for(lambda: int(scanning.detail("a")["restarts"]) >= 1 and scanning.state("a") == "backoff", "the second failure")
    delay = float(scanning.detail("a")["deadline"]) - float(scanning.detail("a")["since"])
    assert 1.9 < delay < 2.1
    ran = scanning.log("a").count("ran")
    done = scanning.ljsv("up", "a", code=None)
    assert scanning.log("a").count("ran") > ran
    assert done.returncode in {0, 1}  # ready at its exec, it may be seen before or after its end
    scanning.wait_state("a", "backoff")
    before = time.monotonic()
    scanning.ljsv("down", "a")
    scanning.ljsv("up", "a", code=None)
    scanning.wait_state("a", "backoff")
    scanning.ljsv("exit", "a")
    assert time.monotonic() - before < 30


def test_real_clients_work_also_during_backoff(scanning: Tree) -> None:
    """sv, svstat, svok and a shell's echo."""
    need("sv", "svstat", "svok")
    scanning.add("a")
    scanning.add("b", "exit 1", policy='[restart]\ndelay = "50s"\n')
    scanning.wait_state("a", "ready")
    scanning.wait_state("b", "backoff")
    pid = scanning.pid("a")
    assert scanning.run("sv", "status", "a").stdout.startswith(f"run: a: (pid {pid}) ")
    assert f"up (pid {pid})" in scanning.run("svstat", str(scanning.sv / "a")).stdout
    assert scanning.run("svok", str(scanning.sv / "a")).returncode == 0
    wait_for(lambda: scanning.run("sv", "status", "b").stdout.startswith("down: b: "), "all of the announcement")
    assert "want up" in scanning.run("sv", "status", "b").stdout
    scanning.run("sh", "-c", f"printf d > {scanning.sv}/b/supervise/control")
    scanning.wait_state("b", "down")
    scanning.run("sh", "-c", f"printf u > {scanning.sv}/b/supervise/control")
    scanning.wait_state("b", "backoff")
    assert scanning.run("sv", "down", "b").returncode == 0
    assert scanning.run("sv", "stop", "a").stdout.startswith("ok: down: a: ")
    assert scanning.run("sv", "start", "a").stdout.startswith("ok: run: a: (pid ")
    assert scanning.run("sv", "restart", "a").stdout.startswith("ok: run: a: (pid ")
    assert scanning.run("sv", "exit", "a").returncode == 0
    wait_for(lambda: scanning.run("svok", str(scanning.sv / "a")).returncode == 100, "svok to say no")


def test_exit_all_ends_everything(scanning: Tree) -> None:
    """Scanner, supervisors and services are gone when it returns; the files stay and say down."""
    scanning.add("a")
    scanning.add("b", "trap '' TERM\necho deaf\nwhile :; do sleep 0.05; done", policy='[stop]\ntimeout = "500ms"\n')
    pids = [int(scanning.wait_state(name, "ready")["pid"]) for name in ("a", "b")]
    wait_for(lambda: "deaf" in scanning.log("b"), "its trap")
    scanning.ljsv("exit", "--all")
    assert not any(is_alive(pid) for pid in pids)
    assert not scanning.processes()
    assert (scanning.supervise("a") / "stat").read_text() == "down\n"
    assert (scanning.supervise("a") / "pid").read_text() == ""
    assert scanning.detail("b")["end_text"] == "SIGKILL"


def test_foreground_scanner_int_and_hup_stop_everything_term_leaves_it(tree: Tree) -> None:
    """INT: 130, HUP: 111, both after everything has ended; TERM: 0, and the services go on for the next scanner."""
    tree.add("a")
    for number, code in ((signal.SIGINT, 130), (signal.SIGHUP, 111)):
        scanner = tree.start("ljsv", "scan")
        pid = int(tree.wait_state("a", "ready")["pid"])
        scanner.send_signal(number)
        output, _ = scanner.communicate(timeout=20)
        assert scanner.returncode == code
        assert not is_alive(pid)
        assert '"event": "ready"' in output, "in the foreground the journal writes to standard error"
    scanner = tree.start("ljsv", "scan")
    wait_for(lambda: tree.state("a") == "ready" and is_alive(tree.pid("a")), "it to run")
    pid = tree.pid("a")
    scanner.send_signal(signal.SIGTERM)
    scanner.communicate(timeout=20)
    assert scanner.returncode == 0
    assert is_alive(pid)
    tree.ljsv("up", "a")
    assert tree.pid("a") == pid


def test_a_second_scanner_is_refused(scanning: Tree) -> None:
    """Exit 111, with the scan directory named; the first is not disturbed."""
    done = scanning.ljsv("scan", code=111)
    assert "another scanner runs" in done.stderr and str(scanning.sv) in done.stderr
    scanning.add("a")
    scanning.wait_state("a", "ready")


def test_errors_of_the_command_line(scanning: Tree) -> None:
    """Unknown verbs, names and options: 100 and 4, with a guess."""
    scanning.add("web")
    scanning.wait_state("web", "ready")
    assert scanning.ljsv("statsu", "web", code=100).stderr == "ljsv: no such verb: statsu: did you mean status?\nhint: ljsv status web\n"
    assert "did you mean status?" in scanning.ljsv("stat", "web", code=100).stderr
    assert scanning.ljsv("up", "-w", "3", "wbe", code=4).stderr == f"ljsv: wbe: no such service: {scanning.sv}/wbe: did you mean web?\nhint: ljsv up -w 3 web\n"
    assert "hint: ljsv status web -q\n" in scanning.ljsv("is-active", "web", code=100).stderr
    scanning.run("sh", "-c", scanning.ljsv("is-active", "web", code=100).stderr.partition("hint: ")[2]).check_returncode()
    assert "unknown option --jsn: did you mean --json?" in scanning.ljsv("status", "--jsn", code=100).stderr
    assert "which service?" in scanning.ljsv("down", code=100).stderr
    assert "--yes" in scanning.ljsv("remove", "web", code=100).stderr
    scanning.ljsv("exit", "web")
    assert "nobody supervises it" in scanning.ljsv("term", "web", code=102).stderr


def test_new_disable_enable_remove_purge(scanning: Tree) -> None:
    """A service's life with nothing but ljsv; its log survives `remove`, and only `purge` deletes it."""
    scanning.ljsv("new", "job", "--run", "echo made; exec sleep 1000")
    scanning.ljsv("up", "job")
    wait_for(lambda: "made" in scanning.log("job"), "its line")
    log = Path(scanning.detail("job")["log"])
    scanning.ljsv("disable", "job")
    wait_for(lambda: scanning.detail("job")["normally"] == "down", "status to know")
    scanning.ljsv("enable", "job")
    scanning.ljsv("remove", "job", "--yes")
    assert log.exists()
    scanning.ljsv("purge", "job", "--yes")
    assert not log.exists()

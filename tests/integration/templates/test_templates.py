"""Each template that is shipped: made, up, answering its protocol; killed, and there again with its data; down by itself, and up again."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ljsv.service.template import list_templates
from tests.conftest import Tree, wait_for
from tests.integration.debian import debian, debian_image
from tests.integration.ports import ask, free_port
from tests.integration.terminals import Terminal

__all__ = ["debian", "debian_image"]

HTTP = b"GET %s HTTP/1.0\r\n\r\n"


class Story(NamedTuple):
    """`answers`: what shows that it is there. `keep` writes data, and `kept` is what shows it again."""

    answers: Callable[[Tree, int], bool]
    keep: Callable[[Tree, int], object] = lambda _tree, _port: None
    kept: Callable[[Tree, int], bool] = lambda _tree, _port: True
    end: str = "exit 0"
    needs_range: bool = False


def page(path: bytes, content: str) -> Callable[[Tree, int], bool]:
    return lambda _tree, port: content in fetch(port, path)


def fetch(port: int, path: bytes) -> str:
    """All of an HTTP answer; "" while nobody answers."""
    found = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(HTTP % path)
            while data := peer.recv(65536):
                found += data
    except OSError:
        return ""
    return found.decode()


def inside(tree: Tree, *argv: str) -> str:
    """What a program says in the service's jail."""
    done = tree.ljsv("enter", "it", *argv, code=None)
    return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr}"


def sql(tree: Tree, port: int, statement: str) -> str:
    return inside(tree, "psql", "-h", "/tmp", "-p", str(port), "-At", "-c", statement)


def host_key(tree: Tree) -> str:
    return inside(tree, "dropbearkey", "-y", "-f", "/root/.ssh/host_key")


STORIES = {
    "static": Story(page(b"/", "index.html of the service"), end="SIGTERM"),
    "nginx": Story(page(b"/", "index.html of the service")),
    "redis": Story(
        lambda _tree, port: ask(port, b"PING\r\n") == "+PONG\r\n",
        lambda _tree, port: ask(port, b"SET key value\r\n"), lambda _tree, port: ask(port, b"GET key\r\n") == "$5\r\nvalue\r\n",
    ),
    "postgresql": Story(
        lambda tree, port: sql(tree, port, "SELECT 6*7") == "42\n",
        lambda tree, port: sql(tree, port, "CREATE TABLE kept AS SELECT 7 AS it"), lambda tree, port: sql(tree, port, "SELECT it FROM kept") == "7\n",
    ),
    "python-app": Story(
        page(b"/", "It works.\n"),
        lambda tree, _port: inside(tree, "touch", "/var/lib/app/venv/kept"), lambda tree, _port: inside(tree, "ls", "/var/lib/app/venv/kept") == "/var/lib/app/venv/kept\n",
    ),
    "ssh": Story(
        lambda _tree, port: ask(port).startswith("SSH-2.0-dropbear"),
        lambda tree, _port: KEYS.update({tree.root: host_key(tree)}), lambda tree, _port: host_key(tree) == KEYS[tree.root], end="exit 1", needs_range=True,
    ),
    "cron": Story(
        lambda tree, _port: tree.state("it") == "ready",
        lambda tree, _port: inside(tree, "touch", "/root/kept"), lambda tree, _port: inside(tree, "ls", "/root/kept") == "/root/kept\n",
    ),
    "node-exporter": Story(page(b"/metrics", "\nnode_memory_MemTotal_bytes "), end="SIGTERM"),
}
# Those with a story of their own, below.
OTHERS = {"getty", "job", "log-shipper"}
KEYS: dict[Path, str] = {}


def make(tree: Tree, template: str, root: Path, **settings: object) -> Path:
    """A service `it` of the template, in that root, linted clean."""
    given = {"root": root} | settings
    tree.ljsv("new", "it", "--template", template, *(word for key, value in given.items() for word in ("--set", f"{key}={value}")))
    assert "FAIL" not in tree.ljsv("lint", "it", code=None).stdout
    return tree.sv / "it"


def test_no_template_is_without_a_story() -> None:
    assert STORIES.keys() | OTHERS == list_templates().keys()


@pytest.mark.parametrize("template", STORIES)
def test_life(tree: Tree, debian_image: Path, template: str, request: pytest.FixtureRequest) -> None:
    """As its text says, whoever runs it."""
    story, port = STORIES[template], free_port()
    if story.needs_range and tree.uid:
        request.getfixturevalue("subordinate")
    tree.open_fuse()
    path = make(tree, template, debian_image, **({"port": port} if template != "cron" else {}))
    tree.ljsv("up", "it", "-w", "60", timeout_s=90)
    wait_for(lambda: story.answers(tree, port), "its answer")
    story.keep(tree, port)
    tree.kill("it")
    wait_for(lambda: tree.detail("it").get("restarts") == "1" and tree.state("it") == "ready", "the next run to be ready", 60)
    wait_for(lambda: story.answers(tree, port), "its answer")
    assert story.kept(tree, port)
    tree.ljsv("down", "it", "-w", "30")
    assert tree.detail("it")["end_text"] == story.end
    tree.ljsv("up", "it", "-w", "60", timeout_s=90)
    assert wait_for(lambda: story.answers(tree, port), "its answer") and story.kept(tree, port)
    assert (path / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("template", sorted(name for name, story in STORIES.items() if story.needs_range))
def test_one_id_is_not_enough(tree: Tree, debian_image: Path, template: str) -> None:
    """Without subordinate ids the error names what is missing."""
    if not tree.uid:
        pytest.skip("root has ids enough")
    tree.open_fuse()
    tree.ljsv("new", "it", "--template", template, "--set", f"root={debian_image}")
    done = tree.ljsv("up", "it", code=1)
    assert "subordinate ids" in done.stdout or "no entry in passwd" in done.stdout
    assert "hint: " in done.stderr


@pytest.mark.usefixtures("subordinate_or_root")
def test_ssh_lets_a_key_in(tree: Tree, debian_image: Path) -> None:
    """And nobody else; a restart reads authorized_keys."""
    port = free_port()
    tree.open_fuse()
    path = make(tree, "ssh", debian_image, port=port)
    tree.ljsv("up", "it", "-w", "60", timeout_s=90)
    inside(tree, "dropbearkey", "-t", "ed25519", "-f", "/root/id")
    (public,) = re.findall("^ssh-ed25519 .*$", inside(tree, "dropbearkey", "-y", "-f", "/root/id"), re.MULTILINE)
    login = ("dbclient", "-y", "-y", "-i", "/root/id", "-p", str(port), "root@127.0.0.1", "echo in as $(id -u)")
    assert "exit 1" in inside(tree, *login)
    (path / "authorized_keys").write_text(public + "\n")
    tree.ljsv("restart", "it", "-w", "30")
    assert inside(tree, *login) == "in as 0\n"


def test_ssh_with_one_id(tree: Tree, debian_image: Path) -> None:
    """One user, who is not root, with a terminal. Root's jails have ids enough, so that user has to be in the root's passwd: the log says so."""
    port = free_port()
    tree.open_fuse()
    path = make(tree, "ssh", debian_image, port=port, user=1000, ids="one" if tree.uid else "range")
    if not tree.uid:
        tree.ljsv("up", "it", "-w", "5", code=1)
        assert "user 1000 has no line in the passwd of this root" in tree.log("it")
        return
    tree.ljsv("up", "it", "-w", "60", timeout_s=90)
    inside(tree, "dropbearkey", "-t", "ed25519", "-f", "/home/me/id")
    (public,) = re.findall("^ssh-ed25519 .*$", inside(tree, "dropbearkey", "-y", "-f", "/home/me/id"), re.MULTILINE)
    (path / "authorized_keys").write_text(public + "\n")
    tree.ljsv("restart", "it", "-w", "30")
    login = ("dbclient", "-t", "-y", "-y", "-i", "/home/me/id", "-p", str(port), "me@127.0.0.1", "echo $(id -u) $PWD $(stty size)")
    with Terminal(tree, "ljsv", "enter", "it", *login) as terminal:
        terminal.wait_for("1000 /home/me 33 99")


@pytest.fixture
def subordinate_or_root(tree: Tree, request: pytest.FixtureRequest) -> None:
    if tree.uid:
        request.getfixturevalue("subordinate")


def test_requirements_of_a_python_app(tree: Tree, debian_image: Path) -> None:
    """Changed ones are installed at the next start; pip's own word is in the log when it cannot."""
    import zipfile

    tree.open_fuse()
    path = make(tree, "python-app", debian_image, port=free_port(), workers=1)
    with zipfile.ZipFile(path / "greet-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("greet.py", "TEXT = 'hello from a wheel'\n")
        wheel.writestr("greet-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: greet\nVersion: 1\n")
        wheel.writestr("greet-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("greet-1.dist-info/RECORD", "greet.py,,\n")
    (path / "requirements.txt").write_text("/run/service/greet-1-py3-none-any.whl\n")
    (path / "app.py").write_text("import greet\n\n\ndef app(environ, start_response):\n    start_response('200 OK', [])\n    return [greet.TEXT.encode()]\n")
    tree.own(path)
    tree.ljsv("up", "it", "-w", "60", timeout_s=90)
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", (path / "run").read_text())[0])
    assert "hello from a wheel" in wait_for(lambda: fetch(port, b"/"), "its answer")


def test_jobs_of_cron(tree: Tree, debian_image: Path) -> None:
    """One at the start, one each minute; a failure is told, and one under way is waited for at the end. A line that is none is an error."""
    tree.open_fuse()
    path = make(tree, "cron", debian_image)
    (path / "crontab").write_text("* * * * * echo a minute\n@reboot echo at the start; exit 3\n@reboot trap '' TERM; echo begun; sleep 1; echo whole\n")
    tree.ljsv("up", "it")
    wait_for(lambda: "line 2: ended with 3" in tree.log("it") and "begun" in tree.log("it"), "the jobs of the start")
    tree.ljsv("down", "it")
    assert "whole" in tree.log("it")
    if tree.uid:  # once is enough for a minute
        tree.ljsv("up", "it")
        wait_for(lambda: "a minute" in tree.log("it"), "the minute", 70)
    (path / "crontab").write_text("* * * * echo\n")
    assert "line 1: not five fields" in tree.ljsv("restart", "it", code=1).stderr


def test_getty_is_for_root(tree: Tree) -> None:
    """Anybody else is told so. What root sees is a story of the virtual machine, which has a console to spare."""
    tree.ljsv("new", "it", "--template", "getty")
    said = tree.ljsv("lint", "it", code=None).stdout
    assert "root's scanner" in said if tree.uid else "privileged" in said


def test_job(tree: Tree) -> None:
    """Done once; one that fails is tried as often as was said."""
    tree.ljsv("new", "it", "--template", "job", "--set", "tries=2")
    tree.ljsv("up", "it")
    tree.wait_state("it", "down")
    assert tree.log("it").splitlines() == ["the job is done"]
    (tree.sv / "it/run").write_text("#!/bin/sh\nexit 3\n")
    tree.ljsv("up", "it", code=None)  # it may count as up for a moment
    detail = tree.wait_state("it", "failed")
    assert detail["end_text"] == "exit 3"


def test_log_shipper(tree: Tree, debian_image: Path) -> None:
    """Each line arrives, also over a rotation and after it was killed; a receiver that goes away is found again."""
    tree.open_fuse()
    tree.add("noisy", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000", policy='[log]\nmax_size = "16K"\nkeep = 1000\n')
    tree.ljsv("up", "noisy")
    got: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=receive, args=(server, got), daemon=True).start()
        logs = Path(tree.detail("noisy")["log"]).parent
        make(tree, "log-shipper", debian_image, logs=logs, port=port)
        tree.ljsv("up", "it", "-w", "30")
        wait_for(lambda: len(set(got)) > 100, "lines")
        tree.kill("it")
        wait_for(lambda: set(got) >= {f"line {number}" for number in range(3000)}, "every line")
        before = len(got)
        tree.ljsv("restart", "noisy")
        wait_for(lambda: got[before:].count("line 2999") >= 1, "the lines of the next run")
        tree.ljsv("down", "it")


def receive(server: socket.socket, got: list[str]) -> None:
    """Every line of every connection, without its time stamp, until the server is closed."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer, peer.makefile("r") as lines:
            try:
                got += (line.rstrip("\n").partition("Z ")[2] for line in lines)
            except OSError:
                continue

"""Completion, with the shells themselves: what TAB offers, and that no service's name is ever run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree
from tests.integration.terminals import Terminal

EVIL = "$(touch${IFS}evil)"
RESOURCES = Path(__file__).parents[3] / "ljsv/resources/completion"


@pytest.fixture
def services(tree: Tree) -> Tree:
    """Three service directories, one of them with a name that a careless script would run."""
    for name in ("web", "worker", EVIL, ".hidden"):
        (tree.sv / name).mkdir()
    (tree.sv / "a-file").write_text("")
    for source in RESOURCES.iterdir():
        shutil.copy(source, tree.root)
    return tree


def need_shell(name: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")


def bash(tree: Tree, *words: str) -> list[str]:
    """What bash offers for the last word."""
    script = """
        source ./ljsv.bash
        compopt() { :; }
        command_name=$1; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _$command_name; printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = tree.run("bash", "-c", script, "bash", *words)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return sorted(done.stdout.split("\n")[:-1])


def fish(tree: Tree, line: str) -> list[str]:
    """What fish offers at the end of the line, without the descriptions."""
    done = tree.run("fish", "--no-config", "-c", f'source ./ljsv.fish; complete -C "{line}"')
    assert done.returncode == 0 and not done.stderr, done.stderr
    return sorted(line.split("\t")[0] for line in done.stdout.splitlines())


def test_bash(services: Tree) -> None:
    """Verbs, options of the verb, names, states, fields after a comma, another scan directory."""
    need_shell("bash")
    assert bash(services, "ljsv", "res") == ["reset-failed", "restart"]
    assert bash(services, "ljsv", "up", "w") == ["web", "worker"]
    assert bash(services, "ljsv", "-w", "5", "up", "we") == ["web"]
    assert bash(services, "ljsv", "logs", "--f") == ["--follow"]
    assert bash(services, "ljsv", "logs", "-f", "we") == ["web"]  # a flag here, with a value elsewhere
    assert bash(services, "ljsv", "wait", "web", "re") == ["ready"]
    assert bash(services, "ljsv", "enter", "we") == ["web"]
    assert "ls" in bash(services, "ljsv", "enter", "web", "ls")
    assert bash(services, "ljsv", "status", "-o", "name,sta") == ["name,state", "name,status_text"]
    assert bash(services, "ljsv", "completion", "") == ["bash", "fish", "zsh"]
    assert bash(services, "ljexec", "--net", "") == ["host", "none"]
    assert bash(services, "ljexec", "--ov") == ["--overlay-dir"]
    (services.root / "other/db").mkdir(parents=True)
    assert bash(services, "ljsv", "--svdir", "other", "down", "") == ["db"]
    assert bash(services, "ljsv", "--svdir", "=", "other", "down", "") == ["db"]


def test_bash_runs_no_name(services: Tree) -> None:
    """It is offered quoted, and nothing was run to find it."""
    need_shell("bash")
    offered = bash(services, "ljsv", "up", "")
    assert len(offered) == 3 and "web" in offered
    (evil,) = set(offered) - {"web", "worker"}
    assert subprocess.run(["bash", "-c", f"printf %s {evil}"], capture_output=True, text=True).stdout == EVIL
    assert not list(services.root.rglob("evil"))


def test_fish(services: Tree) -> None:
    """The same of fish, which has a command for it."""
    need_shell("fish")
    assert fish(services, "ljsv res") == ["reset-failed", "restart"]
    assert fish(services, "ljsv up w") == ["web", "worker"]
    assert fish(services, "ljsv logs --f") == ["--follow"]
    assert fish(services, "ljsv logs -f we") == ["web"]
    assert fish(services, "ljsv wait web re") == ["ready"]
    assert fish(services, "ljexec --net ") == ["host", "none"]
    (services.root / "other/db").mkdir(parents=True)
    assert fish(services, "ljsv --svdir other down ") == ["db"]
    assert len(fish(services, "ljsv up ")) == 3
    assert not list(services.root.rglob("evil"))


def test_zsh(services: Tree) -> None:
    """Typed on a terminal, since zsh completes nowhere else."""
    need_shell("zsh")
    with Terminal(services, "zsh", "-f", "-i") as terminal:
        terminal.ask("PROMPT='Z> '; autoload -Uz compinit; compinit -D -u; fpath=(. $fpath); autoload -Uz _ljsv; compdef _ljsv ljsv ljexec; echo se''t", "set")
        for typed, shown in (
            ("ljsv up we\t", "ljsv up web"), ("ljsv resta\t", "ljsv restart"), ("ljsv logs --foll\t", "ljsv logs --follow"),
            ("ljsv logs -f work\t", "ljsv logs -f worker"), ("ljexec --net no\t", "ljexec --net none"), ("ljsv wait web rea\t", "ljsv wait web ready"), ("ljsv status -o end_c\t", "ljsv status -o end_code"),
        ):
            begin = len(terminal.shown)
            terminal.type(typed)
            terminal.wait_for(shown[len(typed.split("\t")[0]) :], since=begin)
            terminal.type("\x15")
        begin = len(terminal.shown)
        terminal.type("ljsv up \t\t")
        terminal.wait_for("touch", since=begin)
        terminal.type("\x15")
    assert not list(services.root.rglob("evil"))


def test_the_verb_prints_them(tree: Tree) -> None:
    """`ljsv completion SHELL` is what is shipped; a shell that it does not know is refused."""
    for shell, name in (("bash", "ljsv.bash"), ("zsh", "_ljsv"), ("fish", "ljsv.fish")):
        assert tree.ljsv("completion", shell).stdout == (RESOURCES / name).read_text()
    assert "hint: ljsv completion bash" in tree.ljsv("completion", "tcsh", code=100).stderr

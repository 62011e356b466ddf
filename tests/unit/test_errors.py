"""Every error that ljsv can print, in one list: read it as a user would. And each says what to do next."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# Errors whose reader has nothing to type: he has just said no, the doctor's check has a hint of its own, or `ljsv up` and
# `ljsv why` add theirs. An input that is damaged, hostile or too large (ljsv/images, ljsv/cli/takeover) cannot be mended with a command either.
WITHOUT_HINT = {
    "left as it is", "hard limit {hard}", "XDG_RUNTIME_DIR is not set", "cannot run a script: {name}: the service does not run",
    "cannot start: {self._directory()}/exit: {message}", "cannot list the image: {path}: its listing is larger than {LISTING_MAX} bytes",
    "cannot start: {the file}: {what the system says}", "{what}: {path}: {os.fsdecode(said)}",
}

COMMANDS = (
    "apt-get", "cat", "chmod", "chown", "df", "dmesg", "du", "find", "findmnt", "fuser", "grep", "head", "ljexec", "ljsv", "ls", "lsattr", "loginctl",
    "mkdir", "mksquashfs", "mv", "rm", "sort", "sudo", "sv", "tail", "ulimit", "unsquashfs", "wc",
)


def blocks() -> list[list[str]]:
    return [block.splitlines() for block in ("\n" + (CHECKOUT / "tests/unit/errors.txt").read_text()).split("\nljsv/")[1:]]


def test_the_list_is_that_of_the_code() -> None:
    """A new or changed error: read it in the list, then `tools/list-errors --write`, and commit."""
    done = subprocess.run([sys.executable, CHECKOUT / "tools/list-errors", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nread these as a user would, then: tools/list-errors --write"


def test_each_error_has_a_hint() -> None:
    """What to do next, best a command that can be pasted."""
    bare = [block for block in blocks() if block[-1].strip() == "hint:" and block[1].strip() not in WITHOUT_HINT and not block[0].startswith(("images/", "cli/takeover/"))]
    assert bare == [], "give it a hint, or say in WITHOUT_HINT why there is nothing to do"


def hints() -> list[str]:
    return [line.strip().removeprefix("hint: ") for block in blocks() for line in block if line.strip().startswith("hint: ")]


def commands_of(hint: str) -> list[list[str]]:
    """The words of each command in it, as a shell reads them; what is in braces is one word."""
    while hint != (hint := re.sub(r"\{[^{}]*\}", "X", hint)):
        pass
    lexer = shlex.shlex(re.split(r"(?:^| )#", hint)[0], posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";|&"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def test_a_hint_that_begins_as_a_command_is_one() -> None:
    """To the end of the line, when pasted: whatever else is to be said stands behind a #."""
    prose = {"or", "is", "has", "makes", "shows", "goes", "allows", "takes"}
    begin_as_commands = [part for hint in hints() for part in hint.split(" | ") if part.split(" ")[0] in COMMANDS]
    assert begin_as_commands
    for hint in begin_as_commands:
        for words in commands_of(hint):
            assert words and words[0] in {*COMMANDS, "X"}, hint
            assert not prose & set(words) and not any(word.endswith((",", "?")) for word in words), hint


def test_paths_in_commands_are_quoted() -> None:
    """A hint that is a command can be pasted, whatever spaces its paths have."""
    commands = rf"(?:^|[ :;|&])(?:{'|'.join(COMMANDS)}) "
    path = r"\{[\w.]*(?:path|folder|directory|place|svdir|target|source|overlay|store)\}"
    assert [hint for hint in hints() if re.search(f"{commands}[^;|&]*{path}", re.sub(r"quote\([^)]*\)", "", hint))] == []


def test_errors_are_of_one_shape() -> None:
    """No capital at the beginning, no full stop or exclamation mark at the end, no apology: `action: object: cause`."""
    for block in blocks():
        printed = block[1].strip()
        assert printed and not printed[0].isspace(), block
        assert printed[0] == "{" or not printed.split()[0].istitle() or printed.split()[0] == "Linux", block
        assert printed.endswith("...") or not printed.endswith((".", "!")), block
        assert not any(word in printed.lower().split() for word in ("sorry", "error:", "oops")), block

"""`ljsv completion SHELL`: the completion for bash, zsh or fish, to be sourced or kept where that shell looks for it."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files

from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_OK

OPTIONS: dict[str, str] = {}
FILES = {"bash": "ljsv.bash", "zsh": "_ljsv", "fish": "ljsv.fish"}


def run(_verb: str, options: Options) -> int:
    if len(options.operands) != 1 or options.operands[0] not in FILES:
        close = get_close_matches("".join(options.operands[:1]), FILES, 1) or ["bash"]
        raise usage("which shell? bash, zsh or fish", hint=f"ljsv completion {close[0]}")
    print((files("ljsv") / "resources/completion" / FILES[options.operands[0]]).read_text(), end="")
    return EXIT_OK

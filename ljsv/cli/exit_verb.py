"""`ljsv exit`: stop, and end the supervisor; with --all the scanner too."""

from __future__ import annotations

from ljsv.cli import steer
from ljsv.cli.context import Context
from ljsv.cli.options import Options

OPTIONS = steer.OPTIONS


def run(_verb: str, options: Options) -> int:
    return steer.exit_(Context(options.get("--svdir"), options))

"""`ljsv once`: start, and do not restart when it ends."""

from __future__ import annotations

from ljsv.cli import steer
from ljsv.cli.context import Context
from ljsv.cli.options import Options

OPTIONS = steer.OPTIONS


def run(_verb: str, options: Options) -> int:
    return steer.start(Context(options.get("--svdir"), options), "o")

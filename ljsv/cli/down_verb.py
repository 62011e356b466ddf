"""`ljsv down`: stop, and wait until it is down."""

from __future__ import annotations

from ljsv.cli import steer
from ljsv.cli.context import Context
from ljsv.cli.options import Options

OPTIONS = steer.OPTIONS


def run(_verb: str, options: Options) -> int:
    return steer.stop(Context(options.get("--svdir"), options))

"""The verbs that wait for what they asked: up, once, restart, reset-failed, down, exit."""

from __future__ import annotations

from ljsv.cli import ending, steer
from ljsv.cli.context import Context
from ljsv.cli.options import Options

OPTIONS = steer.OPTIONS
ACTIONS = {
    "up": lambda context: steer.start(context, "u"),
    "once": lambda context: steer.start(context, "o"),
    "restart": steer.restart,
    "reset-failed": steer.reset_failed,
    "down": steer.stop,
    "exit": ending.run_exit,
}


def run(verb: str, options: Options) -> int:
    return ACTIONS[verb](Context(options.get("--svdir"), options))

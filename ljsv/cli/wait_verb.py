"""`ljsv wait`: sleep until services are ready, or down; nothing is sent."""

from __future__ import annotations

from ljsv.cli import steer
from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage

OPTIONS = {**steer.OPTIONS, "--for": "up|down"}


def run(_verb: str, options: Options) -> int:
    wanted = options.get("--for", "up")
    if wanted not in {"up", "down"}:
        raise usage(f"--for wants up or down: found {wanted!r}")
    context = Context(options.get("--svdir"), options)
    names = context.names()
    verdict = steer.is_up if wanted == "up" else steer.is_down
    return steer.steer(context, names, dict.fromkeys(names, ""), verdict)

"""`ljsv scan`: the scanner, in the foreground or as a daemon."""

from __future__ import annotations

import os

from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_OK
from ljsv.paths import Places, find_svdir

OPTIONS = {"--daemon": "", "--log-cap": "SIZE"}


def run(_verb: str, options: Options) -> int:
    if len(options.operands) > 1:
        raise usage("one scan directory, please")
    named = (options.operands or [options.get("--svdir")])[0]
    svdir, _ = find_svdir(named, dict(os.environ), os.geteuid())
    if options.has("--log-cap"):
        from ljsv.service.settings import parse_log_cap

        parse_log_cap(options.get("--log-cap"), "--log-cap")
        os.environ["LJSV_LOG_CAP"] = options.get("--log-cap")
    if options.has("--daemon"):
        from ljsv.supervise.daemon import launch_scanner

        launch_scanner(os.path.realpath(svdir))
        return EXIT_OK
    from ljsv.supervise.scanner import Scanner

    places = Places(svdir, dict(os.environ), os.geteuid())
    return Scanner(places, is_foreground=True).main()

"""Log throughput: 100-byte lines through a pipe to a file with a timestamp on each, and none of them lost."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from time import perf_counter

from side_by_side import Bench, Figure, Ljsv, median, spread, take_turns

BUDGET = 10.0
ROUNDS = 8
LINE = 100
LINES = 640_000
OUR_STAMP = len("2026-11-23T18:05:07.123456Z ")
THEIR_STAMP = len("2026-11-23_18:05:07.12345 ")
TIMEOUT_S = 60
# The lines come from tmpfs; the service writes its name before and after, so that its jail's start does not count.
PROGRAM = "#!/bin/sh\necho {name} >at/started\nread -r go <at/go\ncat /mnt/lines\necho {name} >at/started\n"


def measure(bench: Bench) -> list[Figure]:
    lines = LINES // (10 if bench.is_quick else 1)
    data = b"".join(b"%0*d\n" % (LINE - 1, number) for number in range(lines))
    source = bench.memory_folder / "lines"
    source.write_bytes(data)
    try:
        ours, theirs = take_turns(
            bench.count(ROUNDS), lambda: _through_ljsv(bench, source, data), lambda: _through_svlogd(bench, source, data)
        )
    finally:
        source.unlink()
    return [
        Figure(
            row="log", reference_name="svlogd -tt", unit="MB/s", ours=median(ours), reference=median(theirs), budget=BUDGET,
            bigger_is_better=True, note=f"every line checked; {spread(ours)}",
        )
    ]


def _through_ljsv(bench: Bench, source: Path, data: bytes) -> float:
    tree = bench.tree(
        Ljsv, 0, program=PROGRAM, policy='[restart]\nwhen = "never"\n[log]\nmax_size = "1G"\n',
        rootfs=f'[[bind]]\nfrom = "{source}"\nto = "/mnt/lines"\n',
    )
    assert isinstance(tree, Ljsv)
    directory = tree.make_service("s0", tree.scan)
    go = directory / "at/go"
    os.mkfifo(go)
    go_fd = os.open(go, os.O_RDWR)
    tree.start()
    tree.wait_started(1)
    tree.wait_ready(["s0"])
    time.sleep(0.2)
    log = tree.log_of("s0")
    begin = perf_counter()
    os.write(go_fd, b"go\n")
    took = _wait_for_size(log, len(data) // LINE * (LINE + OUR_STAMP)) - begin
    os.close(go_fd)
    tree.stop()
    _check(log.read_bytes(), data, OUR_STAMP)
    bench.end_everything()
    return len(data) / 1e6 / took


def _through_svlogd(bench: Bench, source: Path, data: bytes) -> float:
    folder = bench.new_folder("svlogd")
    (folder / "config").write_text("s0\nn0\n")
    read_fd, write_fd = os.pipe()
    logger = subprocess.Popen(["/usr/bin/svlogd", "-tt", str(folder)], stdin=read_fd)
    os.close(read_fd)
    time.sleep(0.2)
    begin = perf_counter()
    writer = subprocess.Popen(["/bin/cat", str(source)], stdout=write_fd)
    os.close(write_fd)
    took = _wait_for_size(folder / "current", len(data) // LINE * (LINE + THEIR_STAMP)) - begin
    writer.wait(TIMEOUT_S)
    logger.wait(TIMEOUT_S)
    _check((folder / "current").read_bytes(), data, THEIR_STAMP)
    (folder / "current").unlink()
    return len(data) / 1e6 / took


def _wait_for_size(path: Path, size: int) -> float:
    """When the file had that size."""
    give_up_at = perf_counter() + TIMEOUT_S
    while True:
        have = path.stat().st_size if path.exists() else 0
        moment = perf_counter()
        if have >= size:
            return moment
        if moment > give_up_at:
            message = f"{path}: {have} of {size} bytes after {TIMEOUT_S} s: lines were lost"
            raise TimeoutError(message)
        time.sleep(0.001)


def _check(log: bytes, data: bytes, stamp: int) -> None:
    if b"\n".join([line[stamp:] for line in log.split(b"\n")]) != data:
        message = "the log does not hold every line exactly once"
        raise RuntimeError(message)

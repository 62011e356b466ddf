"""Stamps and rotation; the exactly-once steps, cut off at every point."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.cli.logs_verb import LogReader
from ljsv.supervise.events import Events
from ljsv.supervise.log import Log, add_stamps, stamp
from ljsv.supervise.logfile import LogFile
from ljsv.supervise.logs import Logs
from ljsv.supervise.loop import Loop

LINES = st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20)


@given(LINES, st.integers(1, 30))
def test_every_line_gets_one_stamp_however_it_is_cut(lines: list[bytes], size: int) -> None:
    """Chunks that end within lines make no difference."""
    data = b"".join(line + b"\n" for line in lines)
    out, at_start = b"", True
    for position in range(0, len(data), size):
        chunk = data[position : position + size]
        out += add_stamps(chunk, b"@", at_line_start=at_start)
        at_start = chunk.endswith(b"\n")
    assert out == b"".join(b"@" + line + b"\n" for line in lines)


def test_stamp_is_utc_with_microseconds() -> None:
    """RFC 3339."""
    assert stamp(1_000_000_000_123_456_789) == b"2001-09-09T01:46:40.123456Z "


class Killed(BaseException):
    """The supervisor ends here."""


@pytest.mark.parametrize("renamed_to", ["logs", "other"])
@pytest.mark.parametrize("at", ["splice", "append", "append half", "ftruncate"])
def test_killed_at_every_step_nothing_is_lost_or_doubled(tmp_path: Path, at: str, renamed_to: str) -> None:
    """A new supervisor carries on from staging and FIFO, also where its service has the name of another log by now."""
    logs = tmp_path / "logs"

    def new_log() -> Log:
        return Log(str(tmp_path), LogFile(str(logs), 1 << 20, 3))

    first = new_log()
    holder = os.open(first.fifo_path, os.O_RDWR)  # as pid 1 of the jail holds it
    os.write(holder, b"one\n")
    while first.pump():
        pass
    os.write(holder, b"two\nthree\n")
    real_append = LogFile.append

    def dying_append(self: LogFile, data: bytes) -> None:
        if at == "append half":
            real_append(self, data[: len(data) // 2])
        elif at == "ftruncate":
            real_append(self, data)
        raise Killed

    real_splice = os.splice

    def dying_splice(*args: int, **kwargs: int) -> int:
        real_splice(*args, **kwargs)
        raise Killed

    patches = [mock.patch.object(os, "splice", dying_splice)] if at == "splice" else [mock.patch.object(LogFile, "append", dying_append)]
    with patches[0], pytest.raises(Killed):
        first.pump()
    first.close()
    second = new_log()
    if renamed_to != "logs":
        (tmp_path / renamed_to).mkdir()
        second.file.directory, second.file.was_in = str(tmp_path / renamed_to), str(logs)
    while second.pump():
        pass
    text = "".join((tmp_path / folder / "current").read_text() for folder in dict.fromkeys(("logs", renamed_to)))
    assert [re.sub(r"^\S+Z ", "", line) for line in text.splitlines()] == ["one", "two", "three"]
    second.close()
    os.close(holder)


def test_killed_after_the_supervise_directory_had_vanished_nothing_is_lost(tmp_path: Path) -> None:
    """What was taken out of the FIFO that has lost its name is where the next supervisor looks."""
    gone, anew, kept = tmp_path / "gone", tmp_path / "anew", tmp_path / "logs"
    gone.mkdir()
    anew.mkdir()
    loop = Loop()
    with open(os.devnull, "wb") as null:
        logs = Logs(loop, "log", Events(null.fileno(), "a"), LogFile(str(kept), 1 << 20, 3), lambda: None, lambda: None)
        logs.open(str(gone))
        holder = os.open(gone / "log.fifo", os.O_RDWR)  # as pid 1 of the jail holds it
        shutil.rmtree(gone)
        logs.open(str(anew))
        os.write(holder, b"one\n")
        with mock.patch.object(LogFile, "append", side_effect=Killed), pytest.raises(Killed):
            logs.pump()
        again = Log(str(anew), LogFile(str(kept), 1 << 20, 3), holder)
        os.write(holder, b"two\n")
        while again.pump():
            pass
    assert [line.partition("Z ")[2] for line in (kept / "current").read_text().splitlines()] == ["one", "two"]
    again.close()
    logs.close()
    loop.close()


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A write that fails half-way leaves no half, and is done again."""
    log = Log(str(tmp_path), LogFile(str(tmp_path / "logs"), 1 << 20, 3))
    holder = os.open(log.fifo_path, os.O_RDWR)
    os.write(holder, b"one\n")
    real_write = os.write
    with mock.patch.object(os, "write", lambda fd, data: real_write(fd, bytes(data)[:5]) if os.fstat(fd).st_size < 5 else _full()), pytest.raises(OSError, match="No space"):
        log.pump()
    assert (tmp_path / "logs/current").read_bytes() == b""
    while log.pump():
        pass
    assert (tmp_path / "logs/current").read_text().endswith("Z one\n")
    log.close()
    os.close(holder)


def _full() -> int:
    raise OSError(28, "No space left on device")


@given(st.integers(0, 4), st.lists(st.integers(1, 6), max_size=6))
def test_rotation_is_bounded_and_in_order(keep: int, gaps: list[int]) -> None:
    """At most `keep` files, newest first; gaps that a kill left are filled, not followed by a loss."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        file = LogFile(name, 1, keep)
        file.open()
        for number in range(8):
            file.append(b"%d\n" % number)
            file.rotate()
        for gap in gaps:
            (directory / f"current.{gap}").unlink(missing_ok=True)
        left = {int(path.read_text()) for path in directory.glob("current.*")}
        file.append(b"8\n")
        file.rotate()
        now = [int((directory / f"current.{n}").read_text()) for n in range(1, keep + 1) if (directory / f"current.{n}").exists()]
        assert now == sorted(now, reverse=True)
        assert len(list(directory.glob("current.*"))) <= keep
        if keep:
            assert now[0] == 8
            assert len(now) == min(keep, len(left) + 1)
        file.close()


def test_a_log_that_is_followed_before_it_is_there(tmp_path: Path) -> None:
    """It begins with its oldest file, however often it was rotated before it was looked at."""
    reader = LogReader(str(tmp_path / "logs/current"), str(tmp_path))
    file = LogFile(str(tmp_path / "logs"), 1, 10)
    for number in range(4):
        file.open()
        file.append(b"%d\n" % number)
        if number < 3:
            file.rotate()
    file.close()
    lines = [line for _ in range(6) for line in reader.new_lines()]
    assert lines == [b"0\n", b"1\n", b"2\n", b"3\n"]

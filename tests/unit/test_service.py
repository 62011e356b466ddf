"""rootfs, limits and policy: read whole, refused with key, found and allowed."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.errors import Fault
from ljsv.service import schema, toml, units
from ljsv.service.read import read_service

REFUSED = [
    (schema.Limits, "memory = 512", ["f: memory: found 512", '"512M"']),
    (schema.Limits, "memroy = '5M'", ["unknown key memroy", "did you mean 'memory'?"]),
    (schema.Limits, "pids = true", ["pids: found true", "a whole number"]),
    (schema.Limits, "pids = 0", ["pids: found 0", "2 to 4194304"]),
    (schema.Limits, "memory = '1M'\nmemory_high = '2M'", ["memory_high", "no more than memory"]),
    (schema.Limits, "cpu = '25'", ["cpu: found '25'", "25%"]),
    (schema.Rootfs, "writable = true", ["writable: found true", '"no", "tmpfs", "overlay", "direct"']),
    (schema.Rootfs, "bind = 5", ["bind: found 5", "a list"]),
    (schema.Rootfs, "bind = ['x']", ["bind[0]: found 'x'", "a table"]),
    (schema.Rootfs, "[[bind]]\nfrom = '/a'", ["missing key bind[0].to"]),
    (schema.Rootfs, "[[bind]]\nfrom = '/a'\nto = '../b'", ["bind[0].to: found '../b'", "absolute path"]),
    (schema.Rootfs, "[[bind]]\nfrom = '/a'\nto = '/'", ["bind[0].to", "not / itself"]),
    (schema.Rootfs, "[[bind]]\nfrom = '/a'\nto = '/b'\nx = 1", ["unknown key bind[0].x", "from, to, writable"]),
    (schema.Rootfs, "security.capabilities = ['SYS_ADMIN']", ["security.capabilities[0]", "any capability but SYS_ADMIN"]),
    (schema.Rootfs, "hostname = 'a b'", ["hostname", "letters"]),
    (schema.Policy, "restart = 'x'", ["restart: found 'x'", "a table, [restart]"]),
    (schema.Policy, "[restart]\ndelay = 1.5", ["restart.delay: found 1.5", "with its unit"]),
    (schema.Policy, "[restart]\ndelay = '0s'", ["restart.delay", "longer than 0s"]),
    (schema.Policy, "[restart]\ndelay = '2m'", ["restart.max_delay", "no shorter than restart.delay"]),
    (schema.Policy, "[stop]\nsignal = 'NOPE'", ["stop.signal: found 'NOPE'", "without SIG"]),
    (schema.Policy, "needs = 'db'", ["needs: found 'db'", "a list"]),
    (schema.Policy, "x =", ["not valid TOML"]),
    (schema.Policy, "\x00", ["not valid TOML"]),
]


@pytest.mark.parametrize(("kind", "text", "words"), REFUSED)
def test_refusals_name_file_key_found_and_allowed(kind: type, text: str, words: list[str]) -> None:
    """And carry a hint."""
    with pytest.raises(Fault) as caught:
        toml.parse(text.encode(), kind, "f")
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


def test_bytes_that_are_no_text() -> None:
    """Not a traceback."""
    with pytest.raises(Fault, match="not UTF-8"):
        toml.parse(b"\xff", schema.Policy, "f")


def test_the_design_s_example() -> None:
    """As it stands in the reference."""
    rootfs = toml.parse(
        b'base = "images/x"\nwritable = "tmpfs"\nhostname = "web"\nuser = "www-data"\nids = "one"\nnetwork = "none"\n'
        b'[[bind]]\nfrom = "/srv/www"\nto = "/var/www"\n[[tmpfs]]\nat = "/var/cache"\nsize = "64M"\n[security]\ncapabilities = ["-CHOWN"]',
        schema.Rootfs, "f",
    )
    assert rootfs.bind == (schema.Bind(from_="/srv/www", to="/var/www"),)
    assert rootfs.tmpfs[0].size == 64 << 20
    limits = toml.parse(b'memory = "512M"\ncpu = "25%"\npids = 64\nnofile = 1024', schema.Limits, "f")
    assert (limits.memory, limits.cpu) == (512 << 20, 25.0)
    policy = toml.parse(b'[restart]\nwhen = "failure"\n[stop]\nsignal = "INT"\ntimeout = "1m30s"', schema.Policy, "f")
    assert policy.stop.timeout == 90.0


@given(st.recursive(st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.floats(-9, 9)), lambda v: st.lists(v, max_size=3)), st.sampled_from([schema.Rootfs, schema.Limits, schema.Policy]), st.data())
def test_any_value_of_any_key_is_taken_or_refused_never_a_crash(value: object, kind: type, data: st.DataObject) -> None:
    """Fault is the only exception."""
    name = data.draw(st.sampled_from([f.name for f in fields(kind)]))
    try:
        toml.parse(f"{name} = {to_toml(value)}".encode(), kind, "f")
    except Fault as fault:
        assert str(fault)


def to_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    return repr(value)


@given(st.integers(0, 10**9))
def test_durations_come_back(milliseconds: int) -> None:
    """What is shown can be read."""
    assert units.parse_duration(units.format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize("text", ["", "5", "5 s", "-1s", "s", "1h1", "500d", "1e9s"])
def test_durations_without_sense(text: str) -> None:
    """A unit is needed, a year is the most."""
    with pytest.raises(ValueError, match="unit"):
        units.parse_duration(text)


def test_every_key_is_documented() -> None:
    """The schema is the manual."""
    pending: list[type] = [schema.Rootfs, schema.Limits, schema.Policy]
    while pending:
        kind = pending.pop()
        hints = get_type_hints(kind)
        for item in fields(kind):
            assert item.metadata["doc"], item.name
            pending += [inner for inner in (hints[item.name], *get_args(hints[item.name])) if is_dataclass(inner)]


def test_env_is_read_as_chpst_reads_it(tmp_path: Path) -> None:
    """First line, trailing blanks off, NUL for newline, an empty file unsets, hidden files ignored."""
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "rootfs").write_text('base = "host"\n')
    env = tmp_path / "env"
    env.mkdir()
    for name, data in {"A": b"x \t\nsecond", "B": b"a\0b\n", "C": b"", "D": b"\n", ".E": b"x"}.items():
        (env / name).write_bytes(data)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        service = read_service(str(tmp_path), fd, uid=1)
    finally:
        os.close(fd)
    assert service.env == (("A", "x"), ("B", "a\nb"), ("C", None), ("D", ""))

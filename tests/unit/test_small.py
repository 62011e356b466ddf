"""Options, names, settling, paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.cli import options, show
from ljsv.errors import Fault
from ljsv.paths import Places, find_svdir, is_service_name, trust_fault
from ljsv.supervise.settle import BELOW_QUIET_S, INCOMPLETE_QUIET_S, TOP_QUIET_S, Settling

KNOWN = {"-n": "LINES", "-f": options.FLAG, "--svdir": "DIR", "--json": options.FLAG}


@pytest.mark.parametrize(
    ("words", "values", "operands"),
    [
        (["a", "-f", "b"], {"-f": ""}, ["a", "b"]),
        (["-n5", "a"], {"-n": "5"}, ["a"]),
        (["-n", "5", "--svdir=x", "a"], {"-n": "5", "--svdir": "x"}, ["a"]),
        (["--", "-f"], {}, ["-f"]),
        (["-"], {}, ["-"]),
    ],
)
def test_options_before_between_and_after(words: list[str], values: dict[str, str], operands: list[str]) -> None:
    """As people write them."""
    parsed, rest = options.parse(words, KNOWN)
    assert (parsed.values, parsed.operands, rest) == (values, operands, [])


@pytest.mark.parametrize("words", [["-x"], ["--svdir"], ["--json=1"], ["-n"]])
def test_options_that_are_wrong(words: list[str]) -> None:
    """Usage, with a hint."""
    with pytest.raises(Fault) as caught:
        options.parse(words, KNOWN)
    assert caught.value.exit_code == 100


def test_numbers_are_checked() -> None:
    """Not a traceback."""
    parsed, _ = options.parse(["-n", "many"], KNOWN)
    with pytest.raises(Fault, match="-n wants a number"):
        parsed.number("-n", 1)


@given(st.text(max_size=80))
def test_names_of_services(name: str) -> None:
    """Never a path, never hidden, never unprintable."""
    if is_service_name(name):
        assert name and name[0] != "." and "/" not in name and name.isprintable() and len(name.encode()) <= 64


def test_settling_waits_for_quiet() -> None:
    """200 ms at the top, 2 s below, 10 s where something is missing."""
    assert Settling(5.0, 5.0, is_complete=True).due() == 5.0 + TOP_QUIET_S
    assert Settling(5.0, 6.0, has_tree=True, is_complete=True).due() == 6.0 + BELOW_QUIET_S
    assert Settling(5.0, 5.0).due() == 5.0 + INCOMPLETE_QUIET_S


def test_places_of_root_and_others(tmp_path: Path) -> None:
    """The table of the design."""
    sv = tmp_path / "sv"
    sv.mkdir()
    root = Places(str(sv), {}, 0)
    assert root.runtime and root.runtime.startswith("/run/ljsv/sv-")
    assert root.log_of("web").startswith("/var/log/ljsv/sv-") and root.log_of("web").endswith("/web")
    user = Places(str(sv), {"HOME": "/home/u", "XDG_RUNTIME_DIR": str(tmp_path)}, 1000)
    assert user.runtime_of("web") == f"{tmp_path}/ljsv/{root.runtime.rpartition('/')[2]}/web"
    assert user.logs.startswith("/home/u/.local/state/ljsv/log/sv-")
    plain = Places(str(sv), {"HOME": "/home/u"}, 1000)
    assert plain.runtime_of("web") is None and plain.scanner == f"{sv}/.ljsv"


def test_scan_directory_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--svdir, $SVDIR, ./sv, the configuration's; each must be there."""
    for name in ("a", "b", "home/.config/ljsv/sv"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path / "home"), "SVDIR": str(tmp_path / "b")}
    uid = os.geteuid() or 1
    assert find_svdir(str(tmp_path / "a"), env, uid) == (str(tmp_path / "a"), "--svdir")
    assert find_svdir("", env, uid)[1] == "$SVDIR"
    assert find_svdir("", {"HOME": env["HOME"]}, uid) == (f"{env['HOME']}/.config/ljsv/sv", "")
    (tmp_path / "sv").mkdir(mode=0o755)
    assert find_svdir("", {"HOME": env["HOME"]}, uid) == ("sv", "./sv")
    (tmp_path / "sv").chmod(0o777)
    assert trust_fault("sv", uid, strict=True)
    with pytest.raises(Fault, match="No such file"):
        find_svdir("/no/such", {}, uid)


@pytest.mark.parametrize(("seconds", "text"), [(9.9, "9s"), (252, "4m12s"), (11520, "3h12m"), (187200, "2d4h"), (-1, "0s")])
def test_ages(seconds: float, text: str) -> None:
    """Two units at most."""
    assert show.age(seconds) == text

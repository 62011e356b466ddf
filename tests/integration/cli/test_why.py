"""`ljsv why`: how a service last ended, in words."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tree, wait_for

DEATH = {
    "time": 1.7e9, "script": "run", "run_time_s": 3.25, "code": 7, "status": 0, "end": "exit 7", "is_commanded": False, "was": "ready",
    "next": "backoff", "stage": "", "fault": "", "hint": "", "log": ["2023-11-14T22:13:16.000000Z before", "2023-11-14T22:13:19.500000Z it hurts", "  much"],
}


def write_deaths(tree: Tree, name: str, *deaths: dict[str, Any], broken: str = "") -> None:
    path = tree.supervise(name) / "deaths"
    path.write_text("".join(json.dumps(DEATH | death) + "\n" for death in deaths) + broken)
    os.chown(path, tree.uid, tree.uid)


@pytest.fixture
def resting(scanning: Tree) -> Tree:
    """A service `a` that is supervised and down."""
    scanning.add("a", down="")
    scanning.wait_state("a", "down")
    return scanning


def test_a_death_in_words(resting: Tree) -> None:
    """When, after how long, of what, its last lines, what comes next."""
    write_deaths(resting, "a", {"end": "exit 1", "code": 1, "log": []}, {})
    text = resting.ljsv("why", "a").stdout
    assert text.startswith("a: down")
    assert "2023-11-14 22:13:20 UTC (" in text and "it ended: exit 7 after 3.25s\n" in text
    assert "  | 2023-11-14T22:13:19.500000Z it hurts\n  |   much\n" in text
    assert "Z before" not in text, "a line of the run before"
    assert "next: it stays down; ljsv up a starts it" in text
    assert "exit 1" not in text and "1 more before: ljsv why a -n 2" in text
    text = resting.ljsv("why", "a", "-n", "5").stdout
    assert text.index("exit 7") < text.index("exit 1"), "the newest comes first"
    assert "then: it was started again after a wait" in text


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ({"end": "SIGKILL", "code": -1, "status": 9}, "it was killed by SIGKILL after 3.25s (nobody told it to: kill -9, or the kernel when memory was short)"),
        ({"end": "SIGKILL", "code": -1, "status": 9, "is_commanded": True, "reason": "not ended 10s after it was told to"}, "as it was told to (not ended 10s after it was told to)"),
        ({"end": "SIGSEGV (core)", "code": -1, "status": 139}, "it crashed with a core dump: SIGSEGV after"),
        ({"end": "exit 127", "code": 127}, "127 is how a shell says that it did not find a program"),
        ({"end": "exit 0", "code": 0, "was": "up"}, "ended: exit 0 after 3.25s, before it was ready"),
        ({"end": "exit 111", "code": 111, "stage": "mount the overlay", "fault": "cannot mount the overlay: /x: No such file", "hint": "df /x"}, "could not be started: cannot mount the overlay"),
        ({"end": "exit 111", "stage": "mount the overlay", "fault": "cannot"}, "stage: mount the overlay"),
        ({"end": "exit 111", "fault": "cannot", "hint": "df /x"}, "hint: df /x"),
        ({"end": "SIGTERM", "code": -1, "status": 15, "was": "stopping"}, "(it was not ready in time)"),
        ({"end": "SIGABRT (core)", "code": -1, "status": 134, "was": "stopping"}, "(its watchdog had heard nothing from it)"),
        ({"end": "exit 0", "was": "stopping", "reason": "not ready within 1s"}, "(not ready within 1s)"),
        ({"log": ["\x1b[2Jclear"]}, "| \N{REPLACEMENT CHARACTER}[2Jclear"),
        ({"script": "finish", "end": "exit 3"}, "finish ended: exit 3"),
    ],
)
def test_every_kind_of_end(resting: Tree, death: dict[str, Any], told: str) -> None:
    """Each has its words; what a service wrote cannot steer the terminal."""
    write_deaths(resting, "a", death)
    assert told in resting.ljsv("why", "a").stdout


def test_json_has_every_key(resting: Tree) -> None:
    """Newest first, all keys always there, with the words; a line that was cut off is left out."""
    write_deaths(resting, "a", {"end": "exit 1"}, {"time": 1.8e9}, broken='{"time": 1')
    (report,) = json.loads(resting.ljsv("why", "a", "--json", "-n", "20").stdout)
    assert report["name"] == "a" and report["state"] == "down"
    assert [death["end"] for death in report["deaths"]] == ["exit 7", "exit 1"]
    assert set(report["deaths"][0]) == {*DEATH, "reason", "words"}
    assert len(json.loads(resting.ljsv("why", "a", "--json").stdout)[0]["deaths"]) == 1


def test_without_names_all_that_have_died(resting: Tree) -> None:
    """A service that has never died is only told of when it is named; a copied directory's deaths are not its own."""
    resting.add("b")
    resting.wait_state("b", "ready")
    assert "no service in" in resting.ljsv("why").stderr
    write_deaths(resting, "a", {})
    text = resting.ljsv("why").stdout
    assert text.startswith("a: down") and "b: " not in text
    assert "it has not died" in resting.ljsv("why", "b").stdout
    resting.ljsv("why", "c", code=4)
    resting.ljsv("why", "a", "-n", "0", code=100)


def test_a_real_death(scanning: Tree) -> None:
    """A service that fails: its last words, and when it is tried again."""
    scanning.add("a", "echo cannot reach the moon >&2; exit 7", policy='[restart]\ndelay = "50s"\n')
    scanning.wait_state("a", "backoff")
    text = wait_for(lambda: scanning.ljsv("why", "a").stdout, "an answer")
    assert "it ended: exit 7 after " in text
    assert "next: it is started again in 4" in text
    assert "cannot reach the moon" in text
    (report,) = json.loads(scanning.ljsv("why", "a", "--json").stdout)
    (death,) = report["deaths"]
    assert death["code"] == 7 and abs(death["time"] - time.time()) < 600


def test_a_run_that_was_not_ready_in_time(scanning: Tree) -> None:
    """Its TERM was ours, and that is said."""
    scanning.add("a", policy='[ready]\nby = "fd"\ntimeout = "100ms"\n[restart]\ndelay = "50s"\n')
    scanning.wait_state("a", "backoff")
    assert "it was killed by SIGTERM" in scanning.ljsv("why", "a").stdout
    assert "not ready" in scanning.ljsv("why", "a").stdout


def test_a_jail_that_cannot_be_built(scanning: Tree) -> None:
    """The fault and its hint are told, whether or not there is a record of it."""
    scanning.add("a", "#!/no/such/shell\n")
    scanning.wait_state("a", "failed")
    text = scanning.ljsv("why", "a").stdout
    assert "the jail has no /no/such/shell" in text
    assert "hint: it is run by /no/such/shell" in text
    assert "ljsv up a" in text


def test_it_works_with_nothing_running(scanning: Tree) -> None:
    """After `exit --all` the record is still there."""
    scanning.add("a", "exit 3", policy='[restart]\ndelay = "50s"\n')
    scanning.wait_state("a", "backoff")
    scanning.ljsv("exit", "--all")
    assert Path(scanning.supervise("a")).exists()
    assert "exit 3" in scanning.ljsv("why", "a").stdout

"""Logs on a box without a disk: the kernel's log, and one size for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, wait_for

KMSG = '[log]\nto = "kmsg"\n'
MEGABYTE = 1 << 20


def kernel_log(tree: Tree, name: str) -> list[str]:
    """The records of a service in the kernel's log."""
    return [line.partition(f"{name}: ")[2] for line in subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.splitlines() if f"] {name}: " in line]


def unique(tree: Tree, name: str) -> str:
    """A name that no other record in the kernel's log has."""
    return f"{name}-{tree.scan_hash()}"


def test_lines_are_records_of_the_kernels_log(scanning: Tree) -> None:
    """With the service's name, printable, cut lines whole; no log file, and no /dev/kmsg in the jail."""
    name = unique(scanning, "voice")
    run = "echo plain\nprintf 'two '; sleep 0.3; echo parts\nprintf 'clear\\033[2J\\n'\ntest -e /dev/kmsg && echo open\nprintf 'no newline'\nexit 3"
    scanning.add(name, run, policy=f'{KMSG}[restart]\nwhen = "never"\n')
    scanning.wait_state(name, "down")
    if scanning.uid:
        assert "plain" in scanning.ljsv("logs", name).stdout
        assert "only root may write there" in scanning.ljsv("status", name, code=3).stdout
        return
    assert kernel_log(scanning, name) == ["plain", "two parts", "clear?[2J", "no newline"]
    assert not Path(f"/var/log/ljsv/sv-{scanning.scan_hash()}/{name}/current").exists()
    assert "no newline" in scanning.ljsv("why", name).stdout, "the last words of a death"
    done = scanning.ljsv("logs", name, code=1)
    assert "it is in the kernel's log" in done.stderr and f"dmesg | grep ' {name}: '" in done.stderr


def test_flood_is_counted_and_left_out(scanning: Tree) -> None:
    """No more than the rate, and how many were not written."""
    if scanning.uid:
        pytest.skip("a story of root's scanner")
    name = unique(scanning, "flood")
    scanning.add(name, "seq 1000\nexec sleep 1000", policy=f"{KMSG}rate = 5\n")
    scanning.wait_state(name, "ready")
    wait_for(lambda: any("left out" in line for line in kernel_log(scanning, name)), "to be told")
    assert kernel_log(scanning, name) == ["1", "2", "3", "4", "5", "995 lines left out: more than 5 in 5s"]


def test_supervisor_killed_writes_each_line(scanning: Tree) -> None:
    """What comes while nobody reads is written by the next one."""
    if scanning.uid:
        pytest.skip("a story of root's scanner")
    name = unique(scanning, "told")
    scanning.add(name, "echo first\nread x < /tmp/go\necho second\nexec sleep 1000".replace("read x < /tmp/go", "sleep 2"), policy=KMSG)
    scanning.wait_state(name, "ready")
    wait_for(lambda: "first" in kernel_log(scanning, name), "the first line")
    os.kill(scanning.supervisor_pid(name), signal.SIGKILL)
    wait_for(lambda: kernel_log(scanning, name) == ["first", "second"], "the second line")


# ---- one size for all


def sizes(tree: Tree) -> dict[str, int]:
    """Every log file with its size."""
    logs = Path(f"/var/log/ljsv/sv-{tree.scan_hash()}") if not tree.uid else tree.home / f".local/state/ljsv/log/sv-{tree.scan_hash()}"
    return {str(path.relative_to(logs)): path.stat().st_size for path in logs.rglob("*") if path.is_file()}


def write_much(tree: Tree, name: str, lines: int, **options: str) -> None:
    """Lines of 200 bytes, and END."""
    tree.add(name, f"yes {'x' * 170} | head -n {lines}\necho END; exec sleep 1000", **options)


def test_all_logs_together_keep_to_their_size(tree: Tree) -> None:
    """Oldest rotated files of all services first; who writes now loses nothing of what is new."""
    tree.env["LJSV_LOG_CAP"] = "1M"
    tree.ljsv("scan", "--daemon")
    small = '[log]\nmax_size = "64K"\nkeep = 20\n'
    write_much(tree, "old", 3000, policy=small)
    tree.wait_state("old", "ready")
    wait_for(lambda: "END" in tree.log("old"), "the old one to end", 60)
    assert any(name.startswith("old/current.") for name in sizes(tree))
    for name in ("a", "b"):
        write_much(tree, name, 6000)
    for name in ("a", "b"):
        wait_for(lambda name=name: "END" in tree.log(name), f"{name} to end", 60)
    found = sizes(tree)
    assert sum(found.values()) <= MEGABYTE + 3 * 65536, found
    assert not any(name.startswith("old/current.") for name in found), "the oldest go first"
    assert found["a/current"] and found["b/current"]
    assert max(found.values()) <= MEGABYTE // 4 + 2 * 65536 * 2
    tree.ljsv("restart", "old")
    assert tree.pid("old")


def test_size_for_all_is_read_from_the_settings(tree: Tree) -> None:
    """`ljsv/scan` in the configuration directory; what makes no sense is told and keeps nothing from running."""
    if not tree.uid:
        pytest.skip("root's file is the machine's: /etc/ljsv/scan")
    settings = tree.home / ".config/ljsv/scan"
    settings.parent.mkdir(parents=True)
    settings.write_text('log_cap = "5"\n')
    tree.own(tree.home)
    tree.ljsv("scan", "--daemon")
    tree.add("a")
    tree.wait_state("a", "ready")
    text = wait_for(lambda: [line for line in tree.events().splitlines() if "the settings are not used" in line], "it to be told")
    told = json.loads(text[0])
    assert f"{settings}: log_cap: found '5'" in told["fault"]
    tree.ljsv("exit", "--all")
    settings.write_text('log_cap = "1M"\n')
    tree.ljsv("scan", "--daemon")
    write_much(tree, "b", 12000)
    tree.wait_state("b", "ready")
    wait_for(lambda: "END" in tree.log("b"), "b to end", 60)
    assert sum(sizes(tree).values()) <= MEGABYTE + 65536, sizes(tree)


def test_size_that_makes_no_sense_is_refused(tree: Tree) -> None:
    """On the command line at once."""
    done = tree.ljsv("scan", "--log-cap", "12", code=None)
    assert done.returncode and "--log-cap: found 12" in done.stderr and 'at least "1M"' in done.stderr

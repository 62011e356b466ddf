"""What is read of control groups: /proc's texts, and the files of a group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ljsv.errors import Fault
from ljsv.jail.cgroup import Missing, Survey, service_use, unenforced
from ljsv.jail.group import Tree, prepare
from ljsv.jail.limits import Setting, cpu_setting, differences, settings_of, write_settings
from ljsv.linux.cgroup import CONTROLLERS, Hierarchy, Pressure, find_group, find_hierarchies, place_of, read_use
from ljsv.service import schema, toml
from ljsv.supervise.events import Events
from ljsv.supervise.limits import JailGroup
from ljsv.supervise.loop import Loop, now

MOUNTINFO = """\
24 30 0:22 / /proc rw,nosuid - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 23 0:28 /a\\040b /mnt/my\\134cg rw - cgroup2 none rw
41 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
"""


def test_mounts_of_version_2_are_found_and_no_others() -> None:
    """With names that hold spaces and backslashes."""
    assert find_hierarchies(MOUNTINFO) == (Hierarchy("/", "/sys/fs/cgroup"), Hierarchy("/a b", "/mnt/my\\cg"))
    assert find_hierarchies("") == ()


def test_own_group_is_found_where_it_is_mounted() -> None:
    """Version 1's lines do not count; a mount of a part shows only what is below that part."""
    assert find_group("4:memory:/x\n0::/user.slice/a.scope\n") == "/user.slice/a.scope"
    assert find_group("0::/gone (deleted)\n") == "/gone"
    assert find_group("4:memory:/x\n") == ""
    part = (Hierarchy("/user.slice", "/mnt"),)
    assert place_of("/user.slice/a.scope", part) == "/mnt/a.scope"
    assert place_of("/user.slice", part) == "/mnt"
    assert place_of("/user.slices", part) == ""
    assert place_of("/", (Hierarchy("/", "/sys/fs/cgroup"),)) == "/sys/fs/cgroup"


def test_use_is_read_from_the_files_of_a_group(tmp_path: Path) -> None:
    """None for "max" and for what the kernel does not count."""
    files = {
        "cgroup.events": "populated 1\nfrozen 1\n", "memory.current": "4096\n", "memory.max": "max\n", "memory.events": "high 3\noom_kill 2\n",
        "cpu.max": "25000 100000\n", "cpu.stat": "usage_usec 7\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n", "pids.current": "5\n", "pids.max": "64\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
        "memory.pressure": "some avg10=1.50 avg60=2.00 avg300=0.00 total=3\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    use = read_use(str(tmp_path))
    assert use is not None
    assert (use.memory, use.memory_max, use.memory_peak, use.swap) == (4096, None, None, None)
    assert (use.memory_high_hits, use.oom_kills) == (3, 2)
    assert (use.cpu_max, use.cpu_usec, use.cpu_throttled, use.cpu_throttled_usec) == (25.0, 7, 1, 9)
    assert (use.pids, use.pids_max, use.io_read, use.io_written, use.is_frozen) == (5, 64, 11, 22, True)
    assert use.pressure == (Pressure("memory", 1.5, 2.0, 0.25, 0.0),)
    assert service_use({"cgroup": str(tmp_path)}) == use


def test_no_group_has_no_use(tmp_path: Path) -> None:
    """Not there, gone, or never made."""
    assert read_use("") is None
    assert read_use(str(tmp_path / "gone")) is None
    assert service_use({}) is None


def test_limits_that_do_not_hold_are_told_apart_from_other_notes() -> None:
    """By what the note begins with."""
    detail = {"note0": "not enforced: memory (the memory controller is on cgroup v1)", "note1": "not used: check", "state": "up"}
    assert unenforced(detail) == ("memory (the memory controller is on cgroup v1)",)


def limits(text: str) -> schema.Limits:
    return toml.parse(text.encode(), schema.Limits, "limits")


def test_limits_become_values_of_files() -> None:
    """Nothing for what is not there; the whole jail is killed only where there is a limit to reach."""
    assert settings_of(limits("")) == ()
    found = {setting.file: setting.value for setting in settings_of(limits('memory = "64M"\nswap = "0"\ncpu = "25%"\npids = 9\ncpus = "0-1,3"\n'))}
    assert found == {"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "25000 100000", "pids.max": "9", "cpuset.cpus": "0-1,3", "memory.oom.group": "1"}
    assert [setting.file for setting in settings_of(limits('memory = "64M"\noom = "one"\n'))] == ["memory.max"]
    (io,) = settings_of(limits('[[io]]\npath = "/nothing/there"\nread = "1M"\nwrite_ops = 5\n'))
    assert (io.file, io.value, io.off) == ("io.max", "none rbps=1048576 wbps=max riops=max wiops=5", "none rbps=max wbps=max riops=max wiops=max")


def test_small_shares_of_a_processor_have_a_longer_period() -> None:
    """The kernel takes no quota below a millisecond."""
    values = [setting.value for percent in (100.0, 1.0, 0.5, 0.01) if (setting := cpu_setting(percent))]
    assert values == ["100000 100000", "1000 100000", "5000 1000000", "1000 1000000"]
    assert cpu_setting(None) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [('cpus = "1-0"', "numbers of processors"), ('cpus = "a"', "numbers of processors"), ("cpu_weight = 0", "1 to 10000"), ("pids = 1", "2 to"), ('swap = "1"', '"0", or a size'),
     ('oom = "two"', '"all", "one"'), ('[[io]]\npath = "sda"', "absolute path"), ('[[io]]\npath = "/dev/sda"\nread_ops = 0', "1 to"), ('memory = "1M"\nmemory_high = "2M"', "no more than memory")],
)
def test_impossible_limits_are_refused(text: str, word: str) -> None:
    """With what is allowed."""
    with pytest.raises(Fault) as caught:
        limits(text)
    assert word in str(caught.value)


def test_what_differs_is_written_and_what_is_gone_is_switched_off() -> None:
    """The rest is left alone."""
    old = settings_of(limits('memory = "64M"\noom = "one"\npids = 9\ncpu_weight = 50\n'))
    new = settings_of(limits('memory = "32M"\noom = "one"\ncpu_weight = 50\n'))
    assert [setting.describe() for setting in differences(old, new)] == ["pids.max=max", "memory.max=33554432"]
    assert differences(new, new) == ()


def test_what_cannot_hold_is_said_and_the_rest_is_written(tmp_path: Path) -> None:
    """A controller that is missing, a file that this kernel has not."""
    (tmp_path / "pids.max").touch()
    tree = Tree(str(tmp_path), missing=(("memory", Missing("the memory controller is on cgroup v1", "boot otherwise")),))
    wanted = (Setting("memory", "memory", "memory.max", "1"), Setting("io_weight", "io", "io.weight", "5"), Setting("pids", "pids", "pids.max", "9"))
    assert write_settings(tree, str(tmp_path), wanted) == (
        ("memory", "the memory controller is on cgroup v1", "boot otherwise"), ("io_weight", "this kernel has no io.weight", ""),
    )
    assert (tmp_path / "pids.max").read_text() == "9"


def test_a_hierarchy_without_controllers_is_left_alone(tmp_path: Path) -> None:
    """As systemd's hybrid mode has it."""
    why = Missing("the controller is on cgroup v1", "")
    tree = prepare(Survey(str(tmp_path), str(tmp_path), missing=tuple((name, why) for name in CONTROLLERS)), "sv")
    assert tree.path == "" and tree.why_missing("cpu") == why
    assert not list(tmp_path.iterdir())


def test_new_group_is_not_taken_for_what_was_left_of_the_one_before_it(tmp_path: Path) -> None:
    """Who had entered a jail that has ended is killed later than at once; by then the next jail may be in a group of that name."""
    loop = Loop()
    with open(os.devnull, "wb") as null:
        group = JailGroup(Tree(str(tmp_path)), loop, Events(null.fileno(), "a"), "a", lambda _reason: None, lambda: None)
        os.close(group.begin("a", ()))
        held = Path(group.path) / "held"
        held.mkdir()  # as a process would, it keeps the group
        group.ended()
        held.rmdir()
        os.close(group.begin("a", ()))
        loop.set_timer("end", now() + 0.2, loop.stop)
        loop.run(lambda: None)
        assert Path(group.path).is_dir()
    loop.close()

"""The plan of a jail: pure, complete, in the design's order."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.frozen import Frozen
from ljsv.jail import hardening, mounts, outside
from ljsv.jail.facts import FUSE, LOOP, Facts
from ljsv.jail.ids import RANGE_BASE, SLOTS, one_id, range_of
from ljsv.jail.passwd import User
from ljsv.jail.plan import explain, namespaces, plan
from ljsv.jail.spec import DEFAULT_CAPABILITIES, DIRECTORY, HOST, IMAGE, BindMount, JailSpec, TmpfsMount, environment, resolve_capabilities
from ljsv.jail.step import Step
from ljsv.linux import process

FACTS = Facts(
    is_root=False, scratch="/tmp", last_capability=40, devices=("null",), proc_masked=(("keys", False),), proc_read_only=(("sys", True),),
    filter=b"12345678", host_directories=("/usr",), host_links=(("/bin", "usr/bin"),), etc=(("passwd", False),),
)
ROOT_FACTS = FACTS.replace(is_root=True, is_range=True, userns_fd=9, is_base_mapped=True)
ROOT = User(name="root", uid=0, gid=0)


def spec(**given: object) -> JailSpec:
    return JailSpec(name="a", base_kind=HOST, base_path="/", argv=("x",)).replace(**given)


SPECS = st.builds(
    spec,
    base_kind=st.sampled_from([HOST, DIRECTORY, IMAGE]), base_path=st.just("/base"), image_type=st.just("squashfs"),
    directory=st.sampled_from(["", "/sv/a"]), writable=st.sampled_from(["no", "tmpfs", "overlay", "direct"]), overlay=st.just("/state/overlay"),
    network=st.sampled_from(["host", "none"]), user=st.sampled_from(["", "web", "1000:5"]), has_filter=st.booleans(),
    tmpfs=st.lists(st.sampled_from(["/a", "/a/b", "/x/y/z"]).map(TmpfsMount), max_size=3).map(tuple),
).filter(lambda made: made.writable in {DIRECTORY: {"no", "tmpfs", "overlay", "direct"}, IMAGE: {"no", "tmpfs", "overlay"}, HOST: {"no", "tmpfs"}}[made.base_kind])
ALL_FACTS = st.sampled_from([FACTS, ROOT_FACTS]).flatmap(
    lambda facts: st.sampled_from([facts.replace(image_how=LOOP if facts.is_root else FUSE), facts.replace(image_how=FUSE, missing=(("/dev", True),))])
)


@given(SPECS, ALL_FACTS)
def test_same_values_same_plan_and_every_step_can_be_told(made: JailSpec, facts: Facts) -> None:
    """The same list, in the same order, always; explain has a line for each step, and no more."""
    facts = facts.replace(filter=b"12345678" if made.has_filter else b"")
    steps = plan(made, facts)
    assert steps == plan(made.replace(), facts.replace())
    lines = explain(made, facts, "0 -> 1")
    assert all(line and "\n" not in line for line in lines)
    told = [step.describe() for step in steps.outside], [step.describe() for step in steps.inside]
    assert lines[: len(told[0])] == told[0]
    assert lines[len(told[0]) + 3 : len(told[0]) + 3 + len(told[1])] == told[1]
    assert len(lines) == len(told[0]) + len(told[1]) + 6


@given(SPECS, ALL_FACTS)
def test_order_of_the_stages(made: JailSpec, facts: Facts) -> None:
    """What is brought in comes before what covers it, the root before what lies in it, and rights last, in the design's order."""
    facts = facts.replace(filter=b"12345678" if made.has_filter else b"")
    steps = plan(made, facts)
    kinds = [type(step) for step in steps.inside]
    assert kinds[0] is mounts.KeepProc
    scratch = kinds.index(mounts.MakeScratch)
    assert set(kinds[1:scratch]) <= {outside.CloneTree}
    assert outside.CloneTree not in kinds[scratch:]
    pivot = kinds.index(mounts.Pivot)
    rights = [
        hardening.NewKeyring, hardening.FindUser, *([hardening.SwitchIds] if made.user else []), hardening.DropBoundingSet,
        hardening.ForbidUserNamespaces, hardening.NoNewPrivileges, hardening.SetCapabilities, *([hardening.FilterSystemCalls] if made.has_filter else []),
    ]
    assert kinds[pivot + 1 :] == rights
    assert (mounts.ReadOnlyRoot in kinds) == (made.writable == "no")
    assert (hardening.LoopbackUp in kinds) == (made.network == "none")


@given(SPECS, ALL_FACTS)
def test_every_tree_that_is_attached_was_brought_in_once(made: JailSpec, facts: Facts) -> None:
    """By the launcher as root, else by the builder; none is left over, none missing."""
    steps = plan(made, facts)
    every = [*steps.outside, *steps.inside]
    brought = [step.at for step in every if isinstance(step, outside.CloneTree)]
    brought += ["base" for step in every if isinstance(step, outside.MountImage)]
    wanted = [step.at for step in every if isinstance(step, mounts.Attach)] + [step.to for step in every if isinstance(step, mounts.Bind)]
    assert sorted(brought) == sorted(wanted)
    if facts.is_root:
        assert not any(isinstance(step, outside.CloneTree) for step in steps.inside)


@given(SPECS)
def test_as_root_the_base_and_the_overlay_show_the_jails_ids(made: JailSpec) -> None:
    """And nothing else does, unless it was asked for."""
    for step in plan(made, ROOT_FACTS).outside:
        if isinstance(step, outside.CloneTree):
            assert (step.userns_fd >= 0) == (step.at in {"root", "base", "overlay"})


def test_parents_are_mounted_before_what_lies_in_them() -> None:
    """Whatever order they were written in."""
    made = spec(binds=(BindMount("/1", "/a/b/c"), BindMount("/2", "/a")), tmpfs=(TmpfsMount("/a/b"),))
    inside = plan(made, FACTS.replace(bind_is_directory=(True, True))).inside
    order = [step.to for step in inside if isinstance(step, (mounts.Bind, mounts.NewMount)) and step.to.startswith("/a")]
    assert order == ["/a", "/a/b", "/a/b/c"]


def test_binds_are_read_only_nosuid_nodev_unless_asked() -> None:
    """And writable ones are still nosuid and nodev."""
    made = spec(binds=(BindMount("/1", "/r"), BindMount("/2", "/w", writable=True)))
    inside = plan(made, FACTS.replace(bind_is_directory=(True, True))).inside
    found = {step.at: step.describe() for step in inside if isinstance(step, outside.CloneTree)}
    assert "(ro,nosuid,nodev)" in found["/r"]
    assert "(nosuid,nodev)" in found["/w"]


def test_a_bind_is_mapped_only_when_asked() -> None:
    """ids = "map", as root."""
    made = spec(binds=(BindMount("/1", "/plain"), BindMount("/2", "/mapped", is_mapped=True)))
    steps = plan(made, ROOT_FACTS.replace(bind_is_directory=(True, True))).outside
    assert {step.at: step.userns_fd for step in steps if isinstance(step, outside.CloneTree) and step.at in {"/plain", "/mapped"}} == {"/plain": -1, "/mapped": 9}


def test_another_user_with_one_id_needs_a_nested_namespace() -> None:
    """With a range ids are changed; with one a second user namespace shows the caller as that id."""
    for is_range in (True, False):
        (switch,) = [step for step in plan(spec(user="web"), FACTS.replace(is_range=is_range)).inside if isinstance(step, hardening.SwitchIds)]
        assert switch.nested is not is_range


def test_capabilities_are_added_and_taken() -> None:
    """In order; nothing gives SYS_ADMIN."""
    assert resolve_capabilities(()) == DEFAULT_CAPABILITIES
    assert resolve_capabilities(("-CHOWN", "NET_RAW", "+cap_kill")) == DEFAULT_CAPABILITIES - {0} | {13}
    assert 21 not in DEFAULT_CAPABILITIES
    with pytest.raises(ValueError, match="SYS_ADMIN"):
        resolve_capabilities(("SYS_ADMIN",))


def test_namespaces_are_six_and_net_by_the_spec() -> None:
    """User, mount, pid, ipc, uts, cgroup."""
    assert not namespaces(spec()) & process.CLONE_NEWNET
    assert namespaces(spec(network="none")) & process.CLONE_NEWNET
    assert namespaces(spec()).bit_count() == 6


@given(st.integers(0, SLOTS - 1))
def test_ranges_never_hold_a_real_id_and_never_overlap(slot: int) -> None:
    """65,536 ids from 0x70000000 on, within 32 bits."""
    ((inside, first, count),) = range_of(slot).uids
    assert (inside, count) == (0, 65536)
    assert first >= RANGE_BASE
    assert first % count == 0
    assert first + count <= 0xFFFF_FFFF


def test_ids_outside() -> None:
    """What an id inside is on the host; one that is not mapped is none."""
    assert one_id(1001, 1002).outside(0, 0) == (1001, 1002)
    with pytest.raises(KeyError):
        one_id(1001, 1002).outside(1, 0)
    assert range_of(2).outside(33, 34) == (RANGE_BASE + 2 * 65536 + 33, RANGE_BASE + 2 * 65536 + 34)


def test_environment_is_exact() -> None:
    """Five variables, then env/; None takes one away."""
    assert set(environment(spec(env=(("SHELL", None), ("X", "1"))), ROOT)) == {"PATH", "HOME", "USER", "LOGNAME", "X"}


class Point(Frozen):
    x: int
    y: int = 7


def test_frozen_values() -> None:
    """By position or name, with defaults; equal by class and fields; they do not change, and say what is wrong."""
    point = Point(1)
    assert (point.x, point.y) == (1, 7)
    assert point == Point(x=1, y=7) != Point(2)
    assert hash(point) == hash(Point(1, 7))
    assert point.replace(y=8) == Point(1, 8)
    assert repr(point) == "Point(x=1, y=7)"
    assert Step() != point
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    for wrong in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            Point(*wrong)
    with pytest.raises(TypeError):
        Point(1, x=1)
    with pytest.raises(TypeError):
        Point(1, z=1)  # type: ignore[call-arg]


def test_a_resource_limit_that_is_refused_is_named() -> None:
    """By the key of `limits`; what it may be at most is the cause."""
    limits = hardening.SetLimits(((resource.RLIMIT_NOFILE, 1 << 40),))
    assert limits.describe() == f"resource limits: RLIMIT_NOFILE={1 << 40}"
    with pytest.raises(OSError, match=r"the hard limit is \d+") as raised:
        limits.execute(None)  # type: ignore[arg-type]
    assert raised.value.filename == f"nofile = {1 << 40}"

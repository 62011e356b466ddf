"""spec -> plan: pure, in a fixed order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ljsv.jail import steps
from ljsv.jail.facts import Facts, User
from ljsv.jail.ids import RANGE_BASE, SLOTS, range_of
from ljsv.jail.plan import environment, explain, namespaces, plan
from ljsv.jail.spec import DEFAULT_CAPABILITIES, DIRECTORY, HOST, JailSpec, resolve_capabilities
from ljsv.linux import process
from ljsv.service.schema import Bind, Tmpfs

FACTS = Facts(
    is_root=True, scratch="/tmp", user=User(name="root", uid=0, gid=0, home="/", shell="/bin/sh"), last_capability=40,
    devices=("null", "zero"), proc_masked=(("kcore", False), ("acpi", True)), proc_read_only=("sys",),
    host_directories=("/usr",), host_links=(("/bin", "usr/bin"),), etc=(("passwd", "/etc/passwd", False),),
)
SPECS = st.builds(
    JailSpec, name=st.just("a"), base_kind=st.sampled_from([HOST, DIRECTORY]), base_path=st.just("/base"), argv=st.just(("./run",)),
    directory=st.sampled_from(["", "/sv/a"]), writable=st.sampled_from(["no", "tmpfs"]), network=st.sampled_from(["host", "none"]),
    tmpfs=st.lists(st.sampled_from(["/a", "/a/b", "/x/y/z"]).map(lambda at: Tmpfs(at=at)), max_size=3).map(tuple),
)


@given(SPECS)
def test_same_values_same_plan_and_every_step_can_be_told(spec: JailSpec) -> None:
    """The same list, in the same order, always."""
    assert plan(spec, FACTS) == plan(replace(spec), replace(FACTS))
    lines = explain(spec, FACTS, "0 -> 1")
    assert all(line and "\n" not in line for line in lines)
    assert len(lines) == len(plan(spec, FACTS)) + 5


@given(SPECS)
def test_order_of_the_stages(spec: JailSpec) -> None:
    """Sources first, the root before what lies in it, pivot before hardening, exec's last words in the design's order."""
    kinds = [type(step) for step in plan(spec, FACTS)]
    first_other = next(i for i, kind in enumerate(kinds) if kind is not steps.OpenSource)
    assert steps.OpenSource not in kinds[first_other:]
    assert kinds[first_other] is steps.MakeScratch
    pivot = kinds.index(steps.Pivot)
    assert kinds[pivot + 1 :] == [steps.NewKeyring, steps.DropBoundingSet, steps.ForbidUserNamespaces, steps.NoNewPrivileges, steps.SetCapabilities]
    assert (steps.ReadOnlyRoot in kinds) == (spec.writable == "no")
    assert (steps.LoopbackUp in kinds) == (spec.network == "none")


def test_parents_are_mounted_before_what_lies_in_them() -> None:
    """Whatever order they were written in."""
    spec = JailSpec(
        name="a", base_kind=HOST, base_path="/", argv=("x",),
        binds=(Bind(from_="/1", to="/a/b/c"), Bind(from_="/2", to="/a")), tmpfs=(Tmpfs(at="/a/b"),),
    )
    facts = replace(FACTS, bind_is_directory=(True, True))
    order = [step.to for step in plan(spec, facts) if isinstance(step, (steps.Bind, steps.NewMount)) and step.to.startswith("/a")]
    assert order == ["/a", "/a/b", "/a/b/c"]


def test_binds_are_read_only_nosuid_nodev_unless_asked() -> None:
    """And writable ones are still nosuid and nodev."""
    spec = JailSpec(name="a", base_kind=HOST, base_path="/", argv=("x",), binds=(Bind(from_="/1", to="/r"), Bind(from_="/2", to="/w", writable=True)))
    found = {step.to: step.describe() for step in plan(spec, replace(FACTS, bind_is_directory=(True, True))) if isinstance(step, steps.Bind)}
    assert "ro,nosuid,nodev" in found["/r"]
    assert "(recursive, nosuid,nodev)" in found["/w"]


def test_another_user_has_no_capabilities_and_one_id_needs_a_nested_namespace() -> None:
    """As root ids are changed; unprivileged a second user namespace shows the caller as that id."""
    user = User(name="web", uid=33, gid=33, home="/", shell="/bin/sh")
    spec = JailSpec(name="a", base_kind=HOST, base_path="/", argv=("x",))
    for is_root in (True, False):
        found = plan(spec, replace(FACTS, user=user, is_root=is_root))
        (switch,) = [step for step in found if isinstance(step, steps.SwitchIds)]
        assert switch.nested is not is_root
        assert found[-1] == steps.SetCapabilities(frozenset())


def test_capabilities_are_added_and_taken() -> None:
    """In order; nothing gives SYS_ADMIN."""
    assert resolve_capabilities(()) == DEFAULT_CAPABILITIES
    assert resolve_capabilities(("-CHOWN", "NET_RAW", "+cap_kill")) == DEFAULT_CAPABILITIES - {0} | {13}
    assert 21 not in DEFAULT_CAPABILITIES


def test_namespaces_are_six_and_net_by_the_spec() -> None:
    """User, mount, pid, ipc, uts, cgroup."""
    spec = JailSpec(name="a", base_kind=HOST, base_path="/", argv=("x",))
    assert not namespaces(spec) & process.CLONE_NEWNET
    assert namespaces(replace(spec, network="none")) & process.CLONE_NEWNET
    assert namespaces(spec).bit_count() == 6


@given(st.integers(0, SLOTS - 1))
def test_ranges_never_hold_a_real_id_and_never_overlap(slot: int) -> None:
    """65,536 ids from 0x70000000 on, within 32 bits."""
    ids = range_of(slot)
    assert ids.outside_uid >= RANGE_BASE
    assert ids.outside_uid % ids.count == 0
    assert ids.outside_uid + ids.count <= 0xFFFF_FFFF


def test_environment_is_exact() -> None:
    """Five variables, then env/; None takes one away."""
    spec = JailSpec(name="a", base_kind=HOST, base_path="/", argv=("x",), env=(("SHELL", None), ("X", "1")))
    assert set(environment(spec, FACTS)) == {"PATH", "HOME", "USER", "LOGNAME", "X"}

"""The seccomp filters: the data is what the policy says, libseccomp agrees, and the kernel does it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.machinery
import importlib.util
import itertools
import json
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ljsv.errors import Fault
from ljsv.jail import filters
from ljsv.jail.filters import read_filter
from ljsv.jail.filters.policy import (
    ALLOW,
    CHECKED,
    HIDDEN,
    HIDE,
    KILL,
    MACHINES,
    NEWER,
    NO_SETID_CHECKED,
    NO_SETID_HIDDEN,
    NO_SETID_UNSUPPORTED,
    NO_SUPPORT,
    OWN,
    REFUSE,
    REFUSED,
    WORD,
    AnyBit,
    Decision,
    OneOf,
)
from ljsv.linux import process, seccomp
from ljsv.linux.libc import LIBC, MACHINE
from tests.conftest import need

CHECKOUT = Path(__file__).parents[2]
ALL_ONES = (1 << 64) - 1
X32 = 0x4000_0000
ARM_PRIVATE = range(0xF_0000, 0xF_0010)
NUMBERS = (*range(601), *ARM_PRIVATE, *range(X32, X32 + 601), 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
OTHER_ARCHITECTURES = (0, 0x4000_0003, 0x4000_003E, 0x3E, 0xB7, 0x28, 0xF3, 0x28 | 1 << 31, 0xFFFF_FFFF)  # i386, x32, other widths


def load_generator() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_filters", str(CHECKOUT / "tools/make-filters"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_filters", loader))
    loader.exec_module(module)
    return module


generator = load_generator()
every_machine = pytest.mark.parametrize("machine", MACHINES)
every_program = pytest.mark.parametrize(
    ("machine", "no_setid"),
    [pytest.param(machine, no_setid, id=f"{machine}{'-no_setid' * no_setid}") for machine in MACHINES for no_setid in (False, True)],
)
CHECKS = [check.decision for check in (*CHECKED, *NO_SETID_CHECKED)]


# ---- a classic BPF machine


def execute(program: bytes, number: int, architecture: int, arguments: tuple[int, ...]) -> int:
    """What a program returns; the instructions are those of linux/filter.h that seccomp(2) allows."""
    data = struct.pack("=IIQ6Q", number, architecture, 0x5555_0000_1234, *arguments)
    instructions = decode(program)
    at = accumulator = 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        if code == 0x20:  # LD|W|ABS
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:  # ALU|AND|K
            accumulator &= k
        elif code == 0x05:  # JMP|JA
            at += k
        elif code == 0x06:  # RET|K
            return k
        else:
            at += yes if COMPARE[code](accumulator, k) else no


COMPARE = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: a & k != 0,
}


@cache
def decode(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("=HBBI", program))


# ---- the policy, told once more and slowly


@cache
def table_of(machine: str) -> dict[int, str]:
    try:
        return generator.read_table(machine)
    except OSError:
        pytest.skip("libseccomp.so.2 is not installed")


@cache
def decisions(machine: str, *, no_setid: bool) -> dict[int, Decision]:
    return generator.decide(table_of(machine), no_setid=no_setid)


def numbers_of(machine: str) -> dict[str, int]:
    return {name: number for number, name in table_of(machine).items()}


def judge(decision: Decision, arguments: tuple[int, ...]) -> int:
    if isinstance(decision, int):
        return decision
    argument = arguments[decision.argument] & WORD
    is_matched = argument in decision.values if isinstance(decision, OneOf) else bool(argument & decision.bits)
    return judge(decision.matched if is_matched else decision.otherwise, arguments)


def constants_of(decision: OneOf | AnyBit) -> tuple[int, ...]:
    return decision.values if isinstance(decision, OneOf) else (decision.bits, decision.bits ^ WORD, decision.bits & -decision.bits)


def comparisons_of(decision: Decision | None) -> list[OneOf | AnyBit]:
    """The decision and those that lie in it."""
    if decision is None or isinstance(decision, int):
        return []
    return [decision, *comparisons_of(decision.matched), *comparisons_of(decision.otherwise)]


def interesting_values(comparison: OneOf | AnyBit) -> list[int]:
    """What stands at a border of one comparison."""
    found = {0, WORD, ALL_ONES, ALL_ONES ^ WORD, *(1 << bit for bit in range(64))}
    for value in constants_of(comparison):
        found |= {value, value + 1, value - 1 & ALL_ONES, value | 1 << 32, value | ALL_ONES ^ WORD, value << 32, value ^ 1 << 31}
    return sorted(found)


def interesting_arguments(decision: Decision | None) -> list[tuple[int, ...]]:
    """Arguments at the borders of every comparison, in all combinations; for the other calls, what a comparison would mind."""
    comparisons = comparisons_of(decision)
    if not comparisons:
        return [(value,) * 6 for value in (0, ALL_ONES, *(constants_of(check)[0] for check in CHECKS))]
    found = []
    for values in itertools.product(*map(interesting_values, comparisons)):
        arguments = [values[0] ^ ALL_ONES] * 6
        for comparison, value in zip(comparisons, values, strict=True):
            arguments[comparison.argument] = value
        found.append(tuple(arguments))
    return found


# ---- libseccomp's programs


class ArgCmp(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


MASKED_EQ = 7
ATTRIBUTE_BAD_ARCHITECTURE = 2
ATTRIBUTE_OPTIMIZE = 8
NATIVE = 0


def make_rules(decision: OneOf | AnyBit) -> tuple[int, int, list[tuple[ArgCmp, ...]]]:
    """(default action, the other, the conjunctions that lead to the other): it knows no "any of these bits", so each bit has a rule."""
    if isinstance(decision, OneOf):
        comparisons = [ArgCmp(decision.argument, MASKED_EQ, WORD, value) for value in decision.values]
    else:
        bits = [1 << bit for bit in range(32) if decision.bits >> bit & 1]
        comparisons = [ArgCmp(decision.argument, MASKED_EQ, bit, bit) for bit in bits]
    assert isinstance(decision.otherwise, int)
    if isinstance(decision.matched, int):
        return decision.otherwise, decision.matched, [(comparison,) for comparison in comparisons]
    default, action, further = make_rules(decision.matched)
    assert default == decision.otherwise
    return default, action, [(comparison, *more) for comparison in comparisons for more in further]


class Libseccomp:
    """Filters as libseccomp makes them of the same policy: from names, with its own translation to the architecture.

    Rules of one call do not exclude each other, so a checked call has a program of its own, whose
    other answer is the default.
    """

    def __init__(self, machine: str, *, no_setid: bool) -> None:
        names = table_of(machine)
        self.library = ctypes.CDLL("libseccomp.so.2")
        self.library.seccomp_init.restype = ctypes.c_void_p
        self.library.seccomp_api_set(3)  # or else it asks the running kernel what it knows
        self.architecture = MACHINES[machine]
        self.decisions = decisions(machine, no_setid=no_setid)
        resolve, resolve_there = self.library.seccomp_syscall_resolve_name, self.library.seccomp_syscall_resolve_name_arch
        resolved = {number: resolve(name.encode()) for number, name in names.items()}  # it wants the native number, and translates
        architecture = ctypes.c_uint32(self.architecture)
        self.unknown = {number for number, name in names.items() if resolve_there(architecture, name.encode()) != number}
        plain = [
            (resolved[number], decision, ())
            for number, decision in self.decisions.items()
            if isinstance(decision, int) and decision != HIDE and number not in self.unknown
        ]
        self.plain = self._export(HIDE, plain, KILL)
        self.x32 = self._export(HIDE, plain, HIDE)  # another architecture's calls to it: it has one answer for both
        self.checked = {}
        for number, decision in self.decisions.items():
            if not isinstance(decision, int) and number not in self.unknown:
                default, action, conjunctions = make_rules(decision)
                self.checked[number] = self._export(default, [(resolved[number], action, each) for each in conjunctions], KILL)

    def _export(self, default: int, rules: list[tuple[int, int, tuple[ArgCmp, ...]]], bad_architecture: int) -> bytes:
        library = self.library
        context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
        if self.architecture != library.seccomp_arch_native() & WORD:
            assert library.seccomp_arch_remove(context, NATIVE) == 0
            assert library.seccomp_arch_add(context, ctypes.c_uint32(self.architecture)) == 0
        assert library.seccomp_attr_set(context, ATTRIBUTE_BAD_ARCHITECTURE, ctypes.c_uint32(bad_architecture)) == 0
        library.seccomp_attr_set(context, ATTRIBUTE_OPTIMIZE, 2)
        for number, action, comparisons in rules:
            array = (ArgCmp * len(comparisons))(*comparisons)
            assert library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(comparisons), array) == 0, number
        with tempfile.TemporaryFile() as file:
            assert library.seccomp_export_bpf(context, file.fileno()) == 0
            file.seek(0)
            program = file.read()
        library.seccomp_release(context)
        return program

    def judge(self, number: int, architecture: int, arguments: tuple[int, ...]) -> int:
        program = self.checked.get(number, self.plain)
        if number >= X32 and architecture == self.architecture:
            program = self.x32
        return execute(program, number, architecture, arguments)


libseccomp = cache(Libseccomp)


# ---- the data


@every_program
def test_the_modules_are_what_the_generator_makes_of_the_policy(machine: str, *, no_setid: bool) -> None:
    """Byte for byte: nobody has edited them, and nobody has forgotten tools/make-filters."""
    table_of(machine)
    module = CHECKOUT / f"ljsv/jail/filters/{machine}{'_no_setid' * no_setid}.py"
    assert module.read_text() == generator.make_module(machine, no_setid=no_setid)


@every_program
def test_programs_are_well_formed(machine: str, *, no_setid: bool) -> None:
    """Every jump leads onward and stays inside, every way ends in a RET, everything can be reached."""
    instructions = decode(read_filter(machine, no_setid=no_setid))
    assert len(instructions) < 4096
    assert instructions[-1][0] == generator.RET
    reached = {0}
    for at, (code, yes, no, k) in enumerate(instructions):
        if code == generator.LD_ABS:
            assert k % 4 == 0
            assert k < 64
        if code == generator.RET:
            targets = set()
        elif code == generator.JA:
            targets = {at + 1 + k}
        else:
            targets = {at + 1 + yes, at + 1 + no}
        assert targets <= set(range(at + 1, len(instructions)))
        assert at in reached
        reached |= targets


def test_the_policy_names_only_calls_that_there_are() -> None:
    """A name that is misspelt would be allowed; and each name has one place."""
    known = {name for machine in MACHINES for name in table_of(machine).values()}
    groups = (*REFUSED, *HIDDEN, *NO_SETID_HIDDEN, *NO_SETID_UNSUPPORTED, *CHECKED, *NO_SETID_CHECKED)
    named = [name for group in groups for name in group.calls]
    assert set(named) <= known
    assert len(named) == len(set(named))
    assert tuple(MACHINES) == filters.MACHINES


@every_machine
def test_the_numbers_of_newer_calls_are_libseccomps(machine: str) -> None:
    """As far as the installed one knows them."""
    table_of(machine)
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    for number, name in (NEWER | OWN.get(machine, {})).items():
        assert resolve(ctypes.c_uint32(MACHINES[machine]), name.encode()) in {number, *range(-20_000, 0)}, name


def test_reading_a_filter_imports_nothing_else() -> None:
    """Only this machine's data: every start of a jail pays for it."""
    code = "import sys; from ljsv.jail.filters import read_filter; assert read_filter(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {code}", "riscv64"], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"re", "typing", "enum", "dataclasses", "struct", "ctypes", "importlib", "ljsv.jail.filters.policy", "ljsv.jail.filters.x86_64"}
    assert "ljsv.jail.filters.riscv64" in loaded


@pytest.mark.parametrize("machine", ["ppc64le", "32-bit x86_64", "../x86_64", "policy", ""])
def test_an_unknown_machine_is_told_how_to_go_on(machine: str) -> None:
    """And never runs without the filter that it was to have."""
    with pytest.raises(Fault) as caught:
        read_filter(machine)
    assert 'seccomp = "off"' in caught.value.hint


# ---- what the programs say


@every_program
def test_every_number_gets_the_answer_of_the_policy(machine: str, *, no_setid: bool) -> None:
    """With every argument that stands at a border."""
    program, known = read_filter(machine, no_setid=no_setid), decisions(machine, no_setid=no_setid)
    for number in NUMBERS:
        for arguments in interesting_arguments(known.get(number)):
            expected = judge(known.get(number, HIDE), arguments)
            assert execute(program, number, MACHINES[machine], arguments) == expected, (number, arguments)


@every_program
def test_libseccomp_gives_the_same_answers(machine: str, *, no_setid: bool) -> None:
    """To every number that it knows, and to all that nobody knows."""
    program, other = read_filter(machine, no_setid=no_setid), libseccomp(machine, no_setid=no_setid)
    assert set(NEWER) >= other.unknown - set(OWN.get(machine, {}))
    for number in NUMBERS:
        if number in other.unknown:
            continue
        for arguments in interesting_arguments(other.decisions.get(number)):
            answers = [judge(number, MACHINES[machine], arguments) for judge in (partial(execute, program), other.judge)]
            assert answers[0] == answers[1], (number, arguments)


@every_program
@given(data=st.data())
def test_libseccomp_gives_the_same_answers_to_any_arguments(machine: str, *, no_setid: bool, data: st.DataObject) -> None:
    """Six words of 64 bits each."""
    program, other = read_filter(machine, no_setid=no_setid), libseccomp(machine, no_setid=no_setid)
    checked = st.sampled_from(sorted(other.checked))
    number = data.draw(checked | st.sampled_from(NUMBERS).filter(lambda number: number not in other.unknown))
    values = [value for check in CHECKS for comparison in comparisons_of(check) for value in constants_of(comparison)]
    word = st.integers(0, ALL_ONES) | st.builds(lambda low, high: low | high << 32, st.sampled_from(values), st.integers(0, WORD))
    arguments = data.draw(st.tuples(*[word] * 6))
    assert execute(program, number, MACHINES[machine], arguments) == other.judge(number, MACHINES[machine], arguments)


@every_program
def test_another_architecture_is_killed(machine: str, *, no_setid: bool) -> None:
    """Whatever it calls; libseccomp says the same."""
    program, other = read_filter(machine, no_setid=no_setid), libseccomp(machine, no_setid=no_setid)
    for architecture in {*OTHER_ARCHITECTURES, *MACHINES.values()} - {MACHINES[machine]}:
        for number in NUMBERS[::7]:
            assert execute(program, number, architecture, (0,) * 6) == KILL
            assert other.judge(number, architecture, (0,) * 6) == KILL


@given(st.dictionaries(st.integers(0, 3000) | st.integers(0, WORD - 1), st.sampled_from([ALLOW, REFUSE, HIDE, *CHECKS])))
def test_any_table_is_assembled_right(table: dict[int, Decision]) -> None:
    """Also when there is hardly anything to decide."""
    program = generator.assemble(table, MACHINES["x86_64"])
    for number in {0, WORD, *(number + by for number in table for by in (-1, 0, 1) if number + by >= 0)}:
        for value in (0, 38, 0x40, 0x440, 0x5412, 0xFFFF_FFFF):
            assert execute(program, number, MACHINES["x86_64"], (value,) * 6) == judge(table.get(number, HIDE), (value,) * 6)


def test_a_table_too_long_for_short_jumps_is_assembled_right() -> None:
    """A conditional jump reaches 255 instructions; beyond, it goes over another."""
    choices = [ALLOW, REFUSE, HIDE, KILL, *CHECKS]
    table = {number: choices[number * number % 31 % len(choices)] for number in range(3000)}
    program = generator.assemble(table, MACHINES["x86_64"])
    assert any(code == generator.JA for code, *_ in decode(program))
    for number in range(3002):
        assert execute(program, number, MACHINES["x86_64"], (38,) * 6) == judge(table.get(number, HIDE), (38,) * 6)
    assert execute(program, 5, 0, (0,) * 6) == KILL


def test_the_policy_against_what_it_was_asked_for() -> None:
    """The requirement's own list, by name, on every machine that has the call."""
    asked = {
        REFUSE: "init_module finit_module delete_module kexec_load kexec_file_load bpf perf_event_open ptrace process_vm_readv"
        " process_vm_writev pidfd_getfd add_key request_key keyctl userfaultfd io_uring_setup io_uring_enter io_uring_register"
        " mount umount2 pivot_root open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr open_tree_attr unshare setns"
        " open_by_handle_at settimeofday clock_settime clock_settime64 adjtimex clock_adjtime clock_adjtime64 reboot",
        HIDE: "clone3",
        ALLOW: "chroot seccomp landlock_create_ruleset landlock_restrict_self prctl arch_prctl execve fork vfork cacheflush set_tls"
        " mbind set_mempolicy name_to_handle_at pidfd_open mknod mknodat riscv_flush_icache",
    }
    for machine in MACHINES:
        numbers = numbers_of(machine)
        for action, names in asked.items():
            for name in names.split():
                if name in numbers:
                    for no_setid in (False, True):
                        program = read_filter(machine, no_setid=no_setid)
                        assert execute(program, numbers[name], MACHINES[machine], (0,) * 6) == action, (machine, name)


@every_machine
def test_no_setid_against_what_it_was_asked_for(machine: str) -> None:
    """Told as arguments, not as the policy tells it; the default program minds none of them."""
    plain, numbers = read_filter(machine), numbers_of(machine)
    program = read_filter(machine, no_setid=True)
    path, at, write, create, temporary, path_only = 0x7FFF_1000, WORD - 99, 0o1, 0o101, 0o20200001, 0o12000000
    places = {
        "chmod": ((path,),), "fchmod": ((3,),), "fchmodat": ((at, path),), "creat": ((path,),), "mknod": ((path,),), "mknodat": ((at, path),),
        "open": ((path, create), (path, temporary)), "openat": ((at, path, create), (at, path, temporary)),
    }
    answers = {0o4755: REFUSE, 0o2755: REFUSE, 0o106711: REFUSE, 0o755: ALLOW, 0o1777: ALLOW, 0o100644: ALLOW, 0: ALLOW}
    asked = {
        (name, (*before, mode | high)): answer
        for name, places_of_it in places.items() for before in places_of_it for mode, answer in answers.items() for high in (0, 1 << 40)
    }
    asked |= {("open", (path, flags, 0o7777)): ALLOW for flags in (0, write, path_only)}
    asked |= {("openat", (at, path, flags, 0o7777)): ALLOW for flags in (0, write, path_only)}
    asked |= {(name, (path, path)): NO_SUPPORT for name in ("setxattr", "lsetxattr", "fsetxattr")}
    asked |= {(name, (at, path)): HIDE for name in ("openat2", "fchmodat2", "setxattrat")}
    here = {(name, arguments): answer for (name, arguments), answer in asked.items() if name in numbers}
    for (name, arguments), answer in here.items():
        padded = (*arguments, *[ALL_ONES] * (6 - len(arguments)))
        assert execute(program, numbers[name], MACHINES[machine], padded) == answer, (name, arguments)
        assert execute(plain, numbers[name], MACHINES[machine], padded) == ALLOW, (name, arguments)
    older = {"chmod", "creat", "mknod", "open"}
    assert {name for name, _ in asked} - set(numbers) == (older if machine in {"aarch64", "riscv64"} else set())


# ---- what the kernel does

needs_kernel = pytest.mark.skipif(
    MACHINE not in MACHINES or not Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
    reason=f"no filter for {MACHINE}, or the kernel has none (CONFIG_SECCOMP_FILTER)",
)


def install(*, no_setid: bool = False) -> None:
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.seccomp_set_mode_filter(read_filter(MACHINE, no_setid=no_setid))


def call(number: int, *arguments: int) -> str:
    """A system call's errno by name, "done" when there is none."""
    ctypes.set_errno(0)
    converted = [ctypes.c_long(argument - (1 << 64) if argument >> 63 else argument) for argument in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *converted)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "done"


def in_child(function: Any, *, is_filtered: bool = True, no_setid: bool = False) -> Any:
    """The function's answer, as JSON can carry it, from a process of its own; or "SIGSYS" and the like."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.setsid()  # whatever is done to a terminal is not done to ours
            if is_filtered:
                install(no_setid=no_setid)
            os.write(writer, json.dumps(function()).encode())
        except Exception:  # noqa: BLE001 - a forked child never returns into its parent's stack
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return json.loads(text)


@needs_kernel
def test_the_kernel_refuses_every_refused_call() -> None:
    """All arguments are -1, which no call takes: nothing happens if one gets through."""
    numbers = numbers_of(MACHINE)
    wanted = {name: "EPERM" for group in REFUSED for name in group.calls if name in numbers}
    wanted |= {name: "ENOSYS" for group in HIDDEN for name in group.calls}
    assert in_child(lambda: {name: call(numbers[name], *[ALL_ONES] * 6) for name in wanted}) == wanted


@needs_kernel
def test_the_kernel_hides_every_number_that_nobody_knows() -> None:
    """So that a newer C library falls back; -1 and x32 too."""
    numbers = [*range(max(NEWER) + 1, 600), 0xFFFF_FFFF, *([X32 + 39, X32 + 512] if MACHINE == "x86_64" else [])]
    assert set(in_child(lambda: [call(number, *[ALL_ONES] * 6) for number in numbers])) == {"ENOSYS"}


@needs_kernel
@pytest.mark.parametrize("high", [0, 1 << 32, ALL_ONES ^ WORD])
def test_nothing_is_typed_into_a_terminal(high: int) -> None:
    """TIOCSTI and TIOCLINUX are refused, also with bits above the 32 that the kernel reads; other requests are not."""
    ioctl = numbers_of(MACHINE)["ioctl"]
    if high and ctypes.sizeof(ctypes.c_long) == 4:
        pytest.skip("arguments have 32 bits here")

    def ask() -> list[str]:
        _, terminal_fd = os.openpty()
        fcntl.ioctl(terminal_fd, 0x540E, 0)  # TIOCSCTTY
        letter = mmap.mmap(-1, 4096)
        letter[0] = ord("x")
        address = ctypes.addressof(ctypes.c_char.from_buffer(letter))
        requests = (0x5412, 0x541C, 0x5401)  # TIOCSTI, TIOCLINUX, TCGETS
        return [call(ioctl, terminal_fd, request | high, address) for request in requests]

    assert in_child(ask) == ["EPERM", "EPERM", "done"]


@needs_kernel
def test_clone_makes_processes_and_no_namespaces() -> None:
    """Each of the flags alone is refused, a plain clone is not."""
    clone = numbers_of(MACHINE)["clone"]
    flags = [0x80, 0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]

    def ask() -> list[str]:
        answers = [call(clone, flag | signal.SIGCHLD, 0, 0, 0, 0) for flag in flags]
        pid = LIBC.syscall(ctypes.c_long(clone), *[ctypes.c_long(argument) for argument in (signal.SIGCHLD, 0, 0, 0, 0)])
        if pid == 0:
            os._exit(7)
        return [*answers, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))]

    assert in_child(ask) == ["EPERM"] * len(flags) + ["7"]


@needs_kernel
def test_sockets_but_those_of_crypto_and_hypervisor() -> None:
    """The refused families look as if the kernel had not got them."""
    number = numbers_of(MACHINE)["socket"]
    kinds = {socket.AF_UNIX: socket.SOCK_STREAM, socket.AF_INET: socket.SOCK_DGRAM, socket.AF_NETLINK: socket.SOCK_RAW}
    refused = {38: socket.SOCK_SEQPACKET, 40: socket.SOCK_STREAM}  # AF_ALG, AF_VSOCK
    answers = in_child(lambda: [call(number, family, kind, 0) for family, kind in (kinds | refused).items()])
    assert answers == ["done", "done", "done", "EAFNOSUPPORT", "EAFNOSUPPORT"]


@needs_kernel
def test_personalities() -> None:
    """It can be asked for; turning off the randomised addresses is refused."""
    number = numbers_of(MACHINE)["personality"]
    assert in_child(lambda: [call(number, value) for value in (WORD, 0, 0x2_0000, 0x4_0000, 0x10_0000)]) == ["done", "done", "done", "EPERM", "EPERM"]


@needs_kernel
@pytest.mark.parametrize("high", [0, 1 << 32])
def test_nobody_takes_a_lease(high: int, tmp_path: Path) -> None:
    """F_SETLEASE is refused, also with bits above the 32 that the kernel reads; flags and locks are not."""
    numbers = numbers_of(MACHINE)
    if high and ctypes.sizeof(ctypes.c_long) == 4:
        pytest.skip("arguments have 32 bits here")
    (tmp_path / "file").touch()

    def ask() -> list[str]:
        with open(tmp_path / "file") as file:
            answers = [call(numbers[name], file.fileno(), 1024 | high, fcntl.F_RDLCK) for name in ("fcntl", "fcntl64") if name in numbers]
            answers.append(call(numbers["fcntl"], file.fileno(), fcntl.F_GETFL | high))
            fcntl.fcntl(file, fcntl.F_GETLEASE)
        with open(tmp_path / "file", "w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # F_SETLK
        return answers

    assert in_child(ask, is_filtered=False)[-2:] == ["done", "done"]
    assert set(in_child(ask)[:-1]) == {"EPERM"}
    assert in_child(ask)[-1] == "done"


@needs_kernel
def test_only_ones_own_limits_are_changed() -> None:
    """And only as pid 0: a filter does not know the caller's pid."""

    def ask() -> list[str]:
        resource.prlimit(0, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        return [call(numbers_of(MACHINE)["prlimit64"], pid, resource.RLIMIT_NOFILE, 0, 0) for pid in (0, 1 << 32, os.getppid(), 1, os.getpid())]

    if ctypes.sizeof(ctypes.c_long) == 4:
        pytest.skip("arguments have 32 bits here")
    assert in_child(ask) == ["done", "done", "EPERM", "EPERM", "EPERM"]


@needs_kernel
def test_no_setid_makes_no_set_id_files(tmp_path: Path) -> None:
    """By no call that has a mode, raw and as Python makes it; other modes are as ever."""
    numbers = numbers_of(MACHINE)
    (tmp_path / "file").touch()
    path, new, fifo = (ctypes.create_string_buffer(os.fsencode(tmp_path / name)) for name in ("file", "new", "fifo"))
    at_path, at_new, at_fifo = map(ctypes.addressof, (path, new, fifo))
    here = os.O_CREAT | os.O_EXCL | os.O_WRONLY

    def ask() -> list[dict[str, str]]:
        file_fd = os.open(tmp_path / "file", os.O_RDWR)
        answers = []
        for mode in (0o4755, 0o2755, 0o6711, 0o755, 0o1777):
            calls: dict[str, tuple[int, ...]] = {
                "chmod": (at_path, mode), "fchmod": (file_fd, mode), "fchmodat": (WORD - 99, at_path, mode),
                "fchmodat2": (WORD - 99, at_path, mode, 0), "open": (at_new, here, mode), "openat": (WORD - 99, at_new, here, mode),
                "creat": (at_new, mode), "mknod": (at_fifo, 0o10000 | mode, 0), "mknodat": (WORD - 99, at_fifo, 0o10000 | mode, 0),
            }
            said = {}
            for name, arguments in calls.items():
                if name in numbers:
                    said[name] = call(numbers[name], *arguments)
                for made in (tmp_path / "new", tmp_path / "fifo"):
                    made.unlink(missing_ok=True)
            answers.append(said)
        return answers

    everything = set(in_child(ask, is_filtered=False)[0]) - {"fchmodat2"}
    answers = in_child(ask, no_setid=True)
    assert [said.pop("fchmodat2") for said in answers] == ["ENOSYS"] * 5
    assert answers == [dict.fromkeys(everything, "EPERM")] * 3 + [dict.fromkeys(everything, "done")] * 2
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o1777
    assert {name for said in in_child(ask)[:3] for name, answer in said.items() if answer == "EPERM"} == set()


@needs_kernel
def test_no_setid_reads_a_mode_only_where_there_is_one(tmp_path: Path) -> None:
    """Without O_CREAT and O_TMPFILE the register of the mode holds what was there before."""
    number = numbers_of(MACHINE)["openat"]
    (tmp_path / "file").touch()
    path, directory = (ctypes.create_string_buffer(os.fsencode(name)) for name in (tmp_path / "file", tmp_path))
    opened = [(path, os.O_RDONLY), (path, os.O_RDWR), (path, os.O_PATH), (directory, os.O_RDONLY | os.O_DIRECTORY)]
    made = [(path, os.O_CREAT | os.O_RDWR), (directory, os.O_TMPFILE | os.O_RDWR)]

    def ask() -> list[list[str]]:
        return [
            [call(number, WORD - 99, ctypes.addressof(name), flags, mode) for name, flags in opened + made]
            for mode in (0o644, 0o4755, ALL_ONES)
        ]

    if "ENOTSUP" in in_child(ask, is_filtered=False)[0]:
        pytest.skip(f"the file system of {tmp_path} has no O_TMPFILE")
    assert in_child(ask) == [["done"] * 6] * 3
    assert in_child(ask, no_setid=True) == [["done"] * 6, ["done"] * 4 + ["EPERM"] * 2, ["done"] * 4 + ["EPERM"] * 2]


@needs_kernel
def test_no_setid_looks_like_a_file_system_without_attributes(tmp_path: Path) -> None:
    """So that what copies files goes on without them; copystat does, and copies the rest."""
    for name in ("file", "copy"):
        (tmp_path / name).touch()
    try:
        os.setxattr(tmp_path / "file", "user.x", b"y")
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} has no attributes of users: {error}")
    os.chmod(tmp_path / "file", 0o751)
    os.utime(tmp_path / "file", (5, 6))

    def ask() -> list[Any]:
        said = []
        for target, follow in ((tmp_path / "copy", True), (tmp_path / "copy", False)):
            try:
                os.setxattr(target, "user.x", b"z", follow_symlinks=follow)
            except OSError as error:
                said.append(errno.errorcode[error.errno])
        with open(tmp_path / "copy") as file:
            said.append(call(numbers_of(MACHINE)["fsetxattr"], file.fileno(), 0, 0, 0, 0))
        said.append(call(463, *[ALL_ONES] * 6))  # setxattrat
        said.append(os.getxattr(tmp_path / "file", "user.x").decode())
        shutil.copystat(tmp_path / "file", tmp_path / "copy")
        copied = os.stat(tmp_path / "copy")
        return [*said, oct(stat.S_IMODE(copied.st_mode)), copied.st_mtime, os.listxattr(tmp_path / "copy")]

    assert in_child(ask, no_setid=True) == ["ENOTSUP"] * 3 + ["ENOSYS", "y", "0o751", 6.0, []]
    assert in_child(ask)[-1] == ["user.x"]


@needs_kernel
def test_a_32_bit_call_of_a_64_bit_process_kills_it() -> None:
    """`int 0x80` counts i386's calls: getpid's number there is writev's here."""
    if MACHINE != "x86_64":
        pytest.skip("int 0x80 is x86_64's")

    def ask() -> int:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov $20, %eax; int $0x80; ret
        function = ctypes.PYFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        return function()

    if not isinstance(in_child(ask, is_filtered=False), int):
        pytest.skip("the kernel runs no 32-bit calls (CONFIG_IA32_EMULATION)")
    assert in_child(ask) == "SIGSYS"


@needs_kernel
def test_threads_and_processes_start() -> None:
    """glibc asks for clone3, is told that there is none, and takes clone; so does posix_spawn."""

    def ask() -> list[Any]:
        seen: list[int] = []
        threads = [threading.Thread(target=seen.append, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = subprocess.run(["/bin/sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True, check=True).stdout
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
        spawned = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with multiprocessing.get_context("fork").Pool(2) as pool:
            squares = pool.map(abs, [-1, -2, -3])
        return [len(seen), said, spawned, squares]

    assert in_child(ask) == [20, "42\n", 3, [1, 2, 3]]


PROGRAMS = (
    ("tar", "tar -cf - docs | tar -tf - | sort | head -n 20; d=$(mktemp -d) && tar -cpf - docs | tar -C $d -xpf - && diff -r docs $d/docs && rm -r $d"),
    (
        "install",
        """umask 077; cd $(mktemp -d) && install -m 755 /etc/passwd a && install -d -m 1777 b && mkdir -m 750 c && mknod -m 600 d p && cp -p a e &&
        cp -a . ../$$ && stat -c '%n %a' a b c d e ../$$/* | sed 's,.*/,,' && chmod a+rx,u-w a && chmod -R go= . && stat -c %a * && rm -r $PWD ../$$""",
    ),
    ("find", "find docs -name '*.md' -print0 | sort -z | xargs -0 -n 2 -P 4 cat | wc -c"),
    ("sort", "seq 200000 | sort --parallel=4 -R | sort -n --parallel=4 -S 1M | md5sum"),
    ("mkfifo", "cd $(mktemp -d) && mkfifo f && (echo x > f &) && cat f && rm -r $PWD"),
    (
        "dd",
        """cd $(mktemp -d) && cp -a /etc/passwd g && mv g h && ln h i && ln -s h j && chmod 600 h && touch -d @0 h && stat -c %Y.%h h &&
        truncate -s 1M k && dd if=k of=l bs=64k conv=fsync status=none && cmp k l && df . > k && rm -r $PWD""",
    ),
    ("gzip", "head -c 3000000 /dev/zero | gzip -c | gunzip -c | wc -c"),
    ("timeout", "timeout 5 nice -n 1 setsid sh -c 'ulimit -n; umask; id -u; cd /; pwd; kill -0 $$; echo $?'"),
    ("flock", "flock /tmp sh -c 'date -u -d @0; hostname; uname -s; getent passwd root; env -i true; sleep 0.01; nproc; id'"),
    ("awk", "awk 'BEGIN { while (i++ < 9) print i | \"cat\" }'; grep -rc service docs | sort; sed -n 1p README.md; diff README.md README.md"),
    ("perl", "perl -e 'my $p = fork; exit 3 unless $p; waitpid $p, 0; print $? >> 8; print sort { $a <=> $b } 3, 1, 2; print `echo x`'"),
    ("script", "script -qc 'tty > /dev/null && stty size' /dev/null"),
    ("chroot", "test $(id -u) != 0 || chroot / echo inside"),
)

PYTHON = """
import asyncio, concurrent.futures, ctypes, decimal, fcntl, inspect, mmap, os, resource, select, shutil, signal, socket, sqlite3, ssl, tempfile, time
signal.setitimer(signal.ITIMER_REAL, 30)
resource.getrusage(0); resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
os.sched_getaffinity(0); os.sched_yield(); os.getrandom(8); os.memfd_create("a"); os.pidfd_open(os.getpid()); os.eventfd(0)
with tempfile.TemporaryFile() as f:
    f.write(b"a" * 9999); f.flush(); os.posix_fallocate(f.fileno(), 0, 20000); fcntl.lockf(f, fcntl.LOCK_EX)
    print(len(mmap.mmap(f.fileno(), 0)), os.sendfile(f.fileno(), f.fileno(), 0, 10), os.preadv(f.fileno(), [bytearray(3)], 0))
with tempfile.TemporaryDirectory() as d:
    db = sqlite3.connect(d + "/db"); db.execute("pragma journal_mode = wal"); db.execute("create table t (a)"); db.commit()
    print(db.execute("select count(*) from t").fetchall()); db.close()
async def main():
    async def answer(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*server.sockets[0].getsockname()); w.write(b"hello\\n")
    print(await r.read()); w.close(); server.close()
    child = await asyncio.create_subprocess_exec("echo", "child", stdout=-1); print(await child.communicate())
    print(await asyncio.to_thread(sum, range(10)))
asyncio.run(main())
with concurrent.futures.ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, range(-3, 0))))
ssl.create_default_context(); p = select.epoll(); p.close()
with tempfile.TemporaryDirectory() as d:
    shutil.copytree("docs", d + "/docs"); shutil.make_archive(d + "/a", "tar", d, "docs"); shutil.unpack_archive(d + "/a.tar", d + "/b")
    print(sorted(os.listdir(d + "/b/docs")), os.stat(d + "/b/docs").st_mtime == os.stat("docs").st_mtime)
"""


@needs_kernel
@pytest.mark.parametrize(
    "argv",
    [pytest.param(["/bin/sh", "-c", line], id=name) for name, line in PROGRAMS] + [pytest.param([sys.executable, "-c", PYTHON], id="python3")],
)
@pytest.mark.parametrize("no_setid", [False, True], ids=["default", "no_setid"])
def test_ordinary_programs_do_not_notice(argv: list[str], request: pytest.FixtureRequest, *, no_setid: bool) -> None:
    """The same words and the same end with the filter and without."""
    need(request.node.callspec.id.removeprefix("default-").removeprefix("no_setid-"))
    plain, filtered = (
        subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, preexec_fn=before)
        for before in (None, partial(install, no_setid=no_setid))
    )
    assert (filtered.returncode, filtered.stdout, filtered.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert plain.returncode == 0


@needs_kernel
def test_a_filter_holds_for_every_descendant() -> None:
    """Through exec, and a second filter does not take it off."""
    need("unshare")

    def ask() -> list[Any]:
        install()
        done = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True)
        with open("/proc/self/status") as file:
            return [done.returncode != 0, "Operation not permitted" in done.stderr, "Seccomp:\t2\n" in file.read()]

    assert in_child(ask) == [True, True, True]


@needs_kernel
def test_without_no_new_privs_an_unprivileged_process_is_told() -> None:
    """The error names what could not be set."""

    def ask() -> str:
        if os.geteuid() == 0:
            os.setresuid(61_234, 61_234, 61_234)
        try:
            seccomp.seccomp_set_mode_filter(read_filter(MACHINE))
        except OSError as error:
            return f"{errno.errorcode[error.errno]} {error.filename}"
        return "done"

    assert in_child(ask, is_filtered=False) == "EACCES seccomp filter"


@needs_kernel
def test_a_program_that_is_none_is_refused_by_the_kernel() -> None:
    """EINVAL, not a process without a filter."""

    def ask() -> str:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        try:
            seccomp.seccomp_set_mode_filter(b"")
        except OSError as error:
            return errno.errorcode[error.errno]
        return "done"

    assert in_child(ask, is_filtered=False) == "EINVAL"


def test_the_policy_can_be_told() -> None:
    """Every group has a name and a reason of its own, for docs/security.md."""
    groups = [*REFUSED, *HIDDEN, *NO_SETID_HIDDEN, *NO_SETID_UNSUPPORTED]
    assert len({group.name for group in groups}) == len(groups)
    assert all(group.reason and group.calls for group in groups)
    assert all(check.reason and check.decision.matched != check.decision.otherwise for check in (*CHECKED, *NO_SETID_CHECKED))

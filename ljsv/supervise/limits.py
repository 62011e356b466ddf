"""The control group of one service's jail: made before it, watched while it runs, removed after it.

The supervisor asks, this carries out; what fails here is told and never stops
a jail from starting or ending. Without groups every question has its answer
as well: no descriptor, nothing frozen, no reason. Sources:
Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress

from ljsv.errors import Fault
from ljsv.jail import group, limits
from ljsv.jail.cgroup import NOT_ENFORCED
from ljsv.linux import cgroup
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.jail.group import Tree
    from ljsv.jail.limits import Setting
    from ljsv.supervise.events import Events
    from ljsv.supervise.loop import Loop

STALL_TRIGGER = "full 1000000 2000000\0"  # all of it waited for memory, half of two seconds (an unprivileged user's smallest window)
STALL_GAP_S, STALL_MAX_S = 5.0, 10.0
NEVER, OOM_RECENT_S = -1e9, 2.0  # an end so soon after a process was killed is its consequence
LEFT_FIRST_S, LEFT_TRIES = 0.02, 12  # doubled each time: 80 s
LEFT_TOLD_AFTER = 6
_FILES = (
    ("memory", "memory", "memory.max", "max"), ("memory_high", "memory", "memory.high", "max"), ("swap", "memory", "memory.swap.max", "max"),
    ("cpu", "cpu", "cpu.max", "max 100000"), ("cpu_weight", "cpu", "cpu.weight", "100"), ("pids", "pids", "pids.max", "max"),
    ("cpus", "cpuset", "cpuset.cpus", ""), ("oom", "memory", "memory.oom.group", "0"),
)


class JailGroup:
    """`path` is "" while there is none. `on_stuck` is called with the reason when the jail has to be killed, `on_change` when `oom_kills` is another."""

    def __init__(self, tree: Tree, loop: Loop, events: Events, key: str, on_stuck: Callable[[str], None], on_change: Callable[[], None]) -> None:
        self.tree = tree
        self.path = ""
        self.notes: tuple[str, ...] = ()
        self.fault: Fault | None = None
        self._loop, self._events, self._key, self._on_stuck, self._on_change = loop, events, key, on_stuck, on_change
        self._settings: tuple[Setting, ...] = ()  # in force
        self._told: tuple[str, ...] = ()
        self.is_frozen = False
        self.memory_fd = self._stall_fd = -1
        self.oom_kills, self._oom_at = 0, NEVER  # of processes, for want of memory, that have been told; and when
        self._stalled_since = self._stalled_last = -STALL_GAP_S
        self._left: dict[str, int] = {}

    # ---- the jail's life

    def begin(self, name: str, settings: tuple[Setting, ...]) -> int:
        """A new group for the service of that name: a descriptor of it for clone3, the caller's to close; -1 for none."""
        self._close()
        self.path, self.fault, self._settings, self.is_frozen = "", None, (), False
        if not self.tree.path:
            self._say_lost(tuple((setting.key, *_why_no_tree(self.tree, setting)) for setting in settings))
            return -1
        try:
            self.path = group.make_group(self.tree, group.LOG_SERVICE + name.removesuffix("/log") if name.endswith("/log") else group.SERVICE + name)
            self._left.pop(self.path, None)  # nobody is left in the one that had this name
            lost = limits.write_settings(self.tree, self.path, settings)
            fd = group.open_group(self.path)
        except OSError as error:
            cause = f"cannot make the control group: {error.filename or self.tree.path}: {error.strerror}"
            self._drop()
            self._say_lost(tuple((setting.key, cause, "ljsv doctor") for setting in settings))
            return -1
        without = {key for key, _, _ in lost}
        self._settings = tuple(setting for setting in settings if setting.key not in without)
        self._watch_memory()
        self._say_lost((*lost, *self._guard_stall()))
        return fd

    def adopt(self, path: str, settings: tuple[Setting, ...] | None, oom_kills: int, *, is_alive: bool) -> None:
        """The group of a jail of the supervisor before us, which may be dead by now; `settings` None: its files cannot be read.

        `oom_kills`: those that have been seen.
        """
        if not path or not cgroup.has_file(path, "cgroup.events"):
            return
        self.path = path
        if not is_alive:
            self.oom_kills, self._oom_at = oom_kills, NEVER
            return
        self._settings = _read_settings(path)
        self.is_frozen = cgroup.read_words(path, "cgroup.freeze") == ("1",)
        self._watch_memory()
        self._count_kills(oom_kills)
        if settings is None:
            self._guard_stall()
        else:
            self.apply(settings, "limits")

    def remember(self, notes: tuple[str, ...]) -> None:
        """What the supervisor before us has told: it is not told again."""
        self.notes = self._told = notes

    def apply(self, settings: tuple[Setting, ...], file: str) -> None:
        """Bring a running group to these settings; where one is refused the old value stays, and `fault` says so."""
        self.fault = None
        if not self.path:
            return
        lost: list[tuple[str, str, str]] = []
        refused: list[str] = []
        done: list[str] = []
        in_force = {(setting.key, setting.file): setting for setting in self._settings}
        for setting in limits.differences(self._settings, settings):
            why = limits.why_not(self.tree, self.path, setting)
            if why:
                lost.append((setting.key, *why))
                continue
            try:
                limits.change_setting(self.path, setting)
            except OSError as error:
                refused.append(f"{setting.key}: {_say_refusal(setting, error)}")
                continue
            done.append(setting.describe())
            in_force[setting.key, setting.file] = setting
        wanted = {(setting.key, setting.file) for setting in settings}
        self._settings = tuple(setting for place, setting in in_force.items() if place in wanted or setting.value != setting.off)
        lost += self._guard_stall()
        if done:
            self._events.send("limits changed", settings=" ".join(done))
        if refused:
            self.fault = Fault("cannot change a limit", file, "; ".join(refused), hint="the old value stays in force; correct the file, or: ljsv restart")
            self._events.send("limit refused", "warning", fault=str(self.fault), hint=self.fault.hint)
        self._say_lost(tuple(lost))

    def ended(self) -> str:
        """The jail has ended: why, where memory was the reason; "" else. The group goes, and what is left in it is killed."""
        if not self.path:
            return ""
        reason = self._explain_memory()
        if reason:
            self._events.send("out of memory", "error", reason=reason, peak=_megabytes(cgroup.read_number(self.path, "memory.peak")))
        self._drop()
        return reason

    def kill(self) -> None:
        """All that is in it, at once."""
        if self.path:
            group.kill_group(self.path)

    def freeze(self, *, is_frozen: bool) -> bool:
        """False where there is no freezer: then a signal has to do."""
        is_done = bool(self.path) and group.freeze_group(self.path, is_frozen=is_frozen)
        self.is_frozen = is_frozen if is_done else self.is_frozen
        return is_done

    # ---- what is told

    def _say_lost(self, lost: tuple[tuple[str, str, str], ...]) -> None:
        """Into the status, and once into the journal."""
        causes: dict[tuple[str, str], list[str]] = {}
        for key, cause, hint in lost:
            if key == "oom" and len(lost) > 1:
                continue  # it goes without saying, without `memory`
            causes.setdefault((cause, hint), []).append(key)
        self.notes = tuple(f"{NOT_ENFORCED}{', '.join(keys)} ({cause})" for (cause, _), keys in causes.items())
        if self.notes != self._told:
            for (cause, hint), keys in causes.items():
                self._events.send("limits are not enforced", "warning", limits=", ".join(keys), cause=cause, hint=hint)
            self._told = self.notes

    # ---- memory

    def _watch_memory(self) -> None:
        """memory.events is readable with POLLPRI when one of its numbers has changed."""
        self.oom_kills, self._oom_at = cgroup.read_pairs(self.path, "memory.events").get("oom_kill", 0), NEVER
        with suppress(OSError):
            self.memory_fd = os.open(f"{self.path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            os.read(self.memory_fd, 4096)
            self._loop.watch(self.memory_fd, self._memory_changed, select.EPOLLPRI)

    def _memory_changed(self) -> None:
        os.pread(self.memory_fd, 4096, 0)
        self._count_kills(self.oom_kills)

    def _count_kills(self, seen: int) -> None:
        """Of processes for want of memory; `seen` of them have been told."""
        self.oom_kills = cgroup.read_pairs(self.path, "memory.events").get("oom_kill", 0)
        if self.oom_kills > seen:
            self._events.send("out of memory: a process was killed", "warning", killed=self.oom_kills - seen)
            self._oom_at = now()
            self._on_change()

    def _guard_stall(self) -> tuple[tuple[str, str, str], ...]:
        """Above memory.high a jail that can give nothing back is slowed down for ever: it has to be noticed, or there is no memory.high."""
        has_high = any(setting.file == "memory.high" for setting in self._settings)
        if not has_high:
            self._close_stall()
            return ()
        if self._stall_fd >= 0:
            return ()
        path = f"{self.path}/memory.pressure"
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(fd, STALL_TRIGGER.encode())
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            with suppress(OSError):
                cgroup.write_file(self.path, "memory.high", cgroup.MAX)
            self._settings = tuple(setting for setting in self._settings if setting.file != "memory.high")
            cause = f"who is stuck above it could not be noticed: {path}: {error.strerror}"
            return (("memory_high", cause, "boot with psi=1"),)
        self._stall_fd = fd
        self._loop.watch(fd, self._stalled, select.EPOLLPRI)
        return ()

    def _stalled(self) -> None:
        """Once for each window in which it stood still."""
        moment = now()
        if moment - self._stalled_last > STALL_GAP_S:
            self._stalled_since = moment
        self._stalled_last = moment
        if moment - self._stalled_since >= STALL_MAX_S:
            high = cgroup.read_number(self.path, "memory.high")
            self._close_stall()
            self._on_stuck(f"out of memory: it was stuck for {STALL_MAX_S:g}s above memory_high = {_megabytes(high)}")

    def _explain_memory(self) -> str:
        events = cgroup.read_pairs(self.path, "memory.events")
        if events.get("oom_kill", 0) <= self.oom_kills and now() - self._oom_at > OOM_RECENT_S:
            return ""  # not at all, or it went on after that
        most = cgroup.read_number(self.path, "memory.max")
        if events.get("oom") and most is not None:
            return f"out of memory: it used all of memory = {_megabytes(most)}"
        return "out of memory: the machine, or a control group above this one, had none left"

    # ---- the end of a group

    def _close(self) -> None:
        self._close_stall()
        if self.memory_fd >= 0:
            self._loop.forget(self.memory_fd)
            os.close(self.memory_fd)
        self.memory_fd = -1

    def _close_stall(self) -> None:
        if self._stall_fd >= 0:
            self._loop.forget(self._stall_fd)
            os.close(self._stall_fd)
        self._stall_fd = -1
        self._stalled_since = self._stalled_last = -STALL_GAP_S

    def _drop(self) -> None:
        self._close()
        path, self.path = self.path, ""
        if path and not group.remove_group(path):
            self._left[path] = 0
            self._remove_left()

    def _remove_left(self) -> None:
        """What is in a group after its jail has ended (somebody who has entered it) is killed, until nothing is left."""
        for path, tries in list(self._left.items()):
            group.kill_group(path)
            if group.remove_group(path) or tries >= LEFT_TRIES:
                del self._left[path]
                continue
            self._left[path] = tries + 1
            if tries == LEFT_TOLD_AFTER:
                pids = " ".join(cgroup.read_words(path, "cgroup.procs"))
                self._events.send("processes are left in the control group", "error", path=path, pids=pids)
        if self._left:
            wait_s = LEFT_FIRST_S * 2.0 ** max(self._left.values())
            self._loop.set_timer(f"{self._key} group", now() + wait_s, self._remove_left)


def _why_no_tree(tree: Tree, setting: Setting) -> tuple[str, str]:
    missing = tree.why_missing(setting.controller)
    return (missing.cause, missing.hint) if missing else ("there are no control groups", "ljsv doctor")


def _say_refusal(setting: Setting, error: OSError) -> str:
    """The words of `change_setting` itself are said as they are."""
    is_ours = error.errno == errno.EBUSY and setting.file == "memory.max"
    return str(error.strerror) if is_ours else limits.explain_refusal(setting, error)


def _read_settings(path: str) -> tuple[Setting, ...]:
    """What is in force in a group that another supervisor has made (but for io.max)."""
    found = []
    for key, controller, file, off in _FILES:
        with suppress(OSError):
            value = cgroup.read_file(path, file).strip()
            if value != off:
                found.append(limits.Setting(key, controller, file, value, off))
    return tuple(found)


def _megabytes(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size >> 20}M" if size % (1 << 20) == 0 else f"{size >> 10}K"

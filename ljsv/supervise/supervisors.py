"""The scanner's supervisors: found by the locks that they hold, or forked, and started again when they end.

A supervisor that lives when a scanner begins is left alone; one that ends
unasked is followed by another, the first time at once and then after growing
waits. A directory whose supervise directory knows of nothing is searched for
jails that may be its own, so that none runs twice.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field

from ljsv import status
from ljsv.errors import quote
from ljsv.linux import files, process
from ljsv.paths import trust_fault
from ljsv.supervise import dormitory
from ljsv.supervise.asleep import WAKE
from ljsv.supervise.attendants import Dormitory, forget_signals
from ljsv.supervise.directory import format_identity, read_owner, tell_subscribers
from ljsv.supervise.loop import now
from ljsv.supervise.orphans import find_jails, mark_of
from ljsv.supervise.process import Inherited, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.supervise.events import Events
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.settle import Settling

RESPAWN_FIRST_S = 1.0
RESPAWN_MAX_S = 60.0
LIVED_LONG_S = 10.0
STOP_TRIES = 5
WAKE_MAX_S = 2.0
TOLD_TO_EXIT = "its supervisor was told to exit"
Identity = tuple[int, int, int]


@dataclass
class Entry:
    """One service directory, as long as the scanner has to do with it. `pid`, `pidfd`: of its supervisor, or of the dormitory while that sleeps."""

    name: str
    identity: Identity
    dir_fd: int
    settling: Settling | None = None
    watches: set[int] = field(default_factory=set)
    pidfd: int = -1
    pid: int = 0
    is_child: bool = False
    begun_fd: int = -1
    spawned_at: float = 0.0
    failures: int = 0
    folder: str = ""  # its supervise directory, where that is a runtime folder
    is_leaving: bool = False  # its directory is gone: the supervisor has been told to exit
    next: tuple[int, int] | None = None  # (pid, pidfd) of who follows when this supervisor has ended
    is_asleep: bool = False
    due: set[int] = field(default_factory=set)  # signals for its supervisor, when that is awake
    is_exited: bool = False  # told to exit by a client: not started again by itself
    problem: str = ""  # why nobody supervises it
    held_fds: list[int] = field(default_factory=list)  # its FIFOs, while one supervisor hands over to the next
    held_at: float = 0.0
    control_fds: list[int] = field(default_factory=list)  # its control FIFOs, never read here: what was written is not lost with who had not read it yet


class Supervisors:
    """`on_end` is told of one that has ended, and whether it was told to; `on_word` of what the dormitory says.

    `is_replacing`: whoever lives already is replaced by one of this code and
    with these groups. `is_stopping`: none is started again by itself.
    """

    def __init__(self, loop: Loop, events: Events, inherited: Inherited, on_end: Callable[[Entry, bool], None], on_word: Callable[[str], None]) -> None:
        self._places = inherited.places
        self._loop = loop
        self._events = events
        self._inherited = inherited
        self.dormitory = Dormitory(loop, events, inherited, on_word)
        self._on_end = on_end
        self._jails = find_jails()  # that were there when it began
        self.exits: dict[int, int] = {}  # of children that were reaped before their pidfd was looked at
        self.is_replacing = False
        self.is_stopping = False
        self.exited_before: set[str] = set()  # told to exit, and left alone by the scanner before

    # ---- finding

    def find(self, entry: Entry) -> tuple[int, int] | None:
        """(pid, start time) of a supervisor that holds the lock on this directory, as its `detail` says, or, where that one has ended, the kernel."""
        try:
            probe_fd = os.open(f"/proc/self/fd/{entry.dir_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None  # gone, or not ours to open any more: a new supervisor will say so
        try:
            fcntl.flock(probe_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None
        finally:
            os.close(probe_fd)
        words: list[str] = []
        with suppress(OSError):
            words = status.read_detail(self.folder_of(entry)).get("supervisor", "").split()
        named = (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)
        if named[0] and process.read_start_time(named[0]) == named[1]:
            return named
        holder = _holder_of(entry.dir_fd)
        return holder if holder[0] else named

    def folder_of(self, entry: Entry) -> str:
        """Through the descriptor, also where the directory was moved away; its runtime folder outlives even its deletion."""
        path = f"/proc/self/fd/{entry.dir_fd}/supervise"
        try:
            folder = os.readlink(path)
            if self._places.runtime and os.path.dirname(folder) == self._places.runtime:
                entry.folder = folder
        except FileNotFoundError:  # none yet, or it was deleted
            folder = self._places.runtime_of(entry.name) or ""
            if folder and not entry.folder and read_owner(folder) == format_identity(entry.identity):
                entry.folder = folder
        except OSError:
            pass  # no symlink
        return entry.folder or path

    # ---- beginning

    def spawn(self, entry: Entry) -> None:
        """A supervisor for this directory: the one that is there already, or a new one."""
        why = trust_fault(f"/proc/self/fd/{entry.dir_fd}", os.geteuid(), strict=os.geteuid() == 0)
        if why:
            self._not_supervised(entry, f"root will not run it: the directory {why}")
            return
        living = self.find(entry)
        if living is not None:
            entry.pidfd = process.open_process(*living) if living[0] else -1
            # The one that is named is dead: another has just begun, or what runs in the jail holds the lock, since it
            # sees the directory. A second look tells; supervise/lock, which no jail sees, decides.
            is_jail = entry.pidfd < 0 and living[0] and entry.failures > 0
            if entry.pidfd < 0 and not is_jail:
                self._respawn_later(entry)
                return
            if is_jail:
                living = None
                self._events.send("the service directory is locked by what is no supervisor: not waiting for it", "warning", name=entry.name)
            else:
                entry.pid, entry.is_child = living[0], False
        if living is None and entry.name in self.exited_before:
            self.exited_before.discard(entry.name)
            if self._is_exited(entry):
                entry.is_exited, entry.problem = True, TOLD_TO_EXIT
                return
        if living is None and not self._fork(entry):
            return
        entry.problem = ""
        entry.is_exited = False
        entry.spawned_at = now()
        self._loop.watch(entry.pidfd, lambda: self._ended(entry))
        entry.is_asleep = living is not None and _is_dormitory(entry.pid)
        if living is not None:
            self.hold_control(entry)
        if living is not None and self.is_replacing:
            self._replace(entry)
        elif living is not None:
            self.tell(entry, signal.SIGHUP)

    def _is_exited(self, entry: Entry) -> bool:
        """Whether the last supervisor of this very directory has ended as it was told."""
        with suppress(OSError):
            detail = status.read_detail(self.folder_of(entry))
            return detail.get("supervisor") == "-" and detail.get("boot") == process.read_boot_id() and detail.get("identity") == format_identity(entry.identity)
        return False

    # ---- asleep

    def let_sleep(self, entry: Entry) -> None:
        """Its supervisor has been idle for a while: the dormitory follows it, and is there before that ends, whoever is killed meanwhile."""
        is_settled = entry.folder and entry.pidfd >= 0 and entry.begun_fd < 0 and not entry.held_fds and not entry.next and not entry.is_asleep
        if not is_settled or entry.is_leaving or self.is_stopping:
            return
        entry.due.clear()
        with suppress(OSError):
            dir_fd = os.open(f"/proc/self/fd/{entry.dir_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                entry.next = self.dormitory.take(format_identity(entry.identity), entry.name, entry.folder, dir_fd, entry.pidfd)
            finally:
                os.close(dir_fd)

    def stay_awake(self, entry: Entry) -> None:
        """It has something to do after all."""
        self.end_next(entry)
        entry.due.clear()

    def woke(self, entry: Entry, pid: int, start_time: int) -> None:
        """The dormitory has forked a supervisor for it."""
        pidfd = process.open_process(pid, start_time)
        if entry.next:  # that the one before has ended is not known yet
            _close(entry.next[1])
            entry.next = pid, pidfd
        elif entry.is_asleep and entry.pid != pid:
            self._loop.forget(entry.pidfd)
            os.close(entry.pidfd)
            entry.pid, entry.pidfd = pid, pidfd
            self._is_awake(entry)

    def _is_awake(self, entry: Entry) -> None:
        """It has a supervisor of its own, or had one that has ended already."""
        entry.is_asleep = False
        self._loop.set_timer(f"wake {entry.identity}", None, lambda: None)
        if entry.pidfd < 0:
            self._on_end(entry, self._was_told(entry))
            return
        self._loop.watch(entry.pidfd, lambda: self._ended(entry))
        due, entry.due = entry.due, set()
        for number in due:
            self.tell(entry, number)

    def wake(self, entry: Entry) -> None:
        """Something is due: have the dormitory fork a supervisor, and look again whether it has."""
        if not entry.is_asleep or entry.pidfd < 0:
            return
        try:
            fd = os.open(f"{self.folder_of(entry)}/control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            with suppress(BlockingIOError):  # then there is enough to wake for
                os.write(fd, WAKE)
            os.close(fd)
        except OSError:  # it was deleted: all of them have to look
            with suppress(OSError):
                signal.pidfd_send_signal(entry.pidfd, signal.SIGHUP)
        self._loop.set_timer(f"wake {entry.identity}", now() + WAKE_MAX_S, lambda: self._wake_again(entry))

    def _wake_again(self, entry: Entry) -> None:
        """Nobody has said that it woke: it may have, or be lost."""
        living = self.find(entry)
        if living is None and entry.is_asleep:  # nobody has the lock
            self._loop.forget(entry.pidfd)
            os.close(entry.pidfd)
            entry.pid, entry.pidfd, entry.is_child = 0, -1, False
            self._is_awake(entry)
        elif living and living[0] and not _is_dormitory(living[0]):
            self.woke(entry, *living)
        else:
            self.wake(entry)

    # ---- replacing, forking

    def _replace(self, entry: Entry) -> None:
        """Another supervisor takes the service over; whoever looks at its FIFOs meanwhile finds them held."""
        supervise_path, entry.held_at = self.folder_of(entry), now()
        for path in (supervise_path, f"/proc/self/fd/{entry.dir_fd}/log/supervise"):
            for name in ("ok", "control"):
                with suppress(OSError):
                    entry.held_fds.append(os.open(f"{path}/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        self.tell(entry, signal.SIGUSR2)

    @staticmethod
    def release(entry: Entry) -> None:
        """Let go of what is held for a hand-over: the new supervisor holds it, or there is none."""
        while entry.held_fds:
            os.close(entry.held_fds.pop())

    def hold_control(self, entry: Entry) -> None:
        """Those that are there now; not a moment without the ones before, where they are the same."""
        before, entry.control_fds = entry.control_fds, []
        for path in (self.folder_of(entry), f"/proc/self/fd/{entry.dir_fd}/log/supervise"):
            with suppress(OSError):
                entry.control_fds.append(os.open(f"{path}/control", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
        for fd in before:
            os.close(fd)

    @staticmethod
    def let_go_of_control(entry: Entry) -> None:
        while entry.control_fds:
            os.close(entry.control_fds.pop())

    def _lost_jails(self, entry: Entry) -> dict[str, list[int]]:
        """What may run for this directory, by mark, where its supervise directory knows of nothing."""
        if os.path.exists(f"{self.folder_of(entry)}/detail"):
            return {}
        jails = find_jails() if entry.spawned_at else self._jails
        marks = [mark_of(entry.identity)]
        with suppress(OSError):
            log_fd = os.open("log", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=entry.dir_fd)
            marks.append(mark_of(files.read_identity(log_fd)))
            os.close(log_fd)
        return {mark: jails[mark] for mark in marks if mark in jails}

    def _fork(self, entry: Entry) -> bool:
        """A supervisor, which `_began` hears of; False where the system has no room for it."""
        lost = self._lost_jails(entry)
        begun_fd, begun_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.pthread_sigmask(signal.SIG_BLOCK, dormitory.SIGNALS)  # until the child can take them
        try:
            entry.pid, entry.pidfd = process.clone3(process.CLONE_PIDFD)
            if entry.pid == 0:
                self._become_supervisor(entry, begun_w, lost)
        except OSError as error:
            os.close(begun_fd)
            self._events.send("cannot fork", "error", name=entry.name, cause=error.strerror)
            self._respawn_later(entry)
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, dormitory.SIGNALS)
            os.close(begun_w)
        entry.is_child = True
        entry.begun_fd = begun_fd
        self._loop.watch(begun_fd, lambda: self._began(entry))
        return True

    def _become_supervisor(self, entry: Entry, begun_w: int, lost: dict[str, list[int]]) -> None:
        """In the child. Never returns."""
        code, inherited = 111, self._inherited
        try:
            process.leave_terminal()
            forget_signals()
            # The lock is on this description of the directory, which nobody else has.
            dir_fd = os.open(f"/proc/self/fd/{entry.dir_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            process.close_all_except(0, 1, 2, dir_fd, inherited.events_fd, inherited.orders_fd, begun_w)
            files.take_lock(dir_fd)  # or not: then supervise/lock decides, see spawn
            supervise(inherited, entry.name, dir_fd, begun_fd=begun_w, lost=lost, sleep_after=inherited.settings.sleep_after)
        except OSError as error:
            os.write(begun_w, f"cannot open the service directory: {entry.name}: {error.strerror}\nls -ld {quote(f'{self._places.svdir}/{entry.name}')}".encode(errors="surrogateescape"))
        finally:
            os._exit(code)

    def _began(self, entry: Entry) -> None:
        """It has announced itself (end of file), or says why it could not."""
        text = b""
        with suppress(BlockingIOError):
            text = os.read(entry.begun_fd, 4096)
        self._loop.forget(entry.begun_fd)
        os.close(entry.begun_fd)
        entry.begun_fd = -1
        self.release(entry)
        self.hold_control(entry)
        entry.problem = " hint: ".join(line for line in text.decode(errors="surrogateescape").split("\n") if line)
        tell_subscribers(f"{self._places.scanner}/event", b"s")

    # ---- ending

    def _ended(self, entry: Entry) -> None:
        if entry.begun_fd >= 0:
            self._began(entry)
        self._loop.forget(entry.pidfd)
        os.close(entry.pidfd)
        is_told = self._was_told(entry)
        entry.pidfd, entry.pid, entry.is_asleep = -1, 0, False
        if entry.next and not is_told:
            self._follow_next(entry)
            return
        self.end_next(entry)
        self._on_end(entry, is_told)

    def _follow_next(self, entry: Entry) -> None:
        """The dormitory, or whom that has forked by now."""
        if entry.next:
            (entry.pid, entry.pidfd), entry.next = entry.next, None
        entry.is_child = True
        if entry.pid != self.dormitory.pid:
            self._is_awake(entry)
            return
        entry.is_asleep = True
        self._loop.watch(entry.pidfd, lambda: self._ended(entry))
        if entry.due:
            self.wake(entry)

    def end_next(self, entry: Entry) -> None:
        """Nobody is to follow any more."""
        if entry.next:
            self.dormitory.leave(format_identity(entry.identity))
            _close(entry.next[1])
        entry.next = None

    def follow(self, entry: Entry, *, is_told: bool) -> None:
        """Another in its place, where it was not told to end."""
        if is_told and not entry.problem:
            entry.is_exited = True
            entry.problem = TOLD_TO_EXIT
            self.let_go_of_control(entry)
            return
        if not entry.problem:
            self._events.send("supervisor gone: starting another", "warning", name=entry.name)
        if now() - entry.spawned_at >= LIVED_LONG_S:
            entry.failures = 0
        self._respawn_later(entry)

    def _was_told(self, entry: Entry) -> bool:
        """Whether it ended as it was told: a child of ours by its exit code, where that is known, another by its last word."""
        if entry.is_child:
            with suppress(ChildProcessError):
                pid, wait_status = os.waitpid(entry.pid, os.WNOHANG)
                if pid:
                    return wait_status == 0
            if entry.pid in self.exits:
                return self.exits.pop(entry.pid) == 0
        with suppress(OSError):
            return status.read_detail(self.folder_of(entry)).get("supervisor") == "-"
        return False

    def _respawn_later(self, entry: Entry) -> None:
        """Again: the first time at once, then after growing waits."""
        wait = 0.0 if not entry.failures and not entry.problem else min(RESPAWN_MAX_S, RESPAWN_FIRST_S * 2.0 ** min(entry.failures, 10))
        entry.failures += 1
        self._loop.set_timer(f"entry {entry.identity}", now() + wait, lambda: self.respawn(entry))

    def respawn(self, entry: Entry) -> None:
        """One where there is none, and should be one."""
        if entry.pidfd < 0 and not entry.is_leaving and not self.is_stopping:
            self.spawn(entry)

    def _not_supervised(self, entry: Entry, why: str) -> None:
        if entry.problem != why:
            self._events.send("not supervised", "error", name=entry.name, cause=why)
        entry.problem = why

    def tell(self, entry: Entry, number: int) -> None:
        """A signal to its supervisor, also where that sleeps; a directory without one is looked at again."""
        if entry.is_asleep or entry.next:
            entry.due.add(number)
            self.wake(entry)
        if entry.pidfd >= 0:
            if not entry.is_asleep:
                with suppress(OSError):
                    signal.pidfd_send_signal(entry.pidfd, number)
            return
        if number == signal.SIGHUP and not entry.is_exited and not entry.settling:
            entry.failures = 0
            self.respawn(entry)

    def stop(self, entry: Entry, number: int = signal.SIGTERM) -> None:
        """TERM to its supervisor, or USR1: exit in order. A jail that has lost its supervisor gets one, so that it is stopped as well."""
        if entry.pidfd < 0 and not entry.is_exited and entry.failures < STOP_TRIES:
            entry.failures += 1
            self.spawn(entry)
        self.tell(entry, number)


def _close(fd: int) -> None:
    """-1: it has ended already."""
    if fd >= 0:
        os.close(fd)


def _holder_of(dir_fd: int) -> tuple[int, int]:
    """(pid, start time) of the supervisor that holds the lock, where its supervise directory has vanished, or of the dormitory; zeros for none."""
    found = sorted(process.find_lock_holders(dir_fd, "ljsv "), key=_is_dormitory)
    for pid in found:
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino:
                return pid, process.read_start_time(pid)
    return 0, 0


def _is_dormitory(pid: int) -> bool:
    return process.read_name(pid) == dormitory.NAME

"""The scanner: one supervisor for every service directory, and nobody else uses inotify.

It never polls: it sleeps until a directory changes, a supervisor ends, or
somebody writes into its control FIFO. What inotify says is a hint; what a
name leads to is looked up (device, inode, birth time), and the descriptor of
each service directory is held, so that a rename keeps its jail.

Killed, it costs nothing: supervisors have sessions of their own, and the next
scanner finds them by the locks that they hold.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress

from ljsv import __version__, status
from ljsv.again import load_whole
from ljsv.errors import EXIT_INTERRUPTED, EXIT_NOT_REACHED, EXIT_OK, EXIT_SYSTEM, Fault, quote
from ljsv.jail.cgroup import survey
from ljsv.jail.facts import host_facts
from ljsv.jail.filters import read_filter
from ljsv.jail.group import PREFIXES, YOUNG_S, Tree, dissolve, prepare, sweep_by_hand, sweep_groups
from ljsv.jail.ids import has_all_ids, sweep_slots
from ljsv.linux import files, process
from ljsv.linux.libc import MACHINE
from ljsv.paths import SCANNER_DIR, SERVICE_FILES, Places, is_service_name
from ljsv.service import toml
from ljsv.service.settings import Settings, read_settings
from ljsv.supervise.arrival import BELOW, TOO_LARGE, DirectoryWatches, look_at
from ljsv.supervise.asleep import AWAKE, BUSY, IDLE
from ljsv.supervise.attendants import Journal, Nursery
from ljsv.supervise.command import ESSENTIAL_FAILED
from ljsv.supervise.directory import MADE, SUPERVISE, format_identity, open_fifo, tell_subscribers
from ljsv.supervise.dormitory import HAND_OVER_MAX_S
from ljsv.supervise.events import Events
from ljsv.supervise.loop import Loop, now
from ljsv.supervise.notify import notify, say_reloading
from ljsv.supervise.process import Inherited
from ljsv.supervise.settle import BELOW_QUIET_S, Settling
from ljsv.supervise.supervisors import STOP_TRIES, TOLD_TO_EXIT, Entry, Identity, Supervisors
from ljsv.supervise.sweep import sweep
from ljsv.supervise.watch import PARENT_MASK, RUNTIME_MASK, SCAN_MASK, Change, Watch

RUNTIME_NAMES = frozenset({"", SCANNER_DIR, "control", "events", "event", "pid"})
SERVICES_MAX = 10_000
NOFILE, NOFILE_MAX = 65536, 1 << 20  # of the scanner itself; what a service may ask for
SWEEP_AFTER_S, SWEEPS_MAX = 0.5, 120
RUNTIME_QUIET_S = 1.0
UPGRADE_AGAIN_S = 0.05
CAUGHT = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
GROUP_ROOT = "LJSV_CGROOT"
TAKEN_OVER = "LJSV_TAKEN_OVER"  # in the environment of a scanner that replaces itself: the descriptors with the lock and of its control FIFO
COMMAND_MAX = 4096


class Scanner:
    """`main` returns the exit code."""

    def __init__(self, places: Places, *, is_foreground: bool, ready_fd: int = -1) -> None:
        self.places = places
        self.is_foreground = is_foreground
        self.ready_fd = ready_fd
        self.loop = Loop()
        self.watch = Watch()
        self.entries: dict[Identity, Entry] = {}
        self.watches = DirectoryWatches[Entry](self.watch)
        self.by_name: dict[str, Entry] = {}
        self.waiting: set[str] = set()  # names whose directory waits for the end of one before it
        self.exit_code: int | None = None
        self.is_ready = False
        self.scan_watch = self.parent_watch = -1
        self.runtime_watches: set[int] = set()
        self.control_fd = self.events_fd = -1
        self.groups = Tree()
        self.nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._problems: str | None = None  # as it was written last
        self.settings = Settings()
        self.sweeps_left = 0
        taken = [int(word) for word in os.environ.pop(TAKEN_OVER, "").split()]
        self.is_taken_over = bool(taken)
        self.scan_fd, self.taken_control_fd = [*taken, -1, -1][:2]

    # ---- life of the scanner

    def main(self) -> int:
        """Scan until told to end."""
        self._lock()
        process.prctl_name("ljsv scan")
        if os.geteuid() == 0:
            process.protect_from_oom()
        _raise_nofile(self.nofile[1])
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        os.umask(0o022)
        self._make_runtime()
        self.groups = prepare(survey(os.environ.get(GROUP_ROOT, "")), os.path.basename(self.places.state))
        self.events = Events(self.events_fd, "")
        self.nursery = Nursery(self.loop, self.events, self.places.svdir)
        self.nursery.start()  # in our own group, wherever that is by now
        self._read_settings()
        self.journal = Journal(self.loop, self.events, self._journal_argv)
        self.journal.start()
        for number, callback in (
            (signal.SIGHUP, lambda: self._stop_everything(EXIT_SYSTEM)),
            (signal.SIGINT, self._interrupted),
            (signal.SIGTERM, self._leave_running),
            (signal.SIGCHLD, self._reap),
        ):
            self.loop.on_signal(number, callback)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)
        self.loop.watch(self.watch.fd, self._read_watch)
        with suppress(OSError):  # not ours to read: then only a rename is seen
            self.parent_watch = self.watch.add(os.path.dirname(self.places.svdir), PARENT_MASK)
        self.scan_watch = self.watch.add_fd(self.scan_fd, SCAN_MASK)
        _warm_up()
        load_whole("ljsv", "ljsv.linux", "ljsv.service", "ljsv.jail", "ljsv.supervise")
        gc.collect()
        gc.freeze()
        self.events.send("scanner started", pid=os.getpid(), svdir=self.places.svdir, version=__version__)
        inherited = Inherited(self.places, self.events_fd, self.nursery.orders_fd, self.nofile, self.groups, self.settings)
        self.supervisors = Supervisors(self.loop, self.events, inherited, self._supervisor_ended, self._obey)
        self.supervisors.is_replacing = self.is_taken_over or self.groups.is_regained
        self.supervisors.exited_before = self._read_exited()
        self._reconcile(self._list(), arrived=frozenset())
        self.supervisors.is_replacing = False
        self._sweep_soon()
        self._say_ready()
        self.loop.on_error = self._loop_error
        self.loop.run(self._after_turn)
        self.events.send("scanner ended", exit=self.exit_code)
        self.journal.end(signal.SIGTERM)
        if self.supervisors.is_stopping:
            self.nursery.end(signal.SIGKILL)  # else it ends with the last supervisor
            self.supervisors.dormitory.end(signal.SIGKILL)  # else with the last service that it holds
        with suppress(OSError):
            os.unlink(f"{self.places.scanner}/pid")
        if self.supervisors.is_stopping:
            with suppress(OSError):
                os.unlink(f"{self.places.scanner}/problems")  # the next one begins with all of them
            dissolve(self.groups)
        return self.exit_code if self.exit_code is not None else EXIT_SYSTEM

    def _read_settings(self) -> None:
        """A fault in them is told, and keeps no service from running."""
        try:
            self.settings = read_settings(dict(os.environ), os.geteuid())
        except Fault as fault:
            self.events.send("the settings are not used", "error", fault=str(fault), hint=fault.hint)

    def _journal_argv(self) -> tuple[str, ...]:
        where = "-" if self.is_foreground else f"{self.places.logs}/.scanner"
        return f"{self.places.scanner}/events", where, str(os.getpid()), str(self.settings.log_cap)

    def _loop_error(self, error: Exception) -> None:
        self.events.send("error in the scanner's loop", "error", cause=repr(error), trace=traceback.format_exc(limit=-3))

    def _lock(self) -> None:
        """One scanner for a scan directory: the lock is on the directory itself."""
        if self.scan_fd >= 0:
            os.set_inheritable(self.scan_fd, False)
            return
        try:
            self.scan_fd = os.open(self.places.svdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Fault.from_os("cannot open the scan directory", error, self.places.svdir, hint=f"mkdir -p {quote(self.places.svdir)}") from None
        try:
            fcntl.flock(self.scan_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "ljsv status, or ljsv exit --all to end it"
            raise Fault("another scanner runs", self.places.svdir, "it is locked", hint=hint) from None

    def _make_runtime(self) -> None:
        """The scanner's own folder: control FIFO, events FIFO, subscribers, pid. Made again when it vanishes."""
        folder = self.places.scanner
        try:
            os.makedirs(f"{folder}/event", mode=0o700, exist_ok=True)
            os.chmod(folder, 0o700)
            control_fd = open_fifo(f"{folder}/control", os.O_RDWR | os.O_NONBLOCK)
            if self.control_fd >= 0:
                self.loop.forget(self.control_fd)
                os.close(self.control_fd)
            self.control_fd = control_fd
            self.loop.watch(self.control_fd, self._read_control)
            if self.taken_control_fd >= 0:
                os.close(self.taken_control_fd)
            self.taken_control_fd = -1
            events_fd = open_fifo(f"{folder}/events", os.O_RDWR | os.O_NONBLOCK, shrink=False)
            if self.events_fd >= 0:
                os.dup2(events_fd, self.events_fd, inheritable=False)
                os.close(events_fd)
            else:
                self.events_fd = events_fd
            me = f"{os.getpid()} {process.read_start_time(os.getpid())}\n"
            status.write_by_rename(folder, "pid", me.encode())
        except OSError as error:
            place = os.path.dirname(folder)
            hint = f"df {quote(place)}; ls -ld {quote(place)}" + ("" if self.places.runtime else "  # or set XDG_RUNTIME_DIR: then it is there")
            raise Fault.from_os("cannot make the scanner's folder", error, hint=hint) from None
        watched = [folder, *([self.places.runtime] if self.places.runtime else [])]
        self.runtime_watches = {self.watch.add(path, RUNTIME_MASK) for path in watched} - {-1}

    def _say_ready(self) -> None:
        """Tell whoever has started it, once every supervisor has begun or failed."""
        if self.is_ready or any(entry.begun_fd >= 0 for entry in self.entries.values()):
            return
        self.is_ready = True
        if self.is_foreground:
            notify("READY=1", f"STATUS=supervising {len(self.entries)} services in {self.places.svdir}")
        if self.ready_fd >= 0:
            with suppress(OSError):
                os.write(self.ready_fd, b"ready")
            os.close(self.ready_fd)
            self.ready_fd = -1

    def _after_turn(self) -> None:
        if self.events.is_waiting:
            self.events.flush()
        self._say_ready()
        self._write_problems()
        if self.supervisors.is_stopping and not any(entry.pidfd >= 0 for entry in self.entries.values()):
            self.loop.stop()

    def _interrupted(self) -> None:
        if self.is_foreground:
            self._stop_everything(EXIT_INTERRUPTED)

    def _stop_everything(self, code: int) -> None:
        """TERM to each supervisor, and wait for all of them; a second time, do not wait."""
        if self.supervisors.is_stopping:
            self.loop.stop()
        self.supervisors.is_stopping = True
        if self.is_foreground:
            notify("STOPPING=1", "STATUS=stopping all services")
        self.exit_code = code
        for entry in list(self.entries.values()):
            if entry.settling:
                self._forget(entry)
            else:
                entry.failures = 0
                self.supervisors.stop(entry, signal.SIGUSR1)

    def _leave_running(self) -> None:
        if self.is_foreground:
            notify("STOPPING=1", "STATUS=ending; supervisors and services go on")
        self.exit_code = EXIT_OK
        self.loop.stop()

    def _reap(self) -> None:
        """Children, and orphans of supervisors that were killed."""
        for _ in range(SERVICES_MAX * 2):
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if any(entry.pid == pid for entry in self.entries.values()):
                self.supervisors.exits[pid] = wait_status

    # ---- what is in the scan directory

    def _list(self) -> list[str]:
        names = [name for name in os.listdir(self.scan_fd) if is_service_name(name)]
        return sorted(names)[:SERVICES_MAX]

    def _read_watch(self) -> None:
        changes, has_overflowed = self.watch.read()
        dirty: set[str] = set()
        arrived: set[str] = set()
        touched: dict[Identity, Entry] = {}
        for change in changes:
            if change.watch == self.scan_watch:
                if not change.name:
                    self._check_svdir()
                elif is_service_name(change.name):
                    dirty.add(change.name)
                    (arrived.add if change.moved_in else arrived.discard)(change.name)
            elif change.watch == self.parent_watch:
                if change.name == os.path.basename(self.places.svdir):
                    self._check_svdir()
            elif change.watch in self.runtime_watches:
                if change.name in RUNTIME_NAMES or change.name in self._folder_names():
                    self.loop.set_timer("runtime", now() + RUNTIME_QUIET_S, self._mend_runtime)
            else:
                entry = self.watches.owner(change.watch)
                if entry and self._touch(entry, change):
                    touched[entry.identity] = entry
        if has_overflowed:
            self.events.send("inotify queue overflow: looking at everything", "warning")
            dirty.update(self._list(), self.by_name)
            touched.update(self.entries)
        if dirty:
            self._reconcile(sorted(dirty), arrived=frozenset(arrived))
        for entry in touched.values():
            self.supervisors.tell(entry, signal.SIGHUP)

    def _has_svdir(self) -> bool:
        """Whether the scan directory is still ours to scan: neither deleted nor renamed."""
        try:
            return os.path.samestat(os.stat(self.places.svdir), os.fstat(self.scan_fd))
        except OSError:
            return False

    def _check_svdir(self) -> None:
        if not self._has_svdir() and not self.supervisors.is_stopping:
            self.events.send("the scan directory is gone: stopping everything", "error", svdir=self.places.svdir)
            self._stop_everything(EXIT_SYSTEM)

    def _reconcile(self, names: list[str], arrived: frozenset[str]) -> None:
        """Look up what each name leads to now. Those that are there come first, so that a rename is not a stop."""
        gone = []
        for name in names:
            found = self._open(name)
            if found is None:
                gone.append(name)
                continue
            try:
                self._found(name, *found, is_whole=name in arrived)
            except OSError:  # gone again, between two looks
                gone.append(name)
        for name in gone:
            self._vanished(name)

    def _open(self, name: str) -> tuple[int, Identity] | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.scan_fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.events.send("cannot open a service directory", "error", name=name, cause=error.strerror)
            return None
        return fd, files.read_identity(fd)

    def _found(self, name: str, fd: int, identity: Identity, *, is_whole: bool) -> None:
        known = self.entries.get(identity)
        before = self.by_name.get(name)
        if known and not known.is_leaving:
            os.close(fd)
            if known.name != name:
                self._other_name(known, name)
            return
        if known or (before and before.identity != identity):
            # The same directory has come back, or another one has taken the name: when the old jail has ended.
            os.close(fd)
            self.waiting.add(name)
            if before and not before.is_leaving and not self._renamed_away(before):
                self._leave(before)
            if name in self.by_name or known:
                return
            self.waiting.discard(name)
            found = self._open(name)
            if found is None:
                return
            fd, identity = found
        self._enter(name, fd, identity, is_whole=is_whole)

    def _other_name(self, entry: Entry, name: str) -> None:
        """The directory is known under another name: it was renamed, or this is a second way to it."""
        if self._leads_to(entry.name, entry.identity):
            self.events.send("a second name for a supervised directory is ignored", "warning", name=name, first=entry.name)
            return
        self._rename(entry, name)

    def _leads_to(self, name: str, identity: Identity) -> bool:
        found = self._open(name)
        if found is None:
            return False
        os.close(found[0])
        return found[1] == identity

    def _rename(self, entry: Entry, name: str) -> None:
        if self.by_name.get(entry.name) is entry:
            del self.by_name[entry.name]
        self.supervisors.folder_of(entry)  # it keeps its runtime folder
        entry.name = name
        self.by_name[name] = entry
        self.supervisors.tell(entry, signal.SIGHUP)
        tell_subscribers(f"{self.places.scanner}/event", b"s")  # somebody may wait for that name

    def _renamed_away(self, entry: Entry) -> bool:
        """Whether the directory has another name in here by now; it then has it in our books as well."""
        for name in self._list():
            if name != entry.name and name not in self.by_name and self._leads_to(name, entry.identity):
                self._rename(entry, name)
                return True
        return False

    def _vanished(self, name: str) -> None:
        self.waiting.discard(name)
        entry = self.by_name.get(name)
        if entry is None or entry.is_leaving or self._leads_to(name, entry.identity):
            return
        if not self._renamed_away(entry):
            self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        """Its directory is gone: its service is stopped."""
        entry.is_leaving = True
        entry.failures = 0
        if not entry.settling:
            self.events.send("directory gone: stopping", name=entry.name)
            self.supervisors.stop(entry)
        if entry.pidfd < 0:
            self._forget(entry)

    def _supervisor_ended(self, entry: Entry, is_told: bool) -> None:  # noqa: FBT001 - a callback
        if not entry.is_leaving and not self.supervisors.is_stopping:
            self.supervisors.follow(entry, is_told=is_told)
            return
        if not is_told and entry.failures < STOP_TRIES:
            self.supervisors.stop(entry, signal.SIGUSR1 if self.supervisors.is_stopping else signal.SIGTERM)
        if entry.pidfd < 0:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self.loop.set_timer(f"entry {entry.identity}", None, lambda: None)
        self.watches.remove(entry)
        self.supervisors.release(entry)
        self.supervisors.let_go_of_control(entry)
        self.supervisors.end_next(entry)
        if entry.begun_fd >= 0:
            self.loop.forget(entry.begun_fd)
            os.close(entry.begun_fd)
            entry.begun_fd = -1
        os.close(entry.dir_fd)
        self.entries.pop(entry.identity, None)
        if self.by_name.get(entry.name) is entry:
            del self.by_name[entry.name]
        if not self.supervisors.is_stopping:
            waiting, self.waiting = sorted(self.waiting), set()
            self._reconcile(waiting, arrived=frozenset(waiting))
            self._sweep_soon()

    def _sweep_soon(self) -> None:
        if self.places.runtime:
            self.sweeps_left = SWEEPS_MAX
            self.loop.set_timer("sweep", now() + SWEEP_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        """End what lives in the runtime directory without a service directory; again until nothing is left."""
        if self.supervisors.is_stopping:
            return
        identities = {format_identity(identity) for identity in self.entries}
        self.sweeps_left -= 1
        if os.geteuid() == 0:
            sweep_slots()
        sweep_by_hand(os.path.dirname(self.groups.path))
        has_young = sweep_groups(self.groups.path, PREFIXES)
        if self.sweeps_left <= 0:
            return
        if sweep(self.places.runtime or "", identities):
            self.loop.set_timer("sweep", now() + SWEEP_AFTER_S, self._sweep)
        elif has_young:
            self.loop.set_timer("sweep", now() + YOUNG_S, self._sweep)

    # ---- arrival and settling

    def _enter(self, name: str, fd: int, identity: Identity, *, is_whole: bool) -> None:
        if self.supervisors.is_stopping or len(self.entries) >= SERVICES_MAX:
            os.close(fd)
            return
        age = time.time() - os.fstat(fd).st_ctime
        entry = Entry(name, identity, fd)
        self.entries[identity] = self.by_name[name] = entry
        self._watch_entry(entry)
        is_link = os.path.islink(f"{self.places.svdir}/{name}")
        has_lived = os.path.exists(f"{self.supervisors.folder_of(entry)}/jail")
        has_lived |= name in self.supervisors.exited_before
        if is_whole or is_link or not 0 <= age < BELOW_QUIET_S or has_lived or self.supervisors.find(entry):
            self.supervisors.spawn(entry)
            return
        entry.settling = Settling(now(), now())
        self._watch_entry(entry, is_settling=True)
        self._look_at(entry)

    def _watch_entry(self, entry: Entry, *, is_settling: bool = False) -> None:
        problem = self.watches.add(entry, is_settling=is_settling)
        if problem:
            entry.problem = problem
            self.events.send("cannot watch", "error", name=entry.name, cause=problem)

    def _touch(self, entry: Entry, change: Change) -> bool:
        """A change in a service directory; whether its supervisor has to know."""
        if change.is_ended:
            self.watches.ended(entry, change.watch)
            return False
        if not entry.settling:
            if change.name in BELOW:
                self.watches.add_below(entry, change.name)
            is_lost = change.is_removed and change.name == SUPERVISE
            return is_lost or change.name in SERVICE_FILES or not change.name or self.watches.is_of_variables(change.watch)  # without a name: the directory itself
        moment = now()
        if change.watch == min(entry.watches, default=-1):  # the top level's watch is the entry's first
            entry.settling.top_change = moment
        else:
            entry.settling.below_change = moment
        self._look_at(entry)
        return False

    def _look_at(self, entry: Entry) -> None:
        """What is there by now, and when it would be complete."""
        settling = entry.settling
        if settling is None:
            return
        entry.problem = look_at(entry.dir_fd, settling)
        if settling.has_root and not self.watches.add_rootfs(entry):
            entry.problem = TOO_LARGE
            self._watch_entry(entry)
            return
        self.loop.set_timer(f"entry {entry.identity}", settling.due(), lambda: self._settled(entry))

    def _settled(self, entry: Entry) -> None:
        if entry.settling is None or entry.is_leaving:
            return
        if entry.settling.due() > now() + 0.001:
            self._look_at(entry)
            return
        entry.settling = None
        self.watches.remove(entry)
        self._watch_entry(entry)
        self.supervisors.spawn(entry)

    # ---- clients, and our own folder

    def _upgrade(self) -> None:
        """Become a scanner of the code that is installed now, in this process; the supervisors follow one by one.

        Not before those of an upgrade that goes on have followed, whose FIFOs we hold meanwhile.
        """
        if self.supervisors.is_stopping:
            return
        if any(entry.held_fds and now() < entry.held_at + HAND_OVER_MAX_S for entry in self.entries.values()):
            self.loop.set_timer("upgrade", now() + UPGRADE_AGAIN_S, self._upgrade)
            return
        self.events.send("upgrade: the scanner replaces itself")
        if self.is_foreground:
            say_reloading()
        self.journal.end(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.nofile)
        os.set_inheritable(self.scan_fd, True)
        os.set_inheritable(self.control_fd, True)  # what is in it is read afterwards, and nobody finds it without a reader
        os.environ[TAKEN_OVER] = f"{self.scan_fd} {self.control_fd}"
        try:
            os.execv(sys.executable, sys.orig_argv)
        except OSError as error:
            os.set_inheritable(self.scan_fd, False)
            os.set_inheritable(self.control_fd, False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)
            self.events.send("cannot upgrade", "error", path=sys.executable, cause=error.strerror)
            if self.is_foreground:
                notify("READY=1", "STATUS=could not upgrade: see the journal")
            self.journal.start()

    def _read_control(self) -> None:
        try:
            text = os.read(self.control_fd, COMMAND_MAX).decode(errors="replace")
        except BlockingIOError:
            return
        lines = sorted(text.splitlines(), key="upgrade".__eq__)  # after it, nobody would know the others
        for line in lines:
            self._obey(line)

    def _obey(self, line: str) -> None:
        verb, _, name = line.partition(" ")
        if verb == "exit":
            self._stop_everything(EXIT_OK)
        elif verb == "upgrade":
            self._upgrade()
        elif verb == "essential" and not self.supervisors.is_stopping:
            self.events.send("stopping everything: an essential service has failed", "error", name=name)
            self._stop_everything(EXIT_NOT_REACHED)
        elif verb == "rescan":
            self._reconcile(sorted({*self._list(), *self.by_name}), arrived=frozenset())
        elif verb == IDLE and name in self.by_name:
            self.supervisors.let_sleep(self.by_name[name])
        elif verb == BUSY and name in self.by_name:
            self.supervisors.stay_awake(self.by_name[name])
        elif verb == MADE and name in self.by_name:
            self.supervisors.hold_control(self.by_name[name])
        elif verb == AWAKE:
            self._woke(name)
        elif verb == "supervise" and is_service_name(name):
            self._wanted(name)

    def _woke(self, words: str) -> None:
        """`KEY PID START_TIME`: the dormitory has forked a supervisor for the service with that identity."""
        key, pid, start_time = (*words.split(" "), "", "")[:3]
        if not (pid.isdecimal() and start_time.isdecimal()):
            return
        for entry in self.entries.values():
            if format_identity(entry.identity) == key:
                self.supervisors.woke(entry, int(pid), int(start_time))
                return
        pidfd = process.open_process(int(pid), int(start_time))  # of a directory that has gone meanwhile
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            os.close(pidfd)

    def _wanted(self, name: str) -> None:
        """A client wants this service supervised now."""
        self.supervisors.exited_before.discard(name)
        entry = self.by_name.get(name)
        if entry is None:
            self._reconcile([name], arrived=frozenset({name}))
        elif entry.settling:
            entry.settling = None
            self.watches.remove(entry)
            self._watch_entry(entry)
            self.supervisors.spawn(entry)
        elif entry.pidfd < 0 and not entry.is_leaving:
            entry.failures = 0
            self.supervisors.respawn(entry)
        elif entry.is_asleep:
            self.supervisors.wake(entry)
        tell_subscribers(f"{self.places.scanner}/event", b"s")

    def _folder_names(self) -> set[str]:
        """What services' folders are called in the runtime directory: as they were named when they began."""
        return {os.path.basename(entry.folder) or entry.name for entry in self.entries.values()}

    def _mend_runtime(self) -> None:
        """Somebody deleted something of the runtime directory: make ours again, and have every supervisor look at its own."""
        if not self.places.runtime and not self._has_svdir():
            self._check_svdir()  # our folder is in there: with it the scan directory would be made again
            return
        if not all(os.path.exists(f"{self.places.scanner}/{name}") for name in ("control", "events", "event", "pid")):
            try:
                self._make_runtime()
            except Fault as fault:
                self.events.send("cannot make the scanner's folder", "error", fault=str(fault))
                self.loop.set_timer("runtime", now() + RUNTIME_QUIET_S, self._mend_runtime)
                return
            self.journal.signal(signal.SIGTERM)
        for entry in self.entries.values():
            self.supervisors.tell(entry, signal.SIGHUP)

    def _write_problems(self) -> None:
        """`problems`: a line for each name that nobody supervises, and why."""
        text = "".join(f"{entry.name} {entry.problem}\n" for entry in self.by_name.values() if entry.problem)
        text += "".join(f"{name} waits for the end of the service that had this name\n" for name in sorted(self.waiting))
        if text != self._problems:
            with suppress(OSError):
                status.write_by_rename(self.places.scanner, "problems", text.encode(errors="surrogateescape"))
                self._problems = text
                tell_subscribers(f"{self.places.scanner}/event", b"p")

    def _read_exited(self) -> set[str]:
        """The names that the scanner before us has left alone, since their supervisors were told to exit."""
        with suppress(OSError), open(f"{self.places.scanner}/problems", errors="surrogateescape") as file:
            return {name for name, _, problem in (line.rstrip("\n").partition(" ") for line in file) if problem == TOLD_TO_EXIT}
        return set()


def _raise_nofile(hard: int) -> None:
    """Descriptors enough for ourselves; and root's services may ask for more than root has here."""
    if 0 <= hard < NOFILE_MAX:
        with suppress(ValueError, OSError):  # only root may
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, NOFILE_MAX))
            hard = NOFILE_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (NOFILE if hard == -1 else min(NOFILE, hard), hard))


def _warm_up() -> None:
    """What every supervisor would import or look up for itself, once and before the fork."""
    toml.warm_up()
    host_facts()
    has_all_ids()
    process.read_boot_id()
    with suppress(Fault):  # none for this machine: told where a jail wants it
        read_filter(MACHINE)


def main() -> int:
    """`python -I -m ljsv.supervise.scanner SVDIR READY_FD`: what the background launcher executes."""
    svdir, ready_fd = sys.argv[1], int(sys.argv[2])
    if TAKEN_OVER in os.environ:
        ready_fd = -1  # that number is another descriptor's by now
    else:
        os.set_inheritable(ready_fd, False)
    try:
        places = Places(svdir, dict(os.environ), os.geteuid())
        code = Scanner(places, is_foreground=False, ready_fd=ready_fd).main()
        return ESSENTIAL_FAILED if code == EXIT_NOT_REACHED else code
    except Fault as fault:
        with suppress(OSError):
            os.write(ready_fd, f"{fault}\n{fault.hint}".encode(errors="surrogateescape"))
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""The logs of one service: the one that is written now, and older ones until their jail has ended.

There is an older one when the runtime directory was deleted under a living
jail, which goes on writing into a FIFO that has no name any more. While a log
service reads, this process leaves the FIFOs alone (`give_away`).
"""

from __future__ import annotations

import os

from ljsv.supervise.directory import tell_subscribers
from ljsv.supervise.kmsg import PATH as KMSG
from ljsv.supervise.kmsg import Kmsg
from ljsv.supervise.log import LOG_FOLLOWER, Log, open_nameless
from ljsv.supervise.log_cap import LogCap, most_of_one
from ljsv.supervise.logfile import last_lines
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.paths import Places
    from ljsv.service.schema import Log as PolicyLog
    from ljsv.supervise.events import Events
    from ljsv.supervise.logfile import LogFile
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.record import JailRecord

PUMPS_A_TURN = 64
RETRY_S = 1.0


class Logs:
    """`fault` says why nothing can be written; `on_change` is called when that changes, `on_stuck` after each try that fails. Each method that opens may raise OSError."""

    def __init__(self, loop: Loop, timer: str, events: Events, file: LogFile, on_change: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        self.fault = ""
        self.is_given_away = False
        self._loop = loop
        self._timer = timer
        self._events = events
        self._file = file
        self._on_change = on_change
        self._on_stuck = on_stuck
        self._logs: list[Log] = []  # the newest last
        self._supervise = ""
        self._cap: LogCap | None = None
        self._kmsg: Kmsg | None = None  # where lines go instead of the file
        self.notes: tuple[str, ...] = ()  # what is not as its policy has it

    @property
    def current(self) -> Log:
        return self._logs[-1]

    @property
    def oldest(self) -> Log:
        """The one that the jail that runs writes to."""
        return self._logs[0]

    @property
    def file(self) -> LogFile:
        return self._file

    def open(self, supervise: str, *, is_read_by_us: bool = True) -> None:
        """A log on the FIFO of that supervise directory, if there is none yet; `is_read_by_us`: what is in it already is written at once."""
        self._supervise = supervise
        if self._logs and self.current.is_at(supervise):
            return
        if self._logs:
            self.oldest.keep_staging(supervise)
        log = Log(supervise, self._file, cap=self._cap, kmsg=self._kmsg)
        self._logs.append(log)
        if not self.is_given_away:
            self._loop.watch(log.fifo_fd, self.pump)
            if is_read_by_us and not log.is_empty():
                self.pump()

    def set_up(self, name: str, policy: PolicyLog, places: Places, cap_bytes: int) -> None:
        """As the service's policy has it, from the next line on. `cap_bytes`: most that all logs together may hold, 0 for no bound."""
        self._file.max_size, self._file.keep = most_of_one(cap_bytes, policy.max_size), policy.keep
        self._cap = LogCap(places.logs, cap_bytes) if cap_bytes else None
        self.notes = ()
        wanted = policy.to == "kmsg" and os.geteuid() == 0  # others than root: the service's notes say so
        if self._kmsg and not (wanted and self._kmsg.wanted_rate == policy.rate):
            self._kmsg.close()
            self._kmsg = None
        if wanted and not self._kmsg:
            try:
                self._kmsg = Kmsg(name, policy.rate)
            except OSError as error:
                self.notes = (f'not enforced: log.to = "kmsg" ({KMSG}: {error.strerror}: written to the log file)',)
                self._events.send("cannot write to the kernel's log: the log file has it", "error", path=KMSG, cause=error.strerror)
        if self._kmsg:
            self._kmsg.name = name
            if self._kmsg.rate < policy.rate:
                self.notes = (f"the kernel takes {self._kmsg.rate} lines in 5s of a service: sysctl kernel.printk_devkmsg=on",)
        for log in self._logs:
            log.go_to(self._cap, self._kmsg)

    @property
    def path(self) -> str:
        """Of the file; "" where it goes elsewhere."""
        return "" if self._kmsg else self._file.path

    def last_lines(self, count: int) -> list[str]:
        """The last that were written."""
        return list(self._kmsg.last)[-count:] if self._kmsg else last_lines(self._file.path, count)

    def end_lines(self) -> None:
        """What runs has ended: a last line without its newline is one."""
        for log in self._logs:
            log.end_line()

    def reopen(self, jail: JailRecord) -> None:
        """Adopted, after the runtime directory was deleted: it writes into a FIFO that has no name any more."""
        if not jail.log_inode or self.current.inode == jail.log_inode:
            return
        fd = open_nameless(jail.service_pid, jail.log_inode)
        if fd < 0:
            self._events.send("the log of what runs is lost until it is restarted: its FIFO was deleted", "error")
            return
        self._logs.insert(0, Log(self._supervise, self._file, fd, cap=self._cap, kmsg=self._kmsg))
        if not self.is_given_away:
            self._loop.watch(fd, self.pump)

    def drop_older(self) -> None:
        """Their jail has ended, and they have been read; while nothing can be written, they wait."""
        while len(self._logs) > 1 and not self.fault:
            log = self._logs.pop(0)
            self._loop.forget(log.fifo_fd)
            log.close()

    def give_away(self) -> None:
        """A log service reads from now on. It gives the file another name: ours is opened anew after it."""
        self.is_given_away = True
        self._file.close()
        for log in self._logs:
            self._loop.forget(log.fifo_fd)
            log.begin_anew()

    def take_back(self) -> None:
        """No log service any more."""
        self.is_given_away = False
        self._watch()

    def _watch(self) -> None:
        for log in self._logs:
            self._loop.forget(log.fifo_fd)
            self._loop.watch(log.fifo_fd, self.pump)

    def pump(self) -> None:
        """Take out what is there, a bounded amount a turn. On an error leave it, and try again later: nothing is lost."""
        if self.is_given_away:
            return
        has_written = False
        try:
            for log in self._logs:
                for _ in range(PUMPS_A_TURN):
                    if not log.pump():
                        break
                    has_written = True
        except OSError as error:
            self._failed(error)
            return
        if self._kmsg and self._kmsg.dropped:
            self._loop.set_timer(f"{self._timer} rate", self._kmsg.window_end, self.pump)
        if has_written:
            tell_subscribers(f"{self._supervise}/event", b"l", LOG_FOLLOWER)
        if self.fault:
            self.fault = ""
            self._on_change()
            self._watch()
            self._events.send("the log can be written again")

    def _failed(self, error: OSError) -> None:
        path = self._file.path
        if not self.fault:
            for log in self._logs:
                self._loop.forget(log.fifo_fd)
            self.fault = f"cannot write the log: {path}: {error.strerror}; the service waits when its pipe is full"
            self._on_change()
            self._events.send("cannot write the log", "error", path=path, cause=error.strerror)
        self._loop.set_timer(self._timer, now() + RETRY_S, self.pump)
        self._on_stuck()

    def move(self, directory: str) -> None:
        """Into another directory, from the next chunk on; what is there goes where it belongs."""
        self.pump()
        self._file.move(directory)
        for log in self._logs:
            log.begin_anew()

    def close_fifos(self) -> None:
        """Let go of the FIFOs, so that a log service sees the end."""
        for log in self._logs:
            log.close_fifo()

    def close(self) -> None:
        for log in self._logs:
            self._loop.forget(log.fifo_fd)
            log.close()
        if self._kmsg:
            self._kmsg.close()
        self._kmsg = None

"""What is held of a service whose supervisor sleeps, and how a supervisor takes it up again.

What a supervisor has touched it has for itself, 4 MB and more. One that has
been idle for a while says so to the scanner, which has the dormitory hold what
it holds (see `dormitory`); then it ends, as in an upgrade. Nothing is taken
meanwhile: commands, lines of the log, a run's word and its end are still there
when a supervisor wakes, which carries on as after one that was killed.
"""

from __future__ import annotations

import os
import select
import time

from ljsv import status
from ljsv.errors import Fault
from ljsv.linux import cgroup, files, process
from ljsv.linux.signals import signal
from ljsv.supervise import fingerprint, record
from ljsv.supervise.loop import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.supervise.directory import SuperviseDirectory
    from ljsv.supervise.events import Events
    from ljsv.supervise.record import JailRecord

IDLE, BUSY, AWAKE = "idle", "busy", "awake"  # to the scanner: NAME may sleep; NAME may not after all; who follows the dormitory, see there
GO_TO_SLEEP = signal.SIGURG  # to a supervisor that is idle: what it holds will be held. The highest, so that what else was sent comes before
WAKE = b"\n"  # into `control`: no command, but something to wake for
EXIT_HANDED_OVER = 3
# Lines of `detail` that only a supervisor that is awake can live up to.
_RESTLESS = (
    "deadline", "pending", "exiting", "due", "paused", "is_waiting", "unsure", "changed", "fault", "log_fault", "log_jail", "watchdog", "deployment",
)
SHORT_SLEEP = 6.0  # in times of what it had waited for
SLEEP_AFTER_MAX_S = 3600.0
RETRY_S, END_MAX_S = 1.0, 10.0
SIZE_MAX = 65536
_FIFO = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC


class Held:
    """What is held (-1: none): lock, `control`, `ok`, exit record, a run's word, needs, and what wakes it; and what would be made anew if it were deleted.

    `need_fds`: of its needs (`needs.hold`), which stay open until whoever carries on holds them.
    """

    def __init__(self, folder: str, dir_fd: int, need_fds: list[int]) -> None:
        self.began = now()
        self.folder = folder
        self.dir_fd = dir_fd
        self.need_fds = need_fds
        self.lock_fd = self.control_fd = self.ok_fd = self.exit_fd = self.ready_fd = -1
        self.directory_id = (0, 0)
        self.detail: dict[str, str] = {}
        self.jail: JailRecord | None = None
        self.wakers = [(fd, select.EPOLLIN) for fd in need_fds]  # (descriptor, events of epoll(7))
        self.early_fds: list[int] = []  # of `control` and `ok`, before the lock is free

    def open_early(self) -> None:
        """So that nobody finds them without a reader while one lets go and the other holds them. OSError."""
        for name in ("control", "ok"):
            self.early_fds.append(os.open(f"{self.folder}/{name}", _FIFO))

    @property
    def bridge_fds(self) -> list[int]:
        """What stays open until a supervisor holds the same again."""
        return [*self.need_fds, *self.early_fds]

    @property
    def kept_fds(self) -> list[int]:
        """Those that go to the supervisor that carries on."""
        fds = (self.dir_fd, self.lock_fd, self.control_fd, self.ok_fd, self.exit_fd, self.ready_fd, *self.bridge_fds)
        return [fd for fd in fds if fd >= 0]

    def close(self) -> None:
        for fd in {*self.kept_fds, *[fd for fd, _ in self.wakers if fd >= 0]}:
            os.close(fd)

    def take_locks(self) -> bool:
        """Those of the service directory, which what runs there may have, and of its supervise directory; False where another supervisor has that. OSError."""
        files.take_lock(self.dir_fd)
        self.lock_fd = os.open(f"{self.folder}/lock", os.O_WRONLY | os.O_CLOEXEC)
        return files.take_lock(self.lock_fd)

    def let_go(self) -> None:
        """Of the lock: whoever follows takes it."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
        self.lock_fd = -1


def is_restful(detail: dict[str, str]) -> bool:
    """Whether a service that is described like that may be left to the dormitory."""
    state = detail.get("state")
    is_at_rest = state == status.DOWN and detail.get("want") == "down"
    return (is_at_rest or state == status.READY) and not any(map(detail.get, _RESTLESS))


def hold(held: Held) -> bool:
    """Hold the rest of that supervise directory, and say so in its `detail`; False where there is something to be done already. OSError."""
    folder, wakers = held.folder, held.wakers
    entry = os.stat(folder)
    held.directory_id = entry.st_dev, entry.st_ino
    held.control_fd, held.ok_fd = os.open(f"{folder}/control", _FIFO), os.open(f"{folder}/ok", _FIFO)
    detail = held.detail = status.read_detail(folder)
    wakers.append((held.control_fd, select.EPOLLIN))
    if not is_restful(detail) or _is_edited(held.dir_fd, detail):
        return False
    if detail["state"] == status.READY:
        jail = held.jail = record.read_jail_record(folder)
        if jail is None:
            return False
        wakers += [(fd, select.EPOLLIN) for fd in record.open_jail(jail)]
        wakers.append((os.open(f"{folder}/log.fifo", _FIFO), select.EPOLLIN))
        if jail.server_pid:
            wakers.append((record.open_server(jail), select.EPOLLIN))
        if detail.get("ready_by") in {"fd", "notify"}:
            held.ready_fd = os.open(f"{folder}/ready.fifo", _FIFO)
            wakers.append((held.ready_fd, select.EPOLLIN))
        has_ended = any(fd < 0 for fd, _ in wakers)
        if has_ended or not _watch_memory(wakers, jail.cgroup, int(detail.get("oom_kills", "0"))):
            return False
        held.exit_fd = record.open_exit_reader(folder)
    detail["supervisor"] = f"{os.getpid()} {process.read_start_time(os.getpid())}"
    detail["asleep"] = "yes"
    _write_detail(folder, detail)
    while held.early_fds:
        os.close(held.early_fds.pop())
    return True


def _is_edited(dir_fd: int, detail: dict[str, str]) -> bool:
    """Whether the service directory is another than the one before has seen: it may have been told so when it was about to end."""
    is_down, has_log = (fingerprint.has(dir_fd, name) for name in ("down", "log/run"))
    is_run_edited = detail["state"] == status.READY and fingerprint.is_edited(dir_fd, detail.get("files", ""))
    return is_run_edited or has_log or is_down != (detail.get("normally") == "down") or os.readlink(f"/proc/self/fd/{dir_fd}") != detail.get("directory")


def _watch_memory(wakers: list[tuple[int, int]], group: str, seen: int) -> bool:
    """Of a control group, where it has that controller; False where another process was killed for want of it than those that were seen."""
    if group == record.NO_GROUP or not cgroup.has_file(group, "memory.events"):
        return True
    fd = os.open(f"{group}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    wakers.append((fd, select.EPOLLPRI))
    os.read(fd, SIZE_MAX)  # what happens from now on is told
    return cgroup.read_pairs(group, "memory.events").get("oom_kill", 0) == seen


def _write_detail(folder: str, detail: dict[str, str]) -> None:
    status.write_by_rename(folder, "detail", status.format_detail(detail).encode(errors="surrogateescape"))


def wake(held: Held, directory: SuperviseDirectory, events: Events, sleep_after: float) -> float:
    """Give `directory` what was held, and make it anew where it was deleted. How long it is to be idle before it sleeps again: longer where that was short."""
    directory.take(held.lock_fd, held.control_fd, held.ok_fd, held.directory_id)
    while directory.is_lost():
        try:
            directory.make()
            if held.jail:
                held.jail.write(directory.path)
            _write_detail(directory.path, held.detail)
            events.send("the supervise directory had vanished, and was made anew", "warning", path=directory.path)
        except (OSError, Fault) as error:
            events.send("cannot make the supervise directory", "error", cause=str(error))
            directory.give_up()
            if {signal.SIGTERM, signal.SIGUSR1} & {int(number) for number in signal.sigpending()}:
                _end_jail(held)
            time.sleep(RETRY_S)
    is_short = now() - held.began < float(held.detail.get("sleep_after", "0")) * SHORT_SLEEP
    return lengthen(held.detail) if is_short else sleep_after


def lengthen(detail: dict[str, str]) -> float:
    """How long it has to be idle where the last time was not worth while, in seconds."""
    return min(float(detail.get("sleep_after", "0")) * 2, SLEEP_AFTER_MAX_S)


def _end_jail(held: Held) -> None:
    """Told to exit, with nowhere to write anything down: what runs is ended, and so is this process."""
    pidfd, service_fd = record.open_jail(held.jail) if held.jail else (-1, -1)
    for fd, number in ((service_fd, signal.SIGTERM), (service_fd, signal.SIGCONT), (pidfd, signal.SIGKILL)):
        if fd < 0:
            continue
        try:
            signal.pidfd_send_signal(fd, number)
        except OSError:
            continue
        if number == signal.SIGCONT:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(END_MAX_S * 1000)
    os._exit(0)

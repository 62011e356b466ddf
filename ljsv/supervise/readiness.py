"""How a run says that it is ready: a newline on descriptor 3 (s6), datagrams to $NOTIFY_SOCKET (sd_notify(3)), or ./check.

The first two end in a FIFO of the supervise directory that pid 1 of the jail holds as
well, so what was said while no supervisor was there is read by the next one.
It stays in the FIFO until it is announced: killed before, a supervisor takes nothing along.
For datagrams pid 1 keeps the socket and passes them on into that FIFO.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from ljsv import status
from ljsv.frozen import Frozen
from ljsv.jail.spec import BindMount
from ljsv.linux import descriptors, files
from ljsv.supervise.directory import open_fifo
from ljsv.supervise.loop import now
from ljsv.supervise.machine import BY_START
from ljsv.supervise.scripts import CHECK, NOT_RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.service.schema import Policy
    from ljsv.supervise.events import Events
    from ljsv.supervise.loop import Loop
    from ljsv.supervise.scripts import Scripts

BY_FD, BY_NOTIFY, BY_CHECK = "fd", "notify", "check"
SOCKET_AT = "/run/notify"
RELOADING = "reloading"
READ_SIZE = 65536
STATUS_MAX = 200
CHECK_AGAIN_S, CHECK_TIMEOUT_S = 0.5, 10.0


class Wires(Frozen):
    """What a jail gets for that: descriptors to be closed by the caller once it has begun, a bind, variables."""

    passed_fd: int = -1
    held_fds: tuple[int, ...] = ()
    relay: tuple[int, int] = (-1, -1)
    binds: tuple[BindMount, ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()

    def close(self) -> None:
        for fd in {self.passed_fd, *self.held_fds, *self.relay} - {-1}:
            os.close(fd)


class Readiness:
    """What one service's run says of itself, and what is asked of it: ready, its status, its watchdog, ./check.

    `feed` gets "ready", "stopping" and "silent", the last with the reason;
    `on_change` is called when what `detail` says of it is different, `announce` to say at once what is.
    """

    def __init__(
        self, loop: Loop, timer: str, events: Events, scripts: Scripts,
        feed: Callable[[str, str], None], on_change: Callable[[], None], announce: Callable[[], None],
    ) -> None:
        self.by = BY_START
        self._loop = loop
        self._timer = timer
        self._events = events
        self._scripts = scripts
        self._feed = feed
        self._on_change = on_change
        self._announce = announce
        self.fd = self._kept_fd = -1  # where it listens; -1 for nowhere
        self._status_text = ""
        self._is_reloading = False
        self._watchdog_s = 0.0
        self._check_timeout_s = CHECK_TIMEOUT_S
        self._state = status.DOWN

    # ---- a run

    def listen(self, directory: str, policy: Policy) -> None:
        """To the run that is about to begin in that supervise directory."""
        self.by, self._watchdog_s = policy.ready.by or BY_START, policy.ready.watchdog
        self._status_text, self._is_reloading = "", False
        self._open(directory, policy.scripts.check)

    def carry_on(self, directory: str, detail: dict[str, str], check_timeout_s: float) -> None:
        """With a run that another supervisor has begun, and which `describe` has described."""
        self.by, self._watchdog_s = detail.get("ready_by", BY_START), float(detail.get("watchdog", "0"))
        self._is_reloading = "reloading" in detail
        self._status_text = detail.get("status_text", "").removeprefix(f"{RELOADING}; " if self._is_reloading else "")
        self._open(directory, check_timeout_s)

    def keep(self, fd: int) -> None:
        """The FIFO of the run that is carried on with, where it is open already (-1: it is not): its directory may have vanished."""
        self._kept_fd = fd

    def _open(self, directory: str, check_timeout_s: float) -> None:
        self.close()
        self._check_timeout_s = check_timeout_s
        if self.by in {BY_FD, BY_NOTIFY}:
            self.fd = self._kept_fd if self._kept_fd >= 0 else open_fifo(f"{directory}/ready.fifo", os.O_RDWR | os.O_NONBLOCK)
            self._kept_fd = -1
            self._loop.watch(self.fd, self._hear)

    def wire(self, directory: str) -> Wires:
        """For a new run: nothing of the one before counts."""
        if self.fd < 0:
            return Wires()
        with suppress(BlockingIOError):
            os.read(self.fd, READ_SIZE)
        held_fd = os.open(f"{directory}/ready.fifo", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if self.by == BY_FD:
            return Wires(passed_fd=os.open(f"{directory}/ready.fifo", os.O_WRONLY | os.O_CLOEXEC), held_fds=(held_fd,))
        socket_fd, socket_path = _bind_socket(directory)
        env = [("NOTIFY_SOCKET", SOCKET_AT)]
        if self._watchdog_s:
            env.append(("WATCHDOG_USEC", str(int(self._watchdog_s * 1e6))))
        bind = BindMount(socket_path, SOCKET_AT)
        return Wires(relay=(socket_fd, held_fd), binds=(bind,), env=tuple(env))

    def follow(self, state: str) -> None:
        """The service is in that state now."""
        before, self._state = self._state, state
        if before == status.READY:
            self._set_timer("watchdog", None, self._bite)
        if state == status.UP and self.by == BY_CHECK:
            self._check()
        if state == status.READY:
            self._feed_watchdog()

    def end(self) -> None:
        """The jail is gone."""
        self._set_timer("check", None, self._check)

    def describe(self) -> dict[str, str]:
        """What it says of itself, and what is asked of it, for `detail`."""
        return {
            "ready_by": self.by,
            "watchdog": f"{self._watchdog_s:g}" if self._watchdog_s else "",
            "reloading": "yes" if self._is_reloading else "",
            "status_text": self.status_text,
        }

    @property
    def status_text(self) -> str:
        """What it says of itself, "" where it does not run."""
        if self._state not in {status.UP, status.READY, status.STOPPING}:
            return ""
        return f"{RELOADING}; {self._status_text}" if self._is_reloading else self._status_text

    def close(self) -> None:
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
        self.fd = -1

    # ---- what it says: sd_notify(3)

    def _hear(self) -> None:
        data = files.peek(self.fd, READ_SIZE)
        said = self._parse(data)
        for name, value in said:
            if name == "READY" and value == "1":
                self._is_reloading = False
                self._feed("ready", "")
            elif name == "STATUS":
                self._status_text = "".join(char if char.isprintable() else " " for char in value[:STATUS_MAX])
            elif name == "RELOADING" and value == "1":
                self._is_reloading = True
            elif name == "STOPPING" and value == "1":
                self._feed("stopping", "")
            elif name == "WATCHDOG" and value == "1":
                self._feed_watchdog()
            elif name == "WATCHDOG" and value == "trigger":
                self._events.send("watchdog: triggered by the service itself", "error")
                self._feed("silent", "it had triggered its watchdog itself")
        if any(name != "WATCHDOG" for name, _ in said):
            self._on_change()
        if ("READY", "1") in said:
            self._announce()
        if self.fd >= 0:
            os.read(self.fd, len(data))

    def _parse(self, data: bytes) -> list[tuple[str, str]]:
        """What was said, (name, value) each. Pid 1 writes each datagram whole, with a NUL at its end."""
        if self.by == BY_FD:
            return [("READY", "1")] if b"\n" in data else []
        pairs = (line.partition("=") for message in data.split(b"\0") for line in message.decode(errors="replace").splitlines())
        return [(name, value) for name, _, value in pairs]

    def _feed_watchdog(self) -> None:
        if self._watchdog_s and self.by == BY_NOTIFY and self._state == status.READY:
            self._set_timer("watchdog", now() + self._watchdog_s, self._bite)

    def _bite(self) -> None:
        self._events.send("watchdog: nothing heard in time", "error", timeout_s=self._watchdog_s)
        self._feed("silent", f"its watchdog heard nothing for {self._watchdog_s:g}s")

    # ---- what it is asked: ./check

    def _check(self) -> None:
        """Run ./check in the jail, again and again until it says that the service is ready, or its time is up."""
        if self._state == status.UP:
            self._scripts.run(CHECK, self._check_timeout_s, self._checked)

    def _checked(self, code: int, what: str) -> None:
        if code == 0:
            self._status_text = ""
            self._feed("ready", "")
            return
        text = f"check: {what}"
        if text != self._status_text:
            self._status_text = text
            self._on_change()
            self._events.send("not ready yet", "warning" if code == NOT_RUN else "info", check=what)
        self._set_timer("check", now() + CHECK_AGAIN_S, self._check)

    def _set_timer(self, name: str, at: float | None, callback: Callable[[], None]) -> None:
        self._loop.set_timer(f"{self._timer} {name}", at, callback)


def _bind_socket(directory: str) -> tuple[int, str]:
    """A datagram socket at `notify` in the directory: whoever the service is, it may send; nobody else reaches it.

    With its path for others than this process: `directory` may be by one of our descriptors.
    """
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(f"{directory}/notify").st_mode):
            os.unlink(f"{directory}/notify")
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        socket_fd = descriptors.bind_datagram(f"/proc/self/fd/{directory_fd}/notify")  # sun_path holds 108 bytes
        os.chmod("notify", 0o666, dir_fd=directory_fd)
        return socket_fd, os.readlink(f"/proc/self/fd/{directory_fd}") + "/notify"
    finally:
        os.close(directory_fd)

"""The supervise directory: made, locked, opened, and mended when it has vanished.

It is `supervise` in the service directory, as the contract has it: a symlink
into the runtime directory that we make, or whatever an administrator put
there. The runtime folder records which service directory it belongs to, so a
copied service directory, which brings its symlink along, never shares it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from time import sleep

from ljsv import status
from ljsv.errors import Fault, quote
from ljsv.jail.failure import FULL
from ljsv.linux import files

SUPERVISE = "supervise"
OWNER_FILE = "owner"
OWNER_MAX = 8192
MADE = "made"  # to the scanner: a control FIFO of NAME is another than before
SUBSCRIBERS_MAX = 4096
SUBSCRIBE_TRIES, SUBSCRIBE_PAUSE_S = 100, 0.001
ALTERNATIVES_MAX = 9
PAGE = 4096


def format_identity(identity: tuple[int, int, int]) -> str:
    return ":".join(map(str, identity))


def read_owner(folder: str) -> str:
    """The identity of the service directory that a runtime folder belongs to; "" where it does not say."""
    return _read_owner_file(folder).decode(errors="replace").split("\n", 1)[0]


def _read_owner_file(folder: str) -> bytes:
    try:
        return files.read_some(f"{folder}/{OWNER_FILE}", OWNER_MAX)
    except OSError:
        return b""


def choose_runtime_folder(runtime: str, identity: str) -> str:
    """The runtime folder of this service directory: its name's own, or name~2, ... where that belongs to another that lives."""
    for number in range(1, ALTERNATIVES_MAX + 1):
        folder = runtime if number == 1 else f"{runtime}~{number}"
        owner = read_owner(folder)
        if owner in {"", identity} or not is_held(folder):
            return folder
    raise Fault("every runtime folder is held by another service", runtime, "", hint=f"ls -l {quote(runtime)}*")


def is_held(folder: str) -> bool:
    """Whether a supervisor, or a jail that outlived its supervisor, still holds a lock there."""
    return is_locked(f"{folder}/lock") or is_locked(f"{folder}/exit")


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock on that file; False also where it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class SuperviseDirectory:
    """`path` is where the files are; the descriptors are those that the contract wants held.

    A plain directory is reached through the service directory's descriptor,
    so that it keeps its place when the service directory is renamed, and is
    not made again under the old name.
    """

    def __init__(self, service_path: str, dir_fd: int, runtime: str | None, identity: str, folder: str = "") -> None:
        """`folder`: where it is known to be."""
        self._service_path = service_path
        self._dir_fd = dir_fd
        self._identity = identity
        self._runtime = os.path.dirname(runtime) if runtime else ""
        self._plain = f"/proc/self/fd/{dir_fd}/supervise"
        self.path = folder or self._find(runtime)
        self.control_fd = self._ok_fd = self._lock_fd = -1
        self._id: tuple[int, int] = (0, 0)

    def _find(self, runtime: str | None) -> str:
        """The real path of the supervise directory; the link is made or mended first."""
        try:
            entry = os.stat("supervise", dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            entry = None
        link = os.readlink("supervise", dir_fd=self._dir_fd) if entry and stat.S_ISLNK(entry.st_mode) else ""
        if entry and not link:
            return self._plain
        if link and not self._is_ours(link, runtime):
            return os.path.join(self._service_path, link)
        if runtime is None:
            if link:
                os.unlink("supervise", dir_fd=self._dir_fd)
            return self._plain
        if link and os.path.dirname(link) == os.path.dirname(runtime) and read_owner(link) == self._identity:
            return link  # it was renamed: its records, and perhaps its jail, are there
        folder = choose_runtime_folder(runtime, self._identity)
        if link != folder:
            self._make_link(folder)
        return folder

    @staticmethod
    def _is_ours(link: str, runtime: str | None) -> bool:
        """A link of the form that we make: it may have come along with a copy."""
        if "/ljsv/" not in link or not link.startswith("/"):
            return False
        if runtime and os.path.dirname(link) == os.path.dirname(runtime):
            return True
        return link.startswith(("/run/ljsv/", "/run/user/")) or not os.path.isdir(link)

    def _make_link(self, folder: str) -> None:
        temporary = ".supervise.new"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._dir_fd)
        try:
            os.symlink(folder, temporary, dir_fd=self._dir_fd)
            os.rename(temporary, "supervise", src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except FileNotFoundError:
            return  # the service directory is gone; a jail of it may still be there to be stopped
        except OSError as error:
            hint = f"ln -s {quote(folder)} {quote(f'{self._service_path}/supervise')}, where the directory can be written"
            raise Fault.from_os("cannot link supervise", error, f"{self._service_path}/supervise", hint=hint) from None

    def make(self) -> None:
        """Make what is missing, take the lock, open the FIFOs. Fault (111) when another supervisor holds it."""
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)  # one that is there keeps its mode: perhaps others may ask
            self._make_all()
        except Fault as fault:
            raise self.show(fault) from None
        except OSError as error:
            shown = self.shown_path
            hint = f"df {quote(shown)}" if error.errno in FULL else f"ls -ld {quote(self._service_path)} {quote(shown)}"
            raise Fault.from_os("cannot make the supervise directory", error, shown, hint=hint) from None

    def show(self, fault: Fault) -> Fault:
        """The same, with paths as others find them, not through our descriptor."""
        fault.object, fault.hint = self._show(fault.object), self._show(fault.hint)
        return fault

    @property
    def shown_path(self) -> str:
        return self._show(self.path)

    def _show(self, text: str) -> str:
        return text.replace(self._plain, os.readlink(f"/proc/self/fd/{self._dir_fd}") + "/supervise") if self._plain in text else text

    def _make_all(self) -> None:
        entry = os.stat(self.path)
        is_new = self._id != (entry.st_dev, entry.st_ino)
        self._id = entry.st_dev, entry.st_ino
        lock_fd = os.open(f"{self.path}/lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self._lock_fd >= 0 and os.path.sameopenfile(lock_fd, self._lock_fd):
            os.close(lock_fd)  # ours since an earlier try
        else:
            self._take_lock(lock_fd)
        if read_owner(self.path) not in {"", self._identity}:  # a copy brought them along: not our jail, not our state
            for name in ("jail", "exit", "detail", "good", "staging", "log.fifo"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self.path}/{name}")
        owner = f"{self._identity}\n{self._service_path}\n".encode(errors="surrogateescape")
        if _read_owner_file(self.path) != owner:  # or there need not be room for it
            status.write_by_rename(self.path, OWNER_FILE, owner, 0o600)
        with suppress(FileExistsError):
            os.mkdir(f"{self.path}/event", 0o700)
        control_fd = open_fifo(f"{self.path}/control", os.O_RDWR | os.O_NONBLOCK)
        self._close(self.control_fd)
        self.control_fd = control_fd
        if is_new:
            self._close(self._ok_fd)
            self._ok_fd = -1

    def take(self, lock_fd: int, control_fd: int, ok_fd: int, directory_id: tuple[int, int]) -> None:
        """What is held already, of the directory with that device and inode."""
        self._lock_fd, self.control_fd, self._ok_fd, self._id = lock_fd, control_fd, ok_fd, directory_id

    def _take_lock(self, lock_fd: int) -> None:
        """Of a file that was just opened, instead of the one before it. Fault when another supervisor holds it."""
        if not files.take_lock(lock_fd):
            os.close(lock_fd)
            raise Fault("another supervisor runs", f"{self._service_path}/supervise/lock", "it is locked", hint=f"sv status {quote(self._service_path)}") from None
        self._close(self._lock_fd)
        self._lock_fd = lock_fd

    def open_ok(self) -> None:
        """From now on clients see that somebody supervises: after the first status has been written."""
        if self._ok_fd < 0:
            self._ok_fd = open_fifo(f"{self.path}/ok", os.O_RDWR | os.O_NONBLOCK)

    def is_lost(self) -> bool:
        """Whether the directory that we hold is no longer the one at our path."""
        try:
            entry = os.stat(self.path)
            os.stat(f"{self.path}/control")
        except OSError:
            return True
        return (entry.st_dev, entry.st_ino) != self._id

    def is_unlinked(self) -> bool:
        """Whether our link to the runtime directory was deleted: nobody else finds what is there."""
        if os.path.dirname(self.path) != self._runtime:
            return False
        try:
            os.stat(SUPERVISE, dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def link(self) -> None:
        """Make it again. Fault where the service directory cannot be written."""
        self._make_link(self.path)

    def give_up(self) -> None:
        """Not all that belongs into it could be made: it counts as lost."""
        self._id = (0, 0)

    def close(self) -> None:
        """Let go: clients see at once that nobody supervises."""
        for fd in (self._ok_fd, self.control_fd, self._lock_fd):
            self._close(fd)
        self._ok_fd = self.control_fd = self._lock_fd = -1

    @staticmethod
    def _close(fd: int) -> None:
        if fd >= 0:
            os.close(fd)


def remove_runtime_folder(runtime: str, folder: str, dir_fd: int) -> None:
    """The service directory `dir_fd` is gone: its folder in the runtime directory goes as well, and the link to it."""
    if os.path.dirname(folder) != runtime:
        return
    with suppress(OSError):
        if os.readlink("supervise", dir_fd=dir_fd) == folder:
            os.unlink("supervise", dir_fd=dir_fd)
    for root in (f"{folder}/log/event", f"{folder}/log", f"{folder}/event", folder):
        with suppress(OSError):
            for name in os.listdir(root):
                if not os.path.isdir(f"{root}/{name}"):
                    os.unlink(f"{root}/{name}")
            os.rmdir(root)


def open_fifo(path: str, flags: int, *, shrink: bool = True, mode: int = 0o600) -> int:
    """A FIFO, made where it is missing; a page is enough for commands, and pipe pages are bounded per user."""
    with suppress(FileExistsError):
        os.mkfifo(path, mode)
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except PermissionError:  # what runs in the jail has a descriptor of its log's, and may be its owner
        os.chmod(path, mode)
        fd = os.open(path, flags)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise Fault("not a FIFO", path, "something else has its name", hint=f"rm {quote(path)}")
    if shrink:
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PAGE)
    return fd


def tell_subscribers(event_dir: str, byte: bytes, prefix: str = "") -> None:
    """One byte to every FIFO of that prefix in a fifodir (s6's ftrigw); one that nobody reads any more is removed."""
    try:
        names = os.listdir(event_dir)
    except OSError:
        return
    for name in names[:SUBSCRIBERS_MAX]:
        if name.startswith(".") or not name.startswith(prefix):
            continue
        path = f"{event_dir}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:
                _unlink_unread(path)
            continue
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(fd, byte)
        os.close(fd)


def open_subscription(path: str) -> int:
    """The reading end of a FIFO in a fifodir that may have been there before, for one who was killed. OSError, Fault.

    Its lock keeps others from taking away its name (see `_unlink_unread`).
    """
    for _ in range(SUBSCRIBE_TRIES):
        fd = open_fifo(path, os.O_RDWR | os.O_NONBLOCK)
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                return fd
        os.close(fd)
        sleep(SUBSCRIBE_PAUSE_S)
    raise OSError(errno.EAGAIN, "its name is taken away again and again", path)


def _unlink_unread(path: str) -> None:
    """Unless somebody is just opening it."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                os.unlink(path)
        finally:
            os.close(fd)


def tell_scanner(folder: str, line: str) -> bool:
    """One command into the scanner's control FIFO; False where that is full. Without a scanner nobody has to know."""
    try:
        fd = os.open(f"{folder}/control", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        os.write(fd, line.encode())
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(fd)
    return True

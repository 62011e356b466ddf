"""What every verb needs: the scan directory, its places, the services that were named."""

from __future__ import annotations

import os
import time

from ljsv import status
from ljsv.cli.options import Options, usage
from ljsv.cli.show import given_svdir
from ljsv.errors import EXIT_NO_SERVICE, EXIT_NOT_SUPERVISED, EXIT_SYSTEM, Fault, quote
from ljsv.paths import SCANNER_DIR, Places, find_svdir, is_service_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.service.read import Service


LOG = "log"
LINKS_MAX = 64
WAIT_MAX_S = 2_000_000.0  # poll(2) counts milliseconds in an int
SCANNER_PATIENCE_S, SCANNER_PAUSE_S = 10.0, 0.05


class Context:
    """One invocation. `shown` is the scan directory as a person would write it; `is_by_path`: nothing says that it is one, but a service's path."""

    def __init__(self, svdir: str, options: Options) -> None:
        self.options = options
        self.began_s = time.time()
        uid = os.geteuid()
        environ = dict(os.environ)
        words = [split_word(word) for word in options.operands]
        given = svdir or (words[0][0] if words else "")
        given_svdir[:] = [given] if given else []
        self.is_by_path = bool(words and words[0][0] and not svdir)
        if self.is_by_path:
            svdir = os.path.abspath(words[0][0])
        options.operands = [name for _, name in words]
        self.shown, source = find_svdir(svdir, environ, uid)
        if source == "./sv":
            self.shown = "./sv"
        self.places = Places(self.shown, environ, uid)
        if not _is_read(f"{self.places.scanner}/control"):
            self._follow_links()

    def _follow_links(self) -> None:
        """Its scanner may have been given another runtime directory (cron knows of none): it is where its services' links lead."""
        scan = os.path.basename(self.places.state)
        found = dict.fromkeys([os.path.dirname(_read_link(f"{self.svdir}/{name}/supervise")) for name in self.all_names()[:LINKS_MAX]])
        folders = [(runtime, f"{runtime}/{SCANNER_DIR}") for runtime in found if os.path.basename(runtime) == scan]
        for runtime, scanner in (*folders, (None, f"{self.svdir}/.ljsv")):
            if _is_read(f"{scanner}/control"):
                self.places.runtime, self.places.scanner = runtime, scanner
                return

    @property
    def svdir(self) -> str:
        return self.places.svdir

    def wait_s(self) -> float:
        """-w, $SVWAIT, or 7 s; 23 days at most."""
        return min(self.options.number("-w", float(_svwait() or 7.0)), WAIT_MAX_S)

    @property
    def is_wait_given(self) -> bool:
        return self.options.has("-w") or bool(_svwait())

    def all_names(self) -> list[str]:
        """Every service directory here, sorted; symlinks to directories count."""
        return self.look_around()[0]

    def look_around(self) -> tuple[list[str], list[Fault]]:
        """The same, and what there is to say of each directory here that no scanner looks at: for its name, or since it leads to where we may not look."""
        names: list[str] = []
        faults: list[Fault] = []
        with os.scandir(self.svdir) as listing:
            for item in sorted((item for item in listing if item.name[0] != "."), key=lambda item: item.name):
                try:
                    if item.is_dir() and is_service_name(item.name):
                        names.append(item.name)
                    elif item.is_dir():
                        faults.append(self.misnamed(item.name))
                except OSError as error:
                    path = f"{self.shown}/{item.name}"
                    faults.append(Fault.from_os("cannot open a service directory", error, path, hint=f"ls -l {quote(path)}"))
        return names, faults

    def names(self, faults: list[Fault] | None = None) -> list[str]:
        """The services that were named, or all with --all. Fault for one that is not there; with `faults` it is put there, and left out."""
        operands = self.options.operands
        if self.options.has("--all"):
            if operands:
                raise usage("either names or --all, not both")
            return self.all_names()
        if not operands:
            raise usage("which service? name it, or say --all", hint=f"ljsv status  # shows what is in {quote(self.shown)}")
        names = []
        for name in dict.fromkeys(operands):
            try:
                self.require(name)
                names.append(name)
            except Fault as fault:
                if faults is None:
                    raise
                faults.append(fault)
        return names

    def require(self, name: str) -> None:
        """Fault (4) with a guess where there is no such service."""
        if is_service_name(name) and os.path.isdir(f"{self.svdir}/{name}"):
            return
        if os.path.isdir(self.supervise_of(name)):
            return
        if os.path.isdir(f"{self.svdir}/{name}"):
            raise self.misnamed(name)
        from ljsv.cli.guess import closest, retyped

        close = closest(name, self.all_names())
        cause = f"did you mean {close}?" if close else ""
        hint = retyped(name, close) if close else f"ls {quote(self.shown)}"
        raise Fault("no such service", f"{self.shown}/{name}", cause, service=name, hint=hint, exit_code=EXIT_NO_SERVICE)

    def misnamed(self, name: str) -> Fault:
        """For a directory here that no scanner looks at."""
        cause = "a service's name has at most 64 printable bytes, no space, and no dot at its beginning"
        path = f"{self.shown}/{name}"
        return Fault("not a service's name", path, cause, hint=f"mv -nT {quote(path)} {quote(f'{self.shown}/web')}  # or another name", exit_code=EXIT_NO_SERVICE)

    def supervise_of(self, name: str) -> str:
        """Where its supervisor keeps its files: ours, where the link leads to another user's but is ours to replace."""
        directory = f"{self.svdir}/{name}"
        link = _read_link(f"{directory}/supervise")
        if link and os.path.dirname(link) != self.places.runtime and not os.access(link, os.X_OK) and os.access(directory, os.W_OK):
            return self.places.runtime_of(name) or f"{directory}/.supervise"  # nothing: the link is in the way of the one to come
        return f"{directory}/supervise"

    def detail(self, name: str) -> dict[str, str]:
        """The service's `detail`; nothing where it is another's: a copied directory brings a foreign `supervise` along."""
        detail = status.read_detail(self.supervise_of(name))
        try:
            entry = os.stat(f"{self.svdir}/{name}")
        except OSError:
            return {}
        return detail if detail.get("identity", "").startswith(f"{entry.st_dev}:{entry.st_ino}:") else {}

    def read_service(self, name: str) -> Service:
        """The service directory, read as its supervisor would. Fault where it is unfit."""
        from ljsv.service.read import read_service

        path = os.path.realpath(f"{self.svdir}/{name}")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Fault.from_os("cannot open the service directory", error, path, hint=f"ls -ld {quote(path)}") from None
        try:
            return read_service(path, fd, uid=os.geteuid(), state=self.places.state_of(name), is_log=name.endswith(f"/{LOG}"))
        finally:
            os.close(fd)

    def is_supervised(self, name: str) -> bool:
        """Whether a supervisor of this very directory lives."""
        return status.is_supervised(self.supervise_of(name)) and bool(self.detail(name))

    def send(self, name: str, text: str) -> None:
        """Bytes into a service's control FIFO. Fault (102) where nobody reads it."""
        path = f"{self.supervise_of(name)}/control"
        if not (self.is_supervised(name) and write_fifo(path, text.encode())):
            has_scanner = self.has_scanner()
            if has_scanner and self.is_supervised(name) and write_fifo(path, text.encode()):
                return  # its folder is there again
            problem = self.problems().get(name) or ("its scanner runs" if has_scanner else "no scanner runs")
            cause, _, hint = problem.partition(" hint: ")  # as the scanner puts both into a line
            raise Fault("nobody supervises it", f"{self.shown}/{name}", cause, service=name, hint=hint or f"ljsv {'up' if text[-1:] in 'uo' else 'status'} {quote(name)}", exit_code=EXIT_NOT_SUPERVISED)

    def has_scanner(self) -> bool:
        """Whether one runs. Where it holds the lock, but its folder is not there (it begins, or makes it again), that is waited for. Fault where it is another user's."""
        give_up_at = time.monotonic() + SCANNER_PATIENCE_S
        is_made_again = False
        while not write_fifo(f"{self.places.scanner}/control", b""):
            pid, owner = self.find_scanner()
            if not pid or time.monotonic() > give_up_at:
                return False
            if owner != os.geteuid():
                from ljsv.cli.guess import as_typed

                who = "root's" if owner == 0 else f"of uid {owner}"
                sudo = "sudo" if owner == 0 else f"sudo -u '#{owner}'"
                raise Fault("not permitted", self.shown, f"its scanner (pid {pid}) is {who}", hint=f"{sudo} {as_typed()}", exit_code=EXIT_SYSTEM)
            time.sleep(SCANNER_PAUSE_S)
            is_made_again = True
        while is_made_again and time.monotonic() < give_up_at and not all(map(self._is_back, self.all_names())):
            time.sleep(SCANNER_PAUSE_S)
        return True

    def _is_back(self, name: str) -> bool:
        """It has its folder again, and its supervisor holds it; or nobody ever had."""
        path = self.supervise_of(name)
        try:
            return not os.path.lexists(path) or status.is_supervised(path)
        except PermissionError:
            return True

    def find_scanner(self) -> tuple[int, int]:
        """(pid, uid) of the process that holds the lock on the scan directory, as a scanner does; zeros for none."""
        from ljsv.linux.process import find_lock_taker, read_name

        try:
            fd = os.open(self.svdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return 0, 0
        try:
            pid = find_lock_taker(fd)
            return (pid, os.stat(f"/proc/{pid}").st_uid) if read_name(pid) == "ljsv scan" else (0, 0)
        except OSError:
            return 0, 0
        finally:
            os.close(fd)

    def tell_scanner(self, text: str) -> bool:
        return write_fifo(f"{self.places.scanner}/control", text.encode())

    def problems(self) -> dict[str, str]:
        """Why nobody supervises what is there, as the scanner says."""
        if not _is_read(f"{self.places.scanner}/control"):
            return {}
        try:
            with open(f"{self.places.scanner}/problems", errors="surrogateescape") as file:
                return status.parse_detail(file.read(1 << 20))
        except OSError:
            return {}


def _svwait() -> str:
    """$SVWAIT, "" where it is no number."""
    given = os.environ.get("SVWAIT", "")
    return given if given.isascii() and given.isdigit() else ""


def _is_read(fifo: str) -> bool:
    """Whether a process of ours, or one that we may write to, has it open."""
    try:
        return write_fifo(fifo, b"")
    except Fault:
        return False


def _read_link(path: str) -> str:
    """Where that symlink leads to; "" where it is none."""
    try:
        return os.path.join(os.path.dirname(path), os.readlink(path))
    except OSError:
        return ""


def split_word(word: str) -> tuple[str, str]:
    """(scan directory, name) of what a person types: a path, or "" and a name. The log service of web is `web/log`, as for sv."""
    bare = word.rstrip("/")
    if "/" not in bare:
        return "", bare if "/" in word else word
    folder, _, name = bare.rpartition("/")
    above, _, service = folder.rpartition("/")
    if name == LOG and service:
        is_path = not above and os.path.exists(f"{bare}/run") and not os.path.exists(f"{folder}/run")
        if not is_path and (not above or os.path.exists(f"{folder}/run") or os.path.exists(f"{folder}/rootfs")):
            return above or ("/" if folder.startswith("/") else ""), f"{service}/{LOG}"
    return folder or "/", name


def write_fifo(path: str, data: bytes) -> bool:
    """Whether somebody reads that FIFO, after writing `data` into it. PermissionError is a Fault."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise Fault.from_os("cannot open", error, path, hint=f"ls -ld {quote(path)}  # it belongs to another user") from None
    except OSError:
        return False
    try:
        if data:
            os.write(fd, data)
    except BrokenPipeError:
        return False  # it has just let go
    except BlockingIOError:
        raise Fault("cannot write", path, "the FIFO is full: its reader hangs", hint="ljsv events") from None
    finally:
        os.close(fd)
    return True

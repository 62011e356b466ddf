"""The image store: files named by their digest, and names that stand for digests. Safe under kill -9 at any moment.

A file comes in by fsync and rename and never changes, a name is one small file
that is replaced by rename. Writers of both hold the store's lock shared, and
whoever deletes holds it alone, so that nothing goes between an image's arrival and
its name's. An image is in use while a jail holds it (a shared lock on the file,
taken by the jail's launcher, see `jail.outside`), while a service directory with
a supervisor names it, and while somebody has pinned it.

What is being made lives in `build/`, in folders whose makers hold a lock on
them: the kernel lets go of it however they end, and the next build or `gc`
sweeps what nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ljsv.errors import EXIT_NOT_REACHED, Fault, quote
from ljsv.service.images import check_image
from ljsv.service.stored import (
    IMAGES,
    NAMES,
    PREFIX,
    ROOT_STORE,
    StoredImage,
    find,
    image_path,
    is_digest,
    list_digests,
    list_names,
    name_file,
    own_store,
    parse_name,
    read_name,
    resolve,
)

__all__ = ["ROOT_STORE", "Store", "StoredImage", "Use", "open_store", "parse_name", "resolve"]

LOCK, BUILD, PINS, CACHE = "lock", "build", "pins", "cache"
CHUNK = 1 << 20
PIN_MAX = 16 << 10
RUNTIME_MAX = 10_000


@dataclass(frozen=True)
class Use:
    """Who needs an image. `what` is for people: a service directory, a jail's pid, what was pinned. `name`: it is asked for by that."""

    digest: str
    what: str
    is_running: bool
    name: str = ""


def open_store(*, uid: int | None = None) -> Store:
    """The caller's own store; its folders are made where they are missing."""
    path = own_store(os.environ, os.geteuid() if uid is None else uid)
    try:
        for name in ("", IMAGES, NAMES, BUILD, PINS, CACHE):
            os.makedirs(f"{path}/{name}", mode=0o755, exist_ok=True)
    except OSError as error:
        raise Fault.from_os("cannot make the image store", error, hint=f"ls -ld {quote(os.path.dirname(path))}") from None
    return Store(path)


class Store:
    """One store, at `path`, that this user may write."""

    def __init__(self, path: str) -> None:
        self.path = path

    # ---- coming in

    @contextlib.contextmanager
    def workspace(self, beside: str = "") -> Iterator[str]:
        """A folder to make things in, on the store's file system (or in the folder `beside`), gone at the end and swept if we are killed."""
        parent = beside or f"{self.path}/{BUILD}"
        self.sweep(parent)
        path = tempfile.mkdtemp(prefix=".ljsv-build-", dir=parent)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield path
        finally:
            delete_tree(path)
            os.close(fd)

    @staticmethod
    def sweep(parent: str) -> int:
        """Delete the folders of builders that were killed; how many."""
        count = 0
        for name in os.listdir(parent):
            path = f"{parent}/{name}"
            if not name.startswith(".ljsv-build-"):
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_uid != os.geteuid():
                    continue
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(fd).st_mtime > 2 or os.listdir(fd):  # one just made may not be locked yet
                    delete_tree(path)
                    count += 1
            except BlockingIOError:
                continue
            finally:
                os.close(fd)
        return count

    def add(self, path: str, names: tuple[str, ...] = ()) -> StoredImage:
        """Take the image file at `path` (on this file system: it is moved) under its digest, and let the names stand for it."""
        kind = check_image(path)
        digest = digest_of(path)
        with self._locked(fcntl.LOCK_SH):
            there = image_path(self.path, digest)
            target = there or f"{self.path}/{IMAGES}/{PREFIX}{digest}.{kind}"
            if there:
                os.unlink(path)
            else:
                os.chmod(path, 0o444)
                sync_file(path)
                os.rename(path, target)
                sync_file(os.path.dirname(target))
            for name in names:
                self._write_name(name, digest)
        return StoredImage(digest, target, names[0] if names else "", self.path)

    def tag(self, image: StoredImage, name: str) -> None:
        """Let `name` stand for an image of this store."""
        with self._locked(fcntl.LOCK_SH):
            if not image_path(self.path, image.digest):
                raise Fault("no such image", f"sha256:{image.digest}", f"not in {self.path}", hint="ljsv image ls")
            self._write_name(parse_name(name), image.digest)

    def _write_name(self, name: str, digest: str) -> None:
        target = name_file(self.path, name)
        fd, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(target))
        try:
            os.write(fd, f"sha256:{digest}\n".encode())
            os.fchmod(fd, 0o644)
            os.fsync(fd)
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        sync_file(os.path.dirname(target))

    # ---- looking

    def names_of(self, digest: str) -> list[str]:
        return [name for name in list_names(self.path) if read_name(self.path, name) == digest]

    def uses(self, svdirs: tuple[str, ...] = ()) -> list[Use]:
        """Who needs images of this store. `svdirs`: scan directories that have no runtime directory."""
        found = [*self._running(), *self._configured(svdirs), *self._pinned()]
        return list(dict.fromkeys(found))

    def _running(self) -> Iterator[Use]:
        """Jails that hold an image: /proc/locks tells who took the lock."""
        for digest in list_digests(self.path):
            path = image_path(self.path, digest)
            if path and not _is_free(path):
                yield Use(digest, _who_locks(path), is_running=True)

    def _configured(self, svdirs: tuple[str, ...]) -> Iterator[Use]:
        from ljsv.service.read import image_of

        directories = set(_supervised_directories())
        for svdir in svdirs:
            with contextlib.suppress(OSError):
                directories |= {f"{svdir}/{name}" for name in os.listdir(svdir) if not name.startswith(".")}
        for directory in sorted(directories):
            path, said = image_of(directory)
            if path and os.path.dirname(path) == f"{self.path}/{IMAGES}":
                name = parse_name(said) if said and not is_digest(said) else ""
                yield Use(os.path.basename(path)[len(PREFIX) :].split(".")[0], f"service directory {directory}", is_running=False, name=name)

    def _pinned(self) -> Iterator[Use]:
        for name in os.listdir(f"{self.path}/{PINS}"):
            if not name.startswith("."):
                owner, digests, folder = self._read_pin(name)
                if not _is_gone(folder):
                    yield from (Use(digest, owner, is_running=False) for digest in digests)

    # ---- pins: images that somebody wants to find again, such as a deployment's way back

    def pin(self, owner: str, digests: tuple[str, ...], folder: str = "") -> None:
        """Keep these images for `owner` (any text of one line), in place of those it had pinned before; none: let go. With a `folder`
        (an absolute path) only until that is deleted.
        """
        path = f"{self.path}/{PINS}/{hashlib.sha256(os.fsencode(owner)).hexdigest()[:32]}"
        with self._locked(fcntl.LOCK_SH):
            if not digests:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                return
            fd, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
            try:
                os.write(fd, "\n".join((owner, *digests, folder, "")).encode(errors="surrogateescape"))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)

    def _read_pin(self, name: str) -> tuple[str, list[str], str]:
        """(owner, digests, folder or "")."""
        with open(f"{self.path}/{PINS}/{name}", errors="surrogateescape") as file:
            owner, *lines = file.read(PIN_MAX).splitlines() or [""]
        folder = next((line for line in lines if line.startswith("/")), "")
        return owner, [line for line in lines if line and line != folder], folder

    # ---- going

    def remove(self, text: str, svdirs: tuple[str, ...] = ()) -> tuple[str, str]:
        """Take a name away, and with its last name the image: (name or "", digest that was deleted or ""). Fault while it is in use."""
        with self._locked(fcntl.LOCK_EX):
            dangling = self._dangling_name(text)
            if dangling:
                os.unlink(name_file(self.path, dangling))
                return dangling, ""
            image = find(text, (self.path,))
            if image is None:
                resolve(text)  # refuses, with a guess; or it is in another store
                raise Fault("cannot remove the image", text, f"it belongs to {ROOT_STORE}, not to you", hint="as root: ljsv image rm " + text)
            others = [name for name in self.names_of(image.digest) if name != image.name]
            is_untagged = bool(image.name and others)
            used_by = [use.what for use in self.uses(svdirs) if use.digest == image.digest and (use.name == image.name or not is_untagged)]
            if used_by:
                what = "the name is in use" if is_untagged else "the image is in use"
                raise Fault(what, text, "; ".join(used_by[:3]), hint="stop or change what uses it first", exit_code=EXIT_NOT_REACHED)
            if is_untagged:
                os.unlink(name_file(self.path, image.name))
                return image.name, ""
            for name in (image.name, *others):
                if name:
                    os.unlink(name_file(self.path, name))
            os.unlink(image.path)
            return image.name, image.digest

    def _dangling_name(self, text: str) -> str:
        """The name, where there is one that stands for no image: it holds no digest, or that of an image that is gone."""
        if is_digest(text):
            return ""
        name = parse_name(text)
        try:
            digest = read_name(self.path, name)
            return name if digest and not image_path(self.path, digest) else ""
        except Fault:
            return name if os.path.isfile(name_file(self.path, name)) else ""

    def collect(self, svdirs: tuple[str, ...] = ()) -> list[tuple[str, int]]:
        """Delete images without a name that nobody uses, what killed builders left, and the cache of RUN: (what, bytes) of each."""
        gone = []
        with self._locked(fcntl.LOCK_EX):
            kept = {use.digest for use in self.uses(svdirs)} | {read_name(self.path, name) for name in list_names(self.path)}
            for digest in list_digests(self.path):
                path = image_path(self.path, digest)
                if path and digest not in kept:
                    gone.append((f"sha256:{digest}", os.stat(path).st_size))
                    os.unlink(path)
            for folder in (NAMES, PINS):
                for name in os.listdir(f"{self.path}/{folder}"):
                    if name.startswith(".new-") or (folder == PINS and _is_gone(self._read_pin(name)[2])):
                        os.unlink(f"{self.path}/{folder}/{name}")
            for name in sorted(os.listdir(f"{self.path}/{CACHE}")):
                path = f"{self.path}/{CACHE}/{name}"
                gone.append((f"cache {name}", os.stat(path).st_size))
                os.unlink(path)
        swept = self.sweep(f"{self.path}/{BUILD}")
        return gone + [("unfinished build", 0)] * swept

    def verify(self, told: Callable[[str, str], None]) -> bool:
        """Read every image again: whether each is what its name says. `told` gets digest and fault ("" for none)."""
        is_good = True
        for digest in list_digests(self.path):
            path, fault = image_path(self.path, digest), ""
            try:
                check_image(path)
                found = digest_of(path)
                if found != digest:
                    fault = f"its content is sha256:{found}"
            except (Fault, OSError) as error:
                fault = str(error)
            is_good = is_good and not fault
            told(digest, fault)
        for name in list_names(self.path):
            try:
                digest = read_name(self.path, name)
                fault = "" if image_path(self.path, digest) else f"sha256:{digest} is not there"
            except Fault as error:
                fault = str(error)
            if fault:
                is_good = False
                told(name, fault)
        return is_good

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        path = f"{self.path}/{LOCK}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Fault.from_os("cannot lock the image store", error, path, hint=f"ls -ld {quote(self.path)}") from None
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)


# ---- files


def digest_of(path: str) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: str) -> None:
    """Have the disk hold what the file or folder holds."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def delete_tree(path: str) -> None:
    """A builder's folder; the overlay in it may belong to subordinate ids."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError:
        from ljsv.jail.overlay import delete

        delete(path)


def _is_gone(folder: str) -> bool:
    """Whether a state directory was deleted. Where that of all services is missing as well, its disk may only not be mounted."""
    return bool(folder) and not os.path.lexists(folder) and os.path.isdir(os.path.dirname(os.path.dirname(folder)))


def _is_free(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _who_locks(path: str) -> str:
    """A jail's pid as /proc/locks has it: the process that took the lock, or 0 where it is in another pid namespace."""
    entry = os.stat(path)
    where = f"{os.major(entry.st_dev):02x}:{os.minor(entry.st_dev):02x}:{entry.st_ino}"
    with open("/proc/locks") as file:
        pids = [line.split()[4] for line in file if f" {where} " in line and "FLOCK" in line and " -> " not in line]
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", errors="replace") as file:
            return f"a jail of {file.read().strip()} (pid {pid})"
    return "a running jail"


def _supervised_directories() -> Iterator[str]:
    """Service directories that have a supervisor's folder, as the owner's line in it says."""
    base = "/run/ljsv" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "") + "/ljsv"
    count = 0
    with contextlib.suppress(OSError):
        for scan in os.listdir(base):
            with contextlib.suppress(OSError):
                for name in os.listdir(f"{base}/{scan}"):
                    count += 1
                    if count > RUNTIME_MAX:
                        return
                    with contextlib.suppress(OSError, IndexError):
                        fd = os.open(f"{base}/{scan}/{name}/owner", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                        try:
                            if stat.S_ISREG(os.fstat(fd).st_mode):
                                yield os.read(fd, PIN_MAX).decode().splitlines()[1]
                        finally:
                            os.close(fd)

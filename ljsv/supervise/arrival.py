"""A service directory as inotify sees it: its watches, and what is there by now while it is filled in place.

`settle` says when it is complete; here is the looking. A directory that
cannot be watched any more (gone, or the user's watches are used up) is no
error of what is in it: it runs, and only changes are not noticed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from ljsv.service.read import names_program
from ljsv.supervise.settle import DIRECTORIES_MAX, Settling
from ljsv.supervise.watch import SERVICE_MASK, SETTLE_MASK, Watch

BELOW = ("log", "env")  # directories in it that are watched as well
LARGE = 65536
NOT_WATCHED = "changes are not noticed: inotify: {} (sysctl fs.inotify.max_user_watches)"
FILLING = "being filled: it starts when nothing has changed for a moment"
TOO_LARGE = f"more than {DIRECTORIES_MAX} directories: fill it elsewhere, and rename it in"


class Watched(Protocol):
    """What is watched: a service directory, by its descriptor, and the numbers of its watches."""

    dir_fd: int
    watches: set[int]


T = TypeVar("T", bound=Watched)


class DirectoryWatches(Generic[T]):
    """The watches of all service directories, and whose each is."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._owners: dict[int, T] = {}
        self._variables: set[int] = set()  # of them, those of env/

    def owner(self, watch: int) -> T | None:
        return self._owners.get(watch)

    def add(self, one: T, *, is_settling: bool = False) -> str:
        """Its top level, `log/` and `env/` once it is complete; why that could not be done, or ""."""
        try:
            self._own(one, self._watch.add_fd(one.dir_fd, SETTLE_MASK if is_settling else SERVICE_MASK))
        except OSError as error:
            return NOT_WATCHED.format(error.strerror)
        if not is_settling:
            for name in BELOW:
                self.add_below(one, name)
        return ""

    def add_below(self, one: T, name: str) -> None:
        """`log/` and `env/` may come later, and be filled then."""
        others = set(one.watches)
        with suppress(OSError):
            self._add_below(one, name, SERVICE_MASK)
        if name == "env":
            self._variables |= one.watches - others

    def is_of_variables(self, watch: int) -> bool:
        """Whether it is of an env/: every file there means something."""
        return watch in self._variables

    def add_rootfs(self, one: T) -> bool:
        """Every directory below `rootfs`, while it is filled; False when there are too many: then none is watched."""
        pending, count = ["rootfs"], 0
        while pending:
            path = pending.pop()
            count += 1
            if count > DIRECTORIES_MAX:
                self.remove(one)
                return False
            with suppress(OSError):
                pending += self._add_below(one, path, SETTLE_MASK)
        return True

    def _add_below(self, one: T, path: str, mask: int) -> list[str]:
        """A directory in it: the directories in that one. OSError where it is gone."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=one.dir_fd)
        try:
            with suppress(OSError):
                self._own(one, self._watch.add_fd(fd, mask))
            if mask != SETTLE_MASK:
                return []
            with os.scandir(fd) as listing:
                return [f"{path}/{item.name}" for item in listing if item.is_dir(follow_symlinks=False)]
        finally:
            os.close(fd)

    def _own(self, one: T, watch: int) -> None:
        if watch >= 0:
            one.watches.add(watch)
            self._owners[watch] = one

    def ended(self, one: T, watch: int) -> None:
        """The kernel has taken that watch away."""
        one.watches.discard(watch)
        self._owners.pop(watch, None)
        self._variables.discard(watch)

    def remove(self, one: T) -> None:
        """All of them."""
        for watch in one.watches:
            self._watch.remove(watch)
            self._owners.pop(watch, None)
        self._variables -= one.watches
        one.watches.clear()


def look_at(dir_fd: int, settling: Settling) -> str:
    """Put down in `settling` what is there of it; what there is to say about it."""
    has = {name: _kind(dir_fd, name) for name in ("run", "rootfs")}
    if has["rootfs"] == "file" and not has["run"]:
        has["run"] = "image" if names_program(dir_fd) else ""
    settling.is_complete = all(has.values())
    settling.has_tree = has["rootfs"] in {"directory", "large"}
    settling.has_root = has["rootfs"] == "directory"
    return FILLING if settling.is_complete else "waits for " + " and ".join(name for name, kind in has.items() if not kind)


def _kind(dir_fd: int, name: str) -> str:
    """"directory", "large" (an image being written), "file", or "" where there is nothing."""
    try:
        entry = os.stat(name, dir_fd=dir_fd)
    except OSError:
        return ""
    if entry.st_mode & 0o170000 == 0o040000:
        return "directory"
    return "large" if entry.st_size > LARGE else "file"

"""What a jail has written, kept in its overlay's directory: moved aside, or deleted.

Files there may belong to subordinate ids, and overlayfs leaves a work
directory of mode 000: deleting goes through a user namespace with the same
ids, in a process of its own. Sources: the kernel's
Documentation/filesystems/overlayfs.rst, user_namespaces(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from ljsv.errors import EXIT_NOT_REACHED, Fault, quote
from ljsv.jail.outside import ASIDE, UPPER, WORK, refuse_foreign


def hold(path: str) -> int:
    """A descriptor with the overlay's lock. Fault while a jail uses it, and where it is none; FileNotFoundError where there is none."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refuse_foreign(fd, path)
    except BlockingIOError:
        os.close(fd)
        hint = f"fuser -v {quote(path)}  # shows whose; stop that first"
        raise Fault("the overlay is in use", path, "a jail that uses it runs", hint=hint, exit_code=EXIT_NOT_REACHED) from None
    except (OSError, Fault):
        os.close(fd)
        raise
    return fd


@contextmanager
def hold_all(paths: list[str]) -> Iterator[None]:
    """The locks of those overlays that are there. Fault while a jail uses one."""
    held = []
    try:
        for path in paths:
            try:
                held.append(hold(path))
            except FileNotFoundError:
                continue
        yield
    finally:
        for fd in held:
            os.close(fd)


def reset(path: str, layer: str = "") -> str:
    """Move upper/ aside, over the one that was moved before it; where it is now, "" when there was none.

    `layer`: the one that is in effect, "" or "layers/N/".
    """
    try:
        fd = hold(path)
    except FileNotFoundError:
        return ""
    try:
        delete(f"{path}/{layer}{WORK}")
        try:
            os.stat(layer + UPPER, dir_fd=fd)
        except FileNotFoundError:
            return ""
        delete(f"{path}/{layer}{ASIDE}")
        os.rename(layer + UPPER, layer + ASIDE, src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        os.close(fd)
    return f"{path}/{layer}{ASIDE}"


def delete(path: str) -> None:
    """Delete a whole tree, whoever of the jail's ids its files belong to. Fault where that fails; nothing there is fine."""
    if not os.path.lexists(path):
        return
    try:
        _remove_tree(path)
        return
    except PermissionError as error:
        if os.geteuid() == 0:
            raise Fault.from_os("cannot delete", error, path, hint=f"lsattr -d {quote(path)}") from None
    except OSError as error:
        hint = f"grep {quote(path)} /proc/self/mountinfo  # what is mounted in it?" if error.errno == errno.EBUSY else f"ls -ld {quote(path)}"
        raise Fault.from_os("cannot delete", error, path, hint=hint) from None
    from ljsv.jail.owner import run_as_owner

    run_as_owner(lambda: _remove_tree(path), what="cannot delete", path=path)


def _remove_tree(path: str) -> None:
    """rm -rf for a tree that a jail has made: directories that forbid it are opened up, and depth costs nothing.

    Each directory's subdirectories are moved up to the top before it is
    removed, so that neither recursion, open descriptors nor PATH_MAX bound
    how deep the jail may have nested them.
    """
    if not os.path.isdir(path) or os.path.islink(path):
        os.unlink(path)
        return
    top_fd = _open_up(path, -1)
    try:
        names = _free_names(top_fd)
        waiting = _empty(top_fd, top_fd, names)
        while waiting:
            name = waiting.pop()
            fd = _open_up(name, top_fd)
            try:
                waiting += _empty(fd, top_fd, names)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top_fd)
    finally:
        os.close(top_fd)
    os.rmdir(path)


def _open_up(name: str, dir_fd: int) -> int:
    at = dir_fd if dir_fd >= 0 else None
    os.chmod(name, 0o700, dir_fd=at)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


def _free_names(dir_fd: int) -> Iterator[str]:
    """Names that are not there: one that was interrupted may have left some, or the jail."""
    for number in count():
        name = f".ljsv-deleted-{number}"
        try:
            os.lstat(name, dir_fd=dir_fd)
        except FileNotFoundError:
            yield name


def _empty(fd: int, top_fd: int, names: Iterator[str]) -> list[str]:
    """Unlink what is no directory, and move those to the top; their names there."""
    found: list[str] = []
    for entry in list(os.scandir(fd)):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=fd)
            continue
        name = next(names)
        try:  # not chmod first: that would be of what is mounted there
            os.rename(entry.name, name, src_dir_fd=fd, dst_dir_fd=top_fd)
        except PermissionError:
            os.chmod(entry.name, 0o700, dir_fd=fd)
            os.rename(entry.name, name, src_dir_fd=fd, dst_dir_fd=top_fd)
        found.append(name)
    return found

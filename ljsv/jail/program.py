"""The program of a jail, looked for in it: along its PATH, and never through a magic link that leads out of it.

What cannot be executed is told as an `OSError` with the path; `failure` has
the words for the reader.
"""

from __future__ import annotations

import errno
import os

from ljsv.linux.elf import is_foreign, loaders_of
from ljsv.linux.mount import AT_FDCWD, RESOLVE_NO_MAGICLINKS, openat2

NO_INTERPRETER = "the jail has no"
NESTED_TOO_DEEP = "its interpreter is a script of a script, and so on"
MAGIC = "it leads through /proc out of the jail"
INTERPRETERS_MAX = 6  # execve(2) follows five
HEAD = 256  # what the kernel reads of it (linux/binfmts.h)


def find_program(program: str, path: str) -> str:
    """The program's path, looked for in the directories of `path` where its name has no slash. OSError with the path."""
    if "/" in program:
        _refuse_magic(program)
        return program
    denied: OSError | None = None
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{program}"
        try:
            _refuse_magic(candidate)
            if os.access(candidate, os.X_OK):
                return candidate
            denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), candidate)
        except OSError as error:
            is_absent = error.errno in {errno.ENOENT, errno.ENOTDIR} and not (error.strerror or "").startswith(NO_INTERPRETER)
            denied = denied if is_absent else error
    raise denied or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)


def _refuse_magic(path: str) -> None:
    """OSError where a program or its interpreter is a magic link such as /proc/self/exe: that is this Python (CVE-2019-5736).

    What runs in a jail must not get hold of a file of the host that may be
    writable for its ids. A script that cannot be read is refused, since the
    kernel reads it all the same.
    """
    script = path
    for _ in range(INTERPRETERS_MAX):
        fd = _open_followed(path, script)
        try:
            head = os.read(fd, HEAD)
            loaders = loaders_of(fd, head)
        except IsADirectoryError:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None
        finally:
            os.close(fd)
        path = (*_interpreter_of(head), "")[0]
        if not path:
            for loader in loaders:
                os.close(_open_followed(loader, script))
            return


def _open_followed(path: str, script: str) -> int:
    """The program itself, or what the kernel opens for it: that one's absence is told as such."""
    try:
        return _open_program(path)
    except FileNotFoundError:
        if path == script:
            raise
        raise OSError(errno.ENOENT, f"{NO_INTERPRETER} {path}", script) from None


def _open_program(path: str) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return openat2(AT_FDCWD, path, flags, RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        os.close(os.open(path, flags | os.O_CLOEXEC))  # a mere loop of symlinks says so here
        raise OSError(errno.EACCES, MAGIC, path) from None


def open_program(path: str, argv: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """(what execve(2) would execute for it, by its descriptor, the arguments): a script's interpreter for a script.

    For where somebody in the jail may put a magic link in its place after it
    was looked at: what he got hold of by that is the Python that runs ljsv.
    Before Linux 6.14 a program that is executed so has the number of the
    descriptor for its name (`ps`).
    """
    for _ in range(INTERPRETERS_MAX):
        fd = _open_program(path)
        head = os.read(fd, HEAD)
        words = _interpreter_of(head)
        if not words:
            for loader in loaders_of(fd, head):
                os.close(_open_program(loader))
            if is_foreign(head):
                os.set_inheritable(fd, True)  # the emulator opens it by that
            return fd, argv
        may_execute = os.access(f"/proc/self/fd/{fd}", os.X_OK)
        os.close(fd)
        if not may_execute:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        argv = (*words, path, *argv[1:])
        path = words[0]
    raise OSError(errno.ELOOP, NESTED_TOO_DEEP, path)


def _interpreter_of(head: bytes) -> tuple[str, ...]:
    """The interpreter that the first line of a script names, and its argument, split as the kernel does (fs/binfmt_script.c); empty for anything else."""
    if not head.startswith(b"#!"):
        return ()
    line = head[2:].split(b"\n", 1)[0].split(b"\0", 1)[0].replace(b"\t", b" ").strip(b" ")
    name, _, argument = line.partition(b" ")
    return tuple([os.fsdecode(word) for word in (name, argument.strip(b" ")) if word]) or ("",)

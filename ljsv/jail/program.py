"""The program of a jail, looked for in it: along its PATH, and never through a magic link that leads out of it.

What cannot be executed is told as an `OSError` with the path; `failure` has
the words for the reader.
"""

from __future__ import annotations

import errno
import os

from ljsv.linux.mount import AT_FDCWD, RESOLVE_NO_MAGICLINKS, openat2

NO_INTERPRETER = "the jail has no"
MAGIC = "it leads through /proc out of the jail"
INTERPRETERS_MAX = 6  # execve(2) follows five
SCRIPT_HEAD = 256


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
        try:
            fd = _open_program(path)
        except FileNotFoundError:
            if path == script:
                raise
            raise OSError(errno.ENOENT, f"{NO_INTERPRETER} {path}", script) from None
        try:
            path = _interpreter_of(os.read(fd, SCRIPT_HEAD))
        except IsADirectoryError:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path) from None
        finally:
            os.close(fd)
        if not path:
            return


def _open_program(path: str) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return openat2(AT_FDCWD, path, flags, RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        os.close(os.open(path, flags | os.O_CLOEXEC))  # a mere loop of symlinks says so here
        raise OSError(errno.EACCES, MAGIC, path) from None


def _interpreter_of(head: bytes) -> str:
    """What the first line of a script names, split as the kernel does (fs/binfmt_script.c); "" for anything else."""
    if not head.startswith(b"#!"):
        return ""
    line = head[2:].split(b"\n", 1)[0].split(b"\0", 1)[0].replace(b"\t", b" ").strip(b" ")
    return os.fsdecode(line.split(b" ", 1)[0])

"""PID 1's children: forked for a step, or executed; and what PID 1 has to say.

A child that executes something gets a session of its own, no blocked signal and
the default disposition of each. Nothing here raises for a fork that fails: PID 1
goes on to its next step.
"""

from __future__ import annotations

import os

from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NOT_EXECUTED_STATUS = 111
NOTICE, ERROR = 5, 3
SHELLS = (("/bin/sh",), ("/bin/busybox", "sh"), ("/usr/bin/python3", "-Ii"))
TIOCSCTTY = 0x540E
FIRST_PID_NAMESPACE = 0xEFFF_FFFC  # PROC_PID_INIT_INO of include/linux/proc_ns.h
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
DEFAULTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def is_container() -> bool:
    """Whether this is another pid namespace than the kernel's first."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE
    except OSError:
        return False


def say(text: str, level: int = NOTICE) -> None:
    """A line in the kernel's log, which shows on the console; in a container on standard error."""
    kernels = () if is_container() else (("/dev/kmsg", f"<{level}>ljsv init: {text}\n"),)
    for path, line in (*kernels, ("", f"ljsv init: {text}\n")):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if path else 2
        except OSError:
            continue
        try:
            os.write(fd, line[:900].encode(errors="replace"))
            return
        except OSError:
            continue
        finally:
            if path:
                os.close(fd)


def fork_step(what: str, step: Callable[[], None]) -> int:
    """The pid of a child that takes that step, with PID 1's mask; 0 where there is none."""
    try:
        pid = os.fork()
    except OSError as error:
        say(f"{what}: fork: {error.strerror}", ERROR)
        return 0
    if pid:
        return pid
    code = NOT_EXECUTED_STATUS
    try:
        step()
        code = 0
    except OSError as error:
        say(f"{what}: {error.filename or ''}: {error.strerror}", ERROR)
    except BaseException as error:  # noqa: BLE001 - it must not return into PID 1's stack
        say(f"{what}: {error!r}", ERROR)
    finally:
        os._exit(code)


def execute(argv: Sequence[str], *, held: Iterable[int] = (), passed_fd: int = -1, terminal: str = "") -> int:
    """The pid of a child that executes that, with signals of `held` still blocked, and its controlling `terminal`; 0 for none."""

    def step() -> None:
        os.setsid()
        if terminal:
            _take_terminal(terminal)
        if passed_fd >= 0:
            os.set_inheritable(passed_fd, True)
        for number in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.execve(argv[0], list(argv), DEFAULTS | dict(os.environ))

    return fork_step(argv[0], step)


def open_shell(console: str) -> int:
    """The pid of a shell on the console, the last resort; 0 where there is no terminal, or no shell."""
    try:
        console_fd = os.open(console, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return 0
    has_terminal = os.isatty(console_fd)
    os.close(console_fd)
    argv = next((argv for argv in SHELLS if os.access(argv[0], os.X_OK)), None)
    return execute(argv, terminal=console) if has_terminal and argv else 0


def _take_terminal(path: str) -> None:
    from fcntl import ioctl

    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    for standard in (0, 1, 2):
        os.dup2(fd, standard)
    if fd > 2:
        os.close(fd)
    try:
        ioctl(0, TIOCSCTTY, 1)
    except OSError:
        pass  # a shell without job control is better than none


def is_executable(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)


def hold_standard_descriptors() -> bool:
    """Whether all three were open; those that were not lead nowhere from now on: no file may take their number.

    Without a file system there is no /dev/null: an unnamed file in memory does.
    """
    had_all = True
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            had_all = False
            nothing_fd = os.memfd_create("nothing", 0)  # not closed in what we execute
            if nothing_fd != fd:
                os.dup2(nothing_fd, fd)
                os.close(nothing_fd)
    return had_all


def open_console(path: str) -> None:
    """The console, which was not there before /dev was, becomes the three standard descriptors."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    for standard in (0, 1, 2):
        os.dup2(fd, standard)
    os.close(fd)

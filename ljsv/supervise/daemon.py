"""The scanner in the background (the one import site of python-daemon).

The launching process becomes a daemon and then executes the scanner afresh,
so that the scanner carries nothing of it. The launcher waits on a pipe until
the scanner is ready or has failed, and says which.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import daemon

from ljsv.again import module_argv
from ljsv.errors import Fault, quote
from ljsv.jail.cgroup import survey
from ljsv.linux.process import PR_SET_CHILD_SUBREAPER, close_range, prctl

READY = b"ready"
WAIT_S = 60
SYSTEMD_WAIT_S = 5


def launch_scanner(svdir: str) -> None:
    """Start `ljsv scan` for `svdir` in the background; returns when it is ready. Fault when it is not."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # python-daemon leaves a process behind, and not every pid 1 reaps soon
    scope = find_scope(dict(os.environ))
    ready_r, ready_w = os.pipe()
    os.set_inheritable(ready_w, True)
    pid = os.fork()
    if pid == 0:
        os.close(ready_r)
        _become_daemon(svdir, ready_w, scope)
    os.close(ready_w)
    os.waitpid(pid, 0)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(WAIT_S)
    try:
        answer = _read_all(ready_r)
    finally:
        signal.alarm(0)
        os.close(ready_r)
        _reap()
    if answer != READY:
        message, _, hint = answer.decode(errors="surrogateescape").partition("\n")
        raise Fault("cannot start a scanner", message or "it ended without a word", hint=hint or f"ljsv --svdir {quote(svdir)} scan")


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _too_long(_number: int, _frame: object) -> None:
    raise Fault("cannot start a scanner", "", f"not ready after {WAIT_S} s", hint="ljsv events")


def _read_all(fd: int) -> bytes:
    answer = b""
    while len(answer) < 8192:
        data = os.read(fd, 4096)
        if not data:
            break
        answer += data
        if answer == READY:
            break
    return answer


def find_scope(environ: dict[str, str]) -> list[str]:
    """The words that give the scanner a delegated control group of its own, where it needs one and systemd grants it; else none."""
    if not os.path.isdir("/run/systemd/system") or environ.get("LJSV_CGROOT") or survey().is_delegated:
        return []
    import subprocess

    words = ["systemd-run", *(["--user"] if os.geteuid() else []), "--scope", "--quiet", "--collect", "-p", "Delegate=yes", "--"]
    try:
        tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=SYSTEMD_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return words if tried.returncode == 0 else []


def _become_daemon(svdir: str, ready_w: int, scope: list[str]) -> None:
    """In the child. Never returns."""
    try:
        context = daemon.DaemonContext(
            files_preserve=[ready_w], umask=0o022, prevent_core=False, signal_map={}, detach_process=True,
            working_directory="/",
        )
        context.open()
        close_range(ready_w + 1, 0xFFFF_FFFF)
        argv = [*scope, *module_argv("ljsv.supervise.scanner", svdir, str(ready_w))]
        os.execvp(argv[0], argv)
    except BaseException as error:  # noqa: BLE001 - it must not return into the launcher
        os.write(ready_w, f"{error!r}\n".encode())
    finally:
        os._exit(111)

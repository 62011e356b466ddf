"""Acting on files of a jail's ids, in a process of its own that is their root.

What a jail has written may belong to subordinate ids and forbid its owner to
read it. The real root may do everything already; for anybody else a child
enters a user namespace with the same ids. Sources: user_namespaces(7),
newuidmap(1), prctl(2).
"""

from __future__ import annotations

import errno
import os
import signal

from ljsv.errors import Fault, quote
from ljsv.jail.ids import is_root, one_id, subordinate_range, write_maps
from ljsv.linux import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 16
SAID_MAX = 4096


def act_as_owner(action: Callable[[int], None], *, what: str, path: str) -> Iterator[bytes]:
    """`action(fd)` as root of the jail's ids; what it writes to the descriptor, in chunks, as it comes.

    Fault `what: path` where it raises. The child dies with this process. The
    caller has to read to the end, or close the iterator, which kills it.
    """
    child = _start(action)
    try:
        while True:
            chunk = os.read(child.out_r, CHUNK)
            if not chunk:
                break
            yield chunk
        child.wait(what, path)
    finally:
        child.end()


def run_as_owner(action: Callable[[], None], *, what: str, path: str) -> None:
    """The same for what writes nothing."""
    for _ in act_as_owner(lambda _fd: action(), what=what, path=path):
        pass


class _Child:
    def __init__(self, pid: int, out_r: int, failed_r: int) -> None:
        self.pid, self.out_r, self.failed_r = pid, out_r, failed_r

    def wait(self, what: str, path: str) -> None:
        said = os.read(self.failed_r, SAID_MAX)
        wait_status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        if wait_status:
            number, _, name = said.partition(b"\0")
            if said and not number.isdigit():
                raise Fault(what, path, os.fsdecode(said))
            cause = f"{os.strerror(int(number))}: {os.fsdecode(name)}" if said else f"the process that does it ended with wait status {wait_status}"
            raise Fault(what, path, cause, hint=f"ls -lRn {quote(path)}; grep . /etc/subuid")

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.out_r)
        os.close(self.failed_r)


def _start(action: Callable[[int], None]) -> _Child:
    real_root = is_root()
    ids = None
    if not real_root:
        uid, gid = os.geteuid(), os.getegid()
        try:
            ids = subordinate_range(uid, gid)
        except Fault:
            ids = one_id(uid, gid)
    go_r, go_w = os.pipe2(os.O_CLOEXEC)
    out_r, out_w = os.pipe2(os.O_CLOEXEC)
    failed_r, failed_w = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid, _ = process.clone3(0 if real_root else process.CLONE_NEWUSER)
    if pid == 0:
        try:
            os.close(go_w)
            os.close(out_r)
            if not os.read(go_r, 1):
                os._exit(1)
            if not real_root:
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the ids: a change of them clears it
            if os.getppid() != parent:
                os._exit(1)
            action(out_w)
            os._exit(0)
        except OSError as error:
            name = error.filename if isinstance(error.filename, (str, bytes)) else ""
            os.write(failed_w, b"%d\0%s" % (error.errno or errno.EIO, os.fsencode(name)[: SAID_MAX // 2]))
        except BaseException as error:  # noqa: BLE001
            os.write(failed_w, os.fsencode(f"{type(error).__name__}: {error}")[:SAID_MAX])
        finally:
            os._exit(1)
    child = _Child(pid, out_r, failed_r)
    os.close(out_w)
    os.close(failed_w)
    os.close(go_r)
    try:
        if ids:
            write_maps(pid, ids)
        os.write(go_w, b"G")
    except BaseException:
        child.end()
        raise
    finally:
        os.close(go_w)
    return child

"""Where the commands begin. Until `main` can answer for it, Ctrl-C ends the process as the kernel does, without a traceback.

`ljsv-init` is PID 1 on the shortest way, importing nothing of the command
line; as any other process it is `ljsv init`, which says what is wrong.
"""

from __future__ import annotations

import os
import sys

from ljsv.linux.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class _Quiet:
    """While modules are imported. A SIGINT that is ignored (a background job of a script) stays so; a SIGCHLD is not: nobody could wait for a child."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.is_ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self.is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def ljsv() -> int:
    with _Quiet():
        from ljsv.cli.main import main
    return main()


def ljexec() -> None:
    with _Quiet():
        from ljsv.cli.ljexec import main
    main()


def init() -> int:
    if os.getpid() == 1 and "--explain" not in sys.argv:
        from ljsv.cli.process_one import be_init

        be_init(sys.argv[1:])
    return ljsv()

"""A jail in the foreground, as `ljexec` runs it: it dies with its caller."""

from __future__ import annotations

import os
import signal
from select import POLLIN, poll

from ljsv.jail import launch
from ljsv.jail.ids import take_ids
from ljsv.jail.spec import JailSpec

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_foreground(spec: JailSpec) -> int:
    """Run the jail with this process's standard descriptors; its program's exit code, 128+N when killed.

    Fault when it could not be built. Signals are forwarded to the program.
    """
    ids, slot_fd = take_ids(spec.name)
    wiring = launch.Wiring(stdin_fd=0, stdout_fd=1, stderr_fd=2, slot_fd=slot_fd, dies_with_parent=True)
    jail = launch.begin(spec, ids, wiring)
    if slot_fd >= 0:
        os.close(slot_fd)
    jail.give_go()
    poller = poll()
    poller.register(jail.report_fd, POLLIN)
    while poller.poll() and jail.read_report():
        pass
    service_fd = os.pidfd_open(jail.service_pid) if not jail.failure and _is_alive(jail.service_pid) else -1

    def forward(number: int, _frame: object) -> None:
        if service_fd >= 0:
            signal.pidfd_send_signal(service_fd, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    result = os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED)
    jail.close()
    if jail.failure:
        raise launch.explain_failure(spec, jail.failure)
    if result is None or result.si_code != os.CLD_EXITED:
        return 128 + (result.si_status if result else signal.SIGKILL)
    return result.si_status


def _is_alive(pid: int) -> bool:
    return pid > 0 and os.path.exists(f"/proc/{pid}")

"""What PID 1 is asked by signals: a table, pure.

Busybox's `halt`, `poweroff` and `reboot` send USR1, USR2 and TERM (init/halt.c).
The kernel sends INT for ctrl-alt-del once RB_DISABLE_CAD is set, and PWR is what
a UPS daemon and `lxc-stop` send. 37, 38 and 39 (SIGRTMIN+3 to +5 of glibc) are
systemd's halt, poweroff and reboot, sent by container runtimes; ours too. In a
container TERM is what every runtime sends to end it, and INT is its Ctrl-C.
runit's `runit-init 0` and `6` set the owner's execute bit of a file `stopit`, and of
`reboot`, then send CONT (runit-init.c); Debian has moved both files to /run.
"""

from __future__ import annotations

from ljsv.linux.signals import signal

POWEROFF, REBOOT, HALT = "poweroff", "reboot", "halt"
SIGNAL_OF = {HALT: 37, POWEROFF: 38, REBOOT: 39}
RUNIT_STOPIT = ("/run/runit.stopit", "/etc/runit/stopit")
RUNIT_REBOOT = ("/run/runit.reboot", "/etc/runit/reboot")

_ANYWHERE: dict[int, str] = {
    signal.SIGUSR1: HALT,
    signal.SIGUSR2: POWEROFF,
    signal.SIGPWR: POWEROFF,
    **{number: request for request, number in SIGNAL_OF.items()},
}
ON_A_MACHINE = {**_ANYWHERE, signal.SIGTERM: REBOOT, signal.SIGINT: REBOOT}
IN_A_CONTAINER = {**_ANYWHERE, signal.SIGTERM: POWEROFF, signal.SIGINT: POWEROFF}
TAKEN = frozenset({*ON_A_MACHINE, signal.SIGCONT})


def find_request(number: int, *, is_container: bool, is_runit_stop: bool, is_runit_reboot: bool) -> str:
    """poweroff, reboot or halt; "" where that signal asks for nothing."""
    if number == signal.SIGCONT:
        return (REBOOT if is_runit_reboot else POWEROFF) if is_runit_stop else ""
    return (IN_A_CONTAINER if is_container else ON_A_MACHINE).get(number, "")

"""The one place that says what a service's state is: status, stat, pid, detail, and a byte to each subscriber."""

from __future__ import annotations

import time
from contextlib import suppress

from ljsv import status
from ljsv.linux import files
from ljsv.status import StatusRecord
from ljsv.supervise.directory import tell_subscribers
from ljsv.supervise.loop import now
from ljsv.supervise.machine import Machine

EVENT_BYTE = {
    status.DOWN: b"D", status.STARTING: b"s", status.UP: b"u", status.READY: b"U", status.STOPPING: b"t",
    status.FINISHING: b"d", status.BACKOFF: b"b", status.FAILED: b"F",
}
_NOT_TOLD = frozenset({"supervisor", "asleep", "sleep_after"})


class Announcer:
    """Writes what has changed since the last time, and nothing else."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._written: dict[str, bytes] = {}
        self._told: dict[str, str] = {}  # the lines of `detail` that subscribers were told of

    def carry_on(self, since: float) -> None:
        """What happened then was announced by another supervisor: the time that it gave for it is not taken anew."""
        with suppress(OSError, ValueError):
            record = StatusRecord.unpack(files.read_some(f"{self.directory}/status", status.RECORD_SIZE))
            self._written["since"] = f"{since!r} {record.since_ns}".encode()

    def wake(self, detail: dict[str, str]) -> None:
        """All that it said before it slept has been told."""
        self._told = _without_process(detail)
        for name in ("pid", "stat", "status"):
            with suppress(OSError):
                self._written[name] = files.read_some(f"{self.directory}/{name}", 64)

    def announce(self, machine: Machine, pid: int, extra: dict[str, str]) -> None:
        """`pid` is what runs (0: nothing); `extra` goes into `detail` after the machine's own lines. OSError if it cannot be written."""
        since_ns = time.time_ns() - int((now() - machine.since) * 1e9)
        previous = self._written.get("since", b"").split()
        if previous[:1] == [repr(machine.since).encode()]:
            since_ns = int(previous[1])  # a clock that jumps does not move what has happened
        record = StatusRecord(
            since_ns, pid, status.RUNIT_STATE[machine.state],
            want=machine.runit_want, paused=machine.is_paused, term_sent=machine.term_sent,
        )
        self._written["since"] = f"{machine.since!r} {since_ns}".encode()
        detail = machine_detail(machine, pid) | extra
        told = _without_process(detail)
        changed = told != self._told
        self._write("detail", status.format_detail(detail).encode(errors="surrogateescape"))
        changed |= self._write("pid", f"{pid}\n".encode() if pid else b"")
        changed |= self._write("stat", record.stat_text(want_exit=machine.is_exiting).encode())
        changed |= self._write("status", record.pack())
        self._told = told
        if changed:
            tell_subscribers(f"{self.directory}/event", EVENT_BYTE[machine.state])

    def _write(self, name: str, data: bytes) -> bool:
        if self._written.get(name) == data:
            return False
        status.write_by_rename(self.directory, name, data)
        self._written[name] = data
        return True

    def forget(self) -> None:
        """The directory was made anew: everything has to be written again."""
        self._written = {key: value for key, value in self._written.items() if key == "since"}
        self._told = {}


def _without_process(detail: dict[str, str]) -> dict[str, str]:
    """What it says, but for which process it is that says so."""
    return {name: value for name, value in detail.items() if value and name not in _NOT_TOLD}


def machine_detail(machine: Machine, pid: int) -> dict[str, str]:
    """The lines of `detail` that `restore` can read back."""
    end = machine.end
    return {
        "state": machine.state,
        "want": machine.want,
        "pid": str(pid) if pid else "",
        "since": f"{machine.since:.6f}",
        "deadline": f"{machine.deadline:.6f}" if machine.deadline is not None else "",
        "restarts": str(machine.restarts),
        "failures": str(machine.failures) if machine.failures else "",
        "end": f"{end.code} {end.status}" if end else "",
        "end_text": end.describe() if end else "",
        "run_time": f"{machine.run_time:.6f}" if end else "",
        "result": machine.result,
        "paused": "yes" if machine.is_paused else "",
        "term_sent": "yes" if machine.term_sent else "",
        "due": str(machine.due) if machine.due else "",
        "has_failed": "yes" if machine.has_failed else "",
        "commanded": "yes" if machine.is_commanded else "",
        "heeds_until": f"{machine.heeds_until:.6f}" if machine.heeds_until else "",
        "exiting": "yes" if machine.is_exiting else "",
        "is_waiting": "yes" if machine.is_waiting else "",
        "was_ready": "yes" if machine.was_ready else "",
        "ready_after": f"{machine.ready_after:.6f}" if machine.ready_after is not None else "",
    }

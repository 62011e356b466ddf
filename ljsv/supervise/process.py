"""The supervisor's process: forked from the scanner, or from the dormitory, it never returns."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress

from ljsv.errors import Fault
from ljsv.frozen import Frozen
from ljsv.jail.group import Tree
from ljsv.linux import process
from ljsv.paths import Places
from ljsv.service.settings import Settings
from ljsv.supervise.events import Events
from ljsv.supervise.log_reading import LogReading
from ljsv.supervise.orphans import end_jails
from ljsv.supervise.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.supervise.asleep import Held


class Inherited(Frozen):
    """What every supervisor has from the scanner. `orders_fd` leads to the nursery; `nofile`: RLIMIT_NOFILE for services."""

    places: Places
    events_fd: int
    orders_fd: int
    nofile: tuple[int, int]
    groups: Tree
    settings: Settings


def supervise(
    inherited: Inherited, name: str, dir_fd: int, *, sleep_after: float, begun_fd: int = -1, lost: dict[str, list[int]] | None = None,
    held: Held | None = None, bridge_fds: list[int] | None = None,
) -> None:
    """The supervisor process: never returns. Exit 0 when told to exit, 111 when it could not begin.

    `begun_fd` is closed once clients can see it; or the fault is written there. `lost`: jails that may be this
    service's, without a record (see `orphans`). `held`: what the dormitory has held for it; `bridge_fds` are closed when `begun_fd` is.
    """
    process.prctl_name(f"ljsv {name}")
    events = Events(inherited.events_fd, name)
    code = 111
    try:
        for mark, pids in (lost or {}).items():
            for pid in end_jails(mark, pids):
                events.send("ended a jail that nothing led to any more: the supervise directory was lost", "warning", pid=pid)
        supervisor = Supervisor(
            inherited.places, name, dir_fd, events, inherited.nofile, inherited.groups, orders_fd=inherited.orders_fd,
            log_cap=inherited.settings.log_cap, make_log_reading=LogReading, folder=held.folder if held else "",
        )
        supervisor.main(begun_fd, sleep_after, held, bridge_fds or [])
        code = 0
    except Fault as fault:
        events.send("cannot supervise", "error", fault=str(fault), hint=fault.hint)
        with suppress(OSError):
            os.write(begun_fd, f"{fault}\n{fault.hint}".encode(errors="surrogateescape")[:4096])
    except BaseException as error:  # noqa: BLE001 - the last word of a process that must not return
        events.send("supervisor failed", "error", cause=repr(error), trace=traceback.format_exc(limit=-4))
    finally:
        os._exit(code)

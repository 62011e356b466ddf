"""The supervisor's process: forked from the scanner, it never returns."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress

from ljsv import status
from ljsv.errors import Fault
from ljsv.linux import process
from ljsv.supervise.asleep import lengthen, sleep
from ljsv.supervise.events import Events
from ljsv.supervise.log_reading import LogReading
from ljsv.supervise.orphans import end_jails
from ljsv.supervise.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.jail.group import Tree
    from ljsv.paths import Places
    from ljsv.service.settings import Settings


def supervise(
    places: Places, name: str, dir_fd: int, events_fd: int, begun_fd: int, nofile: tuple[int, int], groups: Tree, orders_fd: int,
    settings: Settings, lost: dict[str, list[int]], folder: str, need_fds: list[int],
) -> None:
    """The supervisor process: never returns. Exit 0 when told to exit, 111 when it could not begin.

    `orders_fd` leads to the nursery; `begun_fd` is closed once clients can see it; or the fault is written there.
    `lost`: jails that may be this service's, without a record (see `orphans`). `folder`: its
    supervise directory, where it only has to wait (see `asleep`, also for `need_fds`), else "".
    """
    process.prctl_name(f"ljsv {name}")
    held = sleep(folder, dir_fd, begun_fd, need_fds) if folder else None
    begun_fd = -1 if held else begun_fd
    events = Events(events_fd, name)
    code = 111
    try:
        for mark, pids in lost.items():
            for pid in end_jails(mark, pids):
                events.send("ended a jail that nothing led to any more: the supervise directory was lost", "warning", pid=pid)
        supervisor = Supervisor(
            places, name, dir_fd, events, nofile, groups, orders_fd=orders_fd, log_cap=settings.log_cap, make_log_reading=LogReading, folder=folder if held else "",
        )
        could_not = folder and not held  # it tried, and something kept it awake
        supervisor.main(begun_fd, lengthen(status.read_detail(folder)) if could_not else settings.sleep_after, held)
        code = 0
    except Fault as fault:
        events.send("cannot supervise", "error", fault=str(fault), hint=fault.hint)
        with suppress(OSError):
            os.write(begun_fd, f"{fault}\n{fault.hint}".encode(errors="replace")[:4096])
    except BaseException as error:  # noqa: BLE001 - the last word of a process that must not return
        events.send("supervisor failed", "error", cause=repr(error), trace=traceback.format_exc(limit=-4))
    finally:
        os._exit(code)

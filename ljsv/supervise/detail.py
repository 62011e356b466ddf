"""What `detail` says of a service beside its machine's state: for `ljsv status`, and for the next supervisor."""

from __future__ import annotations

import os

from ljsv import status
from ljsv.jail.spec import HOST, overlay_of
from ljsv.supervise import machine as table
from ljsv.supervise.directory import format_identity
from ljsv.supervise.restore import UNSURE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.service.read import Service
    from ljsv.supervise.supervisor import Supervisor


def describe(of: Supervisor) -> dict[str, str]:
    """What `detail` says beside the machine's state."""
    start_fault = of.fault if of.machine.state in {status.FAILED, status.BACKOFF} else None
    fault = start_fault or of.source.edit_fault or of.group.fault
    service = of.source.service
    privileged = _is_privileged(of, service)
    jail = _describe_jail(service, is_privileged=privileged) if service else ""
    extra = {
        "supervisor": "-" if of.is_done else of.me,
        "boot": of.boot_id,
        "directory": of.source.path,
        "identity": format_identity(of.source.identity),
        "jail": jail,
        "overlay": _overlay_in_effect(of, service) if service else "",
        "privileged": "yes" if privileged else "",
        "log": of.logs.path,
        "fault": str(fault) if fault else "",
        "hint": fault.hint if fault else "",
        "bad_edit": "yes" if fault and not start_fault else "",
        "changed": of.source.changed,
        "files": of.source.running_files if of.jail.is_alive else "",
        "process_limits": of.jail.process_limits,
        "sent": " ".join(map(str, sorted(of.deaths.sent))) if of.jail.is_alive else "",
        "oom_kills": str(of.group.oom_kills) if of.group.oom_kills else "",
        "log_fault": (of.log_reading.describe_fault() if of.log_reading else "") or of.logs.fault,
        "log_jail": of.log_reading.describe_jail() if of.log_reading else "",
        "normally": of.source.normally,
        "generation": str(of.jail.generation) if of.jail.generation else "",
        "concluded": str(of.jail.concluded) if of.jail.concluded else "",
        "needs": " ".join(service.policy.needs) if service else "",
        "waiting": ", ".join(of.waiting) if of.machine.is_waiting else "",
        **of.readiness.describe(),
        "why": of.deaths.why,
        "sleep_after": f"{of.idleness.sleep_after:g}" if of.idleness.sleep_after else "",
        UNSURE: "yes" if of.is_unsure else "",
        "pending": "".join(byte for byte in of.pending if byte in table.COMMANDS),
        "cgroup": of.group.path,
        **(of.deployer.shown if of.deployer else {}),
    }
    for number, note in enumerate(of.jail.notes):
        extra[f"jail_note{number}"] = note
    notes = (*(service.notes if service else ()), *of.logs.notes, *of.jail.notes, *of.group.notes)
    for number, note in enumerate(notes):
        extra[f"note{number}"] = note
    return extra


def _overlay_in_effect(of: Supervisor, service: Service) -> str:
    """The folder of the layer that it writes to."""
    overlay = overlay_of(service.rootfs, of.places.state_of(of.name))
    return f"{overlay}/layers/{service.layer}" if overlay and service.layer else overlay


def _is_privileged(of: Supervisor, service: Service | None) -> bool:
    """The jail that is there; where there is none, the next one."""
    if of.jail.record and of.jail.record.is_privileged >= 0:
        return bool(of.jail.record.is_privileged)
    return bool(service and service.rootfs.security.user_namespace == "host")


def _describe_jail(service: Service, *, is_privileged: bool) -> str:
    """`debian-12 + overlay`, in a word or two."""
    name = service.deployed or service.image_name or ("host" if service.base_kind == HOST else os.path.basename(service.base_path))
    extra: list[str] = [service.rootfs.writable] if service.rootfs.writable != "no" else []
    extra += ["privileged"] if is_privileged else []
    return " + ".join([name, *extra])

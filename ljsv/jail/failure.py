"""Why a jail could not be built: what a step reported, in the reader's words.

A report is a tuple of texts: stage, errno, cause, object, and for a fault that
has words of its own action and hint.
"""

from __future__ import annotations

import errno

from ljsv.errors import EXIT_NOT_BUILT, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Fault, quote
from ljsv.jail.program import MAGIC, NO_INTERPRETER
from ljsv.jail.spec import DIRECTORY, HOST, IMAGE, SERVICE_AT, JailSpec

STAGE_BIND = "bind"
STAGE_EXEC = "start"
STAGE_FAULT = "fault"
SERVER_GONE = ("read the image", str(errno.ENOTCONN))  # the report of a jail whose image nobody serves any more
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNSERVED = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EINTR, errno.ENODEV}) | FULL  # ENODEV: its control group was removed


def fault_report(fault: Fault) -> tuple[str, str, str, str, str, str]:
    return STAGE_FAULT, str(errno.EAGAIN if fault.is_transient else 0), fault.cause, fault.object, fault.action, fault.hint


def explain_failure(spec: JailSpec, failure: tuple[str, ...], *, is_served: bool = False) -> Fault:
    """What a step reported, in the reader's words: object, cause, where it was said, a hint. `is_served`: the image, by squashfuse."""
    stage, number_text, cause, name, action, hint = (*failure, "", "", "", "", "", "")[:6]
    if stage == STAGE_FAULT:
        return Fault(action, name, cause, hint=hint, exit_code=EXIT_NOT_BUILT, is_transient=int(number_text or 0) in TRANSIENT)
    number = int(number_text or 0)
    where = spec.directory or spec.base_path
    hint = f"see {spec.origin}; ljsv explain {quote(spec.name)}" if spec.directory else "ljexec --explain shows each step"
    action = f"cannot {stage}"
    exit_code = EXIT_NOT_BUILT
    if is_served and number in UNSERVED:
        name, cause = spec.base_path, "the program that serves it has ended: it is damaged, or not what squashfuse can read"
        hint = f"unsquashfs -s {quote(spec.base_path)}; ljsv doctor"
    elif spec.base_kind == IMAGE and number == errno.EIO:
        action, name, cause, hint = "cannot read the image", spec.base_path, "Input/output error: it is damaged", f"unsquashfs -s {quote(spec.base_path)}, and make it again"
    elif stage == STAGE_EXEC:
        name, cause, hint, exit_code = _explain_exec(spec, number, cause, name)
    elif number == errno.EACCES:
        name = name.split(" at ")[0].replace(SERVICE_AT, spec.directory or SERVICE_AT)
        place = name if name.startswith("/") else where
        hint = f"who may enter and read it? namei -l {quote(place)}"
    elif number in {errno.EPERM, errno.ENOSPC} and "namespace" in stage:
        hint = "ljsv doctor"
    elif spec.base_kind == IMAGE and number == errno.EROFS and name.startswith("/"):
        hint = "the image has it not, or a symlink on the way there (/bin -> usr/bin): name the place that it leads to"
    elif number == errno.EMFILE:
        hint = "ulimit -Hn 65536  # before the scanner is started; in a unit: LimitNOFILE=65536"
    elif number in FULL:
        hint = f"df {quote(name.split(' ')[0] or where)}"
    is_gone = is_served and number in UNSERVED  # its server may have been killed
    is_replaced = spec.base_kind == HOST and stage == STAGE_BIND and number == errno.ENOENT  # useradd puts another /etc/group in its place
    return Fault(action, name, cause, hint=hint, exit_code=exit_code, is_transient=is_gone or is_replaced or number in TRANSIENT)


def _explain_exec(spec: JailSpec, number: int, cause: str, name: str) -> tuple[str, str, str, int]:
    """(program, cause, hint, exit code). A service's scripts are shown where they are on the host, as are those of a root directory."""
    is_script = bool(spec.directory) and not name.startswith("/")
    shown = f"{spec.directory}/{name.removeprefix('./')}" if is_script else name
    on_host = shown if is_script else f"{spec.base_path}{name}" if spec.base_kind == DIRECTORY and name.startswith("/") else ""
    where = f"see {spec.origin}" if spec.directory else "it is looked up in the jail, not on the host"
    if number == errno.ENOENT:
        if cause.startswith(NO_INTERPRETER) and cause.endswith("\r"):
            return shown, "its first line ends in CR LF", f"sed -i 's/\\r$//' {quote(on_host or shown)}", EXIT_NOT_FOUND
        if cause.startswith(NO_INTERPRETER):
            where = f"it is run by {cause.removeprefix(NO_INTERPRETER).strip()}, which the rootfs must have" + (f": see {spec.origin}" if spec.directory else "")
        return shown, cause, where, EXIT_NOT_FOUND
    if cause == MAGIC:
        return shown, cause, "name a program of the rootfs", EXIT_NOT_EXECUTABLE
    if number == errno.EISDIR:
        return shown, cause, "name a program in it", EXIT_NOT_EXECUTABLE
    if number == errno.EACCES:
        why = "it has to be a program that the jail's ids may read and execute"
        return shown, cause, f"chmod a+rx {quote(on_host)}  # {why}" if on_host else f"{why}: ls -l it in the jail", EXIT_NOT_EXECUTABLE
    if number == errno.ENOEXEC:
        return shown, cause, f"its first line must name an interpreter: #!/bin/sh in {quote(on_host or shown)}", EXIT_NOT_EXECUTABLE
    return shown, cause, where, EXIT_NOT_EXECUTABLE

"""Where things are: scan directory, runtime, state, logs (design, section 2).

Pure but for the few `stat` calls that decide whether a directory may be
trusted. Imports nothing heavy: `ljsv status` goes through here.
"""

from __future__ import annotations

import os
import stat
from binascii import crc32

from ljsv.errors import EXIT_NO_SERVICE, EXIT_USAGE, Fault, quote

OWN_LOGS = ".log"  # among the logs: what log services say of themselves
SCANNER_DIR = ".scanner"
NAME_MAX = 64

# The names in a service directory that mean something: only they make a change.
SERVICE_FILES = frozenset({"run", "rootfs", "rootfs.toml", "limits", "policy", "finish", "check", "control", "env", "down", "log"})


class Places:
    """The directories that belong to one scan directory.

    `svdir` is its real path; `runtime` is None where there is no runtime
    directory (no XDG_RUNTIME_DIR): then `supervise/` is a plain directory.
    """

    __slots__ = ("logs", "runtime", "scanner", "state", "svdir")

    def __init__(self, svdir: str, environ: dict[str, str], uid: int) -> None:
        self.svdir = os.path.realpath(svdir)
        scan = f"{os.path.basename(self.svdir) or 'root'}-{crc32(os.fsencode(self.svdir)):08x}"
        self.runtime: str | None = None
        if uid == 0:
            self.runtime = f"/run/ljsv/{scan}"
            self.state = f"/var/lib/ljsv/{scan}"
            self.logs = f"/var/log/ljsv/{scan}"
        else:
            home_state = environ.get("XDG_STATE_HOME") or _home(environ) + "/.local/state"
            self.state = f"{home_state}/ljsv/{scan}"
            self.logs = f"{home_state}/ljsv/log/{scan}"
            base = environ.get("XDG_RUNTIME_DIR", "")
            if base.startswith("/") and os.path.isdir(base):
                self.runtime = f"{base}/ljsv/{scan}"
        self.scanner = f"{self.runtime}/{SCANNER_DIR}" if self.runtime else f"{self.svdir}/.ljsv"

    def runtime_of(self, name: str) -> str | None:
        return f"{self.runtime}/{name}" if self.runtime else None

    def log_of(self, name: str) -> str:
        """The log directory of a service; that of what its log service itself says is outside of it, since that one may write there."""
        service, _, part = name.partition("/")
        return f"{self.logs}/{OWN_LOGS}/{service}" if part else f"{self.logs}/{service}"

    def state_of(self, name: str) -> str:
        return f"{self.state}/{name}"


def _home(environ: dict[str, str]) -> str:
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise Fault(
            "cannot tell where logs and state belong", "HOME", "not set",
            hint="set HOME or XDG_STATE_HOME to a directory of yours", exit_code=EXIT_USAGE,
        )
    return home


def clean_place(place: str) -> str:
    """An absolute path without doubled and trailing slashes, and without dots for nothing."""
    return "/" + "/".join([part for part in place.split("/") if part not in {"", "."}])


def is_service_name(name: str) -> bool:
    """A name that the scanner takes: no leading dot, no slash or control character, at most 64 bytes."""
    return (
        0 < len(name.encode(errors="surrogateescape")) <= NAME_MAX
        and name[0] != "."
        and "/" not in name
        and name.isprintable()
        and " " not in name
    )


def trust_fault(path: str, uid: int, *, strict: bool) -> str:
    """Why `path` is not to be trusted, or "".

    `strict` (for `./sv`, and always for root): it must belong to the caller
    or root, and nobody else may write it.
    """
    try:
        entry = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(entry.st_mode):
        return "not a directory"
    if strict and entry.st_uid not in {0, uid}:
        return f"belongs to uid {entry.st_uid}"
    if strict and entry.st_mode & 0o022:
        return f"others may write it (mode {entry.st_mode & 0o7777:04o})"
    return ""


def find_svdir(option: str, environ: dict[str, str], uid: int) -> tuple[str, str]:
    """(the scan directory, where it was named: "--svdir", "$SVDIR", "./sv" or "").

    In the design's order. Fault when it is named but unusable, or none is there.
    """
    for path, source in ((option, "--svdir"), (environ.get("SVDIR", ""), "$SVDIR")):
        if path:
            why = trust_fault(path, uid, strict=uid == 0)
            if why:
                raise Fault("cannot use the scan directory", f"{path} (from {source})", why, hint=_trust_hint(path, why))
            return path, source
    refused = ""
    if os.path.isdir("sv"):
        refused = trust_fault("sv", uid, strict=True) or trust_fault(".", uid, strict=True)
        if not refused:
            return "sv", "./sv"
    if uid == 0:
        fallback = "/etc/ljsv/sv"
    else:
        fallback = (environ.get("XDG_CONFIG_HOME") or _home(environ) + "/.config") + "/ljsv/sv"
    why = trust_fault(fallback, uid, strict=uid == 0)
    if not why:
        return fallback, ""
    if refused:
        raise Fault("will not use the scan directory", "./sv", refused, hint=f"name it yourself: ljsv --svdir {quote(os.path.realpath('sv'))}")
    raise Fault(
        "no scan directory", fallback, why, hint=f"mkdir -p {quote(fallback)}  # or name one: --svdir DIR", exit_code=EXIT_NO_SERVICE
    )


def _trust_hint(path: str, why: str) -> str:
    if "may write" in why:
        return f"chmod go-w {quote(path)}"
    if "belongs" in why:
        return f"chown root: {quote(path)}"
    return f"{'mkdir -p' if 'No such' in why else 'ls -ld'} {quote(path)}"

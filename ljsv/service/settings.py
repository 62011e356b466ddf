"""What a scanner is told beside its services: `/etc/ljsv/scan` as root, else `ljsv/scan` in the configuration directory.

TOML by the schema's `Scan`; $LJSV_LOG_CAP, which `ljsv scan --log-cap` sets,
comes before it. Most machines have no such file: nothing is imported then.
"""

from __future__ import annotations

from ljsv.errors import Fault, quote
from ljsv.frozen import Frozen

LOG_CAP_LEAST = 1 << 20
LOG_CAP_ALLOWED = 'a size of at least "1M", such as "32M"'
CONFIG_MAX = 1 << 16


class Settings(Frozen):
    """`log_cap`: bytes for all logs together; 0: not bounded. `sleep_after`: seconds that a supervisor has to be idle; 0: none sleeps."""

    log_cap: int = 0
    sleep_after: float = 300.0


def path_of(environ: dict[str, str], uid: int) -> str:
    """Where the file is; it need not be there."""
    if uid == 0:
        return "/etc/ljsv/scan"
    return (environ.get("XDG_CONFIG_HOME") or environ.get("HOME", "") + "/.config") + "/ljsv/scan"


def read_settings(environ: dict[str, str], uid: int) -> Settings:
    """The settings; Fault where the file or the variable says what cannot be."""
    found = _read_file(path_of(environ, uid))
    if environ.get("LJSV_LOG_CAP"):
        found = found.replace(log_cap=parse_log_cap(environ["LJSV_LOG_CAP"], "$LJSV_LOG_CAP"))
    if environ.get("LJSV_SLEEP_AFTER"):
        found = found.replace(sleep_after=_parse_sleep_after(environ["LJSV_SLEEP_AFTER"]))
    return found


def _read_file(path: str) -> Settings:
    try:
        with open(path, "rb") as file:
            text = file.read(CONFIG_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except OSError as error:
        raise Fault.from_os("cannot read the settings", error, path, hint=f"ls -l {quote(path)}") from None
    from ljsv.service import schema, toml

    scan = toml.parse(text, schema.Scan, path)
    if scan.log_cap:
        _check(scan.log_cap, f"{path}: log_cap", f"{scan.log_cap} bytes")
    return Settings(log_cap=int(scan.log_cap), sleep_after=float(scan.sleep_after))


def _parse_sleep_after(text: str) -> float:
    from ljsv.service import units

    try:
        return units.parse_duration(text)
    except ValueError:
        raise Fault(f"$LJSV_SLEEP_AFTER: found {text}", "", 'allowed: a duration such as "5m", or "0s" for never', hint="export LJSV_SLEEP_AFTER=5m") from None


def parse_log_cap(text: str, where: str) -> int:
    """Bytes of "32M"; Fault that names `where` it was said."""
    from ljsv.service import units

    try:
        size = int(units.parse_size(text))
    except ValueError:
        size = -1
    _check(size, where, text)
    return size


def _check(size: int, where: str, found: str) -> None:
    if size < LOG_CAP_LEAST:
        raise Fault(f"{where}: found {found}", "", f"allowed: {LOG_CAP_ALLOWED}", hint="df /var/log  # shows what there is")

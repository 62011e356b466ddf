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
    """`log_cap`: bytes for all logs together; 0: not bounded."""

    log_cap: int = 0


def path_of(environ: dict[str, str], uid: int) -> str:
    """Where the file is; it need not be there."""
    if uid == 0:
        return "/etc/ljsv/scan"
    return (environ.get("XDG_CONFIG_HOME") or environ.get("HOME", "") + "/.config") + "/ljsv/scan"


def read_settings(environ: dict[str, str], uid: int) -> Settings:
    """The settings; Fault where the file or the variable says what cannot be."""
    if environ.get("LJSV_LOG_CAP"):
        return Settings(parse_log_cap(environ["LJSV_LOG_CAP"], "$LJSV_LOG_CAP"))
    path = path_of(environ, uid)
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
    return Settings(int(scan.log_cap))


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

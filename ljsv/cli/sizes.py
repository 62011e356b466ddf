"""How much memory and disk a service uses, as `ljsv status` shows it: cheap to ask, also for a thousand services.

Memory is what the service's cgroup counts; where it has none, what its own
process has resident, marked with ~ as that leaves its children out and counts
shared pages. An overlay is counted entry by entry, up to a bound, since no
kernel keeps the sum.
"""

from __future__ import annotations

import os

ENTRIES_MAX = 2000  # over all services of one table, about 10 ms
ENTRIES_MAX_OF_ONE = 100_000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def size(count: int, *, digits: int = 1) -> str:
    """`48.2M`, `512M`, `1.5G`: powers of 1024, as in `limits`."""
    number, unit = float(count), ""
    for letter in "KMGT":
        if number < 1024:
            break
        number, unit = number / 1024, letter
    return f"{number:.{digits if number < 100 and number != int(number) else 0}f}{unit}" if unit else f"{count}B"


def read_rss(detail: dict[str, str]) -> int | None:
    """Bytes that the service's process has resident; None where nothing runs."""
    try:
        with open(f"/proc/{detail['pid']}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (KeyError, OSError, IndexError):
        return None


def memory_cell(detail: dict[str, str]) -> str:
    """`48.2M`; `~12M` where only the process itself can be asked; `-` where nothing runs."""
    if "pid" not in detail:
        return "-"
    if "cgroup" in detail:
        try:
            fd = os.open(f"{detail['cgroup']}/memory.current", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            pass
        else:
            try:
                return size(int(os.read(fd, 64)))
            except (OSError, ValueError):
                return "-"
            finally:
                os.close(fd)
    resident = read_rss(detail)
    return "-" if resident is None else f"~{size(resident)}"


class OverlaySizes:
    """Counts overlays, at most `entries_max` of their files and directories all together."""

    def __init__(self, entries_max: int = ENTRIES_MAX_OF_ONE) -> None:
        self.left = entries_max

    def of(self, detail: dict[str, str]) -> int | None:
        """Bytes on disk of what the service has written; None where it has no overlay, or not all could be looked at."""
        path = detail.get("overlay", "")
        if not path:
            return None
        total, folders = 0, [f"{path}/upper"]
        while folders:
            try:
                with os.scandir(folders.pop()) as listing:
                    for entry in listing:
                        self.left -= 1
                        if self.left < 0:
                            return None
                        found = entry.stat(follow_symlinks=False)
                        total += found.st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except FileNotFoundError:
                continue  # not made yet, or taken away while we look
            except OSError:
                return None
        return total

"""How PID 1 was told to behave, and where things are.

The kernel hands every word behind ` -- ` on its command line to init, and some
before it. PID 1 cannot refuse to start: a word that it does not know is told,
and ignored.
"""

from __future__ import annotations

from ljsv.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RESCUE_WORDS = frozenset({"single", "s", "S", "1", "-s", "-b", "emergency", "rescue"})
OPTIONS = {"--svdir": "DIR", "--deadline": "SECONDS", "--watchdog": "DEVICE", "--watchdog-timeout": "SECONDS", "--explain": ""}


class Settings(Frozen):
    """`deadline_s` is for all services together to stop; `watchdog` is a device, "" for none."""

    svdir: str = "/etc/ljsv/sv"
    boot: str = "/etc/ljsv/boot"
    shutdown: str = "/etc/ljsv/shutdown"
    console: str = "/dev/console"
    deadline_s: float = 60.0
    watchdog: str = ""
    watchdog_timeout_s: int = 30
    is_rescue: bool = False
    ignored: tuple[str, ...] = ()


def read_settings(words: Sequence[str]) -> Settings:
    """From the words that the kernel, or a container's runtime, has given."""
    found: dict[str, str] = {}
    ignored: list[str] = []
    is_rescue = False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if name in OPTIONS and OPTIONS[name] and (has_value or rest):
            found[name] = value if has_value else rest.pop(0)
        elif word in RESCUE_WORDS:
            is_rescue = True
        elif word != "--":
            ignored.append(word)

    def number(name: str, default: float, low: float) -> float:
        try:
            value = float(found.get(name, default))
        except ValueError:
            value = -1.0
        if low <= value <= 86400:
            return value
        ignored.append(f"{name} {found[name]}")
        return default

    return Settings(
        svdir=found.get("--svdir", "/etc/ljsv/sv"),
        deadline_s=number("--deadline", 60.0, 0),
        watchdog=found.get("--watchdog", ""),
        watchdog_timeout_s=int(number("--watchdog-timeout", 30, 2)),
        is_rescue=is_rescue,
        ignored=tuple(ignored),
    )

"""The signal module without its enums, which cost 5 ms at every start of `ljexec`: numbers are plain integers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["signal"]

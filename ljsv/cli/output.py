"""What a verb that acts says, where nobody reads it any more or nothing more can be written: what it does is done all the same."""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO


class Unread:
    """A standard stream that never fails: `error` is the first that there was, and what comes after it goes to /dev/null."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, deed: Callable[..., object], *arguments: str) -> None:
        try:
            deed(*arguments)
        except OSError as error:
            self.error = self.error or error
            null_fd = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_fd, self._stream.fileno())
            os.close(null_fd)
            with suppress(OSError):
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

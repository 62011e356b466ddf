"""The one exception that users read.

A `Fault` names service, action, object, cause and the next step. Everything
below the command line raises it; only the command line prints it and exits.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_NOT_REACHED = 1
EXIT_STATUS_NOT_UP = 3
EXIT_NO_SERVICE = 4
EXIT_USAGE = 100
EXIT_NOT_SUPERVISED = 102
EXIT_SYSTEM = 111
EXIT_NOT_BUILT = 125  # ljexec
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_INTERRUPTED = 130


class Fault(Exception):
    """A failure that its reader can act on.

    `str(fault)` is `service: action: object: cause`, empty parts left out;
    `hint` is the next step, best a command that can be pasted; `exit_code`
    is what the command line returns (design, section 6). `is_transient`: the
    machine was short of something, and the same may succeed later.
    """

    def __init__(
        self,
        action: str,
        object_: str = "",
        cause: str = "",
        *,
        hint: str = "",
        service: str = "",
        exit_code: int = EXIT_SYSTEM,
        is_transient: bool = False,
    ) -> None:
        super().__init__(action, object_, cause)
        self.action = action
        self.object = object_
        self.cause = cause
        self.hint = hint
        self.service = service
        self.exit_code = exit_code
        self.is_transient = is_transient

    def __str__(self) -> str:
        return ": ".join(part for part in (self.service, self.action, self.object, self.cause) if part)

    @classmethod
    def from_os(cls, action: str, error: OSError, object_: str = "", *, hint: str = "") -> Fault:
        """The fault for a failed system call; `error.filename` unless `object_` is given."""
        name = object_ or error.filename or ""
        if isinstance(name, bytes):
            name = name.decode(errors="replace")
        return cls(action, str(name), error.strerror or str(error), hint=hint)


_PLAIN = str.maketrans("", "", "/.-_:@+,=%")  # what a shell leaves alone, beside letters and digits


def quote(path: str) -> str:
    """A path as a shell reads it back, bash where it cannot be printed; shlex would do for others, but imports re."""
    if not path.isprintable():
        return "$'" + "".join(_escape(char) for char in path) + "'"
    rest = path.translate(_PLAIN)
    return path if path and (not rest or rest.isalnum()) else "'" + path.replace("'", "'\\''") + "'"


def _escape(char: str) -> str:
    """For $'...' of bash: what cannot be printed, by its bytes."""
    if char.isprintable():
        return f"\\{char}" if char in "\\'" else char
    return "".join(f"\\{byte:03o}" for byte in char.encode(errors="surrogateescape"))

"""Which failures of building a jail pass by themselves."""

from __future__ import annotations

import errno
import os

import pytest

from ljsv.jail.failure import explain_failure
from ljsv.jail.spec import DIRECTORY, HOST, JailSpec


@pytest.mark.parametrize(
    ("kind", "stage", "number", "is_transient"),
    [
        (HOST, "bind", errno.ENOENT, True),  # a file of the host that was replaced in between: useradd and /etc/group
        (DIRECTORY, "bind", errno.ENOENT, False),
        (HOST, "mount", errno.ENOENT, False),
        (DIRECTORY, "mount", errno.EMFILE, True),
    ],
)
def test_what_passes_is_tried_again(kind: str, stage: str, number: int, *, is_transient: bool) -> None:
    """A file of the host that is replaced just now is no fault of the service."""
    spec = JailSpec("web", kind, "/", ("./run",), directory="/sv/web")
    fault = explain_failure(spec, (stage, str(number), os.strerror(number), "/etc/group at /etc/group"))
    assert fault.is_transient is is_transient
    assert str(fault) == f"cannot {stage}: /etc/group at /etc/group: {os.strerror(number)}"
    assert ("ulimit" in fault.hint) == (number == errno.EMFILE)

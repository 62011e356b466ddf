"""An order: all that a jail's first two processes need to know, as one message to the nursery (see `nursery`).

The flags for clone3 stand first, then three parts: for pid 1, for the builder,
and the plan. Who does not read a part does not touch its objects. Descriptors
travel beside the bytes. The nursery has 0 to 3 and no others open, so theirs
are the numbers from FIRST_FD on, in their order, and the bytes can name them
so; the first is the jail's end of the channel, the second where the answer goes.
"""

from __future__ import annotations

import errno
import marshal
import os
from select import POLLIN, poll
from struct import Struct

from ljsv.frozen import from_plain, to_plain
from ljsv.linux import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ljsv.jail.spec import JailSpec
    from ljsv.jail.step import Step

ORDERS_FD = 3
FIRST_FD = 4
ORDER_MAX = 64 << 10
ANSWER_MAX_S = 5
MADE, NOT_MADE = b"C", b"E"  # the nursery's answer: C<pid> with the pidfd, or E<errno>
_HEAD = Struct("=QiII")  # flags and control group for clone3, bytes of the first and of the second part


class Numbers:
    """What descriptors are called in the nursery."""

    def __init__(self, *fds: int) -> None:
        self.fds = list(fds)

    def of(self, fd: int) -> int:
        """-1 stays -1."""
        if fd < 0:
            return -1
        if fd not in self.fds:
            self.fds.append(fd)
        return FIRST_FD + self.fds.index(fd)


def pack_part(*values: Any) -> bytes:
    return marshal.dumps(to_plain(values))


def pack_plan(spec: JailSpec, steps: Iterable[Step]) -> bytes:
    return marshal.dumps((to_plain(spec), [to_plain(step) for step in steps]))


def unpack_plan(data: bytes | memoryview) -> tuple[JailSpec, Steps]:
    spec, steps = marshal.loads(data)  # noqa: S302 - we have packed it
    return from_plain(spec), Steps(steps)


class Steps:
    """Each step is made when its turn comes: what is there only for a moment needs no page of its own."""

    def __init__(self, plain: list[Any]) -> None:
        self._plain = plain

    def __iter__(self) -> Iterator[Step]:
        for plain in self._plain:
            yield from_plain(plain)


def send_order(orders_fd: int, flags: int, cgroup_fd: int, parts: tuple[bytes, bytes, bytes], fds: list[int]) -> bool:
    """Whether it was taken; it is not where it is too large, or nobody is there to take it."""
    first, second, plan = parts
    data = _HEAD.pack(flags, cgroup_fd, len(first), len(second)) + first + second + plan
    if len(data) > ORDER_MAX or len(fds) > descriptors.FDS_MAX:
        return False
    try:
        descriptors.send_many(orders_fd, data, fds)
    except OSError:
        return False
    return True


def wait_answer(answer_fd: int) -> tuple[int, int]:
    """(pid, pidfd) of the jail's first process; (0, -1) where no answer came. OSError where the kernel refused."""
    poller = poll()
    poller.register(answer_fd, POLLIN)
    if not poller.poll(ANSWER_MAX_S * 1000):
        return 0, -1
    try:
        message, fd = descriptors.receive(answer_fd, wait=False)
    except OSError:
        return 0, -1
    if message[:1] == MADE and fd >= 0:
        return int(message[1:]), fd
    if fd >= 0:
        os.close(fd)
    if message[:1] == NOT_MADE:
        number = int(message[1:])
        raise OSError(number, os.strerror(number), "clone3")
    return 0, -1


def read_head(data: bytes, fds: list[int]) -> tuple[int, int]:
    """What clone3 needs, and all that the nursery itself reads. OSError for what is no order."""
    if len(data) < _HEAD.size or fds != list(range(FIRST_FD, FIRST_FD + len(fds))):
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), "order")
    flags, cgroup_fd, _, _ = _HEAD.unpack_from(data)
    return flags, cgroup_fd


def first_half(data: bytes) -> bytes:
    """As much of it as pid 1 reads."""
    return data[: _HEAD.size + _HEAD.unpack_from(data)[2]]


def read_first(data: bytes) -> Any:
    """What pid 1 is told: plain values."""
    return marshal.loads(memoryview(data)[_HEAD.size :])  # noqa: S302 - it comes from our own supervisor, through a socket that nobody else has


def read_second(data: bytes) -> Any:
    first = _HEAD.unpack_from(data)[2]
    return from_plain(marshal.loads(memoryview(data)[_HEAD.size + first :]))  # noqa: S302 - see there


def read_plan(data: bytes) -> Any:
    _, _, first, second = _HEAD.unpack_from(data)
    return unpack_plan(memoryview(data)[_HEAD.size + first + second :])

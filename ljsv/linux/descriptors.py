"""Descriptors from one process to another over a socket that keeps messages apart.

Sources: unix(7) (SCM_RIGHTS), socketpair(2), recvmsg(2). Through `_socket`,
the C half of the standard library's socket module: the other half imports
enum and selectors, which costs 5 ms at every start of `ljexec`.
"""

from __future__ import annotations

import _socket
from select import POLLIN, POLLRDHUP, poll
from struct import Struct, pack, unpack

_FD = Struct("i")
MESSAGE_MAX = 4096
FDS_MAX = 253  # SCM_MAX_FD


def socketpair() -> tuple[int, int]:
    """Two ends of a SOCK_SEQPACKET channel, close-on-exec. What is read after the other end has closed is empty."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return one.detach(), other.detach()


def bind_datagram(path: str) -> int:
    """A datagram socket at that path (made), close-on-exec."""
    bound = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        bound.bind(path)
        return bound.detach()
    finally:
        bound.close()


def _open(channel_fd: int) -> _socket.socket:
    """Without its type and protocol given, the kernel is asked for them each time."""
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, channel_fd)


def send(channel_fd: int, data: bytes, fd: int = -1, *, wait: bool = True) -> None:
    """One message, with a copy of `fd` where it is given. BrokenPipeError when nobody holds the other end.

    BlockingIOError when there is no room for it and `wait` is false.
    """
    channel = _open(channel_fd)
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(fd))] if fd >= 0 else []
        channel.sendmsg([data], rights, _socket.MSG_NOSIGNAL | (0 if wait else _socket.MSG_DONTWAIT))
    finally:
        channel.detach()


def receive(channel_fd: int, *, wait: bool = True) -> tuple[bytes, int]:
    """(one message, the descriptor that came with it or -1); an empty message at the end.

    BlockingIOError when there is none and `wait` is false.
    """
    channel = _open(channel_fd)
    flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
    try:
        try:
            data, ancillary, _, _ = channel.recvmsg(MESSAGE_MAX, _socket.CMSG_SPACE(_FD.size), flags)
        except ConnectionResetError:  # it closed without reading all of ours: told once, before what it has sent
            data, ancillary, _, _ = channel.recvmsg(MESSAGE_MAX, _socket.CMSG_SPACE(_FD.size), flags)
    finally:
        channel.detach()
    for level, kind, rights in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(rights) >= _FD.size:
            return data, int(_FD.unpack_from(rights)[0])
    return data, -1


def send_many(channel_fd: int, data: bytes, fds: list[int]) -> None:
    """One message with copies of up to FDS_MAX descriptors. OSError (EMSGSIZE) where it is too large for the channel."""
    channel = _open(channel_fd)
    try:
        channel.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack(f"{len(fds)}i", *fds))], _socket.MSG_NOSIGNAL)
    finally:
        channel.detach()


def receive_many(channel_fd: int, size: int) -> tuple[bytes, list[int]]:
    """(one message of at most `size` bytes, the descriptors that came with it, close-on-exec); empty at the end. Waits."""
    channel = _open(channel_fd)
    try:
        data, ancillary, _, _ = channel.recvmsg(size, _socket.CMSG_SPACE(FDS_MAX * _FD.size), _socket.MSG_CMSG_CLOEXEC)
    finally:
        channel.detach()
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += unpack(f"{len(rights) // _FD.size}i", rights)
    return data, fds


def set_send_timeout(channel_fd: int, seconds: int) -> None:
    """SO_SNDTIMEO (socket(7)): a send that would wait longer fails with EAGAIN."""
    channel = _open(channel_fd)
    try:
        channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, pack("ll", seconds, 0))
    finally:
        channel.detach()


def is_readable(fd: int) -> bool:
    """Whether a read would not wait."""
    poller = poll()
    poller.register(fd, POLLIN)
    return bool(poller.poll(0))


def is_closed(fd: int) -> bool:
    """Whether the other end of this socket or pipe has closed, whatever of it is still to be read."""
    poller = poll()
    poller.register(fd, POLLRDHUP)
    return bool(poller.poll(0))

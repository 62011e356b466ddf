"""The host's network from inside: abstract sockets, loopback, netlink."""

from __future__ import annotations

import os
import socket

from kit import ARGUMENTS, attempt, say

NAME, PORT = ARGUMENTS


def connect(kind: int, address: object) -> str:
    with socket.socket(kind, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(address)
        return client.recv(10).decode()


def netlink(protocol: int) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as link:
        link.bind((0, 0xFFFFFFFF))
        link.settimeout(0.3)
        try:
            return link.recv(100).hex()
        except TimeoutError:
            raise ConnectionError(111, "nothing heard") from None


def rename_interface() -> int:
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1))  # SIOCSIFFLAGS: up, as it is
    return 0


def message_queue() -> int:
    import ctypes

    from kit import LIBC, check

    return check(LIBC.shmget(ctypes.c_int(int(PORT)), ctypes.c_size_t(1), 0))


attempt("abstract socket", lambda: connect(socket.AF_UNIX, f"\0{NAME}"))
attempt("loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", int(PORT))))
attempt("loopback, version 6", lambda: connect(socket.AF_INET6, ("::1", int(PORT))))
attempt("unmapped loopback", lambda: connect(socket.AF_INET, ("0.0.0.0", int(PORT))))
attempt("uevents", lambda: netlink(15))
attempt("change the interface", rename_interface)
attempt("shared memory", message_queue)
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300))
say("interfaces", " ".join(sorted(name for _, name in socket.if_nameindex())))
with open("/proc/net/unix") as file:
    say("abstract names", "seen" if NAME in file.read() else "not seen")
say("sys", "there" if os.path.exists("/sys/class") else "absent")

"""What of the host's network a jail reaches: with `--net none` nothing; with the host's, what a user reaches and no more."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.escape.jail import Jail


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """An abstract socket and a port of the loopback that greet whoever comes; System V shared memory with the port as its key."""
    name = f"ljsv-test-{os.getpid()}"
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{name}")
    abstract.listen()
    loopback = socket.create_server(("127.0.0.1", 0))
    port = loopback.getsockname()[1]
    memory = ctypes.CDLL(None).shmget(port, 4096, 0o1666)  # IPC_CREAT

    def greet(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.sendall(b"hello")
            client.close()

    threads = [threading.Thread(target=greet, args=(server,), daemon=True) for server in (abstract, loopback)]
    for thread in threads:
        thread.start()
    yield name, str(port)
    for server in (abstract, loopback):
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    ctypes.CDLL(None).shmctl(memory, 0, None)  # IPC_RMID


def test_without_a_network(jail: Jail, servers: tuple[str, str]) -> None:
    """No abstract socket, no loopback, no interface of the host's; nor System V memory. With NET_ADMIN and NET_RAW neither."""
    for options in (("--net", "none"), ("--net", "none", "--cap", "+NET_ADMIN", "--cap", "+NET_RAW")):
        results = jail.attack("network", *servers, options=options)
        assert results["interfaces"] == "lo"
        assert results["abstract names"] == "not seen"
        for name in ("abstract socket", "loopback", "loopback, version 6", "unmapped loopback"):
            assert results[name] in {"ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"}, (name, results[name])
        assert results["shared memory"] == "ENOENT"
        assert not results["uevents"].startswith("OK")
    plain = jail.attack("network", *servers, options=("--net", "none"))
    assert {plain[name] for name in ("raw socket", "packet socket", "change the interface")} == {"EPERM"}


def test_with_the_hosts_network(jail: Jail, servers: tuple[str, str]) -> None:
    """Its sockets are reached, as documented; raw sockets and changes of interfaces are not possible, whatever capabilities the jail is given."""
    for options in ((), ("--cap", "+NET_ADMIN", "--cap", "+NET_RAW")):
        results = jail.attack("network", *servers, options=options)
        assert results["abstract socket"] == results["loopback"] == "OK 'hello'"
        assert {results[name] for name in ("raw socket", "packet socket", "change the interface")} == {"EPERM"}
        assert results["shared memory"] == "ENOENT"
    assert jail.outside("network", *servers)["shared memory"].startswith("OK")

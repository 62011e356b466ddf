"""Runs a box that `box_image` has built, under qemu: its pages on the loopback, its console, and a root shell beside it."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.vm.box_image import KERNEL_ARGUMENTS

MEMORY_MB = 256
BOOT_S = 300.0  # emulated, on a machine that is busy with other tests
ANSWER_S = 120.0


class Machine:
    """One power-on. `disks` is where the box was built; `data`, its second disk, is written to."""

    def __init__(self, disks: Path, data: Path, work: Path) -> None:
        self.work = work
        self.work.mkdir()
        self.console = work / "console"
        self.web, self.counter = _free_ports(2)
        forward = f"hostfwd=tcp:127.0.0.1:{self.web}-:80,hostfwd=tcp:127.0.0.1:{self.counter}-:8080"
        self.qemu = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none",
                "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MB), "-rtc", "base=1970-01-02",
                "-kernel", str(disks / "kernel"), "-initrd", str(disks / "initramfs"), "-append", KERNEL_ARGUMENTS,
                "-chardev", f"socket,id=console,path={work}/console.socket,server=on,wait=off,logfile={self.console}", "-serial", "chardev:console",
                "-drive", f"file={disks}/root.erofs,if=virtio,format=raw,readonly=on",
                "-drive", f"file={data},if=virtio,format=raw,cache=writethrough",
                "-netdev", f"user,id=net,restrict=on,{forward}", "-device", "virtio-net-pci,netdev=net",
                "-device", "virtio-serial", "-chardev", f"socket,id=shell,path={work}/shell.socket,server=on,wait=off", "-device", "virtconsole,chardev=shell",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        self._sockets: dict[str, socket.socket] = {}
        self._number = 0

    # ---- the network

    def get(self, path: str = "/", *, port: int = 0, timeout_s: float = 5) -> str:
        """A page, or an OSError. The port is the web server's unless given."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.web, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise ConnectionError(f"{path}: {answer.status}")
            return text
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from None
        finally:
            connection.close()

    def count(self) -> int:
        """The counter's next number."""
        return int(self.get("/cgi-bin/count", port=self.counter, timeout_s=20))

    def wait_page(self) -> None:
        """Until both servers answer."""
        give_up_at = time.monotonic() + BOOT_S
        while True:
            with contextlib.suppress(OSError):
                if self.get() == "a box\n" and self.get("/cgi-bin/count", port=self.counter):
                    return
            if time.monotonic() > give_up_at or self.qemu.poll() is not None:
                raise TimeoutError(f"no page; the console:\n{self.said()}")
            time.sleep(0.1)

    # ---- the shells

    def shell(self, script: str, *, name: str = "shell") -> str:
        """What a script says in the root shell (or on the console, which shows the kernel's messages as well)."""
        self._number += 1
        connection = self._connect(name)
        begin, end = f"BEGIN-{self._number}", f"END-{self._number}"
        connection.sendall(f"echo BEG''IN-{self._number}; {{ {script}\n}} 2>&1; echo E''ND-{self._number}\n".encode())
        said = b""
        give_up_at = time.monotonic() + ANSWER_S
        while end.encode() not in said:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{script}: {said.decode(errors='replace')}\n{self.said()}")
            connection.settimeout(1)
            with contextlib.suppress(TimeoutError):
                said += connection.recv(65536)
        text = said.decode(errors="replace").replace("\r", "")
        return re.sub(r"^\n", "", text.partition(begin)[2].partition(end)[0])

    def type(self, line: str, name: str = "shell") -> None:
        """A line that is not waited for."""
        self._connect(name).sendall(line.encode() + b"\n")

    def _connect(self, name: str) -> socket.socket:
        if name not in self._sockets:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self.work / f"{name}.socket"))
            self._sockets[name] = connection
        return self._sockets[name]

    def said(self) -> str:
        """All of the console so far."""
        return self.console.read_text(errors="replace")[-8000:] if self.console.exists() else ""

    # ---- the end

    def wait_end(self, timeout_s: float = 90) -> int:
        """qemu's exit status."""
        return self.qemu.wait(timeout_s)

    def cut_power(self) -> None:
        if not self.work.exists():
            return
        self.qemu.kill()
        self.qemu.wait()
        for connection in self._sockets.values():
            connection.close()
        if self.qemu.stderr:
            self.qemu.stderr.close()
        shutil.rmtree(self.work)


def _free_ports(count: int) -> list[int]:
    listening = [socket.socket() for _ in range(count)]
    try:
        for one in listening:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in listening]
    finally:
        for one in listening:
            one.close()

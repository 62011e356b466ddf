"""Runs a command in the virtual machine: a copy of the working tree, Debian's kernel under qemu, no KVM needed.

A machine lives for one command and takes about 3 seconds to start and end. Its disk is the image's; what is written
goes to a file that qemu has removed already. `run` returns when qemu is gone, and qemu dies with the thread that
started it, so that nothing is ever left.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

from tests.vm.image import CHECKOUT, Image, get_image, pack_cpio

MEMORY_MB = 1024
PROCESSORS = 2
PROCESSOR = "max,la57=off,smap=off,smep=off,umip=off,pku=off"  # what costs most to emulate, and no story is about
LOG_MAX = 20_000  # characters of the kernel's log in an error
PYTEST = ("/usr/bin/python3", "-m", "pytest")
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 psi=1 rcupdate.rcu_expedited=1 mitigations=off tsc=reliable no_timer_check random.trust_cpu=on"


class Result(NamedTuple):
    """What became of the command: its exit status, negative for a signal, and its output, stderr included."""

    status: int
    output: str


class MachineError(Exception):
    """The machine ended, or had to be ended, before the command did."""


def run(*argv: str, timeout_s: float, stdout: IO[bytes] | int | None = subprocess.PIPE) -> Result:
    """A command as root in the copy of the working tree; where stdout, a pipe, is given, the output goes there instead."""
    image = get_image()
    with tempfile.TemporaryDirectory(prefix="ljsv-vm.") as name:
        directory = Path(name)
        initramfs, status, log = directory / "initramfs", directory / "status", directory / "log"
        _stage(directory / "stage", argv)
        initramfs.write_bytes(image.initramfs.read_bytes() + pack_cpio(directory / "stage"))
        with subprocess.Popen(
            _list_arguments(image, initramfs, status, log), stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT,
        ) as qemu:
            try:
                output, end = qemu.communicate(timeout=timeout_s)[0], "ended"
            except subprocess.TimeoutExpired:
                qemu.kill()
                output, end = qemu.communicate()[0], f"was killed after {timeout_s:g} s"
            finally:
                qemu.kill()
        text = (output or b"").decode(errors="replace")
        if status.exists() and (told := status.read_text()):
            return Result(int(told), text)
        kernel_log = log.read_text(errors="replace")[-LOG_MAX:] if log.exists() else ""
        raise MachineError(f"the virtual machine {end} before {' '.join(argv)} did; its output:\n{text}\nits kernel's log:\n{kernel_log}")


def _stage(stage: Path, argv: tuple[str, ...]) -> None:
    """What the initramfs copies to the disk: the working tree and the command."""
    shutil.copytree(CHECKOUT, stage / "checkout", symlinks=True, ignore=_leave_out)
    subprocess.run([PYTEST[0], "-I", "-m", "compileall", "-q", str(stage / "checkout/ljsv")], check=True)  # a second here, ten there
    (stage / "job").mkdir()
    (stage / "job/argv").write_text("".join(f"{argument}\0" for argument in argv))


def _leave_out(directory: str, names: list[str]) -> list[str]:
    """What is no source: environments and caches, what was built, and the state of services that run from `sv`."""
    state = ("supervise",) if Path(directory).match(f"{CHECKOUT}/sv/*") else ()
    return [name for name in names if name.startswith(".") or name in ("__pycache__", "build", *state)]


def _list_arguments(image: Image, initramfs: Path, status: Path, log: Path) -> list[str]:
    return [
        "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none",
        "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", str(PROCESSORS), "-m", str(MEMORY_MB),
        "-kernel", str(image.kernel), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS, "-serial", f"file:{log}",
        "-drive", f"file={image.disk},if=virtio,format=raw,snapshot=on",
        "-device", "virtio-serial",
        "-chardev", "file,id=output,path=/dev/stdout,append=on", "-device", "virtserialport,chardev=output,name=output",
        "-chardev", f"file,id=status,path={status}", "-device", "virtserialport,chardev=status,name=status",
    ]

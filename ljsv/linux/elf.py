"""What the kernel reads of a program before it starts it: elf(5), fs/binfmt_elf.c and fs/compat_binfmt_elf.c."""

from __future__ import annotations

import os
from struct import unpack_from

from ljsv.linux.libc import MACHINE

HEADER_MAX = 64
PT_INTERP, TABLE_MAX, LOADER_MAX, OFFSET_MAX = 3, 65536, 4096, (1 << 63) - 1  # the kernel's own bounds
# Type of an offset; where e_phoff and e_phentsize are; size of a program header, and where p_offset and p_filesz are in it (elf(5)).
_ELF_LAYOUTS = (("Q", 32, 54, 56, 8, 32), ("I", 28, 42, 32, 4, 16))
_OWN_MACHINES = {"x86_64": (62, 3), "aarch64": (183, 40), "armv7l": (40,), "riscv64": (243,)}  # e_machine, of 32 bits as well


def is_foreign(head: bytes) -> bool:
    """Whether it is for nothing that this kernel executes itself: perhaps it hands it to an emulator (binfmt_misc)."""
    return head[:4] != b"\x7fELF" or len(head) < HEADER_MAX or unpack_from("=H", head, 18)[0] not in _OWN_MACHINES.get(MACHINE, ())


def loaders_of(fd: int, head: bytes) -> tuple[str, ...]:
    """The dynamic loader that an ELF program names, which the kernel opens as well (PT_INTERP, elf(5)); empty for none.

    The kernel goes by the machine that it is for, not by the class and byte order that it claims. So
    both layouts are read, in our own order: an honest program makes sense in one of them only.
    """
    found = []
    head = head.ljust(HEADER_MAX, b"\0")
    for word, headers_at, counts_at, entry_size, offset_at, length_at in _ELF_LAYOUTS if head[:4] == b"\x7fELF" else ():
        (start,) = unpack_from(f"={word}", head, headers_at)
        size, count = unpack_from("=HH", head, counts_at)
        if size != entry_size or size * count > TABLE_MAX or start > OFFSET_MAX:
            continue  # the kernel refuses it
        table = os.pread(fd, size * count, start)
        for at in range(0, len(table) - size + 1, size):
            if unpack_from("=I", table, at)[0] == PT_INTERP:
                offset, length = unpack_from(f"={word}", table, at + offset_at)[0], unpack_from(f"={word}", table, at + length_at)[0]
                if offset <= OFFSET_MAX and length <= LOADER_MAX:
                    found.append(os.fsdecode(os.pread(fd, length, offset).split(b"\0", 1)[0]))
                break
    return tuple([name for name in found if name])

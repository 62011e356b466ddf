"""Another program in the place of a set-user-id one that is there already: PATH, in a directory that the jail may write."""

from __future__ import annotations

import mmap
import os

from kit import ARGUMENTS, attempt


def through_mmap(path: str) -> str:
    """Which clears no bit, other than write(2) does."""
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 4, mmap.MAP_SHARED) as memory:
        memory[:4] = b"evil"
    os.close(fd)
    return "written"


def through_another_name(path: str) -> str:
    os.link(path, f"{path}.linked")
    return through_mmap(f"{path}.linked")


def through_moved_parent(path: str) -> str:
    folder, name = os.path.split(path)
    os.rename(folder, f"{folder}.moved")
    try:
        return through_mmap(f"{folder}.moved/{name}")
    finally:
        os.rename(f"{folder}.moved", folder)


def moved_away(path: str) -> str:
    os.rename(path, f"{path}.moved")
    return through_mmap(f"{path}.moved")


for attack in (through_mmap, through_another_name, through_moved_parent, moved_away):
    attempt(attack.__name__, lambda attack=attack: attack(ARGUMENTS[0]))

"""What a layer of an overlay says against its base: files added, changed, deleted. Nothing is changed.

A whiteout or an opaque directory deletes; what the base has as well is
changed where type, owner, mode or contents differ; a directory that is there
only because something below it is, is not told. As root the base is opened
itself, an image through a loop device and a mount that is attached nowhere.
Without root an image is listed by `unsquashfs`, which says what is there but
not what is in it: what the layer has as well counts as changed then, and so
does, without that program, what overlayfs has marked as copied up. Symlinks
of either are never followed. Source:
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import suppress

from ljsv.errors import Fault, quote
from ljsv.jail.ids import is_root
from ljsv.jail.owner import act_as_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ADDED, CHANGED, DELETED = "added", "changed", "deleted"
WORDS = {word[0].encode(): word for word in (ADDED, CHANGED, DELETED)}
UNSQUASHFS = ("/usr/bin/unsquashfs", "/bin/unsquashfs", "/usr/local/bin/unsquashfs")
LISTING_MAX = 256 << 20
CHUNK = 1 << 16
OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")
ORIGIN = ("user.overlay.origin", "trusted.overlay.origin")
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Below = os.stat_result | bool  # what the base has: its status; True where it is only known to be there, False where it is not
Listing = dict[bytes, set[bytes]]  # directory ("" for the root) -> names in it


def find_differences(upper: str, base: str, *, is_image: bool) -> Iterator[tuple[str, str]]:
    """(added, changed or deleted; path in the jail), sorted within each directory. Fault where one cannot be read."""
    listing: Listing | None = None
    base_fd = -1
    if is_image and not is_root():
        listing = list_image(base)
    elif is_image:
        base_fd = _mount_image(base)
    try:

        def act(out_fd: int) -> None:
            opened = base_fd if is_image else os.open(base, DIRECTORY_FLAGS)
            _Walk(out_fd, listing, has_base=not is_image or base_fd >= 0).run(os.open(upper, DIRECTORY_FLAGS), opened)

        kept = b""
        for chunk in act_as_owner(act, what="cannot compare the overlay", path=upper):
            *records, kept = (kept + chunk).split(b"\0")
            for record in records:
                yield WORDS[record[:1]], os.fsdecode(record[1:])
    finally:
        if base_fd >= 0:
            os.close(base_fd)


def _mount_image(path: str) -> int:
    """The root of the image, mounted and attached nowhere: gone when the descriptor is closed."""
    from ljsv.linux import loop, mount
    from ljsv.service.images import check_image

    kind = check_image(path)
    file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    device_fd = -1
    try:
        source, device_fd = loop.loop_configure(file_fd, path)
        return mount.new_mount(kind, {"source": source, "ro": ""}, mount.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise Fault.from_os("cannot mount the image", error, path, hint="ljsv doctor") from None
    finally:
        os.close(file_fd)
        if device_fd >= 0:
            os.close(device_fd)


def list_image(path: str) -> Listing | None:
    """What is in a squashfs image, by `unsquashfs`; None without it."""
    program = next((place for place in UNSQUASHFS if os.access(place, os.X_OK)), "")
    if not program:
        return None
    with subprocess.Popen([program, "-l", "-d", "", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"LC_ALL": "C"}) as process:
        assert process.stdout is not None
        text = process.stdout.read(LISTING_MAX + 1)
        if len(text) > LISTING_MAX:
            process.kill()
            raise Fault("cannot list the image", path, f"its listing is larger than {LISTING_MAX} bytes")
    if process.returncode:
        raise Fault("cannot list the image", path, f"unsquashfs ended with {process.returncode}", hint=f"unsquashfs -l {quote(path)}")
    found: Listing = {}
    for line in text.split(b"\n"):
        directory, slash, name = line.rpartition(b"/")
        if slash and name:
            found.setdefault(directory, set()).add(name)
    return found


class _Level:
    __slots__ = ("base", "left", "name", "upper_id")

    def __init__(self, name: bytes, upper_fd: int, base: tuple[int, int] | None) -> None:
        entry = os.fstat(upper_fd)
        self.name = name
        self.upper_id = entry.st_dev, entry.st_ino
        self.base = base  # (device, inode) of the base's directory of that name, where there is one
        self.left = iter(sorted(os.fsencode(entry) for entry in os.listdir(upper_fd)))


class _Walk:
    """Down both trees at once, in two descriptors."""

    def __init__(self, out_fd: int, listing: Listing | None, *, has_base: bool) -> None:
        self.out_fd = out_fd
        self.listing = listing
        self.has_base = has_base
        self.upper_fd = self.base_fd = self.parked_fd = -1  # parked: where the base was left; what is below something new is new
        self.levels: list[_Level] = []

    def run(self, upper_fd: int, base_fd: int) -> None:
        self.upper_fd, self.base_fd = upper_fd, base_fd
        self.levels = [_Level(b"", upper_fd, self._base_id() if self.has_base else (0, 0))]
        self._tell_covered()
        while self.levels:
            name = next(self.levels[-1].left, None)
            if name is not None:
                self._look(name)
            elif len(self.levels) > 1:
                self._go_up()
            else:
                return

    def _base_id(self) -> tuple[int, int] | None:
        if self.base_fd < 0:
            return None
        entry = os.fstat(self.base_fd)
        return entry.st_dev, entry.st_ino

    def _tell(self, word: str, name: bytes) -> None:
        path = b"/".join([*(level.name for level in self.levels), name])
        view = memoryview(word[0].encode() + path + b"\0")
        while view:
            view = view[os.write(self.out_fd, view) :]

    def _names_below(self) -> set[bytes]:
        """What the base has in the directory where we are."""
        if self.listing is not None:
            return self.listing.get(b"/".join(level.name for level in self.levels), set())
        return {os.fsencode(name) for name in os.listdir(self.base_fd)} if self.base_fd >= 0 else set()

    def _in_base(self, name: bytes) -> Below:
        if self.listing is not None:
            return self.levels[-1].base is not None and name in self._names_below()
        if self.base_fd < 0:
            return False
        try:
            return os.stat(name, dir_fd=self.base_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False

    def _look(self, name: bytes) -> None:
        entry = os.stat(name, dir_fd=self.upper_fd, follow_symlinks=False)
        below = self._in_base(name)
        if stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0:
            if below is not False or not self._knows():
                self._tell(DELETED, name)
            return
        if below is False and not self._knows():
            below = self._is_copied_up(name)
        if below is False:
            self._tell(ADDED, name)
        elif self._differs(name, entry, below):
            self._tell(CHANGED, name)
        if stat.S_ISDIR(entry.st_mode):
            self._go_down(name, below)

    def _knows(self) -> bool:
        """Whether it can be asked what the base has here."""
        return self.has_base or self.listing is not None

    def _is_copied_up(self, name: bytes) -> bool:
        with suppress(OSError):
            path = f"/proc/self/fd/{self.upper_fd}/".encode() + name
            return any(key in os.listxattr(path, follow_symlinks=False) for key in ORIGIN)
        return False

    def _differs(self, name: bytes, entry: os.stat_result, below: Below) -> bool:
        """Owner, mode, type, contents. Where only its being there is known, what is no directory is taken for changed."""
        if not isinstance(below, os.stat_result):
            return not stat.S_ISDIR(entry.st_mode)
        if (entry.st_mode, entry.st_uid, entry.st_gid) != (below.st_mode, below.st_uid, below.st_gid):
            return True
        if stat.S_ISLNK(entry.st_mode):
            return os.readlink(name, dir_fd=self.upper_fd) != os.readlink(name, dir_fd=self.base_fd)
        if stat.S_ISREG(entry.st_mode):
            return entry.st_size != below.st_size or not self._are_equal(name)
        return False

    def _are_equal(self, name: bytes) -> bool:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        first_fd = os.open(name, flags, dir_fd=self.upper_fd)
        try:
            second_fd = os.open(name, flags, dir_fd=self.base_fd)
            try:
                while True:
                    first, second = os.read(first_fd, CHUNK), os.read(second_fd, CHUNK)
                    if first != second:
                        return False
                    if not first:
                        return True
            finally:
                os.close(second_fd)
        finally:
            os.close(first_fd)

    def _go_down(self, name: bytes, below: Below) -> None:
        upper_fd = os.open(name, DIRECTORY_FLAGS, dir_fd=self.upper_fd)
        is_there = stat.S_ISDIR(below.st_mode) if isinstance(below, os.stat_result) else below
        base_fd = -1
        if is_there and self.base_fd >= 0:
            base_fd = os.open(name, DIRECTORY_FLAGS, dir_fd=self.base_fd)
            os.close(self.base_fd)
        os.close(self.upper_fd)
        if base_fd >= 0 or not self.has_base:
            self.base_fd = base_fd
        else:
            self.parked_fd = self.base_fd if self.base_fd >= 0 else self.parked_fd
            self.base_fd = -1
        self.upper_fd = upper_fd
        place = self._base_id() if self.has_base else (0, 0) if is_there else None
        self.levels.append(_Level(name, upper_fd, place))
        self._tell_covered()

    def _tell_covered(self) -> None:
        """In an opaque directory, what of the base's is not there again."""
        if self.levels[-1].base is None or not any(_get_xattr(self.upper_fd, key) == b"y" for key in OPAQUE):
            return
        here = {os.fsencode(name) for name in os.listdir(self.upper_fd)}
        for name in sorted(self._names_below() - here):
            self._tell(DELETED, name)

    def _go_up(self) -> None:
        level = self.levels.pop()
        upper_fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.upper_fd)
        os.close(self.upper_fd)
        self.upper_fd = upper_fd
        entry = os.fstat(upper_fd)
        if (entry.st_dev, entry.st_ino) != self.levels[-1].upper_id:
            raise OSError(116, "it was moved while it was compared", level.name)
        if not self.has_base:
            return
        if level.base is not None:
            base_fd = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.base_fd)
            os.close(self.base_fd)
            self.base_fd = base_fd
        elif self.levels[-1].base is not None:
            self.base_fd, self.parked_fd = self.parked_fd, -1


def _get_xattr(fd: int, name: str) -> bytes:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return b""


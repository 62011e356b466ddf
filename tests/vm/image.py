"""Builds what the virtual machine starts from: Debian's cloud kernel, an initramfs and a disk with the guest's root.

All of it comes from Debian's packages and the test environment: the kernel's package is fetched and unpacked, the
others are installed here and copied. Nothing is installed for it and nothing needs root. The working tree is not in
it, so an edit rebuilds nothing.

Both the fetched package and what was built stay in a cache, `.venv-test/vm-cache` or $LJSV_VM_CACHE, the latter under a
name made from all that went in: a newer package or an edit of this module asks for another one. One lock covers
fetching and building, and a directory gets its name when it is whole: building twice at once is safe, and what a
killed build leaves is removed by the next one. Delete the cache to get a newer kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("LJSV_VM_CACHE") or CHECKOUT / ".venv-test/vm-cache").absolute()
IMAGES_KEPT = 3
COMMAND_TIMEOUT_S = 600
DISK_SIZE = "2G"  # sparse

NEEDED = {  # program: its package
    "apt-get": "apt", "dpkg-deb": "dpkg", "busybox": "busybox-static", "mkfs.ext4": "e2fsprogs", "python3.11": "python3",
    "qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux",
}
KERNEL = "linux-image-cloud-amd64"
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_console", "overlay", "squashfs", "erofs", "loop", "fuse", "tun", "veth", "bridge",
)

# What of it is installed here is in the guest too, with the libraries it needs.
PACKAGES = (
    "bash", "bubblewrap", "busybox-static", "coreutils", "daemontools", "dash", "debianutils", "e2fsprogs", "erofs-utils", "findutils",
    "grep", "gzip", "hostname", "iproute2", "libc-bin", "libgcc-s1", "libpython3.11-minimal", "libpython3.11-stdlib", "libseccomp2",
    "login", "mount", "passwd", "procps", "python3-minimal", "python3.11", "python3.11-minimal", "runit", "s6", "sed", "squashfs-tools",
    "squashfuse", "strace", "systemd", "tar", "uidmap", "util-linux", "util-linux-extra",
)
UNPACKED = ("libeinfo1", "librc1", "openrc")  # fetched: installed they would change how this machine boots
DISTRIBUTIONS = ("pytest", "hypothesis", "dockerfile", "PyYAML")  # beside what ljsv itself requires
SITE = "usr/local/lib/python3.11/dist-packages"
COPIED = ("/bin/", "/sbin/", "/lib/", "/lib64/", "/usr/bin/", "/usr/sbin/", "/usr/lib/")
DIRECTORIES = (
    "boot", "checkout", "dev", "etc", "home/tester", "job", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr/share",
    "var/lib", "var/log", "var/tmp",
)
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\ntester:x:1001:1001::/home/tester:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
    "group": "root:x:0:\ntester:x:1001:\nnogroup:x:65534:\n",
    "shadow": "root:*:19000:0:99999:7:::\ntester:*:19000:0:99999:7:::\n",
    "subuid": "tester:100000:65536\n",
    "subgid": "tester:100000:65536\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "hostname": "guest\n",
    "resolv.conf": "",
    "ld.so.conf": "/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n",
}

# The initramfs only leads to the disk: pivot_root fails in a root that is an initramfs.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module || echo "insmod $module failed"; done
$b mount -t ext4 -o noatime,noinit_itable /dev/vda /new || exec $b poweroff -f
$b cp -a /checkout /job /new/
$b mount -o move /dev /new/dev
exec $b switch_root /new /usr/bin/python3 -IS /checkout/tests/vm/guest_init.py
"""


class Image(NamedTuple):
    """Three files that qemu reads; none of them is ever written to."""

    kernel: Path
    initramfs: Path
    disk: Path


def find_missing() -> list[str]:
    """What this machine lacks to run the virtual machine, in words."""
    missing = [f"{program} ({package})" for program, package in NEEDED.items() if not _which(program)]
    if os.uname().machine != "x86_64":
        missing.append("an x86-64 machine")
    with contextlib.suppress(OSError):
        if "VERSION_CODENAME=bookworm\n" in Path("/etc/os-release").read_text():
            return missing
    return [*missing, "Debian 12"]


def get_image() -> Image:
    """The image of now; fetched and built where the cache has none."""
    with _locked():
        kernel, *others = _fetch_packages()
        contents = _describe_contents(kernel, *others)
        image = CACHE / f"image-{hashlib.sha256(contents.encode()).hexdigest()[:16]}"
        if not image.exists():
            with _building() as building:
                _build(building, kernel, others)
                (building / "contents").write_text(contents)
                building.rename(image)
        os.utime(image)
        for old in sorted(CACHE.glob("image-*"), key=os.path.getmtime)[:-IMAGES_KEPT]:
            shutil.rmtree(old)
    return Image(image / "kernel", image / "initramfs", image / "disk")


def pack_cpio(top: Path) -> bytes:
    """The files, directories and symlinks below `top`, all root's, in the "newc" format that the kernel unpacks."""
    packed = bytearray()

    def add(name: str, mode: int, mtime_s: int, data: bytes) -> None:
        path = name.encode() + b"\0"
        fields = (len(packed), mode, 0, 0, 1, mtime_s, len(data), 0, 0, 0, 0, len(path), 0)
        packed.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        packed.extend(b"\0" * (-len(packed) % 4) + data)
        packed.extend(b"\0" * (-len(packed) % 4))

    for path in sorted(top.rglob("*")):  # a directory before what is in it
        name, mode, mtime_s = str(path.relative_to(top)), path.lstat().st_mode, int(path.lstat().st_mtime)
        if path.is_symlink():
            add(name, mode, mtime_s, os.fsencode(path.readlink()))
        elif path.is_dir():
            add(name, mode, mtime_s, b"")
        elif path.is_file():
            add(name, mode, mtime_s, path.read_bytes())
    add("TRAILER!!!", 0, 0, b"")
    packed.extend(b"\0" * (-len(packed) % 512))
    return bytes(packed)


def _which(program: str) -> str | None:
    return shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


def _run(*argv: str | Path, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str:
    """A command's output; what it said where it failed."""
    done = subprocess.run(
        argv, cwd=cwd, env=os.environ | {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False,
    )
    if done.returncode not in ok:
        raise RuntimeError(f"{' '.join(map(str, argv))[:200]}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- the cache


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with its process
        yield


@contextlib.contextmanager
def _building() -> Iterator[Path]:
    """An empty directory, for who holds the lock."""
    path = CACHE / "building"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fetch_packages() -> list[Path]:
    """The package with the kernel that KERNEL depends on, and UNPACKED; from the cache or by apt with lists of its own."""
    patterns = ["linux-image-*.deb", *(f"{name}_*.deb" for name in UNPACKED)]
    cached = [sorted(CACHE.glob(pattern))[-1:] for pattern in patterns]
    if all(cached):
        return [path for found in cached for path in found]
    with _building() as building:
        apt = ("-qq", "-o", f"Dir::State::lists={building}/lists", "-o", f"Dir::Cache={building}/cache",
               "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root")
        for name in ("lists/partial", "cache/archives/partial"):
            (building / name).mkdir(parents=True)
        _run("apt-get", *apt, "update")
        depends = _run("apt-cache", *apt, "depends", "--important", KERNEL)
        _run("apt-get", *apt, "download", *re.findall(r"Depends: (linux-image-\S+)", depends), *UNPACKED, cwd=building)
        fetched = [next(building.glob(pattern)) for pattern in patterns]
        return [package.rename(CACHE / package.name) for package in fetched]


def _describe_contents(*packages: Path) -> str:
    """All that an image is made of, a line each."""
    installed = _run("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *_list_packages())
    distributions = "".join(f"{found.name} {found.version}\n" for found in _list_distributions())
    fetched = "".join(f"{package.name}\n" for package in packages)
    return f"{fetched}{installed}{distributions}{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}\n"


def _list_packages() -> list[str]:
    states = _run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *PACKAGES, ok=(0, 1))  # 1: one is unknown
    return sorted(line.split()[1] for line in states.splitlines() if line.startswith("ii "))


def _list_distributions(names: tuple[str, ...] = ()) -> list[metadata.Distribution]:
    """Of the test environment: `names` (else DISTRIBUTIONS, and what ljsv requires), and what these require."""
    found: dict[str, metadata.Distribution] = {}
    wanted = list(names) or [*DISTRIBUTIONS, *_list_requirements("ljsv")]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = metadata.distribution(name)
            wanted += _list_requirements(name)
    return [found[name] for name in sorted(found)]


def _list_requirements(name: str) -> list[str]:
    requirements = map(Requirement, metadata.requires(name) or ())
    return [requirement.name for requirement in requirements if not requirement.marker or requirement.marker.evaluate({"extra": ""})]


# ---- the image


def _build(building: Path, package: Path, others: list[Path]) -> None:
    unpacked = building / "unpacked"
    _run("dpkg-deb", "-x", package, unpacked)
    (kernel,) = unpacked.glob("boot/vmlinuz-*")
    kernel.rename(building / "kernel")
    for other in others:
        _run("dpkg-deb", "-x", other, building / "others")
    (building / "initramfs").write_bytes(_pack_initramfs(building / "early", unpacked))
    root = building / "root"
    _stage_root(root, building / "others")
    _make_disk(building / "disk", root)
    for path in (unpacked, building / "others", building / "early", root):
        shutil.rmtree(path)


def _pack_initramfs(top: Path, unpacked: Path) -> bytes:
    for name in ("bin", "dev", "modules", "new"):
        (top / name).mkdir(parents=True)
    shutil.copy(str(_which("busybox")), top / "bin/busybox")
    for number, module in enumerate(_order_modules(unpacked)):
        shutil.copy(module, top / f"modules/{number:02}-{module.name}")
    (top / "init").write_text(INIT)
    (top / "init").chmod(0o755)
    return pack_cpio(top)


def _order_modules(unpacked: Path, names: tuple[str, ...] = MODULES) -> list[Path]:
    """These modules and what they depend on, which comes first: as `depends=` in each one's .modinfo tells."""
    files = {path.stem.replace("-", "_"): path for path in unpacked.glob("lib/modules/*/**/*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        module = files[name.replace("-", "_")]
        depends = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
        for other in depends[1].decode().split(",") if depends and depends[1] else ():
            add(other)
        if module not in ordered:
            ordered.append(module)

    for name in names:
        add(name)
    return ordered


def _stage_root(root: Path, others: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    (root / "etc/shadow").chmod(0o600)
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    for path in _run("dpkg", "-L", *_list_packages()).splitlines():
        if path.startswith(COPIED):
            _copy(Path(path), root)
    for path in others.rglob("*"):
        name = f"/{path.relative_to(others)}"
        if name.startswith(COPIED):
            _copy(path, root, name)
    _copy(Path("/bin/sh"), root)  # no package's own: a choice of the administrator's
    for found in _list_distributions():
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                _copy(Path(str(found.locate_file(file))), root, f"{SITE}/{file}")
    for library in _list_libraries(root):
        _copy(library.resolve(), root, str(library))
    # compiled here, since it is slow there
    _run("/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "-j", "0", "-s", root, "-p", "/", root / "usr", ok=(0, 1))  # 1: samples of bad syntax


def _copy(path: Path, root: Path, name: str = "") -> None:
    """A file or a symlink, not a directory, with mode and times; what is not there is left out."""
    target = root / (name or str(path)).lstrip("/")
    if os.path.lexists(target) or (path.is_dir() and not path.is_symlink()) or not os.path.lexists(path):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)


def _list_libraries(root: Path) -> list[Path]:
    """What the staged programs and libraries load."""
    linked = []
    for path in root.glob("usr/**/*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    linked.append(path)
    said = _run("ldd", *linked, ok=(0, 1))  # 1: one is static
    return sorted({Path(found) for found in re.findall(r"(/\S+) \(0x", said)})


def _make_disk(disk: Path, root: Path) -> None:
    # as root of a user namespace, so that all of it is root's; without a journal, since it lives for one run
    as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")
    _run(*as_root, "mkfs.ext4", "-q", "-F", "-m", "0", "-N", "100000", "-O", "^has_journal", "-d", root, disk, DISK_SIZE)


if __name__ == "__main__":
    if find_missing():
        sys.exit(f"image: not on this machine: {', '.join(find_missing())}")
    print(*get_image(), sep="\n")

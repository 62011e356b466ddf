"""Builds a complete box: Debian's cloud kernel, busybox, Python, ljsv, a web server, a counter that is kept, a console.

    python -m tests.vm.box_image DIRECTORY      # kernel, initramfs, root.erofs, data.ext4 and a script `start`

The root is an erofs image, never written to. `data.ext4` is the second disk, and holds all that is kept. Nothing is
installed for it, and nothing needs root. docs/embedded.md explains each part; /etc/ljsv/boot of the box is below.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from ljsv.paths import Places
from tests.vm import image

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "erofs", "overlay", "softdog")
PACKAGES = ("busybox-static", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal", "libc-bin")
LEFT_OUT = re.compile(
    r"/python3\.11/(test|idlelib|lib2to3|ensurepip|distutils|tkinter|turtledemo|pydoc_data|unittest|config-|sqlite3|wsgiref|xmlrpc|curses|venv|site-packages|lib-dynload/(_sqlite|_tkinter|_test|_curses|_xx|xx))"
)
STAYS_OUT = ("/usr/share/", "/usr/bin/ld", "/sbin/ldconfig", "/usr/bin/locale", "/usr/bin/localedef", "/usr/bin/iconv", "/usr/bin/getconf", "/usr/sbin/zic", "/usr/sbin/iconvconfig")
DISTRIBUTIONS = ("ljsv",)
APPLETS = (
    "cat", "chmod", "cp", "date", "dmesg", "dd", "df", "echo", "free", "grep", "head", "httpd", "ip", "kill", "ln", "ls", "mkdir", "mount", "mv", "ps", "rm", "sed",
    "sh", "sleep", "stty", "sync", "tail", "test", "touch", "tr", "true", "umount", "uname", "wc", "setsid", "poweroff", "reboot", "halt",
)
DIRECTORIES = ("data", "dev", "etc/ljsv/sv", "opt/counter", "proc", "root", "run", "srv/www", "sys", "tmp", "usr/bin", "usr/lib", "usr/sbin", "var/lib", "var/log")
SITE = "usr/lib/python3/dist-packages"
ENTRY = "#!/usr/bin/python3 -ISB\nimport sys\nsys.path.append('/%s')\nfrom ljsv.cli.entry import %s\nsys.exit(%s())\n"

INITRAMFS = """#!/bin/busybox sh
# leads to the disk: pivot_root fails in a root that is an initramfs
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module || echo "insmod $module failed"; done
$b mount -t erofs -o ro /dev/vda /new || exec $b poweroff -f
$b umount /dev
trap '' CHLD  # a PID 1 that is executed with it has to wait for its children all the same
exec $b switch_root /new /sbin/init "$@"
"""
BOOT = """#!/bin/sh
# run once by PID 1, before any service: what this box needs beyond what every box needs
mount -t ext4 -o noatime /dev/vdb /data
mkdir -p /data/lib /data/counter
mount -o bind /data/lib /var/lib
mount -t tmpfs -o mode=755,size=16M log /var/log
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
if [ -e /dev/hvc0 ]; then  # a second console for tests, outside of all jails
    setsid sh -c 'stty -echo < /dev/hvc0; while :; do sh < /dev/hvc0 > /dev/hvc0 2>&1; sleep 1; done' &
fi
"""
SHUTDOWN = """#!/bin/sh
echo "box: $1, up $(sed 's/ .*//' /proc/uptime) s"
"""
COUNT = """#!/bin/sh
# the next number, on the disk before it is told; one at a time
exec 9> /var/count.lock
flock 9
number=$(($(cat /var/count 2>/dev/null || echo 0) + 1))
echo $number > /var/count.new
sync /var/count.new
mv /var/count.new /var/count
sync /var
printf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' $number
"""
SERVICES = {
    "web/run": "#!/bin/sh\nexec httpd -f -p 80 -h /www\n",
    "web/rootfs": 'base = "host"\n[[bind]]\nfrom = "/srv/www"\nto = "/www"\n[security]\nuser_namespace = "host"  # port 80\n',
    "counter/run": "#!/bin/sh\nexec httpd -f -p 8080 -h /www\n",
    "counter/rootfs": 'base = "/opt/counter"\nwritable = "overlay"\noverlay = "/data/counter"\n',
    "console/run": "#!/bin/sh\ncd /root 2>/dev/null\nexec sh -l\n",
    "console/rootfs": 'base = "host"\ntty = "/dev/ttyS0"\n[security]\nuser_namespace = "host"\n',
    "console/policy": 'stop = {signal = "HUP"}\n',
}
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hostname": "box\n",
    "hosts": "127.0.0.1 localhost\n",
}
START = """#!/bin/sh
# starts the box; its pages are at http://127.0.0.1:8000 and http://127.0.0.1:8001/cgi-bin/count
cd "$(dirname "$0")"
exec qemu-system-x86_64 -nodefaults -no-reboot -nographic -machine q35 -cpu max -m 256 -kernel kernel -initrd initramfs \\
    -append "%s" -serial mon:stdio \\
    -drive file=root.erofs,if=virtio,format=raw,readonly=on -drive file=data.ext4,if=virtio,format=raw \\
    -netdev user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:8000-:80,hostfwd=tcp:127.0.0.1:8001-:8080 -device virtio-net-pci,netdev=net
"""
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=10 mitigations=off tsc=reliable no_timer_check random.trust_cpu=on -- --watchdog /dev/watchdog"


def build(top: Path) -> None:
    """All files of the box, in `top`, which is made."""
    top.mkdir(parents=True, exist_ok=True)
    with image._locked():
        package = image._fetch_packages()[0]
    with tempfile.TemporaryDirectory(prefix="ljsv-box-image.") as name:
        work = Path(name)
        image._run("dpkg-deb", "-x", package, work / "unpacked")
        (kernel,) = (work / "unpacked").glob("boot/vmlinuz-*")
        shutil.copy(kernel, top / "kernel")
        (top / "initramfs").write_bytes(_pack_initramfs(work / "early", work / "unpacked"))
        _stage_root(work / "root")
        (top / "root.erofs").unlink(missing_ok=True)
        image._run("mkfs.erofs", "-zlz4hc", "-T0", "--all-root", top / "root.erofs", work / "root")
        (work / "data").mkdir()
        (top / "data.ext4").unlink(missing_ok=True)
        image._run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0", "-d", work / "data", top / "data.ext4", "64M")
    (top / "start").write_text(START % KERNEL_ARGUMENTS)
    (top / "start").chmod(0o755)


def _pack_initramfs(top: Path, unpacked: Path) -> bytes:
    for name in ("bin", "dev", "modules", "new"):
        (top / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", top / "bin/busybox")
    for number, module in enumerate(image._order_modules(unpacked, MODULES)):
        shutil.copy(module, top / f"modules/{number:02}-{module.name}")
    (top / "init").write_text(INITRAMFS)
    (top / "init").chmod(0o755)
    return image.pack_cpio(top)


def _stage_root(root: Path) -> None:
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for path in image._run("dpkg", "-L", *PACKAGES).splitlines():
        if path.startswith(image.COPIED) and not path.startswith(STAYS_OUT) and not LEFT_OUT.search(path):
            image._copy(Path(path), root)
    (root / "usr/bin/python3").symlink_to("python3.11")
    for applet in APPLETS:
        if not os.path.lexists(root / "usr/bin" / applet):
            (root / "usr/bin" / applet).symlink_to("busybox")
    for found in image._list_distributions(DISTRIBUTIONS):
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts and "dist-info" not in str(file) and file.parts[0] != "ljsv":
                image._copy(Path(str(found.locate_file(file))), root, f"{SITE}/{file}")
    shutil.copytree(image.CHECKOUT / "ljsv", root / SITE / "ljsv", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "resources"))
    for library in image._list_libraries(root):
        image._copy(library.resolve(), root, str(library))
    # Compiled ahead, and never compared with its source's time: an image may round times, and a clock may start in 1970.
    image._run("/usr/bin/python3.11", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/", root / "usr", ok=(0, 1))
    _write(root / "usr/sbin/init", ENTRY % (SITE, "init", "init"))
    _write(root / "usr/bin/ljsv", ENTRY % (SITE, "ljsv", "ljsv"))
    for name in ("poweroff", "reboot", "halt"):
        (root / "usr/bin" / name).unlink()
        (root / "usr/sbin" / name).symlink_to("../bin/ljsv")
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    _write(root / "etc/ljsv/boot", BOOT)
    _write(root / "etc/ljsv/shutdown", SHUTDOWN)
    (root / "srv/www/index.html").write_text("a box\n")
    _stage_counter(root / "opt/counter")
    _stage_services(root)


def _stage_counter(jail: Path) -> None:
    """The root directory of the counter's jail: busybox alone."""
    for name in ("bin", "www/cgi-bin", "var", "etc"):
        (jail / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", jail / "bin/busybox")
    for applet in ("sh", "httpd", "cat", "mv", "sync", "flock"):
        (jail / "bin" / applet).symlink_to("busybox")
    _write(jail / "www/cgi-bin/count", COUNT)


def _stage_services(root: Path) -> None:
    """With their `supervise` links into the runtime directory: nobody can make them on a read-only root."""
    places = Places("/etc/ljsv/sv", {}, 0)
    for name, text in SERVICES.items():
        path = root / "etc/ljsv/sv" / name
        path.parent.mkdir(exist_ok=True)
        _write(path, text)
        if not text.startswith("#!"):
            path.chmod(0o644)
        if not (path.parent / "supervise").is_symlink():
            (path.parent / "supervise").symlink_to(str(places.runtime_of(path.parent.name)))


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")

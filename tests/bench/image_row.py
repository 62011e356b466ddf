"""A jail on a squashfs image, mounted by the kernel as root: what it adds to one on the same files in a directory.

The image is not compressed, and its program is read anew in every jail, since
every one mounts it anew: busybox, 2 MB, which takes another 10 ms from gzip.
"""

from __future__ import annotations

import os
import subprocess

from jail_row import make_small_root, run_jail
from side_by_side import Bench, Figure, median, spread, take_turns, time_ms

from ljsv.jail.spec import DIRECTORY, IMAGE, JailSpec

BUDGET_MS = 2.0
SAMPLES = 150


def measure(bench: Bench) -> list[Figure]:
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    root = make_small_root(bench.new_folder("root"))
    image = str(bench.new_folder("image") / "root.squashfs")
    subprocess.run(["/usr/bin/mksquashfs", root, image, "-noappend", "-quiet", "-no-progress", "-all-root", "-noI", "-noD", "-noF"], check=True, stdout=subprocess.DEVNULL)
    directory = JailSpec(name="jail", base_kind=DIRECTORY, base_path=root, argv=("/bin/true",))
    on_image = directory.replace(base_kind=IMAGE, base_path=image, image_type="squashfs")
    ours, reference = take_turns(bench.count(SAMPLES), *[lambda spec=spec: time_ms(lambda: run_jail(spec, null_fd)) for spec in (on_image, directory)])
    os.close(null_fd)
    return [
        Figure(row="image adds, as root", reference_name="directory", unit="ms", ours=median(ours), reference=median(reference), budget=BUDGET_MS, is_added=True, note=spread(ours))
    ]

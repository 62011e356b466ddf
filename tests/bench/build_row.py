"""An image of a tree of 300 MB: `ljsv image build` beside plain mksquashfs with the same settings.

The tree is half of the interpreter's own library, again and again, and half of large files; both sides read it from the
page cache and write to the same folder. Ours reads it in Python, writes the trailer, the digest and to the disk.
"""

from __future__ import annotations

import os
import random
import subprocess
import sysconfig
from pathlib import Path
from time import perf_counter

from side_by_side import Bench, Figure, median, spread, take_turns

BUDGET = 1.3
SAMPLES = 3
SMALL_BYTES = LARGE_BYTES = 150 << 20
LARGE_FILE = 10 << 20
LEVEL = "9"


def make_tree(root: Path) -> None:
    """Files as they are on a machine, and large ones that half compress; the same at every run."""
    sources = sorted(path for path in Path(sysconfig.get_path("stdlib")).rglob("*.py") if "site-packages" not in path.parts and path.stat().st_size < 1 << 20)
    done = number = 0
    while done < SMALL_BYTES:
        source = sources[number % len(sources)]
        data = b"%d\n" % number + source.read_bytes()  # no two of them are the same file
        folder = root / f"small/{number // 500}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.py").write_bytes(data)
        done += len(data)
        number += 1
    chance = random.Random(1)
    (root / "large").mkdir()
    for index in range(LARGE_BYTES // LARGE_FILE):
        half = b"".join(chance.randbytes(4096) + bytes(4096) for _ in range(LARGE_FILE // 8192))
        (root / f"large/{index}").write_bytes(half)


def time_s(argv: list[str], output: Path) -> float:
    output.unlink(missing_ok=True)
    begun = perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return perf_counter() - begun


def measure(bench: Bench) -> list[Figure]:
    root, outputs = bench.new_folder("tree"), bench.new_folder("images")
    make_tree(Path(root))
    os.environ["LJSV_IMAGES"] = str(bench.new_folder("store"))
    ours, theirs = Path(outputs) / "ours.squashfs", Path(outputs) / "theirs.squashfs"
    build = [bench.command("ljsv"), "image", "build", str(root), "-o", str(ours), "--level", LEVEL, "-q"]
    plain = ["mksquashfs", str(root), str(theirs), "-comp", "zstd", "-Xcompression-level", LEVEL, "-noappend", "-no-exports", "-no-progress", "-quiet"]
    taken, reference = take_turns(bench.count(SAMPLES), lambda: time_s(build, ours), lambda: time_s(plain, theirs))
    return [
        Figure(row="build an image, 300 MB", reference_name="mksquashfs", unit="s", ours=median(taken), reference=median(reference), budget=BUDGET, note=spread(taken))
    ]

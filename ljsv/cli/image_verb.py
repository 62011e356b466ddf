"""`ljsv image ACTION`: build images from what people have, and the store that keeps them."""

from __future__ import annotations

import os
import signal
import sys
import time

from ljsv.cli.options import FLAG, Options, usage
from ljsv.cli.show import print_fault, printable
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.service.images import SQUASHFS, check_image, image_type
from ljsv.service.stored import (
    Manifest,
    StoredImage,
    find,
    image_path,
    list_digests,
    list_names,
    manifest_table,
    parse_name,
    read_manifest,
    read_name,
    resolve,
    stores,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ljsv.images.store import Store

OPTIONS = {
    "-o": "FILE", "-t": "NAME", "-f": "DOCKERFILE", "--target": "STAGE", "--build-arg": "NAME=VALUE", "--net": "none|host", "--no-cache": FLAG,
    "--type": "squashfs|erofs", "--compression": "zstd|xz|gzip|lz4|none", "--level": "NUMBER", "--max-size": "SIZE", "--max-files": "NUMBER",
    "--select": "NAME", "--keep-times": FLAG, "--plain": FLAG, "-q": FLAG, "--json": FLAG, "--digests": FLAG, "--files": FLAG,
    "--format": "tar|oci",
}


def run(_verb: str, options: Options) -> int:
    words = list(options.operands)
    action = words.pop(0) if words else "help"
    if action == "help":
        return _help()
    if action not in ACTIONS:
        raise usage(f"image what? found {action!r}", hint="ljsv image " + "|".join(ACTIONS))
    least, most, shown, act = ACTIONS[action]
    if not least <= len(words) <= most:
        raise usage(f"image {action} wants {shown or 'nothing more'}", hint=f"ljsv image {action} {shown}")
    return int(act(words, options))


def _help() -> int:
    for action, (_, _, shown, act) in ACTIONS.items():
        print(f"ljsv image {f'{action} {shown}':58}  {(act.__doc__ or '').rstrip('.')}".rstrip())
    return EXIT_OK


def _places() -> tuple[str, ...]:
    return stores(os.environ, os.geteuid())


def _svdirs(options: Options) -> tuple[str, ...]:
    """The scan directory of this command, where there is one: its services count as users of images."""
    from ljsv.paths import find_svdir

    try:
        return (os.path.realpath(find_svdir(options.get("--svdir"), dict(os.environ), os.geteuid())[0]),)
    except Fault:
        return ()


def _store() -> Store:
    from ljsv.images.store import open_store

    return open_store()


# ---- looking


def _list(_words: list[str], options: Options) -> int:
    """Names, digests and sizes: --digests, --json."""
    rows = [row for store in _places() for row in _rows(store)]
    if options.has("--json"):
        return _print_json(rows)
    width = max([len(row["name"]) for row in rows] + [4])
    print(f"{'NAME':{width}}  {'DIGEST':{64 if options.has('--digests') else 12}}  {'SIZE':>8}  {'CHANGED':16}  TYPE")
    for row in rows:
        digest = row["digest"] if options.has("--digests") else row["digest"][:12]
        print(f"{row['name'] or '-':{width}}  {digest}  {_size(row['size']):>8}  {row['changed']:16}  {row['type']}{'' if row['is_own'] else '  (root)'}")
    return EXIT_OK


def _rows(store: str) -> list[dict[str, Any]]:
    named: dict[str, list[str]] = {}
    for name in list_names(store):
        try:
            named.setdefault(read_name(store, name), []).append(name)
        except Fault as fault:
            print_fault(fault)
    rows = []
    for digest in list_digests(store):
        path = image_path(store, digest)
        try:
            entry = os.stat(path)
        except FileNotFoundError:
            continue  # it has just been removed
        rows += [
            {
                "name": name, "digest": digest, "size": entry.st_size, "changed": time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.st_mtime)),
                "type": path.rpartition(".")[2], "path": path, "is_own": store == _places()[0],
            }
            for name in named.get(digest, [""])
        ]
    return sorted(rows, key=lambda row: (row["name"] == "", row["name"], row["digest"]))


def _find(text: str) -> StoredImage:
    """An image of a store, or a file that is one."""
    if text.startswith(("/", "./", "../")) or (os.path.isfile(text) and not _is_known(text)):
        check_image(text)
        return StoredImage("", os.path.abspath(text))
    return resolve(text)


def _is_known(text: str) -> bool:
    """Whether a store has an image of that name; a file's may be none."""
    try:
        return find(text, _places()) is not None
    except Fault:
        return False


def _inspect(words: list[str], options: Options) -> int:
    """What it is, what it was made of, what it starts: --files, --json."""
    image = _find(words[0])
    manifest = read_manifest(image.path)
    from ljsv.images.store import digest_of

    table = {
        "name": image.name, "digest": f"sha256:{image.digest or digest_of(image.path)}", "path": image.path, "size": os.stat(image.path).st_size,
        "type": check_image(image.path), **manifest_table(manifest),
    }
    if options.has("--files"):
        return _list_files(image)
    if options.has("--json"):
        return _print_json(table)
    for name in ("name", "digest", "path", "type", "base"):
        if table[name]:
            print(f"{name:12} {table[name]}")
    print(f"{'size':12} {_size(table['size'])} ({table['size']} bytes)")
    for name, text in _shown_defaults(manifest):
        print(f"{name:12} {text}")
    for index, step in enumerate(manifest.history):
        print(f"{'history' if not index else '':12} {step}")
    return EXIT_OK


def _list_files(image: StoredImage) -> int:
    """As `unsquashfs -lln` has them, by their place in the image."""
    if check_image(image.path) != SQUASHFS:
        raise Fault("cannot list the files of an erofs image", image.path, "there is no tool for it that needs no root", hint=f"as root: ljexec --image {quote(image.path)} -- find /")
    import subprocess

    from ljsv.images.output import find_tool

    lister = subprocess.Popen([find_tool("unsquashfs", "squashfs-tools"), "-UTC", "-lln", "-d", "", image.path], stdout=subprocess.PIPE, text=True, errors="surrogateescape")
    assert lister.stdout is not None
    is_terminal = sys.stdout.isatty()
    for line in lister.stdout:
        print(f"{printable(line[:-1])}\n" if is_terminal else line, end="")
    return EXIT_OK if lister.wait() == 0 else EXIT_NOT_REACHED


def _shown_defaults(manifest: Manifest) -> list[tuple[str, str]]:
    import shlex

    defaults, health = manifest.defaults, manifest.defaults.health
    rows = [("env", f"{name}={value}") for name, value in defaults.env]
    rows += [("entrypoint", shlex.join(defaults.entrypoint)), ("command", shlex.join(defaults.command)), ("workdir", defaults.workdir), ("user", defaults.user)]
    rows += [("stop signal", defaults.stop_signal), ("exposes", " ".join(defaults.exposed)), ("volumes", " ".join(defaults.volumes))]
    rows += [("label", f"{name}={value}") for name, value in defaults.labels]
    if health:
        rows.append(("health check", f"{shlex.join(health.argv)} (every {health.interval_s or 30:g}s, {health.retries or 3} tries)"))
    return [(name, text) for name, text in rows if text]


def _verify(_words: list[str], _options: Options) -> int:
    """Read every image again: is it what its name says."""
    store = _store()

    def tell(name: str, fault: str) -> None:
        print(f"{'damaged' if fault else 'ok'}: {name}{': ' if fault else ''}{fault}", flush=True)

    return EXIT_OK if store.verify(tell) else EXIT_NOT_REACHED


# ---- changing


def _build(words: list[str], options: Options) -> int:
    """Make an image of what you have; ljsv image build --help lists the options."""
    from ljsv.images.build import Wish, build, read_epoch
    from ljsv.images.progress import Progress
    from ljsv.service.units import parse_size

    output, names = options.get("-o"), tuple(parse_name(name) for name in options.every("-t"))
    if bool(output) == bool(names):
        raise usage("image build wants either -o FILE or -t NAME" + (", not both" if output else ""), hint=f"ljsv image build {quote(words[0])} -t web:1")
    _choice(options, "--type", ("squashfs", "erofs"))
    _choice(options, "--net", ("none", "host"))
    try:
        max_bytes = parse_size(options.get("--max-size", "8G"))
    except ValueError as error:
        raise usage(f"--max-size wants {error}: found {options.get('--max-size')!r}", hint="--max-size 20G") from None
    arguments = []
    for text in options.every("--build-arg"):
        name, has_value, value = text.partition("=")
        arguments.append((name, value if has_value else os.environ.get(name, "")))
    level = options.get("--level")
    if level and not (level.isascii() and level.isdigit()):
        raise usage(f"--level wants a number: found {level!r}", hint="--level 15")
    wish = Wish(
        source=words[0], output=output, names=names, kind=options.get("--type", "squashfs"), compression=options.get("--compression", "zstd"),
        level=level, epoch=read_epoch(dict(os.environ)), max_bytes=max_bytes, max_entries=int(options.number("--max-files", 1_000_000, low=1)),
        selected=options.get("--select"), keeps_times=options.has("--keep-times"), is_plain=options.has("--plain"), dockerfile=options.get("-f"),
        target=options.get("--target"), arguments=tuple(arguments), network=options.get("--net", "none"), uses_cache=not options.has("--no-cache"),
    )
    progress = Progress(is_quiet=options.has("-q"))
    _catch_signals()
    try:
        image = build(wish, _store(), progress)
    finally:
        progress.end()
    size = os.stat(image.path).st_size
    print(f"ok: {output or ', '.join(names)}: {_size(size)}, sha256:{image.digest}")
    return EXIT_OK


def _import(words: list[str], options: Options) -> int:
    """Take an image file, or what another tool has made, into the store."""
    names = tuple(parse_name(name) for name in options.every("-t"))
    if not names:
        raise usage("image import wants -t NAME", hint=f"ljsv image import {quote(words[0])} -t web:1")
    try:
        with open(words[0], "rb") as file:
            is_image = bool(image_type(file.read(2048)))
    except IsADirectoryError:
        is_image = False
    except OSError as error:
        raise Fault.from_os("cannot read the input", error, words[0], hint="an image file, a tar, an OCI layout or a docker save archive") from None
    if not is_image:
        return _build(words, options)
    from ljsv.images.build import import_image

    _catch_signals()
    image = import_image(words[0], names, _store())
    print(f"ok: {', '.join(names)}: {_size(os.stat(image.path).st_size)}, sha256:{image.digest}")
    return EXIT_OK


def _export(words: list[str], options: Options) -> int:
    """Give it to other tools: a tar, or an OCI layout."""
    from ljsv.images.export import export_oci, export_tar

    target = options.get("-o")
    if not target:
        raise usage("image export wants -o FILE (a tar; - for standard output), or --format oci -o DIR", hint=f"ljsv image export {quote(words[0])} -o {quote(words[0].replace(':', '-').replace('/', '-') + '.tar')}")
    _choice(options, "--format", ("tar", "oci"))
    image = _find(words[0])
    folder = os.path.dirname(os.path.abspath(target))
    if target != "-" and not os.path.isdir(folder):
        raise Fault("cannot export the image", target, f"there is no directory {folder}", hint=f"mkdir -p {quote(folder)}")
    _catch_signals()
    with _store().workspace("" if target == "-" else folder) as work:
        if options.get("--format", "tar") == "oci":
            export_oci(image, target, work)
        else:
            export_tar(image, target, work)
    if target != "-":
        print(f"ok: {target}")
    return EXIT_OK


def _catch_signals() -> None:
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGHUP, _interrupted)


def _interrupted(number: int, _frame: object) -> None:
    """As Ctrl-C does, with an exit code of its own: what is half made is cleared away on the way out."""
    raise KeyboardInterrupt(128 + number)


def _choice(options: Options, name: str, allowed: tuple[str, ...]) -> None:
    if options.get(name, allowed[0]) not in allowed:
        raise usage(f"{name} wants {' or '.join(allowed)}: found {options.get(name)!r}", hint="ljsv image build --help")


def _tag(words: list[str], _options: Options) -> int:
    """Another name for it."""
    name = parse_name(words[1])
    store = _store()
    image = find(words[0], (store.path,)) or resolve(words[0])
    if image.store != store.path:
        raise Fault("cannot tag the image", words[0], f"it is in {image.store}, not in your own store", hint=f"ljsv image import {quote(image.path)} -t {name}")
    store.tag(image, name)
    print(f"ok: {name}: sha256:{image.digest}")
    return EXIT_OK


def _remove(words: list[str], options: Options) -> int:
    """Take the name away, and with the last name the image; refused while it is in use."""
    store, code = _store(), EXIT_OK
    for word in words:
        try:
            name, digest = store.remove(word, _svdirs(options))
            print(f"ok: {name or word}: {'deleted sha256:' + digest if digest else 'untagged'}")
        except Fault as fault:
            print_fault(fault)
            code = fault.exit_code
    return code


def _collect(_words: list[str], options: Options) -> int:
    """Delete what has no name and no user, and the cache of RUN."""
    gone = _store().collect(_svdirs(options))
    for what, size in gone:
        print(f"deleted: {what} ({_size(size)})")
    print(f"ok: {_size(sum(size for _, size in gone))} freed")
    return EXIT_OK


def _print_json(value: Any) -> int:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))
    sys.stdout.flush()
    return EXIT_OK


def _size(size: float) -> str:
    for unit in ("B", "K", "M"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}G"


ACTIONS = {
    "build": (1, 1, "DIR|TAR|LAYOUT|DOCKERFILE [-o FILE | -t NAME]", _build),
    "import": (1, 1, "FILE|LAYOUT -t NAME", _import),
    "export": (1, 1, "NAME|FILE -o FILE [--format tar|oci]", _export),
    "ls": (0, 0, "", _list),
    "inspect": (1, 1, "NAME|FILE", _inspect),
    "tag": (2, 2, "NAME NEW-NAME", _tag),
    "rm": (1, 1000, "NAME...", _remove),
    "gc": (0, 0, "", _collect),
    "verify": (0, 0, "", _verify),
}

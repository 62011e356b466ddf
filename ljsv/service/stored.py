"""What an image says of itself, and where images are kept: the reading half of the image store. Writes nothing.

An image file of ours is a file system and, behind it, a trailer: a JSON
object (what it was made of, and the defaults of what runs in it), blanks up to a
whole 4,096 bytes, and a footer that says where the object is. Mounting ignores
what follows a file system, so one digest names content and defaults alike, and
the file needs nothing beside it. A file without a trailer is an image without
defaults.

A store is a folder: `images/sha256-HEX.squashfs` (or `.erofs`), and `names/` with
one small text file a name, which holds the digest. Both are untrusted input
here: bounded, and checked before use.
"""

from __future__ import annotations

import os
import stat

from ljsv.errors import Fault, quote
from ljsv.frozen import Frozen
from ljsv.service.images import EROFS, SQUASHFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ROOT_STORE = "/var/lib/ljsv/images"
IMAGES, NAMES = "images", "names"
PREFIX = "sha256-"
DEFAULT_TAG = "latest"
NAME_MAX = 128
TAG_MAX = 128
SHORT_DIGEST_MIN = 6
SLASH = "+"  # what stands for the slash of a name in a file's name; no name has one
TRAILER_MAX = 1 << 20
TRAILER_VERSION = 1
FOOTER = "{start:020d}{length:010d}\nljsv image 1\n"
FOOTER_SIZE = 44
_FOOTER_MAGIC = b"\nljsv image 1\n"
_FOOTER_ALIGN = 4096
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/")
_TAG_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_HEX = frozenset("0123456789abcdef")


class HealthCheck(Frozen):
    """A command that ends with 0 when the service is well. Times in seconds; 0 where the image does not say."""

    argv: tuple[str, ...]
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    retries: int = 0


class Defaults(Frozen):
    """What holds for a program of the image where nobody says otherwise. `stop_signal` is without SIG, "" for none."""

    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    stop_signal: str = ""
    health: HealthCheck | None = None
    shell: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """What it runs by itself; () for nothing."""
        return self.entrypoint + self.command


class Manifest(Frozen):
    """What the trailer says. `base` is the digest of the image that this one was built on, "" for none;
    `history` what was done, a line a step; `xattrs` (path, name, value in hexadecimal) of its files, which not every
    reader of the file system tells.
    """

    defaults: Defaults = Defaults()
    base: str = ""
    history: tuple[str, ...] = ()
    xattrs: tuple[tuple[str, str, str], ...] = ()


class StoredImage(Frozen):
    """An image of a store. `digest` is its file's SHA-256 in hexadecimal; `name` the one that was asked for, "" for a digest."""

    digest: str
    path: str
    name: str = ""
    store: str = ""


# ---- names


def parse_name(text: str) -> str:
    """`web`, `web:1`, `team/web:1` with its tag; Fault for what is no name."""
    name, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        name, tag = text, DEFAULT_TAG
    parts = name.split("/")
    is_name = (
        0 < len(name) <= NAME_MAX and set(name) <= _NAME_CHARACTERS
        and all(part and part[0].isalnum() and part[-1].isalnum() for part in parts)
    )
    if not is_name or name == "sha256" or not 0 < len(tag) <= TAG_MAX or not set(tag) <= _TAG_CHARACTERS or tag[0] in ".-":
        cause = "sha256: begins a digest" if name == "sha256" else "a name has lower-case letters, digits, and . _ - / between them, and after a colon a tag"
        raise Fault("not an image's name", text, cause, hint="name it like web, web:1 or team/web:2024-05")
    return f"{name}:{tag}"


def is_digest(text: str) -> bool:
    """Whether it names an image by its digest, whole or its beginning: sha256:HEX or sha256-HEX."""
    prefix, digits = text[:7], text[7:]
    return prefix in {"sha256:", "sha256-"} and SHORT_DIGEST_MIN <= len(digits) <= 64 and set(digits) <= _HEX


def name_file(store: str, name: str) -> str:
    return f"{store}/{NAMES}/{name.replace('/', SLASH)}"


def name_of_file(file: str) -> str:
    return file.replace(SLASH, "/")


def own_store(environ: Mapping[str, str], uid: int) -> str:
    """Where this user's images are, there or not: $LJSV_IMAGES, or the usual place. Fault where that cannot be told."""
    named = environ.get("LJSV_IMAGES", "")
    if named:
        if not named.startswith("/"):
            raise Fault("not an absolute path", "LJSV_IMAGES", named, hint=f"LJSV_IMAGES={os.path.abspath(named)}")
        return os.path.normpath(named)
    if uid == 0:
        return ROOT_STORE
    base = environ.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            raise Fault("cannot tell where images belong", "HOME", "not set", hint="set HOME or XDG_DATA_HOME to a directory of yours")
        base = f"{home}/.local/share"
    return f"{base}/ljsv/images"


def stores(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """Where images are looked for: the user's own store, then root's."""
    try:
        own = own_store(environ, uid)
    except Fault:
        return (ROOT_STORE,)
    return (own,) if own == ROOT_STORE else (own, ROOT_STORE)


# ---- resolving


def resolve(text: str, *, environ: Mapping[str, str] | None = None, uid: int | None = None) -> StoredImage:
    """The image of that name or digest, from the user's own store or root's. Fault (with a guess) where there is none."""
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    found = find(text, stores(environ, uid))
    if found:
        return found
    known = [name for store in stores(environ, uid) for name in list_names(store)]
    from difflib import get_close_matches

    close = get_close_matches(text, known, 1)
    hint = f"did you mean {close[0]}?" if close else "ljsv image ls  # shows what there is; ljsv image build INPUT -t NAME makes one"
    raise Fault("no such image", text, f"not in {' or '.join(stores(environ, uid))}", hint=hint)


def find(text: str, places: tuple[str, ...]) -> StoredImage | None:
    """The image of that name or digest in the first of the stores that has it."""
    if is_digest(text):
        for store in places:
            digests = [digest for digest in list_digests(store) if digest.startswith(text[7:])]
            if len(digests) > 1:
                raise Fault("more than one image", text, f"{len(digests)} digests begin so", hint="ljsv image ls --digests")
            if digests:
                return StoredImage(digests[0], image_path(store, digests[0]), store=store)
        return None
    name = parse_name(text)
    for store in places:
        digest = read_name(store, name)
        if digest:
            path = image_path(store, digest)
            if not path:
                raise Fault("the image is not there", f"{name} ({store})", f"sha256:{digest} is gone", hint="build or import it again")
            return StoredImage(digest, path, name, store)
    return None


def read_name(store: str, name: str) -> str:
    """The digest that the name stands for, "" for none."""
    try:
        fd = os.open(name_file(store, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Fault.from_os("cannot read the image's name", error, name_file(store, name), hint=f"ls -ld {quote(store)} {quote(f'{store}/{NAMES}')}") from None
    try:
        text = os.read(fd, 256).decode(errors="replace").strip()
    finally:
        os.close(fd)
    digest = text.removeprefix("sha256:")
    if len(digest) != 64 or not set(digest) <= _HEX:
        raise Fault("the image's name is damaged", name_file(store, name), "it holds no digest", hint=f"ljsv image rm {name}")
    return digest


def image_path(store: str, digest: str) -> str:
    """The file of that digest, "" for none."""
    for kind in (SQUASHFS, EROFS):
        path = f"{store}/{IMAGES}/{PREFIX}{digest}.{kind}"
        if os.path.isfile(path):
            return path
    return ""


def list_names(store: str) -> list[str]:
    """Every name there, sorted."""
    try:
        files = os.listdir(f"{store}/{NAMES}")
    except OSError:
        return []
    return sorted(name_of_file(file) for file in files if not file.startswith("."))


def list_digests(store: str) -> list[str]:
    """Every image there, sorted."""
    try:
        files = os.listdir(f"{store}/{IMAGES}")
    except OSError:
        return []
    return sorted(file[len(PREFIX) :].split(".")[0] for file in files if file.startswith(PREFIX))


# ---- the trailer


def make_trailer(manifest: Manifest, start: int) -> bytes:
    """What is written behind a file system that ends at `start`, a multiple of 4,096. The same values give the same bytes."""
    import json

    text = json.dumps(manifest_table(manifest), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogateescape")
    if len(text) > TRAILER_MAX:
        raise Fault("what the image says of itself is too long", f"{len(text)} bytes", f"at most {TRAILER_MAX}", hint="fewer or shorter labels, variables and steps")
    footer = FOOTER.format(start=start, length=len(text)).encode()
    blanks = -(len(text) + len(footer)) % _FOOTER_ALIGN
    return text + b" " * blanks + footer


def read_manifest(path: str) -> Manifest:
    """What the image at `path` says of itself; without a trailer the empty one. Fault where it is damaged."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        entry = os.fstat(fd)
        if not stat.S_ISREG(entry.st_mode) or entry.st_size < FOOTER_SIZE:
            return Manifest()
        footer = os.pread(fd, FOOTER_SIZE, entry.st_size - FOOTER_SIZE)
        if footer[30:] != _FOOTER_MAGIC:
            return Manifest()
        start, length = int(footer[:20]), int(footer[20:30])
        if not (0 <= length <= TRAILER_MAX and 0 <= start <= entry.st_size - FOOTER_SIZE - length):
            raise ValueError("its footer leads out of the file")  # noqa: TRY301 - one place that tells it
        import json

        return manifest_of(json.loads(os.pread(fd, length, start).decode(errors="surrogateescape")))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise Fault("what the image says of itself is damaged", path, str(error), hint="build or import it again") from None
    finally:
        os.close(fd)


def manifest_table(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain values, for the trailer and for `inspect --json`."""
    defaults = manifest.defaults
    health = defaults.health
    return {
        "version": TRAILER_VERSION,
        "base": manifest.base,
        "history": list(manifest.history),
        "xattrs": [list(entry) for entry in manifest.xattrs],
        "defaults": {
            "env": [list(pair) for pair in defaults.env],
            "workdir": defaults.workdir,
            "user": defaults.user,
            "entrypoint": list(defaults.entrypoint),
            "command": list(defaults.command),
            "stop_signal": defaults.stop_signal,
            "shell": list(defaults.shell),
            "exposed": list(defaults.exposed),
            "volumes": list(defaults.volumes),
            "labels": [list(pair) for pair in defaults.labels],
            "health": health and {
                "argv": list(health.argv), "interval_s": health.interval_s, "timeout_s": health.timeout_s,
                "start_period_s": health.start_period_s, "retries": health.retries,
            },
        },
    }


def manifest_of(table: Any) -> Manifest:
    """The manifest that such a table says. ValueError, TypeError or LookupError where it is none."""
    if table["version"] != TRAILER_VERSION:
        raise ValueError(f"version {table['version']} is not known to this ljsv")
    given = table["defaults"]
    health = given["health"]
    defaults = Defaults(
        env=_pairs(given["env"]), workdir=_text(given["workdir"]), user=_text(given["user"]), entrypoint=_texts(given["entrypoint"]),
        command=_texts(given["command"]), stop_signal=_text(given["stop_signal"]), shell=_texts(given["shell"]), exposed=_texts(given["exposed"]),
        volumes=_texts(given["volumes"]), labels=_pairs(given["labels"]),
        health=HealthCheck(
            _texts(health["argv"]), _seconds(health["interval_s"]), _seconds(health["timeout_s"]), _seconds(health["start_period_s"]), int(health["retries"])
        ) if health else None,
    )
    xattrs = []
    for item in table["xattrs"]:
        path, name, value = _texts(item)
        bytes.fromhex(value)
        xattrs.append((path, name, value))
    return Manifest(defaults, _text(table["base"]), _texts(table["history"]), tuple(xattrs))


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"not a text: {str(value)[:60]!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"not a list: {str(value)[:60]!r}")
    return tuple(_text(item) for item in value)


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in value:
        name, text = _texts(item)
        pairs.append((name, text))
    return tuple(pairs)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ValueError(f"not a time in seconds: {str(value)[:60]!r}")
    return float(value)

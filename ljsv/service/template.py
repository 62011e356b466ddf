"""Service templates: a directory of files with settings in them, `@port@`, and a `template.toml` that declares these.

The value of a setting is checked by its kind, and no kind allows a character
that would need quotes in a shell, in TOML or in a configuration file: so the
files say it wherever they like, and none can be broken by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from ljsv.errors import EXIT_USAGE, Fault, quote

DECLARATION = "template.toml"
FILES_MAX, FILE_MAX, DEPTH_MAX = 256, 1 << 20, 8
SETTING = re.compile(r"@([a-z][a-z0-9_]*)@")

# kind: (what matches whole, in words)
KINDS = {
    "port": (r"[1-9][0-9]{0,4}", "a port, 1 to 65535"),
    "number": (r"[0-9]{1,9}", "a whole number"),
    "size": (r"[1-9][0-9]{0,8}[KMGT]", 'a size with its unit, in powers of 1024: "64K", "512M", "2G"'),
    "word": (r"[A-Za-z0-9_][A-Za-z0-9_.:,=+-]{0,254}", "letters, digits and _ . : , = + - (not first)"),
    "path": (r"/[A-Za-z0-9_./:,=+-]{0,1023}", "an absolute path of letters, digits and _ . / : , = + -"),
    "root": (r"[A-Za-z0-9_./][A-Za-z0-9_./:+-]{0,1023}", '"host", the name of an image, or the absolute path of an image or a directory'),
    "own_root": (r"[A-Za-z0-9_./][A-Za-z0-9_./:+-]{0,1023}", "the name of an image, or the absolute path of an image or a directory"),
}
Kind = Literal["port", "number", "size", "word", "path", "root", "own_root"]


@dataclass(frozen=True)
class Setting:
    """One that a template declares; without a default it has to be given."""

    kind: Kind
    about: str
    default: str = ""


@dataclass(frozen=True)
class Template:
    """`template.toml`. `packages` are Debian's, for its root; `text` is what has to be known, a few lines."""

    summary: str
    listens: str = "nothing"
    stores: str = "nothing"
    needs: str = "nothing"
    packages: tuple[str, ...] = ()
    text: str = ""
    set: dict[str, Setting] = field(default_factory=dict)


def find_template(name: str, folder: str = "") -> Traversable:
    """Its directory: below `folder` where that is given, else one of ours. Fault with what there is."""
    places = list_templates(folder)
    if name in places:
        return places[name]
    from difflib import get_close_matches

    close = get_close_matches(name, places, 1)
    where = folder or "those that come with ljsv"
    hint = f"ljsv new --templates{f' --template-dir {quote(folder)}' if folder else ''}"
    raise Fault(f"no such template: {name}" + (f": did you mean {close[0]}?" if close else ""), "", f"not among {where}", hint=hint, exit_code=EXIT_USAGE)


def list_templates(folder: str = "") -> dict[str, Traversable]:
    """Name and directory of each: of `folder`, else of what comes with ljsv. Fault where `folder` cannot be read."""
    top: Traversable = Path(folder) if folder else files("ljsv") / "resources/templates"
    try:
        return {item.name: item for item in sorted(top.iterdir(), key=lambda item: item.name) if (item / DECLARATION).is_file()}
    except OSError as error:
        raise Fault.from_os("cannot read the templates", error, folder, hint=f"ls -ld {quote(folder)}") from None


def read_template(folder: Traversable) -> Template:
    """What it declares, whole and checked; each setting of its files is declared, and each that is declared is used."""
    from ljsv.service.toml import parse

    template = parse((folder / DECLARATION).read_bytes(), Template, f"{folder}/{DECLARATION}")
    used = {name for _, data in read_files(folder) for name in _settings_in(data)}
    for name in sorted(used ^ set(template.set)):
        cause = "not declared" if name in used else "declared, and no file says it"
        raise Fault(f"{folder}: @{name}@", "", cause, hint=f"${{EDITOR:-vi}} {quote(f'{folder}/{DECLARATION}')}")
    for name, setting in template.set.items():
        if setting.default:
            check(name, setting, setting.default)
    return template


def render(folder: Traversable, values: dict[str, str]) -> list[tuple[str, bytes]]:
    """Path and content of each file, with the settings in their places; what is not UTF-8 is left as it is."""
    rendered = []
    for path, data in read_files(folder):
        try:
            rendered.append((path, put(data.decode(), values).encode()))
        except UnicodeDecodeError:
            rendered.append((path, data))
    return rendered


def put(text: str, values: dict[str, str]) -> str:
    return SETTING.sub(lambda match: values.get(match[1], match[0]), text)


def choose(template: Template, given: dict[str, str], name: str) -> dict[str, str]:
    """The value of each setting: as given, else its default."""
    from difflib import get_close_matches

    for key in given:
        if key not in template.set:
            close = get_close_matches(key, template.set, 1)
            cause = f"did you mean {close[0]}?" if close else "it has " + (", ".join(template.set) or "none")
            raise Fault(f"{name}: no such setting: {key}", "", cause, hint=f"ljsv new --templates {name}", exit_code=EXIT_USAGE)
    values = {}
    for key, setting in template.set.items():
        value = given.get(key, setting.default)
        if not value and key not in given:
            raise Fault(f"{name}: {key} has to be given", "", setting.about, hint=f"ljsv new --templates {name}", exit_code=EXIT_USAGE)
        check(key, setting, value)
        values[key] = value
    return values


def check(key: str, setting: Setting, value: str) -> None:
    """Fault (100) where the value is not of the setting's kind."""
    pattern, allowed = KINDS[setting.kind]
    ok = re.fullmatch(pattern, value) is not None
    if ok and setting.kind == "port":
        ok = int(value) <= 65_535
    elif ok and setting.kind == "path":
        ok = ".." not in value.split("/")
    elif ok and setting.kind == "own_root":
        ok = value != "host"
        allowed += '; "host" cannot be written to, and this keeps its data in an overlay'
    if not ok:
        raise Fault(f"{key}: found {value[:60]!r}", "", f"allowed: {allowed}", exit_code=EXIT_USAGE, hint=f"ljsv new ... --set {key}={setting.default or 'VALUE'}")


def read_files(folder: Traversable) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file but the declaration, in order; Fault where it is more than a template may be."""
    found = 0
    for path, item in _walk(folder, "", 0):
        if path == DECLARATION:
            continue
        found += 1
        data = item.read_bytes()
        if found > FILES_MAX or len(data) > FILE_MAX:
            raise Fault("too large for a template", str(folder), f"at most {FILES_MAX} files of {FILE_MAX >> 20} MiB each", hint=f"du -a {quote(str(folder))}")
        yield path, data


def _walk(folder: Traversable, above: str, depth: int) -> Iterator[tuple[str, Traversable]]:
    if depth > DEPTH_MAX:
        raise Fault("too deep for a template", str(folder), f"at most {DEPTH_MAX} directories in each other", hint=f"find {quote(str(folder))} -type d")
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{above}{item.name}"
        if item.is_dir() and item.name != "__pycache__":  # installers compile whatever ends with .py
            yield from _walk(item, f"{path}/", depth + 1)
        elif item.is_file():
            yield path, item


def _settings_in(data: bytes) -> Iterator[str]:
    try:
        yield from SETTING.findall(data.decode())
    except UnicodeDecodeError:
        return

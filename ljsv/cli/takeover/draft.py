"""A service directory that is being made from something else, and what there is to say of it. Pure but for `write` and the look at paths.

Nothing is dropped in silence: what was made otherwise than it was is
`changed`, what has no counterpart is `lost`, and both are told with the place
where they stood.
"""

from __future__ import annotations

import json
import os
import re
import resource
import stat
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CHANGED, LOST = "changed", "not carried over"
# What a program may be told of by an absolute path, beside what `base = "host"` shows.
_PATH = re.compile(r"(?<![\w./$}-])/(?:etc|var|srv|home|root|data|mnt)(?:/[\w.+@%-]+)+")
SHOWN = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/localtime", "/etc/ssl/certs", "/etc/alternatives")
# Too much to be shown for the sake of one service.
_TOO_WIDE = frozenset({"/", "/etc", "/var", "/srv", "/home", "/root", "/boot", "/mnt", "/media", "/var/lib", "/var/log", "/var/spool", "/var/cache", "/var/run", "/var/tmp", "/etc/default", "/etc/sv", "/etc/service", "/etc/runit", "/etc/init.d"})
# Of these each jail has its own, or shows the host's read-only.
_OWN = ("/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", "/usr", "/bin", "/sbin", "/lib", "/opt")
_WRITTEN = ("/var/lib/", "/var/log/", "/var/spool/", "/var/cache/", "/var/mail/", "/srv/")
FILE_MAX = 1 << 20


@dataclass
class Draft:
    """`files`: path in the service directory -> (content, mode). `rootfs`, `limits` and `policy` as TOML tables."""

    name: str
    origin: str
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    rootfs: dict[str, Any] = field(default_factory=lambda: {"base": "host"})
    limits: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    lacks_image: bool = False  # its base is to be made first, and that has been said
    said: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def changed(self, text: str, where: str = "") -> None:
        self.say(CHANGED, text, where)

    def lost(self, text: str, where: str = "") -> None:
        self.say(LOST, text, where)

    def say(self, kind: str, text: str, where: str = "") -> None:
        """`where` is `line N: KEY=VALUE`; lines of which the same is said are told together."""
        places = self.said.setdefault((kind, text), [])
        if where and where not in places:
            places.append(where)

    def told(self) -> Iterator[str]:
        """A line for each thing that there is to say, in the order in which it came up."""
        for (kind, text), places in self.said.items():
            if not text or len(places) < 2:
                yield from (": ".join(filter(None, (kind, place, text))) for place in places or [""])
            else:
                yield f"{kind}: {', '.join(place.partition('=')[0] for place in places)}: {text}"

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        self.files[path] = (text.encode(errors="surrogateescape"), mode)

    def set_policy(self, table: str, key: str, value: object) -> None:
        self.policy.setdefault(table, {})[key] = value

    def set_nofile(self, wanted: int, where: str) -> None:
        """No more than may be asked for here: who started it had perhaps a higher limit of his own."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and wanted > hard:
            self.changed(f"nofile = {hard} in limits: more is not allowed here (ulimit -Hn)", where)
            wanted = hard
        self.limits["nofile"] = wanted

    def add_need(self, name: str) -> None:
        needs = self.policy.setdefault("needs", [])
        if name not in needs and name != self.name:
            needs.append(name)

    def add_bind(self, source: str, to: str, *, writable: bool = False) -> None:
        """As root what is writable shows the jail's ids: its files belong to ids that the jail does not have otherwise."""
        binds = self.rootfs.setdefault("bind", [])
        if any(bind["to"] == to for bind in binds):
            return
        bind: dict[str, Any] = {"from": source, "to": to}
        if writable:
            bind |= {"writable": True} | ({"ids": "map"} if os.geteuid() == 0 else {})
        binds.append(bind)

    def add_path(self, path: str, where: str, *, writable: bool) -> None:
        """Bind what a service says it reads or writes there, unless a jail has its own, or it would be half of the host."""
        path = os.path.normpath(path)
        if path in _TOO_WIDE:
            if writable:
                self.lost(f"{path} is too much to be shown: bind what it needs of it in rootfs", where)
        elif not any(path == own or path.startswith(f"{own}/") for own in _OWN):
            self.add_bind(path, path, writable=writable)

    def show_paths(self, text: str, where: str) -> None:
        """Bind what `text` names of the host's /etc, /var and so on, which a jail with `base = "host"` does not see."""
        if self.rootfs["base"] != "host":
            return
        for path in dict.fromkeys(_PATH.findall(_without_comments(text))):
            if path.startswith((*SHOWN, "/var/run/", "/etc/runit/", "/etc/service/")):
                continue
            if path in _TOO_WIDE:
                self.lost(f"{where}: {path} is too much to be shown: bind what it needs of it in rootfs")
            elif os.path.exists(path):
                is_writable = path.startswith(_WRITTEN)
                self.add_bind(path, path, writable=is_writable)
                self.changed(f"{where}: {path} is the host's, and bound {'writable' if is_writable else 'read-only'} (rootfs)")
            else:
                self.lost(f"{where}: {path} is not there on this host: bind it in rootfs when it is")

    def show_usual(self, words: set[str]) -> None:
        """Bind what programs of these names usually have: /etc/NAME, /var/lib/NAME."""
        if self.rootfs["base"] != "host":
            return
        for word in sorted(word for word in words if word.isascii() and len(word) > 2 and "/" not in word):
            for path, is_writable in ((f"/etc/{word}", False), (f"/var/lib/{word}", True)):
                if os.path.isdir(path) and not os.path.islink(path) and path not in _TOO_WIDE and not path.startswith(SHOWN):
                    self.add_bind(path, path, writable=is_writable)
                    self.changed(f"{path} is the host's, and bound {'writable' if is_writable else 'read-only'} (rootfs), since programs of its name use it")

    def write(self, staged: str) -> None:
        """Make the directory `staged` of it. OSError."""
        os.mkdir(staged, 0o755)
        for name, table in (("rootfs", self.rootfs), ("limits", self.limits), ("policy", self.policy)):
            if table:
                self.put(name, f"# Made from {self.origin}\n{format_toml(table)}")
        for path, (data, mode) in sorted(self.files.items()):
            os.makedirs(os.path.dirname(f"{staged}/{path}"), mode=0o755, exist_ok=True)
            fd = os.open(f"{staged}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, mode)
                file.write(data)


def _without_comments(script: str) -> str:
    return "\n".join("" if line.lstrip().startswith("#") and not line.startswith("#!") else line for line in script.splitlines())


def format_toml(table: dict[str, Any]) -> str:
    """Plain keys first, then tables, then arrays of tables, one level deep."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_value(item)}" for name, item in value.items())]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {_value(item)}" for name, item in row.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def read_tree(directory: str, skip: frozenset[str]) -> tuple[dict[str, tuple[bytes, int]], list[str]]:
    """(path -> content and mode of each regular file below, what is none and so left out). OSError; too large is left out."""
    found: dict[str, tuple[bytes, int]] = {}
    left_out = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name not in skip)
        left_out += [os.path.relpath(f"{folder}/{name}", directory) for name in folders if os.path.islink(f"{folder}/{name}")]
        for name in sorted(names):
            path = f"{folder}/{name}"
            shown = os.path.relpath(path, directory)
            if name in skip:
                continue
            entry = os.stat(path, follow_symlinks=False)
            if stat.S_ISLNK(entry.st_mode) and os.path.isfile(path):
                entry = os.stat(path)
            if not stat.S_ISREG(entry.st_mode) or entry.st_size > FILE_MAX:
                left_out.append(shown)
                continue
            with open(path, "rb") as file:
                found[shown] = (file.read(FILE_MAX), stat.S_IMODE(entry.st_mode) & 0o755)
    return found, left_out

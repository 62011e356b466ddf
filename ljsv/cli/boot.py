"""What makes a scanner start with the machine, for each init: files to write and links to make, as values. Pure but for `detect`."""

from __future__ import annotations

import os
from importlib.resources import files

from ljsv.errors import Fault
from ljsv.frozen import Frozen

MARK = "Made by ljsv enable-boot"
SYSTEMD, OPENRC, INITTAB, RUNIT = "systemd", "openrc", "inittab", "runit"
INITS = (SYSTEMD, OPENRC, INITTAB, RUNIT)
_UNSAFE = frozenset(" \t\n\"'\\$%;&|<>`*?#:")


class File(Frozen):
    """`text` at `path`. `is_part`: it is appended to what is there already."""

    path: str
    text: str
    mode: int = 0o644
    is_part: bool = False


class Link(Frozen):
    """A symlink at `path`: by it the init starts the service."""

    path: str
    target: str


class Boot(Frozen):
    """Everything for one init, and what to run afterwards."""

    files: tuple[File, ...]
    links: tuple[Link, ...]
    then: tuple[str, ...]


def detect(root: str) -> str:
    """The init of the system in `root`; Fault where it is none that we know."""

    def has(*paths: str) -> bool:
        return any(os.path.lexists(f"{root}{path}") for path in paths)

    def init_is(word: str) -> bool:
        return word in os.path.basename(os.path.realpath(f"{root}/sbin/init"))

    if (not root and has("/run/systemd/system")) or init_is("systemd"):
        return SYSTEMD
    if has("/sbin/openrc-run", "/usr/sbin/openrc-run"):
        return OPENRC
    if has("/etc/runit/2") or init_is("runit"):
        return RUNIT
    if has("/etc/inittab") or init_is("busybox"):
        return INITTAB
    if has("/lib/systemd/systemd", "/usr/lib/systemd/systemd"):
        return SYSTEMD
    hint = f"ljsv enable-boot --init {'|'.join(INITS)}; or let ljsv be the init itself: man ljsv-init"
    raise Fault("cannot tell what starts this system", root or "/", "neither systemd, OpenRC, runit nor an inittab", hint=hint)


def plan_boot(init: str, command: str, svdir: str, *, config_home: str = "", is_busybox: bool = False, has_vendor_unit: bool = False) -> Boot:
    """What to write. `config_home`: for a user, where his units are (systemd only); `has_vendor_unit`: a package has brought the unit."""
    for path in (command, svdir):
        if not path.startswith("/") or set(path) & _UNSAFE:
            raise Fault("cannot be named in a boot file", path, "it has to be an absolute path of plain characters", hint="install ljsv in such a place")
    if config_home:
        folder = f"{config_home}/systemd/user"
        unit = File(f"{folder}/ljsv.service", read("systemd-user.service", command, svdir))
        his = ("systemctl --user daemon-reload", "systemctl --user start ljsv", "loginctl enable-linger    # so that it runs without a login")
        return Boot((unit,), (Link(f"{folder}/default.target.wants/ljsv.service", "../ljsv.service"),), his)
    if init == SYSTEMD:
        wants = "/etc/systemd/system/multi-user.target.wants/ljsv.service"
        then = ("systemctl daemon-reload", "systemctl start ljsv")
        if has_vendor_unit:
            return Boot((), (Link(wants, "/lib/systemd/system/ljsv.service"),), then)
        return Boot((File("/etc/systemd/system/ljsv.service", read("systemd.service", command, svdir)),), (Link(wants, "../ljsv.service"),), then)
    if init == OPENRC:
        script = File("/etc/init.d/ljsv", read("openrc", command, svdir), 0o755)
        return Boot((script,), (Link("/etc/runlevels/default/ljsv", "/etc/init.d/ljsv"),), ("rc-service ljsv start",))
    if init == RUNIT:
        scripts = (
            File("/etc/sv/ljsv/run", read("runit-run", command, svdir), 0o755),
            File("/etc/sv/ljsv/control/d", read("runit-control-d", command, svdir), 0o755),
        )
        return Boot(scripts, (Link("/etc/service/ljsv", "/etc/sv/ljsv"),), ("sv status ljsv",))
    identity = "::" if is_busybox else "lj:2345:"
    line = File("/etc/inittab", read("inittab", command, svdir).replace("@ID@", identity), is_part=True)
    return Boot((line,), (), ("kill -HUP 1    # init reads its inittab",))


def read(name: str, command: str, svdir: str) -> str:
    """One of the files that ship with ljsv, with its paths put in."""
    return (files("ljsv") / "resources/boot" / name).read_text().replace("@LJSV@", command).replace("@SVDIR@", svdir)

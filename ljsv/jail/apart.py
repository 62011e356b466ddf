"""What a jail may write must not be looked up for its next start: it could put a symlink there, and be given what it leads to (CVE-2017-1002101)."""

from __future__ import annotations

import os

from ljsv.errors import Fault, quote
from ljsv.jail.spec import DIRECT, DIRECTORY, HOST, IMAGE, OVERLAY, JailSpec
from ljsv.paths import SERVICE_FILES

LINKS_MAX = 40  # the kernel's own bound (path_resolution(7)): beyond it the start itself fails
_IN_THE_JAIL = frozenset({"run", "finish", "check", "control", "down"})  # what these say, it may say itself


def check_apart(spec: JailSpec) -> None:
    """Fault where anything that the start looks up lies in a place that the jail may write, or is one."""
    shared = [os.path.realpath(bind.source) for bind in spec.binds if bind.writable]
    written = list(shared)
    if spec.writable == DIRECT and spec.base_kind == DIRECTORY:
        written.append(os.path.realpath(spec.base_path))
    if spec.writable == OVERLAY:
        written.append(os.path.realpath(spec.overlay))
    if not written:
        return
    for bind in spec.binds:
        _refuse(spec, bind.source, written, follow(bind.source)[:-1])
    if spec.base_kind != HOST:
        named = spec.base_named or spec.base_path
        *looked_up_in, itself = follow(named)
        _refuse(spec, named, written, looked_up_in)
        _refuse(spec, named, shared, [itself] if spec.base_kind == IMAGE else [])
    if spec.writable == OVERLAY:
        *looked_up_in, itself = follow(spec.overlay)
        _refuse(spec, spec.overlay, written, looked_up_in)
        _refuse(spec, spec.overlay, shared, [itself])
    if spec.directory:
        _refuse(spec, spec.directory, written, follow(spec.directory))
        _check_files(spec, shared)


def _check_files(spec: JailSpec, shared: list[str]) -> None:
    """Those of its service directory that say what its jail is."""
    for name in SERVICE_FILES - _IN_THE_JAIL:
        path = f"{spec.directory}/{name}"
        if name != "rootfs" or not os.path.isdir(path):
            _refuse(spec, path, shared, follow(path) if os.path.islink(path) else [path])


def _refuse(spec: JailSpec, path: str, written: list[str], reals: list[str]) -> None:
    """Fault where one of these real paths is one that is written, or lies in it."""
    for real in reals:
        inside = next((place for place in written if real == place or real.startswith(f"{place.rstrip('/')}/")), "")
        if inside:
            cause = f"it lies in {inside}, which the jail may write, and could put something else in its place"
            raise Fault("cannot trust the path", path, cause, hint=f"ls -ld {quote(path)}  # name places beside each other in {spec.origin}")


def follow(path: str) -> list[str]:
    """The real directories in which something is looked up on the way to an absolute path, through every symlink; at last what it leads to."""
    found: list[str] = []
    at, links = "/", 0
    rest = path.split("/")[::-1]
    while rest and links <= LINKS_MAX:
        name = rest.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        found.append(at)
        step = os.path.join(at, name)
        try:
            target = os.readlink(step)
        except OSError:  # no symlink, or nothing
            at = step
            continue
        links += 1
        at = "/" if target.startswith("/") else at
        rest += target.split("/")[::-1]
    return [*found, at]

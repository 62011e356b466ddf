"""`ljsv enable-boot`: have this machine's init start a scanner, or print what would do it."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import PurePath

from ljsv.cli import boot
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import trust_fault

OPTIONS = {"--print": "", "--user": "", "--init": "|".join(boot.INITS), "--root": "DIR", "--command": "PATH", "--svdir": "DIR"}
SVDIR = "/etc/ljsv/sv"
VENDOR_UNITS = ("/lib/systemd/system/ljsv.service", "/usr/lib/systemd/system/ljsv.service")


def run(_verb: str, options: Options) -> int:
    if options.operands:
        raise usage("enable-boot takes no NAME: it is about the scanner, which starts what has no down file")
    root = os.path.abspath(options.get("--root")).rstrip("/") if options.has("--root") else ""
    is_user = options.has("--user")
    if is_user and (root or options.has("--init")):
        raise usage("--user goes with neither --root nor --init: a user's services are systemd's")
    init = boot.SYSTEMD if is_user else _init(options, root)
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("HOME", "") + "/.config"
    svdir = options.get("--svdir") or (f"{home}/ljsv/sv" if is_user else SVDIR)
    command = options.get("--command") or _own_command()
    plan = boot.plan_boot(
        init, command, svdir, config_home=home if is_user else "", is_busybox=_is_busybox(root),
        has_vendor_unit=not is_user and any(os.path.exists(root + path) for path in VENDOR_UNITS),
    )
    if options.has("--print"):
        _print(plan, root)
        return EXIT_OK
    if not is_user and os.geteuid():
        raise Fault("cannot change how the machine starts", root or "/", f"you are uid {os.geteuid()}", hint="sudo ljsv enable-boot  # or for yourself: ljsv enable-boot --user")
    if not root and not is_user:
        _check_command(command)
    for path in (svdir, *(file.path for file in plan.files), *(link.path for link in plan.links)):
        _check_inside(root, path)
    _make_directory(root + svdir)
    changes = [_write(root, file) for file in plan.files] + [_link(root, link) for link in plan.links]
    print("\n".join(changes))
    has_written = any(change.startswith("wrote") for change in changes)
    if root:  # another system's: nothing of it starts here
        if not has_written:
            print("nothing to do")
        return EXIT_OK
    print("then, to start it now:" if has_written else "nothing to do; to start it now:")
    for line in plan.then:
        print(f"    {line}")
    return EXIT_OK


def _init(options: Options, root: str) -> str:
    init = options.get("--init") or boot.detect(root)
    if init not in boot.INITS:
        raise usage(f"--init: found {init}", hint=f"allowed: {', '.join(boot.INITS)}")
    return init


def _own_command() -> str:
    """How this very ljsv was called, as an absolute path."""
    called = sys.argv[0]
    path = called if "/" in called else shutil.which(called) or ""
    if not (path and os.access(path, os.X_OK)):
        raise Fault("cannot tell how ljsv is called", called, "it was not started by a command of its own", hint="ljsv enable-boot --command /usr/bin/ljsv")
    return os.path.abspath(path)


def _check_command(command: str) -> None:
    """What root runs at every start must be root's, and every directory on the way to it: who may write one puts another file there."""
    try:
        entry = os.stat(command)
    except OSError as error:
        raise Fault.from_os("cannot use it at boot", error, command, hint="name another: --command PATH") from None
    why = f"belongs to uid {entry.st_uid}" if entry.st_uid else f"others may write it (mode {entry.st_mode & 0o7777:04o})" if entry.st_mode & 0o022 else ""
    for folder in map(str, (*PurePath(command).parents, *PurePath(os.path.realpath(command)).parents)):
        fault = trust_fault(folder, 0, strict=True)
        why = why or (f"{folder}: {fault}" if fault else "")
    if why:
        raise Fault("root will not run it at boot", command, why, hint="install ljsv for the system (docs/install.md), or name another: --command PATH")


def _is_busybox(root: str) -> bool:
    """Whether init is busybox's, whose inittab has no runlevels."""
    return os.path.realpath(f"{root}/sbin/init").endswith("busybox")


def _check_inside(root: str, path: str) -> None:
    """A link in an image that leads to /etc is meant for the machine that boots it, and leads into ours."""
    folder = os.path.realpath(os.path.dirname(root + path))
    inside = os.path.realpath(root or "/").rstrip("/")
    if not f"{folder}/".startswith(f"{inside}/"):
        raise Fault("will not write outside of the root", root + path, f"it leads to {folder}", hint=f"ls -l {quote(os.path.dirname(root + path))}  # make it a relative link")


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise Fault.from_os("cannot make the scan directory", error, path, hint=f"mkdir -p {quote(path)}") from None


def _write(root: str, file: boot.File) -> str:
    """Write it, but never over what another has made; what was done."""
    path = root + file.path
    try:
        there = _read(path)
        if file.is_part:
            if boot.MARK in there:
                if file.text in there:
                    return f"unchanged: {path}"
                raise Fault("there is an older line of ours", path, "it differs", hint="take it out, and run ljsv enable-boot again")
            text = there + ("" if there.endswith("\n") or not there else "\n") + file.text
        elif there and boot.MARK not in there:
            raise Fault("will not overwrite", path, "ljsv enable-boot has not made it", hint="ljsv enable-boot --print  # shows what it would be; or move the file away")
        elif there == file.text:
            return f"unchanged: {path}"
        else:
            text = file.text
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = f"{path}.ljsv-new"
        mode = os.stat(path).st_mode & 0o7777 if there and file.is_part else file.mode
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # what a killed one has left, or a link
        with open(temporary, "x") as out:
            out.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        raise Fault.from_os("cannot write", error, path, hint="ljsv enable-boot --print") from None
    return f"wrote {path}"


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return ""


def _link(root: str, link: boot.Link) -> str:
    path = root + link.path
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if os.path.lexists(path):
            if os.path.islink(path) and os.readlink(path) == link.target:
                return f"unchanged: {path}"
            raise Fault("will not overwrite", path, "it leads elsewhere", hint=f"ls -l {quote(path)}", exit_code=EXIT_NOT_REACHED)
        os.symlink(link.target, path)
    except OSError as error:
        raise Fault.from_os("cannot make the link", error, path, hint="ljsv enable-boot --print") from None
    return f"wrote {path} -> {link.target}"


def _print(plan: boot.Boot, root: str) -> None:
    """Each file under its name, then the links and what to run."""
    for file in plan.files:
        print(f"# {'appended to ' if file.is_part else ''}{root}{file.path} (mode {file.mode:04o})")
        print(file.text)
    for link in plan.links:
        print(f"# ln -s {link.target} {root}{link.path}")
    for line in plan.then:
        print(f"# {line}")

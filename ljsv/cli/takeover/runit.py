"""A runit (or daemontools) service directory taken over: `ljsv new --from DIR`.

Scripts stay as they are as far as they can: chpst and the rest work in a jail
with `base = "host"`. What cannot be is made otherwise and said: paths into the
service directory, `sv start` of what it needs, Debian's invoke-run, a log
service that is svlogd. Sources: runsv(8), chpst(8), svlogd(8), and Debian's
invoke-run(5).
"""

from __future__ import annotations

import os
import re

from ljsv.cli.takeover.draft import Draft, read_tree
from ljsv.errors import EXIT_USAGE, Fault, quote

SKIP = frozenset({"supervise", ".meta", ".git"})
SERVICE_AT = "/run/service"
_INVOKE_RUN = re.compile(r"^#!\s*(?:/usr/bin/env\s+)?(?:/usr)?/lib/runit/invoke-run\s*$", re.MULTILINE)
_SV = re.compile(r"\bsv\s+(?:-\S+\s+)*(?:start|up|check|s|u|c)\s+(?:/etc/(?:sv|service)/)?([\w.@-]+)")
_SV_SELF = re.compile(r"\b(?:exec\s+)?sv\s+(?:-\S+\s+)*(?:d|down|o|once|x|exit|stop)\b[^\n;&|]*")
_CHPST = re.compile(r"\bchpst\s+((?:-\S+\s*(?:[^-\s\"]\S*\s+)??)+)")
_SHELL = re.compile(rb"#!\s*(?:/usr/bin/env\s+)?(?:\S*/)?(?:ba|da|k|z|a|busybox\s+)?sh\b")


def draft_runit(directory: str, name: str) -> Draft:
    """Fault where there is no `run`."""
    directory = os.path.realpath(directory)
    draft = Draft(name, directory)
    try:
        files, left_out = read_tree(directory, SKIP)
    except OSError as error:
        raise Fault.from_os("cannot read", error, directory, hint=f"ls -lR {quote(directory)}") from None
    if "run" not in files:
        raise Fault("this is no service directory", f"{directory}/run", "No such file or directory", hint=f"ls -l {quote(directory)}", exit_code=EXIT_USAGE)
    draft.files = files
    draft.rootfs["writable"] = "tmpfs"
    for path in left_out:
        draft.lost(f"{path}: no regular file, or too large")
    if os.path.islink(f"{directory}/supervise") or os.path.isdir(f"{directory}/supervise"):
        draft.changed("supervise is made anew")
    _take_log(draft)
    for path in sorted(files):
        if path in {"run", "finish", "check", "log/run"} or path.startswith("control/"):
            _take_script(draft, path, directory)
    programs = set(re.findall(r"(?:^|/)s?bin/([\w-]+)", draft.files["run"][0].decode(errors="replace"), re.MULTILINE))
    draft.show_usual({name, os.path.basename(directory), *programs, *(program.removesuffix("d") for program in programs)} - {"sh", "env"})
    if "check" in draft.files:
        draft.set_policy("ready", "by", "check")
        draft.changed("check makes it ready (policy): with runit only sv runs it")
    return draft


def _take_log(draft: Draft) -> None:
    """ljsv keeps the log itself where it was svlogd's business."""
    if "log/run" not in draft.files:
        return
    text = draft.files["log/run"][0].decode(errors="replace")
    if "svlogd" in text or "multilog" in text:
        for path in [path for path in draft.files if path.startswith("log/")]:
            del draft.files[path]
        draft.changed(f"log/run is left out: the supervisor keeps the log (ljsv logs {draft.name}; size and number in [log] of policy)")
        if "log/config" in text or "/config" in text:
            draft.lost("log/run: what svlogd's config selects and where it sends it")
    else:
        draft.changed("log/run sees and may write its log directory only, at /run/log and in $LJSV_LOG")
        if "logger" in text:
            draft.lost("log/run: logger wants /dev/log, which a jail does not have; ljsv logs shows the log")


def _take_script(draft: Draft, path: str, directory: str) -> None:
    if path not in draft.files:
        return
    data, mode = draft.files[path]
    if not mode & 0o111:
        mode |= 0o755
        draft.changed(f"{path} is made executable")
    if _INVOKE_RUN.search(data.decode(errors="surrogateescape").split("\n", 1)[0]):
        data = _without_invoke_run(draft, data)
    elif not _SHELL.match(data):
        draft.files[path] = (data, mode)
        return
    text = data.decode(errors="surrogateescape")
    text = _at_home(draft, path, text, directory)
    text = _without_sv(draft, path, text)
    _look_at_chpst(draft, path, text)
    if "/dev/log" in text:
        draft.lost(f"{path}: /dev/log: a jail has no such socket, and makes none for others")
    if path == "run" and re.search(r"\b(?:getty|agetty|fgetty)\b", text):
        tty = draft.name.removeprefix("getty-") if draft.name.startswith("getty-") else "tty1"
        draft.lost(f"run: a getty wants a terminal of the host: ljsv new console --template getty --set tty=/dev/{tty}, in place of this one")
    if re.search(r"\b(?:modprobe|sysctl|mount|restorecon|aa-exec|aa-status)\b", text):
        draft.lost(f"{path}: modprobe, sysctl, mount and the like have no effect in a jail: do it before, on the host")
    draft.show_paths(text, path)
    draft.files[path] = (text.encode(errors="surrogateescape"), mode)


def _without_invoke_run(draft: Draft, data: bytes) -> bytes:
    """What it does is done in the script: conf/ is the environment, then /etc/default/NAME."""
    was = os.path.basename(draft.origin)
    for path in [path for path in draft.files if path.startswith("conf/")]:
        draft.files[f"env/{path.removeprefix('conf/')}"] = draft.files.pop(path)
        draft.changed("conf/ is env/ here")
    lines = ["#!/bin/sh"]
    default = f"/etc/default/{was}"
    if os.path.isfile(default):
        lines.append(f"set -a; . {default}; set +a")
    draft.changed(f"run: invoke-run is left out: env/ and {default}{'' if len(lines) > 1 else ' (not there)'} are read without it")
    return "\n".join(lines).encode() + b"\n" + data.partition(b"\n")[2]


def _at_home(draft: Draft, path: str, text: str, directory: str) -> str:
    """Its own directory has another place in the jail."""
    for own in dict.fromkeys((directory, *(f"{base}/{os.path.basename(directory)}" for base in ("/etc/sv", "/etc/service", "/service", "/var/service")))):
        if own in text:
            text = re.sub(re.escape(own) + r"(?![\w.-])", SERVICE_AT, text)
            draft.changed(f"{path}: {own} is {SERVICE_AT} in the jail")
    return text


def _without_sv(draft: Draft, path: str, text: str) -> str:
    """In the jail there is nobody whom sv could ask: what it starts first becomes a need, what it does to itself is left to policy."""
    for line in _code(text).split("\n"):
        for need in _SV.findall(line):
            if re.search(r"\|\|\s*(?:true|:)\s*$", line):
                draft.changed(f"{path}: sv start {need} is left out: it was not waited for; needs = [{need!r}] in policy would")
            else:
                draft.add_need(need)
                draft.changed(f"{path}: sv start {need} is needs = [{need!r}] in policy: take it over too, or take the need out")
    text = _in_code(_SV, "true", text)
    if _SV_SELF.search(_code(text)):
        draft.lost(f"{path}: sv down of itself has no effect in the jail; [restart] in policy says when it gives up")
        text = _in_code(_SV_SELF, "exit 0" if path == "run" else "true", text)
    return text


def _code(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))


def _in_code(pattern: re.Pattern[str], to: str, text: str) -> str:
    return "\n".join(line if line.lstrip().startswith("#") else pattern.sub(to, line) for line in text.split("\n"))


def _look_at_chpst(draft: Draft, path: str, text: str) -> None:
    for options in _CHPST.findall(_code(text)):
        if re.search(r"-[uU]", options) and os.geteuid():
            draft.lost(f"{path}: chpst -u: another user needs ids that one id does not give: take it out, or ids = \"range\" in rootfs")
        if "-/" in options:
            draft.lost(f"{path}: chpst -/: a jail has a root of its own: base in rootfs")
        if re.search(r"-[lL]", options):
            draft.lost(f"{path}: chpst -l: the lock is the jail's own, and holds nobody out on the host")

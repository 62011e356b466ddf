"""A systemd unit taken over: `ljsv new --from-unit FILE.service`.

What has a counterpart becomes run, env/, rootfs, limits and policy; what a
jail does anyway is left out; the rest is named with its line. Sources:
systemd.service(5), systemd.exec(5), systemd.resource-control(5),
systemd.syntax(7), systemd.unit(5).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from ljsv.cli.takeover.draft import Draft
from ljsv.cli.takeover.words import quote_with_variables, seconds, size
from ljsv.errors import EXIT_USAGE, Fault, quote
from ljsv.linux.capabilities import NUMBERS
from ljsv.service.units import format_duration

UNIT_MAX = 1 << 20
Line = tuple[int, str, str, str]  # number, section, key, value
Program = tuple[str, str, str]  # where it stands, the command for sh, its prefixes

# True of every jail, or of how ljsv supervises: nothing to carry over.
ALWAYS = frozenset(
    ["NoNewPrivileges", "PrivateTmp", "PrivateDevices", "PrivateIPC", "PrivatePIDs", "PrivateMounts", "ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "ProtectProc", "ProcSubset", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "RemoveIPC", "KeyringMode", "PrivateUsers", "DevicePolicy", "KillMode", "SendSIGKILL", "IgnoreSIGPIPE", "Description", "Documentation", "DefaultDependencies", "MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting", "BlockIOAccounting", "Slice", "Delegate", "CollectMode", "GuessMainPID", "PIDFile"]
)
ORDERS = frozenset({"After", "Before", "Wants", "PartOf", "Conflicts"})
RESTARTS = {"no": "never", "always": "always", "on-failure": "failure", "on-abnormal": "failure", "on-abort": "failure", "on-watchdog": "failure", "on-success": "always"}
_YES = frozenset({"1", "yes", "true", "on"})


def draft_unit(path: str, name: str, known: frozenset[str]) -> Draft:
    """`known`: the services that are there already, for needs. Fault where nothing is started."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(UNIT_MAX)
    except OSError as error:
        raise Fault.from_os("cannot read the unit", error, path, hint=f"ls -l {quote(path)}") from None
    return _Unit(path, name, known).draft(parse_unit(text))


def parse_unit(text: str) -> list[Line]:
    """Assignments in order. A line that ends in a backslash goes on with the next; comments between are left out."""
    found: list[Line] = []
    section, waiting, began = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("#", ";")) or (not line.strip() and not waiting):
            continue
        began = began if waiting else number
        waiting += line.strip() if not waiting else " " + line.strip()
        if waiting.endswith("\\"):
            waiting = waiting[:-1].rstrip()
            continue
        if waiting.startswith("["):
            section = waiting.strip("[] ")
        elif "=" in waiting:
            key, _, value = waiting.partition("=")
            found.append((began, section, key.strip(), value.strip()))
        waiting = ""
    return found


class _Unit:
    def __init__(self, path: str, name: str, known: frozenset[str]) -> None:
        self.made = Draft(name, os.path.abspath(path))
        self.known = known
        self.start: list[str] = []  # lines of run before those of programs
        self.programs: dict[str, list[Program]] = {}  # by ExecStart and so on
        self.specifiers = self._read_specifiers(os.path.basename(path), name)
        self.type = ""
        self.group = ""

    @staticmethod
    def _read_specifiers(file: str, name: str) -> dict[str, str]:
        stem = file.rpartition(".")[0] or file
        prefix, _, instance = stem.partition("@")
        return {
            "n": f"{stem}.service", "N": stem, "p": prefix, "i": instance or name, "I": instance or name, "t": "/run", "T": "/tmp", "V": "/var/tmp",
            "S": "/var/lib", "C": "/var/cache", "L": "/var/log", "E": "/etc", "H": os.uname().nodename, "h": "/root", "u": "root", "U": "0", "%": "%",
        }

    def draft(self, lines: list[Line]) -> Draft:
        made = self.made
        made.rootfs["writable"] = "tmpfs"
        for number, section, key, value in lines:
            self._take(number, section, key, self._expand(value))
        starts = self._all("ExecStart")
        if not starts:
            raise Fault("the unit starts nothing", made.origin, "it has no ExecStart", hint="only a .service unit can be taken over", exit_code=EXIT_USAGE)
        before = _lines([*self._all("ExecCondition", "ExecStartPre"), *starts[:-1]], "exit 1")
        main = starts[-1][1]
        script = ["#!/bin/sh", *self.start, *before, f"exec {main}"]
        made.put("run", "\n".join(script) + "\n", 0o755)
        self._take_controls()
        made.show_paths("\n".join(script), "run")
        program = os.path.basename(main.split()[0])
        made.show_usual({made.name, program, program.removesuffix("d")})
        if self.type == "forking":
            made.lost("Type=forking: the program goes into the background, and its jail would end with it: give it the option that keeps it in the foreground")
        if self.type == "oneshot" and "when" not in made.policy.get("restart", {}):
            made.set_policy("restart", "when", "never")
        if self.group:
            self._take_group()
        return made

    def _expand(self, value: str) -> str:
        out, rest = "", value
        while "%" in rest:
            head, _, rest = rest.partition("%")
            letter, rest = rest[:1], rest[1:]
            out += head + self.specifiers.get(letter, f"%{letter}")
        return out + rest

    def _take(self, number: int, section: str, key: str, value: str) -> None:
        where = f"line {number}: {key}={value}"
        rule = RULES.get(key)
        if section == "Install":
            self.made.changed(f"{where}: what is in the scan directory starts by itself; ljsv disable {self.made.name} stops that")
        elif key in ALWAYS or key.startswith("X-"):
            return
        elif rule:
            rule(self, where, value)
        elif key in ORDERS:
            self._order(where, value)
        else:
            self.made.lost(where)

    # ---- programs

    def _words(self, value: str) -> tuple[str, str]:
        """(the command for sh, its prefixes)."""
        prefixes = value[: len(value) - len(value.lstrip("-@:+!|"))]
        try:
            words = shlex.split(value[len(prefixes) :].strip(), posix=True)
        except ValueError:
            words = value[len(prefixes) :].split()
        if "@" in prefixes and len(words) > 1:
            words = [words[0], *words[2:]]
        return " ".join(quote_with_variables(word) for word in words), prefixes

    def _exec(self, where: str, value: str) -> None:
        """One more of its kind; an empty one takes back those before it."""
        command, prefixes = self._words(value)
        if not command:
            self.programs[_key_of(where)] = []
            return
        self.programs.setdefault(_key_of(where), []).append((where, command, prefixes))
        if "+" in prefixes or "!" in prefixes:
            self.made.lost(f"{where}: no program is run with more rights than the jail has")

    def _all(self, *keys: str) -> list[Program]:
        return [program for key in keys for program in self.programs.get(key, [])]

    def _take_controls(self) -> None:
        """What is run at ljsv hup and before the signal of ljsv down, and after the end."""
        made = self.made
        reload, stop, after = self._all("ExecReload"), self._all("ExecStop"), self._all("ExecStopPost")
        if len(reload) == 1 and _is_hup(reload[0][0].partition("=")[2]):
            made.changed(f"{reload[0][0]}: ljsv hup {made.name}")
        elif reload:
            made.put("control/h", _control_script(reload, "exit 0"), 0o755)  # as systemd has it: where a check fails, nothing is told
        if stop:
            made.put("control/t", _control_script(stop, "exit 1"), 0o755)
        if after:
            made.put("finish", "\n".join(["#!/bin/sh", *(command for _, command, _ in after)]) + "\n", 0o755)
        for where, _, _ in reload if "control/h" in made.files else []:
            made.changed(f"{where}: control/h, for ljsv hup {made.name}")
        for where, _, _ in stop:
            made.changed(f"{where}: control/t; what it says with exit 0 is that no signal is needed")
        for where, _, _ in after:
            made.changed(f"{where}: finish")
        for where, _, _ in self._all("ExecStartPost"):
            made.lost(where)

    def _environment(self, _where: str, value: str) -> None:
        try:
            pairs = shlex.split(value)
        except ValueError:
            pairs = value.split()
        for pair in pairs:
            key, equals, text = pair.partition("=")
            if equals and key.isidentifier():
                self.made.put(f"env/{key}", text.replace("\n", "\0") + "\n" if text else "\n")

    def _environment_file(self, where: str, value: str) -> None:
        path = value.removeprefix("-")
        self.start.append(f"[ ! -r {shlex.quote(path)} ] || {{ set -a; . {shlex.quote(path)}; set +a; }}" if value.startswith("-") else f"set -a; . {shlex.quote(path)}; set +a")
        self.made.changed(f"{where}: read by run as sh reads it")

    # ---- who, where

    def _user(self, _where: str, value: str) -> None:
        self.made.rootfs["user"] = value

    def _group(self, _where: str, value: str) -> None:
        self.group = value

    def _take_group(self) -> None:
        user = str(self.made.rootfs.get("user", ""))
        if self.group.isdigit() and user.isdigit():
            self.made.rootfs["user"] = f"{user}:{self.group}"
        elif self.group != user:
            self.made.lost(f"Group={self.group}: the group is that of the user in the jail's passwd, or numbers: user = \"UID:GID\"")

    def _workdir(self, _where: str, value: str) -> None:
        path = value.removeprefix("-")
        self.start.append(f"cd {'~' if path == '~' else shlex.quote(path)}" + (" || true" if value.startswith("-") else " || exit 1"))

    def _umask(self, _where: str, value: str) -> None:
        self.start.append(f"umask {shlex.quote(value)}")

    def _directory(self, base: str, *, is_kept: bool) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            for name in value.split():
                path = f"{base}/{name.partition(':')[0]}"
                if not is_kept:
                    self.start.append(f"mkdir -p {shlex.quote(path)}")
                elif os.path.isdir(path):
                    self.made.add_bind(path, path, writable=True)
                else:
                    self.made.lost(f"{where}: {path} is not there: make it (its owner is the service's user) and bind it in rootfs, or use writable = \"overlay\" with a root of its own")

        return take

    def _bind(self, writable: bool) -> Callable[[str, str], None]:  # noqa: FBT001
        def take(where: str, value: str) -> None:
            for item in value.split():
                source, _, to = item.lstrip("-+").partition(":")
                if os.path.exists(source):
                    self.made.add_bind(source, to.partition(":")[0] or source, writable=writable)
                elif not item.startswith("-"):
                    self.made.lost(f"{where}: {source} is not there")

        return take

    def _root(self, _where: str, value: str) -> None:
        self.made.rootfs["base"] = value

    def _tmpfs(self, _where: str, value: str) -> None:
        for item in value.split():
            self.made.rootfs.setdefault("tmpfs", []).append({"at": item.partition(":")[0]})

    # ---- how it is kept alive

    def _service_type(self, where: str, value: str) -> None:
        self.type = value
        if value in {"notify", "notify-reload"}:
            self.made.set_policy("ready", "by", "notify")
        elif value == "dbus":
            self.made.lost(f"{where}: its name on the bus is not waited for")

    def _restart(self, where: str, value: str) -> None:
        self.made.set_policy("restart", "when", RESTARTS.get(value, "always"))
        if value not in {"no", "always", "on-failure"}:
            self.made.changed(f"{where}: when = \"{RESTARTS.get(value, 'always')}\" in policy is the nearest")

    def _time(self, table: str, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            found = seconds(value)
            if found is None:
                self.made.lost(where)
            elif found or table == "restart":
                self.made.set_policy(table, key, format_duration(found))

        return take

    def _both_times(self, where: str, value: str) -> None:
        self._time("ready", "timeout")(where, value)
        self._time("stop", "timeout")(where, value)

    def _kill_signal(self, _where: str, value: str) -> None:
        self.made.set_policy("stop", "signal", value.removeprefix("SIG"))

    def _requires(self, where: str, value: str) -> None:
        for unit in value.split():
            need = unit.removesuffix(".service")
            if unit.endswith(".service") and need in self.known:
                self.made.add_need(need)
            else:
                self.made.lost(f"{where}: there is no service {need} here")

    def _order(self, where: str, value: str) -> None:
        others = [unit for unit in value.split() if unit.removesuffix(".service") in self.known]
        for unit in others:
            if _key_of(where) == "Wants":
                self.made.lost(f"{where}: {unit} is not waited for: needs = [\"{unit.removesuffix('.service')}\"] in policy would")
        if not others:
            self.made.changed(f"{where}: left out: none of them is a service here")

    # ---- what it may use

    def _memory(self, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            found = size(value)
            if found:
                self.made.limits[key] = found
            elif value != "infinity":
                self.made.lost(where)

        return take

    def _cpu(self, _where: str, value: str) -> None:
        self.made.limits["cpu"] = value

    def _number(self, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            number = value.partition(":")[0]
            if number.lstrip("-").isdigit():
                self.made.limits[key] = int(number)
            elif number != "infinity":
                self.made.lost(where)

        return take

    def _core(self, where: str, value: str) -> None:
        found = size(value)
        if found and found != "0":
            self.made.limits["core"] = found
        elif not found:
            self.made.lost(where)

    def _network(self, _where: str, value: str) -> None:
        if value.lower() in _YES:
            self.made.rootfs["network"] = "none"

    def _bounding(self, where: str, value: str) -> None:
        from ljsv.jail.spec import DEFAULT_CAPABILITIES

        if value.startswith("~"):
            wanted = [f"-{word.removeprefix('CAP_')}" for word in value[1:].split() if NUMBERS.get(word.removeprefix("CAP_"), -1) in DEFAULT_CAPABILITIES]
        else:
            kept = {word.removeprefix("CAP_") for word in value.split()}
            default = {name for name, number in NUMBERS.items() if number in DEFAULT_CAPABILITIES}
            wanted = [f"-{name}" for name in sorted(default - kept)]
            for name in sorted(kept - default):
                self.made.lost(f"{where}: CAP_{name} is not given by default: capabilities = [\"{name}\"] in [security] of rootfs adds it, and has effect in the jail only")
        security = self.made.rootfs.setdefault("security", {})
        security["capabilities"] = sorted({*security.get("capabilities", []), *wanted})

    def _ambient(self, where: str, value: str) -> None:
        if value:
            self.made.lost(f"{where}: without a user it is root of its jail, and has its capabilities; ports below 1024: net.ipv4.ip_unprivileged_port_start")

    def _own_filter(self, where: str, _value: str) -> None:
        self.made.changed(f"{where}: every jail has ljsv's own filter instead")

    def _log(self, where: str, value: str) -> None:
        if value in {"null", "/dev/null"} and "StandardOutput" in where:
            self.made.set_policy("log", "to", "none")
        elif value not in {"journal", "syslog", "inherit", "journal+console"}:
            self.made.lost(f"{where}: output goes into the log: ljsv logs {self.made.name}")


def _key_of(where: str) -> str:
    """The key of `line N: KEY=VALUE`."""
    return where.partition(": ")[2].partition("=")[0]


def _lines(programs: list[Program], on_failure: str) -> list[str]:
    """Each for sh; one that may fail (-) lets the next go on."""
    return [f"{command} || {'true' if '-' in prefixes else on_failure}" for _, command, prefixes in programs]


def _control_script(programs: list[Program], on_failure: str) -> str:
    """What the last one ends with is what the script says."""
    return "\n".join(["#!/bin/sh", "MAINPID=$LJSV_PID", *_lines(programs[:-1], on_failure), programs[-1][1]]) + "\n"


def _is_hup(value: str) -> bool:
    words = value.lstrip("-+!:@").split()
    return os.path.basename(words[0]) == "kill" and "$MAINPID" in value and ("-HUP" in words or "HUP" in words)


def _member(name: str) -> Callable[[_Unit, str, str], None]:
    """A rule that is a method of the unit."""
    return lambda unit, where, value: getattr(unit, name)(where, value)


def _made_by(name: str, *arguments: object, **named: object) -> Callable[[_Unit, str, str], None]:
    """A rule that a method of the unit makes."""
    return lambda unit, where, value: getattr(unit, name)(*arguments, **named)(where, value)


RULES: dict[str, Callable[[_Unit, str, str], None]] = {
    **dict.fromkeys(("ExecStart", "ExecStartPre", "ExecCondition", "ExecStartPost", "ExecStopPost", "ExecReload", "ExecStop"), _member("_exec")),
    "Environment": _member("_environment"), "EnvironmentFile": _member("_environment_file"),
    "User": _member("_user"), "Group": _member("_group"), "WorkingDirectory": _member("_workdir"), "UMask": _member("_umask"),
    "RuntimeDirectory": _made_by("_directory", "/run", is_kept=False), "StateDirectory": _made_by("_directory", "/var/lib", is_kept=True),
    "CacheDirectory": _made_by("_directory", "/var/cache", is_kept=True), "LogsDirectory": _made_by("_directory", "/var/log", is_kept=True),
    "ReadWritePaths": _made_by("_bind", True), "BindPaths": _made_by("_bind", True), "BindReadOnlyPaths": _made_by("_bind", False), "ReadOnlyPaths": _made_by("_bind", False),
    "TemporaryFileSystem": _member("_tmpfs"), "RootDirectory": _member("_root"), "RootImage": _member("_root"),
    "Type": _member("_service_type"), "Restart": _member("_restart"), "RestartSec": _made_by("_time", "restart", "delay"), "RestartMaxDelaySec": _made_by("_time", "restart", "max_delay"),
    "TimeoutStartSec": _made_by("_time", "ready", "timeout"), "TimeoutStopSec": _made_by("_time", "stop", "timeout"), "TimeoutSec": _member("_both_times"),
    "WatchdogSec": _made_by("_time", "ready", "watchdog"), "KillSignal": _member("_kill_signal"),
    "Requires": _member("_requires"), "BindsTo": _member("_requires"), "Requisite": _member("_requires"),
    "MemoryMax": _made_by("_memory", "memory"), "MemoryLimit": _made_by("_memory", "memory"), "MemoryHigh": _made_by("_memory", "memory_high"), "MemorySwapMax": _made_by("_memory", "swap"),
    "CPUQuota": _member("_cpu"), "CPUWeight": _made_by("_number", "cpu_weight"), "IOWeight": _made_by("_number", "io_weight"), "TasksMax": _made_by("_number", "pids"),
    "LimitNOFILE": _made_by("_number", "nofile"), "LimitCORE": _member("_core"), "Nice": _made_by("_number", "nice"), "OOMScoreAdjust": _made_by("_number", "oom_score_adj"),
    "PrivateNetwork": _member("_network"), "CapabilityBoundingSet": _member("_bounding"), "AmbientCapabilities": _member("_ambient"),
    "SystemCallFilter": _member("_own_filter"), "SystemCallArchitectures": _member("_own_filter"), "SystemCallErrorNumber": _member("_own_filter"),
    "RestrictAddressFamilies": _member("_own_filter"), "MemoryDenyWriteExecute": _member("_own_filter"),
    "StandardOutput": _member("_log"), "StandardError": _member("_log"),
}

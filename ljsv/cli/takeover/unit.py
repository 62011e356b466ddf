"""A systemd unit taken over: `ljsv new --from-unit FILE.service`.

What has a counterpart becomes run, env/, rootfs, limits and policy; what a
jail does anyway is left out; the rest is named with its line. Sources:
systemd.service(5), systemd.exec(5), systemd.resource-control(5),
systemd.syntax(7), systemd.unit(5).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable

from ljsv.cli.takeover.draft import Draft
from ljsv.cli.takeover.words import quote_with_variables, seconds, size, split_unit
from ljsv.errors import EXIT_USAGE, Fault, quote
from ljsv.linux.capabilities import NUMBERS
from ljsv.service.units import format_duration

UNIT_MAX = 1 << 20
Line = tuple[int, str, str, str]  # number, section, key, value
Program = tuple[str, str, str]  # where it stands, the command for sh, its prefixes

# True of every jail, or of how ljsv supervises: nothing to carry over.
ALWAYS = frozenset(
    ["NoNewPrivileges", "PrivateTmp", "PrivateDevices", "PrivateIPC", "PrivatePIDs", "PrivateMounts", "ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "ProtectProc", "ProcSubset", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "RemoveIPC", "KeyringMode", "PrivateUsers", "DevicePolicy", "SendSIGKILL", "IgnoreSIGPIPE", "Description", "Documentation", "DefaultDependencies", "MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting", "BlockIOAccounting", "Slice", "Delegate", "CollectMode", "GuessMainPID", "PIDFile", "NotifyAccess", "SyslogIdentifier", "SyslogFacility", "SyslogLevel", "RuntimeDirectoryPreserve", "StateDirectoryMode", "CacheDirectoryMode", "LogsDirectoryMode", "ConfigurationDirectoryMode", "BusName", "StartLimitInterval", "StartLimitIntervalSec"]
)
ORDERS = frozenset({"After", "Before", "Wants", "PartOf", "Conflicts"})
RESTARTS = {"no": "never", "always": "always", "on-failure": "failure", "on-abnormal": "failure", "on-abort": "failure", "on-watchdog": "failure", "on-success": "always"}
_YES = frozenset({"1", "yes", "true", "on"})
ROOT = frozenset({"", "root", "0"})
DEFAULT_TIMEOUT = "90s"  # DefaultTimeoutStartSec and DefaultTimeoutStopSec of systemd-system.conf(5)
NO_TIMEOUT = "1d"  # where systemd would wait for ever
SHORTEST_DELAY = "100ms"
_MAIN = "$MAINPID"
_IF_THERE = "[ ! -r "
_NOT_HERE = "left out: none of them is a service here"
_SPLIT = re.compile(r"\$(?!MAINPID\b)\w+")


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
        self.variables: list[str] = []  # lines of run and of the other scripts that read EnvironmentFile
        self.runtime: dict[str, None] = {}  # directories that are made at each start
        self.runtime_mode = "0755"
        self.ordered: list[tuple[str, str]] = []  # (where, a service here that it comes after)
        self.programs: dict[str, list[Program]] = {}  # by ExecStart and so on
        self.specifiers = self._read_specifiers(os.path.basename(path), name)
        if path.endswith("@.service"):
            self.made.changed(f"%i is {name}: the unit is one for many, and this is the one of that name")
        self.type = ""
        self.group = ""

    @staticmethod
    def _read_specifiers(file: str, name: str) -> dict[str, str]:
        stem = file.rpartition(".")[0] or file
        prefix, at, instance = stem.partition("@")
        stem += name if at and not instance else ""
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
        self._take_runtime()
        body = [*self.start, *before, f"exec {main}"]
        script = [*self._head(body), *body]
        made.put("run", "\n".join(script) + "\n", 0o755)
        self._take_controls()
        self._take_defaults({key for _, _, key, _ in lines})
        made.show_paths("\n".join(line for line in script if not line.startswith(_IF_THERE)), "run")
        program = os.path.basename(main.split()[0])
        made.show_usual({made.name, program, program.removesuffix("d")})
        if self.type == "forking":
            made.lost(f"Type=forking: the program goes into the background, and its jail ends with that: give it the option that keeps it in the foreground; it has a down file until then (ljsv enable {made.name})")
            made.put("down", "")
        if self.type == "oneshot" and "when" not in made.policy.get("restart", {}):
            made.set_policy("restart", "when", "never")
        if self.group:
            self._take_group()
        return made

    def _head(self, body: list[str]) -> list[str]:
        """How a script begins. systemd splits a word that is `$NAME` at its spaces, and knows no patterns: so does sh with `set -f`."""
        does_split = any(_SPLIT.fullmatch(word) for line in body for word in line.split())
        return ["#!/bin/sh", *(["set -f"] if does_split else []), *self.variables]

    def _take_runtime(self) -> None:
        """A user of the jail may make nothing in /run, but write to a tmpfs there."""
        if self.made.rootfs.get("user", "") in ROOT:
            self.start += [f"mkdir -p -m {self.runtime_mode} {shlex.quote(path)}" for path in self.runtime]
        elif self.runtime:
            self.made.rootfs.setdefault("tmpfs", []).extend({"at": path} for path in self.runtime)

    def _take_defaults(self, said: set[str]) -> None:
        """What systemd does where nothing is said."""
        policy, needs = self.made.policy, self.made.policy.get("needs", [])
        for where, unit in self.ordered:
            if unit not in needs:
                self.made.lost(f'{unit} is not waited for: needs = ["{unit}"] in policy would', where)
        if "timeout" not in policy.get("stop", {}):
            self.made.set_policy("stop", "timeout", DEFAULT_TIMEOUT)
        if policy.get("ready") and "timeout" not in policy["ready"]:
            self.made.set_policy("ready", "timeout", DEFAULT_TIMEOUT)
        if self._all("ExecStop"):
            self.made.set_policy("scripts", "control", policy["stop"]["timeout"])
        if "Restart" not in said and self.type != "oneshot":
            self.made.set_policy("restart", "when", "failure")
            self.made.changed("no Restart=: systemd would leave it ended, here it is started again after a failure ([restart] in policy)")

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
            self.made.changed(f"what is in the scan directory starts by itself; ljsv disable {self.made.name} stops that", where)
        elif key in ALWAYS or key.startswith("X-"):
            return
        elif rule:
            rule(self, where, value)
        elif key in ORDERS:
            self._order(where, value)
        elif key.startswith(("Condition", "Assert")):
            self.made.lost("not asked, it starts anyway", where)
        else:
            self.made.lost("", where)

    # ---- programs

    def _words(self, value: str) -> tuple[str, str]:
        """(the command for sh, its prefixes)."""
        prefixes = value[: len(value) - len(value.lstrip("-@:+!|"))]
        words = _split(value[len(prefixes) :])
        if "@" in prefixes and len(words) > 1:
            words = [words[0], *words[2:]]
        if ":" in prefixes:
            return shlex.join(words), prefixes
        return " ".join(f'"{word}"' if word == _MAIN else word if _SPLIT.fullmatch(word) else quote_with_variables(word) for word in words), prefixes

    def _exec(self, where: str, value: str) -> None:
        """One more of its kind; an empty one takes back those before it."""
        command, prefixes = self._words(value)
        if not command:
            self.programs[_key_of(where)] = []
            return
        self.programs.setdefault(_key_of(where), []).append((where, command, prefixes))
        if "@" in prefixes:
            self.made.changed("the program's name (argv[0]) is its path", where)
        if "+" in prefixes or "!" in prefixes:
            self.made.lost("no program is run with more rights than the jail has", where)

    def _all(self, *keys: str) -> list[Program]:
        return [program for key in keys for program in self.programs.get(key, [])]

    def _take_controls(self) -> None:
        """What is run at ljsv hup and before the signal of ljsv down, and after the end."""
        made = self.made
        reload, stop, after = self._all("ExecReload"), self._all("ExecStop"), self._all("ExecStopPost")
        if len(reload) == 1 and _is_hup(reload[0][0].partition("=")[2]):
            made.changed(f"ljsv hup {made.name}", reload[0][0])
        elif reload:  # as systemd has it: where one fails, the next is not run
            made.put("control/h", self._script([*_lines(reload[:-1], "exit 0"), reload[-1][1]]), 0o755)
        if stop:
            made.put("control/t", self._script([*_lines(stop, "true"), "exit 1  # and now the signal, for what has not ended"]), 0o755)
        if after:
            made.put("finish", self._script([command for _, command, _ in after]), 0o755)
        for where, _, _ in reload if "control/h" in made.files else []:
            made.changed(f"control/h, for ljsv hup {made.name}", where)
        for where, _, _ in stop:
            made.changed("control/t, which is run before the signal", where)
        for where, _, _ in after:
            made.changed("finish", where)
        for where, _, _ in self._all("ExecStartPost"):
            made.lost("", where)

    def _script(self, body: list[str]) -> str:
        """One that is run beside the program: MAINPID is the program's pid in the jail."""
        return "\n".join([*self._head(body), *(["export MAINPID=$LJSV_PID"] if "MAINPID" in "".join(body) else []), *body]) + "\n"

    def _environment(self, where: str, value: str) -> None:
        """An empty one takes back those before it."""
        if not value:
            for path in [path for path in self.made.files if path.startswith("env/")]:
                del self.made.files[path]
        for pair in _split(value):
            key, equals, text = pair.partition("=")
            if not (equals and key.isidentifier() and key.isascii()):
                self.made.lost("no variable", where)
            else:
                self.made.put(f"env/{key}", text.replace("\n", "\0") + "\n" if text else "\n")

    def _environment_file(self, where: str, value: str) -> None:
        path = value.removeprefix("-")
        line = f"set -a; . {shlex.quote(path)}; set +a"
        if value.startswith("-"):
            line = f"{_IF_THERE}{shlex.quote(path)} ] || {{ {line}; }}"
            if os.path.exists(path):
                self.made.show_paths(path, "run")
        self.variables.append(line)
        self.made.changed("read by run as sh reads it", where)

    # ---- who, where

    def _user(self, _where: str, value: str) -> None:
        self.made.rootfs["user"] = value

    def _group(self, _where: str, value: str) -> None:
        self.group = value

    def _take_group(self) -> None:
        user = str(self.made.rootfs.get("user", "")) or "root"
        if self.group != user:
            self.made.rootfs["user"] = f"{user}:{self.group}"

    def _workdir(self, _where: str, value: str) -> None:
        path = value.removeprefix("-")
        self.start.append(f"cd {'~' if path == '~' else shlex.quote(path)}" + (" || true" if value.startswith("-") else " || exit 1"))

    def _umask(self, _where: str, value: str) -> None:
        self.start.append(f"umask {shlex.quote(value)}")

    def _directory(self, base: str, *, is_written: bool = True) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            for name in value.split():
                path = f"{base}/{name.partition(':')[0]}"
                if base == "/run":
                    self.runtime[path] = None
                elif os.path.isdir(path):
                    self.made.add_bind(path, path, writable=is_written)
                else:
                    self.made.lost(f"{path} is not there: make it (its owner is the service's user) and bind it in rootfs, or use writable = \"overlay\" with a root of its own", where)

        return take

    def _bind(self, writable: bool) -> Callable[[str, str], None]:  # noqa: FBT001
        def take(where: str, value: str) -> None:
            for item in value.split():
                source, _, to = item.lstrip("-+").partition(":")
                if os.path.exists(source):
                    self.made.add_bind(source, to.partition(":")[0] or source, writable=writable)
                elif not item.startswith("-"):
                    self.made.lost(f"{source} is not there", where)

        return take

    def _paths(self, writable: bool) -> Callable[[str, str], None]:  # noqa: FBT001
        def take(where: str, value: str) -> None:
            for item in value.split():
                path = item.lstrip("-+")
                if os.path.exists(path):
                    self.made.add_path(path, where, writable=writable)
                elif not item.startswith("-"):
                    self.made.lost(f"{path} is not there", where)

        return take

    def _mode(self, _where: str, value: str) -> None:
        self.runtime_mode = value if value.isdigit() else self.runtime_mode

    def _device(self, where: str, value: str) -> None:
        path = value.split(maxsplit=1)[0] if value else ""
        if path.startswith("/dev/"):
            self.made.rootfs.setdefault("device", []).append({"path": path})
        elif path:
            self.made.lost("devices are named one by one: [[device]] in rootfs", where)

    def _root(self, where: str, value: str) -> None:
        self.made.rootfs |= {"base": value, "writable": "overlay"}
        self.made.changed("what it writes is kept in an overlay, and not in there", where)

    def _tmpfs(self, _where: str, value: str) -> None:
        for item in value.split():
            self.made.rootfs.setdefault("tmpfs", []).append({"at": item.partition(":")[0]})

    # ---- how it is kept alive

    def _service_type(self, where: str, value: str) -> None:
        self.type = value
        if value in {"notify", "notify-reload"}:
            self.made.set_policy("ready", "by", "notify")
        elif value == "dbus":
            self.made.lost("its name on the bus is not waited for", where)

    def _restart(self, where: str, value: str) -> None:
        self.made.set_policy("restart", "when", RESTARTS.get(value, "always"))
        if value not in {"no", "always", "on-failure"}:
            self.made.changed(f"when = \"{RESTARTS.get(value, 'always')}\" in policy is the nearest", where)

    def _time(self, table: str, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            found = seconds(value)
            if key == "delay" and found == 0.0:
                self.made.set_policy(table, key, SHORTEST_DELAY)
                self.made.changed(f"{SHORTEST_DELAY}: at once is for a run that was stable", where)
            elif (table == "restart" and found is not None) or found:
                self.made.set_policy(table, key, format_duration(found))
            elif found == 0.0 or value == "infinity":
                self.made.set_policy(table, key, NO_TIMEOUT)
                self.made.changed(f"{NO_TIMEOUT}, since each wait has an end here", where)
            else:
                self.made.lost("", where)

        return take

    def _both_times(self, where: str, value: str) -> None:
        self._time("ready", "timeout")(where, value)
        self._time("stop", "timeout")(where, value)

    def _watchdog(self, where: str, value: str) -> None:
        if seconds(value):
            self._time("ready", "watchdog")(where, value)

    def _burst(self, where: str, value: str) -> None:
        if value.isdigit() and int(value):
            self.made.set_policy("restart", "give_up_after", int(value))
            self.made.changed("so many runs in a row that were not stable (give_up_after in policy), in whatever time", where)

    def _kill_mode(self, where: str, value: str) -> None:
        if value in {"process", "none"}:
            self.made.lost("nothing outlives its jail: what the program has started ends with it", where)

    def _remain(self, where: str, value: str) -> None:
        if value.lower() in _YES:
            self.made.lost("what is done is down here, and nothing is ready after it", where)

    def _kill_signal(self, _where: str, value: str) -> None:
        self.made.set_policy("stop", "signal", value.removeprefix("SIG"))

    def _requires(self, where: str, value: str) -> None:
        for unit in value.split():
            need, _, kind = unit.rpartition(".")
            if kind == "service" and need in self.known:
                self.made.add_need(need)
            elif kind == "service":
                self.made.lost(f"there is no service {need} here", where)
            elif kind == "socket":
                self.made.lost("no socket is opened for it: it has to listen by itself", where)
            else:
                self.made.changed(_NOT_HERE, where)

    def _oom(self, where: str, value: str) -> None:
        self.made.limits["oom"] = "one" if value == "continue" else "all"

    def _order(self, where: str, value: str) -> None:
        others = [unit.removesuffix(".service") for unit in value.split() if unit.removesuffix(".service") in self.known]
        self.ordered += [(where, unit) for unit in others if _key_of(where) in {"After", "Wants"}]
        if not others:
            self.made.changed(_NOT_HERE, where)

    # ---- what it may use

    def _memory(self, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            found = size(value)
            if found:
                self.made.limits[key] = found
            elif value != "infinity":
                self.made.lost("", where)

        return take

    def _cpu(self, _where: str, value: str) -> None:
        self.made.limits["cpu"] = value

    def _number(self, key: str) -> Callable[[str, str], None]:
        def take(where: str, value: str) -> None:
            number = value.partition(":")[0]
            if number.lstrip("-").isdigit():
                self.made.limits[key] = int(number)
            elif number != "infinity":
                self.made.lost("", where)

        return take

    def _nofile(self, where: str, value: str) -> None:
        number = value.partition(":")[0]
        if number.isdigit():
            self.made.set_nofile(int(number), where)

    def _core(self, where: str, value: str) -> None:
        found = size(value)
        if found and found != "0":
            self.made.limits["core"] = found
        elif not found:
            self.made.lost("", where)

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
                self.made.lost(f"CAP_{name} is not given by default: capabilities = [\"{name}\"] in [security] of rootfs adds it, and has effect in the jail only", where)
        security = self.made.rootfs.setdefault("security", {})
        security["capabilities"] = sorted({*security.get("capabilities", []), *wanted})

    def _ambient(self, where: str, value: str) -> None:
        if value:
            self.made.lost("without a user it is root of its jail, and has its capabilities; ports below 1024: net.ipv4.ip_unprivileged_port_start", where)

    def _own_filter(self, where: str, _value: str) -> None:
        self.made.changed("every jail has ljsv's own filter instead", where)

    def _log(self, where: str, value: str) -> None:
        if value in {"null", "/dev/null"} and "StandardOutput" in where:
            self.made.set_policy("log", "to", "none")
        elif value not in {"journal", "syslog", "inherit", "journal+console"}:
            self.made.lost(f"output goes into the log: ljsv logs {self.made.name}", where)


def _split(value: str) -> list[str]:
    """As systemd does; a line with an open quote at its spaces."""
    try:
        return split_unit(value)
    except ValueError:
        return value.split()


def _key_of(where: str) -> str:
    """The key of `line N: KEY=VALUE`."""
    return where.partition(": ")[2].partition("=")[0]


def _lines(programs: list[Program], on_failure: str) -> list[str]:
    """Each for sh; one that may fail (-) lets the next go on."""
    return [f"{command} || {'true' if '-' in prefixes else on_failure}" for _, command, prefixes in programs]


def _is_hup(value: str) -> bool:
    words = value.lstrip("-+!:@").split()
    return os.path.basename(words[0]) == "kill" and ("$MAINPID" in value or "${MAINPID}" in value) and ("-HUP" in words or "HUP" in words)


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
    "RuntimeDirectory": _made_by("_directory", "/run"), "StateDirectory": _made_by("_directory", "/var/lib"),
    "CacheDirectory": _made_by("_directory", "/var/cache"), "LogsDirectory": _made_by("_directory", "/var/log"),
    "ConfigurationDirectory": _made_by("_directory", "/etc", is_written=False), "RuntimeDirectoryMode": _member("_mode"),
    "BindPaths": _made_by("_bind", True), "BindReadOnlyPaths": _made_by("_bind", False),
    **dict.fromkeys(("ReadWritePaths", "ReadWriteDirectories"), _made_by("_paths", True)), **dict.fromkeys(("ReadOnlyPaths", "ReadOnlyDirectories"), _made_by("_paths", False)),
    "TemporaryFileSystem": _member("_tmpfs"), "RootDirectory": _member("_root"), "RootImage": _member("_root"),
    "Type": _member("_service_type"), "Restart": _member("_restart"), "RestartSec": _made_by("_time", "restart", "delay"), "RestartMaxDelaySec": _made_by("_time", "restart", "max_delay"),
    "TimeoutStartSec": _made_by("_time", "ready", "timeout"), "TimeoutStopSec": _made_by("_time", "stop", "timeout"), "TimeoutSec": _member("_both_times"),
    "WatchdogSec": _member("_watchdog"), "KillSignal": _member("_kill_signal"), "KillMode": _member("_kill_mode"),
    "StartLimitBurst": _member("_burst"), "RemainAfterExit": _member("_remain"), "OOMPolicy": _member("_oom"), "DeviceAllow": _member("_device"),
    "Requires": _member("_requires"), "BindsTo": _member("_requires"), "Requisite": _member("_requires"),
    "MemoryMax": _made_by("_memory", "memory"), "MemoryLimit": _made_by("_memory", "memory"), "MemoryHigh": _made_by("_memory", "memory_high"), "MemorySwapMax": _made_by("_memory", "swap"),
    "CPUQuota": _member("_cpu"), "CPUWeight": _made_by("_number", "cpu_weight"), "IOWeight": _made_by("_number", "io_weight"), "TasksMax": _made_by("_number", "pids"),
    "LimitNOFILE": _member("_nofile"), "LimitCORE": _member("_core"), "Nice": _made_by("_number", "nice"), "OOMScoreAdjust": _made_by("_number", "oom_score_adj"),
    "PrivateNetwork": _member("_network"), "CapabilityBoundingSet": _member("_bounding"), "AmbientCapabilities": _member("_ambient"),
    "SystemCallFilter": _member("_own_filter"), "SystemCallArchitectures": _member("_own_filter"), "SystemCallErrorNumber": _member("_own_filter"),
    "RestrictAddressFamilies": _member("_own_filter"), "MemoryDenyWriteExecute": _member("_own_filter"),
    "StandardOutput": _member("_log"), "StandardError": _member("_log"),
}

"""The services of a compose file taken over: `ljsv new --from-compose FILE`.

Each becomes a service of its own name, with its image as base. PyYAML reads
the file (an extra: nothing else needs it). What has no counterpart is named
with its service and key. Sources: the Compose specification
(compose-spec/spec.md), and its interpolation rules.
"""

from __future__ import annotations

import os
import re
import shlex
from itertools import count

from ljsv.cli.takeover.draft import Draft
from ljsv.cli.takeover.words import seconds, size
from ljsv.errors import EXIT_USAGE, Fault, quote
from ljsv.paths import is_service_name
from ljsv.service.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

FILE_MAX = 1 << 20
SERVICES_MAX = 200
VALUES_MAX = 100_000  # with each alias (*NAME) as many times as it stands for something
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)(?:(:?[-?+])([^}]*))?\})")
RESTARTS = {"no": "never", "always": "always", "unless-stopped": "always", "on-failure": "failure"}
# Of no meaning where there is no daemon, or true of every jail anyway.
IGNORED = frozenset({"container_name", "init", "tty", "stdin_open", "attach", "pull_policy", "platform", "links", "expose", "version", "annotations"})


def draft_compose(path: str, environ: Mapping[str, str]) -> list[Draft]:
    """A draft for each service, in the file's order. Fault where it cannot be read or makes no sense."""
    found = _read(path, environ)
    services = found.get("services") if isinstance(found, dict) else None
    if not isinstance(services, dict) or not services:
        raise Fault("the compose file has no services", path, "", hint=f"grep -n services: {quote(path)}", exit_code=EXIT_USAGE)
    if len(services) > SERVICES_MAX:
        raise Fault("the compose file has too many services", path, f"more than {SERVICES_MAX}", exit_code=EXIT_USAGE)
    drafts = []
    for name, keys in services.items():
        if not is_service_name(str(name)) or not isinstance(keys, dict):
            raise Fault("not a service", f"{path}: services.{name}", "its name or its shape is no service's", exit_code=EXIT_USAGE)
        drafts.append(_Service(path, str(name), keys, services).draft())
    for key in found:
        if key not in {"services", "version", "name"} and not str(key).startswith("x-"):
            drafts[0].lost(f"{key}: {'data are kept in each overlay, or bound' if key == 'volumes' else 'jails have the network of the host, or none' if key == 'networks' else 'has no counterpart'}")
    return drafts


def _read(path: str, environ: Mapping[str, str]) -> Any:
    try:
        import yaml
    except ImportError:
        raise Fault("cannot read a compose file", path, "PyYAML is not installed", hint="pip install 'ljsv[compose]', or sudo apt-get install python3-yaml") from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_MAX + 1)
        if len(text) > FILE_MAX:
            raise Fault("cannot read the compose file", path, f"larger than {FILE_MAX} bytes")
        return _interpolate(yaml.safe_load(text), environ, path, count())
    except OSError as error:
        raise Fault.from_os("cannot read the compose file", error, path, hint=f"ls -l {quote(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Fault("cannot read the compose file", path, " ".join(str(error).split()), exit_code=EXIT_USAGE) from None


def _interpolate(value: Any, environ: Mapping[str, str], path: str, number: Iterator[int]) -> Any:
    """$NAME, ${NAME:-default}, ${NAME:?error}, ${NAME:+other} and $$ in every text. `number` counts the values."""
    if next(number) > VALUES_MAX:
        raise Fault("cannot read the compose file", path, f"more than {VALUES_MAX} values, with what its aliases stand for", exit_code=EXIT_USAGE)
    if isinstance(value, dict):
        return {key: _interpolate(item, environ, path, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, environ, path, number) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not name:
            return "$"
        text, sign, other = environ.get(name), found[3] or "", found[4] or ""
        is_there = bool(text) if sign.startswith(":") else text is not None
        if sign.endswith("?") and not is_there:
            raise Fault("a variable is missing", f"{path}: {name}", other or "not set", hint=f"{name}=VALUE ljsv new --from-compose {quote(path)}", exit_code=EXIT_USAGE)
        if sign.endswith("+"):
            return other if is_there else ""
        return text if is_there and text is not None else other

    return _VARIABLE.sub(look_up, value)


class _Service:
    def __init__(self, path: str, name: str, keys: dict[str, Any], services: dict[str, Any]) -> None:
        self.made = Draft(name, f"{os.path.abspath(path)}: {name}")
        self.folder = os.path.dirname(os.path.abspath(path))
        self.keys = keys
        self.services = services
        self.workdir = ""

    def draft(self) -> Draft:
        made, keys = self.made, self.keys
        self._image()
        for key, value in keys.items():
            rule = RULES.get(str(key))
            if key in {"image", "build", "command", "entrypoint", *IGNORED} or str(key).startswith("x-"):
                continue
            if rule and value is not None:
                self._apply(rule, str(key), value)
            elif value not in (None, False, [], {}):
                self._lost(str(key), "")
        self._apply(lambda one, _: one._command(), "command", keys.get("command"))
        if not made.rootfs.get("writable"):
            made.rootfs["writable"] = "overlay"
        return made

    def _apply(self, rule: Callable[[_Service, Any], None], key: str, value: Any) -> None:
        try:
            rule(self, value)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            cause = f"it is {str(value)[:80]!r}: {error}"
            raise Fault("cannot understand the compose file", f"{self.made.origin}.{key}", cause, exit_code=EXIT_USAGE) from None

    def _lost(self, key: str, why: str) -> None:
        self.made.lost(f"{self.made.name}.{key}{': ' if why else ''}{why}")

    def _image(self) -> None:
        image, build = self.keys.get("image"), self.keys.get("build")
        if build:
            context = build.get("context", ".") if isinstance(build, dict) else build
            image = image or f"{self.made.name}:latest"
            self._lost("build", f"the image is not built here: ljsv image build {shlex.quote(os.path.join(self.folder, str(context)))} -t {image}")
        if not image:
            raise Fault("it has no image", self.made.origin, "", hint="image: NAME", exit_code=EXIT_USAGE)
        self.made.rootfs["base"] = str(image)

    def _defaults(self) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """(entrypoint, command) of the image, None where it is not in the store."""
        from ljsv.service.stored import read_manifest, resolve

        try:
            found = read_manifest(resolve(str(self.made.rootfs["base"])).path).defaults
        except Fault as fault:
            self._lost("image", f"{self.made.rootfs['base']} is not in the image store: {fault.hint or 'ljsv image ls'}")
            return None
        return found.entrypoint, found.command

    def _command(self) -> None:
        """`run` is only needed where what the image starts is told otherwise."""
        defaults = self._defaults()
        command, entrypoint = self.keys.get("command"), self.keys.get("entrypoint")
        if command is None and entrypoint is None:
            if self.workdir:
                self._lost("working_dir", "without a command it is the image's")
            return
        words = _words(entrypoint) if entrypoint is not None else list(defaults[0]) if defaults else []
        if entrypoint is None and defaults is None:
            self._lost("command", "the image's entrypoint is not known before it is in the store: take it into run")
        words += _words(command) if command is not None else list(defaults[1]) if defaults and entrypoint is None else []
        lines = ["#!/bin/sh", *([f"cd {shlex.quote(self.workdir)} || exit 1"] if self.workdir else []), f"exec {shlex.join(words)}"]
        self.made.put("run", "\n".join(lines) + "\n", 0o755)

    # ---- keys

    def _environment(self, value: Any) -> None:
        pairs = value.items() if isinstance(value, dict) else [str(item).partition("=")[::2] if "=" in str(item) else (item, os.environ.get(str(item), "")) for item in value]
        for key, text in pairs:
            self._variable(str(key), text)

    def _variable(self, key: str, value: Any) -> None:
        text = {True: "true", False: "false", None: ""}.get(value, value) if isinstance(value, bool) or value is None else value
        if "/" not in key and key not in {"", ".", ".."}:
            self.made.put(f"env/{key}", str(text).replace("\n", "\0") + "\n")

    def _env_file(self, value: Any) -> None:
        for item in value if isinstance(value, list) else [value]:
            name = item.get("path", "") if isinstance(item, dict) else str(item)
            try:
                with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                    lines = file.read(FILE_MAX).splitlines()
            except OSError as error:
                self._lost("env_file", f"{name}: {error.strerror}")
                continue
            for line in lines:
                key, equals, text = line.strip().partition("=")
                if equals and not key.startswith("#") and f"env/{key}" not in self.made.files:
                    self._variable(key, text.strip("\"'"))

    def _volumes(self, value: Any) -> None:
        for item in value:
            if isinstance(item, dict):
                source, to, is_read_only, kind = str(item.get("source", "")), str(item.get("target", "")), bool(item.get("read_only")), item.get("type", "volume")
            else:
                parts = str(item).split(":")
                source, to = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
                is_read_only = len(parts) > 2 and "ro" in parts[2].split(",")
                kind = "bind" if source.startswith(("/", ".", "~")) else "volume"
            if kind == "tmpfs":
                self.made.rootfs.setdefault("tmpfs", []).append({"at": to})
            elif kind == "bind":
                path = os.path.normpath(os.path.join(self.folder, os.path.expanduser(source)))
                self.made.add_bind(path, to, writable=not is_read_only)
                if not os.path.exists(path):
                    self._lost("volumes", f"{path} is not there: make it")
            else:
                self.made.changed(f"{self.made.name}.volumes: {source + ':' if source else ''}{to} is kept in the service's overlay")

    def _depends_on(self, value: Any) -> None:
        for need in value:
            self.made.add_need(str(need))
            condition = value[need].get("condition", "") if isinstance(value, dict) and isinstance(value[need], dict) else ""
            if condition == "service_completed_successfully":
                self._lost("depends_on", f"{need}: its end is not waited for, only its start")

    def _restart(self, value: Any) -> None:
        word, _, count = ("no" if value is False else str(value)).partition(":")
        self.made.set_policy("restart", "when", RESTARTS.get(word, "always"))
        if count.isdigit() and int(count):
            self.made.set_policy("restart", "give_up_after", int(count))

    def _stop_time(self, value: Any) -> None:
        found = seconds(str(value))
        if found:
            self.made.set_policy("stop", "timeout", format_duration(found))

    def _stop_signal(self, value: Any) -> None:
        self.made.set_policy("stop", "signal", str(value).removeprefix("SIG"))

    def _healthcheck(self, value: Any) -> None:
        test = value.get("test", "")
        if value.get("disable") or test in ("", "NONE", ["NONE"]):
            return
        words = [str(word) for word in test] if isinstance(test, list) else ["CMD-SHELL", str(test)]
        line = words[1] if words[0] == "CMD-SHELL" else shlex.join(words[1:])
        self.made.put("check", f"#!/bin/sh\n{line}\n", 0o755)
        self.made.set_policy("ready", "by", "check")
        interval, start = seconds(str(value.get("interval", "30s"))) or 30.0, seconds(str(value.get("start_period", "0s"))) or 0.0
        self.made.set_policy("ready", "timeout", format_duration(max(30.0, start + interval * int(value.get("retries", 3)))))
        timeout = seconds(str(value.get("timeout", "30s")))
        if timeout:
            self.made.set_policy("scripts", "check", format_duration(timeout))
        self.made.changed(f"{self.made.name}.healthcheck: makes it ready (check); it is not asked again while it runs")

    def _limit(self, key: str, value: Any, *, where: str) -> None:
        text = size(str(value))
        if text and text != "0":
            self.made.limits[key] = text
        else:
            self._lost(where, str(value))

    def _cpus(self, value: Any) -> None:
        if float(value):
            self.made.limits["cpu"] = f"{float(value) * 100:g}%"

    def _pids(self, value: Any) -> None:
        if int(value) > 0:
            self.made.limits["pids"] = int(value)

    def _deploy(self, value: Any) -> None:
        limits = (value.get("resources") or {}).get("limits") or {}
        for key, item in limits.items():
            if key == "memory":
                self._limit("memory", item, where="deploy.resources.limits.memory")
            elif key == "cpus":
                self._cpus(item)
            elif key == "pids":
                self._pids(item)
            else:
                self._lost(f"deploy.resources.limits.{key}", "")
        for key, item in value.items():
            if key == "replicas" and item == 1:
                continue
            if key == "resources":
                for other in set(item) - {"limits"}:
                    self._lost(f"deploy.resources.{other}", "")
            else:
                self._lost(f"deploy.{key}", "")

    def _ulimits(self, value: Any) -> None:
        for key, item in value.items():
            number = item.get("soft") if isinstance(item, dict) else item
            if key == "nofile":
                self.made.limits["nofile"] = int(number or 0)
            else:
                self._lost(f"ulimits.{key}", "")

    def _user(self, value: Any) -> None:
        user, _, group = str(value).partition(":")
        self.made.rootfs["user"] = f"{user}:{group}" if group.isdigit() and user.isdigit() else user
        if group and not group.isdigit():
            self._lost("user", f"the group {group}: the user's own is taken")

    def _workdir(self, value: Any) -> None:
        self.workdir = str(value)

    def _hostname(self, value: Any) -> None:
        self.made.rootfs["hostname"] = str(value)

    def _read_only(self, value: Any) -> None:
        if value:
            self.made.rootfs["writable"] = "no"

    def _tmpfs(self, value: Any) -> None:
        for item in value if isinstance(value, list) else [value]:
            at, _, options = str(item).partition(":")
            found = re.search(r"size=(\w+)", options)
            self.made.rootfs.setdefault("tmpfs", []).append({"at": at} | ({"size": size(found[1])} if found and size(found[1]) else {}))

    def _network_mode(self, value: Any) -> None:
        if value == "none":
            self.made.rootfs["network"] = "none"
        elif value != "host":
            self._lost("network_mode", f"{value}: the network is the host's, or none")

    def _networks(self, _value: Any) -> None:
        others = [name for name in self.services if name != self.made.name]
        self._lost("networks", "the network is the host's: others are found at localhost" + (f", not at the names {', '.join(others[:5])}" if others else ""))

    def _ports(self, value: Any) -> None:
        for item in value:
            published, target = (str(item.get("published", "")), str(item.get("target", ""))) if isinstance(item, dict) else (str(item).rpartition(":")[0].rpartition(":")[2], str(item).rpartition(":")[2])
            if published.partition("/")[0] not in {"", target.partition("/")[0]}:
                self._lost("ports", f"{published} is not mapped to {target}: it listens on {target.partition('/')[0]} of the host itself")
            else:
                self.made.changed(f"{self.made.name}.ports: it listens on {target.partition('/')[0]} of the host itself")

    def _capabilities(self, value: Any, sign: str) -> None:
        from ljsv.linux.capabilities import NUMBERS

        security = self.made.rootfs.setdefault("security", {})
        kept = security.setdefault("capabilities", [])
        for word in value:
            name = str(word).removeprefix("CAP_")
            if name == "ALL" and sign:
                from ljsv.jail.spec import DEFAULT_CAPABILITIES

                kept[:0] = [f"-{each}" for each, number in sorted(NUMBERS.items()) if number in DEFAULT_CAPABILITIES]
            elif name in NUMBERS and name != "SYS_ADMIN":
                kept.append(f"{sign}{name}")
            else:
                self._lost("cap_add" if not sign else "cap_drop", name)

    def _devices(self, value: Any) -> None:
        self._lost("devices", f"{', '.join(map(str, value))}: see [[device]] of rootfs")

    def _privileged(self, value: Any) -> None:
        if value:
            self._lost("privileged", 'no jail is by default; user_namespace = "host" in [security] of rootfs is the nearest')


RULES: dict[str, Callable[[_Service, Any], None]] = {
    "environment": _Service._environment, "env_file": _Service._env_file, "volumes": _Service._volumes, "depends_on": _Service._depends_on,
    "restart": _Service._restart, "stop_grace_period": _Service._stop_time, "stop_signal": _Service._stop_signal, "healthcheck": _Service._healthcheck,
    "mem_limit": lambda one, value: one._limit("memory", value, where="mem_limit"), "memswap_limit": lambda one, _: one._lost("memswap_limit", "swap in limits counts without memory"),
    "cpus": _Service._cpus, "pids_limit": _Service._pids, "deploy": _Service._deploy, "ulimits": _Service._ulimits,
    "user": _Service._user, "working_dir": _Service._workdir, "hostname": _Service._hostname, "read_only": _Service._read_only, "tmpfs": _Service._tmpfs,
    "network_mode": _Service._network_mode, "networks": _Service._networks, "ports": _Service._ports,
    "cap_add": lambda one, value: one._capabilities(value, ""), "cap_drop": lambda one, value: one._capabilities(value, "-"),
    "devices": _Service._devices, "privileged": _Service._privileged,
}


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else shlex.split(str(value))

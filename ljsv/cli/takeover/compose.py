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
import sys
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

    from ljsv.service.stored import Defaults

FILE_MAX = 1 << 20
SERVICES_MAX = 200
VALUES_MAX = 100_000  # with each alias (*NAME) as many times as it stands for something
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)(?:(:?[-?+])((?:[^{}]|\{[^{}]*\})*))?\})")
NESTED_MAX = 8
_HOST_NAMED = re.compile(r"HOST|ADDR|SERVER|URL|ENDPOINT|BROKER", re.IGNORECASE)
RESTARTS = {"no": "never", "always": "always", "unless-stopped": "always", "on-failure": "failure"}
# Of no meaning where there is no daemon, or true of every jail anyway.
IGNORED = frozenset({"container_name", "init", "tty", "stdin_open", "attach", "pull_policy", "platform", "links", "expose", "version", "annotations", "shm_size"})
NO_PRIVILEGES = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")


def draft_compose(path: str, environ: Mapping[str, str]) -> list[Draft]:
    """A draft for each service, in the file's order. Fault where it cannot be read or makes no sense."""
    found, unset = _read(path, {**_read_variables(os.path.join(os.path.dirname(path), ".env")), **environ})
    services = found.get("services") if isinstance(found, dict) else None
    if not isinstance(services, dict) or not services:
        raise Fault("the compose file has no services", path, "", hint=f"grep -n services: {quote(path)}", exit_code=EXIT_USAGE)
    if len(services) > SERVICES_MAX:
        raise Fault("the compose file has too many services", path, f"more than {SERVICES_MAX}", exit_code=EXIT_USAGE)
    drafts = []
    for name, keys in services.items():
        if not is_service_name(str(name)) or not isinstance(keys, dict):
            raise Fault("not a service", f"{path}: services.{name}", "its name or its shape is no service's", exit_code=EXIT_USAGE)
        drafts.append(_Service(path, str(name), keys, found).draft())
    for key in found:
        if key not in {"services", "version", "name", "secrets", "configs"} and not str(key).startswith("x-"):
            drafts[0].lost(f"{key}: {'data are kept in each overlay, or bound' if key == 'volumes' else 'jails have the network of the host, or none' if key == 'networks' else 'has no counterpart'}")
    for name in unset:
        drafts[0].lost(f"${name} is not set, and empty: {quote(name)}=VALUE ljsv new --from-compose {quote(path)}, or a line of .env beside it")
    return drafts


def _read_variables(path: str) -> dict[str, str]:
    """NAME=VALUE a line, as .env and env_file have it; quotes around a value go. Nothing where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(FILE_MAX).splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {key.strip(): _unquote(text.strip()) for key, equals, text in pairs if equals}


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        return text[1:-1]
    return text.partition(" #")[0].rstrip()


def _read(path: str, environ: Mapping[str, str]) -> tuple[Any, list[str]]:
    """(what the file says, names of variables that are not set)."""
    unset: dict[str, None] = {}
    try:
        import yaml
    except ImportError:
        is_venv = sys.prefix != sys.base_prefix  # which sees no package of Debian's
        hint = "LJSV_EXTRAS=compose ./bootstrap true  # in the checkout; or pip install 'ljsv[compose]'" if is_venv else "sudo apt-get install python3-yaml"
        raise Fault("cannot read a compose file", path, "PyYAML is not installed", hint=hint) from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(FILE_MAX + 1)
        if len(text) > FILE_MAX:
            raise Fault("cannot read the compose file", path, f"larger than {FILE_MAX} bytes")
        found = yaml.load(text, Loader=_make_loader(yaml.SafeLoader))  # noqa: S506  a safe one
        return _interpolate(found, environ, path, count(), unset), list(unset)
    except OSError as error:
        raise Fault.from_os("cannot read the compose file", error, path, hint=f"ls -l {quote(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Fault("cannot read the compose file", path, " ".join(str(error).split()), exit_code=EXIT_USAGE) from None


def _make_loader(base: Any) -> Any:
    """PyYAML's safe one with the numbers and booleans of YAML 1.2 (10.3.2), as compose has it: `22:22`, `yes` and `0755` are what they look like."""

    class Loader(base):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012
            letter: [(tag, pattern) for tag, pattern in rows if not tag.endswith((":bool", ":int"))] for letter, rows in base.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:0|[-+]?[1-9][0-9]*)$"), list("-+0123456789"))
    return Loader


def _interpolate(value: Any, environ: Mapping[str, str], path: str, number: Iterator[int], unset: dict[str, None]) -> Any:
    """$NAME, ${NAME:-default}, ${NAME:?error}, ${NAME:+other} and $$ in every text. `number` counts the values."""
    if next(number) > VALUES_MAX:
        raise Fault("cannot read the compose file", path, f"more than {VALUES_MAX} values, with what its aliases stand for", exit_code=EXIT_USAGE)
    if isinstance(value, dict):
        return {key: _interpolate(item, environ, path, number, unset) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, environ, path, number, unset) for item in value]
    return _expand(value, environ, path, unset) if isinstance(value, str) else value


def _expand(text: str, environ: Mapping[str, str], path: str, unset: dict[str, None], depth: int = 0) -> str:
    def look_up(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not name:
            return "$"
        value, sign, other = environ.get(name), found[3] or "", found[4] or ""
        is_there = bool(value) if sign.startswith(":") else value is not None
        if sign.endswith("?") and not is_there:
            raise Fault("a variable is missing", f"{path}: {name}", other or "not set", hint=f"{name}=VALUE ljsv new --from-compose {quote(path)}", exit_code=EXIT_USAGE)
        if sign.endswith("+"):
            wanted = other if is_there else ""
        elif is_there:
            return value or ""
        else:
            wanted = other
            if not sign:
                unset[name] = None
        return _expand(wanted, environ, path, unset, depth + 1) if depth < NESTED_MAX else wanted

    return _VARIABLE.sub(look_up, text)


class _Service:
    def __init__(self, path: str, name: str, keys: dict[str, Any], file: dict[str, Any]) -> None:
        self.made = Draft(name, f"{os.path.abspath(path)}: {name}")
        self.folder = os.path.dirname(os.path.abspath(path))
        self.keys = keys
        self.file = file  # the whole one
        self.others = [other for other in file["services"] if other != name]
        self.workdir = ""
        self.from_file: set[str] = set()  # variables of env_file: what environment says comes first

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
        if "when" not in made.policy.get("restart", {}):
            made.set_policy("restart", "when", "failure")
            made.changed(f"{made.name}: no restart: it would be left ended, here it is started again after a failure ([restart] in policy)")
        self._take_names()
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
            image = image or f"{self.made.name}:latest"
            self._lost("build", f"the image is not built here: {self._build(build if isinstance(build, dict) else {'context': build}, str(image))}")
        if not image:
            raise Fault("it has no image", self.made.origin, "", hint="image: NAME", exit_code=EXIT_USAGE)
        self.made.rootfs["base"] = str(image)

    def _build(self, build: dict[str, Any], image: str) -> str:
        """The command."""
        context = os.path.normpath(os.path.join(self.folder, str(build.get("context", "."))))
        words = ["ljsv", "image", "build", context, "-t", image]
        if build.get("dockerfile"):
            words += ["-f", os.path.join(context, str(build["dockerfile"]))]
        if build.get("target"):
            words += ["--target", str(build["target"])]
        args = build.get("args") or {}
        for pair in (f"{key}={text}" for key, text in args.items()) if isinstance(args, dict) else map(str, args):
            words += ["--build-arg", pair]
        return shlex.join(words)

    def _defaults(self) -> Defaults | None:
        """What the image says, None where it is not in the store."""
        from ljsv.service.stored import read_manifest, resolve

        image = str(self.made.rootfs["base"])
        try:
            return read_manifest(resolve(image).path).defaults
        except Fault:
            self.made.lacks_image = True
        if not self.keys.get("build"):
            archive = quote(image.rpartition("/")[2].replace(":", "-") + ".tar")
            self._lost("image", f"{image} is not in the image store: skopeo copy docker://{quote(image)} docker-archive:{archive} && ljsv image import {archive} -t {quote(image)}")
        return None

    def _command(self) -> None:
        """`run` is only needed where what the image starts is told otherwise."""
        defaults = self._defaults()
        command, entrypoint = self.keys.get("command"), self.keys.get("entrypoint")
        if command is None and entrypoint is None:
            if self.workdir:
                self._lost("working_dir", "without a command it is the image's")
            return
        words = _words(entrypoint) if entrypoint is not None else list(defaults.entrypoint) if defaults else []
        if defaults is None:
            self._lost("command", f"the image's entrypoint and directory are not known before it is in the store: take it over again then (ljsv remove {self.made.name}), or say them in run")
        words += _words(command) if command is not None else []
        workdir = self.workdir or (defaults.workdir if defaults else "")
        lines = ["#!/bin/sh", *([f"cd {shlex.quote(workdir)} || exit 1"] if workdir else []), f"exec {shlex.join(words)}"]
        self.made.put("run", "\n".join(lines) + "\n", 0o755)

    # ---- keys

    def _environment(self, value: Any) -> None:
        pairs = value.items() if isinstance(value, dict) else [(key, text if equals else None) for key, equals, text in (str(item).partition("=") for item in value)]
        for key, text in pairs:
            self._variable(str(key), os.environ.get(str(key)) if text is None else text)

    def _variable(self, key: str, value: Any) -> None:
        """None: it is passed on where it is set."""
        text = str(value).lower() if isinstance(value, bool) else value
        if text is not None and "/" not in key and key not in {"", ".", ".."}:
            self.made.put(f"env/{key}", str(text).replace("\n", "\0") + "\n")

    def _env_file(self, value: Any) -> None:
        for item in value if isinstance(value, list) else [value]:
            name = item.get("path", "") if isinstance(item, dict) else str(item)
            path = os.path.join(self.folder, name)
            if not os.path.exists(path):
                self._lost("env_file", f"{name} is not there")
            for key, text in _read_variables(path).items():
                if f"env/{key}" not in self.made.files or key in self.from_file:
                    self._variable(key, text)
                    self.from_file.add(key)

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
            condition = value[need].get("condition", "") if isinstance(value, dict) and isinstance(value[need], dict) else ""
            if condition == "service_completed_successfully":
                self._lost("depends_on", f"{need}: the end of a job is not waited for: ljsv up {need} && ljsv wait {need} down && ljsv up {self.made.name}")
            else:
                self.made.add_need(str(need))

    def _restart(self, value: Any) -> None:
        word, _, count = ("no" if value is False else str(value)).partition(":")
        self.made.set_policy("restart", "when", RESTARTS.get(word, "always"))
        if count.isdigit() and int(count):
            self.made.set_policy("restart", "give_up_after", int(count))

    def _restart_policy(self, value: Any) -> None:
        self.made.set_policy("restart", "when", {"none": "never", "on-failure": "failure"}.get(str(value.get("condition", "any")), "always"))
        if value.get("max_attempts"):
            self.made.set_policy("restart", "give_up_after", int(value["max_attempts"]))
        delay = seconds(str(value.get("delay", "")))
        if delay:
            self.made.set_policy("restart", "delay", format_duration(delay))

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
            if key == "restart_policy":
                self._restart_policy(item)
            elif key == "resources":
                for other in set(item) - {"limits"}:
                    self._lost(f"deploy.resources.{other}", "")
            else:
                self._lost(f"deploy.{key}", "")

    def _ulimits(self, value: Any) -> None:
        for key, item in value.items():
            number = item.get("soft") if isinstance(item, dict) else item
            if key == "nofile":
                self.made.set_nofile(int(number or 0), f"{self.made.name}.ulimits.nofile={number}")
            else:
                self._lost(f"ulimits.{key}", "")

    def _user(self, value: Any) -> None:
        self.made.rootfs["user"] = str(value)

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
        self._lost("networks", "the network is the host's, or none")

    def _take_names(self) -> None:
        """What says another service's name as a host: in the host's network that is 127.0.0.1."""
        texts = {path: data.decode(errors="replace") for path, (data, _) in self.made.files.items() if path == "run" or path.startswith("env/")}
        for path, text in texts.items():
            for other in self.others:
                is_host = _HOST_NAMED.search(path) and text.strip() == other
                if is_host or re.search(rf"(?:^|[@/=,\s]){re.escape(other)}:\d|//(?:[^/@\s]*@)?{re.escape(other)}(?:/|$)", text.strip()):
                    self.made.lost(f"{self.made.name}: {path} says {other}: there is no such host, since the network is this machine's: 127.0.0.1")

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
        security["capabilities"] = [word for word in kept if not (word.startswith("-") and word[1:] in kept)]

    def _devices(self, value: Any) -> None:
        for item in value:
            source, _, to = str(item).partition(":")
            if source.startswith("/dev/") and to.partition(":")[0] in {"", source}:
                self.made.rootfs.setdefault("device", []).append({"path": source})
            else:
                self._lost("devices", f"{item}: a device has its own name in a jail ([[device]] in rootfs)")

    def _security(self, value: Any) -> None:
        for item in value:
            if item not in NO_PRIVILEGES:
                self._lost("security_opt", str(item))

    def _files(self, kind: str, value: Any, to: str) -> None:
        """secrets and configs that are files: bound, read-only."""
        declared = self.file.get(kind) or {}
        for item in value:
            row = item if isinstance(item, dict) else {"source": item}
            name = str(row["source"])
            path = (declared.get(name) or {}).get("file")
            if path:
                self.made.add_bind(os.path.normpath(os.path.join(self.folder, str(path))), os.path.join(to, str(row.get("target", name))))
            else:
                self._lost(kind, f"{name}: only one that is a file is bound")

    def _logging(self, value: Any) -> None:
        options = value.get("options") or {}
        if value.get("driver", "json-file") in {"json-file", "local"}:
            if size(str(options.get("max-size", ""))):
                self.made.set_policy("log", "max_size", size(str(options["max-size"])))
            if str(options.get("max-file", "")).isdigit():
                self.made.set_policy("log", "keep", int(options["max-file"]))
        elif value.get("driver") == "none":
            self.made.set_policy("log", "to", "none")
        else:
            self._lost("logging", f"{value.get('driver')}: the log is kept here: ljsv logs {self.made.name}")

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
    "devices": _Service._devices, "privileged": _Service._privileged, "security_opt": _Service._security, "logging": _Service._logging,
    "secrets": lambda one, value: one._files("secrets", value, "/run/secrets"), "configs": lambda one, value: one._files("configs", value, "/"),
    "profiles": lambda one, _: one._lost("profiles", f"it starts like the others: ljsv disable {one.made.name}"),
    "extra_hosts": lambda one, _: one._lost("extra_hosts", 'dns = "image" in rootfs shows the /etc/hosts of the image'),
}


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else shlex.split(str(value))

"""Defaults of an image, and the OCI (or Docker) configuration that says the same: one into the other. Pure.

Source: the OCI image specification's config.md; Docker's Healthcheck, in
nanoseconds, is an extension that both know.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from ljsv.errors import Fault
from ljsv.service.stored import Defaults, HealthCheck, Manifest

NANO = 1_000_000_000
HISTORY_MAX = 200
STEP_MAX = 1000
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


def machine() -> str:
    """This machine, by the name that images have for it."""
    return MACHINES.get(os.uname().machine, os.uname().machine)


def parse_signal(text: str) -> str:
    """SIGTERM, TERM or 15 as TERM. ValueError for what is no signal."""
    if text.isascii() and text.isdigit():
        return signal.Signals(int(text)).name.removeprefix("SIG")
    name = text.upper().removeprefix("SIG")
    if f"SIG{name}" not in signal.Signals.__members__:
        if name.startswith("RTMIN+") and name[6:].isdigit():  # systemd's
            return signal.Signals(signal.SIGRTMIN + int(name[6:])).name.removeprefix("SIG")
        raise ValueError(f"{text} is no signal")
    return name


def defaults_of(config: dict[str, Any], origin: str) -> Defaults:
    """The defaults that an image's `config` object says. Fault where it is not of the form that the specification has."""
    try:
        env = []
        for item in config.get("Env") or ():
            name, _, value = item.partition("=")
            env.append((name, value))
        stop = config.get("StopSignal") or ""
        return Defaults(
            env=tuple(dict(env).items()),
            workdir=_text(config.get("WorkingDir")),
            user=_text(config.get("User")),
            entrypoint=_texts(config.get("Entrypoint")),
            command=_texts(config.get("Cmd")),
            stop_signal=parse_signal(stop) if stop else "",
            health=_health_of(config.get("Healthcheck")),
            shell=_texts(config.get("Shell")),
            exposed=tuple(sorted(config.get("ExposedPorts") or ())),
            volumes=tuple(sorted(config.get("Volumes") or ())),
            labels=tuple(sorted((str(name), str(value)) for name, value in (config.get("Labels") or {}).items())),
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise Fault("the image's configuration cannot be understood", origin, str(error), hint="which tool has made it?") from None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"not a text: {str(value)[:60]}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"not a list: {value[:60]}")
    return tuple(_text(item) for item in value or ())


def _health_of(given: Any) -> HealthCheck | None:
    test = _texts((given or {}).get("Test"))
    if not test or test[0] == "NONE":
        return None
    argv = ("/bin/sh", "-c", *test[1:]) if test[0] == "CMD-SHELL" else test[1:]
    interval_s, timeout_s, start_period_s = (max(0, int(given.get(key) or 0)) / NANO for key in ("Interval", "Timeout", "StartPeriod"))
    return HealthCheck(argv, interval_s, timeout_s, start_period_s, max(0, int(given.get("Retries") or 0)))


def config_of(manifest: Manifest, diff_id: str, created: str, *, architecture: str = "") -> dict[str, Any]:
    """The whole configuration of an image of one layer."""
    defaults = manifest.defaults
    said: tuple[tuple[str, Any], ...] = (
        ("Env", [f"{name}={value}" for name, value in defaults.env]), ("WorkingDir", defaults.workdir), ("User", defaults.user),
        ("Entrypoint", list(defaults.entrypoint)), ("Cmd", list(defaults.command)),
        ("StopSignal", f"SIG{defaults.stop_signal}" if defaults.stop_signal else ""), ("Shell", list(defaults.shell)),
        ("ExposedPorts", {port: {} for port in defaults.exposed}), ("Volumes", {volume: {} for volume in defaults.volumes}),
        ("Labels", dict(defaults.labels)),
    )
    config = {key: value for key, value in said if value}
    health = defaults.health
    if health:
        config["Healthcheck"] = {
            "Test": ["CMD", *health.argv], "Interval": int(health.interval_s * NANO), "Timeout": int(health.timeout_s * NANO),
            "StartPeriod": int(health.start_period_s * NANO), "Retries": health.retries,
        }
    steps = manifest.history or ("made by ljsv",)
    history: list[dict[str, Any]] = [{"created": created, "created_by": step, "empty_layer": True} for step in steps]
    del history[-1]["empty_layer"]
    return {
        "architecture": architecture or machine(), "os": "linux", "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": history,
    }


def history_of(config: dict[str, Any]) -> tuple[str, ...]:
    """What was done, as the configuration tells it; bounded."""
    steps = [str(item.get("created_by") or item.get("comment") or "") for item in config.get("history") or () if isinstance(item, dict)]
    return tuple(step[:STEP_MAX].replace("\n", " ").replace("\0", "") for step in steps if step)[-HISTORY_MAX:]

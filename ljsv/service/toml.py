"""TOML text into the schema's frozen values, through cattrs (its one import site).

Every refusal names file, key, what was found and what is allowed.
"""

from __future__ import annotations

import signal
import tomllib
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from ljsv.errors import Fault, quote
from ljsv.linux import capabilities
from ljsv.paths import clean_place
from ljsv.service import schema, units

T = TypeVar("T")

CONVERTER = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

def _exactly(kind: type, allowed: str) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(allowed)
        return value

    return structure


def _with_unit(parse: Any, allowed: str) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(allowed)  # noqa: TRY004 - one kind of refusal
        return parse(value)

    return structure


def _literal(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if value not in choices or not isinstance(value, str):
        raise ValueError(", ".join(f'"{choice}"' for choice in choices))
    return value


def _tuple(value: Any, kind: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("a list")  # noqa: TRY004
    element: Any = list[get_args(kind)[0]]  # type: ignore[misc]
    return tuple(CONVERTER.structure(value, element))


def _optional(value: Any, kind: Any) -> Any:
    (inner,) = (choice for choice in get_args(kind) if choice is not type(None))
    return CONVERTER.structure(value, inner)


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a string")
    return value


CONVERTER.register_structure_hook(str, _text)
CONVERTER.register_structure_hook(int, _exactly(int, "a whole number"))
CONVERTER.register_structure_hook(bool, _exactly(bool, "true or false"))
CONVERTER.register_structure_hook(schema.Duration, _with_unit(units.parse_duration, units.DURATION_ALLOWED))
CONVERTER.register_structure_hook(schema.Size, _with_unit(units.parse_size, units.SIZE_ALLOWED))
CONVERTER.register_structure_hook(schema.OptionalSize, _with_unit(units.parse_optional_size, units.OPTIONAL_SIZE_ALLOWED))
CONVERTER.register_structure_hook(schema.Percent, _with_unit(units.parse_percent, units.PERCENT_ALLOWED))
CONVERTER.register_structure_hook_func(lambda kind: str(get_origin(kind)) == "typing.Literal", _literal)
CONVERTER.register_structure_hook_func(lambda kind: str(get_origin(kind)) == "<class 'tuple'>", _tuple)
CONVERTER.register_structure_hook_func(lambda kind: type(None) in get_args(kind), _optional)
# After the hooks above, since the generated function calls those that it finds.
CONVERTER.register_structure_hook(
    schema.Bind,
    make_dict_structure_fn(schema.Bind, CONVERTER, from_=override(rename="from"), _cattrs_forbid_extra_keys=True),
)


def parse(text: bytes, kind: type[T], file: str) -> T:
    """The TOML `text` of `file` as a `kind`, whole and checked; Fault with key, found and allowed."""
    try:
        table = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise _fault(file, "not UTF-8 text", f"byte {error.start}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _fault(file, "not valid TOML", str(error)) from None
    try:
        value = CONVERTER.structure(table, kind)
    except (ClassValidationError, IterableValidationError) as error:
        raise _refusal(file, table, kind, error) from None
    _check(file, value)
    return value


def pack(value: Any) -> str:
    """A frozen value as text that `unpack` takes."""
    import json

    return json.dumps(cattrs.Converter().unstructure(value))


def unpack(text: str, kind: type[T]) -> T | None:
    """What was packed; None for what is no such value."""
    import json

    try:
        return cattrs.Converter().structure(json.loads(text), kind)
    except (ValueError, TypeError, KeyError, ClassValidationError, IterableValidationError):
        return None


def _fault(file: str, action: str, cause: str, hint: str = "") -> Fault:
    return Fault(f"{file}: {action}", "", cause, hint=hint or f"${{EDITOR:-vi}} {quote(file)}")


def _refusal(file: str, table: Any, kind: type, error: BaseException) -> Fault:
    """The first leaf of cattrs' tree of errors, told with its path."""
    path: list[str] = []
    found: Any = table
    while isinstance(error, (ClassValidationError, IterableValidationError)):
        error = error.exceptions[0]
        notes = getattr(error, "__notes__", ())
        for note in notes:
            name = getattr(note, "name", getattr(note, "index", None))
            if name is None:
                continue
            found, kind = _descend(found, kind, name)
            path.append(f"[{name}]" if isinstance(name, int) else "." + name.rstrip("_"))
    where = "".join(path).lstrip(".")
    if isinstance(error, ForbiddenExtraKeysError):
        unknown = min(error.extra_fields)
        known = [f.name.rstrip("_") for f in fields(error.cl)]
        full = f"{where}.{unknown}" if where else unknown
        close = get_close_matches(unknown, known, 1)
        allowed = f"did you mean {close[0]!r}?" if close else "allowed here: " + ", ".join(known)
        return _fault(file, f"unknown key {full}", allowed)
    if isinstance(error, KeyError):
        return _fault(file, f"missing key {where}", "it is required here")
    if is_dataclass(kind):
        return _fault(file, f"{where}: found {_show(found)}", f"allowed: a table, {where if where.endswith(']') else f'[{where}]'}")
    return _fault(file, f"{where}: found {_show(found)}", f"allowed: {error}")


def _descend(found: Any, kind: Any, name: str | int) -> tuple[Any, Any]:
    if isinstance(name, int):
        return (found[name] if isinstance(found, list) and name < len(found) else None), (*get_args(kind), None)[0]
    inner = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    spelled = name.rstrip("_")
    return (found.get(spelled) if isinstance(found, dict) else None), inner


def _show(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


# What the types alone cannot say: (key, test, what is allowed).
_ABSOLUTE = "an absolute path without .. in it"


def _is_path(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path and len(path) < 4096


_BELOW_DEV = "an absolute path below /dev, without .. and doubled slashes in it"


def _is_device(path: str) -> bool:
    return _is_path(path) and path.startswith("/dev/") and all(part not in {"", "."} for part in path.split("/")[1:])


def _check(file: str, value: Any) -> None:
    if isinstance(value, schema.Rootfs):
        _check_rootfs(file, value)
    elif isinstance(value, schema.Limits):
        _check_limits(file, value)
    elif isinstance(value, schema.Policy):
        _check_policy(file, value)


def _require(ok: bool, file: str, key: str, found: Any, allowed: str) -> None:  # noqa: FBT001
    if not ok:
        raise _fault(file, f"{key}: found {_show(found)}", f"allowed: {allowed}")


def _check_rootfs(file: str, rootfs: schema.Rootfs) -> None:
    for index, bind in enumerate(rootfs.bind):
        _require(_is_path(bind.from_), file, f"bind[{index}].from", bind.from_, _ABSOLUTE)
        _require(_is_path(bind.to) and clean_place(bind.to) != "/", file, f"bind[{index}].to", bind.to, _ABSOLUTE + ", not / itself")
    for index, tmpfs in enumerate(rootfs.tmpfs):
        _require(_is_path(tmpfs.at) and clean_place(tmpfs.at) != "/", file, f"tmpfs[{index}].at", tmpfs.at, _ABSOLUTE + ", not / itself")
    places = [clean_place(bind.to) for bind in rootfs.bind] + [clean_place(tmpfs.at) for tmpfs in rootfs.tmpfs]
    for index, device in enumerate(rootfs.device):
        _require(_is_device(device.path), file, f"device[{index}].path", device.path, _BELOW_DEV)
    _require(not rootfs.tty or _is_device(rootfs.tty), file, "tty", rootfs.tty, _BELOW_DEV)
    places += [device.path for device in rootfs.device]
    twice = next((place for place in places if places.count(place) > 1), None)
    _require(twice is None, file, "bind, tmpfs and device", twice, "one of them at a place")
    host = rootfs.hostname
    allowed = "at most 64 letters, digits, dots and hyphens"
    _require(len(host) <= 64 and all(c.isascii() and (c.isalnum() or c in "-.") for c in host), file, "hostname", host, allowed)
    _require(not rootfs.overlay or _is_path(rootfs.overlay), file, "overlay", rootfs.overlay, _ABSOLUTE)
    _require(not rootfs.overlay or rootfs.writable == "overlay", file, "overlay", rootfs.overlay, 'only together with writable = "overlay"')
    for index, text in enumerate(rootfs.security.capabilities):
        try:
            capabilities.parse(text)
        except ValueError as error:
            _require(ok=False, file=file, key=f"security.capabilities[{index}]", found=text, allowed=str(error))


def _check_limits(file: str, limits: schema.Limits) -> None:
    for name, low, high in (
        ("pids", 2, 4_194_304), ("cpu_weight", 1, 10_000), ("io_weight", 1, 10_000), ("nofile", 3, 1_048_576), ("nice", -20, 19),
        ("oom_score_adj", -1000, 1000),
    ):
        number = getattr(limits, name)
        _require(number is None or low <= number <= high, file, name, number, f"{low} to {high}")
    _require(not limits.cpus or _is_cpu_list(limits.cpus), file, "cpus", limits.cpus, 'numbers of processors: "0", "0-3", "0-1,3"')
    for index, io in enumerate(limits.io):
        _require(_is_path(io.path), file, f"io[{index}].path", io.path, _ABSOLUTE)
        for name in ("read_ops", "write_ops"):
            number = getattr(io, name)
            _require(number is None or 1 <= number < 1 << 32, file, f"io[{index}].{name}", number, f"1 to {(1 << 32) - 1}")
    high_and_max = limits.memory and limits.memory_high and limits.memory_high > limits.memory
    _require(not high_and_max, file, "memory_high", limits.memory_high, "no more than memory")


def _is_cpu_list(text: str) -> bool:
    for part in text.split(","):
        first, has_last, last = part.partition("-")
        numbers = (first, last) if has_last else (first, first)
        if not all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers) or int(numbers[0]) > int(numbers[1]):
            return False
    return True


SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


def _check_policy(file: str, policy: schema.Policy) -> None:
    restart, log = policy.restart, policy.log
    allowed = "TERM, INT, QUIT, HUP, USR1, USR2, KILL and so on, without SIG"
    _require(not policy.stop.signal or policy.stop.signal in SIGNALS, file, "stop.signal", policy.stop.signal, allowed)
    _require(restart.delay > 0, file, "restart.delay", "0s", "longer than 0s: a service that fails at once would fill the machine")
    _require(restart.max_delay >= restart.delay, file, "restart.max_delay", units.format_duration(restart.max_delay), "no shorter than restart.delay")
    _require(0 <= restart.give_up_after <= 1_000_000, file, "restart.give_up_after", restart.give_up_after, "0 to 1000000")
    _require(0 <= log.keep <= 1000, file, "log.keep", log.keep, "0 to 1000")
    _require(1 <= log.rate <= 1_000_000, file, "log.rate", log.rate, "1 to 1000000")
    _require(log.max_size >= 4096, file, "log.max_size", log.max_size, 'at least "4K"')
    _require(policy.stop.timeout > 0, file, "stop.timeout", "0s", "longer than 0s")
    for key in ("check", "control", "finish"):
        _require(getattr(policy.scripts, key) > 0, file, f"scripts.{key}", "0s", "longer than 0s")
    for name in policy.needs:
        _require(name.isprintable() and "/" not in name and name[:1] not in {"", "."}, file, "needs", name, "names of services")


def warm_up() -> None:
    """Have cattrs generate its functions now, before the scanner forks: what a supervisor makes itself is not shared."""
    for kind in (schema.Rootfs, schema.Limits, schema.Policy):
        parse(b"", kind, "")
    parse(b'bind = [{from = "/a", to = "/b"}]\ntmpfs = [{at = "/a"}]\ndevice = [{path = "/dev/a"}]', schema.Rootfs, "")

"""A Dockerfile read into stages, and all that is not supported refused by name and line before anything runs. Pure but for the parser.

The grammar (continuations, heredocs, flags, JSON forms) is BuildKit's own: the
`dockerfile` package wraps it. Which instruction means what is the Dockerfile
reference's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from ljsv.errors import Fault
from ljsv.images.config import machine, parse_signal
from ljsv.images.expand import expand

STAGES_MAX = 200
ESCAPE = re.compile(r"^#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)
DIRECTIVE = re.compile(r"^#\s*[a-zA-Z]+\s*=")
REMOTE = re.compile(r"^(?:https?://|ftp://|git@|git://|ssh://)|\.git(?:#.*)?$")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# What each instruction may be told by flags; what is not here is refused.
FLAGS = {
    "FROM": {"platform"}, "COPY": {"from", "chown", "chmod", "link"}, "ADD": {"chown", "chmod", "link"}, "RUN": {"network"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
KNOWN = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "RUN", "SHELL", "STOPSIGNAL", "USER",
    "VOLUME", "WORKDIR",
)
PLATFORM_ARGUMENTS = ("TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT", "BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT")
PROXY_ARGUMENTS = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class Heredoc(NamedTuple):
    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: `words` as the parser gives them, not expanded; `flags` by name."""

    name: str
    line: int
    words: tuple[str, ...]
    is_json: bool = False
    flags: tuple[tuple[str, str], ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    text: str = ""

    def flag(self, name: str, default: str = "") -> str:
        return dict(self.flags).get(name, default)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`base` is what FROM names, expanded; `name` what AS gives it, in small letters, "" for none."""

    base: str
    line: int
    name: str
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    path: str
    stages: tuple[Stage, ...]
    arguments: tuple[tuple[str, str | None], ...]  # ARG before the first FROM, expanded
    escape: str

    def find_stage(self, name: str, before: int) -> int:
        """The stage of that name or number among the first `before`; -1 for none."""
        for index in range(min(before, len(self.stages)) - 1, -1, -1):
            if self.stages[index].name and self.stages[index].name == name.lower():
                return index
        return int(name) if name.isascii() and name.isdigit() and int(name) < before else -1


def fault(path: str, line: int, action: str, object_: str, cause: str, hint: str = "") -> Fault:
    return Fault(f"{path}:{line}: {action}", object_, cause, hint=hint or f"correct line {line} of {path}")


def parse_dockerfile(text: str, path: str, given: dict[str, str]) -> Dockerfile:
    """The stages of a Dockerfile, checked. `given` are build arguments. Fault with the line for what is not supported."""
    try:
        import dockerfile
    except ImportError as error:
        hint = "pip install 'ljsv[dockerfile]', or with ./bootstrap: LJSV_EXTRAS=dockerfile ./bootstrap ljsv image build ..."
        raise Fault("cannot read a Dockerfile", "dockerfile", f"the Python package that parses it is not installed ({error})", hint=hint) from None
    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError as error:
        raise fault(path, _line_of(error, text), "not a Dockerfile", "", str(error).splitlines()[0]) from None
    instructions = [_instruction(command, path) for command in commands]
    return _stages(instructions, path, given, _escape_of(text))


def _line_of(error: Exception, text: str) -> int:
    """Where the parser stumbles: it says so of some errors only, and of the rest finds nothing wrong with the lines before that one."""
    import dockerfile

    found = re.search(r"line (\d+)", str(error))
    if found:
        return int(found[1])
    lines = text.splitlines(keepends=True)
    good, bad = 0, len(lines)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            dockerfile.parse_string("".join(lines[:middle]))
            good = middle
        except dockerfile.GoParseError as other:
            good, bad = (good, middle) if str(other) == str(error) else (middle, bad)
    return bad


def _escape_of(text: str) -> str:
    for line in text.splitlines():
        found = ESCAPE.match(line)
        if found:
            return found[1]
        if not DIRECTIVE.match(line):
            break
    return "\\"


def _instruction(command: Any, path: str) -> Instruction:
    name, line = command.cmd.upper(), command.start_line
    if name not in KNOWN:
        hint = f"take it out of line {line}" if name == "ONBUILD" else f"known are {', '.join(KNOWN)}"
        raise fault(path, line, f"{name} is not supported", "", "instructions for the images built on this one are not kept" if name == "ONBUILD" else "no such instruction", hint)
    flags = []
    for text in command.flags:
        key, _, value = text.removeprefix("--").partition("=")
        if key not in FLAGS.get(name, ()):
            allowed = ", ".join(f"--{flag}" for flag in sorted(FLAGS.get(name, ()))) or "none"
            raise fault(path, line, f"{name} --{key} is not supported", "", f"flags here: {allowed}", f"take --{key} out of line {line}")
        flags.append((key, value))
    made = Instruction(
        name=name, line=line, words=tuple(command.value), is_json=bool(command.json), flags=tuple(flags),
        heredocs=tuple(Heredoc(item.name, item.content) for item in command.heredocs), text=" ".join(command.original.split()),
    )
    _check(made, path)
    return made


def _check(step: Instruction, path: str) -> None:
    """What can be seen to be wrong or not supported before anything is built."""
    words = step.words
    least = {"COPY": 2, "ADD": 2, "STOPSIGNAL": 1, "WORKDIR": 1, "USER": 1, "FROM": 1, "ARG": 1, "ENV": 2, "LABEL": 2, "RUN": 1, "EXPOSE": 1}.get(step.name, 0)
    if len(words) < least:
        raise fault(path, step.line, f"{step.name} wants more", step.text, f"at least {least} word{'s' * (least > 1)}")
    if step.name in {"STOPSIGNAL", "WORKDIR", "USER"} and len(words) > 1:
        raise fault(path, step.line, f"{step.name} takes one word", step.text, f"{len(words)} are given")
    if step.name == "SHELL" and not (step.is_json and words):
        raise fault(path, step.line, "SHELL wants a JSON list", step.text, "", 'SHELL ["/bin/bash", "-c"]')
    if step.name == "ADD":
        remote = next((word for word in words[:-1] if REMOTE.search(word)), "")
        if remote:
            raise fault(path, step.line, "ADD of a URL is not supported", remote, "builds fetch nothing", "fetch it beforehand, and ADD or COPY the file")
    if step.name == "STOPSIGNAL" and "$" not in words[0]:
        try:
            parse_signal(words[0])
        except ValueError as error:
            raise fault(path, step.line, "STOPSIGNAL", words[0], str(error)) from None
    if step.name == "HEALTHCHECK":
        if not words or words[0].upper() not in {"CMD", "NONE"}:
            raise fault(path, step.line, "HEALTHCHECK wants CMD or NONE", step.text, "")
        for key, value in step.flags:
            try:
                _number(value) if key == "retries" else parse_duration(value)
            except ValueError as error:
                raise fault(path, step.line, f"HEALTHCHECK --{key}", value, str(error)) from None
    if step.name == "RUN" and step.flag("network", "default") not in {"default", "none", "host"}:
        raise fault(path, step.line, "RUN --network", step.flag("network"), "default, none or host")
    if step.flag("chmod") and "$" not in step.flag("chmod") and not re.fullmatch("[0-7]{1,4}", step.flag("chmod")):
        raise fault(path, step.line, f"{step.name} --chmod", step.flag("chmod"), "only numbers are supported", "--chmod=755")
    for word in (*words, *(value for _, value in step.flags)):
        if step.name not in {"RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK", "SHELL"} and "$" in word:
            try:
                expand(word.replace(":?", ":-").replace("?", "-"), {})
            except ValueError as error:
                raise fault(path, step.line, step.name, word, str(error)) from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("not a number")
    return int(text)


def parse_duration(text: str) -> float:
    """Go's durations, such as 1m30s, in seconds. ValueError for anything else."""
    parts = DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise ValueError("not a duration such as 30s or 1m30s")
    return float(sum(float(number) * SECONDS[unit] for number, unit in parts))


def platform_arguments() -> dict[str, str]:
    here = machine()
    return {"TARGETPLATFORM": f"linux/{here}", "TARGETOS": "linux", "TARGETARCH": here, "TARGETVARIANT": "", "BUILDPLATFORM": f"linux/{here}", "BUILDOS": "linux", "BUILDARCH": here, "BUILDVARIANT": ""}


def argument_of(word: str) -> tuple[str, str | None]:
    """NAME or NAME=DEFAULT of an ARG."""
    name, has_default, default = word.partition("=")
    return name, default if has_default else None


def _stages(instructions: list[Instruction], path: str, given: dict[str, str], escape: str) -> Dockerfile:
    arguments: dict[str, str | None] = dict(platform_arguments())
    declared: dict[str, str | None] = {}
    stages: list[Stage] = []
    steps: list[Instruction] = []
    for step in instructions:
        if step.name == "FROM":
            if stages:
                stages[-1] = Stage(base=stages[-1].base, line=stages[-1].line, name=stages[-1].name, steps=tuple(steps))
            steps = []
            stages.append(_from(step, path, arguments, escape, stages))
            if len(stages) > STAGES_MAX:
                raise fault(path, step.line, "too many stages", "", f"at most {STAGES_MAX}")
        elif not stages:
            if step.name != "ARG":
                raise fault(path, step.line, f"{step.name} before FROM", "", "only ARG may stand there")
            for word in step.words:
                name, default = argument_of(word)
                try:
                    value = given.get(name, None if default is None else expand(default, arguments, escape))
                except ValueError as error:
                    raise fault(path, step.line, step.name, word, str(error)) from None
                arguments[name] = declared[name] = value
        else:
            steps.append(step)
    if not stages:
        raise Fault(f"{path}: there is no FROM", "", "a Dockerfile begins with it", hint="FROM scratch begins with nothing")
    stages[-1] = Stage(base=stages[-1].base, line=stages[-1].line, name=stages[-1].name, steps=tuple(steps))
    made = Dockerfile(path=path, stages=tuple(stages), arguments=tuple(declared.items()), escape=escape)
    for index, stage in enumerate(made.stages):
        for step in stage.steps:
            _check_from(made, step, index)
    return made


def _from(step: Instruction, path: str, arguments: dict[str, str | None], escape: str, before: list[Stage]) -> Stage:
    words = step.words
    if len(words) not in {1, 3} or (len(words) == 3 and words[1].upper() != "AS"):
        raise fault(path, step.line, "FROM", step.text, "it is FROM IMAGE or FROM IMAGE AS NAME")
    try:
        base = expand(words[0], arguments, escape)
        platform = expand(step.flag("platform"), arguments, escape)
    except ValueError as error:
        raise fault(path, step.line, "FROM", words[0], str(error)) from None
    if not base:
        raise fault(path, step.line, "FROM", words[0], "it is empty when its variables are filled in", "--build-arg NAME=VALUE, or a default: ARG NAME=VALUE")
    if platform and platform.split("/")[:2] != ["linux", machine()]:
        raise fault(path, step.line, "FROM --platform is not supported", platform, f"this machine is linux/{machine()}")
    name = words[2].lower() if len(words) == 3 else ""
    if name and not re.fullmatch(r"[a-z][a-z0-9_.-]*", name):
        raise fault(path, step.line, "not a stage's name", words[2], "a letter, then letters, digits, . _ -")
    if name and name in {stage.name for stage in before}:
        raise fault(path, step.line, "two stages of one name", name, "")
    return Stage(base=base, line=step.line, name=name, steps=())


def _check_from(made: Dockerfile, step: Instruction, index: int) -> None:
    """COPY --from has to name a stage before this one, or an image; a number or a later stage's name is neither."""
    source = step.flag("from")
    if not source or "$" in source:
        return
    if made.find_stage(source, index) < 0 and (source.isdigit() or made.find_stage(source, len(made.stages)) >= 0):
        raise fault(made.path, step.line, f"{step.name} --from", source, "no stage of that name or number before this one")

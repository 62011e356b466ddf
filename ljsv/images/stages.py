"""A Dockerfile's stages, carried out: only those that the wanted one needs, each a tree that its instructions change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ljsv.errors import Fault
from ljsv.images.archive import Times, apply_archive, open_tar
from ljsv.images.build import Made, Wish, read_input
from ljsv.images.config import parse_signal
from ljsv.images.copy import Ownership, copy_into, describe, find_sources
from ljsv.images.dockerfile import (
    PLATFORM_ARGUMENTS,
    PROXY_ARGUMENTS,
    Dockerfile,
    Instruction,
    Stage,
    argument_of,
    fault,
    parse_dockerfile,
    parse_duration,
    platform_arguments,
)
from ljsv.images.expand import expand, expand_words
from ljsv.images.ignore import Ignore
from ljsv.images.output import open_content, read_content
from ljsv.images.progress import Progress
from ljsv.images.run import SCRIPT_AT, Command, Runner, hash_of
from ljsv.images.store import Store
from ljsv.images.tree import FILE, Budget, Content, Node, Owners, Tree, copy_tree, scan_directory
from ljsv.images.unpack import read_image
from ljsv.service.images import image_type
from ljsv.service.stored import Defaults, HealthCheck, StoredImage, read_manifest, resolve

DOCKERFILE_MAX = 1 << 20
IGNORE_MAX = 1 << 20
CHUNK = 1 << 20
HEAD = 2048
SHELL = ("/bin/sh", "-c")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRATCH = "scratch"
STEP_MAX = 500


@dataclass
class State:
    """A stage as far as it has come. `key` stands for its content, `base` is the digest of the image that it began with."""

    tree: Tree
    defaults: Defaults = field(default_factory=Defaults)
    key: str = ""
    base: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    has_command: bool = False

    @property
    def variables(self) -> dict[str, str | None]:
        return {**self.arguments, **dict(self.defaults.env)}

    @property
    def shell(self) -> tuple[str, ...]:
        return self.defaults.shell or SHELL


def build_dockerfile(wish: Wish, path: str, store: Store, work: str, progress: Progress) -> Made:
    """The tree of the wanted stage, and what its image says of itself."""
    return _Builder(wish, path, store, work, progress).build()


class _Builder:
    def __init__(self, wish: Wish, path: str, store: Store, work: str, progress: Progress) -> None:
        self.wish, self.path, self.store, self.work, self.progress = wish, path, store, work, progress
        self.folder = wish.source if os.path.isdir(wish.source) else os.path.dirname(os.path.abspath(path))
        self.given = dict(wish.arguments)
        self.file: Dockerfile
        self.done: dict[int, State] = {}
        self.sources: dict[str, State] = {}
        self.runner = Runner(store, work, uses_cache=wish.uses_cache)
        self._context: Tree | None = None

    def build(self) -> Made:
        with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(DOCKERFILE_MAX + 1)
        if len(text) > DOCKERFILE_MAX:
            raise Fault("cannot read a Dockerfile", self.path, f"larger than {DOCKERFILE_MAX} bytes")
        self.file = parse_dockerfile(text, self.path, self.given)
        wanted = len(self.file.stages) - 1
        if self.wish.target:
            wanted = self.file.find_stage(self.wish.target, len(self.file.stages))
            if wanted < 0:
                names = ", ".join(stage.name for stage in self.file.stages if stage.name) or "none has a name"
                raise Fault("no such stage", self.wish.target, f"in {self.path}: {names}", hint="--target NAME")
        needed = self._needed(wanted)
        for index in needed:
            self._check_base(self.file.stages[index], index)
        self._check_network(needed)
        for index in needed:
            self.done[index] = self._stage(self.file.stages[index], index)
        state = self.done[wanted]
        return Made(state.tree, state.defaults, state.base, tuple(state.history))

    def _needed(self, wanted: int) -> list[int]:
        """The stages that `wanted` is made of, in order."""
        found, pending = set[int](), [wanted]
        while pending:
            index = pending.pop()
            if index in found:
                continue
            found.add(index)
            stage = self.file.stages[index]
            sources = [stage.base, *(step.flag("from") for step in stage.steps)]
            pending += [other for name in sources if name and (other := self.file.find_stage(name, index)) >= 0]
        return sorted(found)

    def _check_base(self, stage: Stage, index: int) -> None:
        """Before anything runs: what FROM names has to be there."""
        if stage.base == SCRATCH or self.file.find_stage(stage.base, index) >= 0:
            return
        path = self._path_of(stage.base)
        if path:
            return
        try:
            resolve(stage.base)
        except Fault as error:
            raise fault(self.path, stage.line, f"FROM: {error.action}", stage.base, error.cause, "ljsv image build INPUT -t NAME  # or import, makes one; nothing is fetched") from None

    def _check_network(self, needed: list[int]) -> None:
        for index in needed:
            for step in self.file.stages[index].steps:
                if step.name == "RUN" and step.flag("network") == "host" and self.wish.network != "host":
                    raise fault(self.path, step.line, "RUN --network=host", "", "builds have no network unless you say so", "ljsv image build --net host ...")

    def _path_of(self, name: str) -> str:
        """What of the host a FROM or --from names: a path says so by its beginning."""
        if not name.startswith(("/", "./", "../")):
            return ""
        path = os.path.normpath(os.path.join(self.folder, name))
        return path if os.path.exists(path) else ""

    # ---- where a stage begins

    def _stage(self, stage: Stage, index: int) -> State:
        self.progress.step(f"FROM {stage.base}{' AS ' + stage.name if stage.name else ''}")
        state = self._begin(stage.base, index)
        state.history = [*state.history, f"FROM {stage.base}"]
        state.arguments = {}
        for step in stage.steps:
            self.progress.step(step.text[:STEP_MAX])
            try:
                getattr(self, f"_{step.name.lower()}")(state, step, index)
            except ValueError as error:
                raise fault(self.path, step.line, step.name, step.text[:200], str(error)) from None
            state.history.append(step.text[:STEP_MAX])
        return state

    def _begin(self, name: str, index: int) -> State:
        if name == SCRATCH:
            return State(self._new_tree(), key=hash_of([SCRATCH]))
        earlier = self.file.find_stage(name, index)
        if earlier >= 0:
            return _copy_of(self.done[earlier])
        return _copy_of(self._source(name))

    def _source(self, name: str) -> State:
        """The image, archive or directory of that name, read once."""
        if name not in self.sources:
            path = self._path_of(name)
            is_image = bool(path) and os.path.isfile(path) and bool(image_type(_head(path)))
            if path and not is_image:
                made = read_input(self.wish, path, self.store, self.work, self.progress)
                self.sources[name] = State(made.tree, made.defaults, key=self._hash(made.tree.root), history=list(made.history))
            else:
                image = StoredImage("", path) if is_image else resolve(name)
                self.sources[name] = self._from_image(image)
        return self.sources[name]

    def _from_image(self, image: StoredImage) -> State:
        from ljsv.images.store import digest_of

        tree = self._new_tree()
        read_image(tree, image.path, self.work)
        manifest = read_manifest(image.path)
        digest = image.digest or digest_of(image.path)
        return State(tree, manifest.defaults, hash_of([digest]), f"sha256:{digest}", history=list(manifest.history))

    def _new_tree(self) -> Tree:
        return Tree(Budget(self.wish.max_bytes, self.wish.max_entries), self.wish.epoch or 0)

    def _hash(self, top: Node) -> str:
        """One digest of a tree's names, modes, ids and bytes."""
        state = hashlib.sha256()
        for part in describe(top):
            if isinstance(part, bytes):
                state.update(b"%d:" % len(part) + part)
            else:
                _hash_content(state, *part)
        return state.hexdigest()

    # ---- instructions

    def _expand(self, state: State, text: str) -> str:
        return expand(text, state.variables, self.file.escape)

    def _arg(self, state: State, step: Instruction, _index: int) -> None:
        outer = dict(self.file.arguments)
        for word in step.words:
            name, default = argument_of(word)
            value = self.given.get(name)
            if value is None and default is not None:
                value = self._expand(state, default)
            if value is None:
                value = outer.get(name)
            if value is None and name in PLATFORM_ARGUMENTS:
                value = platform_arguments()[name]
            if value is not None:
                state.arguments[name] = value

    def _env(self, state: State, step: Instruction, _index: int) -> None:
        env = dict(state.defaults.env)
        pairs = [(self._expand(state, name), self._expand(state, value)) for name, value in zip(step.words[::2], step.words[1::2], strict=True)]
        state.defaults = state.defaults.replace(env=tuple({**env, **dict(pairs)}.items()))

    def _label(self, state: State, step: Instruction, _index: int) -> None:
        pairs = {self._expand(state, name): self._expand(state, value) for name, value in zip(step.words[::2], step.words[1::2], strict=True)}
        state.defaults = state.defaults.replace(labels=tuple(sorted({**dict(state.defaults.labels), **pairs}.items())))

    def _maintainer(self, state: State, step: Instruction, _index: int) -> None:
        state.defaults = state.defaults.replace(labels=tuple(sorted({**dict(state.defaults.labels), "maintainer": " ".join(step.words)}.items())))

    def _workdir(self, state: State, step: Instruction, _index: int) -> None:
        place = os.path.normpath("/" + os.path.join(state.defaults.workdir or "/", self._expand(state, step.words[0])).lstrip("/"))
        if state.tree.find(place) is None:
            state.tree.make_directory(place, self._at(step))
            self._changed(state, f"WORKDIR {place}")
        state.defaults = state.defaults.replace(workdir=place)

    def _user(self, state: State, step: Instruction, _index: int) -> None:
        state.defaults = state.defaults.replace(user=self._expand(state, step.words[0]))

    def _entrypoint(self, state: State, step: Instruction, _index: int) -> None:
        command = state.defaults.command if state.has_command else ()
        state.defaults = state.defaults.replace(entrypoint=self._argv(state, step), command=command)

    def _cmd(self, state: State, step: Instruction, _index: int) -> None:
        state.defaults = state.defaults.replace(command=self._argv(state, step))
        state.has_command = True

    def _argv(self, state: State, step: Instruction) -> tuple[str, ...]:
        if step.is_json:
            return step.words
        return (*state.shell, " ".join(step.words)) if step.words and any(step.words) else ()

    def _shell(self, state: State, step: Instruction, _index: int) -> None:
        state.defaults = state.defaults.replace(shell=step.words)

    def _expose(self, state: State, step: Instruction, _index: int) -> None:
        ports = set(state.defaults.exposed)
        for word in step.words:
            for port in expand_words(word, state.variables, self.file.escape):
                number, _, protocol = port.partition("/")
                if not all(part.isdigit() and 0 < int(part) < 65536 for part in number.split("-")) or protocol not in {"", "tcp", "udp", "sctp"}:
                    raise ValueError(f"{port} is no port")
                ports.add(f"{number}/{protocol or 'tcp'}")
        state.defaults = state.defaults.replace(exposed=tuple(sorted(ports)))

    def _volume(self, state: State, step: Instruction, _index: int) -> None:
        places = {self._expand(state, word) for word in step.words}
        if not all(place.startswith("/") for place in places):
            raise ValueError("a volume is an absolute path")
        state.defaults = state.defaults.replace(volumes=tuple(sorted({*state.defaults.volumes, *places})))

    def _stopsignal(self, state: State, step: Instruction, _index: int) -> None:
        state.defaults = state.defaults.replace(stop_signal=parse_signal(self._expand(state, step.words[0])))

    def _healthcheck(self, state: State, step: Instruction, _index: int) -> None:
        if step.words[0].upper() == "NONE":
            state.defaults = state.defaults.replace(health=None)
            return
        argv = step.words[1:] if step.is_json else (*state.shell, " ".join(step.words[1:]))
        if not argv:
            raise ValueError("HEALTHCHECK CMD names no command")
        times = {key: parse_duration(step.flag(key)) if step.flag(key) else 0.0 for key in ("interval", "timeout", "start-period")}
        state.defaults = state.defaults.replace(
            health=HealthCheck(argv, times["interval"], times["timeout"], times["start-period"], int(step.flag("retries", "0"))),
        )

    # ---- COPY, ADD, RUN

    def _copy(self, state: State, step: Instruction, index: int) -> None:
        source = self._copy_source(step, state, index)
        words = [self._expand(state, word) for word in step.words]
        place = self._place(state, words[-1])
        ownership = self._ownership(state, step, is_from_stage=bool(step.flag("from")))
        heredocs = {f"<<{item.name}": item for item in step.heredocs}
        found: list[tuple[str, Node]] = []
        for raw, word in zip(step.words[:-1], words[:-1], strict=True):
            name = raw.replace('"', "").replace("'", "").replace("<<-", "<<")
            if name in heredocs:
                item = heredocs[name]
                text = item.content if '"' in raw or "'" in raw else self._expand_heredoc(state, item.content)
                data = text.encode(errors="surrogateescape")
                found.append((item.name, Node(FILE, 0o644, mtime=state.tree.mtime, content=Content(len(data), data=data))))
            else:
                found += find_sources(source(), word, self._at(step))
        if step.name == "ADD":
            found = [entry for entry in found if not self._add_archive(state, entry, place, ownership, step)]
        copies = copy_into(state.tree, found, place, ownership, self._at(step)) if found else []
        self._changed(state, f"{step.name} {place}", *(self._hash(copy) for copy in copies), *(name for name, _ in found))

    _add = _copy

    def _expand_heredoc(self, state: State, text: str) -> str:
        """Variables are filled in, quotes stay what they are."""
        guarded = text.replace("'", "\\'").replace('"', '\\"') if self.file.escape == "\\" else text
        return expand(guarded, state.variables, self.file.escape)

    def _copy_source(self, step: Instruction, state: State, index: int) -> Callable[[], Tree]:
        name = self._expand(state, step.flag("from"))
        if not name:
            return self._read_context
        earlier = self.file.find_stage(name, index)
        if earlier >= 0:
            if earlier not in self.done:
                self.done[earlier] = self._stage(self.file.stages[earlier], earlier)
            return lambda: self.done[earlier].tree
        return lambda: self._source(name).tree

    def _read_context(self) -> Tree:
        """The folder of the Dockerfile, without what .dockerignore leaves out; everything in it is root's."""
        if self._context is None:
            ignore = Ignore(self._ignore_text())
            tree = self._new_tree()
            scan_directory(tree, self.folder, Owners(((0, 0, 1),), ((0, 0, 1),)), keeps_times=self.wish.keeps_times, is_left_out=ignore.is_left_out)
            Ownership(0, 0).give_all(tree.root)
            self._context = tree
        return self._context

    def _ignore_text(self) -> str:
        for path in (f"{self.path}.dockerignore", f"{self.folder}/.dockerignore"):
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    return file.read(IGNORE_MAX)
            except FileNotFoundError:
                continue
        return ""

    def _place(self, state: State, word: str) -> str:
        path = word if word.startswith("/") else f"{state.defaults.workdir or '/'}/{word}"
        is_folder = path.endswith(("/", "/."))
        path = os.path.normpath("/" + path.lstrip("/"))
        return f"{path.rstrip('/')}/" if is_folder or path == "/" else path

    def _ownership(self, state: State, step: Instruction, *, is_from_stage: bool) -> Ownership:
        mode_text = self._expand(state, step.flag("chmod"))
        if mode_text and not (mode_text.isdigit() and set(mode_text) <= set("01234567")):
            raise ValueError(f"--chmod={mode_text}: only numbers are supported")
        mode = int(mode_text, 8) if mode_text else None
        owner = self._expand(state, step.flag("chown"))
        if not owner:
            return Ownership(None if is_from_stage else 0, None if is_from_stage else 0, mode)
        user, _, group = owner.partition(":")
        uid, primary = _look_up(state.tree, "/etc/passwd", user, 3)
        gid = _look_up(state.tree, "/etc/group", group, 2)[0] if group else (uid if user.isdigit() else primary)
        return Ownership(uid, gid, mode)

    def _add_archive(self, state: State, entry: tuple[str, Node], place: str, ownership: Ownership, step: Instruction) -> bool:
        """ADD unpacks a local archive; whether this was one."""
        name, node = entry
        if node.kind != FILE or not node.content.size or node.content.fd < 0:
            return False
        fd = open_content(node.content, name)
        try:
            if node.content.offset:
                return False  # out of a stage: only the context's archives are unpacked
            try:
                tar_fd = open_tar(fd, name, self.work, Budget(self.wish.max_bytes, self.wish.max_entries))
            except Fault as error:
                if error.action == "not an archive" or (error.action == "the archive is damaged" and name.endswith((".gz", ".xz", ".bz2", ".zst"))):
                    return False
                raise
            if not _is_tar(tar_fd):
                return False
            inner = self._new_tree()
            kept_fd = os.dup(tar_fd)
            apply_archive(inner, kept_fd, name, self.work, Times(self.wish.epoch))
        finally:
            if node.content.path:
                os.close(fd)
        if step.flag("chown") or step.flag("chmod"):
            ownership.give_all(inner.root)
        copies = copy_into(state.tree, [("", inner.root)], place, Ownership(), self._at(step))
        self._changed(state, f"ADD {place}", *(self._hash(copy) for copy in copies))
        return True

    def _run(self, state: State, step: Instruction, _index: int) -> None:
        network = "none" if step.flag("network") == "none" else self.wish.network
        passed = {name: value for name, value in self.given.items() if name in PROXY_ARGUMENTS}
        env = {"PATH": PATH, **passed, **state.arguments, **dict(state.defaults.env)}
        if self.wish.epoch is not None:
            env.setdefault("SOURCE_DATE_EPOCH", str(self.wish.epoch))
        argv, script = self._run_argv(state, step)
        command = Command(
            argv=argv, env=tuple(sorted(env.items())), workdir=state.defaults.workdir or "/", user=state.defaults.user, network=network,
            origin=self._at(step), script=script,
        )
        state.key, is_cached = self.runner.run(command, state.tree, state.key)
        if is_cached:
            self.progress.step("  from the cache")

    def _run_argv(self, state: State, step: Instruction) -> tuple[tuple[str, ...], str]:
        """(argv, text of the script that it names): exec form, shell form, and heredocs as BuildKit runs them."""
        if step.is_json:
            return step.words, ""
        text = " ".join(step.words)
        if not step.heredocs:
            return (*state.shell, text), ""
        first = step.heredocs[0]
        if len(step.heredocs) == 1 and text.replace('"', "").replace("'", "").replace("<<-", "<<").strip() == f"<<{first.name}":
            if first.content.startswith("#!"):
                return (SCRIPT_AT,), first.content
            return (*state.shell, first.content), ""
        return (*state.shell, "\n".join([text, *(f"{item.content}{item.name}" for item in step.heredocs), ""])), ""

    def _changed(self, state: State, *what: str) -> None:
        state.key = hash_of([state.key, *what])

    def _at(self, step: Instruction) -> str:
        return f"{self.path}:{step.line}"


def _copy_of(state: State) -> State:
    tree = Tree(replace(state.tree.budget), state.tree.mtime)
    tree.root = copy_tree(state.tree.root)
    return State(tree, state.defaults, state.key, state.base, history=list(state.history))


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def _is_tar(fd: int) -> bool:
    return os.pread(fd, 512, 0)[257:262] == b"ustar"


def _hash_content(state: hashlib._Hash, node: Node, path: str) -> None:
    content = node.content
    if content.fd < 0:
        state.update(content.data)
        return
    fd = open_content(content, path)
    try:
        at, end = content.offset, content.offset + content.size
        while at < end and (chunk := os.pread(fd, min(CHUNK, end - at), at)):
            state.update(chunk)
            at += len(chunk)
    finally:
        if content.path:
            os.close(fd)


def _look_up(tree: Tree, path: str, name: str, fields: int) -> tuple[int, int]:
    """(id, the field behind it) of a user or group by the image's own files; a number is taken as it is. ValueError for a name that is not there."""
    if name.isascii() and name.isdigit():
        return int(name), int(name)
    node = tree.find(path)
    text = read_content(node.content, path, CHUNK).decode(errors="replace") if node and node.kind == FILE else ""
    for line in text.splitlines():
        entry = line.split(":")
        if len(entry) > fields and entry[0] == name and entry[2].isdigit():
            return int(entry[2]), int(entry[3]) if fields == 3 and entry[3].isdigit() else int(entry[2])
    raise ValueError(f"the image has no {name} in {path}")

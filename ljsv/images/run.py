"""RUN: one command in a jail over what has been built so far; what it has changed becomes a layer, cached by content.

The jail sees the tree, as an image without compression or, where none can be
mounted, as a directory, with an overlay over it, /tmp and /run included. What the overlay holds at the end is packed, with the ids
that it has inside, into a tar of the form of an image's layer. The same command
over the same content under the same circumstances is that tar again. With one id
all files are root's in the jail, and no other id can be given to one.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from select import POLLIN, poll

from ljsv.errors import EXIT_INTERRUPTED, Fault
from ljsv.images.archive import Times, apply_archive
from ljsv.images.output import materialise, write_image, write_tar
from ljsv.images.store import CACHE, Store
from ljsv.images.tree import Budget, Owners, Tree, scan_directory
from ljsv.jail import builder, launch
from ljsv.jail.facts import find_image, host_facts
from ljsv.jail.ids import MAPPER_PATH, IdMap, is_root, one_id, subordinate_range, take_ids, write_maps
from ljsv.jail.overlay import delete
from ljsv.jail.spec import DIRECTORY, IMAGE, OVERLAY, BindMount, JailSpec
from ljsv.linux import process
from ljsv.service.images import SQUASHFS

CACHE_VERSION = "ljsv-run-1"
CACHE_MAX_BYTES = 4 << 30
CACHE_MAX_FILES = 500
SCRIPT_AT = "/run/ljsv-heredoc"
SAID_MAX = 4096


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is to run. `script` is the text of a heredoc with an interpreter of its own, which `argv` names as SCRIPT_AT."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    workdir: str
    user: str
    network: str
    origin: str
    script: str = ""


def hash_of(parts: Iterable[str | bytes]) -> str:
    """One digest of many texts; none can be taken for a piece of its neighbour."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode(errors="surrogateescape")
        state.update(b"%d:" % len(data) + data)
    return state.hexdigest()


class Runner:
    """Runs the commands of one build. While nothing else changes the tree, the next one goes on in the directory of the one before it."""

    def __init__(self, store: Store, work: str, *, uses_cache: bool) -> None:
        self.store, self.work, self.uses_cache = store, work, uses_cache
        self.ids = "root" if is_root() else "range" if has_range() else "one"
        self._folder = self._key = ""

    def run(self, command: Command, tree: Tree, key: str) -> tuple[str, bool]:
        """Run it, and put what it changed into the tree, for whose content `key` stands: (the key of the content that there is now, whether
        it came from the cache). Fault where the command fails.
        """
        env = [f"{name}={value}" for name, value in command.env]
        told = [command.user, command.workdir, command.network, command.script, str(tree.mtime)]
        new_key = hash_of([CACHE_VERSION, key, self.ids, *told, "|", *command.argv, "|", *env])
        cached = f"{self.store.path}/{CACHE}/{new_key}.tar"
        fd = _open_cached(cached) if self.uses_cache else -1
        is_cached = fd >= 0
        if not is_cached:
            fd = self._make_layer(command, tree, key, cached)
            self._key = new_key
            _trim(os.path.dirname(cached), kept=cached)
        os.utime(fd)
        budget = Budget(tree.budget.max_bytes, tree.budget.max_entries)
        counted, tree.budget = tree.budget, budget  # what a command before it has written may be in the layer again
        apply_archive(tree, fd, command.origin, self.work, Times(), is_layer=True)
        counted.taken_bytes = max(counted.taken_bytes, budget.taken_bytes)
        tree.budget = counted
        return new_key, is_cached

    def _make_layer(self, command: Command, tree: Tree, key: str, cached: str) -> int:
        if not self._folder or key != self._key:
            self._begin_anew(tree)
        folder, self._key = self._folder, ""
        binds: tuple[BindMount, ...] = ()
        if command.script:
            script = f"{folder}/script"
            with open(script, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(command.script)
            os.chmod(script, 0o755)
            binds = (BindMount(script, SCRIPT_AT),)
        spec = self._spec(folder).replace(
            argv=command.argv, user=command.user, network=command.network, binds=binds, env=command.env, workdir=command.workdir, origin=command.origin,
        )
        try:
            code = run_jail(spec)
        except Fault as fault:
            action = fault.action if fault.action.startswith(command.origin) else f"{command.origin}: RUN: {fault.action}"
            raise Fault(action, fault.object, fault.cause, hint=fault.hint) from None
        if code:
            ended = f"killed by signal {code - 128}" if code > 128 else f"exit {code}"
            said = " ".join(command.argv).replace("\n", " ")[:200]
            raise Fault(f"{command.origin}: RUN failed", said, ended, hint=self._hint(command))
        return _pack(f"{folder}/overlay/upper", cached, tree.mtime, Budget(tree.budget.max_bytes, tree.budget.max_entries))

    def _spec(self, folder: str) -> JailSpec:
        image = f"{folder}/base.squashfs"
        is_image = os.path.exists(image)
        return JailSpec(
            name="build", base_kind=IMAGE if is_image else DIRECTORY, base_path=image if is_image else f"{folder}/base", argv=("/bin/sh",),
            image_type=SQUASHFS if is_image else "", writable=OVERLAY, overlay=f"{folder}/overlay", hostname="build", is_range=self.ids != "one",
            has_own_tmp=False,
        )

    def _hint(self, command: Command) -> str:
        parts = ["what it said is above"]
        if command.network == "none":
            parts.append("it had no network (--net host)")
        if self.ids == "one":
            parts.append("one id is mapped, so that nothing can be given to another (sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME, and uidmap)")
        return "; ".join(parts)

    def _begin_anew(self, tree: Tree) -> None:
        """The tree as an image without compression, or, where none can be mounted, as a directory, with the ids that the jail has for them."""
        if self._folder:
            delete(self._folder)
        self._folder = tempfile.mkdtemp(prefix="run-", dir=self.work)
        image = f"{self._folder}/base.squashfs"
        write_image(tree, image, compression="none", is_all_root=self.ids == "one")
        try:
            find_image(self._spec(self._folder), host_facts(), is_root=self.ids == "root")
            return
        except Fault:
            os.unlink(image)
        base = f"{self._folder}/base"
        os.mkdir(base, 0o700)
        if self.ids == "root":
            materialise(tree, base, owns=True)
        else:
            as_jail(lambda: materialise(tree, base, owns=self.ids == "range"), base)


def has_range() -> bool:
    """Whether this user can map subordinate ids."""
    try:
        subordinate_range(os.geteuid(), os.getegid())
    except Fault:
        return False
    return all(any(os.access(f"{place}/{name}", os.X_OK) for place in MAPPER_PATH) for name in ("newuidmap", "newgidmap"))


def run_jail(spec: JailSpec) -> int:
    """The jail, with our standard error as its output: its exit code. It ends when we do."""
    id_map, slot_fd = take_ids(spec.name, is_range=spec.is_range)
    null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wiring = builder.Wiring(stdin_fd=null_fd, stdout_fd=2, stderr_fd=2, held_fds=(slot_fd,), dies_with_parent=True)
        jail = launch.begin(spec, id_map, wiring)
    finally:
        os.close(null_fd)
        if slot_fd >= 0:
            os.close(slot_fd)
    try:
        return _wait(jail)
    finally:
        for child in (jail, jail.server):
            if child is not None:
                _end(child.pidfd)
        jail.close()


def _end(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        pass
    os.close(pidfd)


def _wait(jail: launch.Launch) -> int:
    poller = poll()
    poller.register(jail.channel_fd, POLLIN)
    poller.register(jail.pidfd, POLLIN)
    is_told = False
    ready: dict[int, int] = {}
    while jail.pidfd not in ready:
        ready = dict(poller.poll())
        if jail.channel_fd in ready and not jail.read_report():
            poller.unregister(jail.channel_fd)
        if jail.service_pid and not is_told:
            jail.give_go()
            is_told = True
    jail.read_report()
    if jail.failure:
        raise jail.explain_failure()
    result = os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED | os.WNOWAIT)
    if result is None or result.si_code != os.CLD_EXITED:
        return 128 + (result.si_status if result else signal.SIGKILL)
    return result.si_status


# ---- packing what it has written


def _open_cached(path: str) -> int:
    """A descriptor of that layer, -1 where the cache has none. Once open it stays whole, whoever clears the cache."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _pack(upper: str, target: str, mtime: int, budget: Budget) -> int:
    """The overlay's upper directory as a layer, at `target` when it is whole; a descriptor of it.

    In a child where its files are of ids that only a jail of ours has. `gc` may
    clear the cache meanwhile: then the layer is not kept, no more.
    """
    fd, temporary = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(target))
    try:
        if is_root():
            _write_layer(upper, fd, mtime, budget)
        else:
            as_jail(lambda: _write_layer(upper, fd, mtime, budget), upper)
        os.fsync(fd)
        with suppress(FileNotFoundError):
            os.rename(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.close(fd)
        raise
    return fd


def _write_layer(upper: str, fd: int, mtime: int, budget: Budget) -> None:
    tree = Tree(budget, mtime)
    scan_directory(tree, upper, Owners(), is_upper=True)
    write_tar(tree, fd, has_root=False)


def as_jail(act: Callable[[], None], name: str) -> None:
    """Do it in a child that is root of the caller's ids, as the jail's root was. Fault where that fails."""
    uid, gid = os.geteuid(), os.getegid()
    ids: IdMap = subordinate_range(uid, gid) if has_range() else one_id(uid, gid)
    go_r, go_w = os.pipe2(os.O_CLOEXEC)
    said_r, said_w = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = process.clone3(process.CLONE_NEWUSER | process.CLONE_PIDFD)
    if pid == 0:
        try:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(go_w)
            os.read(go_r, 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            act()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(EXIT_INTERRUPTED)
        except BaseException as error:  # noqa: BLE001 - its parent tells it
            os.write(said_w, os.fsencode(str(error))[:SAID_MAX])
        finally:
            os._exit(1)
    os.close(said_w)
    try:
        write_maps(pid, ids)
    finally:
        os.close(go_w)
        os.close(go_r)
        try:
            said = os.read(said_r, SAID_MAX)
        finally:
            os.close(said_r)
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
    if result is None or result.si_code != os.CLD_EXITED or result.si_status:
        raise Fault("cannot read or write as the jail would", name, os.fsdecode(said) or "the process that does was killed", hint="df; ulimit -a")


def _trim(folder: str, kept: str) -> None:
    """Forget the layers that were used longest ago, so that the cache stays within its bounds."""
    entries = []
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        try:
            entry = os.stat(path)
        except FileNotFoundError:
            continue
        entries.append((entry.st_mtime, entry.st_size, path))
    total = 0
    for index, (_, size, path) in enumerate(sorted(entries, reverse=True)):
        total += size
        if (total > CACHE_MAX_BYTES or index >= CACHE_MAX_FILES) and path != kept:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

"""What `deploy`, `rollback` and `overlay restore` share: a deployment is asked for in the state directory, and waited for.

The supervisor carries it out; a command that is killed or interrupted leaves
it to go on. An image that was named by its file is kept in the state
directory, so that the generation is still whole when that file is replaced.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress

from ljsv import status
from ljsv.cli.options import usage
from ljsv.cli.show import one_line, print_hint, printable
from ljsv.cli.steer import ensure_scanner, ensure_supervised
from ljsv.cli.subscribe import Subscription
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.jail.spec import overlay_of
from ljsv.linux.process import read_boot_id
from ljsv.service import generations as record
from ljsv.service.generations import Generation, Generations, Trial, read_generations, write_generations
from ljsv.service.stored import PREFIX, own_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ljsv.cli.context import Context
    from ljsv.cli.options import Options
    from ljsv.service.read import Service

START_SETTLE_S = 1.0
SETTLE_MAX_S = 86400.0
COPY_S = 60.0
HASH_CHUNK = 1 << 20
DEPLOY_BYTE = "g"


def one_name(context: Context, verb: str) -> str:
    names = context.names()
    context.has_scanner()  # Fault where it is another user's, whose state is elsewhere
    if len(names) != 1:
        raise usage("one service, please: each is tried by itself", hint=f"ljsv {verb} {names[0] if names else 'web'}")
    return names[0]


def read_settle(options: Options) -> float | None:
    """How long it has to stay ready to be kept; None: as its readiness wants it."""
    if not options.has("--settle"):
        return None
    settle_s = options.number("--settle", 0.0)
    if settle_s > SETTLE_MAX_S:
        raise usage(f"--settle: at most {SETTLE_MAX_S:g} seconds")
    return settle_s


def keep_file(state: str, path: str, kind: str) -> str:
    """Where a copy of that image is in the state directory, by its digest: blocks are shared where the file system can. OSError."""
    from ljsv.jail.copytree import clone_or_copy

    folder = f"{state}/{record.IMAGES}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{folder}/.new-{os.getpid()}"
    try:
        source_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            target_fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                clone_or_copy(source_fd, target_fd)
                os.fsync(target_fd)
                digest = _digest(target_fd)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)
        kept = f"{record.IMAGES}/sha256-{digest}.{kind}"
        os.rename(temporary, f"{state}/{kept}")
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    record.fsync_directory(folder)
    return kept


def _digest(fd: int) -> str:
    found = hashlib.sha256()
    at = 0
    while data := os.pread(fd, HASH_CHUNK, at):
        found.update(data)
        at += len(data)
    return found.hexdigest()


def pin_images(name: str, state: str, found: Generations) -> None:
    """Those of the store that a generation still needs are not to be removed from it. The caller holds the record's lock."""
    pinned = sorted({os.path.basename(path).removeprefix(PREFIX).partition(".")[0] for path in found.paths() if os.path.isabs(path)})
    store = own_store(os.environ, os.geteuid())
    is_there = os.path.isdir(store)
    if (not pinned and not is_there) or (is_there and not os.access(store, os.W_OK)):  # what cannot be written, as on a read-only root, loses none
        return
    from ljsv.images.store import open_store

    open_store().pin(f"deployments of {name} ({state})", tuple(pinned), state)


def sweep_images(name: str, state: str, found: Generations) -> None:
    """Delete the kept images of generations that are gone, and let go of the store's. The caller holds the record's lock."""
    pin_images(name, state, found)
    folder = f"{state}/{record.IMAGES}"
    with suppress(FileNotFoundError):
        for file in os.listdir(folder):
            is_being_made = file.startswith(".new-") and os.path.exists(f"/proc/{file.removeprefix('.new-')}")
            if f"{record.IMAGES}/{file}" not in found.paths() and not is_being_made:
                os.unlink(f"{folder}/{file}")


def next_layer(context: Context, name: str, service: Service, found: Generations) -> int:
    from ljsv.jail.layers import next_number

    overlay = overlay_of(service.rootfs, context.places.state_of(name))
    return next_number(overlay, found.layers()) if overlay else found.effective.layer


def next_generation(found: Generations) -> int:
    """A number that was never shown before."""
    shown = {generation.number for generation in found.kept} | {found.current, found.last.number if found.last else 0}
    return max(shown) + 1


def deploy(context: Context, name: str, service: Service, generation: Generation, copied: int | None, settle_s: float | None) -> int:
    """Ask for that generation (its number and its layer, a copy of `copied`, are given here), wait, and tell; the exit code.

    `copied` None: the layer of the generation that is the current one when it is asked for.
    """
    state = context.places.state_of(name)
    ensure_scanner(context)
    ensure_supervised(context, name)
    before = context.detail(name)
    was = "up" if before.get("want", "up") != "down" and before.get("state") not in {status.DOWN, status.FAILED} else "down"
    if "waiting" in before:
        was = "up"
    if settle_s is None:
        settle_s = START_SETTLE_S if service.policy.ready.by == "start" else 0.0
    with record.locked(state):
        found = read_generations(state)
        if found.trial:
            trial = found.trial
            raise Fault("a deployment is under way", name, f"{trial.phase} {trial.generation.image}", service="", hint=f"ljsv status {quote(name)}", exit_code=EXIT_NOT_REACHED)
        if generation.path and not os.path.exists(os.path.join(state, generation.path)):
            raise Fault("the image is gone", found.describe(generation), os.path.join(state, generation.path), service=name, hint=f"ljsv deploy {quote(name)} --image IMAGE", exit_code=EXIT_NOT_REACHED)
        layer = next_layer(context, name, service, found)
        number = next_generation(found)
        if copied is None:
            copied = found.find(found.current).layer
        made = Generation(number=number, image=generation.image, path=generation.path, type=generation.type, layer=layer, said=service.said, time=time.time(), source=generation.source)
        trial = Trial(phase=record.ASKED, generation=made, copied=copied if overlay_of(service.rootfs, context.places.state_of(name)) else layer, want=was, settle_s=settle_s, boot=read_boot_id())
        record_with_trial = Generations(current=found.current, kept=found.kept, trial=trial, last=found.last)
        pin_images(name, state, record_with_trial)
        write_generations(state, record_with_trial)
    wait_s = context.wait_s() if context.options.has("-w") else service.policy.stop.timeout + service.policy.ready.timeout + settle_s + COPY_S
    with Subscription() as subscription:
        subscription.add(f"{context.supervise_of(name)}/event")
        try:
            context.send(name, DEPLOY_BYTE)
        except Fault:
            _take_back(state, number)
            raise

        def is_decided() -> bool:
            return read_generations(state).trial is None

        try:
            is_over = subscription.until(is_decided, wait_s)
        except KeyboardInterrupt:
            print(f"ljsv: {name}: the deployment goes on: ljsv status {quote(name)}", file=sys.stderr)
            raise
    return _tell(context, name, number, is_over=is_over, wait_s=wait_s)


def _take_back(state: str, number: int) -> None:
    """Nobody was there to hear of it."""
    with record.locked(state):
        found = read_generations(state)
        if found.trial and found.trial.generation.number == number and found.trial.phase == record.ASKED:
            write_generations(state, Generations(current=found.current, kept=found.kept, last=found.last))


def _tell(context: Context, name: str, number: int, *, is_over: bool, wait_s: float) -> int:
    state = context.places.state_of(name)
    found = read_generations(state)
    detail = context.detail(name)
    if not is_over:
        print(f"timeout: {one_line(name, detail)}: the deployment goes on, after {wait_s:g}s", flush=True)
        print_hint(f"ljsv status {quote(name)}  # -w SECONDS waits longer")
        return EXIT_NOT_REACHED
    with record.locked(state):
        sweep_images(name, state, read_generations(state))
    outcome = found.last
    if outcome and outcome.number == number and outcome.result == record.DONE:
        current = found.find(found.current)
        print(f"ok: {one_line(name, detail)}, {found.describe(current)} (generation {number})")
        return EXIT_OK
    reason = printable(outcome.reason) if outcome and outcome.number == number else "another deployment has come after it"
    back_to = outcome.back_to if outcome else found.describe(found.effective)
    overlay = ", its overlay as it was" if detail.get("jail", "").endswith("+ overlay") else ""
    print(f"fail: {name}: {outcome.image if outcome else number} (generation {number}): {reason}: {back_to} is in effect{overlay}")
    from ljsv.cli.why_verb import print_failure

    print_failure(context, name)
    print_hint(f"ljsv why {quote(name)}")
    return EXIT_NOT_REACHED

"""`ljsv overlay diff|ls|snapshot|restore|reset NAME`: what a service has written, kept in the layers of its overlay."""

from __future__ import annotations

import os
import sys
import time

from ljsv import status
from ljsv.cli.confirm import confirm
from ljsv.cli.context import Context
from ljsv.cli.options import FLAG, Options, usage
from ljsv.cli.show import print_columns, printable
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ljsv.service.read import Service

OPTIONS = {"--yes": FLAG, "--json": FLAG, "--live": FLAG, "--settle": "SECONDS"}
AT_REST = frozenset({status.DOWN, status.FAILED, status.BACKOFF})
LABEL_MAX = 200


def run(_verb: str, options: Options) -> int:
    action = options.operands[0] if options.operands else ""
    if action not in ACTIONS:
        raise usage(f"overlay wants one of: {' '.join(ACTIONS)}", hint="ljsv overlay diff NAME")
    del options.operands[0]
    return ACTIONS[action](options)


def _overlay_of(context: Context, name: str) -> tuple[Service, str]:
    from ljsv.jail.spec import overlay_of

    service = context.read_service(name)
    overlay = overlay_of(service.rootfs, context.places.state_of(name))
    if not overlay:
        raise Fault("it has no overlay", f"{service.directory}/rootfs", f'writable = "{service.rootfs.writable}"', service=name, hint='writable = "overlay" keeps what it writes', exit_code=EXIT_NOT_REACHED)
    return service, overlay


def _take_last(options: Options, what: str) -> str:
    """The operand after NAME, "" without one; more are refused."""
    if len(options.operands) > 2:
        raise usage(f"NAME and at most {what}: found {' '.join(options.operands)}")
    return options.operands.pop() if len(options.operands) == 2 else ""


def _open_one(options: Options) -> tuple[Context, str, Service, str]:
    """The service that is named: its context, name, declaration, and the path of its overlay."""
    context = Context(options.get("--svdir"), options)
    (name,) = context.names()
    context.has_scanner()  # Fault where it is another user's, whose overlays are elsewhere
    return context, name, *_overlay_of(context, name)


def _no_such_layer(name: str, word: str) -> Fault:
    return Fault("there is no such layer", word, service=name, hint=f"ljsv overlay ls {quote(name)}", exit_code=EXIT_NOT_REACHED)


def _require_rest(context: Context, name: str, action: str, path: str, hint: str) -> None:
    state = context.detail(name).get("state", status.DOWN)
    if state not in AT_REST:
        raise Fault(f"cannot {action} the overlay", path, f"the service is {state}", service=name, hint=hint, exit_code=EXIT_NOT_REACHED)


# ---- reset


def _reset(options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    for name in context.names():
        service, path = _overlay_of(context, name)
        _require_rest(context, name, "reset", path, f"ljsv down {quote(name)}")
        confirm(options, f"move what {name} has written aside, over the copy from the time before")
        from ljsv.jail.overlay import reset

        aside = reset(path, f"layers/{service.layer}/" if service.layer else "")
        print(f"ok: {name}: {f'moved to {aside}' if aside else 'nothing was written'}")
    return EXIT_OK


# ---- snapshot, ls, restore


def _snapshot(options: Options) -> int:
    from ljsv.jail import layers, overlay

    label = _take_last(options, "a label")
    if len(label) > LABEL_MAX or not label.isprintable():
        raise usage(f"a label has at most {LABEL_MAX} printable characters")
    context, name, _, path = _open_one(options)
    is_live = options.has("--live")
    if not is_live:
        _require_rest(context, name, "copy", path, f"ljsv down {quote(name)}  # or --live: each file as it is just then")
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = -1 if is_live else overlay.hold(path)
    try:
        note = layers.snapshot(path, context.places.state_of(name), label, is_live=is_live)
    except OSError as error:
        raise Fault.from_os("cannot copy the overlay", error, path, hint=f"df {quote(path)}") from None
    finally:
        if fd >= 0:
            os.close(fd)
    print(f"ok: {name}: snapshot {note.number}{f' ({label})' if label else ''}; ljsv overlay restore {quote(name)} {note.number} goes back to it")
    return EXIT_OK


def _list(options: Options) -> int:
    from ljsv.jail.layers import read_notes
    from ljsv.service.generations import read_generations

    context, name, service, path = _open_one(options)
    found = read_generations(context.places.state_of(name))
    generations = {generation.layer: generation for generation in (found.find(found.current), *found.kept)}
    rows: list[dict[str, object]] = []
    if 0 in generations or os.path.isdir(f"{path}/upper"):
        rows.append({"layer": 0, "time": None, "why": "the first", "copy_of": None})
    rows += [{"layer": note.number, "time": note.time, "why": note.why, "copy_of": note.copied} for note in read_notes(path)]
    for row in rows:
        generation = generations.get(int(str(row["layer"])))
        row["image"] = found.describe(generation) if generation else None
        row["in_effect"] = row["layer"] == service.layer
    if options.has("--json"):
        import json

        print(json.dumps(rows, indent=2))
        return EXIT_OK
    table = [("LAYER", "MADE", "COPY OF", "WHY", "IMAGE")]
    for row in rows:
        made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(str(row["time"])))) if row["time"] else "-"
        mark = "*" if row["in_effect"] else ""
        table.append((f"{row['layer']}{mark}", made, "-" if row["copy_of"] is None else str(row["copy_of"]), str(row["why"]), str(row["image"] or "-")))
    print_columns(table)
    return EXIT_OK


def _restore(options: Options) -> int:
    from dataclasses import replace

    from ljsv.cli.deployments import deploy, read_settle
    from ljsv.service.generations import read_generations

    word = _take_last(options, "a layer")
    context, name, service, path = _open_one(options)
    found = read_generations(context.places.state_of(name))
    layer = _find_layer(name, path, word, service.layer)
    current = found.find(found.current)
    if context.detail(name).get("state", status.DOWN) in AT_REST and context.detail(name).get("want", "down") == "down":
        return _restore_at_rest(context, name, service, path, layer)
    return deploy(context, name, service, replace(current, source=-1), layer, read_settle(options))


def _find_layer(name: str, path: str, word: str, in_effect: int) -> int:
    """The one that was named, or the newest snapshot."""
    from ljsv.jail.layers import read_notes

    notes = read_notes(path)
    numbers = {note.number for note in notes} | ({0} if os.path.isdir(f"{path}/upper") else set())
    if not word:
        snapshots = [note.number for note in notes if note.is_snapshot]
        if not snapshots:
            raise Fault("there is no snapshot", path, "", service=name, hint=f"ljsv overlay ls {quote(name)}", exit_code=EXIT_NOT_REACHED)
        return snapshots[-1]
    if not word.isdecimal() or int(word) not in numbers:
        raise _no_such_layer(name, word)
    if int(word) == in_effect:
        raise Fault("cannot restore the layer that is in effect", word, "", service=name, hint=f"ljsv overlay ls {quote(name)}", exit_code=EXIT_NOT_REACHED)
    return int(word)


def _restore_at_rest(context: Context, name: str, service: Service, path: str, layer: int) -> int:
    """Nothing runs, and nothing is to: copied and switched here."""
    from dataclasses import replace

    from ljsv.cli.deployments import DEPLOY_BYTE, next_generation, next_layer
    from ljsv.jail import layers, overlay
    from ljsv.service import generations as record

    state = context.places.state_of(name)
    fd = overlay.hold(path)
    try:
        with record.locked(state):
            found = record.read_generations(state)
            if found.trial:
                raise Fault("a deployment is under way", name, found.trial.phase, hint=f"ljsv status {quote(name)}", exit_code=EXIT_NOT_REACHED)
            number, made = next_generation(found), next_layer(context, name, service, found)
            staged = layers.stage(path, layer)
            layers.put(path, staged, layers.Note(number=made, time=time.time(), why=f"generation {number}", copied=layer))
            current = replace(found.find(found.current), number=number, layer=made, time=time.time(), source=-1)
            trial = record.Trial(phase=record.TRYING, generation=current)
            outcome = record.Outcome(number=number, image=current.image, result=record.DONE, time=time.time())
            record.write_generations(state, replace(found, trial=trial).keep_trial(outcome))
    except OSError as error:
        raise Fault.from_os("cannot restore the overlay", error, path, hint=f"df {quote(path)}") from None
    finally:
        os.close(fd)
    if context.is_supervised(name):
        context.send(name, DEPLOY_BYTE)  # it looks at the record again
    print(f"ok: {name}: a copy of layer {layer} is in effect at its next start (layer {made})")
    return EXIT_OK


# ---- diff


def _diff(options: Options) -> int:
    from ljsv.jail.difference import find_differences
    from ljsv.jail.layers import folder_of

    word = _take_last(options, "a layer")
    _, name, service, path = _open_one(options)
    layer = int(word) if word.isdecimal() else service.layer
    upper = f"{folder_of(path, layer)}/upper"
    if word and not (word.isdecimal() and os.path.isdir(upper)):
        raise _no_such_layer(name, word)
    found = find_differences(upper, service.base_path, is_image=bool(service.image_type)) if os.path.isdir(upper) else iter(())
    if options.has("--json"):
        import json

        print(json.dumps([{"change": change, "path": shown} for change, shown in found], indent=2))
        return EXIT_OK
    is_terminal = sys.stdout.isatty()
    for change, shown in found:  # whatever the service has called its files
        print(f"{change[0].upper()} {printable(shown) if is_terminal else shown}")
    return EXIT_OK


ACTIONS: dict[str, Callable[[Options], int]] = {"diff": _diff, "ls": _list, "snapshot": _snapshot, "restore": _restore, "reset": _reset}

"""Writes drafts into the scan directory, and tells what was made otherwise and what could not be."""

from __future__ import annotations

import os
import shutil
import sys
from shlex import join

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import print_fault
from ljsv.cli.takeover.draft import Draft
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import is_service_name

SOURCES = ("--from", "--from-unit", "--from-compose", "--template")


def take_over(context: Context, options: Options, names: list[str]) -> int:
    """What `new` does where something is taken over. A name that is not given is that of what is taken over."""
    given = [source for source in SOURCES if options.has(source)]
    others = [option for option in ("--run", "--image") if options.has(option)]
    if not options.has("--template"):
        others += [option for option in ("--set", "--template-dir") if options.has(option)]
    if len(given) != 1 or others:
        raise usage(f"one of {' '.join(SOURCES)} by itself: found {' '.join(given + others)}")
    drafts = _draft(context, given[0], options, names)
    for draft in drafts:
        if options.has("--down"):
            draft.put("down", "")
        path = f"{context.svdir}/{draft.name}"
        if os.path.lexists(path):
            raise Fault("it is there already", path, service=draft.name, hint=f"ljsv status {draft.name}", exit_code=EXIT_NOT_REACHED)
    for draft in drafts:
        _write(context, draft)
    return EXIT_OK


def _draft(context: Context, source: str, options: Options, names: list[str]) -> list[Draft]:
    path = options.get(source)
    if source == "--from-compose":
        from ljsv.cli.takeover.compose import draft_compose

        drafts = draft_compose(path, os.environ)
        for name in names:
            if name not in {draft.name for draft in drafts}:
                raise usage(f"the compose file has no service {name}: it has {' '.join(draft.name for draft in drafts)}")
        return [draft for draft in drafts if not names or draft.name in names]
    stem = os.path.basename(os.path.abspath(path)).removesuffix(".service")
    if source == "--from-unit" and stem.endswith("@") and not names:
        raise usage(f"{path} is one unit for many: name the one", hint=join(["ljsv", "new", f"{stem[:-1]}-1", source, path]))
    name = names[0] if names else stem.replace("@", "-")
    if not is_service_name(name) or len(names) > 1:
        raise usage(f"one name, please: found {' '.join(names) or name}", hint=join(["ljsv", "new", "web", source, path]))
    if source == "--from-unit":
        from ljsv.cli.takeover.unit import draft_unit

        return [draft_unit(path, name, frozenset(context.all_names()))]
    if source == "--template":
        from ljsv.cli.takeover.template import draft_template

        return [draft_template(path, name, options.get("--template-dir"), options.every("--set"))]
    from ljsv.cli.takeover.runit import draft_runit

    return [draft_runit(path, name)]


def _write(context: Context, draft: Draft) -> None:
    """Whole under a hidden name, then renamed in; what is wrong with it is told, and left to be mended."""
    path, staged = f"{context.svdir}/{draft.name}", f"{context.svdir}/.new-{draft.name}.{os.getpid()}"
    try:
        draft.write(staged)
        fault = _try(staged)
        if fault and "down" not in draft.files:
            with open(f"{staged}/down", "w"):
                pass
        os.rename(staged, path)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise Fault.from_os("cannot make the service directory", error, path, hint=f"ls -ld {quote(context.svdir)}") from None
    print(f"ok: {path}: {', '.join(sorted({file.partition('/')[0] for file in draft.files}))}")
    for text in draft.told():
        print(f"  {text}")
    if fault:
        fault.service = draft.name
        fault.object = fault.object.replace(staged, path)
        fault.action = fault.action.replace(staged, path)
        print(f"  it cannot run yet, so it has a down file: ljsv enable {draft.name} when it can", flush=True)
        sys.stdout.flush()
        if not draft.lacks_image:
            print_fault(fault)


def _try(staged: str) -> Fault | None:
    """What its supervisor would say of it."""
    from ljsv.service.read import read_service

    fd = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        read_service(staged, fd, uid=os.geteuid())
    except Fault as fault:
        return fault
    finally:
        os.close(fd)
    return None

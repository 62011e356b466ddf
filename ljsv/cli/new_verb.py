"""`ljsv new`: a service directory, made whole under a hidden name and renamed in; or what another supervisor had, taken over."""

from __future__ import annotations

import os
import shutil

from ljsv.cli.context import Context
from ljsv.cli.options import Options, usage
from ljsv.cli.show import print_columns
from ljsv.errors import EXIT_NOT_REACHED, EXIT_OK, Fault, quote
from ljsv.paths import is_service_name

OPTIONS = {
    "--run": "COMMAND", "--image": "NAME", "--down": "", "--from": "DIR", "--from-unit": "FILE", "--from-compose": "FILE",
    "--template": "TEMPLATE", "--set": "K=V", "--template-dir": "DIR", "--templates": "", "--json": "",
}


def run(_verb: str, options: Options) -> int:
    names = list(options.operands)
    if options.has("--templates"):
        return _print_templates(options, names)
    if any(option.startswith(("--from", "--template", "--set")) for option in options.values):
        from ljsv.cli.takeover.make import take_over

        return take_over(Context(options.get("--svdir"), options), options, names)
    if len(names) != 1 or not is_service_name(names[0]):
        raise usage("one name, please: letters, digits, dots and hyphens, no leading dot", hint="ljsv new web --run 'exec /usr/bin/python3 -m http.server'")
    context = Context(options.get("--svdir"), options)
    name = names[0]
    path, staged = f"{context.svdir}/{name}", f"{context.svdir}/.new-{name}.{os.getpid()}"
    if os.path.lexists(path):
        raise Fault("it is there already", path, service=name, hint=f"ljsv status {quote(name)}", exit_code=EXIT_NOT_REACHED)
    image = options.get("--image")
    rootfs, needs_run = _of_image(image) if image else ('base = "host"\n', True)
    has_run = needs_run or options.has("--run")
    try:
        os.mkdir(staged, 0o755)
        if has_run:
            _write(f"{staged}/run", f"#!/bin/sh\n{options.get('--run') or 'exec sleep 1000000'}\n", 0o755)
        _write(f"{staged}/rootfs", rootfs, 0o644)
        if options.has("--down"):
            _write(f"{staged}/down", "", 0o644)
        os.rename(staged, path)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise Fault.from_os("cannot make the service directory", error, path, hint=f"ls -ld {quote(context.svdir)}") from None
    print(f"ok: {path}: {'run, ' if has_run else ''}rootfs")
    return EXIT_OK


def _print_templates(options: Options, names: list[str]) -> int:
    """The table of the templates, or all about those that are named."""
    from ljsv.cli.takeover.template import describe, table

    folder = options.get("--template-dir")
    if names:
        print("\n\n".join(describe(name, folder) for name in names))
        return EXIT_OK
    rows = table(folder)
    if options.has("--json"):
        import json
        from dataclasses import asdict

        print(json.dumps({name: asdict(template) for name, template in rows}, indent=2))
        return EXIT_OK
    print_columns([("TEMPLATE", "SUMMARY"), *((name, template.summary) for name, template in rows)])
    return EXIT_OK


def _of_image(image: str) -> tuple[str, bool]:
    """(the text of rootfs, whether there has to be a run) for an image of the store, or a file that is one."""
    from ljsv.service.images import check_image
    from ljsv.service.stored import read_manifest, resolve

    path = os.path.abspath(image)
    if image.startswith(("/", "./", "../")) or os.path.isfile(path):
        check_image(path)
        base = path
    else:
        path, base = resolve(image).path, image
    starts = bool(read_manifest(path).defaults.argv)
    return f'# What an image for containers writes is kept beside it; "no" where it writes nothing.\nbase = {_quote(base)}\nwritable = "overlay"\n', not starts


def _quote(text: str) -> str:
    """As TOML's basic string."""
    import json

    return json.dumps(text, ensure_ascii=False)


def _write(path: str, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, mode)
        file.write(text)

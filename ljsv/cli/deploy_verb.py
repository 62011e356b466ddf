"""`ljsv deploy NAME --image IMAGE`: another image, with a way back.

The new generation has to become ready in its time; else what was comes back
by itself, image and overlay (docs/architecture.md, Deployments).
"""

from __future__ import annotations

import os

from ljsv.cli.context import Context
from ljsv.cli.deployments import deploy, keep_file, one_name, read_settle
from ljsv.cli.options import Options, usage
from ljsv.errors import EXIT_NOT_REACHED, Fault, quote
from ljsv.service.generations import Generation
from ljsv.service.images import check_image
from ljsv.service.stored import resolve

OPTIONS = {"--image": "IMAGE", "--settle": "SECONDS"}


def run(_verb: str, options: Options) -> int:
    context = Context(options.get("--svdir"), options)
    name = one_name(context, "deploy")
    image = options.get("--image")
    if not image:
        raise usage("which image? a name in the store, or a file", hint=f"ljsv image ls; ljsv deploy {quote(name)} --image web.squashfs")
    settle_s = read_settle(options)
    service = context.read_service(name)
    if service.rootfs.writable == "direct":
        raise Fault("an image cannot be written", image, 'writable = "direct"', service=name, hint=f'writable = "overlay" in {service.directory}/rootfs keeps changes beside it', exit_code=EXIT_NOT_REACHED)
    return deploy(context, name, service, _find_image(context, name, image), None, settle_s)


def _find_image(context: Context, name: str, image: str) -> Generation:
    """A name of the store, whose image is pinned there; or a file, of which a copy is kept: what is there may be replaced."""
    if not os.path.exists(image) and not image.startswith(("/", "./", "../")):
        found = resolve(image)
        return Generation(image=image, path=found.path, type=check_image(found.path))
    kind = check_image(image)
    state = context.places.state_of(name)
    try:
        kept = keep_file(state, image, kind)
    except OSError as error:
        raise Fault.from_os("cannot keep the image", error, image, hint=f"df {quote(os.path.dirname(state))}") from None
    return Generation(image=os.path.basename(image), path=kept, type=kind)

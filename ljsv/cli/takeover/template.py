"""A service directory of a template, and the table of templates."""

from __future__ import annotations

from shlex import quote

from ljsv.cli.options import usage
from ljsv.cli.takeover.draft import Draft
from ljsv.errors import Fault
from ljsv.service.template import Template, choose, find_template, list_templates, put, read_template, render


def draft_template(template: str, name: str, folder: str, settings: list[str]) -> Draft:
    """The files of a template with its settings, `K=V` each, and what its root has to have."""
    given = {}
    for setting in settings:
        key, is_pair, value = setting.partition("=")
        if not is_pair:
            raise usage(f"--set wants K=V: found {setting!r}", hint=f"ljsv new --templates {quote(template)}")
        given[key] = value
    place = find_template(template, folder)
    declared = read_template(place)
    values = choose(declared, given, template)
    draft = Draft(name, f"the template {template}", rootfs={})
    for path, data in render(place, values):
        draft.files[path] = (data, 0o755 if data.startswith(b"#!") else 0o644)
    root = values.get("root", "host")
    if declared.packages:
        draft.say("needs", f"{'on this machine' if root == 'host' else f'in {root}'}: {' '.join(declared.packages)}")
    if _is_missing(root):
        draft.say("hint", make_root(root, declared.packages))
    return draft


def _is_missing(root: str) -> bool:
    """Whether it is the name of an image that no store has."""
    from ljsv.service.stored import resolve

    if root == "host" or root.startswith("/"):
        return False
    try:
        resolve(root)
    except Fault:
        return True
    return False


def make_root(image: str, packages: tuple[str, ...]) -> str:
    """The commands that make such a root of Debian's packages, as an image of the store."""
    return f"mmdebstrap --variant=minbase --include={','.join(packages)} bookworm debian.tar && ljsv image import debian.tar -t {quote(image)}"


def describe(name: str, folder: str) -> str:
    """All about one template, settings in their places."""
    template = read_template(find_template(name, folder))
    values = {key: setting.default or key.upper() for key, setting in template.set.items()}
    lines = [f"{name}: {template.summary}", ""]
    rows = [("listens on", template.listens), ("stores", template.stores), ("needs", template.needs), ("packages", " ".join(template.packages) or "none")]
    lines += [f"  {label + ':':12} {put(text, values)}" for label, text in rows]
    lines += ["", *(f"  {line}".rstrip() for line in put(template.text, values).strip().splitlines()), "", "settings (--set K=V):"]
    for key, setting in template.set.items():
        default = f"default {setting.default}" if setting.default else "has to be given"
        lines.append(f"  {key:12} {setting.about} ({setting.kind.replace('own_root', 'root')}, {default})")
    return "\n".join(lines)


def table(folder: str) -> list[tuple[str, Template]]:
    """Name and declaration of each template."""
    return [(name, read_template(place)) for name, place in list_templates(folder).items()]

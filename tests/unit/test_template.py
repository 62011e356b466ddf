"""Service templates: what a declaration and a value may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ljsv.errors import Fault
from ljsv.service.template import KINDS, Setting, check, choose, find_template, list_templates, read_template, render

HELLO = """
summary = "says hello"

[set.name]
kind = "word"
about = "to whom"

[set.port]
kind = "port"
default = "80"
about = "where"
"""


def make(folder: Path, declaration: str = HELLO, **files: str | bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "template.toml").write_text(declaration)
    for name, content in (files or {"run": "#!/bin/sh\necho hello @name@ on @port@ from me@example\n"}).items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_what_is_shipped_can_be_read() -> None:
    """Each declaration is whole, each setting is used, and each default is allowed."""
    for name, folder in list_templates().items():
        template = read_template(folder)
        assert template.summary and template.text, name
        values = choose(template, {key: "/var/log/x" for key, setting in template.set.items() if not setting.default}, name)
        rendered = dict(render(folder, values))
        assert {"run", "rootfs"} <= rendered.keys(), name
        assert not any(f"@{key}@".encode() in data for key in template.set for data in rendered.values()), name


def test_settings_are_put_in_their_places(tmp_path: Path) -> None:
    """Only those that are declared; what is not text is left as it is."""
    folder = make(tmp_path / "hello", run="#!/bin/sh\necho @name@ @port@ a@b @Name@\n", data__raw=b"\xff@name@")
    values = choose(read_template(folder), {"name": "world"}, "hello")
    assert render(folder, values) == [("data/raw", b"\xff@name@"), ("run", b"#!/bin/sh\necho world 80 a@b @Name@\n")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "hello: name has to be given: to whom"),
        ({"name": "x", "prot": "1"}, "hello: no such setting: prot: did you mean port?"),
        ({"name": "x", "port": "70000"}, "port: found '70000': allowed: a port, 1 to 65535"),
        ({"name": ""}, "name: found ''"),
    ],
)
def test_what_cannot_be(tmp_path: Path, given: dict[str, str], said: str) -> None:
    template = read_template(make(tmp_path / "hello"))
    with pytest.raises(Fault) as caught:
        choose(template, given, "hello")
    assert said in str(caught.value) and caught.value.hint and caught.value.exit_code == 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["a b", "a'b", 'a"b', "$HOME", "`id`", "a\\b", "a\nb", "", "a;b", "x" * 2000, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_no_kind_lets_a_value_out_of_its_place(kind: str, value: str) -> None:
    with pytest.raises(Fault):
        check("key", Setting(kind, ""), value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value", "is_allowed"),
    [
        ("port", "65535", True), ("port", "0", False), ("size", "512M", True), ("size", "512", False), ("size", "0K", False), ("path", "/srv/www", True),
        ("path", "srv", False), ("path", "/srv/../etc", False), ("root", "host", True), ("own_root", "host", False), ("own_root", "debian:12", True),
        ("word", "app.main:app", True), ("word", "-x", False), ("number", "12", True), ("number", "1.5", False),
    ],
)
def test_kinds(kind: str, value: str, is_allowed: bool) -> None:  # noqa: FBT001
    setting = Setting(kind, "")  # type: ignore[arg-type]
    if is_allowed:
        check("key", setting, value)
    else:
        with pytest.raises(Fault, match="allowed: "):
            check("key", setting, value)


def test_declaration_and_files_have_to_agree(tmp_path: Path) -> None:
    """Whoever writes a template is told which setting is wrong."""
    with pytest.raises(Fault, match="@port@: declared, and no file says it"):
        read_template(make(tmp_path / "a", run="@name@"))
    with pytest.raises(Fault, match="@user@: not declared"):
        read_template(make(tmp_path / "b", run="@name@ @port@ @user@"))
    with pytest.raises(Fault, match="unknown key sumary"):
        read_template(make(tmp_path / "c", 'summary = "x"\nsumary = "x"'))
    with pytest.raises(Fault, match="at most 256 files"):
        read_template(make(tmp_path / "d", 'summary = "x"', **{f"f{number}": "" for number in range(300)}))


def test_a_directory_of_ones_own(tmp_path: Path) -> None:
    """It is looked into alone; what is not there is told with what is close."""
    make(tmp_path / "hello")
    (tmp_path / "other").mkdir()
    assert list(list_templates(str(tmp_path))) == ["hello"]
    with pytest.raises(Fault, match="no such template: helo: did you mean hello"):
        find_template("helo", str(tmp_path))
    with pytest.raises(Fault, match="cannot read the templates"):
        list_templates(str(tmp_path / "none"))

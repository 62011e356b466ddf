"""Every service directory for runit that 19 Debian packages ship is taken over: 61 of them, in tests/integration/takeover/debian-sv.tar.xz."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from ljsv.cli.takeover.compose import draft_compose
from ljsv.cli.takeover.draft import Draft, format_toml
from ljsv.cli.takeover.runit import draft_runit
from ljsv.cli.takeover.unit import draft_unit
from ljsv.cli.takeover.words import quote_with_variables, seconds, size, split_unit
from ljsv.service.read import read_service

FIXTURES = Path(__file__).parents[1] / "integration/takeover/debian-sv.tar.xz"


def test_every_directory_of_debian(tmp_path: Path) -> None:
    """Valid as its supervisor reads it; its scripts are sh, and nothing of runit's is left in them."""
    subprocess.run(["tar", "-xJf", str(FIXTURES), "-C", str(tmp_path), "--no-same-owner"], check=True)
    found = sorted(path.parent for path in tmp_path.glob("*/*/run"))
    assert len(found) == 61
    assert len({path.parent.name for path in found}) == 19
    problems = []
    for number, path in enumerate(found):
        draft = draft_runit(str(path), path.name)
        made = tmp_path / f"made{number}"
        draft.write(str(made))
        fd = os.open(made, os.O_RDONLY)
        read_service(str(made), fd, uid=os.geteuid())
        os.close(fd)
        for script in [made / name for name in ("run", "finish", "check")] + list(made.glob("control/*")):
            if script.exists() and re.match(rb"#!/bin/(ba)?sh", script.read_bytes()):
                text = "\n".join(line for line in script.read_text().splitlines() if not line.lstrip().startswith("#"))
                checked = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
                if checked.returncode or re.search(r"\bsv (start|up|down|d)\b|/lib/runit/invoke-run|/etc/sv/(?!\$)", text):
                    problems.append(f"{path.name}/{script.name}: {checked.stderr}\n{text}")
    assert not problems, "\n".join(problems)


def test_times_and_sizes_of_others() -> None:
    """As systemd and compose write them."""
    assert [seconds(text) for text in ("90", "1min 30s", "1m30s", "250ms", "1.5h", "infinity", "soon")] == [90, 90, 90, 0.25, 5400, None, None]
    assert [size(text) for text in ("512M", "512m", "0.5g", "1073741824", "1000", "64MiB", "infinity", "0")] == ["512M", "512M", "512M", "1G", "1K", "64M", "", "0"]


@pytest.mark.parametrize("word", ["plain", "two words", "$ONE", "a${ONE}b", "it's", "`id`", "$(id)", "*", ""])
def test_words_for_sh(word: str) -> None:
    """Variables are looked up, nothing else is special."""
    said = subprocess.run(["sh", "-c", f"printf %s {quote_with_variables(word)}"], env={"ONE": "1 2"}, capture_output=True, text=True, check=True).stdout
    assert said == word.replace("${ONE}", "1 2")


def test_toml_that_is_read_back() -> None:
    """Keys, tables and arrays of tables, with what has to be quoted."""
    import tomllib

    table = {"a": "x\"\\\n\x7f", "n": 3, "yes": True, "list": ["a", "b"], "table": {"k": "v"}, "rows": [{"from": "/a", "writable": False}, {"from": "/b"}]}
    assert tomllib.loads(format_toml(table)) == table


UNIT = """[Service]
ExecStartPre=/bin/false
ExecStartPre=
ExecStartPre=-/usr/sbin/thing -t
ExecStart=/usr/sbin/thing --wrong
ExecStart=
ExecStart=/usr/sbin/thing -D
ExecReload=/usr/sbin/thing -t
ExecReload=/bin/kill -HUP $MAINPID
ExecStop=/bin/false
ExecStop=
ExecStopPost=/bin/false
ExecStopPost=
"""


def test_commands_of_a_unit_are_all_run_or_taken_back(tmp_path: Path) -> None:
    """Several of a kind, as Debian's ssh.service has for its reload, stay several; an empty one takes back those before it."""
    (tmp_path / "thing.service").write_text(UNIT)
    made = draft_unit(str(tmp_path / "thing.service"), "thing", frozenset())
    scripts = {path: data.decode() for path, (data, _) in made.files.items()}
    assert scripts == {
        "run": "#!/bin/sh\n/usr/sbin/thing -t || true\nexec /usr/sbin/thing -D\n",
        "control/h": '#!/bin/sh\nexport MAINPID=$LJSV_PID\n/usr/sbin/thing -t || exit 0\n/bin/kill -HUP "$MAINPID"\n',
    }


def test_a_folder_behind_a_symlink_is_told(tmp_path: Path) -> None:
    """It is not carried over, and not in silence."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/run").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "old/env").symlink_to(tmp_path / "elsewhere")
    assert [text for _, text in draft_runit(str(tmp_path / "old"), "old").said if text.startswith("env:")] == ["env: no regular file, or too large"]


def take(tmp_path: Path, text: str, file: str = "thing.service", name: str = "thing", known: tuple[str, ...] = ()) -> Draft:
    (tmp_path / file).write_text(text)
    return draft_unit(str(tmp_path / file), name, frozenset(known))


def test_a_variable_that_is_a_word_is_split(tmp_path: Path) -> None:
    """As systemd has it: $OPTS is as many words as it has, none where it is empty, and no pattern; ${OPTS} is one word; $$ is a dollar sign."""
    made = take(tmp_path, "[Service]\nExecStart=/usr/bin/printf <%%s> $OPTS $NONE ${OPTS} a$OPTS $$OPTS\n")
    script = tmp_path / "run"
    script.write_bytes(made.files["run"][0])
    said = subprocess.run(["sh", str(script)], env={"OPTS": "a * b", "NONE": ""}, capture_output=True, text=True, check=True).stdout
    assert said == "<a><*><b><a * b><a$OPTS><$OPTS>"


def test_words_of_a_unit() -> None:
    """Quotes, and C's escapes within and without; what is none stays."""
    assert split_unit(r"""one 'two words' "it's" a"b c"d "" \x20 \x41\t\s\101 \q\u00e9""") == [
        "one", "two words", "it's", "ab cd", "", " ", "A\t A", "\\qé",
    ]
    with pytest.raises(ValueError, match="closing"):
        split_unit("sh -c 'a")


def test_a_script_within_a_unit_keeps_its_variables(tmp_path: Path) -> None:
    """$NAME within a word is the inner shell's; ${NAME} is systemd's, but for a program with a colon; the pid is there for both."""
    unit = "[Service]\nExecStartPre=:/bin/echo $HOME ${HOME}\nExecStart=@/bin/sh name -c 'for i in 1 2; do printf %%s, $i ${ONE}; done'\nExecStop=/bin/sh -c 'kill $MAINPID'\n"
    made = take(tmp_path, unit)
    script = tmp_path / "run"
    script.write_bytes(made.files["run"][0])
    said = subprocess.run(["sh", str(script)], env={"ONE": "x", "HOME": "/h"}, capture_output=True, text=True, check=True).stdout
    assert said == "$HOME ${HOME}\n1,x,2,x,"
    assert b"export MAINPID=$LJSV_PID" in made.files["control/t"][0] and any("argv[0]" in line for line in made.told())


def test_variables_and_delays_that_are_taken_back(tmp_path: Path) -> None:
    """An empty Environment= is a new beginning; no delay at all is the shortest."""
    made = take(tmp_path, '[Service]\nEnvironment=OLD=1\nEnvironment=\nEnvironment="NEW=a\\x20b" 1bad=x\nRestartSec=0\nExecStart=/bin/true\n')
    assert {path: data for path, (data, _) in made.files.items() if path.startswith("env/")} == {"env/NEW": b"a b\n"}
    assert made.policy["restart"]["delay"] == "100ms" and sum("100ms" in line or "no variable" in line for line in made.told()) == 2


def test_what_systemd_does_where_nothing_is_said(tmp_path: Path) -> None:
    """Its times are kept, and that it would not start again is told."""
    made = take(tmp_path, "[Service]\nType=notify\nExecStart=/bin/true\nExecStop=/bin/thing stop\n")
    assert made.policy["stop"]["timeout"] == made.policy["ready"]["timeout"] == made.policy["scripts"]["control"] == "90s"
    assert any("no Restart=" in line for line in made.told())
    assert made.files["control/t"][0].decode() == "#!/bin/sh\n/bin/thing stop || true\nexit 1  # and now the signal, for what has not ended\n"
    assert take(tmp_path, "[Service]\nTimeoutStopSec=0\nRestart=always\nExecStart=/bin/true\n").policy["stop"]["timeout"] == "1d"


def test_more_open_files_than_are_allowed_here(tmp_path: Path) -> None:
    """The service would not start: the most is taken, and told."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("as many files as one likes may be open here")
    made = take(tmp_path, f"[Service]\nLimitNOFILE={hard + 1}\nExecStart=/bin/true\n")
    assert made.limits["nofile"] == hard
    assert [line for line in made.told() if f"nofile = {hard}" in line]


def test_half_of_the_host_is_not_bound(tmp_path: Path) -> None:
    """What a jail has of its own is not either; what a unit may only read of /usr is there anyway."""
    made = take(tmp_path, "[Service]\nExecStart=/bin/true\nReadWritePaths=/run -/var/lib -/ /dev /tmp -/not/there\nReadOnlyDirectories=/ /usr/share\n")
    assert "bind" not in made.rootfs
    assert sum("too much to be shown" in line for line in made.told()) == 2
    made.add_path("/var/lib/thing/", "", writable=True)
    assert made.rootfs["bind"][0]["from"] == "/var/lib/thing"


def test_the_runtime_directory_of_a_user(tmp_path: Path) -> None:
    """He may make nothing in /run, so it is a tmpfs; the jail's root makes it."""
    text = "[Service]\nRuntimeDirectory=a\nRuntimeDirectoryMode=0700\nExecStart=/bin/true\n"
    assert b"mkdir -p -m 0700 /run/a\n" in take(tmp_path, text).files["run"][0]
    assert take(tmp_path, text + "User=www-data\n").rootfs["tmpfs"] == [{"at": "/run/a"}]
    assert "tmpfs" not in take(tmp_path, "[Service]\nUser=www-data\nExecStart=/bin/true\n").rootfs


def test_one_unit_for_many(tmp_path: Path) -> None:
    """The name is the instance's."""
    made = take(tmp_path, "[Service]\nUser=%i\nExecStart=/bin/thing %n\n", "thing@.service", "web")
    assert made.rootfs["user"] == "web"
    assert made.files["run"][0].decode().endswith("exec /bin/thing thing@web.service\n")


def test_lines_of_which_the_same_is_said_are_told_together(tmp_path: Path) -> None:
    made = take(tmp_path, "[Unit]\nAfter=network.target\nWants=network.target db.service\n[Service]\nType=forking\nKillMode=process\nUnheard=a\nUnseen=b\nExecStart=/bin/true\nRestart=always\n", known=("db",))
    assert list(made.told()) == [
        "changed: line 2: After=network.target: left out: none of them is a service here",
        "not carried over: line 6: KillMode=process: nothing outlives its jail: what the program has started ends with it",
        "not carried over: line 7: Unheard=a", "not carried over: line 8: Unseen=b",
        'not carried over: line 3: Wants=network.target db.service: db is not waited for: needs = ["db"] in policy would',
        "not carried over: Type=forking: the program goes into the background, and its jail ends with that: give it the option that keeps it in the foreground; it has a down file until then (ljsv enable thing)",
    ]
    assert "down" in made.files
    again = take(tmp_path, "[Unit]\nAfter=a.target\nBefore=b.target\n[Service]\nRestart=always\nExecStart=/bin/true\n")
    assert list(again.told()) == ["changed: line 2: After, line 3: Before: left out: none of them is a service here"]


def compose(tmp_path: Path, text: str, **environ: str) -> dict[str, Draft]:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "compose.yaml").write_text(text)
    return {draft.name: draft for draft in draft_compose(str(tmp_path / "compose.yaml"), environ)}


def content(draft: Draft, path: str) -> str:
    return draft.files[path][0].decode().removesuffix("\n")


def test_variables_of_a_compose_file(tmp_path: Path) -> None:
    """.env beside it, below those that are set; defaults in defaults; one that is not set is empty, and told; one of the service without a value is passed on. YAML is that of 1.2."""
    (tmp_path / ".env").write_text("# mine\nONE='from .env'\nexport TWO=2 # not this\n")
    (tmp_path / "more").write_text('THREE="3"\nFOUR=4\n')
    text = """services: {a: {image: b, env_file: [more], environment: {ONE: "${ONE}", TWO: "$TWO", THREE: "${X:-${Y:-nested}}", NONE: "<${NONE}>", UNSET: , YES: true, NO: off}, ports: [22:22]}}"""
    made = compose(tmp_path, text, TWO="set")["a"]
    said = {name: content(made, f"env/{name}") for name in ("ONE", "TWO", "THREE", "FOUR", "NONE", "YES", "NO")}
    assert said == {"ONE": "from .env", "TWO": "set", "THREE": "nested", "FOUR": "4", "NONE": "<>", "YES": "true", "NO": "off"}
    assert "env/UNSET" not in made.files
    assert "changed: a.ports: it listens on 22 of the host itself" in made.told()
    assert [line for line in made.told() if "$NONE is not set" in line]


COMPOSE = """
services:
  app:
    build: {context: ., dockerfile: Other, args: {A: "1 2"}, target: end}
    user: "app:staff"
    environment: [DB_HOST=db, "QUEUE=amqp://guest@db/", NAME=db, PORT=db:3306]
    depends_on: {db: {condition: service_started}, migrate: {condition: service_completed_successfully}}
    devices: ["/dev/ttyUSB0:/dev/ttyUSB0:rw", "/dev/snd:/dev/sound"]
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    security_opt: ["no-new-privileges:true", "apparmor:unconfined"]
    secrets: [key, outside]
    deploy: {restart_policy: {condition: on-failure, max_attempts: 3, delay: 5s}}
    logging: {driver: json-file, options: {max-size: 5m, max-file: "2"}}
  db: {image: db}
  migrate: {image: db, restart: "no"}
secrets: {key: {file: ./key.txt}, outside: {external: true}}
"""


def test_keys_of_a_compose_file(tmp_path: Path) -> None:
    """What has a counterpart, and what is said of the rest."""
    drafts = compose(tmp_path, COMPOSE)
    made = drafts["app"]
    assert made.rootfs["user"] == "app:staff"
    assert made.rootfs["device"] == [{"path": "/dev/ttyUSB0"}]
    assert made.rootfs["bind"] == [{"from": str(tmp_path / "key.txt"), "to": "/run/secrets/key"}]
    assert "-CHOWN" in made.rootfs["security"]["capabilities"]
    assert "-NET_BIND_SERVICE" not in made.rootfs["security"]["capabilities"]
    assert made.policy == {"needs": ["db"], "restart": {"when": "failure", "give_up_after": 3, "delay": "5s"}, "log": {"max_size": "5M", "keep": 2}}
    assert drafts["db"].policy["restart"]["when"] == "failure"
    assert drafts["migrate"].policy["restart"]["when"] == "never"
    said = "\n".join(made.told())
    for text in (
        f"ljsv image build {tmp_path} -t app:latest -f {tmp_path}/Other --target end --build-arg 'A=1 2'", "migrate: the end of a job is not waited for",
        "/dev/snd:/dev/sound", "apparmor:unconfined", "outside: only one that is a file", "env/DB_HOST says db", "env/QUEUE says db", "env/PORT says db",
    ):
        assert text in said, said
    assert "env/NAME says" not in said
    assert "no-new-privileges" not in said
    assert "skopeo copy docker://db docker-archive:db.tar && ljsv image import db.tar -t db" in "\n".join(drafts["db"].told())


def test_a_getty_is_a_template(tmp_path: Path) -> None:
    """It owns a terminal of the host, so there is nothing to take over: the command that makes one is told."""
    (tmp_path / "run").write_text("#!/bin/sh\n[ ! -e /etc/runit/verbose ] || echo getty\nexec /sbin/getty 38400 ttyS0\n")
    made = draft_runit(str(tmp_path), "getty-ttyS0")
    assert [line for line in made.told() if "/etc/runit" in line] == []
    assert [line for line in made.told() if "ljsv new console --template getty --set tty=/dev/ttyS0" in line]

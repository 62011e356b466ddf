"""`ljsv new --from DIR`, `--from-unit FILE`, `--from-compose FILE`: what others had, and what is said of it.

debian-sv.tar.xz holds every service directory for runit of the Debian 12
packages that its SOURCES names.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for
from tests.integration.generations.test_generations import make_images
from tests.integration.store_kit import use_store

FIXTURES = Path(__file__).parent / "debian-sv.tar.xz"


def unpack(tree: Tree) -> list[Path]:
    top = tree.root / "debian"
    top.mkdir()
    subprocess.run(["tar", "-xJf", str(FIXTURES), "-C", str(top), "--no-same-owner"], check=True)
    tree.own(top)
    return sorted(path.parent for path in top.glob("*/*/run"))


def test_what_is_said_of_a_directory(tree: Tree) -> None:
    """Of each thing that was made otherwise, and of each that could not be."""
    found = {path.name: path for path in unpack(tree)}
    said = tree.ljsv("new", "--from", str(found["ssh"]), "--down").stdout
    for text in ("log/run is left out", "invoke-run is left out", "sv start auditd is left out", "finish: sv down of itself has no effect"):
        assert text in said, said
    said = tree.ljsv("new", "--from", str(found["tinydns"]), "--down").stdout
    assert "conf/ is env/ here" in said
    assert (tree.sv / "tinydns/env/DATALIMIT").read_text().strip().isdigit()
    assert "it is there already" in tree.ljsv("new", "--from", str(found["tinydns"]), code=1).stderr
    assert "this is no service directory" in tree.ljsv("new", "--from", str(tree.root), code=100).stderr


def test_a_directory_that_is_taken_over_runs(scanning: Tree) -> None:
    """With its environment, paths into itself, its need, and its readiness."""
    old = scanning.staging / "old"
    for name in ("env", "log", "supervise"):
        (old / name).mkdir(parents=True)
    (old / "run").write_text(f"#!/bin/sh\nexec 2>&1\nsv start base >/dev/null\ncat {old}/greeting /etc/sv/old/greeting\nexec sleep 1000\n")
    (old / "check").write_text("#!/bin/sh\ntest -n \"$NAME\"\n")
    (old / "greeting").write_text("hello\n")
    (old / "env/NAME").write_text("value\n")
    (old / "log/run").write_text("#!/bin/sh\nexec svlogd -tt ./main\n")
    for script in ("run", "check", "log/run"):
        (old / script).chmod(0o755)
    scanning.own(old)
    scanning.add("base")
    done = scanning.ljsv("new", "web", "--from", str(old))
    assert "needs = ['base']" in done.stdout
    scanning.wait_state("web", "ready")
    wait_for(lambda: scanning.log("web").count("hello") == 2, "what it says")
    assert scanning.detail("web")["needs"] == "base"
    assert scanning.detail("web")["ready_by"] == "check"


UNIT = """[Unit]
Description=A thing
After=network.target
Requires=base.service other.service

[Service]
Type=simple
Environment=ONE=1 "TWO=two words" "OPTS=-e -u"
Environment=THREE=%n
EnvironmentFile=-/nowhere/default
WorkingDirectory=/tmp
RuntimeDirectory=thing
ExecStartPre=-/bin/false
ExecStartPre=/bin/mkdir -p /run/thing/sub
ExecStart=/bin/sh -c 'echo "$ONE $TWO" ${THREE}; pwd; \\
    ls /run/thing; echo $$#; exec sleep 1000' $OPTS
ExecReload=/bin/kill -HUP $MAINPID
ExecStopPost=/bin/echo over
Restart=on-failure
RestartSec=250ms
TimeoutStopSec=1min 30
KillSignal=SIGINT
MemoryMax=64M
TasksMax=20
LimitNOFILE=512:1024
CPUQuota=50%
Nice=3
NoNewPrivileges=yes
ProtectSystem=strict
PrivateNetwork=yes
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SYS_TIME
IPAddressDeny=any

[Install]
WantedBy=multi-user.target
"""


def test_a_unit(scanning: Tree) -> None:
    """Runs as it did; its limits and its policy are here; what has no counterpart is named with its line."""
    scanning.add("base")
    unit = scanning.root / "thing.service"
    unit.write_text(UNIT)
    said = scanning.ljsv("new", "--from-unit", str(unit), "--down").stdout
    for text in ("there is no service other here", "line 32: IPAddressDeny=any", "CAP_SYS_TIME is not given by default", "ljsv hup thing", "WantedBy=multi-user.target"):
        assert text in said, said
    assert "ProtectSystem" not in said
    assert "[[bind]]" not in (scanning.sv / "thing/rootfs").read_text()
    made = scanning.sv / "thing"
    policy = (made / "policy").read_text()
    for text in ('needs = ["base"]', 'when = "failure"', 'delay = "250ms"', 'timeout = "90s"', 'signal = "INT"'):
        assert text.replace("90s", "1m30s") in policy or text in policy, policy
    limits = (made / "limits").read_text()
    for text in ('memory = "64M"', "pids = 20", "nofile = 512", 'cpu = "50%"', "nice = 3"):
        assert text in limits, limits
    assert 'network = "none"' in (made / "rootfs").read_text()
    assert '"-CHOWN"' in (made / "rootfs").read_text() and "-NET_BIND" not in (made / "rootfs").read_text()
    scanning.ljsv("up", "thing")
    wait_for(lambda: "sub" in scanning.log("thing"), "what it says")
    assert scanning.log("thing").splitlines() == ["1 two words thing.service", "/tmp", "sub", "1"]
    scanning.ljsv("down", "thing")
    wait_for(lambda: "over" in scanning.log("thing"), "its finish")


COMPOSE = """
services:
  web:
    image: web:two
    build: ./web
    command: ["/bin/sh", "-c", "echo $$COLOUR {size} $(cat /data/file); exec sleep 1000"]
    environment:
      COLOUR: ${{COLOUR:-blue}}
      EMPTY:
    volumes:
      - ./data:/data:ro
      - cache:/cache
    ports: ["8080:80", "443:443"]
    depends_on:
      db: {{condition: service_healthy}}
    restart: on-failure:3
    mem_limit: 64m
    deploy: {{resources: {{limits: {{cpus: "0.5", pids: 30}}}}, replicas: 2}}
    stop_grace_period: 1m30s
    logging: {{driver: json-file}}
    cap_add:
  db:
    image: web:one
    entrypoint: /bin/sh -c 'exec sleep 1000'
    healthcheck: {{test: ["CMD", "/bin/true"], interval: 1s}}
    network_mode: none
volumes:
  cache:
"""


# Each list holds the one before it ten times.
BOMB = "x-0: &n0 [0]\n" + "".join(f"x-{depth}: &n{depth} [{', '.join([f'*n{depth - 1}'] * 10)}]\n" for depth in range(1, 12)) + "services: {a: {image: b}}\n"


def test_a_compose_file(tree: Tree) -> None:
    """Its services run with their images, in their order; what has no counterpart is named with its service and key."""
    need("mksquashfs")
    use_store(tree)
    make_images(tree, one="good", two="good")
    for name in ("one", "two"):
        tree.ljsv("image", "import", f"{tree.root}/{name}.squashfs", "-t", f"web:{name}")
    (tree.root / "data").mkdir()
    (tree.root / "data/file").write_text("shown\n")
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    file = tree.root / "compose.yaml"
    file.write_text(COMPOSE.format(size="large"))
    tree.own(tree.root / "data")
    said = tree.ljsv("new", "--from-compose", str(file), env={"COLOUR": "red"}).stdout
    for text in ("web.ports: 8080 is not mapped to 80", "web.ports: it listens on 443", "web.deploy.replicas", "cache:/cache is kept in the service's overlay", "ljsv image build", "volumes: data are kept"):
        assert text in said, said
    limits = (tree.sv / "web/limits").read_text()
    for text in ('memory = "64M"', 'cpu = "50%"', "pids = 30"):
        assert text in limits
    assert "give_up_after = 3" in (tree.sv / "web/policy").read_text()
    tree.ljsv("up", "web", "-w", "40")
    wait_for(lambda: tree.log("web"), "what it says")
    assert tree.log("web") == "red large shown"
    assert tree.state("db") == "ready"
    assert "has no service x" in tree.ljsv("new", "x", "--from-compose", str(file), code=100).stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "cannot read the compose file"), ("x: 1", "has no services"), ("services: {a: {}}", "it has no image"), ("services: {a: {image: '${NONE:?say which}'}}", "say which"),
     ("services: {a: {image: b, healthcheck: often}}", "a.healthcheck: it is 'often'"), ("services: {a: {image: b, command: \"'\"}}", "a.command"), (BOMB, "more than 100000 values")],
)
def test_compose_files_that_make_no_sense(tree: Tree, text: str, told: str) -> None:
    """Refused whole, with the reason; nothing is made."""
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    file = tree.root / "compose.yaml"
    file.write_text(text)
    assert told in tree.ljsv("new", "--from-compose", str(file), code=100).stderr
    assert list(tree.sv.iterdir()) == []

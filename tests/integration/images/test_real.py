"""What people bring, as it is: each ends as a supervised service that answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Tree, need, wait_for
from tests.integration.debian import debian
from tests.integration.ports import ask, free_port
from tests.integration.roots import small_root

__all__ = ["debian"]

NGINX = """
FROM debian:bookworm
RUN mkdir -p /srv/www /var/lib/nginx/body && echo 'hello from a jail' >/srv/www/index.html
COPY nginx.conf /etc/nginx/nginx.conf
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=1s --timeout=5s CMD grep -q . /tmp/nginx.pid
CMD ["nginx", "-g", "daemon off;"]
"""
NGINX_CONF = """
worker_processes 1;
error_log /dev/stderr;
pid /tmp/nginx.pid;
{user}
events {{ worker_connections 32; }}
http {{
    access_log off;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    server {{ listen 127.0.0.1:{port}; root /srv/www; }}
}}
"""
REDIS = """
FROM debian:bookworm
USER redis
WORKDIR /var/lib/redis
ENTRYPOINT ["redis-server", "--bind", "127.0.0.1", "--save", "", "--port"]
CMD ["{port}"]
"""
COMPILED = """
FROM debian:bookworm AS build
WORKDIR /src
COPY *.c ./
RUN gcc -static -O1 -Wall -o answer answer.c && ./answer --version

FROM scratch
COPY --from=build /src/answer /bin/answer
USER 1000:1000
ENV PORT={port}
ENTRYPOINT ["/bin/answer"]
"""
ANSWER_C = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1) return puts("answer 1") < 0;
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 8)) return perror("bind"), 1;
    for (;;) {
        int peer = accept(fd, 0, 0);
        char text[64];
        write(peer, text, snprintf(text, sizeof text, "uid %d\n", (int)getuid()));
        close(peer);
    }
}
"""


def context(tree: Tree, name: str, dockerfile: str, **files: str) -> Path:
    path = tree.home / name
    path.mkdir()
    (path / "Dockerfile").write_text(dockerfile)
    for file, text in files.items():
        (path / file.replace("__", ".")).write_text(text)
    tree.own(path)
    return path


def test_debian_with_nginx_redis_and_a_compiled_program(tree: Tree, debian: Path) -> None:
    """mmdebstrap's tar as an image; Dockerfiles on it: nginx (RUN, health check, QUIT), redis (USER, WORKDIR, ENTRYPOINT with CMD), and a
    C program compiled by gcc in a jail and copied into scratch. Each is a service without a run, answers, and stops as its image says.
    """
    tree.open_fuse()
    tree.ljsv("image", "import", str(debian), "-t", "debian:bookworm", "--compression", "lz4", timeout_s=300)
    ports = {name: free_port() for name in ("nginx", "redis", "answer")}
    user = "user root;" if tree.uid else ""
    contexts = {
        "nginx": context(tree, "nginx", NGINX, nginx__conf=NGINX_CONF.format(port=ports["nginx"], user=user)),
        "redis": context(tree, "redis", REDIS.format(port=ports["redis"])),
        "answer": context(tree, "answer", COMPILED.format(port=ports["answer"]), answer__c=ANSWER_C),
    }
    for name, path in contexts.items():
        tree.ljsv("image", "build", str(path), "-t", f"{name}:1", "--compression", "lz4", timeout_s=300)
    size = {row["name"]: row["size"] for row in json.loads(tree.ljsv("image", "ls", "--json").stdout)}
    assert size["answer:1"] < 2_000_000 < size["nginx:1"]
    for name in contexts:
        tree.ljsv("new", name, "--image", f"{name}:1")
        assert not (tree.sv / name / "run").exists()
    tree.ljsv("up", *contexts, "-w", "60", timeout_s=90)
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['nginx']}/", timeout=10) as page:
        assert page.read() == b"hello from a jail\n"
    assert wait_for(lambda: ask(ports["redis"], b"SET key value\r\nGET key\r\n"), "redis").startswith("+OK")
    assert wait_for(lambda: ask(ports["answer"]), "the compiled program") == "uid 1000\n"
    assert tree.detail("nginx")["ready_by"] == "check"
    assert json.loads(tree.ljsv("status", "redis", "--json").stdout)
    tree.ljsv("down", *contexts)
    assert "Redis is now ready to exit" in tree.log("redis") or "User requested shutdown" in tree.log("redis")


def test_an_oci_layout_made_by_umoci(tree: Tree) -> None:
    """Two layers with a whiteout, configured by umoci, read by skopeo; as a layout, and as skopeo's docker archive. It answers as a service."""
    need("umoci", "skopeo", "busybox")
    tree.open_fuse()
    layout, bundle = tree.home / "layout", tree.home / "bundle"
    rootless = ["--rootless"] if tree.uid else []
    root = small_root(tree)

    def umoci(*argv: str) -> None:
        done = tree.run("umoci", *argv)
        assert done.returncode == 0, done.stderr

    umoci("init", "--layout", str(layout))
    umoci("new", "--image", f"{layout}:web")
    umoci("unpack", *rootless, "--image", f"{layout}:web", str(bundle))
    for item in root.iterdir():
        shutil.copytree(item, bundle / "rootfs" / item.name, symlinks=True)
    (bundle / "rootfs/etc/gone").write_text("gone\n")
    tree.own(bundle / "rootfs")
    umoci("repack", "--image", f"{layout}:web", str(bundle))
    (bundle / "rootfs/etc/gone").unlink()
    (bundle / "rootfs/etc/kept").write_text("kept\n")
    tree.own(bundle / "rootfs/etc")
    umoci("repack", "--refresh-bundle", "--image", f"{layout}:web", str(bundle))
    script = "trap 'echo quit; exit' QUIT; cat /etc/kept; test ! -e /etc/gone && echo gone; while :; do sleep 0.1; done"
    umoci("config", "--image", f"{layout}:web", "--config.entrypoint", "/bin/sh", "--config.cmd", "-c", "--config.cmd", script, "--config.stopsignal", "SIGQUIT", "--config.env", "A=b")
    first = tree.ljsv("image", "build", str(layout), "-t", "web:1").stdout
    done = tree.run("skopeo", "copy", f"oci:{layout}:web", f"docker-archive:{tree.home}/web.tar:web:latest", "--insecure-policy")
    if done.returncode == 0:
        assert tree.ljsv("image", "build", f"{tree.home}/web.tar", "-t", "web:2").stdout.split("sha256:")[1] == first.split("sha256:")[1]
    tree.ljsv("new", "web", "--image", "web:1")
    tree.ljsv("up", "web", "-w", "30")
    wait_for(lambda: "kept" in tree.log("web") and "gone" in tree.log("web"), "its words")
    tree.ljsv("down", "web")
    assert "quit" in tree.log("web")


def test_what_is_exported_is_accepted(tree: Tree) -> None:
    """By skopeo (inspect), umoci (unpack) and crun (run); and it comes back as the image that it was."""
    need("umoci", "skopeo", "crun", "busybox")
    root = small_root(tree)
    tree.ljsv("image", "build", str(root), "-t", "root:1")
    path = context(tree, "context", 'FROM root:1\nENV A=b\nLABEL x=y\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK --interval=3s CMD true\nWORKDIR /srv\nCMD ["/bin/sh", "-c", "echo $A in $PWD"]\n')
    first = tree.ljsv("image", "build", str(path), "-t", "web:1").stdout.split("sha256:")[1]
    layout, bundle = tree.home / "layout", tree.home / "bundle"
    tree.ljsv("image", "export", "web:1", "--format", "oci", "-o", str(layout))
    seen = json.loads(tree.run("skopeo", "inspect", f"oci:{layout}:1").stdout)
    assert seen["Labels"] == {"x": "y"} and seen["Env"] == ["A=b"]
    done = tree.run("umoci", "unpack", *(["--rootless"] if tree.uid else []), "--image", f"{layout}:1", str(bundle))
    assert done.returncode == 0, done.stderr
    config = json.loads((bundle / "config.json").read_text())
    assert config["process"]["args"] == ["/bin/sh", "-c", "echo $A in $PWD"]
    if tree.uid == 0:
        assert crun(tree, bundle, config) == "b in /srv\n"
    assert tree.ljsv("image", "import", str(layout), "-t", "web:2").stdout.split("sha256:")[1] != ""
    back = json.loads(tree.ljsv("image", "inspect", "--json", "web:2").stdout)
    assert back["defaults"] == json.loads(tree.ljsv("image", "inspect", "--json", "web:1").stdout)["defaults"]
    assert tree.ljsv("image", "inspect", "--files", "web:2").stdout == tree.ljsv("image", "inspect", "--files", "web:1").stdout
    assert first


# It refuses a machine with both versions of control groups: in a mount namespace of its own it sees only the second.
CRUN = "umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled --root {state} run --bundle {bundle} ljsv-test"


def crun(tree: Tree, bundle: Path, config: dict[str, object]) -> str:
    """What the bundle's program says, without limits, a terminal and seccomp, which are not what is tried."""
    process, linux, mounts = config["process"], config["linux"], config["mounts"]
    assert isinstance(process, dict)
    assert isinstance(linux, dict)
    assert isinstance(mounts, list)
    process["terminal"] = False
    linux.pop("seccomp", None)
    linux["namespaces"] = [item for item in linux["namespaces"] if item["type"] in {"pid", "mount", "ipc", "uts"}]
    linux.pop("resources", None)
    config["mounts"] = [item for item in mounts if item["type"] not in {"cgroup", "cgroup2", "sysfs"}]
    (bundle / "config.json").write_text(json.dumps(config))
    done = tree.run("unshare", "--mount", "--propagation", "private", "sh", "-c", CRUN.format(state=tree.home / "crun", bundle=bundle))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["busybox"])
def test_a_busybox_root(tree: Tree, name: str) -> None:
    """A mini root as tar.gz, the original's own example, into a file; as a service's rootfs it needs no more than a run."""
    need("busybox")
    tree.open_fuse()
    root = small_root(tree)
    archive = tree.home / f"{name}-minirootfs.tar.gz"
    subprocess.run(["tar", "-C", str(root), "-czf", str(archive), "--owner=0", "--group=0", "."], check=True)
    image = tree.home / f"{name}.squashfs"
    tree.ljsv("image", "build", str(archive), "-o", str(image))
    port = free_port()
    tree.ljsv("scan", "--daemon")
    tree.add("web", f"exec /bin/busybox httpd -f -p 127.0.0.1:{port} -h /etc", rootfs=f'base = "{image}"')
    wait_for(lambda: ask(port, b"GET /passwd HTTP/1.0\r\n\r\n"), "an answer")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=10) as page:
        assert b"web:x:33" in page.read()

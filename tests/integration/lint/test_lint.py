"""`ljsv lint`: what would fail at a start, found before it, with nothing started and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tree, need
from tests.integration.roots import make_image, require_image_mount, small_root

HOST = 'base = "host"'


def levels(done: Any) -> dict[str, list[str]]:
    """The texts of each level of a `lint --json` of one service."""
    (report,) = json.loads(done.stdout)
    found: dict[str, list[str]] = {"fault": [], "warning": [], "note": []}
    for finding in report["findings"]:
        found[finding["level"]].append(finding["text"])
    assert report["ok"] is (not found["fault"])
    return found


def lint(tree: Tree, name: str, *, code: int) -> dict[str, list[str]]:
    return levels(tree.ljsv("lint", name, "--json", code=code))


# (the first lines of run, the fault, the hint)
SCRIPTS = {
    "no such interpreter": ("#!/no/such/shell\n", "the jail has no /no/such/shell", "which the rootfs must have"),
    "byte order mark": ("\N{BYTE ORDER MARK}#!/bin/sh\n", "begins with a byte order mark", "sed -i"),
    "CR LF": ("#!/bin/sh\r\nexec sleep 1\r\n", "its first line ends in CR LF", "sed -i 's/\\r$//'"),
    "no first line": ("exec sleep 1000\n", "neither a program nor a script", "#!/bin/sh"),
    "a blank before it": (" #!/bin/sh\n", "the #! is not at its very beginning", "before #!"),
    "empty": ("", "it is empty", "#!/bin/sh"),
    "no interpreter": ("#!\n", "names no interpreter", "#!/bin/sh"),
    "relative": ("#!sh\n", "does not look in PATH", "#!/usr/bin/env sh"),
    "env without the program": ("#!/usr/bin/env no-such-program\n", "the jail has no no-such-program in its PATH", "env look for"),
    "env with two words": ("#!/usr/bin/env sh -e\n", "the kernel passes one argument", "#!/usr/bin/env -S sh -e"),
    "env -S": ("#!/usr/bin/env -S A=1 no-such-program -x\n", "the jail has no no-such-program", "env look for"),
    "not executable": ("#!/etc/passwd\n", "/etc/passwd is not executable", "name a program in the first line"),
    "a directory": ("#!/usr/bin\n", "/usr/bin is not a file", "see what"),
    "not shown by the host base": ("#!/etc/shadow\n", "the jail has no /etc/shadow", "rootfs must have"),
    "too long": ("#!/" + "a" * 300 + "\n", "longer than 255 bytes", "shorten"),
}


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("name", ["run", "finish", "check", "control/t"])
def test_how_a_script_would_be_executed(tree: Tree, kind: str, name: str) -> None:
    """run, finish, check and control/*: the first line, and all that it leads to, as the jail would find it."""
    text, fault, hint = SCRIPTS[kind]
    path = tree.write("web")
    target = path / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    target.chmod(0o755)
    tree.own(path)
    path.rename(tree.sv / "web")
    done = tree.ljsv("lint", "web", code=1)
    assert f"FAIL  web: {tree.sv}/web/{name}: " in done.stdout and fault in done.stdout, done.stdout
    assert hint in done.stdout


def test_a_clean_service(tree: Tree) -> None:
    """`ok    web`, exit 0, and nothing else; nothing was made."""
    path = tree.add("web", "#!/usr/bin/env -S sh -e\nexec /bin/sleep 1000", HOST, finish="#!/bin/sh\n", policy='[ready]\nby = "start"\n', env__PORT="8080\n")
    before = sorted(path.rglob("*"))
    assert tree.ljsv("lint").stdout == "ok    web\n"
    assert sorted(path.rglob("*")) == before
    assert json.loads(tree.ljsv("lint", "--json").stdout) == [{"name": "web", "directory": str(path), "ok": True, "findings": []}]
    assert tree.ljsv("lint", "web", str(path)).stdout == "ok    web\n" * 2


def test_scripts_that_may_not_be_executed(tree: Tree) -> None:
    """check without x is no check that always succeeds; a script beside that is none of ours is not looked at."""
    tree.add("web", check="exit 0\n", control__t="#!/bin/sh\n", control__z="#!/bin/sh\n", data__run="no script\n")
    (tree.sv / "web/control/t").chmod(0o644)
    found = lint(tree, "web", code=1)
    assert any("web/check: it is not executable (mode 0644)" in text for text in found["fault"])
    assert any("web/control/t: it is not executable" in text for text in found["fault"])
    assert any("no control byte is called z" in text for text in found["warning"])
    assert not any("data" in text for texts in found.values() for text in texts)


def test_a_check_that_is_asked_for(tree: Tree) -> None:
    """ready.by = "check" needs one."""
    tree.add("web", policy='[ready]\nby = "check"\n')
    assert any("there is no check" in text for text in lint(tree, "web", code=1)["fault"])


def test_everything_is_told_at_once(tree: Tree) -> None:
    """Not only the first file that is wrong."""
    tree.add("web", rootfs="x = 1", policy="y = 1\n", limits="memory = 512\n")
    faults = lint(tree, "web", code=1)["fault"]
    for text in ("unknown key x", "unknown key y", "memory: found 512"):
        assert sum(text in fault for fault in faults) == 1, faults


def test_inside_a_root_directory(tree: Tree) -> None:
    """Interpreters and users are looked up in the jail's root: symlinks lead nowhere else, binds are seen."""
    root = small_root(tree)
    (root / "bin/lost").symlink_to("/usr/bin/python3")
    (root / "bin/loop").symlink_to("loop")
    (root / "bin/up").symlink_to("../../../../../../bin/sh")
    tree.own(root)
    tree.add("good", "#!/bin/up\nexec sleep 1000", f'base = "{root}"\nuser = "web"')
    assert tree.ljsv("lint", "good").stdout == "ok    good\n"
    tree.add("lost", "#!/bin/lost\n", f'base = "{root}"')
    assert "the jail has no /bin/lost" in lint(tree, "lost", code=1)["fault"][0]
    tree.add("loop", "#!/bin/loop\n", f'base = "{root}"')
    assert any("/bin/loop: Too many levels" in text for text in lint(tree, "loop", code=0)["note"])
    tree.add("user", "#!/bin/sh\n", f'base = "{root}"\nuser = "nobody-here"')
    assert "the jail has no user nobody-here" in lint(tree, "user", code=1)["fault"][0]
    tools = tree.root / "tools"
    tools.mkdir()
    shutil.copy("/bin/busybox", tools / "interpreter")
    tree.own(tools)
    tree.add("bound", "#!/opt/tools/interpreter sh\n", f'base = "{root}"\n[[bind]]\nfrom = "{tools}"\nto = "/opt/tools"')
    assert tree.ljsv("lint", "bound").stdout == "ok    bound\n"
    tree.add("covered", "#!/bin/sh\n", f'base = "{root}"\n[[tmpfs]]\nat = "/bin"')
    assert "the jail has no /bin/sh" in lint(tree, "covered", code=1)["fault"][0]


def test_mount_points_that_cannot_be_made(tree: Tree) -> None:
    """A place that is missing in what is shown read-only, and only there."""
    shared = tree.root / "shared"
    (shared / "there").mkdir(parents=True)
    tree.own(shared)
    bind = f'[[bind]]\nfrom = "{shared}"\nto = '
    tree.add("host", rootfs=f'{HOST}\n{bind}"/usr/no-such-place"')
    (fault,) = lint(tree, "host", code=1)["fault"]
    assert "nothing can be mounted at /usr/no-such-place: /usr is read-only" in fault
    tree.add("nested", rootfs=f'base = "{small_root(tree)}"\n{bind}"/srv"\n{bind}"/srv/missing"')
    (fault,) = lint(tree, "nested", code=1)["fault"]
    assert "nothing can be mounted at /srv/missing: /srv is read-only" in fault
    tree.add("good", rootfs=f'{HOST}\n{bind}"/srv"\n{bind}"/srv/there"\n{bind}"/tmp/made"\n{bind}"/data/made"\n')
    assert tree.ljsv("lint", "good").stdout == "ok    good\n"
    tree.ljsv("up", "good")


def test_what_an_overlay_holds_counts(tree: Tree) -> None:
    """An interpreter that was installed into the overlay is found, one that was deleted there is not."""
    root, overlay = small_root(tree), tree.root / "overlay"
    (overlay / "upper/opt").mkdir(parents=True)
    (overlay / "upper/bin").mkdir()
    shutil.copy("/bin/busybox", overlay / "upper/opt/shell")
    tree.own(overlay)
    overlay.chmod(0o700)
    tree.add("web", "#!/opt/shell sh\n", f'base = "{root}"\nwritable = "overlay"\noverlay = "{overlay}"')
    assert tree.ljsv("lint", "web").stdout == "ok    web\n"
    if os.geteuid():
        return
    os.mknod(overlay / "upper/opt/gone", 0o20000, 0)
    (root / "opt").mkdir()
    shutil.copy("/bin/busybox", root / "opt/gone")
    tree.own(root)
    (tree.sv / "web/run").write_text("#!/opt/gone sh\n")
    assert "the jail has no /opt/gone" in lint(tree, "web", code=1)["fault"][0]


def test_a_program_whose_loader_is_missing(tree: Tree) -> None:
    """The well-known "No such file or directory" of a program that is there: its C library is not."""
    root = small_root(tree)
    shutil.copy("/usr/bin/true", root / "bin/dynamic")
    tree.own(root)
    tree.add("web", "#!/bin/dynamic\n", f'base = "{root}"')
    (fault,) = lint(tree, "web", code=1)["fault"]
    assert "/bin/dynamic wants /lib" in fault and "which the jail does not have" in fault
    path = tree.add("program", "", HOST)
    (path / "run").unlink()
    shutil.copy("/usr/bin/true", path / "run")
    tree.own(path)
    assert tree.ljsv("lint", "program").stdout == "ok    program\n"


def test_a_run_that_is_a_symlink(tree: Tree) -> None:
    """It is followed inside the jail: what it finds on the host does not count."""
    for name, target in (("good", "/usr/bin/true"), ("bad", str(tree.root / "program"))):
        shutil.copy("/usr/bin/true", tree.root / "program")
        path = tree.write(name)
        (path / "run").unlink()
        (path / "run").symlink_to(target)
        path.rename(tree.sv / name)
    assert tree.ljsv("lint", "good").stdout == "ok    good\n"
    assert "it leads to a file that the jail does not have" in lint(tree, "bad", code=1)["fault"][0]


def test_programs_that_a_shell_script_execs(tree: Tree) -> None:
    """A plain word behind exec that the jail does not have is a warning, with its line; what cannot be told is left alone."""
    tree.add("web", "echo hi\nexec /opt/no/such/program -x", HOST)
    (warning,) = lint(tree, "web", code=0)["warning"]
    assert "web/run: line 3 starts /opt/no/such/program" in warning
    tree.add("path", "exec no-such-program -x", HOST)
    (warning,) = lint(tree, "path", code=0)["warning"]
    assert "line 2 starts no-such-program, and the jail has no such program in its PATH" in warning
    tree.add("own", "exec ./bin/tool", HOST, bin__tool="#!/bin/sh\n")
    assert tree.ljsv("lint", "own").stdout == "ok    own\n"
    tree.add("unclear", 'exec 2>&1\nexec "$PROGRAM"\n[ -x /opt/x ] && exec /opt/x\nexec /var/lib/made/later\nexec sleep 1000', HOST)
    assert tree.ljsv("lint", "unclear").stdout == "ok    unclear\n"


def test_an_image_is_not_looked_into_and_that_is_said(tree: Tree) -> None:
    """Neither a fault nor silence."""
    image = make_image(tree)
    tree.open_fuse()
    if tree.uid:
        need("squashfuse_ll")
    tree.add("web", "#!/no/such/shell\n", f'base = "{image}"\nuser = "nobody-here"')
    found = lint(tree, "web", code=0)
    assert any("the image was not looked into" in text for text in found["note"])


def test_an_image_of_a_service_that_runs_is_looked_into(tree: Tree) -> None:
    """It is mounted in the jail: what a changed run would find there is known."""
    image = make_image(tree)
    require_image_mount(tree)
    tree.ljsv("scan", "--daemon")
    path = tree.add("web", "#!/bin/sh\nexec /bin/sleep 1000\n", f'base = "{image}"\nuser = "web"')
    tree.wait_state("web", "ready")
    assert tree.ljsv("lint", "web").stdout == "ok    web\n"
    (path / "run").write_text("#!/usr/bin/python3\n")
    assert any("the jail has no /usr/bin/python3" in text for text in lint(tree, "web", code=1)["fault"])
    (path / "rootfs").write_text(f'base = "{image}"\nuser = "nobody-here"\n')
    assert any("the jail has no user nobody-here" in text for text in lint(tree, "web", code=1)["fault"])
    assert tree.state("web") == "ready"


def test_needs(tree: Tree) -> None:
    """Names that nobody has, with a guess, and circles with their way, in each service that is part of one."""
    tree.add("web", policy='needs = ["cachee", "cache"]\n')
    tree.add("db", policy='needs = ["web"]\n')
    tree.add("cache", policy='needs = ["db"]\n')
    tree.add("self", policy='needs = ["self"]\n')
    tree.add("beside", policy='needs = ["web", "off"]\n')
    tree.add("off", down="")
    done = tree.ljsv("lint", code=1)
    for line in (
        f"FAIL  web: {tree.sv}/web/policy: needs cachee, and there is no such service\n      hint: did you mean cache?",
        "needs run in a circle: web -> cache -> db -> web",
        "needs run in a circle: db -> web -> cache -> db",
        "needs run in a circle: self -> self",
        "warn  beside: ", "needs web, which waits for itself: web -> cache -> db -> web", "needs off, which does not start by itself",
    ):
        assert line in done.stdout, done.stdout
    assert "ok    beside" in done.stdout and "ok    off" in done.stdout


@pytest.mark.parametrize(
    ("rootfs", "level", "told"),
    [
        ('capabilities = ["SYS_TIME"]', "warning", "SYS_TIME has no effect in a jail"),
        ('capabilities = ["NET_RAW"]', "warning", 'NET_RAW has no effect with network = "host"'),
        ('capabilities = ["-NET_RAW"]', "note", "it is not in the default set"),
        ('capabilities = ["SYS_PTRACE"]', "", ""),
        ('capabilities = ["-CHOWN"]', "", ""),
    ],
)
def test_capabilities_without_effect(tree: Tree, rootfs: str, level: str, told: str) -> None:
    """What is asked for in vain is said; what works is not."""
    tree.add("web", rootfs=f"{HOST}\n[security]\n{rootfs}")
    found = lint(tree, "web", code=0)
    assert all(bool(texts) is (name == level) for name, texts in found.items()), found
    if level:
        assert told in found[level][0]


def test_low_ports_and_the_capability_for_them(tree: Tree) -> None:
    """NET_BIND_SERVICE and ports below the host's limit are told with network = "host", and not with one of its own."""
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if start <= 443:
        pytest.skip(f"everybody may bind low ports here: net.ipv4.ip_unprivileged_port_start is {start}")
    security = '\n[security]\ncapabilities = ["NET_BIND_SERVICE"]'
    tree.add("host", "exec /usr/bin/env true --port 443", HOST + security, env__PORT="80\n", env__OTHER="80\n")
    warnings = lint(tree, "host", code=0)["warning"]
    assert len(warnings) == 3, warnings
    assert "NET_BIND_SERVICE has no effect" in warnings[0]
    assert "env/PORT: port 80 cannot be bound" in warnings[1] and "run: port 443" in warnings[2]
    done = tree.ljsv("lint", "host")
    assert "net.ipv4.ip_unprivileged_port_start=80" in done.stdout
    tree.add("own", "exec /usr/bin/env true --port 443", f'{HOST}\nnetwork = "none"{security}', env__PORT="80\n")
    assert tree.ljsv("lint", "own").stdout == "ok    own\n"


def test_capabilities_of_another_user_than_root(tree: Tree) -> None:
    """Only the jail's root has any."""
    tree.add("web", rootfs=f'{HOST}\nuser = "1000"\n[security]\ncapabilities = ["SYS_PTRACE"]')
    assert "only the jail's root has capabilities" in lint(tree, "web", code=0)["warning"][0]


LEFTOVERS = {
    "run~": "beside run it is a leftover", "run.sh": "beside run it is a leftover", ".run.swp": "beside run it is a leftover",
    "#run#": "beside run it is a leftover", "rootfs.bak": "beside rootfs it is a leftover", "policy.toml": "the name is policy",
    "finsh": "the name is finish", "Limits": "the name is limits", "rootfs.toml": "rootfs itself is the text", "finish.sh": "the name is finish",
}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_leftovers_and_slips(tree: Tree, name: str) -> None:
    """What looks like one of ours and is not used; a service's own files are nobody's business."""
    tree.add("web", **{name: "", "www__index.html": "", "README": "", "config.toml": "", "server.py": "", "data__run~": ""})
    (warning,) = lint(tree, "web", code=0)["warning"]
    assert f"web/{name}: not used: " in warning and LEFTOVERS[name] in warning


def test_a_log_service(tree: Tree) -> None:
    """log/run in its own jail: with the host's directories, or log/rootfs; a log/ without run is a leftover."""
    root = small_root(tree)
    tree.add("good", log__run="#!/bin/sh\nexec cat\n", rootfs=f'base = "{root}"')
    assert "FAIL" not in tree.ljsv("lint", "good").stdout
    path = tree.add("bad", log__run="#!/no/such/logger\n")
    assert any("bad/log/run: the jail has no /no/such/logger" in text for text in lint(tree, "bad", code=1)["fault"])
    (path / "log/run").write_text("#!/usr/bin/python3\n")
    (path / "log/rootfs").write_text(f'base = "{root}"\n')
    assert any("the jail has no /usr/bin/python3" in text for text in lint(tree, "bad", code=1)["fault"])
    (path / "log/rootfs").unlink()
    (path / "log/run").write_text("#!/bin/sh\n")
    for name in ("policy", "limits"):
        (path / f"log/{name}").write_text("x = 1\n")
        assert any(f"log/{name}" in text for text in lint(tree, "bad", code=1)["fault"])
        (path / f"log/{name}").unlink()
    (path / "log/run").unlink()
    assert any("there is no run in it" in text for text in lint(tree, "bad", code=0)["warning"])


def test_a_directory_anywhere(tree: Tree) -> None:
    """`lint ./web` of a directory that no scanner knows; of one that holds services, all of them; of none, 4."""
    tree.write("web", policy='needs = ["db", "beside"]\n')
    tree.write("beside", "#!/no/such/shell\n")
    found = levels(tree.ljsv("lint", "staging/web", "--json"))
    assert any("needs db, which is not beside it" in text for text in found["note"]) and not any("beside," in text for text in found["note"])
    done = tree.ljsv("lint", "./staging", code=1)
    assert "FAIL  beside: " in done.stdout and "web/policy: needs db, and there is no such service" in done.stdout
    assert "ok    web" in tree.run("ljsv", "lint", ".", cwd=tree.staging / "web").stdout
    assert "no such service directory" in tree.ljsv("lint", "./nosuch", code=4).stderr
    assert "no such service" in tree.ljsv("lint", "nosuch", code=4).stderr
    (tree.staging / "empty").mkdir()
    assert "there is no run script" in tree.ljsv("lint", "./staging/empty", code=1).stdout


def test_another_users_directory_as_far_as_readable(tree: Tree) -> None:
    """Nothing that only its owner may do or read is held against it."""
    if os.geteuid() or not tree.uid:
        pytest.skip("needs two users, so root")
    path = tree.write("web", policy="[restart]\n", rootfs=f'{HOST}\nids = "range"')
    for item in (path, *path.rglob("*")):
        os.chown(item, 0, 0)
    assert "FAIL" not in tree.ljsv("lint", "staging/web").stdout
    (path / "policy").chmod(0o600)
    done = tree.ljsv("lint", "staging/web")
    assert f"note  web: not looked into: {path}/policy: Permission denied" in done.stdout and "FAIL" not in done.stdout
    path.chmod(0o700)
    assert "cannot open" in tree.ljsv("lint", "staging/web", code=None).stdout


def test_modes_that_the_ids_of_the_jail_cannot_use(tree: Tree) -> None:
    """As root the service directory belongs to others: a run that only its owner may execute would not start."""
    if tree.uid:
        pytest.skip("unprivileged, the jail's id is the owner's: needs root")
    path = tree.add("web")
    (path / "run").chmod(0o700)
    (fault,) = lint(tree, "web", code=1)["fault"]
    assert "the jail's ids may not read and execute it (mode 0700)" in fault
    (path / "run").chmod(0o755)
    path.chmod(0o700)
    (fault,) = lint(tree, "web", code=1)["fault"]
    assert f"{path}: the jail's ids may not enter and read it (mode 0700)" in fault


def test_a_watchdog_that_hears_nothing(tree: Tree) -> None:
    """Without by = "notify" there is nobody to feed it: it does nothing, which is said."""
    tree.add("web", policy='[ready]\nby = "fd"\nwatchdog = "5s"\n')
    assert any("ready.watchdog has no effect" in text for text in lint(tree, "web", code=0)["warning"])


def test_the_scan_directory_by_its_name(tree: Tree) -> None:
    """`ljsv lint sv` in a checkout is no service of that name; one that has it counts first."""
    tree.add("web")
    assert "ok    web" in tree.run("ljsv", "lint", "sv", cwd=tree.root).stdout
    tree.add("sv", policy="x = 1\n")
    assert "FAIL  sv" in tree.run("ljsv", "lint", "sv", cwd=tree.root).stdout


def test_root_says_what_it_would_refuse(tree: Tree) -> None:
    """A directory in root's scan directory that others may write is a fault."""
    if tree.uid:
        pytest.skip("about root's trust")
    tree.add("web").chmod(0o777)
    assert any("root will not run this service directory" in text for text in lint(tree, "web", code=1)["fault"])


def test_strange_files_are_not_waited_for(tree: Tree) -> None:
    """FIFOs and devices in place of files: told, at once."""
    path = tree.add("web")
    for name in ("check", "log", "control"):
        os.mkfifo(path / name)
    os.mkfifo(path / "policy")
    tree.own(path)
    faults = lint(tree, "web", code=1)["fault"]
    assert any("policy: not a regular file" in text for text in faults)
    (path / "policy").unlink()
    found = lint(tree, "web", code=1)
    assert any("/run/service/check is not a file" in fault for fault in found["fault"]), found
    for name in ("log", "control"):  # the service starts all the same
        assert any(f"web/{name}: not used: it is not a directory" in text for text in found["warning"]), found


def test_a_hint_is_what_a_shell_takes(tree: Tree) -> None:
    """A path with a space and a quote in it: the hint is pasted, and the fault is gone."""
    folder = tree.root / "it's here"
    folder.mkdir()
    path = tree.write("a").rename(folder / "a")
    (path / "run").chmod(0o644)
    tree.own(folder)
    done = tree.run("ljsv", "lint", str(path))
    assert done.returncode == 1
    text = done.stdout + done.stderr
    hint = next(line for line in text.splitlines() if "chmod +x" in line)
    assert tree.run("sh", "-c", hint[hint.index("chmod"):]).returncode == 0
    assert os.access(path / "run", os.X_OK)

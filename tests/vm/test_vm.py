"""Stories on Debian's own kernel, in a virtual machine; and first, that the machine itself can be believed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import is_alive, wait_for
from tests.vm import image
from tests.vm.machine import PYTEST, MachineError, run

# Emulated, a story takes ten to fifty times as long as here: always those that the kernel matters to, and all of them with --long.
FOLDERS = [f"tests/integration/{name}" for name in ("jail", "image", "overlay", "enter", "escape")]
GUEST = "tests/vm/guest/test_"
STORIES = (
    f"-m kernel {' '.join(FOLDERS)}",
    f"{GUEST}limits.py {GUEST}machine.py {GUEST}shown.py {GUEST}templates.py {GUEST}systemd.py::test_unit_of_the_machine",
)
LONG_STORIES = (*FOLDERS, "tests/integration/ljexec", f"{GUEST}systemd.py {GUEST}openrc.py {GUEST}inittab.py")
TWICE = '"$0" "$@"; status=$?; [ $status = 1 ] || exit $status; exec "$0" "$@" --last-failed'  # as .ci/run does: what only wanted for a processor
STORY_TIMEOUT_S = 3600
SHORT_TIMEOUT_S = 300

FAILING_STORY = """
def test_arithmetic():
    assert 6 * 7 == 41, "the answer"
"""


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    missing = image.find_missing()
    if missing:
        pytest.skip(f"the virtual machine needs {', '.join(missing)}")
    image.get_image()


def test_machine_is_debian_with_a_plain_init() -> None:
    """Kernel 6.1, PID 1 is our parent, we are root, loopback is up, the rest is mounted, and users may use fuse and tun."""
    script = """
        uname -r; echo parent $PPID; id -u
        tr '\\0' ' ' < /proc/1/cmdline; echo
        grep -E ' / | /sys/fs/cgroup ' /proc/mounts
        cat /sys/class/net/lo/flags
        stat -c '%a %n' /dev/fuse /dev/net/tun /usr/bin/newuidmap /tmp /dev/shm
        grep -h tester /etc/subuid /etc/subgid; grep -c 61234 /etc/passwd
        test -f pyproject.toml && test -w . && echo sources
    """
    status, output = run("sh", "-c", script, timeout_s=SHORT_TIMEOUT_S)
    lines = output.splitlines()
    assert status == 0, output
    assert lines[0].startswith("6.1.") and lines[0].endswith("-cloud-amd64")
    assert lines[1:3] == ["parent 1", "0"]
    assert "guest_init.py" in lines[3]
    assert lines[4].startswith("/dev/vda / ext4 rw")
    assert "nsdelegate" in lines[5] and "memory_recursiveprot" in lines[5]
    assert lines[6] == "0x9"
    assert lines[7:12] == ["666 /dev/fuse", "666 /dev/net/tun", "4755 /usr/bin/newuidmap", "1777 /tmp", "1777 /dev/shm"]
    assert lines[12:] == ["tester:100000:65536", "tester:100000:65536", "0", "sources"]


def test_failing_story_fails_here_and_tells_why() -> None:
    """pytest's own exit status and report, also when a lot is written."""
    script = f"printf %s '{FAILING_STORY}' > /tmp/test_story.py; seq 200000; exec {' '.join(PYTEST)} -c /dev/null /tmp/test_story.py"
    status, output = run("sh", "-c", script, timeout_s=SHORT_TIMEOUT_S)
    assert status == 1, output
    lines = output.splitlines()
    assert lines[:200_000] == [str(number) for number in range(1, 200_001)]
    assert "the answer" in output and "1 failed" in lines[-1]


def test_end_by_a_signal_and_a_program_that_is_not_there() -> None:
    """A negative status for a signal; 127, with the name, for what cannot run."""
    assert run("sh", "-c", "kill -KILL $$", timeout_s=SHORT_TIMEOUT_S).status == -9
    assert run("no-such-program", timeout_s=SHORT_TIMEOUT_S) == (127, "no-such-program: No such file or directory\n")


def test_machine_that_hangs_is_ended() -> None:
    """What it had said is in the error, and no qemu is left."""
    with pytest.raises(MachineError, match="was killed after 45 s") as caught:
        run("sh", "-c", "echo begun; exec sleep 1000", timeout_s=45)
    assert "begun" in str(caught.value)
    assert not list_machines(os.getpid())


def test_machine_dies_with_who_started_it(tmp_path: Path) -> None:
    """KILL of the caller: no qemu is left."""
    argv = [sys.executable, "-m", "tests.vm", "--", "sh", "-c", "echo begun; exec sleep 1000"]
    with subprocess.Popen(argv, cwd=image.CHECKOUT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE) as caller:
        try:
            assert caller.stdout and caller.stdout.readline() == b"begun\n"
            (machine,) = list_machines(caller.pid)
        finally:
            caller.kill()
    wait_for(lambda: not is_alive(machine), "qemu to die")


def test_panic_is_told_with_the_log_of_the_kernel() -> None:
    """A machine that ends without an exit status is an error, not a pass."""
    with pytest.raises(MachineError, match=r"(?s)ended before.*Kernel panic"):
        run("sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000", timeout_s=SHORT_TIMEOUT_S)


def test_image_is_built_once_also_by_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed build left is removed; the second one waits, and builds and fetches nothing."""
    packages = list(image.CACHE.glob("*.deb"))
    for package in packages:
        (tmp_path / package.name).symlink_to(package)
    (tmp_path / "building/half").mkdir(parents=True)
    monkeypatch.setenv("LJSV_VM_CACHE", str(tmp_path))
    builders = [subprocess.Popen([sys.executable, "-m", "tests.vm.image"], cwd=image.CHECKOUT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (builder.communicate(timeout=image.COMMAND_TIMEOUT_S)[0] for builder in builders)
    assert first == second and all(Path(line).is_file() for line in first.splitlines())
    (built,) = tmp_path.glob("image-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([built.name, "lock", *(package.name for package in packages)])
    assert sorted(path.name for path in built.iterdir()) == ["contents", "disk", "initramfs", "kernel"]


@pytest.mark.parametrize("paths", STORIES)
def test_stories(paths: str) -> None:
    """What pytest chooses by these words, as it is: as root and as another user."""
    status, output = run("sh", "-c", TWICE, *PYTEST, *paths.split(), timeout_s=STORY_TIMEOUT_S)
    assert status == 0, output


@pytest.mark.parametrize("paths", LONG_STORIES)
def test_long_stories(paths: str, request: pytest.FixtureRequest) -> None:
    """The same, of those that take long."""
    if not request.config.getoption("--long"):
        pytest.skip("a quarter of an hour of emulation: only with --long")
    test_stories(paths)


def list_machines(parent: int) -> list[int]:
    """The pids of qemu's that this process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            command, _, rest = path.read_text().rpartition(")")
            if "(qemu-system" in command and rest.split()[1] == str(parent):
                found.append(int(path.parent.name))
    return found

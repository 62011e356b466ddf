"""Where runit waits for ever, ljsv has a timeout: every script that hangs is ended, and what waited for it goes on. (runit has nothing to compare here.)"""

from __future__ import annotations

import os

from tests.conftest import Tree, is_alive, wait_for
from tests.integration.contract.speaker import speaker

HANGS = "trap '' TERM\necho '{name}: hangs'\nwhile :; do sleep 1000; done\n"
AGAIN = '[restart]\nstable_after = "0s"\n'


def hangs(name: str) -> str:
    return "#!/bin/sh\n" + HANGS.format(name=name)


def write_control(tree: Tree, name: str, data: bytes) -> None:
    fd = os.open(tree.supervise(name) / "control", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, data)
    os.close(fd)


def says(tree: Tree, name: str, line: str, times: int = 1) -> None:
    wait_for(lambda: tree.log(name).split("\n").count(line) >= times, f"{name} to say {line!r} {times} times")


def test_finish_that_hangs_is_killed(scanning: Tree) -> None:
    """After `scripts.finish`; then the service starts again, or is down where that is wanted."""
    scanning.add("web", speaker(), finish=hangs("finish"), policy=AGAIN + '[scripts]\nfinish = "300ms"\n')
    says(scanning, "web", "run: started")
    scanning.kill("web")
    says(scanning, "web", "finish: hangs")
    says(scanning, "web", "run: started", 2)
    write_control(scanning, "web", b"d")
    says(scanning, "web", "finish: hangs", 2)
    scanning.wait_state("web", "down")


def test_run_that_ignores_term_is_killed(scanning: Tree) -> None:
    """After `stop.timeout`: `d` and `x` get there, where runsv waits for ever."""
    policy = AGAIN + '[stop]\ntimeout = "300ms"\n'
    for name, byte in (("one", b"d"), ("two", b"x")):
        scanning.add(name, speaker(is_deaf=True), policy=policy)
        says(scanning, name, "run: started")
        pid = scanning.pid(name)
        write_control(scanning, name, byte)
        says(scanning, name, "run: TERM")
        scanning.wait_state(name, "down")
        assert not is_alive(pid)
        assert scanning.detail(name)["end_text"] == "SIGKILL"
    wait_for(lambda: scanning.run("svok", str(scanning.sv / "two")).returncode == 100, "the supervisor of two to exit")


def test_control_script_that_hangs_is_killed_and_the_signal_is_sent(scanning: Tree) -> None:
    """After `scripts.control`; it has not said by exit 0 that it did the signal's work."""
    scanning.add("web", speaker(), policy=AGAIN + '[scripts]\ncontrol = "300ms"\n', control__h=hangs("control/h"), control__t=hangs("control/t"))
    says(scanning, "web", "run: started")
    write_control(scanning, "web", b"h")
    says(scanning, "web", "control/h: hangs")
    says(scanning, "web", "run: HUP")
    write_control(scanning, "web", b"t")
    says(scanning, "web", "control/t: hangs")
    says(scanning, "web", "run: started", 2)


def test_control_script_that_hangs_before_a_start_is_killed(scanning: Tree) -> None:
    """control/u has the same timeout, and its failure does not keep the service down."""
    scanning.add("web", speaker(), policy=AGAIN + '[scripts]\ncontrol = "300ms"\n', control__u=hangs("control/u"))
    says(scanning, "web", "control/u: hangs")
    says(scanning, "web", "run: started")


def test_commands_are_obeyed_while_a_control_script_runs(scanning: Tree) -> None:
    """The FIFO is read at all times; in runit everything waits for the script."""
    scanning.add("web", speaker(), policy=AGAIN + '[scripts]\ncontrol = "1000s"\n', control__h=hangs("control/h"))
    says(scanning, "web", "run: started")
    pid = scanning.pid("web")
    write_control(scanning, "web", b"h")
    says(scanning, "web", "control/h: hangs")
    write_control(scanning, "web", b"d")
    scanning.wait_state("web", "down")
    assert not is_alive(pid)
    assert "run: HUP" not in scanning.log("web")


def test_signals_that_wait_for_a_script_are_bounded_and_the_journal_says_so(scanning: Tree) -> None:
    """64 wait; that there are more is told once, and the service is still told to end."""
    scanning.add("web", speaker(), policy=AGAIN + '[scripts]\ncontrol = "1000s"\n', control__h=hangs("control/h"))
    says(scanning, "web", "run: started")
    write_control(scanning, "web", b"h")
    says(scanning, "web", "control/h: hangs")
    write_control(scanning, "web", b"1" * 80)
    wait_for(lambda: "too much" in scanning.events(), "the journal to say so")
    write_control(scanning, "web", b"d")
    scanning.wait_state("web", "down")
    assert scanning.events().count("too much") == 1


def test_check_that_hangs_is_killed_and_tried_again(scanning: Tree) -> None:
    """After `scripts.check` it counts as not ready; once there is one that succeeds, the service is ready."""
    policy = AGAIN + '[ready]\nby = "check"\ntimeout = "1000s"\n[scripts]\ncheck = "200ms"\n'
    path = scanning.add("web", speaker(), policy=policy, check=hangs("check"))
    says(scanning, "web", "run: started")
    wait_for(lambda: scanning.log("web").count("check: hangs") >= 2 or scanning.state("web") == "ready", "the second check")
    assert scanning.state("web") == "up"
    new = scanning.staging / "check"
    new.write_text("#!/bin/sh\nexit 0\n")
    new.chmod(0o755)
    os.chown(new, scanning.uid, scanning.uid)
    new.rename(path / "check")
    scanning.wait_state("web", "ready")

"""docs/tour.md, typed by a newcomer: each command, in the order of the page."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.conftest import Tree, wait_for

CHECKOUT = Path(__file__).parents[3]
TOUR = CHECKOUT / "docs/tour.md"
SERVICES = ("clock", "frail", "store", "api")


def commands(text: str) -> list[str]:
    """The lines of all blocks that are a shell's."""
    return [line for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text) for line in block.splitlines() if line.strip()]


def test_each_command_of_the_tour_works(tree: Tree) -> None:
    """None fails, none prints a traceback; what is said of the important ones holds."""
    said: dict[str, list[str]] = {}
    for command in commands(TOUR.read_text()):
        time.sleep(0.2)  # a reader is slower; a service that has just begun has written nothing yet
        done = tree.run("bash", "-e", "-o", "pipefail", "-c", command, env={"SVDIR": ""})
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr + done.stdout, command
        said.setdefault(command, []).append(done.stdout + done.stderr)
    assert "started a scanner for ./sv" in said["ljsv up clock"][0]
    assert "bad edit" in said["ljsv status clock"][1] or "unknown key nofiles" in said["ljsv status clock"][1]
    assert "exit code 1" in said['ljsv restart clock || echo "refused, with exit code $?"'][0]
    assert "no luck today" in said["ljsv why frail"][0] and "exit 3" in said["ljsv why frail"][0]
    before, after = said["ljsv status clock -o pid,supervisor_pid"]
    assert before.split()[0] == after.split()[0] and before.split()[1] != after.split()[1]
    assert "paused" in said["cat sv/clock/supervise/stat"][1]
    assert "did you mean clock" in said['ljsv up colck || echo "exit code $?"'][0]
    assert "ljsv top" in said['ljsv stats clock || echo "exit code $?"'][0]
    wait_for(lambda: not tree.processes(), "everything to be gone")
    assert [name for name in SERVICES if (tree.sv / name).exists()] == []


def test_each_page_that_is_linked_is_there() -> None:
    """Links between README and docs, with the headings that they name."""
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:\s]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name}: {target}"
        for target, heading in re.findall(r"\]\(([^)#:\s]*)#([^)]*)\)", page.read_text()):
            text = ((page.parent / target) if target else page).read_text()
            anchors = {re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
            assert heading in anchors, f"{page.name}: {target}#{heading}"

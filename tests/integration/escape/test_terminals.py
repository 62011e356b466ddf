"""The caller's terminal: a jail cannot type into it (TIOCSTI), whichever of its descriptors it was given."""

from __future__ import annotations

import pytest

from tests.conftest import Tree
from tests.integration.escape.jail import PYTHON, Jail
from tests.integration.terminals import Terminal

# Runs a command in the terminal, then says what can be read from it: what was typed, or pushed.
OUTER = """
import os, select, subprocess, sys, termios
print("began", flush=True)
subprocess.run(sys.argv[2], shell=True, check=False)
attributes = termios.tcgetattr(0)
attributes[3] &= ~termios.ICANON
termios.tcsetattr(0, termios.TCSANOW, attributes)
pushed = os.read(0, 100) if select.select([0], [], [], 0.3)[0] else b""
print("PUSHED", pushed, "END", flush=True)
print(open(sys.argv[1]).read() if os.path.exists(sys.argv[1]) else "")
print("DONE", flush=True)
"""


def pushed(jail: Jail, command: str) -> str:
    with Terminal(jail.tree, PYTHON, "-c", OUTER, str(jail.tree.root / "said"), command) as terminal:
        terminal.wait_for("DONE")
        return terminal.shown


@pytest.mark.parametrize("given", ["all", "input", "output"])
def test_nothing_is_typed_into_the_callers_terminal(jail: Jail, given: str) -> None:
    """With all three descriptors on it, and with only some of them: each is one of the jail's own."""
    pipes = {"all": "", "input": f" > {jail.tree.root}/said 2>&1", "output": " < /dev/null"}[given]
    command = f"ljexec --seccomp {jail.seccomp} --bind {jail.attacks}:/attacks -- {PYTHON} /attacks/terminals.py{pipes}"
    shown = pushed(jail, command)
    assert "PUSHED b'' END" in shown, shown
    assert "steal\t" in shown, shown
    if jail.seccomp == "default":
        assert not [line for line in shown.splitlines() if line.startswith(("push", "steal")) and "\tOK" in line], shown


def test_the_attack_is_sound(tree: Tree) -> None:
    """Outside a jail it types into the terminal, where the kernel lets anybody do that."""
    jail = Jail(tree, "off")
    try:
        with open("/proc/sys/dev/tty/legacy_tiocsti") as file:
            is_possible = file.read().strip() == "1"
    except FileNotFoundError:
        is_possible = True
    if not is_possible:
        pytest.skip("this kernel has no TIOCSTI: sysctl dev.tty.legacy_tiocsti is 0")
    assert "injected" in pushed(jail, f"{PYTHON} {jail.attacks}/terminals.py").partition("PUSHED")[2]


# In the jail: its terminal's key for SIGQUIT is one that a terminal answers with by itself (DA1: ESC [ c), as if it had been typed.
ASKS = """
import os, sys, termios, time
fd = os.open("/dev/tty", os.O_RDWR)
attributes = termios.tcgetattr(fd)
attributes[3] &= ~termios.ICANON
for key in (termios.VINTR, termios.VQUIT, termios.VSUSP):
    attributes[6][key] = b"c"
termios.tcsetattr(fd, termios.TCSANOW, attributes)
os.write(fd, b"ask" + b"ed")
time.sleep(0.5)
"""


def test_which_keys_are_for_the_callers_group(jail: Jail) -> None:
    """With its input a pipe, Ctrl-C goes to the whole pipe: a key that the jail has named, and the terminal answers with, does not."""
    command = f"echo data | ljexec --seccomp {jail.seccomp} -- {PYTHON} -c '{ASKS}'; echo 'goes' on; sleep 0.1; echo DONE"
    with Terminal(jail.tree, "/bin/sh", "-c", command) as terminal:
        terminal.wait_for("asked")
        terminal.type("\x1b[?62;22c")
        terminal.wait_for("DONE")
        assert "goes on" in terminal.shown


@pytest.mark.parametrize("seccomp", ["default", "off"])
def test_terminal_of_who_enters(scanning: Tree, seccomp: str) -> None:
    """`ljsv enter` with the terminal as input alone, and as all three."""
    jail = Jail(scanning, seccomp)
    scanning.add("web", "exec sleep 1000", f'base = "host"\n[[bind]]\nfrom = "{jail.attacks}"\nto = "/attacks"\n[security]\nseccomp = "{seccomp}"')
    scanning.wait_state("web", "ready")
    for pipes in ("", f" > {scanning.root}/said"):
        shown = pushed(jail, f"ljsv enter web {PYTHON} /attacks/terminals.py{pipes}")
        assert "PUSHED b'' END" in shown and "steal\t" in shown, shown

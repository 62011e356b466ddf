"""Manual pages and completions: made from what the code knows, complete, and without a complaint of mandoc.

A verb, option, key or variable that is new needs its meaning written down once, in the place that the failure names;
then `tools/make-resources` writes the files, which are committed.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ljsv.cli import ljexec, manual
from ljsv.cli.habits import HABITS
from ljsv.cli.main import ALIASES, GLOBAL_OPTIONS, VERBS
from ljsv.paths import SERVICE_FILES

CHECKOUT = Path(__file__).parents[2]
MAN = CHECKOUT / "ljsv/resources/man"
PAGES = ("ljsv.1", "ljexec.1", "ljsv-service.5", "ljsv-init.8")
ENVIRONMENT = re.compile(r"environ(?:\.get\(|\[| *\.setdefault\()\"([A-Z_]+)\"|\"([A-Z_]+)\" (?:not )?in os\.environ")
ELSEWHERE = {"TERM", "HOME", "SHELL", "PATH", "LOGNAME", "USER"}  # known from login(1)


def test_what_is_committed_is_what_the_code_says() -> None:
    """After a change of VERBS, OPTIONS, manual.py or the schema: run tools/make-resources and commit what it wrote."""
    done = subprocess.run([sys.executable, CHECKOUT / "tools/make-resources", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "help"])
def test_each_option_of_a_verb_has_its_meaning(verb: str) -> None:
    """In ljsv/cli/manual.py; it is what --help, the manual page and the completions say."""
    options = import_module(f"ljsv.cli.{VERBS[verb][0]}_verb").OPTIONS
    missing = [name for name in options if not manual.describe_option(verb, name)]
    assert not missing, f'add to OPTION_DOCS["{verb}"] in ljsv/cli/manual.py: {" ".join(missing)}'


def test_no_meaning_is_left_of_what_is_gone() -> None:
    """Each entry of OPTION_DOCS is of a verb and an option that are there."""
    for verb, docs in manual.OPTION_DOCS.items():
        assert verb in VERBS, f'take "{verb}" out of OPTION_DOCS in ljsv/cli/manual.py: there is no such verb'
        options = import_module(f"ljsv.cli.{VERBS[verb][0]}_verb").OPTIONS
        assert not set(docs) - {*options, *GLOBAL_OPTIONS}, f'take them out of OPTION_DOCS["{verb}"]: {set(docs) - set(options)}'


def test_the_options_of_every_verb_and_of_ljexec_have_their_meaning() -> None:
    """COMMON_DOCS and LJEXEC_DOCS in ljsv/cli/manual.py."""
    assert not [name for name in GLOBAL_OPTIONS if name not in manual.COMMON_DOCS]
    assert set(manual.LJEXEC_DOCS) == set(ljexec.OPTIONS), "LJEXEC_DOCS in ljsv/cli/manual.py and OPTIONS in ljsv/cli/ljexec.py differ"
    unsaid = [name for name in ljexec.OPTIONS if name not in ljexec.HELP and name not in {"-h", "--help", "--version"}]
    assert not unsaid, f"not in HELP of ljsv/cli/ljexec.py: {unsaid}"


def test_every_name_in_a_service_directory_has_its_meaning() -> None:
    """SERVICE_FILE_DOCS in ljsv/cli/manual.py."""
    assert set(manual.SERVICE_FILE_DOCS) == SERVICE_FILES


def test_every_variable_that_is_read_is_in_a_manual_page() -> None:
    """ENVIRONMENT in ljsv/cli/manual.py, or tools/manual."""
    pages = "".join((MAN / page).read_text() for page in PAGES)
    for path in (CHECKOUT / "ljsv").rglob("*.py"):
        for match in ENVIRONMENT.finditer(path.read_text()):
            name = match.group(1) or match.group(2)
            assert name in ELSEWHERE or f"Ev {name}\n" in pages, f"{name}, read by {path.relative_to(CHECKOUT)}: add it to ENVIRONMENT in ljsv/cli/manual.py"


def test_every_exit_code_is_in_the_manual() -> None:
    """EXITS and LJEXEC_EXITS in ljsv/cli/manual.py."""
    from ljsv import errors

    codes = {str(value) for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes <= {*manual.EXITS, *manual.LJEXEC_EXITS}


def test_every_verb_of_init_is_in_its_page() -> None:
    """ljsv-init(8) names what PID 1 and its commands are called: tools/manual/ljsv-init.8.in."""
    text = (MAN / "ljsv-init.8").read_text()
    for verb in ("init", "poweroff", "reboot", "halt"):
        if verb in VERBS:
            assert re.search(rf"\b{verb}\b", text), verb


def test_every_option_and_signal_of_init_is_in_its_page() -> None:
    """ljsv/init/settings.py and requests.py: tools/manual/ljsv-init.8.in."""
    from ljsv.init.requests import ON_A_MACHINE
    from ljsv.init.settings import OPTIONS

    text = (MAN / "ljsv-init.8").read_text()
    assert [name for name in OPTIONS if f"Fl {name[1:]}".replace("-", r"\-") not in text] == []
    known = {member.value: member.name.removeprefix("SIG") for member in signal.Signals if not member.name.startswith("SIGRT")}
    assert [name for number in ON_A_MACHINE if (name := known.get(number, str(number))) and not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_no_complaint(page: str) -> None:
    """mandoc -T lint -W warning."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", MAN / page], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_the_page_shows_what_is_asked_for() -> None:
    """Rendered by mandoc: no escape is left, and an option reads as it is typed."""
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    text = subprocess.run(["mandoc", "-T", "ascii", MAN / "ljsv.1"], capture_output=True, text=True, check=True).stdout
    text = re.sub(".\b", "", text)
    assert "--svdir DIR" in text and "-w SECONDS" in text and "\\" not in text
    for verb in VERBS:
        assert re.search(rf"(?m)^ +{verb}\b", text), verb


def test_habits_of_the_neighbours_are_no_verbs_and_lead_to_some() -> None:
    """Each leads to a verb that is there."""
    for word, hint in HABITS.items():
        assert word not in VERBS and word not in ALIASES, f"{word} is a verb by now: take it out of ljsv/cli/habits.py"
        program, verb, *_ = hint.split()
        assert program in {"ljexec", "mv"} or verb in VERBS or verb == "--version", hint


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_fits_its_terminal(verb: str) -> None:
    """And says all of its options."""
    from ljsv.cli.main import help_text, verb_help

    assert max(map(len, help_text().splitlines())) <= 80
    if verb == "help":
        return
    options = import_module(f"ljsv.cli.{VERBS[verb][0]}_verb").OPTIONS
    text = verb_help(verb, options)
    assert all(f"  {name}" in text for name in options) and VERBS[verb][2] in text

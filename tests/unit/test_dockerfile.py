"""What a Dockerfile may say, and what its words become."""

from __future__ import annotations

import pytest

from ljsv.errors import Fault
from ljsv.images.dockerfile import parse_dockerfile, parse_duration
from ljsv.images.expand import expand
from ljsv.images.ignore import Ignore

REFUSED = {
    "FROM scratch\nONBUILD RUN x\n": "Dockerfile:2: ONBUILD is not supported",
    "FROM scratch\nFOO x\n": "Dockerfile:2: FOO is not supported",
    "FROM scratch\nRUN --mount=type=cache,target=/x make\n": "Dockerfile:2: RUN --mount is not supported",
    "FROM scratch\n\nADD https://example.org/x /\n": "Dockerfile:3: ADD of a URL is not supported",
    "FROM scratch\nCOPY --parents a /\n": "Dockerfile:2: COPY --parents is not supported",
    "FROM --platform=linux/s390x scratch\n": "Dockerfile:1: FROM --platform is not supported",
    "FROM $NONE\n": "Dockerfile:1: FROM",
    "FROM scratch\nCOPY --from=later a /\nFROM scratch AS later\n": "Dockerfile:2: COPY --from: later",
    "FROM scratch\nCOPY --chmod=u+x a /\n": "Dockerfile:2: COPY --chmod: u+x",
    "FROM scratch\nSTOPSIGNAL SIGNOTHING\n": "Dockerfile:2: STOPSIGNAL: SIGNOTHING",
    "FROM scratch\nHEALTHCHECK --interval=often CMD x\n": "Dockerfile:2: HEALTHCHECK --interval: often",
    "FROM scratch\nENV A=${B/x/y}\n": "Dockerfile:2: ENV",
    "RUN x\n": "Dockerfile:1: RUN before FROM",
    "FROM scratch\nRUN <<EOF\nx\n": "not a Dockerfile: unterminated heredoc",
    "FROM scratch\nRUN a \\\n b\nENV A\nRUN c\nENV B=1\n": ":4: not a Dockerfile: ENV must have two arguments",
    "FROM scratch AS a\nFROM scratch AS a\n": "Dockerfile:2: two stages of one name: a",
    "ARG A\n": "there is no FROM",
    "ARG A=${B:?say}\nFROM scratch\n": "Dockerfile:1: ARG: A=${B:?say}: B: say",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_what_is_not_supported_is_refused_by_name_and_line(text: str, said: str) -> None:
    """With a hint."""
    with pytest.raises(Fault) as caught:
        parse_dockerfile(text, "Dockerfile", {})
    assert said in str(caught.value)
    assert caught.value.hint


def test_arguments_before_from_and_the_stages_names() -> None:
    """ARG before FROM is for FROM alone; a build argument comes before its default; a stage is found by name and by number."""
    text = "ARG A=1\nARG B=${A}-x\nFROM base:$B AS One\nRUN x\nFROM one\n"
    file = parse_dockerfile(text, "Dockerfile", {"A": "2"})
    assert [stage.base for stage in file.stages] == ["base:2-x", "one"]
    assert (file.find_stage("ONE", 1), file.find_stage("0", 1), file.find_stage("one", 0), file.find_stage("7", 2)) == (0, 0, -1, -1)
    assert file.stages[0].steps[0].line == 4


WORDS = {
    "plain": "plain", "$A": "one", "${A}b": "oneb", "'$A'": "$A", '"$A x"': "one x", "\\$A": "$A", "${N:-two}": "two", "${A:-two}": "one", "${A:+set}": "set",
    "${N:+set}": "", "${E-x}": "", "${E:-x}": "x", "${N-$A}": "one", "${P#*/}": "b/c", "${P##*/}": "c", "${P%/*}": "a/b", "${P%%/*}": "a", "$": "$", "a$ b": "a$ b",
    '"a\\"b"': 'a"b', "${N:-'a b'}": "a b",
}


@pytest.mark.parametrize(("text", "made"), WORDS.items())
def test_words(text: str, made: str) -> None:
    """As BuildKit's shell words have them."""
    assert expand(text, {"A": "one", "E": "", "P": "a/b/c"}) == made


@pytest.mark.parametrize("text", ["${A", "'open", '"open', "${A/x/y}", "${}", "${N:?must}"])
def test_words_that_are_none(text: str) -> None:
    """ValueError."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        expand(text, {"A": "one"})


def test_what_dockerignore_leaves_out() -> None:
    """The last rule that matches counts; ** is any number of directories; a directory stays where an exception names what is in it."""
    ignore = Ignore("# no\n*.log\n**/tmp\nnode_modules/\n/docs/*\n!docs/kept.md\n[a-c]?.x\n")
    left_out = ("x.log", "tmp", "a/b/tmp", "a/tmp/c", "node_modules/x", "docs/other", "b1.x")
    kept = ("a/x.log", "tmpx", "docs/kept.md", "docs", "d1.x", "b12.x")
    assert [path for path in left_out if not ignore.is_left_out(path, False)] == []
    assert [path for path in kept if ignore.is_left_out(path, False)] == []
    assert not Ignore("a\n!a/b/c").is_left_out("a", True)
    assert Ignore("a\n!b").is_left_out("a", True)


def test_durations() -> None:
    """Go's."""
    assert [parse_duration(text) for text in ("30s", "1m30s", "1.5h", "200ms")] == [30.0, 90.0, 5400.0, 0.2]
    for text in ("", "30", "1x", "s"):
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(text)

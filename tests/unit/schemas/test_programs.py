"""Program of a command in one line: as a shell would take it, and safe to show."""

import shlex

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec
from schemas.argv import PROGRAM_LEN, base_name, quoted
from schemas.programs import arguments_of, is_short, program_of, shortened
from schemas.texts import MARK, visible
from tests.unit.schemas.strategies import quick

ARGV = st.lists(st.text(max_size=40), min_size=1, max_size=12)


def raw(**args: object) -> msgspec.Raw:
    return msgspec.Raw(codec.encode(args))


@given(argv=ARGV)
@quick(200)
def test_line_gives_the_arguments_back_unless_it_is_cut(argv: list[str]) -> None:
    line = quoted(argv)
    assert len(line) <= PROGRAM_LEN
    assert line == visible(line), "safe to show"
    if visible(" ".join(argv)) == " ".join(argv) and not line.endswith(MARK):
        assert shlex.split(line) == argv


def test_line_quotes_and_spells_out() -> None:
    assert quoted(["sh", "-c", "echo $HOME"]) == "sh -c 'echo $HOME'"
    assert quoted(["echo", "a\nb\x1b[2J\u202e"]) == r"echo $'a\nb\e[2J\u202e'"
    assert quoted(["printf", "a\tb", "grün's"]) == """printf $'a\\tb' 'grün'"'"'s'"""
    assert quoted(["x" * 600]).endswith(MARK)
    assert quoted(["a", *["b" * 90] * 4000]).endswith(MARK)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/usr/bin/apt-get", "apt-get"), ("./run/", "run"), ("a\x07b", r"a\x07b"), ("/", "")],
)
def test_base_name(path: str, name: str) -> None:
    assert base_name([path, "-y"]) == name


def test_arguments_have_names_of_variables_and_no_values() -> None:
    found = arguments_of(
        "process", raw(argv=["ls"], env={"KEY": "secret", "A": "b"}, cwd="/tmp", stdin=b"four")
    )
    assert found is not None
    assert (found.argv, found.env, found.cwd, found.stdin_bytes) == (
        ["ls"],
        ["A", "KEY"],
        "/tmp",
        4,
    )
    assert b"secret" not in codec.encode(found)
    assert program_of("process", raw(argv=["cat"]), found) == "ls"


def test_other_actions_and_what_cannot_be_read_have_their_name() -> None:
    assert arguments_of("noop", raw()) is None
    assert arguments_of("process", raw(argv=1)) is None
    assert program_of("noop", raw(), None) == "noop"
    assert program_of("of-tomorrow", raw(), None) == "of-tomorrow"


def test_list_shows_a_short_form() -> None:
    found = arguments_of("process", raw(argv=["x" * 900] * 90, cwd="/" + "d" * 900))
    assert found is not None
    assert not is_short(found)
    short = shortened(found)
    assert is_short(short)
    assert (len(short.argv), len(short.argv[0])) == (16, 200)

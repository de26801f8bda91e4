"""Scripts: a value stays in one element of argv, and never becomes code or an option."""

import sys
from pathlib import Path

import pytest

from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.masking import Masker
from broker_agent.connectors.script import CONNECTOR, Parameter, Script, ScriptProfile, argv_of

ECHO = sys.executable
HOSTILE = (
    "; rm -rf /", "$(id)", "`id`", "| cat", "&& id", "|| id", "> /tmp/x", "< /etc/passwd", "$HOME",
    "${IFS}", "a b", "a\tb", "a\nb", "a\r\nb", "'", '"', "'; id; '", '"; id; "', "\\", "\\n", "*",
    "?", "[a-z]", "~", "~root", "!", "!!", "#", "# x", "%s", "%n", "{to}", "{{to}}", "{day}", "}",
    "{", "$", "$$", "$@", "$1", "&", "|", ";", "()", "(id)", "<(id)", ">(id)", "=", "a=b",
    "\x1b[0m",
    "\u202e", "\U0001f600", "ü", "\x7f", "\x01", " ", "  a  ", "/etc/passwd", "../..", "a" * 5000,
    "@file", "+x", "x--", ".", "..", "null", "None",
)  # fmt: skip


def script(*argv: str | list[str], **params: Parameter) -> Script:
    return Script(argv=list(argv), params=params)


def problems(made: Script) -> list[str]:
    return list(CONNECTOR.check(ScriptProfile(scripts={"it": made})))


@pytest.mark.parametrize("value", HOSTILE)
def test_connections_f14_value_stays_in_one_element(value: str) -> None:
    made = script(ECHO, "--day={day}", ["--to", "{to}"], "{to}", day=Parameter(), to=Parameter())
    argv = argv_of("it", made, {"day": value, "to": value})
    assert argv == [ECHO, f"--day={value}", "--to", value, value]


@pytest.mark.parametrize("value", ["-rf", "--force", "-", "--", "-x\n"])
def test_connections_f14_value_like_an_option_is_refused_unless_it_may_be(value: str) -> None:
    made = script(ECHO, "{to}", to=Parameter())
    with pytest.raises(CallFailed, match="begins with '-'") as caught:
        argv_of("it", made, {"to": value})
    assert (caught.value.code, caught.value.effect) == ("parameter_invalid", "none")
    assert argv_of("it", script(ECHO, "{to}", to=Parameter(dash=True)), {"to": value})[1] == value


def test_optional_list_goes_as_a_whole() -> None:
    made = script(ECHO, ["--to", "{to}"], "end", to=Parameter(optional=True))
    assert argv_of("it", made, {}) == [ECHO, "end"]
    assert argv_of("it", made, {"to": "x"}) == [ECHO, "--to", "x", "end"]


def test_braces_are_written_twice() -> None:
    made = script(ECHO, "{{{day}}}", day=Parameter())
    assert argv_of("it", made, {"day": "1"}) == [ECHO, "{1}"]
    assert any("single brace" in each for each in problems(script(ECHO, "a{", "b}")))


@pytest.mark.parametrize(
    ("parameter", "value", "why"),
    [
        (Parameter(), None, "needed"),
        (Parameter(), "a\0b", "NUL"),
        (Parameter(), [1], "neither text"),
        (Parameter(), True, "neither text"),
        (Parameter(pattern="[a-z]+"), "a1", "does not match"),
        (Parameter(pattern="[a-z]+"), "a\n", "does not match"),
        (Parameter(choices=["a", "b"]), "c", "none of a, b"),
        (Parameter(type="integer"), "1.5", "no integer"),
        (Parameter(type="integer"), "1e3", "no integer"),
        (Parameter(type="integer"), " 1", "no integer"),
        (Parameter(type="integer", least=1), 0, "less than 1"),
        (Parameter(type="number", most=2), 2.5, "more than 2"),
        (Parameter(type="number"), "nan", "no number"),
        (Parameter(type="number"), "inf", "no number"),
    ],
)
def test_value_that_does_not_fit_is_refused(parameter: Parameter, value: object, why: str) -> None:
    with pytest.raises(CallFailed, match=why) as caught:
        argv_of("it", script(ECHO, "{day}", day=parameter), {"day": value})
    assert caught.value.code == "parameter_invalid"


def test_unknown_parameter_is_named_with_those_there_are() -> None:
    with pytest.raises(CallFailed, match=r"params\.dya: there is no such parameter; there are day"):
        argv_of("it", script(ECHO, "{day}", day=Parameter()), {"dya": "1"})


@pytest.mark.parametrize(
    "argv",
    [
        ("/bin/sh", "-c", "echo {day}"),
        ("/bin/bash", "-ec", "echo {day}"),
        ("/bin/bash", "-x", "-c", "echo '{day}'"),
        ("/usr/bin/env", "sh", "-c", "{day}"),
        ("/usr/bin/sudo", "-u", "x", "/bin/dash", "-c", "{day}"),
        ("/usr/bin/python3", "-c", "print('{day}')"),
        ("/usr/bin/perl", "-e", "{day}"),
        ("/usr/bin/node", "--eval", "{day}"),
    ],
)
def test_connections_f14_hole_in_code_is_a_problem_at_check(argv: tuple[str, ...]) -> None:
    found = problems(script(*argv, day=Parameter()))
    assert any("is code of" in each for each in found), found


def test_value_behind_code_is_no_problem() -> None:
    made = script("/bin/sh", "-c", 'echo "$1"', "sh", "{day}", day=Parameter())
    assert problems(made) == []


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (script("copy"), "absolute path"),
        (script("/no/such/program"), "no program"),
        (script(ECHO, "{x}"), "params lacks"),
        (script(ECHO, x=Parameter()), "does not use"),
        (script(ECHO, "{x}", x=Parameter(pattern="[")), "pattern"),
        (script(ECHO, "{x}", x=Parameter(default="-x")), "default"),
        (Script(argv=[ECHO], env={"A B": "1"}), "no name of a variable"),
    ],
)
def test_script_that_cannot_work_is_told_at_check(made: Script, why: str) -> None:
    found = problems(made)
    assert any(why in each for each in found), found


def test_mask_finds_a_secret_that_is_split_anywhere() -> None:
    text = b"before hunter22 between hunter22hunter22 after"
    for size in range(1, len(text)):
        masker = Masker([b"hunter22", b"hunter"])
        parts = [masker.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert b"".join([*parts, masker.finish()]) == b"before *** between ****** after"


def test_example_of_the_design_renders(tmp_path: Path) -> None:
    program = tmp_path / "copy"
    program.touch()
    made = script(
        str(program),
        "--day={day}",
        ["--to", "{to}"],
        day=Parameter(pattern=r"\d{4}-\d{2}-\d{2}"),
        to=Parameter(optional=True),
    )
    assert problems(made) == []
    assert argv_of("copy", made, {"day": "2026-11-28"}) == [str(program), "--day=2026-11-28"]


def test_sec_s43_pattern_that_takes_years_is_given_up() -> None:
    """The agent compares values itself, and its heartbeats wait meanwhile."""
    made = script(ECHO, "{to}", to=Parameter(pattern=r"([a-z0-9]+-?)+"))
    with pytest.raises(CallFailed, match="too long") as caught:
        argv_of("it", made, {"to": f"{'a' * 26}!"})
    assert (caught.value.code, caught.value.effect) == ("parameter_invalid", "none")
    assert argv_of("it", made, {"to": "web-1"}) == [ECHO, "web-1"]

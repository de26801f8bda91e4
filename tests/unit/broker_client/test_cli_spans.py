"""Lengths of time as people write them."""

from typing import get_args

import pytest
from cyclopts.argument import Argument

from broker_client.cli.spans import check_moment, check_span, moment_of, span_s, to_seconds
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build
from schemas.spans import size_bytes, time_left

TEXTS: set[object] = {check_span, check_moment}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("30d", 2_592_000.0),
        ("1h30m", 5400.0),
        ("1d12h", 129_600.0),
        ("0.5", 0.5),
    ],
)
def test_span_has_one_unit(text: str, seconds: float) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0d", "-1h", "30m1h", "1m1m", "1h30", "forever", "1 h", "nan", "1e3"]
)
def test_malformed_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        span_s(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:01:40+00:00", 100.0),
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("30d", 10_000_000.0 - 30 * 86_400),
        ("90", 10_000_000.0 - 90),
    ],
)
def test_moment_is_a_date_or_so_long_ago(text: str, moment: float) -> None:
    assert moment_of(text, now=10_000_000.0) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "12 parsecs", "2026-13-01", "-3d"])
def test_malformed_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31, 12h, 30d"):
        moment_of(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1024**2),
        ("64KiB", 65_536),
        ("64k", 65_536),
        ("1.5GiB", 1_610_612_736),
        ("2MB", 2 * 1024**2),
    ],
)
def test_size_has_a_unit_or_is_of_bytes(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 GiB x", "1XB", "1GiBB"])
def test_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size: write it as"):
        size_bytes(text)


def is_span(argument: Argument) -> bool:
    """Whether the option is a number of seconds, or text that its command reads as a time."""
    is_number = float in (argument.hint, *get_args(argument.hint))
    return is_number or not TEXTS.isdisjoint(validators(argument))


def validators(argument: Argument) -> tuple[object, ...]:
    found = argument.parameter.validator
    return found if isinstance(found, tuple) else (found,)


def spans() -> list[tuple[str, str, str]]:
    """Each option of the command line whose value is a length of time, or a moment by one."""
    app = build(())
    found = []
    for noun, verb, *_ in COMMANDS:
        command = app[noun][verb] if verb else app[noun]
        found += [
            (noun, verb, name)
            for each in command.assemble_argument_collection()
            for name in each.names
            if name.startswith("--") and is_span(each)
        ]
    return found


def test_walk_meets_the_lengths_of_time_that_are_text() -> None:
    met = {option for _, _, option in spans()}
    assert met >= {"--for", "--within", "--expiring", "--silent-for", "--batch-sleep", "--since"}


@pytest.mark.parametrize(("noun", "verb", "option"), spans())
def test_every_option_that_is_a_time_takes_one_grammar_and_says_so(
    noun: str, verb: str, option: str
) -> None:
    app = build(())
    command = app[noun][verb] if verb else app[noun]
    found = next(each for each in command.assemble_argument_collection() if option in each.names)
    is_text = not TEXTS.isdisjoint(validators(found))
    assert is_text or found.parameter.converter is to_seconds, "there is one grammar"
    assert "(seconds)" in (found.parameter.help or "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (89.9 * 86_400, "89 days"),
        (86_400.0, "1 day"),
        (86_399.0, "23h 59m 59s"),
        (61.0, "1m 1s"),
        (0.4, "0s"),
        (-5.0, "0s"),
    ],
)
def test_remaining_time_under_a_day_is_shown_to_the_second(seconds: float, text: str) -> None:
    assert time_left(seconds) == text

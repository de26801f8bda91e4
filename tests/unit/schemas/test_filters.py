"""The language of filters: what its words mean, and what is said of wrong ones."""

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.faults import Refused
from schemas.filters import Language, Value, fold, holds, matches
from schemas.listed import AGENTS, COMMANDS, EVENTS
from tests.unit.schemas.strategies import quick

NOW = 1_763_755_200.0
COMMAND: dict[str, Value | None] = {
    "id": "patch-1",
    "state": "failed",
    "group": "web",
    "agent": "web-1",
    "client": "ann",
    "action": "process",
    "program": "apt-get",
    "argv": "apt-get -y upgrade",
    "exit": 100.0,
    "attempts": 2.0,
    "took": 90.0,
    "label": {"deploy": "42", "Team": "Ops"},
    "submitted": NOW - 7200,
    "ended": NOW - 60,
}


def is_found(text: str, **changed: Value | None) -> bool:
    command = {**COMMAND, **changed}
    return holds(COMMANDS.parse(text, NOW), command.__getitem__)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "patch-*",
        "state:failed,lost",
        "state:FAILED",
        "state:=failed",
        "state:!=succeeded",
        "!state:succeeded",
        "label:deploy=42",
        "label:deploy",
        "label:team=o*",
        "!label:other",
        "client:ann program:apt* since:1d exit:!=0",
        "argv:*upgrade",
        "by:a?n",
        "exit:100",
        "exit:1*",
        "exit:>=100",
        "attempts:>1",
        "took:>1m",
        "took:90s",
        "since:3h",
        "until:1h",
        "ended:2m",
        "submitted:2025-11-21",
        "on:web-*",
    ],
)
def test_words_that_hold(text: str) -> None:
    assert is_found(text)
    assert not is_found(f"{text} id:other")


@pytest.mark.parametrize(
    "text",
    [
        "patch",
        "state:lost",
        "!state:failed",
        "state:!=failed,lost",
        "label:deploy=43",
        "label:none",
        "exit:0",
        "exit:<100",
        "took:<1m",
        "since:1h",
        "until:3h",
        "ended:30s",
        "since:2025-11-22",
        "program:apt",
        "client:ann state:lost",
    ],
)
def test_words_that_do_not_hold(text: str) -> None:
    assert not is_found(text)


@pytest.mark.parametrize("word", ["exit:0", "exit:!=0", "exit:>0", "exit:*"])
def test_missing_field_matches_a_negation_alone(word: str) -> None:
    assert not is_found(word, exit=None)
    assert is_found(f"!{word}", exit=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state:activ", "no state 'activ', there are: "),
        ("state:faild", "no state 'faild': did you mean failed?"),
        ("id:a stat:failed", "'stat:failed' at character 6: no field 'stat': did you mean state"),
        ("exit:many", "'many' is not a number"),
        ("took:>soon", "'soon' is not a length of time"),
        ("took:1h,2h", "compare a length of time"),
        ("since:whenever", "give a date, or how long ago"),
        ("state:<3", "neither less nor more"),
        ("state:", "nothing behind it"),
        ("exit:>", "nothing behind the comparison"),
        ("!", "nothing but a sign"),
        ("x" * 1001, "longer than 1000 characters"),
        ("a " * 33, "more than 32 words"),
        ("group:" + ",".join("a" * 51), "more than 50 alternatives"),
        ("gr\x1b[2Joup:a", r"\x1b[2J"),
    ],
)
def test_wrong_words_are_named_with_place_and_example(text: str, said: str) -> None:
    with pytest.raises(Refused) as caught:
        COMMANDS.parse(text, NOW)
    assert caught.value.code == "filter_invalid"
    assert said in caught.value.message
    assert "('" not in caught.value.message
    assert "\x1b" not in caught.value.message
    if "more than 32" not in said and "longer" not in said:
        assert caught.value.message.endswith(f"for example: {COMMANDS.example}")


def test_near_status_of_an_agent_is_offered() -> None:
    with pytest.raises(Refused, match="did you mean active"):
        AGENTS.parse("status:activ", NOW)


@pytest.mark.parametrize("language", [AGENTS, COMMANDS], ids=["agents", "commands"])
def test_examples_are_read(language: type) -> None:
    assert language.parse(language.example, NOW)  # type: ignore[attr-defined]


@given(text=st.text(max_size=60))
@quick(300)
def test_any_text_is_read_or_refused(text: str) -> None:
    words = []
    with contextlib.suppress(Refused):
        words = COMMANDS.parse(text, NOW)
    holds(words, COMMAND.__getitem__)


_PIECES = st.text(alphabet="ab[].*?", max_size=12)


@given(text=st.text(alphabet="ab[].", max_size=12), pattern=_PIECES)
@quick(300)
def test_pattern_means_what_its_two_signs_say(text: str, pattern: str) -> None:
    spelled = "".join(
        ".*" if each == "*" else "." if each == "?" else re.escape(each) for each in pattern
    )
    assert matches(text, pattern) == (re.fullmatch(spelled, text) is not None)


def test_sec_s11_no_pattern_is_slow() -> None:
    """Plain backtracking would try each star against each place, for longer than anybody lives."""

    def cost(stars: int) -> float:
        spent = []
        for _ in range(5):
            began = time.process_time()
            assert not matches("a" * (stars + 100), "*a" * stars + "b")
            spent.append(time.process_time() - began)
        return min(spent)

    # Four times as much would be sixteen times as dear if each star met each place once.
    assert cost(400) < 40 * cost(100)


def test_fold_makes_ascii_letters_small_and_spells_out() -> None:
    assert fold("ÄbC\n\x00") == r"Äbc\n\x00"


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        (COMMANDS, "state=failed", "a colon is missing: state:failed"),
        (COMMANDS, "!exit!=0", "a colon is missing: exit:!=0"),
        (COMMANDS, "took>5m", "a colon is missing: took:>5m"),
        (COMMANDS, "deploy=42", "no name has a =: did you mean label:deploy=42?"),
        (AGENTS, "site=a", "no name has a =: did you mean tag:site=a?"),
        (AGENTS, "expires<14d", "a colon is missing: expires:<14d"),
        (EVENTS, "site=a", "no name has a =: did you mean FIELD:VALUE?"),
    ],
)
def test_comparison_without_a_colon_is_refused_rather_than_never_found(
    language: Language, text: str, said: str
) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        language.parse(text, NOW)

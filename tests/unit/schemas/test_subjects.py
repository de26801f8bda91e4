import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.ids import is_name
from schemas.subjects import Api, Fact, Up
from tests.unit.schemas.strategies import ATTEMPTS, COMMAND_IDS, NAMES, STREAMS, quick

KINDS = st.sampled_from(["beat", "hello", "report", "reply", "log"])
PARSERS = (
    subjects.parse_up,
    subjects.parse_api,
    subjects.parse_enrol,
    subjects.parse_fact,
)
TOKENS = st.one_of(
    st.sampled_from(["mesh", "v1", "v2", "up", "down", "api", "fact", "enrol", "log", ""]),
    st.sampled_from([">", "*", "007", "00", "-1", "1e3", "\u0661", "²", "9" * 10, "stdout", "A"]),
    NAMES,
    st.text(max_size=5),
)
NEARLY_SUBJECTS = st.lists(TOKENS, max_size=11).map(".".join)


@quick(50)
@given(NAMES, NAMES, KINDS)
def test_subjects_of_an_agent_parse_back(group: str, agent: str, kind: str) -> None:
    assert subjects.parse_up(subjects.up(group, agent, kind)) == Up(group, agent, kind, ())


@quick(50)
@given(NAMES, NAMES, COMMAND_IDS)
def test_reply_of_an_agent_parses_back(group: str, agent: str, token: str) -> None:
    parsed = subjects.parse_up(subjects.reply(group, agent, token))
    assert parsed == Up(group, agent, "reply", (token,))


@quick(50)
@given(NAMES, NAMES, COMMAND_IDS, ATTEMPTS, STREAMS)
def test_log_of_an_attempt_parses_back(
    group: str, agent: str, command: str, attempt: int, stream: str
) -> None:
    parsed = subjects.parse_up(subjects.log(group, agent, command, attempt, stream))
    assert parsed == Up(group, agent, "log", (command, str(attempt), stream))


@quick(50)
@given(COMMAND_IDS, ATTEMPTS, st.sampled_from(["accepted", "assigned", "outcome"]))
def test_fact_parses_back(command: str, attempt: int, kind: str) -> None:
    assert subjects.parse_fact(subjects.fact(command, attempt, kind)) == Fact(
        command, attempt, kind
    )


@quick(50)
@given(NAMES, NAMES, NAMES)
def test_request_of_a_client_parses_back(client: str, noun: str, verb: str) -> None:
    assert subjects.parse_api(subjects.api(client, noun, verb)) == Api(client, noun, verb)


@quick(50)
@given(NAMES)
def test_enrolment_parses_back(agent: str) -> None:
    assert subjects.parse_enrol(subjects.enrol(agent)) == agent


@quick(300)
@given(NEARLY_SUBJECTS | st.text(max_size=80))
def test_parsers_never_raise_and_name_only_what_may_be_named(text: str) -> None:
    up, api, agent, fact = (parse(text) for parse in PARSERS)
    if isinstance(up, Up):
        assert is_name(up.group)
        assert is_name(up.agent)
    if isinstance(api, Api):
        assert is_name(api.client)
    if agent is not None:
        assert is_name(str(agent))
    assert len([found for found in (up, api, agent, fact) if found is not None]) <= 1


@quick(300)
@given(NEARLY_SUBJECTS)
def test_one_meaning_has_one_subject(text: str) -> None:
    """Uniqueness of a fact is uniqueness of its subject, so `1` must not also be spelt `01`."""
    fact = subjects.parse_fact(text)
    assert fact is None or subjects.fact(*fact) == text
    api = subjects.parse_api(text)
    assert api is None or subjects.api(*api) == text
    agent = subjects.parse_enrol(text)
    assert agent is None or subjects.enrol(agent) == text
    up = subjects.parse_up(text)
    if up is not None:
        assert ".".join((subjects.up(up.group, up.agent, up.kind), *up.rest)) == text


@pytest.mark.parametrize(
    "number", ["01", "00", "-1", "+1", "1_0", " 1", "1 ", "\u0661", "²", "1e3", "", "9" * 10]
)
def test_attempt_in_another_spelling_is_no_fact(number: str) -> None:
    assert subjects.parse_fact(f"mesh.v1.fact.c.{number}.outcome") is None


@quick(50)
@given(NAMES, NAMES)
def test_inbox_of_a_tokens_bearer_is_nobody_elses(agent: str, other: str) -> None:
    enrolling = subjects.enrol_inbox_prefix(agent)
    assert enrolling != subjects.inbox_prefix(other)
    assert not is_name(enrolling.removeprefix("_INBOX_"))

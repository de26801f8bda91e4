"""The templates, judged as the broker would: by filling them and matching subjects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.permissions import CLIENT_ROLES, GROUP, NAME, SCOPES, may_call
from schemas.verbs import VERBS
from tests.unit.schemas.strategies import ATTEMPTS, COMMAND_IDS, NAMES, STREAMS, quick

NOUNS_AND_VERBS = [tuple(verb.split(".")) for verb in VERBS]
every_role = pytest.mark.parametrize("role", CLIENT_ROLES)


def matches(pattern: str, subject: str) -> bool:
    """NATS' rule: `*` is one token, `>` is one or more at the end."""
    wanted, given_ = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(given_) > place
        if place >= len(given_) or token not in ("*", given_[place]):
            return False
    return len(wanted) == len(given_)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for mine, theirs in zip(left, right, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(left) == len(right)


def filled(patterns: tuple[str, ...], name: str, group: str = "") -> list[str]:
    return [pattern.replace(NAME, name).replace(GROUP, group) for pattern in patterns]


def may_publish(role: str, name: str, group: str, subject: str) -> bool:
    return any(matches(one, subject) for one in filled(SCOPES[role].publish, name, group))


def may_subscribe(role: str, name: str, group: str, subject: str) -> bool:
    return any(matches(one, subject) for one in filled(SCOPES[role].subscribe, name, group))


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.d", False),
    ],
)
def test_matching_follows_the_rule_of_the_broker(
    pattern: str, subject: str, expected: bool
) -> None:
    assert matches(pattern, subject) is expected


@every_role
def test_may_call_agrees_with_what_the_broker_lets_pass(role: str) -> None:
    for noun, verb in NOUNS_AND_VERBS:
        passes = may_publish(role, "ann", "", subjects.api("ann", noun, verb))
        assert may_call(role, noun, verb) is passes, f"{noun}.{verb}"


@quick(200)
@given(st.sampled_from(CLIENT_ROLES), st.text(max_size=12), st.text(max_size=12))
def test_may_call_allows_nothing_that_the_broker_would_stop(
    role: str, noun: str, verb: str
) -> None:
    if may_call(role, noun, verb):
        assert may_publish(role, "ann", "", subjects.api("ann", noun, verb))


@pytest.mark.parametrize("verb", VERBS)
def test_admin_reaches_every_verb_that_the_protocol_names(verb: str) -> None:
    assert may_call("admin", *verb.split("."))


def test_roles_hold_what_the_weaker_one_holds() -> None:
    for noun, verb in NOUNS_AND_VERBS:
        allowed = [may_call(role, noun, verb) for role in ("viewer", "operator", "admin")]
        assert allowed == sorted(allowed), f"{noun}.{verb}"


def test_templates_name_no_verb_that_the_protocol_does_not() -> None:
    for role in ("viewer", "operator"):
        for subject in filled(SCOPES[role].publish, "ann"):
            parsed = subjects.parse_api(subject)
            assert parsed is None or f"{parsed.noun}.{parsed.verb}" in VERBS


def test_viewer_changes_nothing() -> None:
    changing = {"submit", "cancel", "create", "enable", "disable", "revoke", "delete", "token"}
    assert [v for n, v in NOUNS_AND_VERBS if v in changing and may_call("viewer", n, v)] == []


@pytest.mark.parametrize("role", ["agent", "enrol", "", "root", "Admin", "admin "])
def test_other_roles_than_clients_may_call_nothing(role: str) -> None:
    assert not [verb for verb in VERBS if may_call(role, *verb.split("."))]


@quick(100)
@given(NAMES, NAMES, COMMAND_IDS, ATTEMPTS, STREAMS)
def test_agent_reaches_all_of_its_own_subjects(
    group: str, agent: str, command: str, attempt: int, stream: str
) -> None:
    for kind in ("beat", "hello", "report"):
        assert may_publish("agent", agent, group, subjects.up(group, agent, kind))
    assert may_publish("agent", agent, group, subjects.reply(group, agent, command))
    log = subjects.log(group, agent, command, attempt, stream)
    assert may_publish("agent", agent, group, log)
    for kind in ("echo", "welcome", "run", "control", "release"):
        assert may_subscribe("agent", agent, group, subjects.down(group, agent, kind))
    assert may_subscribe("agent", agent, group, f"{subjects.inbox_prefix(agent)}.x")


@quick(200)
@given(NAMES, NAMES, NAMES, NAMES)
def test_agent_reaches_no_subject_of_another(
    group: str, agent: str, other_group: str, other: str
) -> None:
    if (group, agent) == (other_group, other):
        return
    for kind in ("beat", "reply.t", "log.c.1.stdout"):
        assert not may_publish("agent", agent, group, subjects.up(other_group, other, kind))
    assert not may_subscribe("agent", agent, group, subjects.down(other_group, other, "run"))
    if agent != other:  # the name is what is unique: an inbox knows no group
        assert not may_subscribe("agent", agent, group, f"_INBOX_{other}.x")


@pytest.mark.parametrize("role", SCOPES)
def test_no_role_reaches_streams_stores_the_server_or_all(role: str) -> None:
    allowed_by = filled(SCOPES[role].publish, "n", "g"), filled(SCOPES[role].subscribe, "n", "g")
    for pattern in [*allowed_by[0], *allowed_by[1]]:
        for foreign in ("$JS.>", "$KV.>", "$SYS.>", "$O.>", "mesh.v1.fact.>", "mesh.v1.history.>"):
            assert not overlap(pattern, foreign), pattern
        assert pattern.split(".")[0] not in ("*", ">")


@pytest.mark.parametrize("role", SCOPES)
def test_only_agents_touch_the_subjects_of_agents(role: str) -> None:
    patterns = filled(SCOPES[role].publish, "n", "g") + filled(SCOPES[role].subscribe, "n", "g")
    touching = [p for p in patterns if overlap(p, "mesh.v1.up.>") or overlap(p, "mesh.v1.down.>")]
    assert bool(touching) is (role == "agent")


@quick(100)
@given(st.sampled_from(CLIENT_ROLES), NAMES, NAMES)
def test_client_asks_and_hears_as_nobody_else(role: str, client: str, other: str) -> None:
    if client == other:
        return
    assert not may_publish(role, client, "", subjects.api(other, "command", "list"))
    assert not may_subscribe(role, client, "", subjects.result(other, "c"))
    assert not may_subscribe(role, client, "", f"_INBOX_{other}.x")
    assert may_subscribe(role, client, "", subjects.result(client, "c"))
    assert may_subscribe(role, client, "", f"{subjects.inbox_prefix(client)}.x")


@quick(100)
@given(NAMES, NAMES)
def test_token_reaches_the_enrolment_of_its_agent_and_nothing_else(agent: str, other: str) -> None:
    assert may_publish("enrol", agent, "", subjects.enrol(agent))
    assert may_subscribe("enrol", agent, "", f"{subjects.enrol_inbox_prefix(agent)}.x")
    if agent != other:
        assert not may_publish("enrol", agent, "", subjects.enrol(other))
    assert len(SCOPES["enrol"].publish) == len(SCOPES["enrol"].subscribe) == 1


@pytest.mark.parametrize("one", SCOPES)
@pytest.mark.parametrize("other", SCOPES)
def test_inboxes_of_two_names_never_overlap(one: str, other: str) -> None:
    mine = [p for p in filled(SCOPES[one].subscribe, "aa", "g") if p.startswith("_INBOX")]
    theirs = [p for p in filled(SCOPES[other].subscribe, "bb", "g") if p.startswith("_INBOX")]
    assert mine
    assert not [(a, b) for a in mine for b in theirs if overlap(a, b)]


@every_role
def test_client_finds_the_service(role: str) -> None:
    for subject in ("$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.PING.mesh", "$SRV.INFO.mesh.id"):
        assert may_publish(role, "ann", "", subject)

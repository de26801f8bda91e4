from typing import Any, cast

import msgspec
import pytest

from broker_master.api.operations import Operations
from broker_master.core.rights import check_group, check_right, may_see
from schemas.faults import Refused
from schemas.messages.api import Done, NameQuery, NoQuery
from schemas.messages.registry import ClientEntry
from schemas.permissions import CLIENT_ROLES
from schemas.verbs import (
    AGENT_DELETE,
    AGENT_ENABLE,
    COMMAND_SUBMIT,
    MESH_STATUS,
    VERBS,
    Verb,
)
from tests.unit.broker_master.table import call


def caller(role: str = "operator", *groups: str, revoked: bool = False) -> ClientEntry:
    return ClientEntry(name="ops", role=role, created_at=1.0, groups=[*groups], revoked=revoked)


async def done(_caller: ClientEntry, _request: msgspec.Struct) -> Done:
    return Done()


def take(*_: object) -> None:
    return None


def code_of(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.code


def test_verb_is_found_by_noun_and_verb_together() -> None:
    operations = Operations()
    operations.add(AGENT_ENABLE, done)
    operations.add(AGENT_DELETE, done)
    assert operations.find("agent", "enable").verb is AGENT_ENABLE
    assert [each.verb.name for each in operations] == ["agent.enable", "agent.delete"]


@pytest.mark.parametrize(
    ("noun", "verb"), [("agent", "paint"), ("enable", "agent"), ("", ""), ("agent", "show\r\nX: y")]
)
def test_unknown_verb_is_refused_and_cannot_break_a_header(noun: str, verb: str) -> None:
    operations = Operations()
    operations.add(AGENT_ENABLE, done)
    with pytest.raises(Refused) as refused:
        operations.find(noun, verb)
    assert code_of(refused) == "verb_unknown"
    assert refused.value.message.isprintable()


def test_verb_without_handler_fails_the_start() -> None:
    operations = Operations()
    operations.add_direct(COMMAND_SUBMIT, take)
    for verb in VERBS.values():
        if verb not in (COMMAND_SUBMIT, MESH_STATUS):
            operations.add(cast("Any", verb), done)
    with pytest.raises(ValueError, match=r"no handler of mesh\.status"):
        operations.fill([])
    operations.add(cast("Any", MESH_STATUS), done)
    operations.fill([])


def test_handler_without_verb_fails_the_start() -> None:
    paint = Verb("agent", "paint", NameQuery, Done, role="admin", changes=True, does="paint it")
    with pytest.raises(ValueError, match=r"agent\.paint, which is not in the table"):
        Operations().add(paint, done)


def test_verb_has_one_handler() -> None:
    operations = Operations()
    operations.add(AGENT_ENABLE, done)
    with pytest.raises(ValueError, match=r"two handlers of agent\.enable"):
        operations.add(AGENT_ENABLE, done)


def test_verb_that_is_audited_cannot_go_past_the_audit_trail() -> None:
    with pytest.raises(ValueError, match=r"agent\.enable is audited"):
        Operations().add_direct(AGENT_ENABLE, take)


async def test_handler_gets_no_request_of_another_verb() -> None:
    operations = Operations()
    operations.add(AGENT_ENABLE, done)
    operation = operations.find("agent", "enable")
    with pytest.raises(TypeError, match=r"agent\.enable takes a NameQuery"):
        await call(operation, caller(), NoQuery())
    assert await call(operation, caller(), NameQuery(name="web-1")) == Done()


def test_changing_verbs_are_audited_and_looking_ones_are_not() -> None:
    audited = {each.name for each in VERBS.values() if each.is_audited}
    assert {"agent.pause", "client.renew", "deadletter.retry"} < audited
    assert not {"agent.show", "certificate.trust", "command.submit"} & audited


@pytest.mark.parametrize(
    ("role", "noun", "verb", "allowed"),
    [
        ("viewer", "command", "show", True),
        ("viewer", "mesh", "status", True),
        ("viewer", "command", "submit", False),
        ("viewer", "command", "cancel", False),
        ("viewer", "agent", "disable", False),
        ("operator", "command", "submit", True),
        ("operator", "agent", "disable", True),
        ("operator", "agent", "create", False),
        ("operator", "client", "create", False),
        ("operator", "group", "delete", False),
        ("admin", "client", "create", True),
        ("admin", "agent", "revoke", True),
        ("agent", "command", "show", False),
        ("master", "command", "show", False),
        ("", "command", "show", False),
    ],
)
def test_role_decides_what_may_be_called(role: str, noun: str, verb: str, allowed: bool) -> None:
    if allowed:
        check_right(caller(role), noun, verb)
        return
    with pytest.raises(Refused) as refused:
        check_right(caller(role), noun, verb)
    assert code_of(refused) == "forbidden"


@pytest.mark.parametrize("role", CLIENT_ROLES)
def test_revoked_client_may_do_nothing(role: str) -> None:
    with pytest.raises(Refused) as refused:
        check_right(caller(role, revoked=True), "command", "show")
    assert code_of(refused) == "client_disabled"


def test_client_without_groups_sees_all_and_others_their_own() -> None:
    assert may_see(caller(), "web")
    assert may_see(caller("operator", "web", "db"), "db")
    assert not may_see(caller("admin", "web"), "db")
    check_group(caller("operator", "web"), "web")
    with pytest.raises(Refused) as refused:
        check_group(caller("operator", "web"), "db")
    assert code_of(refused) == "forbidden"

import msgspec
import pytest

from broker_master.api.operations import Operations
from broker_master.core.rights import check_group, check_right, may_see
from schemas.faults import Refused
from schemas.messages.api import Done, NameQuery, NoQuery
from schemas.messages.registry import ClientEntry
from schemas.permissions import CLIENT_ROLES


def caller(role: str = "operator", *groups: str, revoked: bool = False) -> ClientEntry:
    return ClientEntry(name="ops", role=role, created_at=1.0, groups=[*groups], revoked=revoked)


async def nothing(_caller: ClientEntry, _request: msgspec.Struct) -> Done:
    return Done()


def code_of(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.code


def test_verb_is_found_by_noun_and_verb_together() -> None:
    operations = Operations()
    operations.add("group", "show", NameQuery, nothing)
    operations.add("group", "list", NoQuery, nothing)
    assert operations.find("group", "show").request is NameQuery
    assert [f"{each.noun}.{each.verb}" for each in operations] == ["group.show", "group.list"]


@pytest.mark.parametrize(
    ("noun", "verb"), [("group", "paint"), ("show", "group"), ("", ""), ("group", "show\r\nX: y")]
)
def test_unknown_verb_is_refused_and_cannot_break_a_header(noun: str, verb: str) -> None:
    operations = Operations()
    operations.add("group", "show", NameQuery, nothing)
    with pytest.raises(Refused) as refused:
        operations.find(noun, verb)
    assert code_of(refused) == "verb_unknown"
    assert refused.value.message.isprintable()


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

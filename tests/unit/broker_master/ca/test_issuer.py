import time

import pytest

from broker_client.runtime.identity import NewIdentity, new_identity
from broker_client.runtime.nkeys import KeyPair, decode_user_jwt
from broker_client.runtime.tls import certificate_facts
from broker_master.ca.authority import CA_LIFETIME_S
from broker_master.ca.claims import decode_jwt
from broker_master.ca.issuer import Credentials, Issuer
from schemas.faults import Misused, Refused
from schemas.permissions import SCOPES
from tests.unit.broker_master.ca.meshes import made_issuer

NOW = int(time.time())
ISSUER = made_issuer(NOW)


def issued(
    role: str,
    name: str,
    group: str | None = None,
    *,
    keys: NewIdentity | None = None,
    not_after: int = NOW + 99,
    issuer: Issuer = ISSUER,
) -> Credentials:
    keys = keys or new_identity("whatever the request says")
    return issuer.issue(role, name, keys.csr_pem, keys.user, not_after, group)


def test_certificate_and_token_begin_and_end_in_the_same_second() -> None:
    credentials = issued("agent", "web-1", "web")
    facts, claims = certificate_facts(credentials.cert_pem), decode_user_jwt(credentials.jwt)
    assert (facts.not_before, facts.not_after) == (NOW - 60, NOW + 99)
    assert (claims.not_before, claims.expires_at) == (NOW - 60, NOW + 99)
    assert (credentials.not_before, credentials.not_after) == (NOW - 60, NOW + 99)
    assert (facts.name, claims.name) == ("web-1", "web-1")
    assert facts.serial == credentials.serial
    assert claims.tags == ("group:web",)


@pytest.mark.parametrize("role", SCOPES)
def test_scoped_token_carries_no_permission_of_its_own(role: str) -> None:
    """The broker fills the template of the key; a token that brought more would be refused."""
    credentials = issued(role, "x", "web" if role == "agent" else None)
    part = decode_jwt(credentials.jwt)["nats"]
    assert set(part) <= {"type", "version", "issuer_account", "tags"}


def test_each_role_is_signed_with_a_key_of_its_own() -> None:
    tokens = [issued(role, "x", "g" if role == "agent" else None).jwt for role in SCOPES]
    assert len({decode_jwt(token)["iss"] for token in tokens}) == len(SCOPES)


NO_NAMES = ("agent.>", "../x", "a" * 64, "", "*", ">", "Web", "a b", "{{name()}}")


@pytest.mark.parametrize("name", NO_NAMES)
def test_nothing_is_issued_for_what_is_no_name(name: str) -> None:
    wishes = [(role, name, "web" if role == "agent" else None) for role in SCOPES]
    for role, who, group in [*wishes, ("agent", "web-1", name)]:
        with pytest.raises(Refused) as caught:
            issued(role, who, group)
        assert caught.value.code == "name_invalid"
    keys = new_identity("x")
    for issue in (ISSUER.issue_master, ISSUER.issue_system):
        with pytest.raises(Refused):
            issue(name, keys.csr_pem, keys.user, NOW + 99)


@pytest.mark.parametrize("kind", ["account", "operator"])
def test_nothing_is_issued_for_what_is_no_user_key(kind: str) -> None:
    keys = new_identity("x")
    pair = KeyPair.create("account" if kind == "account" else "operator")
    for user in (pair.public, "", "U" + "A" * 55, keys.seed):
        with pytest.raises(Refused) as caught:
            ISSUER.issue("agent", "web-1", keys.csr_pem, user, NOW + 99, "web")
        assert caught.value.code == "request_invalid"


def test_group_is_for_agents_and_no_agent_is_without() -> None:
    for role, group in (("agent", None), ("viewer", "web"), ("enrol", "web")):
        with pytest.raises(Misused):
            issued(role, "x", group)
    with pytest.raises(Misused):
        issued("root", "x")


def test_credentials_that_end_before_they_begin_are_a_mistake() -> None:
    with pytest.raises(Misused):
        issued("agent", "web-1", "web", not_after=NOW - 60)


def test_credentials_end_with_the_authority_at_the_latest() -> None:
    credentials = issued("admin", "bob", not_after=NOW + 2 * CA_LIFETIME_S)
    assert credentials.not_after == NOW + CA_LIFETIME_S
    assert decode_user_jwt(credentials.jwt).expires_at == NOW + CA_LIFETIME_S
    assert certificate_facts(credentials.cert_pem).not_after == NOW + CA_LIFETIME_S


def test_every_certificate_has_a_serial_of_its_own() -> None:
    keys = new_identity("x")
    assert len({issued("viewer", "x", keys=keys).serial for _ in range(20)}) == 20


def test_system_user_may_not_speak_in_the_mesh() -> None:
    keys = new_identity("x")
    part = decode_jwt(ISSUER.issue_system("sys-1", keys.csr_pem, keys.user, NOW + 9).jwt)["nats"]
    assert part["pub"] == {"allow": ["$SYS.REQ.>"]}
    assert part["sub"] == {"allow": ["$SYS.>", "_INBOX_sys-1.>"]}

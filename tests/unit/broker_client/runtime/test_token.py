import base64
import hashlib
import time
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client.runtime.nkeys import KeyPair, to_base64url
from broker_client.runtime.token import (
    PREFIX,
    ActivationToken,
    decode_token,
    encode_token,
)
from broker_master.ca.tokens import hash_secret, is_secret, issue_token
from schemas.faults import MeshError, Refused
from tests.unit.broker_master.ca.meshes import made_issuer

ISSUER = made_issuer()
URLS = ("tls://broker.example:4222", "tls://127.0.0.1:4222", "tls://[::1]:4222")
END = int(time.time()) + 3600
ISSUED = issue_token(ISSUER, "web-1", "web", URLS, expires_at=END)


def body() -> dict[str, Any]:
    raw = base64.urlsafe_b64decode(ISSUED.text.removeprefix(PREFIX) + "===")
    fields: dict[str, Any] = msgpack.unpackb(raw[4:])
    return fields


def sealed(payload: bytes) -> str:
    """A token with this payload and a fitting check, as an attacker would make it."""
    return PREFIX + to_base64url(hashlib.sha256(payload).digest()[:4] + payload)


def refused(text: str) -> str:
    with pytest.raises(Refused) as caught:
        decode_token(text)
    assert caught.value.code == "token_invalid"
    assert len(caught.value.message) < 200
    return caught.value.message


def test_token_names_address_agent_and_expiry() -> None:
    token = decode_token(ISSUED.text)
    assert (token.urls, token.agent, token.group) == (URLS, "web-1", "web")
    assert token.expires_at == ISSUED.expires_at == END
    assert token.identity().claims.name == "web-1"
    assert token.identity().claims.expires_at == END
    assert encode_token(token) == ISSUED.text


def test_token_is_one_line_that_a_terminal_takes_whole() -> None:
    assert "\n" not in ISSUED.text
    assert len(ISSUED.text) < 4000


def test_master_keeps_a_hash_that_knows_the_secret_again() -> None:
    secret = decode_token(ISSUED.text).secret
    assert is_secret(secret, ISSUED.secret_hash)
    assert not is_secret(bytes(32), ISSUED.secret_hash)
    assert not is_secret(secret, "")
    assert hash_secret(secret) == hash_secret(bytes(secret))
    assert secret.hex() not in ISSUED.secret_hash


def test_two_tokens_for_one_agent_share_no_secret() -> None:
    first, second = (
        decode_token(issue_token(ISSUER, "a", "g", URLS, expires_at=END).text) for _ in range(2)
    )
    assert first.secret != second.secret
    assert first.seed != second.seed
    assert first.key_pem != second.key_pem


def test_secrets_are_in_no_repr() -> None:
    token = decode_token(ISSUED.text)
    assert repr(token) == "ActivationToken(web-1, web)"
    assert repr(token.identity()) == "Identity(web-1)"
    assert repr(ISSUED).startswith("IssuedToken(U")


def test_white_space_of_copying_is_forgiven() -> None:
    text = ISSUED.text
    broken = f"  {text[:900]}\r\n{text[900:]}\n"
    assert decode_token(broken).agent == "web-1"


@given(st.integers(0, len(ISSUED.text) - 1), st.sampled_from("Ab0_-=. é"))
def test_one_wrong_character_of_a_token_is_detected(place: int, letter: str) -> None:
    wrong = ISSUED.text[:place] + letter + ISSUED.text[place + 1 :]
    if "".join(wrong.split()) != ISSUED.text:
        refused(wrong)


@given(st.integers(0, len(ISSUED.text) - 1))
def test_cut_token_is_detected(length: int) -> None:
    refused(ISSUED.text[:length])


@given(st.text(max_size=200))
def test_any_text_is_refused_and_nothing_else(text: str) -> None:
    refused(text)
    refused(PREFIX + text)


@given(st.binary(max_size=300))
def test_any_sealed_bytes_are_refused_and_nothing_else(payload: bytes) -> None:
    refused(sealed(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 4000,
        b"\xc6\xff\xff\xff\xff",
        b"\xc1",
    ],
)
def test_bombs_are_refused_at_once(payload: bytes) -> None:
    """As dear as a few ordinary refusals, measured in the same process."""

    def cost(payload: bytes) -> float:
        spent = []
        for _ in range(5):
            began = time.thread_time()
            refused(sealed(payload))
            spent.append(time.thread_time() - began)
        return min(spent)

    assert cost(payload) < 100 * cost(b"\xc0")


@pytest.mark.parametrize(
    "change",
    [
        {"urls": []},
        {"urls": ["tls://x:1"] * 17},
        {"urls": ["nats://broker:4222"]},
        {"urls": ["tls://broker"]},
        {"urls": ["tls://user:word@broker:4222"]},
        {"urls": ["tls://broker:4222/\r\nx"]},
        {"agent": "web-2"},
        {"agent": "agent.>"},
        {"group": "../x"},
        {"group": "g" * 64},
        {"secret": b"short"},
        {"expires_at": 0},
        {"expires_at": -1},
        {"expires_at": 1 << 62},
        {"expires_at": "soon"},
        {"seed": KeyPair.create("user").seed},
        {"seed": KeyPair.create("account").seed},
        {"jwt": "a.b.c"},
        {"jwt": ""},
    ],
)
def test_forged_field_is_refused(change: dict[str, Any]) -> None:
    refused(sealed(msgpack.packb({**body(), **change})))


@pytest.mark.parametrize("field", ["urls", "agent", "group", "ca", "cert", "key", "jwt", "seed"])
def test_missing_field_is_refused(field: str) -> None:
    refused(sealed(msgpack.packb({k: v for k, v in body().items() if k != field})))


@pytest.mark.parametrize("field", ["ca", "cert", "key"])
def test_damaged_certificate_shows_when_it_is_used(field: str) -> None:
    token: ActivationToken = decode_token(sealed(msgpack.packb({**body(), field: b"\x30\x00"})))
    with pytest.raises(MeshError) as caught:
        token.identity()
    assert caught.value.code == "token_invalid"


def test_unknown_field_of_a_later_release_is_skipped() -> None:
    assert decode_token(sealed(msgpack.packb({**body(), "hint": "x"}))).agent == "web-1"


@pytest.mark.parametrize("name", ["agent.>", "../x", "a" * 64, "", "Web", "a b", "-a", "ä"])
def test_no_token_for_what_is_no_name(name: str) -> None:
    for agent, group in ((name, "web"), ("web-1", name)):
        with pytest.raises(Refused) as caught:
            issue_token(ISSUER, agent, group, URLS, expires_at=END)
        assert caught.value.code == "name_invalid"

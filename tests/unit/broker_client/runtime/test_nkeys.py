import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client.runtime.nkeys import (
    KeyPair,
    Kind,
    check_public,
    decode_user_jwt,
    from_base64url,
    to_base64url,
    verify,
)
from broker_master.ca.claims import encode_jwt
from schemas.faults import Corrupt

KINDS = st.sampled_from(["operator", "account", "user"])
LETTER: dict[Kind, str] = {"operator": "O", "account": "A", "user": "U"}

# The public key of 32 zero bytes, as Ed25519 implementations agree on it.
ZERO_PUBLIC = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"


@given(KINDS, st.binary(min_size=32, max_size=32))
def test_seed_gives_the_same_key_again_and_names_its_kind(kind: Kind, raw: bytes) -> None:
    key = KeyPair(kind, raw)
    again = KeyPair.from_seed(key.seed)
    assert (again.kind, again.seed, again.public) == (kind, key.seed, key.public)
    assert key.public[0] == LETTER[kind]
    assert key.seed[:2] == "S" + LETTER[kind]
    assert (len(key.public), len(key.seed)) == (56, 58)


@given(KINDS, st.binary(max_size=200), st.binary(max_size=200))
def test_signature_fits_the_signed_bytes_and_no_others(
    kind: Kind, data: bytes, other: bytes
) -> None:
    key = KeyPair.create(kind)
    signature = key.sign(data)
    assert verify(key.public, data, signature)
    assert verify(key.public, other, signature) is (data == other)
    assert not verify(KeyPair.create(kind).public, data, signature)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 57), st.sampled_from("ABCXYZ234567"))
def test_one_wrong_character_is_noticed(raw: bytes, place: int, letter: str) -> None:
    seed = KeyPair("user", raw).seed
    wrong = seed[:place] + letter + seed[place + 1 :]
    if wrong != seed:
        with pytest.raises(Corrupt):
            KeyPair.from_seed(wrong)


@given(st.text(max_size=80))
def test_text_that_is_no_key_is_corrupt_and_nothing_else(text: str) -> None:
    with pytest.raises(Corrupt):
        KeyPair.from_seed(text)
    with pytest.raises(Corrupt):
        check_public(text, "user")


def test_public_key_of_another_kind_is_refused() -> None:
    with pytest.raises(Corrupt):
        check_public(KeyPair.create("account").public, "user")
    with pytest.raises(Corrupt):
        check_public(KeyPair.create("user").seed, "user")


def test_seed_is_in_no_repr_and_no_message() -> None:
    key = KeyPair.create("user")
    assert key.seed not in repr(key)
    with pytest.raises(Corrupt) as caught:
        KeyPair.from_seed(key.seed[:-1] + "A" + key.seed[-1])
    assert key.seed[:20] not in str(caught.value)


def test_layout_is_that_of_the_nats_project() -> None:
    raw = base64.b32decode(KeyPair("user", bytes(32)).seed + "======")
    assert raw[:2] == bytes([18 << 3 | (20 << 3) >> 5, ((20 << 3) & 31) << 3])
    assert raw[2:34] == bytes(32)
    crc = 0
    for byte in raw[:-2]:  # CRC-16/XMODEM, bit by bit
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    assert raw[-2:] == crc.to_bytes(2, "little")


def test_public_key_is_that_of_the_seed() -> None:
    raw = base64.b32decode(KeyPair("user", bytes(32)).public)
    assert (raw[0], raw[1:33].hex()) == (20 << 3, ZERO_PUBLIC)


def user_jwt(**changes: object) -> str:
    user, issuer = KeyPair.create("user"), KeyPair.create("account")
    claims: dict[str, object] = {
        "sub": user.public,
        "name": "web-1",
        "nbf": 1_000,
        "exp": 2_000,
        "nats": {"type": "user", "version": 2, "tags": ["group:web"]},
        **changes,
    }
    return encode_jwt(claims, issuer, issued_at=1_060)


def test_user_token_says_who_and_until_when() -> None:
    claims = decode_user_jwt(user_jwt())
    assert (claims.name, claims.not_before, claims.expires_at) == ("web-1", 1_000, 2_000)
    assert (claims.issued_at, claims.tags) == (1_060, ("group:web",))


def test_changed_claims_no_longer_fit_the_signature() -> None:
    head, body, signature = user_jwt().split(".")
    claims = json.loads(from_base64url(body))
    claims["exp"] = int(time.time()) + 10**6
    forged = to_base64url(json.dumps(claims).encode())
    with pytest.raises(Corrupt):
        decode_user_jwt(f"{head}.{forged}.{signature}")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "..",
        "x" * 20_000,
        user_jwt() + "=",
        user_jwt().replace(".", "..", 1),
        to_base64url(b'{"typ":"JWT","alg":"none"}') + "." + user_jwt().split(".", 1)[1],
        user_jwt(sub=KeyPair.create("account").public),
        user_jwt(nats={"type": "account", "version": 2}),
        user_jwt(exp="tomorrow"),
        user_jwt(nats=[[]]),
        to_base64url(b'{"typ":"JWT","alg":"ed25519-nkey"}') + "." + to_base64url(b"[" * 9000) + ".",
    ],
)
def test_malformed_user_token_is_corrupt_and_nothing_else(token: str) -> None:
    with pytest.raises(Corrupt):
        decode_user_jwt(token)


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        decode_user_jwt(text)

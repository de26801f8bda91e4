import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_client.runtime.creds import UserCreds, decode_creds, encode_creds
from broker_client.runtime.nkeys import KeyPair
from broker_master.ca.claims import encode_jwt
from schemas.faults import Corrupt


def made() -> UserCreds:
    user = KeyPair.create("user")
    claims = {"sub": user.public, "name": "bob", "nats": {"type": "user", "version": 2}}
    jwt = encode_jwt(claims, KeyPair.create("account"), issued_at=1)
    return UserCreds(jwt=jwt, seed=user.seed)


def test_written_creds_are_read_again() -> None:
    creds = made()
    assert decode_creds(encode_creds(creds)) == creds
    assert decode_creds(encode_creds(creds).replace(b"\n", b"\r\n")) == creds


def test_creds_look_as_nats_clients_expect_them() -> None:
    creds = made()
    lines = encode_creds(creds).decode().splitlines()
    assert lines[:3] == [
        "-----BEGIN NATS USER JWT-----",
        creds.jwt,
        "------END NATS USER JWT------",
    ]
    assert lines[-3:] == [
        "-----BEGIN USER NKEY SEED-----",
        creds.seed,
        "------END USER NKEY SEED------",
    ]


def test_seed_of_another_token_is_refused() -> None:
    mixed = UserCreds(jwt=made().jwt, seed=made().seed)
    with pytest.raises(Corrupt):
        decode_creds(encode_creds(mixed))


@given(st.integers(0, 10_000))
def test_cut_file_is_corrupt(length: int) -> None:
    data = encode_creds(made()).rstrip()
    if length < len(data) - 10:
        with pytest.raises(Corrupt):
            decode_creds(data[:length])


@given(st.binary(max_size=400))
def test_any_bytes_are_creds_or_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_creds(data)


def test_seed_is_in_no_repr() -> None:
    creds = made()
    assert repr(creds) == "UserCreds(bob)"

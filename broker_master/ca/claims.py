"""NATS tokens: JSON claims signed by an nkey, as operators, accounts and users carry them."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from broker_client.runtime.nkeys import (
    JWT_HEADER,
    KeyPair,
    from_base64url,
    to_base64url,
    verify,
)
from schemas.faults import Corrupt

Claims = dict[str, Any]  # JSON of the broker: its shape is the NATS JWT library's


def encode_jwt(claims: Mapping[str, Any], issuer: KeyPair, *, issued_at: int) -> str:
    """Sign `claims` (`sub`, `name`, `nats`, perhaps `exp` and `nbf`); iss, iat and jti are set."""
    full = {**claims, "iss": issuer.public, "iat": issued_at}
    digest = hashlib.sha256(msgspec.json.encode(full, order="sorted")).digest()
    full["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = f"{to_base64url(JWT_HEADER)}.{to_base64url(msgspec.json.encode(full))}"
    return f"{signed}.{to_base64url(issuer.sign(signed.encode()))}"


def decode_jwt(token: str) -> Claims:
    """Claims of a token of the mesh; Corrupt unless the issuer it names has signed it."""
    try:
        head, body, signature = token.split(".")
        claims: Claims = msgspec.json.decode(from_base64url(body), type=Claims)
        if verify(claims["iss"], f"{head}.{body}".encode(), from_base64url(signature)):
            return claims
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise Corrupt("state_corrupt", "not a NATS token") from error
    raise Corrupt("state_corrupt", "the token was not signed by the issuer that it names")

"""Makes activation tokens, and checks their secrets by hash."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

import msgspec

from broker_client.runtime.identity import new_identity
from broker_client.runtime.token import SECRET_BYTES, ActivationToken, encode_token
from broker_master.ca.issuer import Issuer
from schemas.ids import check_name


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and its part for the agent's record.

    text: for the operator, shown once. user: the bootstrap key, revoked when the token is
    withdrawn. expires_at: unix seconds.
    """

    text: str
    secret_hash: str
    user: str
    expires_at: int

    def __repr__(self) -> str:
        return f"IssuedToken({self.user})"


def issue_token(
    issuer: Issuer, agent: str, group: str, urls: Sequence[str], *, expires_at: int
) -> IssuedToken:
    """A token with which `agent` may enrol once into `group`; raises Refused (`name_invalid`)."""
    check_name("agent", agent)
    check_name("group", group)
    keys = new_identity(agent)
    issued = issuer.issue("enrol", agent, keys.csr_pem, keys.user, expires_at)
    secret = secrets.token_bytes(SECRET_BYTES)
    token = ActivationToken(
        urls=tuple(urls),
        agent=agent,
        group=group,
        # The authority of the broker's certificate; a token has room for one.
        ca_pem=issuer.broker_ca_pem,
        cert_pem=issued.cert_pem,
        key_pem=keys.key_pem,
        jwt=issued.jwt,
        seed=keys.seed,
        secret=secret,
        expires_at=issued.not_after,
    )
    return IssuedToken(
        text=encode_token(token),
        secret_hash=hash_secret(secret),
        user=keys.user,
        expires_at=issued.not_after,
    )


def hash_secret(secret: bytes) -> str:
    """Hash of a secret, safe to store. The secret is 32 random bytes, so one SHA-256 is enough."""
    return hashlib.sha256(secret).hexdigest()


def is_secret(secret: bytes, secret_hash: str) -> bool:
    """Whether the hash is of `secret`, in constant time."""
    return hmac.compare_digest(hash_secret(secret).encode(), secret_hash.encode())

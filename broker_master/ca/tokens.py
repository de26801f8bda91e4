"""Makes activation tokens, and knows their secrets again without keeping them."""

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
    """A token, and what the agent's record keeps of it.

    text: for the operator, shown once. user: the bootstrap key, to be revoked when the token is
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
        # The broker that it will meet is certified by this one; a token has room for no more.
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
    """What may be kept of a secret. It is 32 random bytes, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret).hexdigest()


def is_secret(secret: bytes, secret_hash: str) -> bool:
    """Whether `secret` is the one that was hashed; takes the same time for every wrong one."""
    return hmac.compare_digest(hash_secret(secret).encode(), secret_hash.encode())

"""The activation token: one line of text with which a new agent enrols.

`mesh1.` and base64url of a msgpack map with four bytes of its SHA-256 in front, so that a damaged
line differs from a forged one. Certificates are DER, and a token stays far below the 4095 bytes
that a terminal accepts as one line.
"""

import base64
import binascii
import hashlib
import hmac
import ssl
import textwrap
from typing import Final

import msgspec

from broker_client.runtime.creds import UserCreds
from broker_client.runtime.identity import Identity
from broker_client.runtime.nkeys import (
    decode_user_jwt,
    from_base64url,
    to_base64url,
)
from broker_client.runtime.tls import client_context_of
from schemas import addresses, codec, limits
from schemas.faults import MeshError, Refused
from schemas.ids import check_name, is_name

PREFIX: Final = "mesh1."
TOKEN_MAX_LEN: Final = 8 * 1024
SECRET_BYTES: Final = 32
URLS_MAX: Final = limits.URLS
_CHECK_BYTES: Final = 4
_KEY_BEGIN: Final = "-----BEGIN PRIVATE KEY-----"
_KEY_END: Final = "-----END PRIVATE KEY-----"


class ActivationToken(msgspec.Struct, frozen=True, kw_only=True):
    """Data for a new agent, with a bootstrap identity that may use `.enrol.<agent>` only.

    secret: proves to the master, which has its hash, that it issued the token. expires_at: unix
    seconds, so that an agent can report expiry before it connects; broker and master enforce it.
    """

    urls: tuple[str, ...]
    agent: str
    group: str
    ca_pem: bytes
    cert_pem: bytes
    key_pem: bytes
    jwt: str
    seed: str
    secret: bytes
    expires_at: int

    def identity(self) -> Identity:
        """Return the bootstrap identity; raises Refused (`token_invalid`) if its parts differ."""
        try:
            context = client_context_of(self.ca_pem, self.cert_pem, self.key_pem)
        except MeshError as error:
            raise _invalid("its certificate or key is damaged") from error
        return Identity(context=context, creds=UserCreds(jwt=self.jwt, seed=self.seed))

    def __repr__(self) -> str:
        return f"ActivationToken({self.agent}, {self.group})"


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    agent: str
    group: str
    ca: bytes
    cert: bytes
    key: bytes
    jwt: str
    seed: str
    secret: bytes
    expires_at: int


def encode_token(token: ActivationToken) -> str:
    """Return one line of text, which is a secret: print it once, never log it."""
    wire = _Wire(
        urls=token.urls,
        agent=token.agent,
        group=token.group,
        ca=ssl.PEM_cert_to_DER_cert(token.ca_pem.decode()),
        cert=ssl.PEM_cert_to_DER_cert(token.cert_pem.decode()),
        key=_key_to_der(token.key_pem),
        jwt=token.jwt,
        seed=token.seed,
        secret=token.secret,
        expires_at=token.expires_at,
    )
    body = codec.encode(wire)
    return PREFIX + to_base64url(_check(body) + body)


def decode_token(text: str) -> ActivationToken:
    """Decode a pasted token; white space around it and line breaks in it are ignored.

    Raises Refused (`token_invalid`) for any other text, without quoting it.
    """
    if len(text) > 2 * TOKEN_MAX_LEN:
        raise _invalid("it is too long")
    line = "".join(text.split())
    if not line.startswith(PREFIX) or len(line) > TOKEN_MAX_LEN:
        raise _invalid(f"it does not begin with {PREFIX}, or is too long")
    try:
        return _read(line.removeprefix(PREFIX))
    except (ValueError, MeshError) as error:
        if isinstance(error, Refused) and error.code == "token_invalid":
            raise
        raise _invalid("it is damaged or incomplete") from error


def _read(encoded: str) -> ActivationToken:
    data = from_base64url(encoded)
    check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    if not hmac.compare_digest(check, _check(body)):
        raise _invalid("it is incomplete or was changed: copy it again")
    wire = codec.decode(_Wire, body)
    _check_fields(wire)
    return ActivationToken(
        urls=tuple(url for url in wire.urls if not _fault(url)),
        agent=wire.agent,
        group=wire.group,
        ca_pem=ssl.DER_cert_to_PEM_cert(wire.ca).encode(),
        cert_pem=ssl.DER_cert_to_PEM_cert(wire.cert).encode(),
        key_pem=_key_to_pem(wire.key),
        jwt=wire.jwt,
        seed=wire.seed,
        secret=wire.secret,
        expires_at=wire.expires_at,
    )


def _check_fields(wire: _Wire) -> None:
    check_name("agent", wire.agent)
    check_name("group", wire.group)
    if not 0 < len(wire.urls) <= URLS_MAX:
        raise _invalid("it has no broker address, or too many")
    faults = [f"{url[:80]}: {why}" for url in wire.urls if (why := _fault(url))]
    if len(faults) == len(wire.urls):
        raise _invalid(f"none of its broker addresses can work: {'; '.join(faults)}")
    if len(wire.secret) != SECRET_BYTES or not 0 < wire.expires_at < 1 << 40:
        raise _invalid("its secret or its end is out of shape")
    claims = decode_user_jwt(wire.jwt)
    fits = UserCreds(jwt=wire.jwt, seed=wire.seed).key_pair().public == claims.user
    if not fits or claims.name != wire.agent or not is_name(claims.name):
        raise _invalid("its parts do not belong together")


def _fault(url: str) -> str:
    is_whole = url.startswith("tls://") and url.rpartition(":")[2].isdigit()
    return addresses.url_fault(url) if is_whole else "it is not tls://HOST:PORT"


def _invalid(reason: str) -> Refused:
    return Refused("token_invalid", f"not an activation token: {reason}")


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _key_to_der(pem: bytes) -> bytes:
    body = pem.decode().strip().removeprefix(_KEY_BEGIN).removesuffix(_KEY_END)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise _invalid("its key is not PKCS 8") from error


def _key_to_pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([_KEY_BEGIN, *lines, _KEY_END, ""]).encode()

"""Ed25519 keys in the format of NATS, and the claims of a NATS user token.

An nkey is base32 of a kind, 32 bytes and a CRC-16; a seed has two kinds, its own and the kind of
its key. Source: the nkeys README of the NATS project. `cryptography` signs.
"""

import base64
import binascii
import secrets
from typing import Final, Literal, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from schemas.faults import Corrupt

Kind = Literal["operator", "account", "user"]

_SEED: Final = 18 << 3
_PREFIXES: Final[dict[Kind, int]] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_KINDS: Final = {prefix: kind for kind, prefix in _PREFIXES.items()}
_KEY_BYTES: Final = 32
_JWT_MAX_LEN: Final = 16 * 1024
JWT_HEADER: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'


class KeyPair:
    """A private key of one kind. The secret seed is in no repr and no message."""

    def __init__(self, kind: Kind, raw_seed: bytes) -> None:
        self.kind: Final[Kind] = kind
        self._raw_seed = raw_seed
        self._key = Ed25519PrivateKey.from_private_bytes(raw_seed)
        public = self._key.public_key().public_bytes_raw()
        self.public: Final = _encode(bytes([_PREFIXES[kind]]) + public)

    @classmethod
    def create(cls, kind: Kind) -> Self:
        return cls(kind, secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: str) -> Self:
        """Return the key of a seed; raises Corrupt without quoting the seed."""
        raw = _decode(seed, _KEY_BYTES + 2)
        prefix = (raw[0] & 0b111) << 5 | raw[1] >> 3
        kind = _KINDS.get(prefix)
        if kind is None or raw[:2] != _seed_head(prefix):
            raise Corrupt("state_corrupt", "not the seed of an operator, account or user")
        return cls(kind, raw[2:])

    @property
    def seed(self) -> str:
        return _encode(_seed_head(_PREFIXES[self.kind]) + self._raw_seed)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def sign_nonce(self, nonce: str) -> bytes:
        """Sign a broker's nonce; returns base64, as nats-py's `signature_cb` must."""
        return base64.b64encode(self.sign(nonce.encode()))

    def __repr__(self) -> str:
        return f"KeyPair({self.kind}, {self.public})"


def check_public(text: str, kind: Kind) -> str:
    """Return `text` if it is the public key of a `kind`, or raise Corrupt."""
    _public_bytes(text, kind)
    return text


def any_kind(public: str) -> set[str]:
    """Return the public keys of all kinds with the same 32 bytes; none for an invalid key."""
    try:
        raw = _public_bytes(public, None)
    except Corrupt:
        return set()
    return {_encode(bytes([prefix]) + raw) for prefix in _KINDS}


def verify(public: str, data: bytes, signature: bytes) -> bool:
    """Whether `signature` of `data` is by `public`, a key of any kind. Corrupt if it is no key."""
    key = Ed25519PublicKey.from_public_bytes(_public_bytes(public, None))
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


class UserClaims(msgspec.Struct, frozen=True, kw_only=True):
    """Claims of a user token; times are whole unix seconds, 0 if absent."""

    name: str
    user: str
    issuer: str
    issued_at: int
    not_before: int
    expires_at: int
    tags: tuple[str, ...]


class _UserPart(msgspec.Struct):
    type: str
    tags: tuple[str, ...] = ()


class _Claims(msgspec.Struct):
    sub: str
    iss: str
    iat: int
    nats: _UserPart
    name: str = ""
    nbf: int = 0
    exp: int = 0


def decode_user_jwt(token: str) -> UserClaims:
    """Decode a user token with a valid signature of the issuer named in it.

    Only the broker knows whether to trust the issuer. Raises Corrupt for any other text.
    """
    try:
        return _read_user_jwt(token)
    except (ValueError, msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise Corrupt("state_corrupt", "not a NATS user token") from error


def _read_user_jwt(token: str) -> UserClaims:
    if len(token) > _JWT_MAX_LEN:
        raise ValueError("too long")
    head, body, signature = token.split(".")
    if from_base64url(head) != JWT_HEADER:
        raise ValueError("another algorithm")
    claims = msgspec.json.decode(from_base64url(body), type=_Claims)
    if claims.nats.type != "user" or not check_public(claims.sub, "user"):
        raise ValueError("another kind of token")
    if not verify(claims.iss, f"{head}.{body}".encode(), from_base64url(signature)):
        raise ValueError("signature does not fit")
    return UserClaims(
        name=claims.name,
        user=claims.sub,
        issuer=claims.iss,
        issued_at=claims.iat,
        not_before=claims.nbf,
        expires_at=claims.exp,
        tags=claims.nats.tags,
    )


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Decode unpadded base64url; raises ValueError for any other character or stray bits."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if to_base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _public_bytes(text: str, kind: Kind | None) -> bytes:
    raw = _decode(text, _KEY_BYTES + 1)
    found = _KINDS.get(raw[0])
    if found is None or kind not in (None, found):
        raise Corrupt("state_corrupt", f"not the public key of {kind or 'any kind'}")
    return raw[1:]


def _seed_head(prefix: int) -> bytes:
    return bytes([_SEED | prefix >> 5, (prefix & 0b11111) << 3])


def _encode(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


def _decode(text: str, size: int) -> bytes:
    """Return the `size` bytes before the checksum; only the canonical spelling is accepted."""
    try:
        checked = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError as error:
        raise Corrupt("state_corrupt", "not an nkey") from error
    raw = checked[:-2]
    if len(raw) != size or _encode(raw) != text:
        raise Corrupt("state_corrupt", "not an nkey: its length or its checksum is wrong")
    return raw

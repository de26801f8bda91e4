"""The identity of one process on disk: its own keys, and the certificate and token for them.

A folder holds `key.pem`, `cert.pem`, `ca.pem` and `user.creds`, as a plain NATS client needs them.
"""

import ssl
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.creds import UserCreds, decode_creds, encode_creds
from broker_client.runtime.files import (
    make_private_directory,
    read_bytes,
    write_private,
    write_public,
)
from broker_client.runtime.nkeys import KeyPair, UserClaims, decode_user_jwt
from broker_client.runtime.tls import client_context, make_csr, new_private_key

CA_FILE: Final = "ca.pem"
CERT_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
CREDS_FILE: Final = "user.creds"


class NewIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Keys made on this host, and the certificate request for the issuer.

    Send `csr_pem` and `user`; keep the rest. The two keys are distinct: the broker chooses the
    nonce that the nkey signs, and must not get signatures of the TLS key this way.
    """

    key_pem: bytes
    csr_pem: bytes
    seed: str
    user: str

    def __repr__(self) -> str:
        return f"NewIdentity({self.user})"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials of a connection: a TLS context, the token and the key of the token."""

    context: ssl.SSLContext
    creds: UserCreds

    @property
    def claims(self) -> UserClaims:
        return decode_user_jwt(self.creds.jwt)

    def __repr__(self) -> str:
        return f"Identity({self.claims.name})"


def new_identity(name: str) -> NewIdentity:
    """Make new keys for `name`, in memory only."""
    key_pem = new_private_key()
    nkey = KeyPair.create("user")
    return NewIdentity(
        key_pem=key_pem, csr_pem=make_csr(name, key_pem), seed=nkey.seed, user=nkey.public
    )


def write_identity(
    folder: Path, keys: NewIdentity, *, cert_pem: bytes, ca_pem: bytes, jwt: str
) -> None:
    """Write an identity to `folder`; the creds last: a folder without them is incomplete."""
    make_private_directory(folder)
    creds = encode_creds(UserCreds(jwt=jwt, seed=keys.seed))
    write_private(folder / KEY_FILE, keys.key_pem)
    write_public(folder / CERT_FILE, cert_pem)
    write_public(folder / CA_FILE, ca_pem)
    write_private(folder / CREDS_FILE, creds)


def read_identity(folder: Path) -> Identity:
    """Load an identity. Raises Refused (`state_missing`, `state_unreadable`) or Corrupt."""
    creds = decode_creds(read_bytes(folder / CREDS_FILE))
    context = client_context(folder / CA_FILE, folder / CERT_FILE, folder / KEY_FILE)
    return Identity(context=context, creds=creds)

"""Renewal of a certificate over the connection in use.

    renew (new keys, proved by the old) ─▶ candidate ─▶ second connection ─▶ selftest ─▶ confirm

Both certificates are valid from the first answer until `confirm`; then the older one is retired.
"""

from typing import Literal

import msgspec

from schemas.messages.enrol import Pem, Signature
from schemas.messages.fields import Label, Token


class RenewalRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New keys, with a proof of possession of both these and the certificate in use.

    csr_pem: signed by the new key; only its public key is used. user_nkey: the new broker key.
    cert_pem: the certificate in use. signature: of `proof_text`, by its key (ECDSA over SHA-256,
    DER). user_signature: of the same text, by the new broker key (Ed25519). The request is
    idempotent: it may be retried until the answer comes.
    """

    csr_pem: Pem
    user_nkey: Label
    cert_pem: Pem
    signature: Signature
    user_signature: Signature


class SelfTest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Test of a new connection; the master echoes it on the agent's own `down` subject."""

    token: Token


class Confirmed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Notice that the certificate `serial` is in use; the answer repeats it, once it is stored."""

    serial: Label


Purpose = Literal["enrolment", "client"]


def key_proof_text(purpose: Purpose, mesh: str, name: str, user_nkey: str, csr_pem: bytes) -> bytes:
    """Return the text signed by a new broker key, so that it is certified for this purpose only."""
    parts = (purpose, mesh, name, user_nkey)
    return b"mesh.v1 key\n%b\n%b" % ("\n".join(parts).encode(), csr_pem)


def proof_text(name: str, user_nkey: str, csr_pem: bytes) -> bytes:
    """Return the text signed by the old key and the new broker key; no other protocol uses it."""
    return b"mesh.v1 renewal\n%b\n%b\n%b" % (name.encode(), user_nkey.encode(), csr_pem)

"""How a holder of a certificate gets its next one, over the connection that it has.

    renew (new keys, proved by the old) ─▶ candidate ─▶ second connection ─▶ selftest ─▶ confirm

Both certificates are good from the first answer until `confirm`; then the older one is retired.
"""

from typing import Literal

import msgspec

from schemas.messages.enrol import Pem, Signature
from schemas.messages.fields import Label, Token


class RenewalRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New keys, and the proof that who asks holds both the certificate in use and them.

    csr_pem: signed by the new key; only its public key is taken. user_nkey: the new broker key.
    cert_pem: the certificate in use. signature: of `proof_text`, by that certificate's key (ECDSA
    over SHA-256, DER). user_signature: of the same text, by the new broker key (Ed25519). The same
    request may be sent again while no answer has come.
    """

    csr_pem: Pem
    user_nkey: Label
    cert_pem: Pem
    signature: Signature
    user_signature: Signature


class SelfTest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From a new connection; the master sends it back on the agent's own `down` subject."""

    token: Token


class Confirmed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The certificate of this serial is in use now; the answer says the same, once it is kept."""

    serial: Label


Purpose = Literal["enrolment", "client"]


def key_proof_text(purpose: Purpose, mesh: str, name: str, user_nkey: str, csr_pem: bytes) -> bytes:
    """What a new broker key signs, so that it is certified for nothing but this."""
    parts = (purpose, mesh, name, user_nkey)
    return b"mesh.v1 key\n%b\n%b" % ("\n".join(parts).encode(), csr_pem)


def proof_text(name: str, user_nkey: str, csr_pem: bytes) -> bytes:
    """What the old key and the new broker key sign; no other protocol signs such a text."""
    return b"mesh.v1 renewal\n%b\n%b\n%b" % (name.encode(), user_nkey.encode(), csr_pem)

"""A new agent's request for its identity, and the answer."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.messages.fields import Label, Text, Timestamp

Pem = Annotated[str, Meta(max_length=16_384)]
Signature = Annotated[bytes, Meta(min_length=8, max_length=256)]
Secret = Annotated[bytes, Meta(min_length=16, max_length=64)]


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From the bearer of an activation token. The agent's name is in the subject, not here.

    csr_pem: signed by the key that was made on the host; only its public key is used. user_nkey:
    public half of the broker key that was made on the host. user_signature: of
    `renewal.key_proof_text` (purpose `enrolment`), by the broker key; agents of 0.1.0 send none.
    The request is idempotent: a retry with the same keys gets the same answer.
    """

    secret: Secret
    csr_pem: Pem
    user_nkey: Label
    user_signature: Signature = b""
    host: Label = ""
    version: Label = ""


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Identity of a new agent, beside its own keys; `not_after` ends both certificate and JWT."""

    mesh: Label
    agent: Label
    group: Label
    urls: Annotated[list[Text], Meta(max_length=32)]
    cert_pem: Pem
    ca_pem: Pem
    jwt: Annotated[str, Meta(max_length=16_384)]
    serial: Label
    not_after: Timestamp

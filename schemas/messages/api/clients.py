"""`client.*`: identities that may call verbs."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.messages.api.base import Request
from schemas.messages.api.certificates import CertificateRecord
from schemas.messages.enrol import Pem, Signature
from schemas.messages.fields import Label, Name


class ClientList(Request, frozen=True, kw_only=True):
    """`client.list`, by name. cursor: from the previous page."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 5000
    cursor: Name | None = None


class ClientCreate(Request, frozen=True, kw_only=True):
    """`client.create`: the caller makes the keys; only their public halves travel.

    user_signature: of `renewal.key_proof_text` (purpose `client`), by the broker key; command lines
    of 0.1.0 send none.
    """

    name: Name
    role: Label
    groups: Annotated[list[Name], Meta(max_length=limits.MAP_LEN)] = []
    csr_pem: Pem
    user_nkey: Label
    user_signature: Signature = b""


class IdentityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """New identity of a client, to be stored beside its keys."""

    mesh: str
    name: str
    role: str
    urls: list[str]
    cert_pem: str
    ca_pem: str
    jwt: str
    serial: str
    not_after: str


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A client. addresses: as in `AgentRecord`."""

    client: str
    role: str
    groups: list[str]
    certificate: CertificateRecord | None
    created_at: str
    addresses: str = ""


class ClientsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one."""

    clients: list[ClientRecord]
    cursor: str | None = None

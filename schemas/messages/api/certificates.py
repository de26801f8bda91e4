"""`certificate.*` and `ca.*`: certificates, trusted authorities and the rotation of keys."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.messages.api.base import Request
from schemas.messages.fields import Label, Text, Urls


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """warning: empty, or `expired`, the time left, or the reason for a failed renewal."""

    serial: str
    not_after: str
    days_left: float
    warning: str = ""


class CertificateList(Request, frozen=True, kw_only=True):
    """`certificate.list`, the first to expire first. expiring_s: only those with less time left.

    cursor: from the previous page.
    """

    expiring_s: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Text | None = None


class HoldingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its holder, of kind `agent`, `client`, `broker`, `master` or `authority`.

    authority: generation of its issuer. warning: as in `CertificateRecord`.
    """

    kind: str
    name: str
    group: str
    serial: str
    not_after: str
    days_left: float
    warning: str
    authority: int


class CertificatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """cursor: of the next page; None: this is the last one."""

    certificates: list[HoldingRecord]
    cursor: str | None = None


class CaRotate(Request, frozen=True, kw_only=True):
    """`ca.rotate`: one step of a rotation.

    key: `authority`, the role of a signing key, `system` for that of the system account, or
    `nats-operator`. force: even if agents or clients are cut off.
    """

    step: Literal["prepare", "activate", "taint", "revoke"]
    key: Label = "authority"
    force: bool = False


class RotationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """State of the rotation of one key.

    stage: `settled`, `prepared`, `activated` or `tainted`; since: when it began; next: the step
    that is due. active: generation that signs; other: second trusted generation, 0 for none.
    waiting_for: agents and clients that `next` would cut off, as `agent web-1`; of the operator's
    key the broker nodes that do not trust the right ones yet, as `broker mesh-1`. waiting: number
    of all of them.
    """

    key: str
    stage: str
    since: str | None
    next: str
    active: int
    other: int
    not_after: str | None = None
    waiting_for: list[str] = []
    waiting: int = 0


class CaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`ca.show`, and the state after `ca.rotate`. note: next thing to do, or empty."""

    rotations: list[RotationRecord]
    note: str = ""


class TrustQuery(Request, frozen=True, kw_only=True):
    """`certificate.trust`: state of the caller. known: digest of the authorities that it trusts.

    serial: of the certificate in use; confirms a renewed one. addresses: digest of the broker
    addresses that it uses.
    """

    known: Label = ""
    serial: Label = ""
    addresses: Label = ""


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """ca_pem: the authorities to trust, empty if the caller knows them. renew: now, without delay.

    urls: addresses of the brokers from now on; empty from masters of 0.1.0.
    """

    ca_pem: str
    renew: bool = False
    urls: Urls = []

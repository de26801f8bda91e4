"""`certificate.*` and `ca.*`: what was issued, whom to trust, how keys are replaced."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.messages.api.base import Request
from schemas.messages.fields import Label, Text, Urls


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """warning: empty, how soon it ends, `expired`, or why it could not be renewed."""

    serial: str
    not_after: str
    days_left: float
    warning: str = ""


class CertificateList(Request, frozen=True, kw_only=True):
    """`certificate.list`, the first to end first. expiring_s: only what ends within that time.

    cursor: as the page before gave it.
    """

    expiring_s: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 200
    cursor: Text | None = None


class HoldingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and whose it is: an `agent`, a `client`, `broker`, `master` or `authority`.

    authority: the generation that has issued it. warning: empty, how soon it ends, `expired`, or
    why it could not be renewed.
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
    """cursor: pass it to get the next page; None: there is no more."""

    certificates: list[HoldingRecord]
    cursor: str | None = None


class CaRotate(Request, frozen=True, kw_only=True):
    """`ca.rotate`: one step. key: `authority`, or the role whose signing key is replaced.

    force: although somebody would be cut off.
    """

    step: Literal["prepare", "activate", "taint", "revoke"]
    key: Label = "authority"
    force: bool = False


class RotationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the replacement of one key stands.

    stage: `settled`, `prepared`, `activated` or `tainted`, since when, and the step that is due
    (`next`). active: the generation that signs; other: the one beside it, 0 for none. waiting_for:
    who would be cut off by `next`, as `agent web-1`; waiting: how many those are in all.
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
    """`ca.show`, and what `ca.rotate` has led to. note: what is left to do, if anything."""

    rotations: list[RotationRecord]
    note: str = ""


class TrustQuery(Request, frozen=True, kw_only=True):
    """`certificate.trust`: what the caller has. known: the digest of the authorities it trusts.

    serial: of the certificate in use; one that was renewed is confirmed by that. addresses: the
    digest of those under which it looks for brokers.
    """

    known: Label = ""
    serial: Label = ""
    addresses: Label = ""


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """ca_pem: the authorities to trust, empty if the caller knows them. renew: do it now.

    urls: under which brokers are found from now on; empty from masters of 0.1.0.
    """

    ca_pem: str
    renew: bool = False
    urls: Urls = []

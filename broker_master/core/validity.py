"""Valid certificates, their ends, and warnings."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from broker_master.core.badges import certificate_warning
from schemas.messages.registry import CertificateEntry
from schemas.moments import rfc3339

Kind = Literal["agent", "client", "broker", "master", "authority"]
Order = tuple[float, str, str, str]
# Clients renew when two thirds of the life are over; this much later it is overdue.
_DUE: Final = 2 / 3
_OVERDUE: Final = 3 / 4


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its holder. group: an agent's. failed: why it could not be renewed."""

    kind: Kind
    name: str
    entry: CertificateEntry
    group: str = ""
    failed: str = ""

    @property
    def order(self) -> Order:
        """The first to end comes first; no two have the same place."""
        return (self.entry.not_after, self.kind, self.name, self.entry.serial)

    def warning(self, at: float) -> str:
        """Empty, or the fault: how soon it ends, and whether its renewal has failed."""
        told = [
            certificate_warning(self.entry, at),
            self.kind == "client" and overdue(self.entry, at),
            self.failed and f"renewal failed: {self.failed}",
        ]
        return "; ".join(each for each in told if each)


def overdue(entry: CertificateEntry, at: float) -> str:
    """Empty, or since when a client should have renewed its certificate.

    The client is not in use, or its renewals fail: it logs why, and `mesh doctor` there finds it.
    """
    life_s = entry.not_after - entry.issued_at
    if at >= entry.not_after or at < entry.issued_at + life_s * _OVERDUE:
        return ""
    return f"not renewed by its client since {rfc3339(entry.issued_at + life_s * _DUE)}"


def page(
    holdings: Iterable[Holding], *, until: float | None, after: Order | None, limit: int
) -> tuple[list[Holding], bool]:
    """The first `limit` that end before `until`, behind `after`; and whether there are more."""
    found = sorted(
        (
            each
            for each in holdings
            if (until is None or each.entry.not_after <= until or each.failed)
            and (after is None or each.order > after)
        ),
        key=lambda each: each.order,
    )
    return found[:limit], len(found) > limit


def warnings_at(holdings: Iterable[Holding], at: float) -> dict[str, str]:
    """Warnings at the wall time `at`, by serial."""
    return {each.entry.serial: text for each in holdings if (text := each.warning(at))}


def fresh_warnings(
    holdings: Iterable[Holding], told: Mapping[str, str], at: float
) -> tuple[list[tuple[Holding, str]], dict[str, str]]:
    """Unreported warnings, and all present ones by serial."""
    warnings = {each.entry.serial: (each, each.warning(at)) for each in holdings}
    now = {serial: text for serial, (_, text) in warnings.items() if text}
    fresh = [
        (each, text)
        for serial, (each, text) in warnings.items()
        if text and told.get(serial) != text
    ]
    return fresh, now

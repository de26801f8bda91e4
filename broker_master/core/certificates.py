"""The certificates of one holder: valid ones, candidates, and retired ones.

    candidate ──confirmed──▶ in use ──its successor is confirmed──▶ retired ──not_after──▶ forgotten
        └──not confirmed in time──▶ retired

The confirmed one and a candidate are both valid: the holder may connect with either.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.faults import Refused
from schemas.messages.registry import CertificateEntry
from schemas.spans import DAY_S

Entries = Sequence[CertificateEntry]
# Entries of one holder, retired ones included, until their end: a renewal a day is far below it.
KEPT_MAX: Final = 200


def is_good(entry: CertificateEntry, at: float) -> bool:
    return not entry.retired_at and entry.not_after > at


def find_good(entries: Entries, serial: str, at: float) -> CertificateEntry | None:
    """The entry of this serial, if it is valid."""
    return next((each for each in entries if each.serial == serial and is_good(each, at)), None)


def days_left(entry: CertificateEntry, at: float) -> float:
    """Days until its end, to the hundredth; 0 once that has passed."""
    return round(max(0.0, entry.not_after - at) / DAY_S, 2)


def has_candidate(entries: Entries, at: float) -> bool:
    """Whether two keys are valid: the candidate's, and the one to be replaced."""
    return any(each.candidate_until and is_good(each, at) for each in entries)


def newest_confirmed(entries: Entries) -> CertificateEntry | None:
    """The newest confirmed certificate; else the newest of all."""
    confirmed = [each for each in entries if not each.candidate_until and not each.retired_at]
    return confirmed[-1] if confirmed else (entries[-1] if entries else None)


def with_candidate(entries: Entries, new: CertificateEntry, at: float) -> list[CertificateEntry]:
    """Add a candidate. An earlier one for the same key is replaced; other candidates are retired.

    Raises Refused (`rate_limited`) if too many have not ended: all are in the holder's entry, which
    must stay small enough for a revocation to be stored in it.
    """
    kept = [
        _retired(each, at) if each.candidate_until and not each.retired_at else each
        for each in entries
        if each.not_after > at and each.user_nkey != new.user_nkey
    ]
    if len(kept) >= KEPT_MAX:
        raise Refused("rate_limited", f"{len(kept)} of its certificates have not ended yet")
    return [*kept, new]


def with_confirmed(entries: Entries, serial: str, at: float) -> list[CertificateEntry]:
    """Confirm the certificate of this serial: all issued before it are retired."""
    place = next(n for n, each in enumerate(entries) if each.serial == serial)
    return [
        *(_retired(each, at) for each in entries[:place] if each.not_after > at),
        msgspec.structs.replace(entries[place], candidate_until=0.0),
        *entries[place + 1 :],
    ]


def has_late_candidates(entries: Entries, in_use: str, at: float) -> bool:
    """Whether a candidate was not confirmed in time. in_use: a serial of a live connection."""
    return any(_is_late(each, in_use, at) for each in entries)


def without_late_candidates(entries: Entries, in_use: str, at: float) -> list[CertificateEntry]:
    """Retire candidates that were not confirmed in time. in_use: a serial of a live connection."""
    return [_retired(each, at) if _is_late(each, in_use, at) else each for each in entries]


def _is_late(entry: CertificateEntry, in_use: str, at: float) -> bool:
    is_overdue = 0 < entry.candidate_until <= at
    return is_overdue and not entry.retired_at and entry.serial != in_use


def all_retired(entries: Entries, at: float) -> list[CertificateEntry]:
    """Retire all of these from now on."""
    return [_retired(each, at) for each in entries]


def is_shut_out(entries: Entries) -> bool:
    """Whether every certificate was retired, and no new one was issued."""
    return bool(entries) and all(each.retired_at for each in entries)


def to_be_refused(
    entries: Entries, at: float, *, is_barred: bool = False
) -> list[CertificateEntry]:
    """Invalid certificates that the broker would admit: their keys have to be refused.

    is_barred: no certificate of this holder is valid.
    """
    return [each for each in entries if (is_barred or each.retired_at) and each.not_after > at]


def _retired(entry: CertificateEntry, at: float) -> CertificateEntry:
    return entry if entry.retired_at else msgspec.structs.replace(entry, retired_at=at)

"""Which of one holder's certificates are good, and which the broker must refuse."""

from broker_master.core.certificates import (
    all_retired,
    find_good,
    has_late_candidates,
    is_shut_out,
    newest_confirmed,
    to_be_refused,
    with_candidate,
    with_confirmed,
    without_late_candidates,
)
from schemas.messages.registry import CertificateEntry


def entry(
    serial: str,
    *,
    not_after: float = 1000.0,
    candidate_until: float = 0.0,
    retired_at: float = 0.0,
) -> CertificateEntry:
    return CertificateEntry(
        serial=serial,
        user_nkey=f"U{serial}",
        not_after=not_after,
        candidate_until=candidate_until,
        retired_at=retired_at,
    )


def serials(entries: list[CertificateEntry]) -> list[str]:
    return [each.serial for each in entries]


def test_old_and_candidate_are_both_good_until_the_candidate_is_confirmed() -> None:
    entries = with_candidate([entry("a")], entry("b", candidate_until=50.0), 10.0)
    assert find_good(entries, "a", 10.0)
    assert find_good(entries, "b", 10.0)
    assert to_be_refused(entries, 10.0) == []
    in_use = newest_confirmed(entries)
    assert in_use is not None
    assert in_use.serial == "a"
    confirmed = with_confirmed(entries, "b", 20.0)
    assert not find_good(confirmed, "a", 20.0)
    assert find_good(confirmed, "b", 60.0)
    assert serials(to_be_refused(confirmed, 20.0)) == ["a"]
    assert with_confirmed(confirmed, "b", 30.0) == confirmed


def test_same_keys_again_take_the_place_and_other_keys_retire_the_candidate() -> None:
    entries = with_candidate([entry("a")], entry("b", candidate_until=50.0), 10.0)
    again = CertificateEntry(serial="c", not_after=1000, user_nkey="Ub", candidate_until=60.0)
    assert serials(with_candidate(entries, again, 11.0)) == ["a", "c"]
    other = with_candidate(entries, entry("d", candidate_until=60.0), 11.0)
    assert serials(to_be_refused(other, 11.0)) == ["b"]


def test_a_candidate_that_nobody_used_in_time_is_refused_and_one_in_use_is_not() -> None:
    entries = [entry("a"), entry("b", candidate_until=50.0)]
    assert without_late_candidates(entries, "a", 49.0) == entries
    assert without_late_candidates(entries, "b", 51.0) == entries
    late = without_late_candidates(entries, "a", 51.0)
    assert serials(to_be_refused(late, 51.0)) == ["b"]


def test_a_candidate_is_late_until_it_is_retired_and_never_again() -> None:
    entries = [entry("a"), entry("b", candidate_until=50.0)]
    assert not has_late_candidates(entries, "a", 49.0)
    assert has_late_candidates(entries, "a", 51.0)
    assert not has_late_candidates(entries, "b", 51.0)
    assert not has_late_candidates(without_late_candidates(entries, "a", 51.0), "a", 90.0)
    replaced = with_candidate(entries, entry("c", candidate_until=95.0), 11.0)
    assert not has_late_candidates(replaced, "a", 90.0)


def test_expired_certificate_needs_no_revocation() -> None:
    ended = [entry("a", retired_at=5.0)]
    assert to_be_refused(ended, 1001.0) == []
    assert find_good([entry("a")], "a", 1000.0) is None
    assert serials(with_candidate(ended, entry("b", not_after=3000.0), 1001.0)) == ["b"]


def test_of_whoever_is_barred_all_that_has_not_ended_is_refused() -> None:
    entries = [entry("a"), entry("b", candidate_until=50.0), entry("c", not_after=5.0)]
    assert to_be_refused(entries, 10.0) == []
    assert serials(to_be_refused(entries, 10.0, is_barred=True)) == ["a", "b"]


def test_revoked_agent_is_shut_out_until_it_has_a_new_certificate() -> None:
    entries = all_retired([entry("a", retired_at=3.0), entry("b")], 10.0)
    assert [each.retired_at for each in entries] == [3.0, 10.0]
    assert is_shut_out(entries)
    assert not is_shut_out([*entries, entry("c")])
    assert not is_shut_out([])

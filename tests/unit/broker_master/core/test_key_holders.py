import msgspec

from broker_master.core.key_holders import Holder, Present, cut_off_by, holders
from broker_master.core.validity import Holding, fresh_warnings, page
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry
from schemas.moments import rfc3339

DAY_S = 86_400.0
NOW = 1000 * DAY_S


def held(serial: str = "s", *, days: float = 90.0, **fields: float) -> CertificateEntry:
    made = {"issued_at": NOW - 90 * DAY_S, "not_after": NOW + days * DAY_S, **fields}
    return msgspec.convert({"serial": serial, "user_nkey": "U", **made}, CertificateEntry)


def agent(
    name: str, *certificates: CertificateEntry, admin: str = "enabled", trust: str = ""
) -> AgentEntry:
    return AgentEntry(
        name=name,
        group="web",
        created_at=1.0,
        certificates=list(certificates),
        admin=admin,
        trust=trust,
    )


def client(name: str, role: str, *certificates: CertificateEntry, trust: str = "") -> ClientEntry:
    return ClientEntry(
        name=name, role=role, created_at=1.0, certificates=list(certificates), trust=trust
    )


def stuck(step: str, key: str, generation: int, *found: Holder) -> list[str]:
    agents = [each for each in found if isinstance(each, AgentEntry)]
    clients = [each for each in found if isinstance(each, ClientEntry)]
    present = Present(key=key, generation=generation, trust="new")
    return cut_off_by(step, holders(key, agents, clients, NOW), present)


def test_activate_waits_for_all_who_do_not_trust_the_new_authority() -> None:
    found = (
        agent("a-1", held()),
        agent("a-2", held(), trust="new"),
        agent("gone", held(), admin="revoked"),
        agent("shut-out", held(retired_at=NOW - 1)),
        agent("over", held(days=-1)),
        agent("never-set-up"),
        client("ann", "admin", held(), trust="old"),
        client("bob", "viewer", held(), trust="new"),
    )
    assert stuck("activate", "authority", 1, *found) == ["agent a-1", "client ann"]
    assert stuck("activate", "agent", 1, *found) == [], "the broker knows of keys at once"
    assert stuck("prepare", "authority", 1, *found) == []
    assert stuck("taint", "authority", 1, *found) == []


def test_revoke_waits_for_all_who_use_what_the_old_one_has_issued() -> None:
    candidate = held("next", authority=2, signer=2, candidate_until=NOW + 60)
    found = (
        agent("a-1", held()),
        agent("a-2", held(), held("new", authority=2, signer=2)),
        agent("a-3", held(), candidate),
        client("ann", "admin", held(authority=2)),
        client("bob", "viewer", held()),
    )
    assert stuck("revoke", "authority", 2, *found) == ["agent a-1", "agent a-3", "client bob"]
    assert stuck("revoke", "agent", 2, *found) == ["agent a-1", "agent a-3"]
    assert stuck("revoke", "viewer", 2, *found) == ["client bob"]
    assert stuck("revoke", "enrol", 2, *found) == []


def test_the_first_to_end_comes_first_and_pages_go_on() -> None:
    found = [
        Holding(kind="agent", name=f"a-{n}", entry=held(f"s{n}", days=days))
        for n, days in enumerate((50, 5, 20, 400))
    ]
    first, more = page(found, until=NOW + 60 * DAY_S, after=None, limit=2)
    assert [each.name for each in first] == ["a-1", "a-2"]
    assert more
    rest, more = page(found, until=NOW + 60 * DAY_S, after=first[-1].order, limit=2)
    assert [each.name for each in rest] == ["a-0"]
    assert not more


def test_failed_renewal_is_listed_whenever_it_ends_and_each_warning_is_reported_once() -> None:
    failed = Holding(kind="agent", name="a-1", entry=held("s1", days=85), failed="disk full")
    soon = Holding(kind="agent", name="a-2", entry=held("s2", days=6))
    well = Holding(kind="agent", name="a-3", entry=held("s3", days=80, issued_at=NOW))
    everyone = [failed, soon, well]
    assert page(everyone, until=NOW + 30 * DAY_S, after=None, limit=9)[0] == [soon, failed]
    fresh, told = fresh_warnings(everyone, {}, NOW)
    assert {each.name: text for each, text in fresh}["a-2"] == "ends within 7 days"
    assert "renewal failed: disk full" in told["s1"]
    assert "s3" not in told
    assert fresh_warnings(everyone, told, NOW)[0] == []
    later, _ = fresh_warnings(everyone, told, NOW + 5.5 * DAY_S)
    assert [(each.name, text) for each, text in later] == [("a-2", "ends within 1 day")]


def test_client_that_does_not_renew_is_warned_of_from_three_quarters_of_its_life_on() -> None:
    """Two thirds are when it is due; agents say themselves why they could not."""
    entry = held(days=90, issued_at=NOW - 270 * DAY_S)  # a life of 360 days
    late = f"not renewed by its client since {rfc3339(NOW - 30 * DAY_S)}"
    for kind, at, said in (
        ("client", NOW - 1, ""),
        ("client", NOW, f"ends within 90 days; {late}"),
        ("client", entry.not_after - 1, f"ends within 1 day; {late}"),
        ("client", entry.not_after, "expired"),
        ("agent", NOW, "ends within 90 days"),
    ):
        assert Holding(kind=kind, name="x", entry=entry).warning(at) == said  # type: ignore[arg-type]

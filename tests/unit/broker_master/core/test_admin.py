"""The moves between what operators want of an agent, and since when it has been silent."""

from collections.abc import Callable

import msgspec
import pytest

from broker_master.core import admin
from broker_master.core.liveness import Presence
from schemas.faults import Refused
from schemas.messages.registry import AdminTerm, AgentEntry, CertificateEntry, TokenEntry
from schemas.states import Admin, Liveness
from tests.fake_clock import EPOCH

ENTRY = AgentEntry(name="web-1", group="web", created_at=EPOCH, connected=True)
DAY_S = 86_400.0
Move = Callable[[AgentEntry], AgentEntry]


def enable(entry: AgentEntry) -> AgentEntry:
    return admin.enable(entry, by="ops", at=EPOCH + 2)


def disable(entry: AgentEntry) -> AgentEntry:
    return admin.disable(entry, by="ops", at=EPOCH + 2, note="new disk")


def pause(entry: AgentEntry) -> AgentEntry:
    return admin.pause(entry, by="ops", at=EPOCH + 2, until=EPOCH + 60, note="new disk")


def with_admin(state: Admin) -> AgentEntry:
    return msgspec.structs.replace(ENTRY, admin=state, admin_term=AdminTerm(until=EPOCH + 9))


@pytest.mark.parametrize(
    ("move", "before", "after", "until"),
    [
        (enable, Admin.DISABLED, Admin.ENABLED, 0.0),
        (enable, Admin.PAUSED, Admin.ENABLED, 0.0),
        (disable, Admin.ENABLED, Admin.DISABLED, 0.0),
        (disable, Admin.PAUSED, Admin.DISABLED, 0.0),
        (pause, Admin.ENABLED, Admin.PAUSED, EPOCH + 60),
        (pause, Admin.PAUSED, Admin.PAUSED, EPOCH + 60),
    ],
)
def test_each_move_notes_who_when_why_and_until_when(
    move: Move, before: Admin, after: Admin, until: float
) -> None:
    moved = move(with_admin(before))
    note = "" if after is Admin.ENABLED else "new disk"
    said = (
        moved.admin,
        moved.admin_by,
        moved.admin_since,
        moved.admin_term.note,
        moved.admin_term.until,
    )
    assert said == (after, "ops", EPOCH + 2, note, until)


@pytest.mark.parametrize("move", [enable, disable, pause])
@pytest.mark.parametrize(
    ("state", "code"), [(Admin.REVOKED, "agent_revoked"), (Admin.DELETED, "agent_leaving")]
)
def test_agent_with_refused_credentials_is_not_moved(move: Move, state: Admin, code: str) -> None:
    with pytest.raises(Refused) as refused:
        move(with_admin(state))
    assert refused.value.code == code


def test_pause_does_not_enable_what_was_disabled_for_good() -> None:
    with pytest.raises(Refused) as refused:
        pause(with_admin(Admin.DISABLED))
    assert refused.value.code == "agent_disabled"


def test_change_to_the_present_state_is_idempotent() -> None:
    assert enable(ENTRY) is ENTRY
    disabled = disable(ENTRY)
    assert admin.disable(disabled, by="another", at=EPOCH + 3) is disabled
    assert admin.disable(disabled, by="another", at=EPOCH + 3, note="why").admin_by == "another"


def test_deleted_agent_is_not_revoked_and_stays_deleted() -> None:
    deleted = admin.bar(ENTRY, Admin.DELETED, by="ops", at=EPOCH)
    assert admin.bar(deleted, Admin.REVOKED, by="ops", at=EPOCH) is deleted
    revoked = admin.bar(ENTRY, Admin.REVOKED, by="ops", at=EPOCH)
    assert admin.bar(revoked, Admin.DELETED, by="ops", at=EPOCH).admin == Admin.DELETED


def test_pause_ends_at_its_time_and_nothing_else_does() -> None:
    paused = pause(ENTRY)
    assert admin.end_pause(paused, at=EPOCH + 59.9) is paused
    ended = admin.end_pause(paused, at=EPOCH + 60)
    assert (ended.admin, ended.admin_term.note, ended.admin_term.until) == (Admin.ENABLED, "", 0.0)
    disabled = disable(ENTRY)
    assert admin.end_pause(disabled, at=EPOCH + DAY_S) is disabled


def test_agent_joins_the_group_it_was_sent_to_and_no_other() -> None:
    sent = admin.move(ENTRY, "db")
    assert (sent.group, sent.moving_to) == ("web", "db")
    assert admin.arrive(sent, "cache") is sent
    arrived = admin.arrive(sent, "db")
    assert (arrived.group, arrived.moving_to) == ("db", "")
    assert admin.arrive(arrived, "db") is arrived
    assert admin.move(sent, "web") == ENTRY
    with pytest.raises(Refused):
        admin.move(with_admin(Admin.REVOKED), "db")


# -- silence


def presence(liveness: Liveness, *, heard_at: float = 0.0, given_up: bool = False) -> Presence:
    return Presence(
        agent="web-1",
        group="web",
        liveness=liveness,
        heard_at=heard_at,
        given_up=given_up,
        reconciled=liveness is Liveness.LIVE,
    )


def silent_since(entry: AgentEntry, seen: Presence | None) -> float | None:
    return admin.silent_since(entry, seen, at=EPOCH + 50 * DAY_S, started_at=EPOCH + 40 * DAY_S)


SILENT = presence(Liveness.SILENT)
CERTIFICATE = CertificateEntry(serial="a", not_after=0, user_nkey="U", issued_at=EPOCH + DAY_S)
OPEN = TokenEntry(hash="h", expires_at=EPOCH + 51 * DAY_S)
OVER = TokenEntry(hash="h", expires_at=EPOCH + 3600)


@pytest.mark.parametrize(
    ("fields", "seen", "since"),
    [
        pytest.param({}, presence(Liveness.LIVE), None, id="live"),
        pytest.param(
            {"seen_at": EPOCH}, presence(Liveness.SILENT, heard_at=EPOCH + 5), EPOCH + 5, id="heard"
        ),
        pytest.param({"seen_at": EPOCH + 5}, SILENT, EPOCH + 5, id="heard by an earlier master"),
        pytest.param({}, SILENT, EPOCH + 40 * DAY_S, id="nobody wrote down when"),
        pytest.param(
            {"seen_at": EPOCH, "certificates": [CERTIFICATE]},
            SILENT,
            EPOCH + DAY_S,
            id="set up again since",
        ),
        pytest.param({"connected": False, "token": OPEN}, None, None, id="may still be set up"),
        pytest.param(
            {"connected": False, "token": OVER}, None, EPOCH + 3600, id="was never set up"
        ),
    ],
)
def test_silence_counts_from_the_last_sign_of_life(
    fields: dict[str, object], seen: Presence | None, since: float | None
) -> None:
    assert silent_since(msgspec.structs.replace(ENTRY, **fields), seen) == since


@pytest.mark.parametrize(
    ("seen_at", "seen", "noted"),
    [
        (0.0, presence(Liveness.SILENT, heard_at=EPOCH + 5), 0.0),
        (0.0, presence(Liveness.SILENT, heard_at=EPOCH + 5, given_up=True), EPOCH + 5),
        (0.0, presence(Liveness.SILENT, given_up=True), EPOCH + 40),
        (EPOCH, presence(Liveness.SILENT, given_up=True), EPOCH),
        (EPOCH, presence(Liveness.SILENT, heard_at=EPOCH + 5, given_up=True), EPOCH + 5),
        (EPOCH, presence(Liveness.LIVE, heard_at=EPOCH + 5), 0.0),
    ],
)
def test_last_sign_of_life_is_written_down_once_it_may_be_the_last(
    seen_at: float, seen: Presence, noted: float
) -> None:
    entry = msgspec.structs.replace(ENTRY, seen_at=seen_at)
    after = admin.seen(entry, seen, started_at=EPOCH + 40)
    assert after.seen_at == noted
    assert admin.seen(after, seen, started_at=EPOCH + 40) is after

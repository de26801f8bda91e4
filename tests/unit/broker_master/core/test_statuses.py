"""Since when a status holds, its listeners, and the knowledge of a successor."""

import msgspec

from broker_master.core.liveness import Presence, Roster, Silence
from broker_master.core.standing import Cause
from broker_master.core.statuses import Past, StatusChange, Statuses, restore
from schemas import codec
from schemas.messages.registry import AgentEntry
from schemas.states import Admin, AgentStatus, GroupStatus, Liveness
from schemas.timers import Timers

ENTRY = AgentEntry(name="web-1", group="web", created_at=1.0, connected=True)
STARTED = 1000.0


class Master:
    """One master's memory of `web-1`; its successor is made from what it leaves behind."""

    def __init__(self, before: "Master | None" = None, at: float = STARTED) -> None:
        self.told: list[StatusChange] = []
        self.statuses = Statuses(self.told.append)
        self.entry: AgentEntry = before.entry if before is not None else ENTRY
        self.roster = Roster(Timers(), now_s=at)
        self.seen = self.roster.add("web", "web-1", connected=self.entry.connected, at=at, now_s=at)
        if before is not None:
            pasts = before.statuses.pasts([before.entry], before.roster)
            kept = codec.decode_trusted(dict[str, Past], codec.encode(pasts))
            self.statuses.recall(kept, before.statuses.groups())
            restore(self.seen, kept["web-1"])

    def judge(self, at: float) -> tuple[AgentStatus, Cause, float]:
        standing = self.statuses.judge(self.entry, self.seen, at)
        return standing.status, standing.cause, self.statuses.since(standing)

    def lives(self, at: float, incarnation: str = "i1") -> None:
        self.seen.liveness, self.seen.silence, self.seen.since = Liveness.LIVE, Silence.NONE, at
        self.seen.incarnation, self.seen.reconciled, self.seen.heard_at = incarnation, True, at

    def falls_silent(self, at: float, why: Silence = Silence.NO_BEAT) -> None:
        self.seen.liveness, self.seen.silence, self.seen.since = Liveness.SILENT, why, at
        self.seen.silent_for_s, self.seen.reconciled = 10.0, False

    @property
    def moves(self) -> list[tuple[AgentStatus, AgentStatus, float]]:
        return [(each.old, each.new, each.at) for each in self.told]


def test_change_is_reported_once_with_its_moment_and_cause() -> None:
    master = Master()
    master.lives(1001.0)
    assert master.judge(1001.0) == (AgentStatus.ACTIVE, Cause.READY, 1001.0)
    assert not master.told
    master.falls_silent(1010.0)
    for at in (1010.0, 1020.0):
        assert master.judge(at) == (AgentStatus.NO_RESPONSE, Cause.NO_BEAT, 1010.0)
    change = StatusChange(
        "web-1",
        "web",
        AgentStatus.ACTIVE,
        AgentStatus.NO_RESPONSE,
        Cause.NO_BEAT,
        1010.0,
        "no beat for 10 s",
    )
    assert master.told == [change]


def test_another_cause_of_the_same_status_leaves_its_since() -> None:
    master = Master()
    master.lives(1001.0)
    master.judge(1001.0)
    master.falls_silent(1010.0)
    master.judge(1010.0)
    master.seen.silence = Silence.LOST
    assert master.judge(1050.0) == (AgentStatus.NO_RESPONSE, Cause.LOST, 1010.0)
    assert len(master.told) == 1


def test_disabled_since_somebody_said_so() -> None:
    master = Master()
    master.lives(1001.0)
    master.judge(1001.0)
    master.entry = msgspec.structs.replace(ENTRY, admin=Admin.PAUSED, admin_since=1005.0)
    assert master.judge(1006.0)[2] == 1005.0
    master.entry = msgspec.structs.replace(ENTRY, admin=Admin.DISABLED, admin_since=1007.0)
    assert master.judge(1008.0)[2] == 1007.0
    master.entry = msgspec.structs.replace(ENTRY, admin=Admin.DISABLED)
    assert master.judge(1009.0)[2] == 1006.0, "an entry without a moment: since it was noticed"


def test_awaiting_setup_since_it_was_created() -> None:
    master = Master()
    master.entry, master.seen.liveness = msgspec.structs.replace(ENTRY), Liveness.NEVER
    assert master.judge(1001.0) == (AgentStatus.AWAITING_SETUP, Cause.NO_TOKEN, 1.0)


def test_new_agent_of_an_old_name_begins_anew() -> None:
    master = Master()
    master.lives(1001.0)
    master.judge(1001.0)
    master.entry = msgspec.structs.replace(ENTRY, created_at=1500.0)
    master.seen.liveness = Liveness.NEVER
    assert master.judge(1500.0)[2] == 1500.0
    assert not master.told


def test_active_agent_is_active_since_as_before_once_the_new_master_hears_it() -> None:
    first = Master()
    first.lives(1001.0)
    first.judge(1001.0)
    second = Master(first, at=2000.0)
    assert second.judge(2000.0) == (AgentStatus.NO_RESPONSE, Cause.UNHEARD, 2000.0)
    assert second.seen.heard_at == 1001.0, "the last beat is known"
    second.lives(2002.0)
    assert second.judge(2002.0) == (AgentStatus.ACTIVE, Cause.READY, 1001.0)
    assert not second.told
    second.falls_silent(2050.0)
    assert second.judge(2050.0)[2] == 2050.0


def test_agent_that_was_started_anew_meanwhile_is_active_since_then() -> None:
    first = Master()
    first.lives(1001.0)
    first.judge(1001.0)
    second = Master(first, at=2000.0)
    second.judge(2000.0)
    second.lives(2002.0, "i2")
    stored = second.statuses.changes
    assert second.judge(2002.0) == (AgentStatus.ACTIVE, Cause.READY, 2002.0)
    assert not second.told
    assert second.statuses.changes == stored + 1
    second.lives(2003.0, "i3")
    assert second.judge(2003.0)[2] == 2002.0, "no status has changed that this master has seen"
    third = Master(second, at=3000.0)
    third.judge(3000.0)
    third.lives(3001.0, "i3")
    assert third.judge(3001.0)[2] == 2002.0, "it is still the same process"


def test_agent_that_the_new_master_never_hears_goes_with_a_change() -> None:
    first = Master()
    first.lives(1001.0)
    first.judge(1001.0)
    second = Master(first, at=2000.0)
    second.judge(2000.0)
    second.seen.silence = Silence.LOST
    assert second.judge(2060.0) == (AgentStatus.NO_RESPONSE, Cause.LOST, 2060.0)
    assert second.moves == [(AgentStatus.ACTIVE, AgentStatus.NO_RESPONSE, 2060.0)]


def test_silence_keeps_its_cause_since_and_last_beat_across_two_restarts() -> None:
    for why, cause in (
        (Silence.NO_BEAT, Cause.NO_BEAT),
        (Silence.LOST, Cause.LOST),
        (Silence.SHUT_DOWN, Cause.SHUT_DOWN),
    ):
        master = Master()
        master.lives(1001.0)
        master.judge(1001.0)
        master.falls_silent(1010.0, why)
        master.judge(1010.0)
        for at in (2000.0, 3000.0):
            master = Master(master, at=at)
            assert master.judge(at) == (AgentStatus.NO_RESPONSE, cause, 1010.0)
            assert (master.seen.heard_at, master.seen.since) == (1001.0, 1010.0)
            assert master.seen.silent_for_s == 10.0
            assert not master.seen.given_up, "tasks are judged by the new master's own clock"
        assert not master.told


def test_silence_that_follows_another_fault_is_no_new_status_to_a_successor() -> None:
    first = Master()
    first.lives(1001.0)
    first.judge(1001.0)
    first.seen.stuck = True
    assert first.judge(1005.0) == (AgentStatus.NO_RESPONSE, Cause.STUCK, 1005.0)
    first.falls_silent(1010.0)
    assert first.judge(1010.0) == (AgentStatus.NO_RESPONSE, Cause.NO_BEAT, 1005.0)
    second = Master(first, at=2000.0)
    assert second.judge(2000.0) == (AgentStatus.NO_RESPONSE, Cause.NO_BEAT, 1005.0)
    assert second.seen.since == 1010.0


def test_master_that_hears_no_agent_leaves_its_knowledge_to_the_next() -> None:
    first = Master()
    first.lives(1001.0)
    first.judge(1001.0)
    second = Master(first, at=2000.0)
    second.judge(2000.0)
    third = Master(second, at=3000.0)
    third.judge(3000.0)
    third.lives(3001.0)
    assert third.judge(3001.0)[2] == 1001.0


def test_group_keeps_its_since_until_its_status_changes() -> None:
    master = Master()
    assert master.statuses.group("web") is None
    assert master.statuses.judge_group("web", GroupStatus.ACTIVE, 1001.0) == 1001.0
    assert master.statuses.judge_group("web", GroupStatus.ACTIVE, 1002.0) == 1001.0
    assert master.statuses.group("web") is GroupStatus.ACTIVE
    master.lives(1001.0)
    master.judge(1001.0)
    judge = Master(master, at=2000.0).statuses.judge_group
    assert judge("web", GroupStatus.INACTIVE, 2001.0, unheard_since=2000.0) == 2000.0
    assert judge("web", GroupStatus.ACTIVE, 2002.0, unheard_since=2000.0) == 1001.0
    assert judge("web", GroupStatus.INACTIVE, 2003.0) == 2003.0
    assert judge("web", GroupStatus.ACTIVE, 2004.0, unheard_since=2000.0) == 2004.0
    assert judge("db", GroupStatus.INACTIVE, 2005.0, unheard_since=2000.0) == 2005.0


def test_each_change_is_counted_for_whoever_stores_it() -> None:
    master = Master()
    counts = [master.statuses.changes]
    master.lives(1001.0)
    for step in (
        lambda: master.judge(1001.0),
        lambda: master.statuses.judge_group("web", GroupStatus.ACTIVE, 1001.0),
        lambda: master.falls_silent(1002.0),
        lambda: master.judge(1002.0),
        lambda: master.judge(1003.0),
    ):
        step()
        counts.append(master.statuses.changes)
    assert counts == [0, 1, 2, 2, 3, 3]


def test_agent_that_no_roster_has_is_not_left_to_a_successor() -> None:
    master = Master()
    master.judge(1001.0)
    other = msgspec.structs.replace(ENTRY, name="web-2")
    assert set(master.statuses.pasts([ENTRY, other], master.roster)) == {"web-1"}
    master.roster.remove("web-1")
    assert master.statuses.pasts([ENTRY], master.roster) == {}


def test_nothing_is_shown_of_a_past_that_knew_no_silence() -> None:
    presence = Presence(agent="web-1", group="web", since=5.0, silence=Silence.UNHEARD)
    restore(presence, Past(status=AgentStatus.ACTIVE, since=1.0, created_at=1.0, heard_at=3.0))
    assert (presence.silence, presence.since, presence.heard_at) == (Silence.UNHEARD, 5.0, 3.0)

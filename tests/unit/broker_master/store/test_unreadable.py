"""Registry and facts with entries that cannot be read."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from broker_client.runtime.kv import Bucket
from broker_client.runtime.stream_answers import SequenceConflict
from broker_client.runtime.stream_pages import Stored
from broker_master.core.strays import Strays
from broker_master.store.facts import FactStore
from broker_master.store.registry import Registry
from schemas import codec, subjects
from schemas.faults import Refused
from schemas.messages.facts import Accepted, Outcome
from schemas.messages.registry import AgentEntry, GroupEntry, MeshEntry
from schemas.states import Admin
from tests.unit.broker_master.deeds import accepted

GARBAGE = b'{"stream":"MESH_LOGS","seq":7}'
BUCKET = "mesh_registry"
NOW_S = 1.8e9
FACT = subjects.Fact("c1", 1, "outcome")


class StreamsInMemory:
    """A stream as the broker keeps it, without its limits."""

    def __init__(self) -> None:
        self.messages: list[Stored] = []

    def put(self, subject: str, data: bytes, headers: bytes = b"") -> int:
        self.messages.append(Stored(len(self.messages) + 1, subject, data, headers))
        return len(self.messages)

    async def replay(
        self, _stream: str, _from_seq: int = 1, subject: str = ">"
    ) -> AsyncIterator[Stored]:
        for stored in [*self.messages]:
            if subject.endswith(">") or stored.subject == subject:
                yield stored

    async def get_last(self, _stream: str, subject: str) -> Stored | None:
        found = [stored for stored in self.messages if stored.subject == subject]
        return found[-1] if found else None

    get_last_agreed = get_last

    async def store(
        self, subject: str, data: bytes, *, expected: int | None = None, **_: object
    ) -> int:
        last = await self.get_last("", subject)
        if expected not in (None, 0 if last is None else last.seq):
            raise SequenceConflict(subject, "is there")
        return self.put(subject, data)


class Writer:
    def __init__(self) -> None:
        self.expected: list[int] = []

    def append(self, _subject: str, _payload: bytes, expected: int) -> None:
        self.expected.append(expected)


@pytest.fixture
def kept() -> StreamsInMemory:
    return StreamsInMemory()


@pytest.fixture
def strays() -> Strays:
    return Strays()


@pytest.fixture
def registry(kept: StreamsInMemory, strays: Strays) -> Registry:
    return Registry(Bucket(cast("Any", kept), BUCKET), strays)


def key(name: str) -> str:
    return f"$KV.{BUCKET}.{name}"


def group(name: str) -> bytes:
    return codec.encode(GroupEntry(name=name, created_at=1.0))


def agent(name: str, admin: str = Admin.ENABLED) -> bytes:
    return codec.encode(AgentEntry(name=name, group="web", created_at=1.0, admin=admin))


async def test_newest_revision_that_can_be_read_counts(
    registry: Registry, kept: StreamsInMemory, strays: Strays
) -> None:
    kept.put(key("group.web"), group("web"))
    kept.put(key("agent.a1"), agent("a1"))
    kept.put(key("agent.a1"), agent("a1", Admin.REVOKED))
    for name in ("agent.a1", "agent.a1", "agent.a2", "group.db", "x", "no.such"):
        kept.put(key(name), GARBAGE)
    kept.put(key("group.web"), group("db"))  # another's
    await registry.load()
    assert registry.agent("a1").admin == Admin.REVOKED
    assert set(registry.agents) == {"a1"}
    assert set(registry.groups) == {"web"}
    assert strays.counts == {f"KV_{BUCKET}": 7}


async def test_unreadable_entry_is_overwritten_by_its_revision(
    registry: Registry, kept: StreamsInMemory
) -> None:
    kept.put(key("group.web"), group("web"))
    kept.put(key("group.web"), GARBAGE)
    kept.put(key("group.db"), GARBAGE)
    await registry.load()
    await registry.create_group(GroupEntry(name="db", created_at=2.0))
    with pytest.raises(Refused, match="exists"):
        await registry.create_group(GroupEntry(name="db", created_at=3.0))
    changed = await registry.change_group(
        "web", lambda entry: GroupEntry(name=entry.name, created_at=4.0)
    )
    assert changed.created_at == 4.0
    again = Registry(Bucket(cast("Any", kept), BUCKET))
    await again.load()
    assert {entry.created_at for entry in again.groups.values()} == {2.0, 4.0}


async def test_entry_that_is_deleted_stays_so_whatever_is_put_there(
    registry: Registry, kept: StreamsInMemory
) -> None:
    kept.put(key("agent.a1"), agent("a1"))
    kept.put(key("agent.a1"), b"", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n")
    kept.put(key("agent.a1"), GARBAGE)
    await registry.load()
    assert not registry.agents


async def test_epoch_goes_on_from_what_can_be_read_and_never_back(
    registry: Registry, kept: StreamsInMemory, strays: Strays
) -> None:
    first = (await registry.begin_epoch("m1", NOW_S)).epoch
    kept.put(key("mesh"), GARBAGE)
    assert await registry.begin_epoch("m1", NOW_S) == (first + 1, first)
    # Of another mesh, but behind ours: not another mesh's broker.
    kept.put(key("mesh"), codec.encode(MeshEntry(mesh="m2", epoch=9)))
    assert await registry.begin_epoch("m1", NOW_S) == (first + 2, first + 1)
    kept.messages.clear()
    for _ in range(9):
        kept.put(key("mesh"), GARBAGE)
    anew = (await registry.begin_epoch("m1", NOW_S + 60)).epoch
    assert anew > first + 1000
    assert (await registry.begin_epoch("m1", NOW_S + 60)).epoch == anew + 1
    assert strays.counts[f"KV_{BUCKET}"] >= 9


async def test_broker_of_another_mesh_is_refused_as_ever(
    registry: Registry, kept: StreamsInMemory
) -> None:
    kept.put(key("mesh"), codec.encode(MeshEntry(mesh="m2", epoch=9)))
    kept.put(key("mesh"), GARBAGE)
    with pytest.raises(Refused) as caught:
        await registry.begin_epoch("m1", NOW_S)
    assert caught.value.code == "state_foreign"


async def test_facts_that_cannot_be_read_are_left_out_and_written_over(
    kept: StreamsInMemory, strays: Strays
) -> None:
    writer = Writer()
    facts = FactStore(cast("Any", kept), cast("Any", writer), strays)
    good = accepted("c1")[1]
    kept.put(subjects.fact("c1", 0, "accepted"), codec.encode(good))
    kept.put(subjects.fact("c2", 0, "accepted"), codec.encode(good))  # another's
    kept.put(subjects.fact("c3", 1, "no-such"), codec.encode(good))
    kept.put("mesh.v1.fact.c 4", GARBAGE)
    outcome = Outcome(state="no-such-state", at=1.0)
    seq = kept.put(subjects.fact(*FACT), codec.encode(outcome))
    found = [(fact.command, type(body)) async for fact, body, _ in facts.replay()]
    assert found == [("c1", Accepted)]
    assert strays.counts == {"MESH_EVENTS": 4}
    assert await facts.read(FACT) is None
    assert strays.counts == {"MESH_EVENTS": 4}, "each once"
    ended = Outcome(state="succeeded", at=1.0)
    _ = facts.append(FACT, ended)
    _ = facts.append(subjects.Fact("c9", 1, "outcome"), ended)
    assert writer.expected == [seq, 0]
    kept.put(subjects.fact(*FACT), codec.encode(ended))
    assert await facts.read(FACT) == (seq + 1, ended)
    _ = facts.append(FACT, ended)
    assert writer.expected[-1] == 0


def test_strays_are_reported_once_with_their_number() -> None:
    strays = Strays()
    for seq in (1, 2, 2, 3):
        strays.note("S", seq, f"s.{seq}", "broken")
    told = strays.take_untold()
    assert [(each.seq, each.number) for each in told] == [(3, 3)]
    assert not strays.take_untold()
    for seq in range(10_000):
        strays.note("S", 100 + seq, "s", "broken")
    assert len(strays._known) <= 4096
    assert strays.counts["S"] == 10_003

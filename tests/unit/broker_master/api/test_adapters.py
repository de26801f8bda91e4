"""Calls over a second transport meet the same limits and refusals as those over NATS.

The second adapter, which is for the test alone, authenticates a client by its argument, makes a
`Call`, and keeps the reply. It knows no limit.
"""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Protocol, cast

import msgspec
import pytest

from broker_client.runtime.frames import Msg
from broker_master.api.audit import AuditTrail
from broker_master.api.door import Call, Door
from broker_master.api.nats import NatsApi
from broker_master.ca.mesh import Mesh
from broker_master.services import turns as limits
from broker_master.services.turns import Turns
from schemas import codec, subjects
from schemas.faults import FaultBody, MeshError
from schemas.messages import api
from schemas.messages.audit import AuditEntry
from schemas.messages.registry import ClientEntry
from schemas.verbs import AGENT_DISABLE, AGENT_SHOW, COMMAND_WAIT, GROUP_CREATE, AnyVerb
from tests.unit.broker_master.table import Table
from tests.waiting import soon

PER_CLIENT = 1000


class Adapter(Protocol):
    def ask(self, client: str, verb: str, payload: bytes) -> None: ...

    def codes(self) -> list[str]: ...


class Direct:
    """In-process: the reply is the result itself."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._replies: list[msgspec.Struct | MeshError] = []
        self.dropped = 0

    def ask(self, client: str, verb: str, payload: bytes) -> None:
        noun, _, word = verb.partition(".")
        self._door.take(
            Call(client, noun, word, payload, self._replies.append, "direct", drop=self._drop)
        )

    def _drop(self) -> None:
        self.dropped += 1

    def codes(self) -> list[str]:
        return [each.code if isinstance(each, MeshError) else "" for each in self._replies]


class Nats:
    """The adapter of NATS, between a link and a gate whose connections are all proved."""

    def __init__(self, table: Table, door: Door, turns: Turns) -> None:
        self._published: list[tuple[str, bytes]] = table.link.published
        gate = SimpleNamespace(prove=turns.admit)
        self._api = NatsApi(table.plane, cast("Any", gate), door)

    def ask(self, client: str, verb: str, payload: bytes) -> None:
        noun, _, word = verb.partition(".")
        reply = f"{subjects.inbox_prefix(client)}.{'r' * 22}"
        self._api._on_request(Msg(subjects.api(client, noun, word), reply, payload))

    def codes(self) -> list[str]:
        return [codec.decode(FaultBody, payload).code for _, payload in self._published]


class House:
    """A master's door with one of the two adapters before it."""

    def __init__(self, table: Table, kind: str, door: Door, turns: Turns) -> None:
        self.table = table
        self.door = door
        self.turns = turns
        self.adapter: Adapter = Nats(table, door, turns) if kind == "nats" else Direct(door)

    def ask(self, verb: AnyVerb, request: msgspec.Struct, client: str = "me") -> None:
        self.adapter.ask(client, verb.name, codec.encode(request))

    def admit(self, role: str, *groups: str, name: str = "me") -> None:
        entry = ClientEntry(name=name, role=role, created_at=1.0, groups=[*groups])
        self.table.plane.registry.clients[name] = entry

    @property
    def notes(self) -> list[tuple[str, str, str, str]]:
        return [(each.by, each.action, each.result, each.code) for each in self.table.notes]

    def tallied(self, *labels: str) -> int:
        return self.table.plane.telemetry.counters.get(cast("Any", labels), 0)


@pytest.fixture(params=["nats", "direct"])
async def house(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    table = Table(mesh)
    operations, turns = await table.open(), Turns(table.plane)
    trail: list[AuditEntry] = []

    async def record(entry: AuditEntry) -> None:
        trail.append(entry)

    door = Door(table.plane, operations, AuditTrail(table.plane, record), turns)
    house = House(table, request.param, door, turns)
    house.admit("viewer")
    yield house
    await door._tasks.aclose(0)
    await table.aclose()


@pytest.mark.parametrize(
    ("client", "verb", "payload", "code", "is_noted"),
    [
        ("stranger", "agent.show", b"\x80", "client_disabled", True),
        ("me", "agent.disable", b"\x80", "forbidden", True),
        ("me", "agent.show", b"\x80", "field_invalid", False),
        ("me", "agent.show", b"\xc1", "malformed", False),
        ("me", "command.submit", b"\x80", "forbidden", True),
    ],
)
async def test_refusal_has_the_same_code_count_and_entry_over_each_transport(
    house: House, client: str, verb: str, payload: bytes, code: str, is_noted: bool
) -> None:
    house.adapter.ask(client, verb, payload)
    assert house.adapter.codes() == [code]
    assert house.tallied("refused", code) == 1
    assert house.notes == ([(client, verb, "refused", code)] if is_noted else [])
    assert house.door.stats[verb].errors == 1


async def test_right_of_a_handler_is_refused_over_each_transport(house: House) -> None:
    house.admit("operator", "db")
    house.ask(AGENT_DISABLE, api.AgentDisable(name="web-1"))
    await soon(lambda: bool(house.adapter.codes()))
    assert house.adapter.codes() == ["forbidden"]


async def test_sec_s11_shut_out_client_gets_no_answer_over_each_transport(house: House) -> None:
    house.table.plane.shut_out["me"] = 1e12
    for _ in range(3):
        house.ask(GROUP_CREATE, api.GroupCreate(name="x"))
    assert house.adapter.codes() == []
    assert house.tallied("shed", "rate") == 3
    assert house.notes == [], "a flood leaves no flood of entries"
    assert house.door.stats["group.create"].requests == 0
    if isinstance(house.adapter, Direct):
        assert house.adapter.dropped == 3, "a transport that has to answer is told"


async def test_sec_s11_requests_under_way_have_a_limit_over_each_transport(house: House) -> None:
    for _ in range(PER_CLIENT + 1):
        house.ask(COMMAND_WAIT, api.CommandQuery(id="web-open", timeout_s=60))
    await soon(lambda: bool(house.adapter.codes()))
    assert house.adapter.codes() == ["rate_limited"]


async def test_sec_s11_waiting_requests_have_a_limit_over_each_transport(house: House) -> None:
    """Beyond it they are refused, and beyond a rate of refusals they are dropped."""
    before, more = limits._WAITING_PER_IDENTITY + limits._PER_TURN, int(limits._REFUSALS_BURST)
    for _ in range(before + more + 5):
        house.ask(AGENT_SHOW, api.NameQuery(name="web-1"))
    assert house.adapter.codes() == ["rate_limited"] * more
    assert house.tallied("shed", "share") == more + 5
    if isinstance(house.adapter, Direct):
        assert house.adapter.dropped == 5
    house.admit("viewer", name="quiet")
    house.ask(AGENT_DISABLE, api.AgentDisable(name="web-1"), client="quiet")
    assert house.adapter.codes()[more:] == ["forbidden"], "another one is served meanwhile"


async def test_sec_s11_share_of_a_client_is_one_over_all_transports(house: House) -> None:
    """Requests that wait for the proof of their connection count for the other transport."""
    for _ in range(limits._WAITING_PER_IDENTITY):
        house.turns.add("me", 1, lambda: None, lambda _: None)
    house.ask(AGENT_SHOW, api.NameQuery(name="web-1"))
    assert house.adapter.codes() == ["rate_limited"]

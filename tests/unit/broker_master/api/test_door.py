"""Every call passes one door, which decides, counts and records; transports only carry it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from broker_master.api.audit import AuditTrail
from broker_master.api.door import Call, Door
from broker_master.api.operations import Operations
from broker_master.ca.mesh import Mesh
from broker_master.services.turns import Turns, unproved
from schemas import codec
from schemas.faults import MeshError, Refused
from schemas.messages import api
from schemas.messages.audit import AuditEntry
from schemas.messages.registry import AgentEntry, ClientEntry
from schemas.verbs import AGENT_DISABLE, AGENT_SHOW, COMMAND_SUBMIT, COMMAND_WAIT, VERBS, AnyVerb
from tests.unit.broker_master.table import Table
from tests.waiting import soon

PER_CLIENT = 1000


class Entrance:
    """A door with all operations behind it, and what comes back through it."""

    def __init__(self, table: Table, operations: Operations) -> None:
        self.table = table
        self.trail: list[AuditEntry] = []
        self.replies: list[Any] = []
        # What the trail holds at the moment of each reply.
        self.noted: list[int] = []
        self.turns = Turns(table.plane)
        self.door = Door(table.plane, operations, AuditTrail(table.plane, self._record), self.turns)
        self.admit("viewer")

    async def _record(self, entry: AuditEntry) -> None:
        await asyncio.sleep(0)
        self.trail.append(entry)

    def admit(self, role: str, *groups: str) -> None:
        entry = ClientEntry(name="me", role=role, created_at=1.0, groups=[*groups])
        self.table.plane.registry.clients["me"] = entry

    def call(self, verb: AnyVerb, request: msgspec.Struct) -> None:
        self.send(verb.noun, verb.verb, codec.encode(request))

    def send(self, noun: str, verb: str, payload: bytes, client: str = "me") -> None:
        self.door.take(Call(client, noun, verb, payload, self._reply, "nats"))

    def _reply(self, result: msgspec.Struct | MeshError) -> None:
        self.replies.append(result)
        self.noted.append(len(self.trail))

    async def answer(self) -> Any:  # noqa: ANN401
        await soon(lambda: bool(self.replies))
        (reply,) = self.replies
        self.replies.clear()
        return reply


@pytest.fixture
async def entrance(mesh: Mesh) -> AsyncIterator[Entrance]:
    table = Table(mesh)
    entrance = Entrance(table, await table.open())
    yield entrance
    await entrance.door._tasks.aclose(0)
    await table.aclose()


async def test_call_is_carried_out_and_answered_once(entrance: Entrance) -> None:
    entrance.call(AGENT_SHOW, api.NameQuery(name="web-1"))
    assert (await entrance.answer()).agent == "web-1"
    stats = entrance.door.stats["agent.show"]
    assert (stats.requests, stats.errors, stats.last_error) == (1, 0, "")
    assert entrance.trail == []


@pytest.mark.parametrize(
    ("client", "noun", "verb", "payload", "code", "is_noted"),
    [
        ("nobody", "agent", "show", b"\x80", "client_disabled", True),
        ("me", "agent", "disable", b"\x80", "forbidden", True),
        ("me", "agent", "paint", b"\x80", "forbidden", True),
        ("me", "agent", "show", b"\x80", "field_invalid", False),
        ("me", "agent", "show", b"\xc1", "malformed", False),
    ],
)
async def test_refusal_is_answered_counted_and_noted_if_it_was_an_attempt(
    entrance: Entrance,
    client: str,
    noun: str,
    verb: str,
    payload: bytes,
    code: str,
    is_noted: bool,
) -> None:
    entrance.send(noun, verb, payload, client)
    assert (await entrance.answer()).code == code
    assert entrance.table.plane.telemetry.counters["refused", code] == 1
    noted = [(each.by, each.action, each.result, each.code) for each in entrance.table.notes]
    assert noted == ([(client, f"{noun}.{verb}", "refused", code)] if is_noted else [])
    if f"{noun}.{verb}" in VERBS:
        assert entrance.door.stats[f"{noun}.{verb}"].errors == 1


async def test_verb_that_does_not_exist_is_refused_and_grows_no_table(entrance: Entrance) -> None:
    entrance.admit("admin")
    for number in range(3):
        entrance.send("agent", f"paint-{number}", b"\x80")
    assert [each.code for each in entrance.replies] == ["verb_unknown"] * 3
    assert set(entrance.door.stats) == set(VERBS)


async def test_change_is_in_the_audit_trail_before_its_answer_is_known(entrance: Entrance) -> None:
    entrance.admit("operator")
    entrance.call(AGENT_DISABLE, api.AgentDisable(name="web-1", note="disk"))
    assert (await entrance.answer()).changed
    (entry,) = entrance.trail
    assert (entry.by, entry.action, entry.target, entry.group) == (
        "me",
        *(["agent.disable", "web-1", "web"]),
    )
    assert entrance.noted == [1]


async def test_change_that_is_refused_is_noted_once(entrance: Entrance) -> None:
    entrance.admit("operator", "db")
    entrance.call(AGENT_DISABLE, api.AgentDisable(name="web-1"))
    assert (await entrance.answer()).code == "forbidden"
    assert [(each.result, each.code) for each in entrance.trail] == [("refused", "forbidden")]
    assert entrance.table.notes == []


async def test_submission_goes_through_the_same_door_without_a_task(entrance: Entrance) -> None:
    request = api.SubmitRequest(id="new", group="web", action="noop")
    entrance.call(COMMAND_SUBMIT, request)
    assert (await entrance.answer()).code == "forbidden"
    assert [each.action for each in entrance.table.notes] == ["command.submit"]
    entrance.admit("operator")
    entrance.call(COMMAND_SUBMIT, request)
    assert len(entrance.door._tasks) == 0
    assert (await entrance.answer()).id == "new"
    assert entrance.door.stats["command.submit"].requests == 2
    assert entrance.trail == [], "history records it"


async def test_calls_under_way_are_limited_for_each_client(entrance: Entrance) -> None:
    query = api.CommandQuery(id="web-open", timeout_s=60)
    for _ in range(PER_CLIENT):
        entrance.call(COMMAND_WAIT, query)
    assert entrance.replies == []
    entrance.call(COMMAND_WAIT, query)
    assert (await entrance.answer()).code == "rate_limited"
    clients = entrance.table.plane.registry.clients
    clients["other"] = msgspec.structs.replace(clients["me"], name="other")
    entrance.send("agent", "show", codec.encode(api.NameQuery(name="web-1")), "other")
    assert (await entrance.answer()).agent == "web-1"


async def test_room_of_a_call_is_free_again_when_it_has_ended(entrance: Entrance) -> None:
    query = api.NameQuery(name="web-1")
    for _ in range(PER_CLIENT + 1):
        entrance.call(AGENT_SHOW, query)
        await entrance.answer()
    assert entrance.door._under_way["me"] == 0


async def test_mistake_of_ours_is_an_answer_and_not_a_silence(entrance: Entrance) -> None:
    cast("Any", entrance.table.plane).registry = None
    door = entrance.door
    operation = door._operations.find("agent", "show")
    caller = ClientEntry(name="me", role="viewer", created_at=1.0)
    call = Call("me", "agent", "show", b"", entrance._reply, "nats")
    await door._serve(cast("Any", operation), caller, api.NameQuery(name="x"), call, door._unknown)
    assert (await entrance.answer()).code == "internal"


async def test_call_that_nobody_has_proved_is_refused_and_not_held_against_its_name(
    entrance: Entrance,
) -> None:
    call = Call("me", "agent", "show", b"\x80", entrance._reply, "nats")
    entrance.door.take(call, lambda word: entrance.turns.refuse(word, unproved("me")))
    assert (await entrance.answer()).code == "connection_unproved"
    assert entrance.door.stats["agent.show"].requests == 1
    assert entrance.table.notes == []


async def test_looks_at_the_service_are_limited_for_each_client(entrance: Entrance) -> None:
    door = entrance.door
    allowed = [door.admits_look("me") for _ in range(60)]
    assert sum(allowed) == 50
    assert door.admits_look("other")
    entrance.table.clock.advance(1.0)
    assert sum(door.admits_look("me") for _ in range(60)) == 10


async def test_name_that_there_is_not_gets_near_ones_that_the_caller_may_see(
    entrance: Entrance,
) -> None:
    registry = entrance.table.plane.registry
    registry.agents["web-2"] = AgentEntry(name="web-2", group="hidden", created_at=1.0)
    entrance.admit("viewer", registry.agents["web-1"].group)
    entrance.call(AGENT_SHOW, api.NameQuery(name="web-3"))
    assert (await entrance.answer()).message == "no agent web-3: did you mean web-1?"


NEAR = {"command": "web-opem", "deadletter": "web-deae", "fanout": "web-fam", "agent": "web-3"}
NEAR |= {"group": "webb", "client": "web-clent", "connection": "web-wai"}
MEANT = {"command": "web-open", "deadletter": "web-dead", "fanout": "web-fan", "agent": "web-1"}
MEANT |= {"group": "web", "client": "web-client", "connection": "web-way"}
# What else a request must have.
BESIDE: dict[str, dict[str, object]] = {
    "command.decide": {"decision": "fail"},
    "agent.pause": {"for_s": 60.0},
    "agent.move": {"group": "db"},
}


def naming() -> list[tuple[str, str]]:
    """Each verb that names what there must be, and the field that does."""
    return [
        (name, field)
        for name, verb in VERBS.items()
        for field in ("id", "name")
        if field in verb.request.__struct_fields__ and verb.verb not in ("create", "submit")
    ]


async def test_every_verb_that_names_something_says_what_may_be_meant(entrance: Entrance) -> None:
    entrance.admit("admin")
    assert len(naming()) > 25
    for verb, field in naming():
        entrance.table.clock.advance(1.0)
        noun, _, word = verb.partition(".")
        payload = {field: NEAR[noun], **BESIDE.get(verb, {})}
        entrance.send(noun, word, codec.encode(payload))
        said = (await entrance.answer()).message
        assert said.startswith("no "), said
        assert f"did you mean {MEANT[noun]}" in said, said


@pytest.mark.parametrize(
    ("noun", "payload", "meant"),
    [
        ("command", {"group": "webb", "action": "noop"}, "web"),
        ("command", {"agent": "web-3", "action": "noop"}, "web-1"),
        ("fanout", {"group": "webb", "command": {"action": "noop"}}, "web"),
        ("fanout", {"agents": ["web-3"], "command": {"action": "noop"}}, "web-1"),
    ],
)
async def test_target_of_a_submission_that_there_is_not_gets_near_ones(
    entrance: Entrance, noun: str, payload: dict[str, object], meant: str
) -> None:
    entrance.admit("operator")
    entrance.send(noun, "submit", codec.encode(payload))
    assert f"did you mean {meant}" in (await entrance.answer()).message


@pytest.mark.parametrize(
    ("verb", "name", "hidden"),
    [("command.show", "db-opem", "db-open"), ("fanout.show", "db-fam", "db-fan")],
)
async def test_near_ids_are_those_that_the_caller_may_see(
    entrance: Entrance, verb: str, name: str, hidden: str
) -> None:
    noun, _, word = verb.partition(".")
    for groups, is_shown in ((("web",), False), (("web", "db"), True)):
        entrance.admit("viewer", *groups)
        entrance.send(noun, word, codec.encode({"id": name}))
        assert (hidden in (await entrance.answer()).message) == is_shown


async def test_operator_gets_no_near_names_of_clients(entrance: Entrance) -> None:
    fault = Refused("client_unknown", "no client web-clent")
    for role, is_shown in (("operator", False), ("admin", True)):
        entrance.admit(role)
        said = entrance.door._near.extend("me", fault).message
        assert ("web-client" in said) == is_shown


async def test_near_names_for_one_client_are_rate_limited(entrance: Entrance) -> None:
    fault = Refused("agent_unknown", "no agent web-3")
    told = [entrance.door._near.extend("me", fault).message for _ in range(100)]
    assert sum("did you mean" in each for each in told) == 20
    entrance.table.clock.advance(1.0)
    assert "did you mean" in entrance.door._near.extend("me", fault).message

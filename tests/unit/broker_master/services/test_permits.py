"""Rights are judged when they are used: of what waits, is run again, retried, or has its turn."""

from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest

from broker_master.api.operations import Operations
from broker_master.ca.mesh import Mesh
from broker_master.core.commands import Command
from broker_master.core.fanout import child_id
from broker_master.core.fold import fold
from schemas.faults import MeshError, Refused
from schemas.messages import api, fanouts
from schemas.messages.facts import Accepted
from schemas.messages.registry import ClientEntry
from schemas.states import State
from tests.planes import add_client, add_group, connect
from tests.unit.broker_master.deeds import accepted, assigned, ended
from tests.unit.broker_master.stage import states
from tests.unit.broker_master.table import Table, call


@pytest.fixture
async def table(mesh: Mesh) -> AsyncIterator[Table]:
    made = Table(mesh)
    yield made
    await made.aclose()


@pytest.fixture
async def operations(table: Table) -> Operations:
    """ann is limited to `web`; nobody is live."""
    made = await table.open()
    add_client(table.plane, "ann", "web")
    return made


def go(table: Table, agent: str) -> None:
    connect(table.plane, agent)
    table.sync(agent)


def change(table: Table, name: str, **fields: object) -> None:
    clients = table.plane.registry.clients
    clients[name] = msgspec.structs.replace(clients[name], **fields)


def move(table: Table, agent: str, group: str) -> None:
    entry = table.plane.registry.agents[agent]
    table.plane.registry._put_agent(msgspec.structs.replace(entry, group=group))


def check_rejected(table: Table, command: Command, code: str) -> None:
    assert command.state is State.REJECTED
    assert command.reason.startswith(f"{code}: it may not be run any more: ")
    noted = [each for each in table.notes if each.target == command.id]
    assert [(each.action, each.by, each.result, each.code) for each in noted] == [
        ("command.reject", "ann", "refused", code)
    ]
    assert [record.state for record in table.ended if record.id == command.id] == ["rejected"]
    assert command.id not in [run.command for run in table.runs("web-1")]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"revoked": True}, "client_disabled"),
        ({"groups": ["db"]}, "forbidden"),
        ({"role": "viewer"}, "forbidden"),
    ],
)
async def test_sec_s31_command_that_waits_ends_when_its_client_lost_the_right(
    table: Table, operations: Operations, fields: dict[str, object], code: str
) -> None:
    command = await table.submit("mine", client="ann", agent="web-1")
    change(table, "ann", **fields)
    await table.later(0.5)
    check_rejected(table, command, code)


async def test_sec_s31_command_that_waits_does_not_follow_its_agent_into_another_group(
    table: Table, operations: Operations
) -> None:
    mine = await table.submit("mine", client="ann", agent="web-1")
    theirs = await table.submit("theirs", client="ops", agent="web-1")
    move(table, "web-1", "db")
    go(table, "web-1")
    await table.later(0.5)
    assert mine.state is State.REJECTED
    assert "may not use group db" in mine.reason
    assert theirs.state is State.SENT


async def test_sec_s31_right_is_judged_again_right_before_the_first_transmission(
    table: Table, operations: Operations
) -> None:
    go(table, "web-1")
    fact, body = accepted("mine", client="ann", agent="web-1", submitted_at=table.clock.now())
    assert isinstance(body, Accepted)
    _ = table.facts.append(fact, body)
    command = table.plane.book.open(body)
    table.assigner.wait(command)
    assert states(command) == [State.SENT, State.SENT]
    # It is being made durable that web-1 gets it; nothing has gone out yet.
    change(table, "ann", revoked=True)
    await table.rest()
    assert states(command) == [State.REJECTED, State.REJECTED]
    check_rejected(table, command, "client_disabled")


async def test_sec_s31_group_that_is_gone_takes_no_command(
    table: Table, operations: Operations
) -> None:
    command = await table.submit("mine", client="ann", group="web")
    del table.plane.registry.groups["web"]
    await table.later(0.5)
    check_rejected(table, command, "group_unknown")


def undecided(command: Command) -> None:
    for deed in (assigned("mine"), ended("mine", state=State.LOST, final=False, reason="lost")):
        assert fold(command, *deed)


@pytest.mark.parametrize("whose", ["decider", "client"])
async def test_sec_s31_word_to_run_again_needs_the_rights_of_both(
    table: Table, operations: Operations, whose: str
) -> None:
    command = await table.submit("mine", client="ann", agent="web-1", on_lost="wait")
    undecided(command)
    decider = add_client(table.plane, "bob", "web")
    if whose == "decider":
        move(table, "web-1", "db")
        change(table, "ann", groups=[])
    else:
        change(table, "ann", revoked=True)
    decide = partial(call, operations.find("command", "decide"))
    with pytest.raises(MeshError) as refused:
        await decide(decider, api.DecideRequest(id="mine", decision="rerun"))
    assert refused.value.code == ("forbidden" if whose == "decider" else "client_disabled")
    assert command.is_undecided
    await decide(decider, api.DecideRequest(id="mine", decision="fail"))


async def test_sec_s31_dead_letter_is_not_retried_where_its_agent_is_now(
    table: Table, operations: Operations
) -> None:
    dead = await table.submit("dead", client="ann", agent="web-1")
    table.plane.dispatcher.withdraw(dead.id)
    dead.state = State.UNDELIVERABLE
    move(table, "web-1", "db")
    retry = partial(call, operations.find("deadletter", "retry"))
    ann = table.plane.registry.clients["ann"]
    with pytest.raises(MeshError) as refused:
        await retry(ann, api.RetryRequest(id="dead", new_id="again"))
    assert refused.value.code == "forbidden"
    assert table.plane.book.get("again") is None
    # Whoever may use that group retries it there.
    await retry(table.plane.registry.clients["ops"], api.RetryRequest(id="dead", new_id="again"))
    again = table.plane.book.get("again")
    assert again is not None
    assert (again.accepted.group, again.accepted.client) == ("db", "ops")


async def test_sec_s31_stored_id_of_another_hides_no_refusal(
    table: Table, operations: Operations
) -> None:
    ann = table.plane.registry.clients["ann"]
    submit = partial(call, operations.find("command", "submit"))
    own = api.SubmitRequest(id="own", group="web", action="noop")
    assert (await submit(ann, own)).duplicate is False
    for known in ("db-open", "own"):
        with pytest.raises(MeshError) as refused:
            await submit(ann, api.SubmitRequest(id=known, group="db", action="noop"))
        assert refused.value.code == "forbidden", known
    many = fanouts.FanoutSubmit(id="db-fan", group="db", command=api.SubmitRequest(action="noop"))
    with pytest.raises(MeshError) as refused:
        await call(operations.find("fanout", "submit"), ann, many)
    assert refused.value.code == "forbidden"
    # What is one's own is answered as it stands, though it could not be submitted any more.
    change(table, "ann", groups=["db"])
    assert (await submit(table.plane.registry.clients["ann"], own)).duplicate is True


@pytest.mark.parametrize("wanted", [child_id("fan-1", "web-1"), "__", "__x"])
async def test_sec_s31_ids_that_the_mesh_makes_are_nobodys_to_choose(
    table: Table, operations: Operations, wanted: str
) -> None:
    ops = table.plane.registry.clients["ops"]
    command = api.SubmitRequest(group="web", action="noop")
    asked: list[tuple[str, str, msgspec.Struct]] = [
        ("command", "submit", msgspec.structs.replace(command, id=wanted)),
        ("deadletter", "retry", api.RetryRequest(id="web-dead", new_id=wanted)),
        (
            "fanout",
            "submit",
            fanouts.FanoutSubmit(id=wanted, group="web", command=api.SubmitRequest(action="noop")),
        ),
    ]
    for noun, verb, request in asked:
        with pytest.raises(Refused) as refused:
            await call(operations.find(noun, verb), ops, request)
        assert refused.value.code == "id_reserved"
    assert table.plane.book.get(wanted) is None


async def begun(
    table: Table, operations: Operations, client: ClientEntry, agents: tuple[str, ...] = ()
) -> str:
    request = fanouts.FanoutSubmit(
        id="fan-1",
        group=None if agents else "web",
        agents=[*agents],
        command=api.SubmitRequest(action="noop", queue_ttl_s=60),
    )
    record = await call(operations.find("fanout", "submit"), client, request)
    assert isinstance(record, fanouts.FanoutRecord)
    return record.id


@pytest.mark.parametrize(
    "foreign",
    [
        {"client": "ann"},
        {"group": "db", "agent": "web-1"},
        {"agent": "db-1"},
        {"labels": {"fanout": "fan-2"}},
        {"labels": {}},
    ],
)
async def test_sec_s31_child_counts_only_if_it_is_the_fan_outs_in_everything(
    table: Table, operations: Operations, foreign: dict[str, object]
) -> None:
    child = child_id("fan-1", "web-1")
    made = {"client": "ops", "agent": "web-1", "labels": {"fanout": "fan-1"}, **foreign}
    command = await table.submit(child, **made)
    table.plane.dispatcher.withdraw(child)
    command.state = State.SUCCEEDED
    fan = await begun(table, operations, table.plane.registry.clients["ops"])
    await table.rest()
    entry = table.fanouts.known(fan)
    assert entry is not None
    assert (entry.state, entry.counts) == ("failed", {"skipped": 1})
    assert (
        table.plane.telemetry.tallied("fanout", "failed")
        == table.plane.telemetry.tallied("fanout")
        == 1
    )


async def test_sec_s31_fan_out_asks_nobody_its_client_may_not_use_any_more(
    table: Table, operations: Operations
) -> None:
    fan = await begun(table, operations, table.plane.registry.clients["ann"])
    change(table, "ann", revoked=True)
    await table.rest()
    entry = table.fanouts.known(fan)
    assert entry is not None
    noted = [
        (each.action, each.by, each.code, each.group) for each in table.notes if each.target == fan
    ]
    assert (entry.state, noted) == ("failed", [("fanout.submit", "ann", "client_disabled", "web")])


async def test_sec_s31_member_that_moved_out_of_the_fan_outs_groups_is_skipped(
    table: Table, operations: Operations
) -> None:
    """Though its client may use every group: it has asked for those of then."""
    ops = table.plane.registry.clients["ops"]
    add_group(table.plane, "cache")
    fan = await begun(table, operations, ops, agents=("web-1", "db-1"))
    move(table, "web-1", "cache")
    await table.rest()
    running = table.fanouts.running(fan)
    assert running is not None
    assert (running.entry.skipped, [*running.open]) == ({"web-1": "moved"}, ["db-1"])
    assert table.plane.book.get(child_id(fan, "web-1")) is None
    shown = await call(operations.find("fanout", "show"), ops, fanouts.FanoutQuery(id=fan))
    assert isinstance(shown, fanouts.FanoutRecord)
    reasons = {each.agent: each.reason for each in shown.members}
    assert reasons["web-1"] == "not asked: it has moved to another group"


async def test_sec_s31_member_that_moved_within_the_fan_outs_groups_is_asked(
    table: Table, operations: Operations
) -> None:
    ops = table.plane.registry.clients["ops"]
    fan = await begun(table, operations, ops, agents=("web-1", "db-1"))
    move(table, "web-1", "db")
    await table.rest()
    running = table.fanouts.running(fan)
    assert running is not None
    assert (running.entry.skipped, sorted(running.open)) == ({}, ["db-1", "web-1"])

"""Commands through connections: who gets them, who is refused, and what waits."""

from typing import Any

import msgspec
import pytest

from broker_master.api.fanouts import FanoutOperations
from broker_master.core.ways import way_of
from broker_master.services.obstacles import Obstacles
from schemas.faults import Refused
from schemas.messages.api import SubmitRequest
from schemas.messages.fanouts import FanoutSubmit
from schemas.messages.registry import ConnectionEntry, Policy
from schemas.states import State
from tests.planes import add_client, scrape
from tests.unit.broker_master.stage import Stage, states
from tests.unit.broker_master.ways import (
    ACTIONS,
    QUERY,
    ask,
    connection,
    profile,
    refused,
    taken,
    tell_profiles,
)


async def make(*profiles: str, **fields: Any) -> Stage:  # noqa: ANN401  of ConnectionEntry
    """Agents `web-N` with the hashes of their profiles; an empty one has none."""
    names = [f"web-{number}" for number in range(1, len(profiles) + 1)]
    stage = Stage(*names)
    connection(stage, **fields)
    for name, digest in zip(names, profiles, strict=True):
        await stage.hello(name, actions=ACTIONS)
        if digest:
            await tell_profiles(stage, name, profile(hash=digest))
    return stage


def change(stage: Stage, **fields: object) -> ConnectionEntry:
    entry = msgspec.structs.replace(stage.plane.registry.connections["erp-db"], **fields)
    stage.plane.registry.connections["erp-db"] = entry
    stage.plane.dispatcher.ways.put("erp-db", way_of(entry))
    return entry


async def test_profile_is_an_implicit_tag() -> None:
    stage = await make("", "9f", "")
    for number in range(6):
        _ = await taken(stage, id=f"c{number}")
    assert len(stage.runs("web-2")) == 6
    assert not stage.runs("web-1")
    assert not stage.runs("web-3")
    run = stage.runs("web-2")[0]
    assert (run.connection, run.timeout_s, run.key) == ("erp-db", 60.0, "c0")
    assert run.output_limit_bytes == 100 * 1024 * 1024
    why = stage.plane.book.get("c0").attempts[0].why  # type: ignore[union-attr]
    assert why.endswith("has profile erp-db")


async def test_connections_f20_agent_of_0_1_0_is_never_chosen() -> None:
    stage = Stage("old", "new")
    connection(stage)
    await stage.hello("old")  # announces no actions, and its beats have no digest
    await stage.beat("old")
    await stage.hello("new", actions=ACTIONS)
    assert (await refused(stage)).message.endswith("no active agent of web has profile erp-db")
    await tell_profiles(stage, "new", profile())
    for number in range(4):
        _ = await taken(stage, id=f"c{number}")
    assert len(stage.runs("new")) == 4
    assert not stage.runs("old")


async def test_connections_f05_inactive_connection_refuses_unless_asked_to_queue() -> None:
    stage = await make("")
    error = await refused(stage, id="c1")
    assert error.code == "group_inactive"
    answer = await taken(stage, id="c2", on_inactive="queue")
    assert (answer.target, answer.state) == ("inactive", State.QUEUED)
    assert "no active agent of web has profile erp-db" in answer.next
    await tell_profiles(stage, "web-1", profile(), seq=60)
    await stage.later(0.1)
    assert [run.command for run in stage.runs()] == ["c2"]


async def test_profile_with_a_problem_or_of_another_kind_is_not_used() -> None:
    stage = await make("")
    await tell_profiles(stage, "web-1", profile(state="problem", problem="erp-db.toml:3: no host"))
    assert (await refused(stage)).code == "group_inactive"
    await tell_profiles(stage, "web-1", profile(kind="mysql"), digest="d2", seq=60)
    assert (await refused(stage)).code == "group_inactive"
    await tell_profiles(stage, "web-1", profile(), digest="d3", seq=70)
    _ = await taken(stage)


async def test_echo_asks_for_profiles_that_are_new_and_only_for_those() -> None:
    stage = await make("")
    assert (await tell_profiles(stage, "web-1", profile(), seq=60))[-1].profiles
    assert not (await tell_profiles(stage, "web-1", seq=61))[-1].profiles
    assert (await tell_profiles(stage, "web-1", profile(hash="aa"), digest="d2", seq=62))[
        -1
    ].profiles
    assert not (await tell_profiles(stage, "web-1", digest="", seq=63))[-1].profiles
    assert (await refused(stage)).code == "group_inactive", "its host has none any more"


async def test_connections_f16_pin_excludes_other_hashes() -> None:
    stage = await make("aa", "bb")
    change(stage, pin="bb")
    for number in range(4):
        _ = await taken(stage, id=f"c{number}")
    assert len(stage.runs("web-2")) == 4
    assert not stage.runs("web-1")
    change(stage, pin="cc")
    assert "with the pinned hash cc" in (await refused(stage)).message


async def test_limit_at_once_holds_across_agents_and_actions() -> None:
    stage = await make("aa", "aa", at_once=2)
    for number in range(4):
        action = "sql.query" if number % 2 else "sql.execute"
        _ = await taken(stage, id=f"c{number}", action=action)
    sent = [run.command for name in ("web-1", "web-2") for run in stage.runs(name)]
    assert sorted(sent) == ["c0", "c1"]
    waiting = stage.plane.book.get("c2")
    assert waiting is not None
    assert Obstacles(stage.plane).waits_for(waiting.accepted) == (
        "waits for a command through connection erp-db to end: its limit of 2 at once is reached"
    )
    usual = await stage.submit("usual")
    assert states(usual) == [State.SENT, State.SENT], "others are not held up"
    agent = next(name for name in ("web-1", "web-2") if stage.runs(name))
    first = stage.runs(agent)[0].command
    await stage.report(agent, first, "succeeded")
    sent = [run.command for name in ("web-1", "web-2") for run in stage.runs(name)]
    assert "c2" in sent, "the next one starts as soon as one has ended"
    assert "c3" not in sent


async def test_full_connection_of_a_sticky_group_holds_up_no_other() -> None:
    stage = await make("aa", at_once=1)
    stage.plane.dispatcher.set_policy("web", Policy(balance="sticky", sticky_label="job"))
    labels = {"job": "j"}
    _ = await taken(stage, id="c1", labels=labels)
    _ = await taken(stage, id="c2", labels=labels)
    usual = await stage.submit("usual", labels=labels)
    await stage.later(0.3)
    assert states(usual) == [State.SENT, State.SENT]
    assert [run.command for run in stage.runs()] == ["c1", "usual"]
    await stage.report("web-1", "c1", "succeeded")
    assert stage.runs()[-1].command == "c2"


async def test_disabled_connection_refuses_new_commands_and_holds_waiting_ones() -> None:
    stage = await make("aa", at_once=1)
    _ = await taken(stage, id="c1")
    _ = await taken(stage, id="c2")
    change(stage, enabled=False)
    assert (await refused(stage, id="c3")).code == "connection_disabled"
    await stage.report("web-1", "c1", "succeeded")
    await stage.later(0.3)
    waiting = stage.plane.book.get("c2")
    assert waiting is not None
    assert states(waiting) == [State.QUEUED]
    assert "to be enabled" in Obstacles(stage.plane).waits_for(waiting.accepted)
    change(stage, enabled=True)
    await stage.later(0.3)
    assert states(waiting) == [State.SENT, State.SENT]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"connection": "none"}, "connection_unknown"),
        ({"group": "web"}, "field_invalid"),
        ({"connection": None, "group": "web"}, "connection_needed"),
        ({"action": "process", "args": msgspec.Raw(b"\x81\xa4argv\x91\xa2id")}, "action_refused"),
        ({"action": "file.list", "args": msgspec.Raw(b"\x80")}, "action_refused"),
        ({"action": "sql.drop"}, "action_unknown"),
        ({"args": msgspec.Raw(b"\x81\xa3sqx\xa1x")}, "argument_unknown"),
        ({"args": msgspec.Raw(b"\x80")}, "field_invalid"),
        ({"timeout_s": 61.0}, "field_invalid"),
        ({"output_bytes": 101 * 1024 * 1024}, "field_invalid"),
        ({"client": "stranger"}, "forbidden"),
        ({"action": "sql.execute"}, "action_refused"),
    ],
)
async def test_bad_call_is_refused_at_the_door(fields: dict[str, object], code: str) -> None:
    stage = await make("aa", actions=["sql.query"])
    add_client(stage.plane, "stranger", "other")
    assert (await refused(stage, id="c1", **fields)).code == code
    assert not stage.facts.stored


async def test_own_limits_of_a_call_are_sent() -> None:
    stage = await make("aa")
    _ = await taken(stage, timeout_s=5.0, output_bytes=1000)
    run = stage.runs()[0]
    assert (run.timeout_s, run.output_limit_bytes) == (5.0, 1000)


async def test_limits_belong_to_what_makes_two_calls_the_same() -> None:
    stage = await make("aa")
    _ = await taken(stage, id="c1")
    assert (await taken(stage, id="c1")).duplicate
    assert (await ask(stage, id="c1", timeout_s=5.0)).code == "id_conflict"  # type: ignore[union-attr]


async def test_result_effect_and_code_reach_the_record() -> None:
    stage = await make("aa")
    _ = await taken(stage, id="c1")
    result = msgspec.msgpack.encode({"rows": 3, "columns": ["id"]})
    await stage.report("web-1", "c1", "succeeded", result=result, effect="none")
    record = stage.ended[0]
    assert (record.connection, record.result) == ("erp-db", {"rows": 3, "columns": ["id"]})
    assert (record.attempts[0].effect, record.attempts[0].code) == ("none", "")


@pytest.mark.parametrize(
    "result",
    [
        b"\xc1",
        b"\x93\x01\x02\x03",
        msgspec.msgpack.encode({"a": {1: 2}}),
        msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(1, b"x")}),
        b"\x81\xa1a\x81\x91\x01\x01",
    ],
    ids=["no message pack", "no map", "number as a key", "extension", "list as a key"],
)
async def test_result_that_records_cannot_hold_is_dropped(result: bytes) -> None:
    stage = await make("aa")
    _ = await taken(stage, id="c1")
    await stage.report("web-1", "c1", "failed", result=result, effect="unknown", code="target_lost")
    record = stage.ended[0]
    assert record.result is None
    assert (record.attempts[0].effect, record.attempts[0].code) == ("unknown", "target_lost")
    assert stage.plane.telemetry.tallied("malformed", "result") == 1


async def test_retry_keeps_the_key_of_the_first_call() -> None:
    stage = await make("aa")
    _ = await taken(stage, id="c1")
    await stage.report("web-1", "c1", "failed")
    first = stage.runs()[0]
    command = stage.plane.book.get("c1")
    assert command is not None
    caller = stage.plane.registry.clients["ops"]
    stage.intake.take_again(caller, command.accepted, "c2", lambda _: None)
    await stage.rest()
    second = stage.runs()[-1]
    assert (second.command, second.key) == ("c2", first.key)
    again = stage.plane.book.get("c2")
    assert again is not None
    stage.intake.take_again(caller, again.accepted, "c3", lambda _: None)
    await stage.rest()
    assert stage.runs()[-1].key == first.key


async def test_waiting_command_of_a_deleted_connection_is_refused() -> None:
    stage = await make("")
    _ = await taken(stage, id="c1", on_inactive="queue")
    del stage.plane.registry.connections["erp-db"]
    await stage.later(0.3)
    record = stage.ended[0]
    assert record.state == State.REJECTED
    assert record.reason.startswith("connection_unknown")


async def test_profile_that_an_agent_refuses_sends_the_command_elsewhere() -> None:
    stage = await make("aa", "aa")
    _ = await taken(stage, id="c1")
    first = "web-1" if stage.runs("web-1") else "web-2"
    await stage.reply(first, "c1", "rejected", code="profile_unknown")
    other = "web-2" if first == "web-1" else "web-1"
    assert [run.command for run in stage.runs(other)] == ["c1"]


async def test_limits_are_released_by_every_end() -> None:
    stage = await make("aa", at_once=1)
    for number, state in enumerate(("succeeded", "failed", "timed_out", "cancelled", "lost")):
        _ = await taken(stage, id=f"c{number}")
        await stage.report("web-1", f"c{number}", state)
    _ = await taken(stage, id="last")
    stage.facts.fault = Refused("store_full", "no room")
    assert isinstance(await ask(stage, id="not-stored"), Refused)
    stage.facts.fault = None
    assert stage.plane.dispatcher.ways.load("erp-db") == 1
    await stage.report("web-1", "last", "succeeded")
    assert stage.plane.dispatcher.ways.load("erp-db") == 0


async def test_action_that_no_profile_allows_is_refused_at_the_door() -> None:
    stage = Stage("web-1", "web-2")
    connection(stage)
    for name in ("web-1", "web-2"):
        await stage.hello(name, actions=ACTIONS)
        await tell_profiles(stage, name, profile(actions=["sql.query", "connection.test"]))
    error = await refused(stage, id="c1", action="sql.execute")
    assert error.code == "action_refused"
    assert "allows sql.query, connection.test, not sql.execute" in error.message
    _ = await taken(stage, id="c2")
    writes = profile(actions=["sql.query", "sql.execute"])
    await tell_profiles(stage, "web-2", writes, digest="d2", seq=60)
    for number in range(4):
        _ = await taken(stage, id=f"w{number}", action="sql.execute")
    sent = [run.command for run in stage.runs("web-2")]
    assert {f"w{number}" for number in range(4)} <= {*sent}, "only the host that allows it is asked"


async def test_connections_have_series_of_status_profiles_and_calls() -> None:
    stage = await make("aa", "bb", "")
    for entry in stage.plane.registry.connections.values():
        stage.work.connections.note(entry)
    _ = await taken(stage, id="c1")
    agent = next(name for name in ("web-1", "web-2") if stage.runs(name))
    at = stage.clock.now()
    await stage.report(
        agent,
        "c1",
        "failed",
        code="login_refused",
        effect="none",
        stdout_bytes=100,
        started_at=at,
        ended_at=at + 2.0,
    )
    _ = await taken(stage, id="c2")
    samples = await scrape(stage.plane)
    names = {"connection": "erp-db", "group": "web", "kind": "postgresql"}

    def value(metric: str, **more: str) -> float | None:
        return samples.get((f"mesh_connection_{metric}", frozenset({**names, **more}.items())))

    assert value("active") == 1
    assert value("hosts", profile="ok") == 2
    assert value("hosts", profile="missing") == 1
    assert value("profile_hashes") == 2
    assert value("profile_problems") == 0
    assert value("calls_total", outcome="failed") == 1
    assert value("calls_total", outcome="succeeded") == 0
    assert value("faults_total", code="login_refused") == 1
    assert value("faults_total", code="worker_lost") == 0, "there from the start"
    assert value("output_bytes_total") == 100
    assert value("call_duration_seconds_sum") == 2
    assert value("commands_running") == 1
    change(stage, enabled=False)
    del stage.plane.registry.connections["erp-db"]
    assert not [name for name, _ in await scrape(stage.plane) if name.startswith("mesh_connection")]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (SubmitRequest(action="sql.query", args=QUERY), "connection_needed"),
        (SubmitRequest(action="sql.query", args=QUERY, connection="erp-db"), "field_invalid"),
    ],
)
async def test_fan_out_of_calls_is_refused(command: SubmitRequest, code: str) -> None:
    stage = await make("aa")
    operations = FanoutOperations(stage.plane, stage.fanouts, stage.canceller)
    caller = stage.plane.registry.clients["ops"]
    with pytest.raises(Refused) as error:
        await operations.submit(caller, FanoutSubmit(group="web", command=command))
    assert error.value.code == code

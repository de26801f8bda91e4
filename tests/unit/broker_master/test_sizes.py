"""No message is larger than the broker takes, whatever its fields hold; and all are read back."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_agent.services.reporter import MESSAGE_BYTES
from broker_client.runtime import tracing
from broker_master.api import fanouts as fanout_api
from broker_master.api.agents import AgentOperations
from broker_master.api.clients import ClientOperations
from broker_master.api.commands import CommandOperations, _Row
from broker_master.api.commands import _page as command_page
from broker_master.api.connections import ConnectionOperations
from broker_master.api.discovery import Discovery
from broker_master.api.door import Door
from broker_master.api.fanouts import FanoutOperations
from broker_master.api.groups import GroupOperations
from broker_master.api.nats import NatsApi
from broker_master.core.certificates import KEPT_MAX, with_candidate
from broker_master.core.fit import fit_entry, fit_history, fit_outcome, fit_record
from broker_master.core.pages import Rows
from broker_master.services.connection_views import ConnectionViews
from broker_master.services.turns import Turns
from broker_master.services.views import Views
from broker_master.store.readmodel import Filter
from schemas import codec, limits, subjects
from schemas.faults import FAULTS, FaultBody, Refused
from schemas.messages import (
    actions,
    api,
    audit,
    enrol,
    facts,
    fanouts,
    liveness,
    registry,
    renewal,
    work,
)
from schemas.timers import Timers
from schemas.verbs import MESH_STATUS, VERBS
from tests.fake_clock import FakeClock
from tests.planes import add_agent, add_group, connect, make_plane
from tests.unit.broker_master.sizes import BOUNDS, WIDE, largest, raw_of, unused_bounds
from tests.unit.broker_master.stage import Stage
from tests.unit.schemas.catalogue import KINDS, Kind, name_of
from tests.unit.schemas.samples import fields
from tests.unit.schemas.strategies import quick

# Of one message of the master, headers and subject left out.
MASTER: Final = limits.HISTORY_BYTES
AGENT: Final = limits.PAYLOAD_BYTES
# The arguments of the largest command, its labels and targets left out.
ARGS_BYTES: Final = 100 * 1024

Read = Callable[[type[Any], bytes], Any]


class Judged(NamedTuple):
    """most: bytes. read: how its receiver decodes it. made: what its sender does to it before."""

    most: int
    read: Read = codec.decode_trusted
    made: Callable[[Any], Any] = lambda message: message


def _trusted_history(history: facts.HistoryRecord) -> facts.HistoryRecord:
    return fit_history(msgspec.structs.replace(history, record=fit_record(history.record)))


# What agents send.
BY_AGENTS: Final[dict[Kind, Judged]] = {
    liveness.Beat: Judged(AGENT, codec.decode),
    liveness.Hello: Judged(AGENT, codec.decode),
    work.RunReply: Judged(AGENT, codec.decode_sized),
    work.ControlReply: Judged(AGENT, codec.decode_sized),
    work.LogChunk: Judged(AGENT),
    work.InputRequest: Judged(AGENT, codec.decode),
    enrol.EnrolRequest: Judged(AGENT, codec.decode),
    renewal.RenewalRequest: Judged(AGENT, codec.decode),
    renewal.SelfTest: Judged(AGENT, codec.decode),
    renewal.Confirmed: Judged(AGENT, codec.decode),
}
# Judged below with the code that makes them, each by a test of its own.
PAGES: Final[dict[Kind, tuple[Kind, int]]] = {
    api.AgentsAnswer: (api.AgentRecord, 200),
    api.CertificatesAnswer: (api.HoldingRecord, 200),
    api.AuditPage: (api.AuditRecord, 500),
    api.GroupsAnswer: (api.GroupRecord, 5000),
    api.ClientsAnswer: (api.ClientRecord, 5000),
    api.ConnectionsAnswer: (api.ConnectionRecord, 500),
    api.CommandPage: (facts.CommandRecord, 500),
    fanouts.FanoutsAnswer: (fanouts.FanoutRecord, 500),
}
# What the master answers, sends to agents, or stores.
BY_MASTER: Final[dict[Kind, Judged]] = {
    **{verb.answer: Judged(MASTER) for verb in VERBS.values() if verb.answer not in PAGES},
    liveness.Echo: Judged(MASTER, codec.decode),
    liveness.Welcome: Judged(MASTER, codec.decode),
    work.Control: Judged(MASTER, codec.decode),
    work.Release: Judged(MASTER, codec.decode_sized),
    work.InputReply: Judged(limits.PAYLOAD_BYTES, codec.decode_sized),
    enrol.EnrolAnswer: Judged(MASTER, codec.decode),
    facts.Assigned: Judged(MASTER),
    facts.Started: Judged(MASTER),
    facts.Decided: Judged(MASTER),
    facts.CancelAsked: Judged(MASTER),
    facts.Outcome: Judged(MASTER, made=fit_outcome),
    facts.CommandRecord: Judged(limits.RECORD_BYTES, made=fit_record),
    facts.HistoryRecord: Judged(MASTER, made=_trusted_history),
    audit.AuditEntry: Judged(MASTER, made=fit_entry),
    registry.MeshEntry: Judged(MASTER),
    registry.GroupEntry: Judged(MASTER),
    registry.AgentEntry: Judged(MASTER),
    registry.ClientEntry: Judged(MASTER),
    registry.ConnectionEntry: Judged(MASTER),
    registry.RevocationEntry: Judged(MASTER),
    FaultBody: Judged(MASTER),
}
JUDGED: Final = {**BY_AGENTS, **BY_MASTER}
MADE_OF_REQUESTS: Final[frozenset[Kind]] = frozenset(
    {work.Run, work.Report, facts.Accepted, fanouts.FanoutEntry, liveness.Profiles}
)
# Never sent or stored by themselves: judged where they are a part.
PARTS: Final[frozenset[Kind]] = frozenset(
    {
        actions.StagedInput,
        api.CertificateRecord,
        api.DetailsRecord,
        api.EventRecord,
        api.Gap,
        api.Mark,
        api.Passed,
        api.RotationRecord,
        api.SilentRecord,
        api.SpreadRecord,
        api.HoldingRecord,
        api.ClientRecord,
        api.ConnectionMember,
        api.ConnectionTested,
        api.AuditRecord,
        facts.ArgumentsRecord,
        facts.AttemptRecord,
        facts.Terms,
        fanouts.FanoutMember,
        liveness.Details,
        liveness.ProfileStatus,
        liveness.TaskDecision,
        liveness.TaskStatus,
        registry.AdminTerm,
        registry.CertificateEntry,
        registry.Policy,
        registry.TokenEntry,
        registry.Traits,
        work.AttemptReport,
        work.Output,
        work.Released,
        Timers,
    }
)
# Composed by clients: the master refuses what is longer than PAYLOAD_BYTES before it reads it.
REQUESTS: Final[frozenset[Kind]] = frozenset(
    {
        *(verb.request for verb in VERBS.values() if verb.request not in BY_AGENTS),
        *(action.args for action in actions.ACTIONS.values()),
    }
)


def test_sec_s30_every_type_of_message_is_judged() -> None:
    known = [*JUDGED, *PAGES, *MADE_OF_REQUESTS, *PARTS, *REQUESTS]
    assert len(known) == len(set(known)), "in one place only"
    assert {name_of(kind) for kind in KINDS.values()} == {name_of(kind) for kind in known}
    assert unused_bounds() == set()
    assert all(bound.why for bound in BOUNDS.values())


def test_sec_s30_field_without_a_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BOUNDS, "api.Done.message")
    with pytest.raises(AssertionError, match=r"api\.Done\.message has no limit"):
        largest(api.Done)


@pytest.mark.parametrize("kind", JUDGED, ids=name_of)
def test_sec_s30_largest_message_fits_and_is_read_back(kind: Kind) -> None:
    check(kind, largest(kind))


def check(kind: Kind, message: Any) -> None:  # noqa: ANN401
    judged = JUDGED[kind]
    made = judged.made(message)
    payload = codec.encode(made)
    assert len(payload) <= judged.most, f"{len(payload)} bytes of {name_of(kind)}"
    assert judged.read(kind, payload) == made


# How much of each field is left: nothing, one, a half, or all that it may hold.
SHARES: Final = st.sampled_from(["none", "one", "half", "all"])


def partly(whole: Any, shares: dict[str, str]) -> Any:  # noqa: ANN401
    """`whole` with its free texts and its lists shortened."""
    changed: dict[str, Any] = {}
    for name, share in shares.items():
        value = getattr(whole, name)
        is_free = isinstance(value, str) and value.startswith(WIDE)
        if is_free or isinstance(value, list | bytes):
            changed[name] = value[: {"none": 0, "one": 1, "half": len(value) // 2}.get(share)]
        elif value is None or (share == "none" and isinstance(value, dict)):
            changed[name] = {} if value is not None else None
    return msgspec.structs.replace(whole, **changed)


@pytest.mark.parametrize(
    "kind",
    [facts.CommandRecord, facts.HistoryRecord, facts.Outcome, audit.AuditEntry, liveness.Hello],
    ids=name_of,
)
def test_sec_s30_record_of_any_mixture_of_sizes_fits(kind: Kind) -> None:
    whole = largest(kind)

    @given(shares=st.fixed_dictionaries({field.name: SHARES for field in fields(kind)}))
    @quick(25)
    def holds(shares: dict[str, str]) -> None:
        check(kind, partly(whole, shares))

    holds()


def test_sec_s30_report_of_an_agent_fits_with_its_largest_item() -> None:
    """The reporter begins a new message before an item that would not fit into MESSAGE_BYTES."""
    output = work.Output(stdout=bytes(limits.INLINE_OUTPUT_BYTES))
    item = largest(work.AttemptReport, output=output)
    size = len(codec.encode(item))
    assert size <= MESSAGE_BYTES
    report = work.Report(incarnation="I" * 64, items=[item] * (MESSAGE_BYTES // size))
    payload = codec.encode(report)
    assert len(payload) <= AGENT
    assert codec.decode_sized(work.Report, payload) == report
    small = largest(work.AttemptReport, output=None, reason="", state="succeeded", result=b"")
    many = work.Report(incarnation="I" * 64, items=[small] * limits.REPORT_ITEMS)
    assert codec.decode(work.Report, codec.encode(many)) == many


# -- commands: made of requests


def largest_request(args_bytes: int) -> api.SubmitRequest:
    return cast(
        "api.SubmitRequest",
        largest(
            api.SubmitRequest,
            group="web",
            agent=None,
            action="process",
            args=raw_of(args_bytes),
            queue_ttl_s=60.0,
            deadline=None,
            tags={},
            connection=None,
            timeout_s=None,
            output_bytes=None,
        ),
    )


def fitting_request() -> api.SubmitRequest:
    """The largest that the master takes from a client."""
    beside = len(codec.encode(largest_request(0)))
    request = largest_request(limits.PAYLOAD_BYTES - beside)
    assert limits.PAYLOAD_BYTES - 64 < len(codec.encode(request)) <= limits.PAYLOAD_BYTES
    return request


async def test_sec_s30_largest_command_is_stored_read_back_and_sent() -> None:
    """With every label that the mesh adds: at 0.1.0 a replay left such a command out."""
    stage = Stage("web-1")
    add_group(stage.plane, "web")
    stage.plane.readmodel = cast("Any", SimpleNamespace(known=lambda _: None))
    intake = stage.intake
    caller = registry.ClientEntry(name="c" * 63, role="operator", created_at=0.0)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    request = codec.decode_request(api.SubmitRequest, codec.encode(fitting_request()))
    command = intake._accepted(caller, request, "nats", trace)
    labels = {**command.labels, fanouts.LABEL: "I" * 64, "retry-of": "I" * 64}
    assert len(labels) == limits.LABELS + 3 <= limits.LABELS + limits.OWN_LABELS
    assert tracing.HEADER in labels
    body = msgspec.structs.replace(command, labels=labels, first=largest(facts.Assigned))
    payload = codec.encode(body)
    assert len(payload) <= MASTER
    assert codec.decode_trusted(facts.Accepted, payload) == body

    opened = await stage.submit(body.id, args=body.args, labels=labels, action="process")
    run = stage.runs()[-1]
    assert (run.command, run.args) == (opened.id, body.args)
    assert len(codec.encode(run)) <= MASTER
    record = largest(facts.CommandRecord, state="undeliverable", labels=labels, output=None)
    history = facts.HistoryRecord(
        record=record, submitted=1.0, ended=2.0, accepted=body, argv=[WIDE * 200] * 16
    )
    kept = fit_history(history)
    assert len(codec.encode(kept)) <= MASTER
    read = codec.decode_trusted(facts.HistoryRecord, codec.encode(kept))
    assert read.accepted == body, "it can be submitted again"


async def test_sec_s30_command_of_the_most_values_is_read_by_its_agent() -> None:
    """The master's own fields come on top of what a request may hold."""
    stage = Stage("web-1")
    args = {
        "argv": ["x"] * limits.LIST_LEN,
        "env": {f"N{number}": "" for number in range(limits.MAP_LEN)},
        "stdin": b"",
        "timeout_s": 1.0,
    }
    request = api.SubmitRequest(group="web", args=msgspec.Raw(codec.encode(args)))
    read = codec.decode_request(api.SubmitRequest, codec.encode(request))
    await stage.submit("c1", args=read.args, action="process")
    assert actions.decode_args("process", stage.runs()[-1].args)


async def test_sec_s30_attempts_of_one_command_have_an_end() -> None:
    """An agent that always says that it has no room, and one that always loses what it took."""
    for says in ("agent_full", "lost"):
        stage = Stage("web-1")
        await stage.submit("c1", on_lost="rerun")
        for number in range(1, limits.ATTEMPTS + 1):
            if says == "lost":
                await stage.report("web-1", "c1", "lost", attempt=number, seq=number)
            else:
                await stage.reply("web-1", "c1", "rejected", attempt=number, code=says)
            await stage.later(9.0, beats=("web-1",))
        (record,) = stage.ended
        assert record.state == ("lost" if says == "lost" else "rejected")
        assert len(record.attempts) == limits.ATTEMPTS
        if says != "lost":
            assert f"not tried again after {limits.ATTEMPTS} attempts" in record.reason
        assert len(stage.facts.stored) <= 2 * limits.ATTEMPTS + 1


async def test_sec_s30_end_that_the_broker_refuses_for_its_size_is_stored_without_its_output() -> (
    None
):
    """Or the agent would report it for ever, and the command would never end."""
    stage = Stage("web-1")
    stage.facts.takes_bytes = 2000
    await stage.submit("c1")
    output = work.Output(stdout=bytes(10_000))
    await stage.report("web-1", "c1", "failed", reason=WIDE * 900, output=output)
    (record,) = stage.ended
    assert (record.state, record.output, record.truncated) == ("failed", None, True)
    assert stage.released() == [("c1", 1, 1)]
    assert stage.plane.telemetry.counters["cut", "outcome"] == 1


async def test_sec_s30_late_word_that_is_refused_for_its_size_is_stored_without_its_output() -> (
    None
):
    stage = Stage("web-1")
    command = await stage.submit("c1")
    await stage.later(11.0)
    await stage.later(50.0)
    assert command.state == "lost"
    stage.facts.takes_bytes = 2000
    await stage.hello("web-1")
    output = work.Output(stdout=bytes(10_000))
    await stage.report("web-1", "c1", "failed", exit_code=1, reason="late", output=output)
    assert (command.state, command.late is not None) == ("failed", True)
    assert command.outcome is not None
    assert (command.outcome.output, command.outcome.truncated) == (None, True)
    assert stage.released() == [("c1", 1, 1)]


def test_sec_s30_fanout_at_its_limit_can_still_be_noted_as_skipped_and_stopped() -> None:
    code = max(FAULTS, key=len)
    for args_bytes in (0, 100_000, 250_000):
        request = largest_request(args_bytes)
        labels = {} if args_bytes > 200_000 else request.labels
        command = msgspec.structs.replace(request, group=None, labels=labels)
        agents = [f"{number:063}" for number in range(limits.LIST_LEN)]
        entry = fanout_of(command, agents)
        while True:
            try:
                fanout_api._check_size(entry)
                break
            except Refused:
                agents = agents[: len(agents) - 10]
                entry = fanout_of(command, agents)
        assert agents
        worst = msgspec.structs.replace(
            entry,
            skipped=dict.fromkeys(agents, code),
            stopped=f"cancelled by {'c' * 63}",
            ended_at=1e10 + 0.5,
            counts={f"state-{number:02}-long": 2**53 for number in range(17)},
        )
        payload = codec.encode(worst)
        assert len(payload) <= MASTER
        assert codec.decode_trusted(fanouts.FanoutEntry, payload) == worst


def fanout_of(command: api.SubmitRequest, agents: list[str]) -> fanouts.FanoutEntry:
    return fanouts.FanoutEntry(
        id="I" * 64,
        client="c" * 63,
        digest=bytes(16),
        submitted_at=1e10 + 0.5,
        groups=["g" * 63],
        agents=agents,
        command=command,
        at_once=4096,
        max_failures=4096,
    )


# -- lists


@pytest.mark.parametrize("kind", PAGES, ids=name_of)
def test_sec_s30_page_of_the_largest_rows_fits(kind: Kind) -> None:
    row_kind, limit = PAGES[kind]
    # Only `show` has these.
    whole: dict[Kind, dict[str, object]] = {
        api.GroupRecord: {"spread": []},
        api.ConnectionRecord: {"members": []},
    }
    row = largest(row_kind, **whole.get(row_kind, {}))
    if row_kind is facts.CommandRecord:
        row = fit_record(row)
    rows = Rows[Any](limit, limits.WHOLE_LIST_BYTES)
    while rows.add(row):
        pass
    assert rows.taken
    assert len(codec.encode(rows.taken)) + 1024 <= limits.BROKER_PAYLOAD_BYTES


async def test_sec_s30_lists_end_where_the_next_row_would_not_fit_and_go_on_from_there() -> None:
    clock = FakeClock()
    plane = make_plane(clock)
    wide = WIDE * limits.LABEL_LEN
    groups = [f"g{number:04}-{'x' * 50}" for number in range(1000)]
    for name in groups:
        add_group(plane, name)
    ways = [f"w{number:04}" for number in range(400)]
    for name in ways:
        plane.registry.connections[name] = registry.ConnectionEntry(
            name=name, kind="sqlite", group=groups[1], note=wide, created_at=1.0
        )
    said = registry.AdminTerm(note=wide)
    agents = [f"a{number:04}" for number in range(120)]
    for name in agents:
        add_agent(plane, name, groups[0], admin="disabled", admin_term=said)
        connect(plane, name)
        presence = plane.roster.get(name)
        assert presence is not None
        presence.details = liveness.Details(host=wide, user=wide, version=wide)
        presence.renewal = wide
    clients = [f"c{number:04}" for number in range(100)]
    for name in clients:
        plane.registry.clients[name] = registry.ClientEntry(
            name=name, role="viewer", created_at=1.0, groups=groups[:100]
        )
    caller = registry.ClientEntry(name="ops", role="admin", created_at=0.0)
    nothing = cast("Any", None)
    views = Views(plane, lambda _: "", lambda _: [])
    agent_list = AgentOperations(
        plane, views, *([nothing] * (AgentOperations.__init__.__code__.co_argcount - 3))
    ).list
    pages = [
        (agent_list, api.AgentList(), "agents", "agent", agents),
        (GroupOperations(plane, views).list, api.GroupList(), "groups", "group", groups),
        (
            ConnectionOperations(plane, ConnectionViews(plane, views), nothing).list,
            api.ConnectionList(),
            "connections",
            "connection",
            ways,
        ),
        (
            ClientOperations(plane, views, nothing, nothing, nothing, {}).list,
            api.ClientList(),
            "clients",
            "client",
            clients,
        ),
    ]
    for ask, request, field, key, names in pages:
        found: list[str] = []
        query: Any = request
        count = 0
        while True:
            answer: Any = await cast("Any", ask)(caller, query)
            assert len(codec.encode(answer)) <= limits.BROKER_PAYLOAD_BYTES
            found += [getattr(row, key) for row in getattr(answer, field)]
            count += 1
            if answer.cursor is None:
                break
            query = msgspec.structs.replace(query, cursor=answer.cursor)
        assert (found, count > 1) == (names, True)


async def test_sec_s30_list_of_fanouts_ends_where_the_next_would_not_fit() -> None:
    plane = make_plane(FakeClock())
    entry = msgspec.structs.replace(
        fanout_of(api.SubmitRequest(), []), state="failed", stopped=WIDE * limits.LABEL_LEN
    )
    summaries = {f"f{number}": entry for number in range(500)}
    service = SimpleNamespace(all_running=list, summaries=summaries, running=lambda _: None)
    operations = FanoutOperations(plane, cast("Any", service), cast("Any", None))
    caller = registry.ClientEntry(name="ops", role="admin", created_at=0.0)
    answer = await operations.list(caller, fanouts.FanoutList(limit=500))
    assert 0 < len(answer.fanouts) < 500
    assert len(codec.encode(answer)) <= limits.PAGE_BYTES + 1024


async def test_sec_s30_large_records_are_listed_all_and_not_read_all_at_once() -> None:
    """As release 0.1.0 has left them: one fills a message, and a page asks for 500."""
    plane = make_plane(FakeClock())
    whole = largest(facts.CommandRecord)
    histories = [
        facts.HistoryRecord(
            record=msgspec.structs.replace(whole, id=f"c{number}"), submitted=1.0, ended=2.0
        )
        for number in range(60)
    ]
    asked: list[int] = []

    async def find(wanted: Filter) -> list[tuple[int, facts.HistoryRecord]]:
        asked.append(wanted.limit)
        end = len(histories) if wanted.before is None else wanted.before
        return [(at, histories[at]) for at in range(end - 1, -1, -1)][: wanted.limit]

    plane.readmodel = cast("Any", SimpleNamespace(find=find))
    operations = CommandOperations(plane, cast("Any", None), cast("Any", None))
    caller = registry.ClientEntry(name="ops", role="admin", created_at=0.0)
    found: list[str] = []
    query = api.CommandList(limit=500)
    while True:
        page = await operations.find(caller, query)
        assert len(codec.encode(page)) <= limits.PAGE_BYTES + 1024
        found += [record.id for record in page.commands]
        if page.cursor is None:
            break
        query = msgspec.structs.replace(query, cursor=page.cursor)
    assert found == [history.record.id for history in reversed(histories)]
    assert max(asked) <= 50


def test_sec_s30_page_of_commands_holds_what_fits() -> None:
    record = fit_record(largest(facts.CommandRecord, arguments=None))
    page = command_page([_Row(f"ended:{number}", record) for number in range(5)], 5)
    assert (len(page.commands), page.cursor) == (1, "ended:0")
    assert len(codec.encode(page)) <= limits.PAGE_BYTES


# -- the rest


def test_sec_s30_certificates_of_a_holder_have_an_end() -> None:
    """Or an agent that renews each second could not be revoked once its entry is full."""
    kept: list[registry.CertificateEntry] = []
    for number in range(KEPT_MAX):
        new = registry.CertificateEntry(serial=f"{number}", not_after=100.0, user_nkey=f"U{number}")
        kept = with_candidate(kept, new, 1.0)
    last = registry.CertificateEntry(serial="last", not_after=200.0, user_nkey="UL")
    with pytest.raises(Refused) as caught:
        with_candidate(kept, last, 1.0)
    assert caught.value.code == "rate_limited"
    assert with_candidate(kept, last, 101.0) == [last], "they are forgotten when they have ended"


def test_sec_s30_answer_that_is_too_large_all_the_same_is_a_fault_and_never_a_silence() -> None:
    stage = Stage()
    replies: list[tuple[str, bytes]] = stage.link.published
    door = Door(stage.plane, cast("Any", None), cast("Any", None), Turns(stage.plane))
    service = NatsApi(stage.plane, cast("Any", None), door)
    asked = subjects.Api("ops", "mesh", "status")
    service._reply("_INBOX_ops.1", asked, api.Done(message="x" * limits.BROKER_PAYLOAD_BYTES))
    ((subject, payload),) = replies
    assert subject == "_INBOX_ops.1"
    assert codec.decode(FaultBody, payload).code == "too_large"
    assert door.stats["mesh.status"].errors == 1
    replies.clear()
    service._reply("_INBOX_ops.1", asked, Refused("internal", WIDE * 100_000))
    assert len(replies[0][1]) < 8 * limits.REASON_LEN


def test_sec_s30_answer_of_discovery_fits() -> None:
    many = {
        f"{number}": dataclasses.replace(MESH_STATUS, noun="n" * 32, verb=f"{number:032}")
        for number in range(200)
    }
    discovery = Discovery("m" * 64, 1.0, {}, many)
    for answer in discovery.answers().values():
        assert len(msgspec.json.encode(answer())) <= limits.PAYLOAD_BYTES

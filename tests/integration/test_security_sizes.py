"""Rows of the threat table about size: no record is too large, and none stands in others' way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker_client.api import MeshClient
from broker_client.runtime.clock import SystemClock
from schemas import codec, limits, subjects
from schemas.messages.api import AuditPage, AuditQuery
from schemas.messages.facts import Accepted, Assigned, CommandRecord, HistoryRecord, Outcome
from schemas.messages.liveness import Beat, Hello, Welcome
from schemas.messages.work import AttemptReport, Output, Report, Run, RunReply
from schemas.texts import MARK
from tests.harness import MeshProcesses
from tests.meshes import Behind, behind, issuer, mesh_fixture, raw, state_reached
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-security-sizes")]

WIDE = "\U0001f512"
SESSION = "hostile"
# History may lag by a tenth of this before submissions are refused.
FACTS_S = 40.0
INLINE_BYTES = 230_000


mesh = mesh_fixture(
    {"web": ("web-1",), "db": ()},
    master_env={"MESH_RETENTION__FACTS_S": f"{FACTS_S}"},
    absent={"rogue-1": "db"},
)


class Hostile:
    """Takes part as an agent does, and says as much as it may: refusals, losses, then an end."""

    def __init__(self, client: Client, *, refusals: int, losses: int) -> None:
        self._client = client
        self._ends = ["refused"] * refusals + ["lost"] * losses + ["succeeded"]
        self._seq = 0

    async def run(self) -> None:
        await self._client.subscribe(subjects.down_all("db", "rogue-1"), cb=self._hear)
        while True:
            self._seq += 1
            now = SystemClock().now()
            await self._say("beat", Beat(incarnation=SESSION, seq=self._seq, slots=4, at=now))
            if self._seq % 10 == 1:
                await self._say("hello", Hello(incarnation=SESSION, slots=4))
            await asyncio.sleep(0.1)

    async def _hear(self, msg: Msg) -> None:
        kind = msg.subject.rpartition(".")[2]
        if kind == "welcome":
            epoch = codec.decode(Welcome, msg.data).epoch
            await self._say("hello", Hello(incarnation=SESSION, epoch=epoch, slots=4, done=True))
        elif kind == "run":
            await self._answer(codec.decode(Run, msg.data))

    async def _answer(self, run: Run) -> None:
        ending = self._ends[min(run.attempt, len(self._ends)) - 1]
        is_refused = ending == "refused"
        reply = RunReply(
            command=run.command,
            attempt=run.attempt,
            answer="rejected" if is_refused else "accepted",
            code="agent_full" if is_refused else "",
            message=WIDE * 4000,
        )
        await self._say(f"reply.{run.token}", reply)
        if is_refused:
            return
        item = AttemptReport(
            command=run.command,
            attempt=run.attempt,
            kind="ended",
            seq=run.attempt,
            state=ending,
            reason=WIDE * 4000,
            stdout_bytes=INLINE_BYTES,
            output=Output(stdout=b"x" * INLINE_BYTES),
        )
        await self._say("report", Report(incarnation=SESSION, items=[item]))

    async def _say(self, kind: str, body: msgspec.Struct) -> None:
        await self._client.publish(subjects.up("db", "rogue-1", kind), codec.encode(body))


@contextlib.asynccontextmanager
async def hostile(mesh: MeshProcesses, *, refusals: int, losses: int) -> AsyncIterator[None]:
    async with raw(issuer(mesh).issue("agent", "rogue-1", group="db")) as client:
        talking = asyncio.ensure_future(Hostile(client, refusals=refusals, losses=losses).run())
        try:
            await mesh.wait_status("rogue-1", "active")
            yield
        finally:
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talking


async def in_history(inside: Behind, id_: str, *, within_s: float = PATIENCE_S) -> HistoryRecord:
    async with asyncio.timeout(within_s):
        while True:
            for _, payload in reversed(await inside.stored("MESH_HISTORY")):
                found = codec.decode_trusted(HistoryRecord, payload)
                if found.record.id == id_:
                    assert len(payload) <= limits.HISTORY_BYTES
                    return found
            await asyncio.sleep(0.1)


async def others_go_on(admin: MeshClient) -> None:
    """For longer than history may lag, should it stand still."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.5 * FACTS_S / 10
    while loop.time() < until:
        assert (await admin.run(["true"], group="web")).state == "succeeded"


def check_cut(record: CommandRecord) -> None:
    assert all(len(each.reason) <= limits.REASON_LEN for each in record.attempts)
    assert record.truncated, "a reader sees that there was more output"
    assert len(codec.encode(record)) <= limits.RECORD_BYTES


async def test_sec_s30_words_and_output_of_a_hostile_agent_are_kept_cut_and_history_goes_on(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind
) -> None:
    """Refusals and losses with the longest reasons, then an end with 230 KB of inline output."""
    async with hostile(mesh, refusals=3, losses=3):
        said = await admin.submit(["true"], group="db", id="talked", on_lost="rerun")
        record = await state_reached(admin, said.id, "succeeded", within_s=PATIENCE_S)
    check_cut(record)
    assert [each.state for each in record.attempts] == ["rejected"] * 3 + ["lost"] * 3 + [
        "succeeded"
    ]
    assert all(each.reason.endswith(MARK) for each in record.attempts)
    with_output = await admin.show(said.id, with_output=True)
    assert with_output.output is not None
    assert len(with_output.output.stdout) == limits.INLINE_OUTPUT_BYTES
    assert with_output.output.truncated
    kept = await in_history(inside, said.id)
    check_cut(kept.record)
    await others_go_on(admin)
    await mesh.restart_master(kill=True)
    await admin.link.wait_connected(PATIENCE_S)
    check_cut(await admin.show(said.id))
    again = await admin.submit(["true"], group="db", id="talked", on_lost="rerun")
    assert (again.duplicate, again.state) == (True, "succeeded")
    shown = await mesh.cli("command", "show", said.id)
    assert (shown.code, "cut at its limit" in shown.out) == (0, True)


async def test_sec_s30_stream_that_holds_such_a_record_already_does_not_stop_a_master(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind
) -> None:
    """The facts as release 0.1.0 has stored them: each fits, and what is made of them does not."""
    args = msgspec.Raw(codec.encode({"argv": ["true"]}))
    facts: list[tuple[int, str, msgspec.Struct]] = [
        (0, "accepted", Accepted(id="poisoned", client="admin", group="web", action="process",
                                 args=args, submitted_at=SystemClock().now(),
                                 labels={f"label-{n}": "x" for n in range(limits.LABELS + 2)})),
    ]  # fmt: skip
    for number in range(1, 8):
        facts.append((number, "assigned", Assigned(agent="web-1", at=1.0, epoch=1)))
        is_last = number == 7
        outcome = Outcome(
            state="succeeded" if is_last else "rejected",
            at=2.0,
            agent="web-1",
            reason=f"agent_full: {WIDE * 4096}",
            final=is_last,
            stdout_bytes=INLINE_BYTES,
            output=Output(stdout=b"x" * INLINE_BYTES) if is_last else None,
        )
        facts.append((number, "outcome", outcome))
    for number, kind, body in facts:
        subject = subjects.fact("poisoned", number, kind)
        answer = await inside.client.request(subject, codec.encode(body), timeout=60)
        assert b"error" not in answer.data, answer.data
    for _ in range(2):
        await mesh.restart_master(kill=True)
        await admin.link.wait_connected(PATIENCE_S)
        record = await admin.show("poisoned", with_output=True)
        assert (record.state, len(record.attempts)) == ("succeeded", 7)
        assert "output" in record.cut
        async with behind(mesh) as probe:
            kept = await in_history(probe, "poisoned")
        assert (kept.record.state, kept.record.truncated) == ("succeeded", True)
        await others_go_on(admin)


async def test_sec_s30_record_that_the_broker_refuses_for_its_size_is_cut_alone(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """With a lower limit of the broker, one record is refused, and those beside it are stored."""
    await mesh.wait_status("web-1", "active")
    async with behind(mesh) as probe:
        config = (await probe.info("MESH_HISTORY"))["config"]
        config["max_msg_size"] = 8000
        answer = await probe.client.request(
            "$JS.API.STREAM.UPDATE.MESH_HISTORY", msgspec.json.encode(config), timeout=60
        )
        assert b'"error"' not in answer.data, answer.data
        ids = [f"beside-{number}" for number in range(6)]
        for number, id_ in enumerate(ids):
            size = 20_000 if number == 3 else 10
            await admin.submit(["head", "-c", str(size), "/dev/zero"], group="web", id=id_)
        for id_ in ids:
            assert (await admin.wait(id_, timeout_s=PATIENCE_S)).state == "succeeded"
        kept = {id_: (await in_history(probe, id_)).record for id_ in ids}
        assert {id_ for id_, record in kept.items() if record.cut} == {"beside-3"}
        assert "output" in kept["beside-3"].cut
        await others_go_on(admin)
    alarms = await admin.ask(
        "audit", "list", AuditQuery(action="history.cut", result="alarm"), AuditPage
    )
    assert [(entry.target, entry.code) for entry in alarms.entries] == [("beside-3", "too_large")]
    status = await mesh.cli("status")
    assert "1 record of history too large for the broker" in status.out
    await mesh.restart_master()
    await admin.link.wait_connected(PATIENCE_S)
    assert "output" in (await admin.show("beside-3")).cut
    await others_go_on(admin)

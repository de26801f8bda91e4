"""Rows of the threat table about the wire; each test is named after its row."""

import asyncio
import contextlib
import socket
import ssl
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker_client.api import MeshClient
from broker_client.runtime.frames import Msg as Frame
from schemas import codec, subjects
from schemas.faults import FAULTS, MeshError
from schemas.messages.api import AgentRecord, Done, NameQuery, TrustAnswer, TrustQuery
from schemas.messages.liveness import Beat, Hello, TaskStatus, Welcome
from schemas.messages.work import AttemptReport, Control, ControlReply, Report, Run, RunReply
from tests.chaos.light import LightAgent
from tests.chaos.witness import Witness
from tests.children import reset_peak_rss
from tests.harness import MeshProcesses
from tests.meshes import Behind, issuer, mesh_fixture, raw, state_reached
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-security-wire")]

KNOCKS = 400

MIB = 1024 * 1024


mesh = mesh_fixture({"web": ("web-1",), "db": ("db-1",)}, absent={"rogue-1": "db", "rogue-2": "db"})


@pytest.fixture
async def rogue(mesh: MeshProcesses) -> AsyncIterator[Client]:
    """A stock connection that may say whatever agent rogue-1 may say."""
    async with raw(issuer(mesh).issue("agent", "rogue-1", group="db")) as client:
        yield client


async def shown(admin: MeshClient, name: str) -> AgentRecord:
    return await admin.ask("agent", "show", NameQuery(name=name), AgentRecord)


async def test_sec_s04_twenty_forged_words_of_one_agent_about_another_are_none_of_them_believed(
    mesh: MeshProcesses, admin: MeshClient, rogue: Client
) -> None:
    """In its own subject, where the master must not believe it, and in the other's, the broker."""
    await mesh.wait_status("web-1", "active")
    running = await admin.submit(["sleep", "60"], agent="web-1")
    await state_reached(admin, running.id, "running")
    before = await shown(admin, "web-1")

    def reports(state: str, kind: str) -> bytes:
        item = AttemptReport(command=running.id, attempt=1, kind=kind, seq=9, state=state)  # type: ignore[arg-type]
        return codec.encode(Report(incarnation="forged", items=[item]))

    task = TaskStatus(command=running.id, attempt=1, state="succeeded")
    forged = {
        "beat": codec.encode(Beat(incarnation="forged", seq=99, goodbye=True)),
        "hello": codec.encode(Hello(incarnation="forged", tasks=[task])),
        "reply.1": codec.encode(
            RunReply(command=running.id, attempt=1, answer="rejected", code="agent_full")
        ),
        f"log.{running.id}.1.stdout": b"forged",
    }
    words = [
        *(("report", reports(state, "ended")) for state in ("succeeded", "failed", "cancelled")),
        *(("report", reports(state, "ended")) for state in ("timed_out", "killed_fenced", "lost")),
        *forged.items(),
    ]
    sent = [(subjects.up("web", "web-1", kind), payload) for kind, payload in words] + [
        (subjects.up("db", "rogue-1", kind), payload) for kind, payload in words if kind != "beat"
    ]
    sent.append((subjects.up("web", "rogue-1", "beat"), forged["beat"]))
    assert len(sent) == 20
    for subject, payload in sent:
        await rogue.publish(subject, payload)
    await rogue.flush()
    assert (await admin.run(["true"], group="web")).state == "succeeded"
    await eventually(lambda: mesh.master.stderr.count("report_refused") >= 6)
    assert (await admin.show(running.id)).state == "running"
    after = await shown(admin, "web-1")
    assert (after.status, after.since) == ("active", before.since)
    await admin.cancel(running.id)
    assert (await admin.wait(running.id, timeout_s=PATIENCE_S)).state == "cancelled"


STEERED = ("run", "control", "release", "welcome", "echo")


@pytest.mark.parametrize("kind", STEERED)
async def test_sec_s05_agent_cannot_steer_an_answer_to_another_agent(
    mesh: MeshProcesses, admin: MeshClient, rogue: Client, inside: Behind, kind: str
) -> None:
    """By the reply subject: of the master's answers none goes there, of the broker's one at most.

    What JetStream acknowledges goes wherever the sender says; it is JSON, and no agent takes it.
    """
    await mesh.wait_status("web-1", "active")
    before = await shown(admin, "web-1")
    victim = subjects.down("web", "web-1", kind)
    heard = await inside.client.subscribe(victim)
    await inside.client.flush()
    words = {
        "beat": codec.encode(Beat(incarnation="steer", seq=1)),
        "hello": codec.encode(Hello(incarnation="steer")),
        "report": codec.encode(Report(incarnation="steer", items=[])),
        "reply.1": codec.encode(RunReply(command="c", attempt=1, answer="accepted")),
        "log.steered.1.stdout": b"\x81\xa4data\xc4\x01x",
    }
    for up, payload in words.items():
        await rogue.publish(subjects.up("db", "rogue-1", up), payload, reply=victim)
    await rogue.flush()
    assert (await admin.run(["true"], agent="web-1", timeout_s=PATIENCE_S)).state == "succeeded"
    await inside.client.flush()
    steered = []
    with contextlib.suppress(Exception):
        while True:
            message = await heard.next_msg(timeout=0.2)
            # A JSON object: what the broker says. The mesh's own words are msgpack maps.
            if message.data[:1] == b"{":
                steered.append(message)
    assert len(steered) <= 1
    after = await shown(admin, "web-1")
    assert (after.status, after.since) == ("active", before.since)


@pytest.mark.parametrize("role", ["agent", "enrol", "viewer", "operator", "admin"])
async def test_sec_s37_only_the_master_sends_addresses(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind, role: str
) -> None:
    """Neither a welcome to another agent, nor an answer to a client that asks for them."""
    await mesh.wait_status("web-1", "active")
    where = mesh.agent_dir("web-1") / "identity" / "current" / "identity.toml"
    before = tomllib.loads(where.read_text())["urls"]
    forged = codec.encode(
        Welcome(incarnation="steer", epoch=2**31, urls=["tls://evil.example:4222"])
    )
    aims = [
        subjects.down("web", "web-1", "welcome"),
        f"{subjects.inbox_prefix('admin')}.forged",
        f"{subjects.inbox_prefix('web-1')}.forged",
    ]
    heard = [await inside.client.subscribe(aim) for aim in aims]
    await inside.client.flush()
    group = "db" if role == "agent" else None
    name = "rogue-1" if group else f"rogue-{role}"
    async with raw(issuer(mesh).issue(role, name, group=group)) as rogue:
        asked = await rogue.subscribe(subjects.api("admin", "certificate", "trust"))
        for aim in aims:
            await rogue.publish(aim, forged)
        await rogue.flush()
        answer = await admin.ask("certificate", "trust", TrustQuery(addresses="other"), TrustAnswer)
        assert answer.urls
        assert "evil" not in str(answer.urls)
        for aim, each in zip(aims, heard, strict=True):
            await inside.client.publish(aim, b"control")
            # The first thing that comes is ours, so nothing of the rogue came before it.
            assert (await each.next_msg(timeout=PATIENCE_S)).data == b"control", aim
        assert asked.pending_msgs == 0, "the question reaches the master alone"
    assert tomllib.loads(where.read_text())["urls"] == before
    assert (await shown(admin, "web-1")).status == "active"


async def test_sec_s06_captured_requests_that_are_replayed_run_nothing(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind, tmp_path: Path
) -> None:
    """At once, after the agent was restarted, and as another command under the same id."""
    await mesh.wait_status("web-1", "active")
    witness = tmp_path / "witness"
    captured: list[Run] = []
    heard = await inside.client.subscribe(subjects.down("web", "web-1", "run"))
    await inside.client.flush()
    ids = [f"replayed-{number}" for number in range(100)]
    for id_ in ids:
        await admin.submit(["sh", "-c", f"echo {id_} >> {witness}"], agent="web-1", id=id_)
    for id_ in ids:
        assert (await admin.wait(id_, timeout_s=PATIENCE_S)).state == "succeeded"
    while len(captured) < len(ids):
        captured.append(codec.decode(Run, (await heard.next_msg(timeout=PATIENCE_S)).data))
    assert sorted(witness.read_text().split()) == sorted(ids)

    async def replay(runs: list[Run]) -> None:
        for run in runs:
            await inside.client.publish(subjects.down("web", "web-1", "run"), codec.encode(run))
        await inside.client.flush()
        done = await admin.run(["true"], agent="web-1", timeout_s=PATIENCE_S)
        assert done.state == "succeeded"

    await replay(captured)
    await replay([msgspec.structs.replace(run, attempt=run.attempt + 1, beat_seq=10**6)
                  for run in captured])  # fmt: skip
    await mesh.agents["web-1"].stop()
    await mesh.agents["web-1"].start()
    await mesh.wait_status("web-1", "active")
    await replay(captured)
    # With the session's new name as well: an old request names a beat that it has never sent.
    fresh = codec.decode(Run, (await _next_run(admin, inside)).data)
    await replay([msgspec.structs.replace(run, incarnation=fresh.incarnation) for run in captured])
    await replay([msgspec.structs.replace(run, epoch=0) for run in captured])
    assert sorted(witness.read_text().split()) == sorted(ids)


async def _next_run(admin: MeshClient, inside: Behind) -> Msg:
    heard = await inside.client.subscribe(subjects.down("web", "web-1", "run"))
    await inside.client.flush()
    await admin.run(["true"], agent="web-1", timeout_s=PATIENCE_S)
    return await heard.next_msg(timeout=PATIENCE_S)


BOMBS = {
    "maps": b"\x91" * 3 + b"\xdd\x00\x00\xff\xff" + b"\x80" * 200_000,
    "lists": b"\xdd\x00\x03\x00\x00" + b"\x90" * 200_000,
    "announced": b"\xdd\xff\xff\xff\xff",
    "depth": b"\x81\xa1a" * 60_000,
    "items": b"\x81\xa5items\xdc\xff\xff" + b"\x80" * 65_535,
}


async def test_sec_s09_thousand_msgpack_bombs_cost_the_master_no_memory(
    mesh: MeshProcesses, admin: MeshClient, rogue: Client
) -> None:
    await admin.run(["true"], group="db")
    reset_peak_rss(mesh.master.pid)
    before = mesh.master.rss_bytes
    kinds = ("beat", "hello", "report", "reply.1")
    for number in range(1000):
        bomb = [*BOMBS.values()][number % len(BOMBS)]
        await rogue.publish(subjects.up("db", "rogue-1", kinds[number % len(kinds)]), bomb)
        if number % 50 == 49:
            await rogue.flush()
    await rogue.flush()
    assert (await admin.run(["true"], group="db", timeout_s=PATIENCE_S)).state == "succeeded"
    assert mesh.master.peak_rss_bytes - before < 10 * MIB
    assert (await mesh.wait_status("db-1", "active")).status == "active"


async def test_sec_s12_flood_of_bad_handshakes_loses_no_agent(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """Nonsense instead of TLS, and TLS without a certificate, as fast as it goes."""
    await mesh.wait_status("web-1", "active")
    before = {name: await shown(admin, name) for name in ("web-1", "db-1")}
    target = urlsplit(mesh.nats_url)
    address = (target.hostname or "", target.port or 0)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    for number in range(KNOCKS):
        await asyncio.to_thread(_knock, address, bare if number % 10 == 0 else None)
    for _ in range(3):
        assert (await admin.run(["true"], group="web", timeout_s=PATIENCE_S)).state == "succeeded"
    for name, record in before.items():
        after = await shown(admin, name)
        assert (after.status, after.since) == ("active", record.since), "it was never lost"


def _knock(address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=60) as knocking:
        knocking.recv(4096)
        if tls is None:
            knocking.sendall(b"\x16\x03\x01" + b"\xff" * 200)
        else:
            with tls.wrap_socket(knocking) as secured:
                secured.recv(1)


class Rude(LightAgent):
    """Answers each order with a fault of its own, line ends included."""

    def _on_message(self, message: Frame) -> None:
        if not message.subject.endswith(".control"):
            super()._on_message(message)
            return
        order = codec.decode(Control, message.data)
        reply = ControlReply(kind=order.kind, code="own\r\nword", message="no\r\nNats-X: forged")
        where = subjects.reply(self._group, self.name, order.token)
        self.link.publish_nowait(where, codec.encode(reply))


async def test_sec_s36_line_ends_in_the_answer_of_an_agent_keep_nobody_waiting(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    credentials = issuer(mesh).issue("agent", "rogue-2", group="db")
    async with Rude("db", Witness(tmp_path / "witness"), credentials, beat_s=0.2):
        await mesh.wait_status("rogue-2", "active")
        with pytest.raises(MeshError, match="forged") as refused:
            await admin.ask("agent", "rotate", NameQuery(name="rogue-2"), Done)
    assert refused.value.code in FAULTS

"""Row S29 of the threat table: streams hold what masters wrote, and output; the rest is skipped."""

import asyncio
from typing import Any, Final

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker_client.api import MeshClient
from schemas import codec, subjects
from schemas.messages.liveness import HEARS_STORED, Hello
from schemas.messages.work import LogChunk
from schemas.permissions import GROUP, NAME, SCOPES
from tests.harness import MeshProcesses
from tests.meshes import LONG_LEASE, Behind, behind, issuer, mesh_fixture, raw
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-security-streams")]

HEARD_S: Final = 60.0
QUIET_S: Final = 0.3
# One of each stream and bucket that nobody uses, and the keys that matter most.
TARGETS: Final = (
    subjects.fact("steered", 1, "outcome"),
    subjects.history("steered"),
    subjects.audit("steered"),
    subjects.log("web", "web-1", "steered", 1, "stdout"),
    "$KV.mesh_registry.steered",
    "$KV.mesh_registry.mesh",
    "$KV.mesh_registry.group.web",
    "$KV.mesh_registry.agent.web-1",
    "$KV.mesh_registry.client.admin",
    "$KV.mesh_fanouts.steered",
)
# Each makes the broker answer, or do, something else with the message.
HEADERS: Final[tuple[dict[str, str] | None, ...]] = (
    None,
    {"Nats-Expected-Last-Sequence": "999999"},
    {"Nats-Expected-Stream": "OTHER"},
    {"Nats-Msg-Id": "twice"},
    {"Nats-Rollup": "all"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
)


mesh = mesh_fixture({"web": ("web-1",), "db": ("db-1",)}, env=LONG_LEASE, absent={"rogue-1": "db"})


async def held(inside: Behind) -> dict[str, int]:
    """How many messages there are on each of TARGETS."""
    found: dict[str, int] = {}
    for stream in ("MESH_EVENTS", "MESH_HISTORY", "MESH_LOGS", "MESH_AUDIT"):
        found |= await _held(inside, stream)
    for bucket in ("KV_mesh_registry", "KV_mesh_fanouts"):
        found |= await _held(inside, bucket)
    return {subject: found.get(subject, 0) for subject in TARGETS}


async def _held(inside: Behind, stream: str) -> dict[str, int]:
    wanted = msgspec.json.encode({"subjects_filter": ">"})
    answer = await inside.client.request(f"$JS.API.STREAM.INFO.{stream}", wanted, timeout=HEARD_S)
    return dict(msgspec.json.decode(answer.data)["state"].get("subjects") or {})


def speakable(role: str, name: str, group: str) -> list[str]:
    """Subjects that a role may publish to: all of them, or some of each wild card."""
    tails = ("beat", "hello", "report", "reply.x", "renew", "log.c1.1.stdout", "log.c1", "x.y")
    found = []
    for template in SCOPES[role].publish:
        subject = template.replace(NAME, name).replace(GROUP, group)
        if not subject.endswith(".>"):
            found.append(subject)
        elif subject.startswith("$SRV"):
            found.append(subject.replace(">", "mesh"))
        else:
            words = tails if role == "agent" else ("command.submit", "client.list", "no.such")
            found += [subject.replace(">", word) for word in words]
    return found


@pytest.mark.parametrize("role", list(SCOPES))
async def test_sec_s29_nothing_that_a_member_says_is_stored_where_its_reply_subject_points(
    mesh: MeshProcesses, inside: Behind, role: str
) -> None:
    name = {"agent": "rogue-1", "enrol": "rogue-1", "admin": "admin"}.get(role, f"s29-{role}")
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    before = await held(inside)
    async with raw(issuer(mesh).issue(role, name, group="db" if role == "agent" else None)) as who:
        who._error_cb = note
        for subject in speakable(role, name, "db"):
            for target in TARGETS:
                for headers in HEADERS:
                    await who.publish(subject, b"\x80", reply=target, headers=headers)
                await who.flush()
        assert not refused, "the test says what this role may not say"
        # A trace of a message goes where its sender says as well, if he may publish there.
        for target in TARGETS:
            trace = {"Nats-Trace-Dest": target}
            await who.publish(speakable(role, name, "db")[0], b"\x80", headers=trace)
        await who.flush()
    await asyncio.sleep(QUIET_S)
    assert await held(inside) == before


async def test_sec_s29_mesh_of_before_is_changed_over_when_its_master_starts(
    mesh: MeshProcesses, inside: Behind, admin: MeshClient
) -> None:
    """As 0.1 left it the stream acknowledges, and the attack succeeds: this test would see it."""
    config: dict[str, Any] = (await inside.info("MESH_LOGS"))["config"]
    assert config["no_ack"]
    await _update(inside, {**config, "no_ack": False, "republish": None})
    target = subjects.fact("steered", 2, "outcome")
    assert await _steered(mesh, inside, target) == 1
    # An agent of now ships to that stream as well: the acknowledgement will do.
    mixed = await admin.run(["seq", "20000"], agent="web-1")
    assert mixed.stdout_bytes > 100_000
    await mesh.restart_master()
    async with behind(mesh) as again:
        assert (await again.info("MESH_LOGS"))["config"]["no_ack"]
        assert await _steered(mesh, again, target) == 1, "the one of before, and no other"
    await mesh.wait_status("web-1", "active")
    await admin.link.wait_connected(HEARD_S)
    record = await admin.run(["seq", "20000"], agent="web-1")
    assert (record.state, record.stdout_bytes) == ("succeeded", mixed.stdout_bytes)


async def _steered(mesh: MeshProcesses, inside: Behind, target: str) -> int:
    """How many messages there are on `target` after an agent has tried to steer one there."""
    log = subjects.log("db", "rogue-1", "c2", 1, "stdout")
    async with raw(issuer(mesh).issue("agent", "rogue-1", group="db")) as rogue:
        await rogue.publish(log, b"x", reply=target)
        await rogue.flush()
        await asyncio.sleep(QUIET_S)
    return (await _held(inside, "MESH_EVENTS")).get(target, 0)


async def _update(inside: Behind, config: dict[str, Any]) -> None:
    subject = f"$JS.API.STREAM.UPDATE.{config['name']}"
    answer = await inside.client.request(subject, msgspec.json.encode(config), timeout=HEARD_S)
    assert "error" not in msgspec.json.decode(answer.data), answer.data


async def test_agent_of_before_is_acknowledged_below_its_own_inbox_alone(
    mesh: MeshProcesses, inside: Behind
) -> None:
    """0.1 asks for acknowledgements, and says nothing of `stored` in its hello."""
    async with raw(issuer(mesh).issue("agent", "rogue-1", group="db")) as rogue:
        heard: asyncio.Queue[Msg] = asyncio.Queue()

        async def hear(msg: Msg) -> None:
            await heard.put(msg)

        await rogue.subscribe("_INBOX_rogue-1.>", cb=hear)
        await rogue.flush()
        await _hello(rogue, "inc-1")
        number = 0
        async with asyncio.timeout(HEARD_S):
            while heard.empty():  # it is heard from its hello on, which takes a moment
                number += 1
                await _chunk(rogue, number, f"_INBOX_rogue-1.{number}")
                await asyncio.sleep(0.1)
            while (ack := await heard.get()).subject != f"_INBOX_rogue-1.{number}":
                pass
        said = msgspec.json.decode(ack.data)
        assert said["stream"] == "MESH_LOGS"
        stored = await _message(inside, said["seq"])
        assert codec.decode(LogChunk, stored).offset == number
        # Another's inbox: no word there.
        victim = await inside.client.subscribe("_INBOX_web-1.>")
        await inside.client.flush()
        await _chunk(rogue, number + 1, "_INBOX_web-1.1")
        # Once it hears the stream itself, the master is silent.
        await _hello(rogue, "inc-2", HEARS_STORED)
        await asyncio.sleep(QUIET_S)
        await _chunk(rogue, number + 2, "_INBOX_rogue-1.last")
        await asyncio.sleep(QUIET_S)
        assert heard.empty()
        with pytest.raises(TimeoutError):
            await victim.next_msg(timeout=0.1)


async def _hello(rogue: Client, incarnation: str, *features: str) -> None:
    message = Hello(incarnation=incarnation, slots=1, features=list(features))
    await rogue.publish(subjects.up("db", "rogue-1", "hello"), codec.encode(message))
    await rogue.flush()


async def _chunk(rogue: Client, offset: int, reply: str) -> None:
    subject = subjects.log("db", "rogue-1", "c3", 1, "stdout")
    await rogue.publish(subject, codec.encode(LogChunk(offset=offset, data=b"x")), reply=reply)
    await rogue.flush()


async def _message(inside: Behind, seq: int) -> bytes:
    query = msgspec.json.encode({"seq": seq})
    answer = await inside.client.request("$JS.API.DIRECT.GET.MESH_LOGS", query, timeout=HEARD_S)
    return answer.data


# What nobody can read, and what can be read but stands in another's place.
GARBAGE: Final = b'{"stream":"MESH_LOGS","seq":7}'


async def _plant(inside: Behind, subject: str, payload: bytes = GARBAGE) -> int:
    answer = await inside.client.request(subject, payload, timeout=HEARD_S)
    said = msgspec.json.decode(answer.data)
    assert "error" not in said, (subject, said)
    return int(said["seq"])


async def _counts(mesh: MeshProcesses) -> dict[str, float]:
    async def fetch() -> str:
        return await asyncio.to_thread(mesh._metrics)

    found = {}
    for line in (await fetch()).splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("mesh_unreadable_entries_total{"):
            found[name.partition('stream="')[2].partition('"')[0]] = float(value)
    return found


async def test_sec_s29_unreadable_entries_are_skipped_counted_and_reported(
    mesh: MeshProcesses, inside: Behind, admin: MeshClient
) -> None:
    """Planted with a master's rights in each stream and bucket: the master starts, lists work."""
    done = await admin.run(["seq", "20000"], agent="web-1")
    running = await admin.submit(["sleep", "30"], agent="web-1")
    async with asyncio.timeout(HEARD_S):  # what lies before its record would not be read again
        while not any(done.id.encode() in body for _, body in await inside.stored("MESH_HISTORY")):
            await asyncio.sleep(0.05)
    for subject in (
        subjects.fact("s29-a", 0, "accepted"),
        subjects.fact("s29-b", 1, "no-such-kind"),
        subjects.fact(running.id, 1, "outcome"),
        subjects.history("web"),
        subjects.audit("agent"),
        "$KV.mesh_registry.agent.web-1",
        "$KV.mesh_registry.group.web",
        "$KV.mesh_registry.client.admin",
        "$KV.mesh_registry.agent.s29-new",
        "$KV.mesh_registry.no.such.key",
        "$KV.mesh_fanouts.s29-fan",
    ):
        await _plant(inside, subject)
    for _ in range(9):  # all of its history
        await _plant(inside, "$KV.mesh_registry.mesh")
    elsewhere = msgspec.msgpack.encode({"name": "other", "created_at": 1.0})
    await _plant(inside, "$KV.mesh_registry.group.db", elsewhere)
    # The stream of output answers nobody.
    await inside.client.publish(subjects.log("web", "web-1", done.id, 1, "stdout"), GARBAGE)
    await inside.client.flush()
    await mesh.restart_master()
    await admin.link.wait_connected(HEARD_S)
    await mesh.wait_status("web-1", "active")
    await mesh.wait_status("db-1", "active")

    listed = await mesh.cli("audit", "list", "--output", "json")
    assert listed.code == 0, listed.err
    for words in (
        ("agent", "list"),
        ("group", "list"),
        ("client", "list"),
        ("command", "list"),
        ("fanout", "list"),
        ("deadletter", "list"),
        ("command", "logs", done.id),
        ("status",),
    ):
        ran = await mesh.cli(*words)
        assert ran.code == 0, (words, ran.err)
    logs = await mesh.cli("command", "logs", done.id)
    assert logs.out == "".join(f"{number}\n" for number in range(1, 20001))

    counts = await _counts(mesh)
    assert counts["MESH_EVENTS"] >= 3
    assert counts["KV_mesh_registry"] >= 14
    for stream in ("MESH_HISTORY", "MESH_LOGS", "MESH_AUDIT", "KV_mesh_fanouts"):
        assert counts[stream] >= 1, (stream, counts)
    alarms = await mesh.cli("audit", "list", "--action", "store.unreadable", "--output", "json")
    assert "KV_mesh_registry" in alarms.out

    # Work goes on, also on what was hit: its outcome is written over what nobody can read.
    assert (await admin.run(["true"], agent="web-1")).state == "succeeded"
    assert (await admin.run(["true"], group="db")).state == "succeeded"
    await admin.cancel(running.id)
    ended = await admin.wait(running.id, timeout_s=PATIENCE_S)
    assert ended.state == "cancelled"
    made = await mesh.cli("agent", "create", "s29-new", "--group", "web", "--output", "json")
    assert made.code == 0, made.err
    taken = await mesh.cli("run", "--all", "--group", "web", "--id", "s29-fan", "--", "true")
    assert taken.code in (0, 5), taken.err

"""Bad input, bad actors and bad folders: each gets a fault that says what to do, nothing more."""

import asyncio
import itertools
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from broker_client.api import MeshClient
from broker_client.runtime.files import lock_directory
from broker_master.ca.mesh import init_mesh
from broker_master.ca.tokens import issue_token
from schemas import codec, limits, subjects
from schemas.faults import FAULTS
from schemas.messages.api import (
    AgentCreate,
    AgentRecord,
    Done,
    GroupCreate,
    GroupRecord,
    NameQuery,
    TokenAnswer,
)
from schemas.messages.liveness import Beat, Hello, TaskStatus
from schemas.messages.work import AttemptReport, Report, RunReply
from tests.harness import MeshProcesses, program
from tests.meshes import (
    Behind,
    ask_raw,
    behind,
    client_of,
    fault,
    issuer,
    mesh_fixture,
    raw,
    refused,
    state_reached,
)
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-faults")]

OPEN_MAX = 6
HEARD_S = 0.5


mesh = mesh_fixture(
    {"web": ("web-1",), "db": ("db-1",), "empty": (), "idle": ()},
    slots=2,
    master_env={"MESH_LIMITS__OPEN_COMMANDS_PER_GROUP": str(OPEN_MAX)},
)


@pytest.fixture
async def inside(mesh: MeshProcesses) -> AsyncIterator[Behind]:
    async with behind(mesh) as looking:
        yield looking


@pytest.fixture
async def plain(mesh: MeshProcesses) -> AsyncIterator[Client]:
    """A stock connection that speaks for the admin, with a key that it has never seen."""
    async with raw(issuer(mesh).issue("admin", "admin")) as client:
        yield client


SUBMIT: dict[str, Any] = {"group": "web", "action": "process", "args": {"argv": ["true"]}}


def submit(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {**SUBMIT, **changes}


def without(*names: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {key: value for key, value in submit(**changes).items() if key not in names}


def args(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return submit(args={"argv": ["true"], **changes})


def nested(levels: int) -> bytes:
    return b"\x81\xa1x" * levels + b"\xc0"


BAD: list[tuple[str, bytes | dict[str, Any], str]] = [
    ("unknown group", submit(group="nowhere"), "group_unknown"),
    ("empty group", submit(group="empty"), "group_empty"),
    ("unknown agent", without("group", agent="nobody"), "agent_unknown"),
    ("group and agent", submit(agent="web-1"), "field_invalid"),
    ("neither group nor agent", without("group"), "field_invalid"),
    ("unknown action", submit(action="teleport"), "action_unknown"),
    ("empty action", submit(action=""), "action_unknown"),
    ("unknown argument", args(shell=True), "argument_unknown"),
    ("argument of a wrong type", args(argv="true"), "field_invalid"),
    ("argument list of a wrong type", args(argv=["true", 1]), "field_invalid"),
    ("no argument list", submit(args={}), "field_invalid"),
    ("empty argument list", args(argv=[]), "field_invalid"),
    ("empty program", args(argv=[""]), "field_invalid"),
    ("NUL in an argument", args(argv=["a\0b"]), "field_invalid"),
    ("environment of a wrong type", args(env=["A=b"]), "field_invalid"),
    ("environment name with =", args(env={"A=": "b"}), "field_invalid"),
    ("timeout of nought", args(timeout_s=0), "field_invalid"),
    ("timeout below nought", args(timeout_s=-1), "field_invalid"),
    ("timeout of no number", args(timeout_s=float("nan")), "field_invalid"),
    ("arguments that are no map", submit(args=[1]), "field_invalid"),
    ("arguments for an action that has none", submit(action="noop"), "argument_unknown"),
    ("field of a wrong type", submit(labels=["a"]), "field_invalid"),
    ("label of a wrong type", submit(labels={"a": 1}), "field_invalid"),
    ("too many labels", submit(labels={str(n): "" for n in range(33)}), "field_invalid"),
    ("label too long", submit(labels={"a": "x" * 257}), "field_invalid"),
    ("time to live below nought", submit(queue_ttl_s=-1), "field_invalid"),
    ("endless time to live", submit(queue_ttl_s=float("inf")), "field_invalid"),
    ("unknown on_lost", submit(on_lost="pray"), "field_invalid"),
    ("id with a dot", submit(id="a.b"), "field_invalid"),
    ("id with a wildcard", submit(id=">"), "field_invalid"),
    ("id too long", submit(id="x" * 65), "field_invalid"),
    ("empty id", submit(id=""), "field_invalid"),
    ("id that ends with a line break", submit(id="a\n"), "field_invalid"),
    ("group with a wildcard", submit(group="web.>"), "field_invalid"),
    ("group that climbs", submit(group="../web"), "field_invalid"),
    ("deadline passed", submit(deadline=time.time() - 1), "deadline_passed"),
    ("no bytes", b"", "malformed"),
    ("not msgpack", b"\xc1", "malformed"),
    ("JSON", b'{"group": "web"}', "malformed"),
    ("cut off", msgspec.msgpack.encode(SUBMIT)[:-3], "malformed"),
    ("something behind it", msgspec.msgpack.encode(SUBMIT) + b"\xc0", "malformed"),
    ("a list", msgspec.msgpack.encode([1]), "field_invalid"),
    ("a key twice", b"\x82\xa5group\xa3web\xa5group\xa2db", "malformed"),
    ("nested too deep", nested(40), "too_deep"),
    ("a list that promises billions", b"\xdd\xff\xff\xff\xff", "malformed"),
    ("too many values", msgspec.msgpack.encode({"x": [0] * (limits.ITEMS + 1)}), "too_large"),
]


@pytest.mark.parametrize(("payload", "code"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
async def test_bad_submission_is_refused_and_nothing_is_stored(
    plain: Client, inside: Behind, payload: bytes | dict[str, Any], code: str
) -> None:
    before = await inside.held()
    said = fault(await ask_raw(plain, "admin", "command", "submit", payload))
    assert said.code == code
    assert said.retry == FAULTS[code].retry
    assert said.advice == FAULTS[code].advice
    assert said.message
    assert said.message.isascii()
    assert await inside.held() == before


async def test_largest_body_is_taken_and_one_byte_more_is_not(
    plain: Client, inside: Behind
) -> None:
    room = limits.PAYLOAD_BYTES - len(msgspec.msgpack.encode(args(stdin=b"x" * 70_000))) + 70_000
    whole = args(stdin=b"x" * room)
    assert len(msgspec.msgpack.encode(whole)) == limits.PAYLOAD_BYTES
    answer = await ask_raw(plain, "admin", "command", "submit", whole)
    assert msgspec.msgpack.decode(answer.data)["state"] == "queued"
    before = await inside.held()
    # The broker itself cuts off whoever sends more than the role allows.
    over = msgspec.msgpack.encode(args(stdin=b"x" * (room + 1)))
    with pytest.raises(Exception):  # noqa: B017  a time-out, or the end of the connection
        await plain.request(subjects.api("admin", "command", "submit"), over, timeout=HEARD_S)
    assert (await inside.held())["KV_mesh_registry"] == before["KV_mesh_registry"]


async def test_repeated_submission_is_idempotent_whatever_has_changed_since(
    plain: Client,
) -> None:
    for changes, again in (
        ({"id": "in-time"}, {"deadline": time.time() - 1}),
        ({"id": "to-one", "group": None, "agent": "web-1"}, {"deadline": time.time() - 1}),
    ):
        body = {key: value for key, value in submit(**changes).items() if value is not None}
        first = await ask_raw(plain, "admin", "command", "submit", body)
        assert msgspec.msgpack.decode(first.data)["duplicate"] is False
        second = await ask_raw(plain, "admin", "command", "submit", {**body, **again})
        assert msgspec.msgpack.decode(second.data).get("duplicate") is True
    other = {**submit(id="in-time", args={"argv": ["false"]}), "deadline": time.time() - 1}
    assert fault(await ask_raw(plain, "admin", "command", "submit", other)).code == "id_conflict"


async def test_unknown_fields_of_a_request_are_ignored_and_the_rest_counts(plain: Client) -> None:
    payload = submit(colour="blue", id="newer-client", args={"argv": ["true"]})
    answer = await ask_raw(plain, "admin", "command", "submit", payload)
    assert msgspec.msgpack.decode(answer.data) == {
        "id": "newer-client",
        "state": "queued",
        "duplicate": False,
    }


@pytest.mark.parametrize(
    ("noun", "verb", "request_", "code"),
    [
        ("command", "show", {"id": "none"}, "command_unknown"),
        ("command", "show", {}, "field_invalid"),
        ("command", "wait", {"id": "none"}, "command_unknown"),
        ("command", "wait", {"id": "none", "timeout_s": 1e9}, "field_invalid"),
        ("command", "cancel", {"id": "none"}, "command_unknown"),
        ("command", "logs", {"id": "none"}, "command_unknown"),
        ("command", "logs", {"id": "x", "max_bytes": 10**9}, "field_invalid"),
        ("command", "list", {"limit": 0}, "field_invalid"),
        ("command", "list", {"limit": 10_000}, "field_invalid"),
        ("command", "list", {"cursor": "x:1"}, "field_invalid"),
        ("command", "burn", {}, "verb_unknown"),
        ("poetry", "read", {}, "verb_unknown"),
        ("group", "show", {"name": "none"}, "group_unknown"),
        ("group", "create", {"name": "web"}, "group_exists"),
        ("group", "delete", {"name": "web"}, "group_not_empty"),
        ("group", "delete", {"name": "none"}, "group_unknown"),
        ("agent", "show", {"name": "none"}, "agent_unknown"),
        ("agent", "create", {"name": "web-1", "group": "web"}, "agent_exists"),
        ("agent", "create", {"name": "x", "group": "none"}, "group_unknown"),
        ("agent", "enable", {"name": "none"}, "agent_unknown"),
        ("agent", "disable", {"name": "none"}, "agent_unknown"),
        ("agent", "revoke", {"name": "none"}, "agent_unknown"),
        ("agent", "delete", {"name": "none"}, "agent_unknown"),
        ("client", "revoke", {"name": "none"}, "client_unknown"),
        ("client", "revoke", {"name": "admin"}, "forbidden"),
        ("client", "create", {"name": "x", "role": "god", "csr_pem": "", "user_nkey": ""}, ""),
    ],
)
async def test_bad_question_is_refused_and_changes_nothing(
    plain: Client, inside: Behind, noun: str, verb: str, request_: dict[str, Any], code: str
) -> None:
    before = await inside.held()
    said = fault(await ask_raw(plain, "admin", noun, verb, request_))
    assert said.code == (code or "field_invalid")
    assert await inside.held() == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--group", "nowhere", "--", "true"], "group_unknown"),
        (["run", "--group", "empty", "--", "true"], "group_empty"),
        (["run", "--agent", "nobody", "--", "true"], "agent_unknown"),
        (["run", "--group", "web", "--id", "a.b", "--", "true"], "id_invalid"),
        (["command", "show", "none"], "command_unknown"),
        (["group", "create", "web"], "group_exists"),
        (["group", "create", "Not-A-Name"], "name_invalid"),
        (["group", "show", "none"], "group_unknown"),
        (["agent", "create", "agent.>", "--group", "web"], "name_invalid"),
        (["agent", "create", "x" * 64, "--group", "web"], "name_invalid"),
        (["agent", "show", "none"], "agent_unknown"),
    ],
)
async def test_command_line_says_code_and_advice_and_ends_with_its_exit_code(
    mesh: MeshProcesses, inside: Behind, arguments: list[str], code: str
) -> None:
    before = await inside.held()
    at = arguments.index("--") if "--" in arguments else len(arguments)
    ran = await mesh.cli(*arguments[:at], "--output", "json", *arguments[at:])
    assert ran.code == FAULTS[code].exit_code
    said = msgspec.json.decode(ran.err)
    assert (said["code"], said["retry"]) == (code, FAULTS[code].retry)
    assert said["advice"] == FAULTS[code].advice
    assert ran.out == ""
    assert await inside.held() == before


async def test_full_group_refuses_until_commands_have_ended(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind
) -> None:
    held = [(await admin.submit(["sleep", "60"], group="db")).id for _ in range(OPEN_MAX)]
    before = await inside.held()
    with refused("queue_full"):
        await admin.submit(["true"], group="db")
    assert (await admin.submit(["sleep", "60"], group="db", id=held[0])).duplicate
    assert await inside.held() == before
    ran = await mesh.cli("run", "--group", "db", "--output", "json", "--", "true")
    assert ran.code == 75
    assert "open commands" in ran.err
    assert (await admin.run(["true"], group="web")).state == "succeeded"
    for command_id in held:
        await admin.cancel(command_id)
    for command_id in held:
        await admin.wait(command_id, timeout_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await admin.submit(["true"], group="db", id="after-full")
                break
            except Exception:  # noqa: BLE001  until history has what ended
                await asyncio.sleep(0.05)
    assert (await admin.wait("after-full")).state == "succeeded"


async def test_group_whose_agents_are_all_away_queues_unless_one_is_asked_for(
    mesh: MeshProcesses, admin: MeshClient, inside: Behind
) -> None:
    await admin.ask("agent", "create", AgentCreate(name="idle-1", group="idle"), TokenAnswer)
    before = await inside.held()
    with refused("group_inactive"):
        await admin.submit(["true"], group="idle", on_inactive="refuse")
    with refused("group_inactive"):
        await admin.submit(["true"], agent="idle-1", on_inactive="refuse")
    assert await inside.held() == before
    queued = await admin.submit(["true"], group="idle")
    assert (await admin.show(queued.id)).state == "queued"
    await admin.cancel(queued.id)


async def test_revoked_agent_is_no_target(admin: MeshClient, inside: Behind) -> None:
    await admin.ask("agent", "create", AgentCreate(name="gone-1", group="idle"), TokenAnswer)
    await admin.ask("agent", "revoke", NameQuery(name="gone-1"), Done)
    before = await inside.held()
    with refused("agent_revoked"):
        await admin.submit(["true"], agent="gone-1")
    with refused("agent_revoked"):
        await admin.ask("agent", "enable", NameQuery(name="gone-1"), Done)
    assert await inside.held() == before


# who may do what


async def test_viewer_is_refused_by_the_broker_and_by_the_master(
    mesh: MeshProcesses, inside: Behind, tmp_path: Path
) -> None:
    context = await client_of(mesh, "watcher", "viewer", directory=tmp_path)
    async with mesh.client(context) as viewer:
        assert (await viewer.status()).broker == "connected"
        with refused("forbidden"):
            await viewer.submit(["true"], group="web")
    before = await inside.held()
    # Past its own client library: the broker drops what its role may not publish.
    credentials = issuer(mesh).issue("viewer", "watcher")
    async with raw(credentials) as client:
        with pytest.raises(Exception, match=r"(?i)timeout|permission"):
            await client.request(
                subjects.api("watcher", "command", "submit"),
                msgspec.msgpack.encode(SUBMIT),
                timeout=HEARD_S,
            )
    # Past the broker as well, with credentials that a stolen admin key has made: the master.
    async with raw(issuer(mesh).issue("admin", "watcher")) as client:
        for noun, verb in (("command", "submit"), ("agent", "disable"), ("client", "create")):
            said = fault(await ask_raw(client, "watcher", noun, verb, SUBMIT))
            assert said.code == "forbidden"
    assert await inside.held() == before


async def test_client_of_some_groups_sees_and_uses_no_others(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    hidden = await admin.run(["true"], group="db", id="hidden-1")
    context = await client_of(mesh, "web-ops", "operator", "web", directory=tmp_path)
    async with mesh.client(context) as limited:
        assert (await limited.run(["true"], group="web")).state == "succeeded"
        for call in (
            lambda: limited.submit(["true"], group="db"),
            lambda: limited.submit(["true"], agent="db-1"),
            lambda: limited.show(hidden.id),
            lambda: limited.cancel(hidden.id),
            lambda: limited.wait(hidden.id),
            lambda: limited.ask("group", "show", NameQuery(name="db"), GroupRecord),
            lambda: limited.ask("agent", "disable", NameQuery(name="db-1"), Done),
        ):
            with refused("forbidden"):
                await call()
        assert {agent.group for agent in await limited.agents()} == {"web"}
        assert [group.group for group in await limited.groups()] == ["web"]
        page = await limited.list()
        assert {record.group for record in page.commands} <= {"web"}
        with refused("forbidden"):
            await limited.ask("group", "create", GroupCreate(name="mine"), GroupRecord)


async def test_limited_client_never_learns_of_hidden_commands(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    await admin.run(["true"], group="db", id="secret-1")
    context = await client_of(mesh, "web-eyes", "viewer", "web", directory=tmp_path)
    async with mesh.client(context) as limited:
        with refused("forbidden"):
            [part async for part in limited.logs("secret-1")]


async def test_revoked_client_is_cut_off(
    mesh: MeshProcesses, admin: MeshClient, tmp_path: Path
) -> None:
    context = await client_of(mesh, "leaver", "operator", directory=tmp_path)
    async with mesh.client(context) as client:
        await client.status()
    await admin.ask("client", "revoke", NameQuery(name="leaver"), Done)
    with refused("credentials_rejected"):
        async with mesh.client(context, timeout_s=60) as client:
            await client.status()
    # A key that the broker does not know as revoked still speaks for a client that is.
    async with raw(issuer(mesh).issue("operator", "leaver")) as client:
        assert (
            fault(await ask_raw(client, "leaver", "mesh", "status", {})).code == "client_disabled"
        )


async def test_client_that_the_registry_does_not_know_is_refused(mesh: MeshProcesses) -> None:
    async with raw(issuer(mesh).issue("admin", "stranger")) as client:
        said = fault(await ask_raw(client, "stranger", "mesh", "status", {}))
    assert said.code == "client_disabled"


@pytest.mark.parametrize(
    "reply",
    ["_INBOX_web-1.x", "_INBOX_adminx.y", "_INBOX_admin", "mesh.v1.down.web.web-1.run", "_INBOX"],
)
async def test_sec_s05_answer_never_goes_to_the_inbox_of_another_client(
    mesh: MeshProcesses, plain: Client, inside: Behind, reply: str
) -> None:
    victim = await inside.client.subscribe(reply)
    around = await inside.client.subscribe("_INBOX_web-1.>")
    await inside.client.flush()
    for noun, verb in (("mesh", "status"), ("command", "submit")):
        subject = subjects.api("admin", noun, verb)
        await plain.publish(subject, msgspec.msgpack.encode(submit(group="x")), reply=reply)
    for verb in ("PING", "INFO", "STATS"):
        if reply != "_INBOX_admin":
            await plain.publish(f"$SRV.{verb}", b"", reply=reply)
    await plain.flush()
    # Whatever the master had to say has been said before it answers this.
    await ask_raw(plain, "admin", "mesh", "status", {})
    await inside.client.flush()
    for heard in (victim, around):
        with pytest.raises(Exception, match=r"(?i)timeout|^$"):
            await heard.next_msg(timeout=0.1)


# agents that misbehave


@pytest.fixture
async def rogue(mesh: MeshProcesses) -> AsyncIterator[Client]:
    """A stock connection that may say whatever agent db-1 may say."""
    async with raw(issuer(mesh).issue("agent", "db-1", group="db")) as client:
        yield client


HOSTILE = (
    b"",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\x81" * 3000,
    b"\xdf\x7f\xff\xff\xff" * 4,
    msgspec.msgpack.encode({"incarnation": 1, "seq": "x"}),
    msgspec.msgpack.encode({"incarnation": "a.b", "seq": -1}),
    msgspec.msgpack.encode({"incarnation": "a.b", "items": [{}] * 300}),
    msgspec.msgpack.encode({"incarnation": "x" * 5000, "seq": 1}),
    b"\x82\xa3seq\xcb\x7f\xf8\0\0\0\0\0\0\xabincarnation\xa1x",
)


async def test_malformed_words_of_an_agent_harm_nobody(
    mesh: MeshProcesses, admin: MeshClient, rogue: Client, inside: Behind
) -> None:
    await mesh.wait_status("db-1", "active")
    before = await inside.held()
    for kind, payload in itertools.product(
        ("beat", "hello", "report", "reply.x", "reply", "nonsense", "log.x.1.stdout.y"), HOSTILE
    ):
        await rogue.publish(subjects.up("db", "db-1", kind), payload)
    await rogue.flush()
    assert (await admin.run(["true"], group="db")).state == "succeeded"
    assert (await admin.run(["true"], group="web")).state == "succeeded"
    assert mesh.master.is_running
    assert (await mesh.wait_status("db-1", "active")).status == "active"
    after = await inside.held()
    assert after["KV_mesh_registry"] == before["KV_mesh_registry"]


async def test_sec_s04_agent_cannot_speak_of_another_agents_attempt(
    mesh: MeshProcesses, admin: MeshClient, rogue: Client
) -> None:
    answer = await admin.submit(["sleep", "60"], agent="web-1")
    await state_reached(admin, answer.id, "running")
    report = Report(
        incarnation="forged",
        items=[
            AttemptReport(
                command=answer.id, attempt=1, kind="ended", seq=1, state="succeeded", exit_code=0
            )
        ],
    )
    reply = RunReply(command=answer.id, attempt=1, answer="rejected", code="agent_full")
    hello = Hello(
        incarnation="forged",
        tasks=[TaskStatus(command=answer.id, attempt=1, state="succeeded")],
    )
    await rogue.publish(subjects.up("db", "db-1", "report"), codec.encode(report))
    await rogue.publish(subjects.reply("db", "db-1", "1"), codec.encode(reply))
    await rogue.flush()
    assert (await admin.show(answer.id)).state == "running"
    # Not even in the words of the broker: the subject of another agent is refused there.
    for kind in ("report", "hello", "beat"):
        await rogue.publish(subjects.up("web", "web-1", kind), codec.encode(report))
    await rogue.publish(subjects.up("db", "db-1", "hello"), codec.encode(hello))
    await rogue.flush()
    assert (await admin.show(answer.id)).state == "running"
    await admin.cancel(answer.id)
    assert (await admin.wait(answer.id)).state == "cancelled"


async def test_agent_that_speaks_for_a_group_it_is_not_in_is_not_heard(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """Credentials for another group, as only a stolen signing key could make them."""
    await mesh.wait_status("web-1", "active")
    before = await admin.ask("agent", "show", NameQuery(name="web-1"), AgentRecord)
    async with raw(issuer(mesh).issue("agent", "web-1", group="db")) as client:
        goodbye = Beat(incarnation="elsewhere", seq=1, goodbye=True)
        await client.publish(subjects.up("db", "web-1", "beat"), codec.encode(goodbye))
        await client.flush()
    assert (await admin.run(["true"], group="web")).state == "succeeded"
    after = await admin.ask("agent", "show", NameQuery(name="web-1"), AgentRecord)
    assert (after.status, after.since) == ("active", before.since)


async def test_states_that_no_task_can_be_in_are_not_believed(
    mesh: MeshProcesses, admin: MeshClient
) -> None:
    """Its own agent, with a false report: only ends that an agent may tell are taken."""
    answer = await admin.submit(["sleep", "60"], agent="web-1")
    await state_reached(admin, answer.id, "running")
    async with raw(issuer(mesh).issue("agent", "web-1", group="web")) as client:
        for state in ("queued", "expired", "undeliverable", "nonsense", ""):
            item = AttemptReport(command=answer.id, attempt=1, kind="ended", seq=1, state=state)
            report = Report(incarnation="x", items=[item])
            await client.publish(subjects.up("web", "web-1", "report"), codec.encode(report))
        await client.flush()
    assert (await admin.run(["true"], agent="web-1")).state == "succeeded"
    assert (await admin.show(answer.id)).state == "running"
    await admin.cancel(answer.id)
    await admin.wait(answer.id)


# folders


def one_line(text: str) -> str:
    """The fault; the line behind it says what to do."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert [line.startswith("  ") for line in lines] in ([False], [False, True]), text
    return lines[0]


def picture(folder: Path, *, lock: bool = False) -> dict[str, tuple[int, bytes]]:
    """Every file below, whole, so that anything overwritten shows; who looked last, on request."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (lock or path.name != "lock")
    }


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(name, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


SERVE = ("serve", "--nats-port", "0", "--http", "127.0.0.1:0")


def start(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if program == "broker-master":
        return run(program, *SERVE, "--state-dir", str(folder))
    return run(program, "run", "--state-dir", str(folder))


@pytest.fixture(scope="module")
def master_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "master"
    init_mesh(folder)
    return folder


@pytest.fixture
def folders(mesh: MeshProcesses, master_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """A copy of a good folder of each program, to be spoilt."""
    shutil.copytree(master_folder, tmp_path / "m")
    kept = shutil.ignore_patterns("*.sock")
    shutil.copytree(mesh.agent_dir("web-1"), tmp_path / "a", ignore=kept)
    # As after an orderly end, so that a mere look at the journal changes nothing in its files.
    journal = sqlite3.connect(tmp_path / "a" / "journal.db")
    journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    return {"broker-master": tmp_path / "m", "broker-agent": tmp_path / "a"}


PROGRAMS = ("broker-master", "broker-agent")


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_that_is_not_there_ends_with_one_line_and_78(program: str, tmp_path: Path) -> None:
    ran = start(program, tmp_path / "none")
    assert ran.returncode == 78
    assert str(tmp_path / "none") in one_line(ran.stderr)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_of_the_other_program_is_refused_and_left_alone(
    program: str, folders: dict[str, Path]
) -> None:
    other = folders[PROGRAMS[1 - PROGRAMS.index(program)]]
    before = picture(other)
    ran = start(program, other)
    assert ran.returncode == 78
    one_line(ran.stderr)
    assert picture(other) == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_of_anything_else_is_refused_and_left_alone(program: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    before = picture(tmp_path)
    ran = start(program, tmp_path)
    assert ran.returncode == 78
    one_line(ran.stderr)
    assert picture(tmp_path) == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_that_a_running_process_holds_is_refused_and_left_alone(
    program: str, folders: dict[str, Path]
) -> None:
    with lock_directory(folders[program]):
        before = picture(folders[program], lock=True)
        ran = start(program, folders[program])
        assert ran.returncode == 75
        assert "state_locked" in one_line(ran.stderr)
        assert picture(folders[program], lock=True) == before


def test_setup_and_init_leave_a_folder_of_something_else_alone(
    mesh: MeshProcesses, folders: dict[str, Path], tmp_path: Path
) -> None:
    before = picture(folders["broker-agent"])
    ran = run("broker-master", "init", "--state-dir", str(folders["broker-agent"]))
    assert ran.returncode == 78
    one_line(ran.stderr)
    assert picture(folders["broker-agent"]) == before


async def test_setup_refuses_a_folder_of_another_agent(
    mesh: MeshProcesses, admin: MeshClient, folders: dict[str, Path]
) -> None:
    request = AgentCreate(name="newcomer", group="idle")
    answer = await admin.ask("agent", "create", request, TokenAnswer)
    for folder in folders.values():
        before = picture(folder)
        where = ("--state-dir", str(folder), "--token", answer.token)
        ran = await asyncio.to_thread(run, "broker-agent", "setup", *where)
        assert ran.returncode == 78
        one_line(ran.stderr)
        assert picture(folder) == before


def test_setup_refuses_the_folder_of_an_agent_of_another_mesh(
    folders: dict[str, Path],
) -> None:
    """The same name in another mesh is another agent."""
    other = init_mesh(folders["broker-master"])
    expires_at = int(time.time()) + 600
    token = issue_token(other.issuer, "web-1", "web", ["tls://127.0.0.1:1"], expires_at=expires_at)
    before = picture(folders["broker-agent"])
    where = ("--state-dir", str(folders["broker-agent"]), "--token", token.text)
    ran = run("broker-agent", "setup", *where)
    assert ran.returncode == 78
    assert "mesh" in one_line(ran.stderr)
    assert picture(folders["broker-agent"]) == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_with_a_damaged_key_is_named_and_left_alone(
    program: str, folders: dict[str, Path]
) -> None:
    folder = folders[program]
    spoilt = [path for path in folder.rglob("*.pem") if path.is_file()]
    assert spoilt
    for path in spoilt:
        path.write_bytes(b"not a key")
    before = picture(folder)
    ran = start(program, folder)
    assert ran.returncode == 78
    assert "state_corrupt" in one_line(ran.stderr)
    after = picture(folder)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_that_may_not_be_read_is_named_and_left_alone(
    program: str, folders: dict[str, Path]
) -> None:
    folders[program].chmod(0)
    try:
        ran = start(program, folders[program])
    finally:
        folders[program].chmod(0o700)
    assert ran.returncode == 78
    one_line(ran.stderr)


@pytest.mark.parametrize("program", PROGRAMS)
def test_folder_that_cannot_be_a_folder_is_named(program: str, tmp_path: Path) -> None:
    """Root gets these too: a file where the folder should be, and a path through a file."""
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for path in (file, file / "below"):
        ran = start(program, path)
        assert ran.returncode == 78
        assert str(path) in one_line(ran.stderr)
    assert file.read_bytes() == b"mine"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MiB, which the test fills."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk: run this as root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: run this where mount(8) is allowed")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_full_disk_ends_with_one_line_and_75_and_nothing_is_overwritten(
    program: str, folders: dict[str, Path], full_disk: Path
) -> None:
    folder = full_disk / "state"
    for name in ("broker", "tasks", "journal.db", "journal.db-wal", "journal.db-shm"):
        spoilt = folders[program] / name
        if spoilt.is_dir() and program == "broker-agent":
            shutil.rmtree(spoilt)
    shutil.copytree(folders[program], folder)
    with (full_disk / "ballast").open("wb", buffering=0) as ballast:
        block = b"x" * 65536
        while block:
            try:
                ballast.write(block)
            except OSError:
                block = block[: len(block) // 2]
    before = picture(folder)
    ran = start(program, folder)
    assert ran.returncode in (75, 78), ran.stderr
    one_line("\n".join(line for line in ran.stderr.splitlines() if not line.startswith("{")))
    after = picture(folder)
    assert {name for name in before if after.get(name) != before[name]} == set()

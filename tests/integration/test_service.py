"""The api as clients find it that know nothing of ours: the service protocol, and the examples."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NoAnswer

from broker_master import VERSION
from schemas.messages.actions import NoopArgs
from tests.harness import MeshProcesses
from tests.meshes import ask_raw, client_of, fault, issuer, mesh_fixture, raw, state_reached
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("mesh-service")]

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_S = 60.0
# Source: ADR-32 of the NATS project, microservices.
NAME = re.compile(r"^[a-zA-Z0-9_-]+$")
SEMVER = re.compile(r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.-]+)?$")
RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


mesh = mesh_fixture({"web": ("web-1",)})


@pytest.fixture
async def plain(mesh: MeshProcesses) -> AsyncIterator[Client]:
    """A stock connection as the admin."""
    async with raw(issuer(mesh).issue("admin", "admin")) as client:
        yield client


async def discovered(client: Client, subject: str) -> dict[str, Any]:
    answer = await client.request(subject, b"", timeout=60)
    body: dict[str, Any] = json.loads(answer.data)
    return body


def check_identity(body: dict[str, Any], kind: str) -> None:
    assert body["type"] == f"io.nats.micro.v1.{kind}_response"
    assert body["name"] == "mesh"
    assert NAME.match(body["name"])
    assert re.fullmatch(r"[0-9a-f]{16}", body["id"])
    assert body["version"] == VERSION
    assert SEMVER.match(body["version"])
    assert all(isinstance(value, str) for value in body["metadata"].values())


async def test_ping_info_and_stats_are_answered_for_all_for_the_name_and_for_the_instance(
    plain: Client,
) -> None:
    first = await discovered(plain, "$SRV.PING")
    check_identity(first, "ping")
    assert set(first) == {"type", "name", "id", "version", "metadata"}
    for verb in ("PING", "INFO", "STATS"):
        for subject in (f"$SRV.{verb}", f"$SRV.{verb}.mesh", f"$SRV.{verb}.mesh.{first['id']}"):
            body = await discovered(plain, subject)
            check_identity(body, verb.lower())
            assert body["id"] == first["id"]
    for subject in ("$SRV.PING.other", "$SRV.PING.mesh.ffff"):
        with pytest.raises((NoAnswer, Exception)):
            await plain.request(subject, b"", timeout=0.2)


async def test_info_names_every_endpoint_with_its_subject(plain: Client) -> None:
    body = await discovered(plain, "$SRV.INFO.mesh")
    assert body["description"]
    endpoints = body["endpoints"]
    for endpoint in endpoints:
        assert NAME.match(endpoint["name"])
        noun, verb = endpoint["name"].split("-")
        assert endpoint["subject"] == f"mesh.v1.api.*.{noun}.{verb}"
        assert endpoint["queue_group"]
        assert all(isinstance(value, str) for value in endpoint["metadata"].values())
    names = [endpoint["name"] for endpoint in endpoints]
    assert len(names) == len(set(names))
    wanted = {"command": "submit show list cancel wait logs", "mesh": "status"}
    wanted |= {"agent": "create list show enable disable revoke delete"}
    wanted |= {"group": "create list show delete", "client": "create list"}
    assert {f"{noun}-{verb}" for noun, verbs in wanted.items() for verb in verbs.split()} <= set(
        names
    )


async def test_every_endpoint_that_info_names_answers(plain: Client) -> None:
    body = await discovered(plain, "$SRV.INFO.mesh")
    for endpoint in body["endpoints"]:
        noun, verb = endpoint["name"].split("-")
        answer = await ask_raw(plain, "admin", noun, verb, b"\xc1")
        assert fault(answer).code == "malformed", endpoint["name"]


async def test_stats_count_requests_and_errors_of_each_endpoint(plain: Client) -> None:
    async def stats(name: str) -> dict[str, Any]:
        body = await discovered(plain, "$SRV.STATS.mesh")
        assert RFC3339.match(body["started"])
        (found,) = [each for each in body["endpoints"] if each["name"] == name]
        return dict(found)

    before = await stats("command-show")
    assert set(before) >= {
        "name",
        "subject",
        "queue_group",
        "num_requests",
        "num_errors",
        "last_error",
        "processing_time",
        "average_processing_time",
    }
    for _ in range(3):
        fault(await ask_raw(plain, "admin", "command", "show", {"id": "none"}))
    after = await stats("command-show")
    assert after["num_requests"] - before["num_requests"] == 3
    assert after["num_errors"] - before["num_errors"] == 3
    assert after["last_error"] == "404:command_unknown"
    assert isinstance(after["processing_time"], int)
    assert after["average_processing_time"] <= after["processing_time"]


async def test_unknown_verbs_are_counted_nowhere(plain: Client) -> None:
    """Requests for unknown names never make the table grow."""
    before = await discovered(plain, "$SRV.STATS.mesh")
    for number in range(20):
        fault(await ask_raw(plain, "admin", "poetry", f"read-{number}", {}))
    after = await discovered(plain, "$SRV.STATS.mesh")
    names = [[each["name"] for each in body["endpoints"]] for body in (before, after)]
    assert names[0] == names[1]


async def test_fault_is_in_the_headers_as_well_as_in_the_body(plain: Client) -> None:
    answer = await ask_raw(plain, "admin", "group", "show", {"name": "none"})
    assert answer.headers == {
        "Nats-Service-Error": "no group none",
        "Nats-Service-Error-Code": "404",
    }
    assert fault(answer).code == "group_unknown"


async def test_success_has_no_headers(plain: Client) -> None:
    answer = await ask_raw(plain, "admin", "mesh", "status", {})
    assert not answer.headers


async def run_example(name: str, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(EXAMPLE_S):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture(scope="module")
def operator(mesh: MeshProcesses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a client, which is all that a plain NATS client needs."""
    folder = tmp_path_factory.mktemp("clients")
    context = asyncio.run(client_of(mesh, "plain-ops", "operator", directory=folder))
    names = {path.name for path in context.parent.iterdir()}
    assert names == {"cert.pem", "key.pem", "ca.pem", "user.creds", "context.toml"}
    return context.parent


async def test_plain_client_submits_shows_output_and_ends_as_the_program_did(
    operator: Path,
) -> None:
    text = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done; exit 7"
    code, out, err = await run_example("plain_client.py", str(operator), "web", "sh", "-c", text)
    assert code == 7
    assert out == "out 1\nout 2\nout 3\n"
    for number in (1, 2, 3):
        assert f"err {number}\n" in err
    assert "has failed, exit code 7" in err


async def test_plain_client_gets_the_fault(operator: Path) -> None:
    code, out, err = await run_example("plain_client.py", str(operator), "nowhere", "true")
    assert (code, out) == (1, "")
    assert "group_unknown" in err


async def test_discovery_example_finds_the_service(operator: Path) -> None:
    code, out, _ = await run_example("discover.py", str(operator))
    assert code == 0
    assert out.startswith(f"mesh {VERSION} (instance ")
    assert "mesh.v1.api.*.command.submit" in out


async def test_client_that_only_asks_cannot_take_the_place_of_others(
    mesh: MeshProcesses, tmp_path: Path
) -> None:
    """More long waits than one client may have: it is refused, and nobody else notices."""
    await client_of(mesh, "crowd", "viewer", directory=tmp_path)
    credentials = issuer(mesh).issue("viewer", "crowd")
    async with mesh.client() as admin, raw(credentials) as crowd:
        held = await admin.submit(["sleep", "60"], group="web")
        await state_reached(admin, held.id, "running", within_s=PATIENCE_S)
        refusals = await crowd.subscribe("_INBOX_crowd.wait")
        question = msgspec.msgpack.encode({"id": held.id, "timeout_s": 60})
        for _ in range(4500):
            await crowd.publish(
                "mesh.v1.api.crowd.command.wait", question, reply="_INBOX_crowd.wait"
            )
        assert fault(await refusals.next_msg(timeout=PATIENCE_S)).code == "rate_limited"
        assert (await admin.run(NoopArgs(), group="web", timeout_s=PATIENCE_S)).state == "succeeded"
        assert (await admin.show(held.id)).state == "running"
        await admin.cancel(held.id)
        assert (await admin.wait(held.id, timeout_s=PATIENCE_S)).state == "cancelled"
        # All who waited are answered, and there is room again.
        async with asyncio.timeout(PATIENCE_S):
            while (await refusals.next_msg(timeout=PATIENCE_S)).headers:
                pass
        answer = await ask_raw(crowd, "crowd", "mesh", "status", {})
        assert not answer.headers


async def test_sec_s36_discovery_answers_no_inbox_that_a_stranger_can_guess(
    mesh: MeshProcesses, plain: Client
) -> None:
    """The inbox of another client may be named as the reply, if its random part is known."""
    heard: list[str] = []

    async def note(message: Msg) -> None:
        heard.append(message.subject)

    await plain.subscribe("_INBOX_admin.>", cb=note)
    random = plain.new_inbox()
    for reply in ("_INBOX_admin.x", "_INBOX_admin.results.today", "_INBOX_admin", random):
        await plain.publish("$SRV.PING", b"", reply=reply)
    await plain.flush()
    await eventually(lambda: random in heard)
    assert heard == [random]


async def test_sec_s36_discovery_is_answered_so_often_and_no_more(plain: Client) -> None:
    heard: list[str] = []

    async def note(message: Msg) -> None:
        heard.append(message.subject)

    inbox = plain.new_inbox()
    await plain.subscribe(inbox, cb=note)
    for _ in range(1000):
        await plain.publish("$SRV.INFO", b"", reply=inbox)
    await plain.flush()
    # A request of the same connection is served after them.
    await plain.request("mesh.v1.api.admin.mesh.status", b"\x80", timeout=60)
    assert 1 <= len(heard) < 500

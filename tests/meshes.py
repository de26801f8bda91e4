"""A mesh of real processes that the tests of one module share, and ways to look behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker_client.api import MeshClient
from broker_master.ca.mesh import open_mesh
from broker_master.embedded import EmbeddedBroker
from schemas import codec, subjects
from schemas.faults import FaultBody, MeshError
from schemas.messages.facts import CommandRecord
from tests.harness import FAST_TIMERS, MeshProcesses
from tests.servers import MeshBroker, TestCredentials, connect_raw

STREAMS: Final = ("MESH_EVENTS", "MESH_HISTORY", "MESH_LOGS", "KV_mesh_registry")
ANSWER_S: Final = 60.0
PATIENCE_S: Final = 60.0
# For tests that restart the master: on a busy machine that takes longer than a fast lease lasts.
LONG_LEASE: Final[Mapping[str, str]] = {
    "MESH_TIMERS__SUSPECT_S": "3",
    # Tasks end after 23 s without a master: SUSPECT_S + RESENDS x ACK_S.
    "MESH_TIMERS__ACK_S": "1",
    "MESH_TIMERS__RESENDS": "20",
    "MESH_TIMERS__LOST_S": "30",
    "MESH_TIMERS__ADOPT_S": "15",
}


@contextlib.contextmanager
def shared_mesh(
    directory: Path,
    agents: Mapping[str, tuple[str, ...]],
    *,
    slots: int = 8,
    env: Mapping[str, str] | None = None,
    master_env: Mapping[str, str] | None = None,
) -> Iterator[MeshProcesses]:
    """For a fixture of a module: groups with their agents, all started, all ended afterwards."""
    mesh = MeshProcesses(directory, env={**FAST_TIMERS, **(env or {})}, master_env=master_env)
    patience = [each.__kwdefaults__ or {} for each in (MeshClient.run, MeshClient.wait)]

    async def begin() -> None:
        await mesh.__aenter__()
        for group, names in agents.items():
            await mesh.add_group(group)
            for name in names:
                await mesh.add_agent(name, group=group, slots=slots)

    try:
        asyncio.run(begin())
        # Unless a test says how long, nothing is waited for until the end of days.
        for defaults in patience:
            defaults["timeout_s"] = PATIENCE_S
        yield mesh
    finally:
        for defaults in patience:
            defaults["timeout_s"] = None
        asyncio.run(mesh.aclose())


Prepare = Callable[[MeshProcesses], Awaitable[object]]


def mesh_fixture(
    agents: Mapping[str, tuple[str, ...]],
    *,
    absent: Mapping[str, str] = MappingProxyType({}),
    slots: int = 8,
    env: Mapping[str, str] | None = None,
    master_env: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    scope: Literal["module", "function"] = "module",
    prepare: Prepare | None = None,
    name: str = "mesh",
) -> Callable[..., Iterator[MeshProcesses]]:
    """The fixture `mesh` of a module, or of each test.

    agents: by group. absent: groups of agents that are not started. master_env: or a function that
    makes it when the mesh starts. prepare: awaited once the mesh runs, on a loop of its own.
    """

    @pytest.fixture(scope=scope, name=name)
    def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
        directory = tmp_path_factory.mktemp(name)
        own = master_env() if callable(master_env) else master_env
        with shared_mesh(directory, agents, slots=slots, env=env, master_env=own) as running:
            for agent, group in absent.items():
                asyncio.run(running.add_agent(agent, group=group, start=False))
            if prepare is not None:
                asyncio.run(_awaited(prepare(running)))
            yield running

    return made


async def _awaited(prepared: Awaitable[object]) -> None:
    await prepared


class _Address(msgspec.Struct):
    url: str


def issuer(mesh: MeshProcesses) -> MeshBroker:
    """Issues credentials of this mesh that its master knows nothing of, as a stolen key would."""
    return MeshBroker(open_mesh(mesh.state_dir), cast("EmbeddedBroker", _Address(mesh.nats_url)))


@contextlib.asynccontextmanager
async def raw(credentials: TestCredentials) -> AsyncIterator[Client]:
    client = await connect_raw(credentials)
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def behind(mesh: MeshProcesses) -> AsyncIterator["Behind"]:
    """A stock connection with the rights of a master, for looking into streams."""
    async with raw(issuer(mesh).issue("master", "probe")) as client:
        yield Behind(client)


class Behind:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def info(self, stream: str) -> dict[str, Any]:
        answer = await self.client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=ANSWER_S)
        body: dict[str, Any] = msgspec.json.decode(answer.data)
        return body

    async def messages(self, stream: str) -> int:
        return int((await self.info(stream))["state"]["messages"])

    async def held(self) -> dict[str, int]:
        """How many messages have ever been stored in each stream: nothing stored, nothing moved.

        But history, which follows facts that were stored before by a second.
        """
        names = [name for name in STREAMS if name != "MESH_HISTORY"]
        return {name: (await self.info(name))["state"]["last_seq"] for name in names}

    async def stored(self, stream: str) -> list[tuple[str, bytes]]:
        """Subject and body of all that the stream holds, none of it purged while it is read."""
        while True:
            before = (await self.info(stream))["state"]
            found = await self._read(stream, before)
            after = (await self.info(stream))["state"]
            if (before["first_seq"], before["last_seq"]) == (after["first_seq"], after["last_seq"]):
                return found

    async def _read(self, stream: str, state: dict[str, Any]) -> list[tuple[str, bytes]]:
        found = []
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            query = msgspec.json.encode({"seq": seq})
            subject = f"$JS.API.DIRECT.GET.{stream}"
            answer = await self.client.request(subject, query, timeout=ANSWER_S)
            headers = answer.headers or {}
            if "Nats-Subject" in headers:
                found.append((headers["Nats-Subject"], answer.data))
        return found


async def ask_raw(
    client: Client, name: str, noun: str, verb: str, payload: bytes | dict[str, Any]
) -> Msg:
    """A request as any client of the broker can make it, with whatever payload."""
    data = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return await client.request(subjects.api(name, noun, verb), data, timeout=ANSWER_S)


def fault(answer: Msg) -> FaultBody:
    """The fault of an answer; fails unless headers and body are those of one."""
    headers = answer.headers or {}
    body = codec.decode(FaultBody, answer.data)
    assert headers.get("Nats-Service-Error") == body.message
    assert headers.get("Nats-Service-Error-Code", "").isdigit()
    return body


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    """The block must be refused with this code."""
    with pytest.raises(MeshError) as caught:
        yield
    assert caught.value.code == code, caught.value


def until(gate: Path) -> list[str]:
    """A program that runs until the file `gate` exists."""
    return ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"]


async def state_reached(
    client: MeshClient, command_id: str, *states: str, within_s: float = PATIENCE_S
) -> CommandRecord:
    """The record once it is in one of `states`; a broker that restarts meanwhile is waited for."""
    await client.link.wait_connected(within_s)
    record = await client.show(command_id)
    try:
        async with asyncio.timeout(within_s):
            while record.state not in states:
                await asyncio.sleep(0.02)
                record = await client.show(command_id)
    except TimeoutError:
        pytest.fail(f"{command_id} is {record.state} ({record.reason}), not {states}")
    return record


async def client_of(
    mesh: MeshProcesses, name: str, role: str, *groups: str, directory: Path
) -> Path:
    """A new client, made as users make it; returns its context."""
    folder = directory / name
    options = [part for group in groups for part in ("--group", group)]
    ran = await mesh.cli("client", "create", name, "--role", role, *options, "--out", str(folder))
    assert ran.code == 0, ran.err
    return folder / "context.toml"

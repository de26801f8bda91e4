"""Every operation of a master, with its real handler, over a plane of two groups: `web` and `db`.

Both hold the same: an agent, a client, a command, a dead letter and a fan-out, named after them.
Real is everything but the broker, the clock and the disk.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from broker_client.runtime.nkeys import KeyPair
from broker_client.runtime.streams import Page, Stored
from broker_master.api.again import AgainOperations
from broker_master.api.agents import AgentOperations
from broker_master.api.audit import AuditOperations
from broker_master.api.authority import AuthorityOperations
from broker_master.api.clients import ClientOperations
from broker_master.api.commands import CommandOperations
from broker_master.api.deadletters import DeadLetterOperations
from broker_master.api.fanouts import FanoutOperations
from broker_master.api.groups import GroupOperations
from broker_master.api.operations import Direct, Operation, Operations, Registers
from broker_master.api.rotation import RotationOperations
from broker_master.ca.mesh import Mesh
from broker_master.core.fanout import FORM, Fanout
from broker_master.services.again import Again
from broker_master.services.custody import Custody
from broker_master.services.fanout import Fanouts
from broker_master.services.intake import Intake
from broker_master.services.keys import KeyDesk
from broker_master.services.output import OutputReader
from broker_master.services.revoke import Revoker
from broker_master.services.rotator import Rotator
from broker_master.services.terms import Terms
from broker_master.services.views import Views
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.api import SubmitRequest
from schemas.messages.audit import AuditEntry
from schemas.messages.fanouts import FanoutEntry
from schemas.messages.registry import CertificateEntry, ClientEntry
from schemas.states import State
from schemas.verbs import COMMAND_SUBMIT
from tests.planes import DAY_S, add_agent, add_client, add_group
from tests.unit.broker_master.stage import Stage

GROUPS = ("web", "db")


class MemoryBucket:
    """Takes every write."""

    def __init__(self) -> None:
        self._revision = 0

    async def create(self, _key: str, _value: bytes) -> int:
        self._revision += 1
        return self._revision

    async def update(self, key: str, value: bytes, _revision: int) -> int:
        return await self.create(key, value)

    async def delete(self, _key: str) -> None:
        return None

    async def get(self, _key: str) -> None:
        return None


class NoHistory:
    def known(self, _id: str) -> None:
        return None

    def look_up(self, _id: str) -> None:
        return None

    async def get(self, _id: str) -> None:
        return None

    async def find(self, _wanted: object) -> list[object]:
        return []

    def last_of(self, _agent: str, _limit: int) -> list[tuple[str, str]]:
        return []


class Trail:
    """A stream with one entry of the audit trail for each group, and one for none."""

    def __init__(self) -> None:
        entries = [
            AuditEntry(at=1.0, by="ops", action="agent.enable", target=f"{group}-1", group=group)
            for group in (*GROUPS, "")
        ]
        where = subjects.audit("agent")
        self._stored = [Stored(n, where, codec.encode(each)) for n, each in enumerate(entries, 1)]

    async def info(self, _stream: str) -> Any:  # noqa: ANN401
        return msgspec.defstruct("Info", ["first_seq", "last_seq"])(1, len(self._stored))

    async def read_from(self, *_: object, **__: object) -> Page:
        return Page(self._stored, len(self._stored) + 1, is_last=True)

    async def last(self, *_: object) -> None:
        return None


class SilentSystem:
    """A broker that does what it is told, and has no connections."""

    async def update_account(self, _token: str) -> None:
        return None

    async def connections(self) -> list[object]:
        return []

    async def reload(self) -> None:
        return None


class Table(Stage):
    """Call `open` before use, and `aclose` after."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.mesh, self.trail = mesh, cast("Any", Trail())
        plane = self.plane
        plane.mesh = mesh.id
        plane.readmodel = cast("Any", NoHistory())
        plane.registry._bucket = cast("Any", MemoryBucket())
        plane.registry._revisions = defaultdict(int)
        self.notes: list[AuditEntry] = []
        plane.noted.append(self.notes.append)
        self.intake = Intake(plane, self.assigner, lambda: 0.0)
        self.views = Views(plane)
        self.fanouts = Fanouts(plane, cast("Any", MemoryBucket()), self.intake, self.views)

    async def open(self) -> Operations:
        for group in GROUPS:
            await self._fill(group)
        return self._operations()

    async def aclose(self) -> None:
        await self.fanouts._tasks.aclose(0)
        await self.plane.tasks.aclose(0)

    async def _fill(self, group: str) -> None:
        plane, agent = self.plane, f"{group}-1"
        add_group(plane, group)
        add_agent(plane, agent, group)
        made = add_client(plane, f"{group}-client", group)
        plane.registry.clients[made.name] = msgspec.structs.replace(
            made, certificates=[self._certificate(made.name)]
        )
        await self.submit(f"{group}-open", group=group)
        dead = await self.submit(f"{group}-dead", group=group)
        plane.dispatcher.withdraw(dead.id)
        dead.state = State.UNDELIVERABLE
        entry = FanoutEntry(
            id=f"{group}-fan",
            client="ops",
            digest=b"d",
            submitted_at=1.0,
            groups=[group],
            agents=[agent],
            command=SubmitRequest(action="noop"),
            stopped="cancelled by ops",
            form=FORM,
        )
        self.fanouts._enter(Fanout(entry, {}))

    def _certificate(self, name: str) -> CertificateEntry:
        return CertificateEntry(
            serial=f"5{name.encode().hex()}",
            not_after=self.clock.now() + DAY_S,
            user_nkey=KeyPair.create("user").public,
        )

    def _operations(self) -> Operations:
        plane, mesh = self.plane, self.mesh
        system = cast("Any", SilentSystem())
        orders = cast("Any", _Orders())
        revoker = Revoker(plane, mesh.accounts, system)
        custody = Custody(plane, mesh, system, {})
        keys = KeyDesk(plane, custody.own_keys, lambda: revoker.refused)
        terms = Terms(plane, self.presence, revoker, orders)
        operations = Operations()
        commands = CommandOperations(plane, self.canceller, OutputReader(plane, self.trail))
        again = Again(plane, self.intake)
        agents = AgentOperations(
            plane, self.views, mesh.issuer, self.presence, self.canceller, revoker, terms, orders
        )
        operations.add_direct(COMMAND_SUBMIT, self.intake.submit)
        parts: list[Registers] = [
            AuditOperations(self.trail, plane.strays),
            commands,
            DeadLetterOperations(plane, commands, again),
            AgainOperations(again),
            FanoutOperations(plane, self.fanouts, self.canceller),
            GroupOperations(plane, self.views),
            agents,
            RotationOperations(plane, orders),
            ClientOperations(plane, self.views, mesh.issuer, keys, revoker),
            AuthorityOperations(plane, custody, Rotator(plane, mesh, system, custody, orders)),
        ]
        operations.fill(parts)
        return operations


async def call(operation: Operation | Direct, caller: ClientEntry, request: msgspec.Struct) -> Any:  # noqa: ANN401 - of the type that the verb says
    """The answer of an operation of whichever kind; raises its fault."""
    if isinstance(operation, Operation):
        return await operation.handler(caller, request)
    answered: asyncio.Future[msgspec.Struct] = asyncio.get_running_loop().create_future()

    def reply(result: msgspec.Struct | MeshError) -> None:
        if isinstance(result, MeshError):
            answered.set_exception(result)
        else:
            answered.set_result(result)

    operation.taker(caller, request, reply, "nats", "")
    return await answered


class _Orders:
    async def give(self, _agent: str, _kind: str, **_: object) -> None:
        return None

    async def ping(self, _agent: str, _group: str, _timeout_s: float) -> float:
        return 0.001


def named(prefix: str) -> Iterator[str]:
    """All that a caller who may not see group `prefix` must not read of it."""
    yield from (f"{prefix}-{what}" for what in ("1", "client", "open", "dead", "fan"))

"""Every operation of a master, with its real handler, over a plane of two groups: `web` and `db`.

Both hold the same: an agent, a client, a connection, a command, a dead letter and a fan-out, named
after them. Real is everything but the broker, the clock and the disk.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import msgspec

from broker_client.runtime.nkeys import KeyPair
from broker_client.runtime.stream_pages import Page, Stored
from broker_master.api.operations import Direct, Operation, Operations
from broker_master.ca.mesh import Mesh
from broker_master.core.fanout import FORM, Fanout
from broker_master.services.orders import Orders
from broker_master.services.rotation import Rotator
from broker_master.wiring.keys import Keys, build_keys
from broker_master.wiring.operations import build_operations
from broker_master.wiring.ports import Ports
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages.api import SubmitRequest
from schemas.messages.audit import AuditEntry
from schemas.messages.fanouts import FanoutEntry
from schemas.messages.registry import CertificateEntry, ClientEntry
from schemas.messages.work import ControlReply
from schemas.states import State
from tests.planes import DAY_S, add_agent, add_client, add_group
from tests.unit.broker_master.stage import MemoryBucket, Stage
from tests.unit.broker_master.ways import connection

GROUPS = ("web", "db")


class NoHistory:
    def known(self, _id: str) -> None:
        return None

    def look_up(self, _id: str) -> None:
        return None

    async def get(self, _id: str) -> None:
        return None

    async def find(self, _wanted: object) -> list[object]:
        return []

    def some_ids(self, _prefix: str, _limit: int) -> list[tuple[str, str]]:
        return []

    def last_in_trouble(self, _state: str, _limit: int) -> list[tuple[str, str]]:
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

    async def store(self, *_: object) -> int:
        return len(self._stored)


class Table(Stage):
    """Call `open` before use, and `aclose` after."""

    def __init__(self, mesh: Mesh) -> None:
        self.trail = Trail()
        super().__init__(mesh=mesh)
        self.mesh = mesh
        plane = self.plane
        plane.master = replace(plane.master, mesh=mesh.id)
        plane.readmodel = cast("Any", NoHistory())
        plane.registry._bucket = cast("Any", MemoryBucket())
        plane.registry._revisions = defaultdict(int)
        self.notes: list[AuditEntry] = []
        plane.telemetry.noted.listen(self.notes.append)

    def build_ports(self, mesh: Mesh | None) -> Ports:
        return replace(super().build_ports(mesh), streams=cast("Any", self.trail))

    def build_keys(self) -> Keys:
        """Real ones, but for orders, which agents that are not there would never answer."""
        keys = build_keys(self.plane, self.ports)
        orders = _Orders(self.plane)
        system = self.ports.system
        rotator = Rotator(self.plane, self.ports.mesh, system, keys.custody, orders, None)
        return replace(keys, orders=orders, rotator=rotator)

    async def open(self) -> Operations:
        for group in GROUPS:
            await self._fill(group)
        return build_operations(self.plane, self.ports, self.keys, self.work)

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
        connection(self, f"{group}-way", group=group)
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
        plane.telemetry.eventlog.add("agent", agent, group, "active", at=1.0)

    def _certificate(self, name: str) -> CertificateEntry:
        return CertificateEntry(
            serial=f"5{name.encode().hex()}",
            not_after=self.clock.now() + DAY_S,
            user_nkey=KeyPair.create("user").public,
        )


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


class _Orders(Orders):
    """Carried out at once by agents that are not there."""

    async def give(
        self, agent: str, kind: str, *, ca_pem: str = "", within_s: float = math.inf
    ) -> ControlReply:
        del agent, ca_pem
        return ControlReply(kind=cast("Any", kind))

    async def ping(self, _agent: str, _group: str, _timeout_s: float) -> float:
        return 0.001


def named(prefix: str) -> Iterator[str]:
    """Texts about group `prefix` that a caller without rights on it must not read."""
    yield from (f"{prefix}-{what}" for what in ("1", "client", "way", "open", "dead", "fan"))

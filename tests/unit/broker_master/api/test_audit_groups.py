"""An entry of a fan-out is seen by whoever may use all of its groups."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from broker_client.runtime.stream_pages import Page, Stored
from broker_master.api.audit import AuditOperations, AuditTrail
from broker_master.api.operations import Operation, Operations
from broker_master.ca.mesh import Mesh
from broker_master.plane import one_or_many
from schemas import codec, subjects
from schemas.faults import MeshError
from schemas.messages import api, fanouts
from schemas.messages.audit import GROUPS_MAX, AuditEntry
from tests.planes import add_client
from tests.unit.broker_master.table import Table


@pytest.fixture
async def table(mesh: Mesh) -> AsyncIterator[Table]:
    made = Table(mesh)
    yield made
    await made.aclose()


class Written:
    """The stream of the trail, with what was recorded."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    async def record(self, entry: AuditEntry) -> None:
        self.entries.append(entry)

    async def info(self, _stream: str) -> "Written":
        return self

    first_seq = 1

    @property
    def last_seq(self) -> int:
        return len(self.entries)

    async def read_from(self, *_: object, **__: object) -> Page:
        stored = [
            Stored(number, subjects.audit("fanout"), codec.encode(each))
            for number, each in enumerate(self.entries, 1)
        ]
        return Page(stored, len(stored) + 1, is_last=True)


async def call(
    table: Table, operations: Operations, written: Written, verb: str, request: msgspec.Struct
) -> None:
    trail = AuditTrail(table.plane, written.record)
    found = operations.find("fanout", verb)
    assert isinstance(found, Operation)
    await trail.audited(found, table.plane.registry.clients["ops"], request)


async def seen(table: Table, written: Written, *groups: str, **wanted: str) -> list[str]:
    """The groups of the entries that an admin of these groups is shown."""
    admin = add_client(table.plane, "boss", *groups, role="admin")
    found = await AuditOperations(written, table.plane.telemetry.strays).find(  # type: ignore[arg-type]
        admin,
        api.AuditQuery(**wanted),  # type: ignore[arg-type]
    )
    return [each.group for each in reversed(found.entries)]


def fan_out(id: str, *agents: str) -> fanouts.FanoutSubmit:
    return fanouts.FanoutSubmit(
        id=id, agents=[*agents], command=api.SubmitRequest(action="noop", queue_ttl_s=60)
    )


async def test_sec_s31_entries_of_fan_outs_carry_their_groups(table: Table) -> None:
    operations, written = await table.open(), Written()
    await call(table, operations, written, "submit", fan_out("one", "web-1"))
    await call(table, operations, written, "submit", fan_out("two", "web-1", "db-1"))
    await call(table, operations, written, "cancel", fanouts.FanoutQuery(id="one"))
    with pytest.raises(MeshError):
        await call(table, operations, written, "submit", fan_out("__no", "db-1"))
    with pytest.raises(MeshError):
        await call(table, operations, written, "cancel", fanouts.FanoutQuery(id="nobodys"))
    everything = ["web", "db, web", "web", "db", ""]
    assert await seen(table, written) == everything
    assert await seen(table, written, "web") == ["web", "web"]
    assert await seen(table, written, "db") == ["db"]
    assert await seen(table, written, "db", "web") == everything[:4]
    assert await seen(table, written, group="db") == ["db, web", "db"]


def test_fan_out_over_more_groups_than_an_entry_names_is_of_the_whole_mesh() -> None:
    assert one_or_many({"b", "a"}) == ("", ["a", "b"])
    assert one_or_many([str(number) for number in range(GROUPS_MAX + 1)]) == ("", [])

"""Groups, agents, clients and connections: a key-value bucket, held in memory as well.

One master writes, but the revision of each entry is checked all the same, so that of two concurrent
changes one wins and the other is decided again.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from broker_client.runtime.kv import Bucket, Found
from broker_client.runtime.stream_answers import SequenceConflict
from broker_master.core.epochs import next_epoch
from broker_master.core.strays import Strays
from schemas import codec
from schemas.faults import MeshError, Refused
from schemas.messages.registry import (
    AgentEntry,
    ClientEntry,
    ConnectionEntry,
    GroupEntry,
    MeshEntry,
)
from schemas.states import Admin

Entry: TypeAlias = GroupEntry | AgentEntry | ClientEntry | ConnectionEntry
E = TypeVar("E", AgentEntry, ClientEntry, GroupEntry, ConnectionEntry)

_TRIES = 5
_MESH_KEY = "mesh"
_KINDS: Final[dict[str, type[Entry]]] = {
    "group": GroupEntry,
    "agent": AgentEntry,
    "client": ClientEntry,
    "connection": ConnectionEntry,
}


class Begun(NamedTuple):
    """The epoch of a start.

    earlier: the last epoch in the registry.
    """

    epoch: int
    earlier: int


class Registry:
    """Reads are from memory. Writes are durable when they return; then the memory follows."""

    def __init__(self, bucket: Bucket, strays: Strays | None = None) -> None:
        self._bucket = bucket
        self._strays = strays or Strays()
        self._revisions: dict[str, int] = {}
        # Keys without any readable revision: free to be written, as if they were missing.
        self._unreadable: set[str] = set()
        self.groups: dict[str, GroupEntry] = {}
        self.agents: dict[str, AgentEntry] = {}
        self.clients: dict[str, ClientEntry] = {}
        self.connections: dict[str, ConnectionEntry] = {}
        self._agents_of: dict[str, int] = {}

    async def load(self) -> None:
        """Load the bucket; of an unreadable entry its newest readable revision counts."""
        found = await self._bucket.read_all(_decode, self._skip)
        for key, (entry, revision) in found.items():
            self._revisions[key] = revision
            if entry is None:
                self._unreadable.add(key)
            elif not isinstance(entry, MeshEntry):
                self._put(entry)

    async def begin_epoch(
        self, mesh: str, now_s: float, *, above: int = 0, is_restored: bool = False
    ) -> Begun:
        """The epoch of a master that starts now: greater than every one before it.

        now_s: time of day, Unix seconds. above: an epoch known from elsewhere. is_restored: this
        state was restored, so a new generation begins; so it does where the last epoch is
        unreadable. Raises Refused (`state_foreign`) if the broker holds another mesh.
        """
        for _ in range(_TRIES):
            old, revision = await self._last_epoch(mesh)
            earlier = old or 0
            is_lost = is_restored or old is None
            epoch = next_epoch(max(earlier, above), now_s, is_restored=is_lost)
            new = codec.encode(MeshEntry(mesh=mesh, epoch=epoch))
            try:
                await self._bucket.update(_MESH_KEY, new, revision)
            except SequenceConflict:
                continue
            return Begun(epoch, earlier)
        raise Refused("master_starting", "another master starts at the same time")

    async def _last_epoch(self, mesh: str) -> tuple[int | None, int]:
        """The epoch of the master before, None if it is unreadable; and the key's revision."""
        foreign: list[str] = []
        skipped: list[tuple[str, int, MeshError]] = []

        def decode(_: str, value: bytes) -> MeshEntry:
            entry = codec.decode_trusted(MeshEntry, value)
            if entry.mesh != mesh:
                foreign.append(entry.mesh)
                raise Refused("state_foreign", "the entry of another mesh")
            return entry

        found = await self._bucket.read_all(decode, lambda *each: skipped.append(each), _MESH_KEY)
        entry, revision = found.get(_MESH_KEY, Found(MeshEntry(mesh=mesh), 0))
        if entry is None and foreign:
            raise Refused("state_foreign", f"the broker holds mesh {foreign[-1]}, not {mesh}")
        for each in skipped:
            self._skip(*each)
        return (None if entry is None else entry.epoch), revision

    def _skip(self, key: str, revision: int, error: MeshError) -> None:
        self._strays.note(self._bucket.stream, revision, key, error)

    # -- look-ups

    def group(self, name: str) -> GroupEntry:
        entry = self.groups.get(name)
        if entry is None:
            raise Refused("group_unknown", f"no group {name}")
        return entry

    def agent(self, name: str) -> AgentEntry:
        entry = self.agents.get(name)
        if entry is None:
            raise Refused("agent_unknown", f"no agent {name}")
        return entry

    def client(self, name: str) -> ClientEntry:
        entry = self.clients.get(name)
        if entry is None:
            raise Refused("client_unknown", f"no client {name}")
        return entry

    def connection(self, name: str) -> ConnectionEntry:
        entry = self.connections.get(name)
        if entry is None:
            raise Refused("connection_unknown", f"no connection {name}")
        return entry

    def has_agents(self, group: str) -> bool:
        return self._agents_of.get(group, 0) > 0

    def check_free(self, name: str) -> None:
        """Agents and clients share one space of names, since their inboxes do."""
        entry = self.agents.get(name)
        if entry is not None and entry.admin == Admin.DELETED:
            raise Refused("agent_leaving", f"agent {name} is being deleted")
        if entry is not None:
            raise Refused("agent_exists", f"agent {name} exists")
        if name in self.clients:
            raise Refused("name_taken", f"{name} is the name of a client")

    # -- changes

    async def create_group(self, entry: GroupEntry) -> None:
        await self._create(f"group.{entry.name}", entry, "group_exists")
        self.groups[entry.name] = entry

    async def change_group(
        self, name: str, change: Callable[[GroupEntry], GroupEntry]
    ) -> GroupEntry:
        changed = await self._change(f"group.{name}", self.group, name, change)
        self.groups[name] = changed
        return changed

    async def delete_group(self, name: str) -> None:
        await self._delete(f"group.{name}")
        self.groups.pop(name, None)

    async def create_agent(self, entry: AgentEntry) -> None:
        await self._create(f"agent.{entry.name}", entry, "agent_exists")
        self._put_agent(entry)

    async def change_agent(
        self, name: str, change: Callable[[AgentEntry], AgentEntry]
    ) -> AgentEntry:
        """Replace an entry by the result of `change`, which may refuse: then nothing changes.

        Called again on the newer entry after a concurrent change. Raises Unreachable with the
        effect unknown if the broker does not answer.
        """
        changed = await self._change(f"agent.{name}", self.agent, name, change)
        self._put_agent(changed)
        return changed

    async def delete_agent(self, name: str) -> None:
        await self._delete(f"agent.{name}")
        entry = self.agents.pop(name, None)
        if entry is not None:
            self._agents_of[entry.group] -= 1

    async def create_client(self, entry: ClientEntry) -> None:
        await self._create(f"client.{entry.name}", entry, "client_exists")
        self.clients[entry.name] = entry

    async def change_client(
        self, name: str, change: Callable[[ClientEntry], ClientEntry]
    ) -> ClientEntry:
        changed = await self._change(f"client.{name}", self.client, name, change)
        self.clients[name] = changed
        return changed

    async def create_connection(self, entry: ConnectionEntry) -> None:
        await self._create(f"connection.{entry.name}", entry, "connection_exists")
        self.connections[entry.name] = entry

    async def change_connection(
        self, name: str, change: Callable[[ConnectionEntry], ConnectionEntry]
    ) -> ConnectionEntry:
        changed = await self._change(f"connection.{name}", self.connection, name, change)
        self.connections[name] = changed
        return changed

    async def delete_connection(self, name: str) -> None:
        await self._delete(f"connection.{name}")
        self.connections.pop(name, None)

    # -- the bucket

    def _put(self, entry: Entry) -> None:
        """Take a stored entry into the memory."""
        match entry:
            case GroupEntry():
                self.groups[entry.name] = entry
            case AgentEntry():
                self._put_agent(entry)
            case ClientEntry():
                self.clients[entry.name] = entry
            case ConnectionEntry():
                self.connections[entry.name] = entry

    def _put_agent(self, entry: AgentEntry) -> None:
        before = self.agents.get(entry.name)
        if before is None or before.group != entry.group:
            self._agents_of[entry.group] = self._agents_of.get(entry.group, 0) + 1
            if before is not None:
                self._agents_of[before.group] -= 1
        self.agents[entry.name] = entry

    async def _create(self, key: str, entry: msgspec.Struct, exists: str) -> None:
        value = codec.encode(entry)
        try:
            if key in self._unreadable:
                revision = self._revisions[key]
                self._revisions[key] = await self._bucket.update(key, value, revision)
                self._unreadable.discard(key)
            else:
                self._revisions[key] = await self._bucket.create(key, value)
        except SequenceConflict as error:
            kind, _, name = key.partition(".")
            raise Refused(exists, f"{kind} {name} exists") from error

    async def _delete(self, key: str) -> None:
        await self._bucket.delete(key)
        self._revisions.pop(key, None)

    async def _change(
        self, key: str, look_up: Callable[[str], E], name: str, change: Callable[[E], E]
    ) -> E:
        for _ in range(_TRIES):
            current = look_up(name)
            changed = change(current)
            if changed == current:
                return current
            try:
                revision = await self._bucket.update(
                    key, codec.encode(changed), self._revisions[key]
                )
            except SequenceConflict:
                await self._refresh(key)
                continue
            self._revisions[key] = revision
            return changed
        raise Refused("store_unavailable", f"{key} is being changed by others")

    async def _refresh(self, key: str) -> None:
        entry = await self._bucket.get(key)
        if entry is None:
            kind = key.partition(".")[0]
            raise Refused(f"{kind}_unknown", f"{key} was deleted meanwhile")
        self._revisions[key] = entry.revision
        try:
            current = _decode(key, entry.value)
        except MeshError as error:
            self._skip(key, entry.revision, error)
            return  # the memory has the newest readable one
        if not isinstance(current, MeshEntry):
            self._put(current)


def _decode(key: str, value: bytes) -> Entry | MeshEntry:
    """Raises MeshError for a value that no master would have written at this key."""
    kind, _, name = key.partition(".")
    if key == _MESH_KEY:
        return MeshEntry(mesh="")  # `begin_epoch` reads it
    if kind not in _KINDS:
        raise Refused("malformed", "not a key of the registry")
    entry = codec.decode_trusted(_KINDS[kind], value)
    if entry.name != name:
        raise Refused("malformed", "the entry of another name")
    return entry

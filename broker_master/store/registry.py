"""Groups, agents and clients: a key-value bucket, held in memory as well.

One master writes, but the revision of each entry is checked all the same, so that of two changes
at once one wins and the other is decided anew.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from broker_client.runtime.kv import Bucket
from broker_client.runtime.streams import SequenceConflict
from broker_master.core.epochs import next_epoch
from schemas import codec
from schemas.faults import Refused
from schemas.messages.registry import AgentEntry, ClientEntry, GroupEntry, MeshEntry
from schemas.states import Admin

E = TypeVar("E", AgentEntry, ClientEntry, GroupEntry)

_TRIES = 5
_MESH_KEY = "mesh"


class Begun(NamedTuple):
    """earlier: the last epoch that the registry knew of before."""

    epoch: int
    earlier: int


class Registry:
    """Reads are from memory. Writes are durable when they return, then memory follows."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._revisions: dict[str, int] = {}
        self.groups: dict[str, GroupEntry] = {}
        self.agents: dict[str, AgentEntry] = {}
        self.clients: dict[str, ClientEntry] = {}
        self._agents_of: dict[str, int] = {}

    async def load(self) -> None:
        for key, entry in (await self._bucket.items()).items():
            kind, _, name = key.partition(".")
            self._revisions[key] = entry.revision
            if kind == "group":
                self.groups[name] = codec.decode_trusted(GroupEntry, entry.value)
            elif kind == "agent":
                self._put_agent(codec.decode_trusted(AgentEntry, entry.value))
            elif kind == "client":
                self.clients[name] = codec.decode_trusted(ClientEntry, entry.value)

    async def begin_epoch(
        self, mesh: str, now_s: float, *, above: int = 0, is_restored: bool = False
    ) -> Begun:
        """The epoch of a master that starts now: greater than every one before it.

        now_s: time of day, Unix seconds. above: an epoch that is known from elsewhere. is_restored:
        this state was put back, so a new generation begins.
        Raises Refused (`state_foreign`) if the broker holds another mesh.
        """
        for _ in range(_TRIES):
            entry = await self._bucket.get(_MESH_KEY)
            old = codec.decode_trusted(MeshEntry, entry.value) if entry else MeshEntry(mesh=mesh)
            if old.mesh != mesh:
                raise Refused("state_foreign", f"the broker holds mesh {old.mesh}, not {mesh}")
            known = max(old.epoch, above)
            epoch = next_epoch(known, now_s, is_restored=is_restored)
            new = codec.encode(MeshEntry(mesh=mesh, epoch=epoch))
            try:
                await self._bucket.update(_MESH_KEY, new, entry.revision if entry else 0)
            except SequenceConflict:
                continue
            return Begun(epoch, old.epoch)
        raise Refused("master_starting", "another master starts at the same time")

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
        """Replace an entry by what `change` makes of it; `change` may refuse, and nothing happens.

        Called again on the newer entry if somebody else was faster. Raises Unreachable with the
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

    # -- the bucket

    def _put_agent(self, entry: AgentEntry) -> None:
        before = self.agents.get(entry.name)
        if before is None or before.group != entry.group:
            self._agents_of[entry.group] = self._agents_of.get(entry.group, 0) + 1
            if before is not None:
                self._agents_of[before.group] -= 1
        self.agents[entry.name] = entry

    async def _create(self, key: str, entry: msgspec.Struct, exists: str) -> None:
        try:
            self._revisions[key] = await self._bucket.create(key, codec.encode(entry))
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
                await self._refresh(key, type(current))
                continue
            self._revisions[key] = revision
            return changed
        raise Refused("store_unavailable", f"{key} is being changed by others")

    async def _refresh(self, key: str, kind: type[E]) -> None:
        entry = await self._bucket.get(key)
        if entry is None:
            raise Refused("agent_unknown", f"{key} was deleted meanwhile")
        self._revisions[key] = entry.revision
        current = codec.decode_trusted(kind, entry.value)
        if isinstance(current, AgentEntry):
            self._put_agent(current)
        elif isinstance(current, ClientEntry):
            self.clients[current.name] = current
        else:
            self.groups[current.name] = current

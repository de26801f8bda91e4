"""`connection.*`: create, set, show, list, pin, enable, disable, test, delete."""

from collections.abc import Callable

import msgspec

from broker_master.api.operations import Operations
from broker_master.core import connections
from broker_master.core.pages import Rows
from broker_master.core.rights import check_group
from broker_master.core.ways import way_of
from broker_master.plane import Plane
from broker_master.services.connection_tests import ConnectionTests
from broker_master.services.connection_views import ConnectionViews
from schemas import limits
from schemas.counting import counted
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import (
    ConnectionCreate,
    ConnectionList,
    ConnectionPin,
    ConnectionRecord,
    ConnectionsAnswer,
    ConnectionSet,
    ConnectionTest,
    ConnectionTestAnswer,
    Done,
    NameQuery,
)
from schemas.messages.registry import ClientEntry, ConnectionEntry
from schemas.verbs import (
    CONNECTION_CREATE,
    CONNECTION_DELETE,
    CONNECTION_DISABLE,
    CONNECTION_ENABLE,
    CONNECTION_LIST,
    CONNECTION_PIN,
    CONNECTION_SET,
    CONNECTION_SHOW,
    CONNECTION_TEST,
)


class ConnectionOperations:
    def __init__(self, plane: Plane, views: ConnectionViews, tests: ConnectionTests) -> None:
        self._plane = plane
        self._views = views
        self._tests = tests

    def register(self, operations: Operations) -> None:
        operations.add(CONNECTION_CREATE, self.create)
        operations.add(CONNECTION_SET, self.set)
        operations.add(CONNECTION_SHOW, self.show)
        operations.add(CONNECTION_LIST, self.list)
        operations.add(CONNECTION_PIN, self.pin)
        operations.add(CONNECTION_ENABLE, self.enable)
        operations.add(CONNECTION_DISABLE, self.disable)
        operations.add(CONNECTION_TEST, self.test)
        operations.add(CONNECTION_DELETE, self.delete)

    async def create(self, caller: ClientEntry, request: ConnectionCreate) -> ConnectionRecord:
        name, plane = check_name("a connection", request.name), self._plane
        check_group(caller, request.group)
        group = plane.registry.group(request.group).name
        connections.check_kind(request.kind, is_plugged=plane.profiles.has_kind(request.kind))
        connections.check_actions(request.kind, request.actions)
        entry = ConnectionEntry(
            name=name,
            kind=request.kind,
            group=group,
            at_once=request.at_once,
            actions=_unique(request.actions),
            note=request.note,
            created_at=plane.clock.now(),
            created_by=caller.name,
        )
        given = {
            field: value
            for field in ("timeout_s", "output_bytes")
            if (value := getattr(request, field)) is not None
        }
        entry = msgspec.structs.replace(entry, **given)
        await plane.registry.create_connection(entry)
        plane.dispatcher.ways.put(name, way_of(entry))
        return self._views.record(entry)

    async def set(self, caller: ClientEntry, request: ConnectionSet) -> ConnectionRecord:
        """Change it for commands that start from now on."""
        given = {
            field: value
            for field in ("at_once", "timeout_s", "output_bytes", "actions", "note")
            if (value := getattr(request, field)) is not None
        }

        def changed(entry: ConnectionEntry) -> ConnectionEntry:
            if request.actions is not None:
                connections.check_actions(entry.kind, request.actions)
                given["actions"] = _unique(request.actions)
            return msgspec.structs.replace(entry, **given)

        return self._views.record(await self._change(caller, request.name, changed))

    async def show(self, caller: ClientEntry, query: NameQuery) -> ConnectionRecord:
        return self._views.whole(self._entry(caller, query.name))

    async def list(self, caller: ClientEntry, wanted: ConnectionList) -> ConnectionsAnswer:
        if wanted.group is not None:
            check_group(caller, wanted.group)
        entries = [
            entry
            for entry in self._views.visible(caller)
            if (wanted.cursor is None or entry.name > wanted.cursor)
            and wanted.group in (None, entry.group)
        ]
        rows = Rows[ConnectionRecord](wanted.limit, limits.WHOLE_LIST_BYTES)
        for record in self._views.records(entries[: wanted.limit + 1]):
            if not rows.add(record):
                last = rows.taken[-1].connection
                return ConnectionsAnswer(connections=rows.taken, cursor=last)
        return ConnectionsAnswer(connections=rows.taken)

    async def pin(self, caller: ClientEntry, request: ConnectionPin) -> ConnectionRecord:
        """Use only profiles of one hash, also for commands that wait already."""
        entry = await self._change(
            caller, request.name, lambda each: msgspec.structs.replace(each, pin=request.hash)
        )
        return self._views.record(entry)

    async def enable(self, caller: ClientEntry, query: NameQuery) -> Done:
        return await self._switch(caller, query.name, enabled=True)

    async def disable(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Take and start no more commands through it; those that run go on."""
        return await self._switch(caller, query.name, enabled=False)

    async def test(self, caller: ClientEntry, request: ConnectionTest) -> ConnectionTestAnswer:
        entry = self._entry(caller, request.name)
        return await self._tests.run(caller, entry, request.agent, request.timeout_s)

    async def delete(self, caller: ClientEntry, query: NameQuery) -> Done:
        entry, plane = self._entry(caller, query.name), self._plane
        open_ = sum(
            command.accepted.connection == entry.name and not command.is_terminal
            for command in plane.book
        )
        if open_:
            what = counted(open_, "open command")
            raise Refused("connection_busy", f"connection {entry.name} has {what}")
        await plane.registry.delete_connection(entry.name)
        plane.dispatcher.ways.remove(entry.name)
        plane.statuses.forget_connection(entry.name)
        return Done(message=f"connection {entry.name} deleted")

    # -- parts

    def _entry(self, caller: ClientEntry, name: str) -> ConnectionEntry:
        entry = self._plane.registry.connection(name)
        check_group(caller, entry.group)
        return entry

    async def _switch(self, caller: ClientEntry, name: str, *, enabled: bool) -> Done:
        before = self._entry(caller, name).enabled
        await self._change(
            caller, name, lambda each: msgspec.structs.replace(each, enabled=enabled)
        )
        return Done(
            changed=before != enabled,
            message=f"connection {name} {'enabled' if enabled else 'disabled'}",
        )

    async def _change(
        self, caller: ClientEntry, name: str, change: Callable[[ConnectionEntry], ConnectionEntry]
    ) -> ConnectionEntry:
        """Change an entry, and put its waiting commands where they belong from now on."""
        _ = self._entry(caller, name)
        plane = self._plane
        entry = await plane.registry.change_connection(name, change)
        plane.dispatcher.ways.put(name, way_of(entry))
        for command in [*plane.book.waiting()]:
            if command.accepted.connection == name and plane.dispatcher.is_queued(command.id):
                plane.dispatcher.enqueue(plane.dispatcher.wish(command.accepted), command.id)
        self._views.note(entry)
        return entry


def _unique(actions: list[str]) -> list[str]:
    return [*dict.fromkeys(actions)]

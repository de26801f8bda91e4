"""`group.*`: create, show, list, delete."""

from broker_master.api.operations import Operations, check_group, may_see
from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import Done, GroupCreate, GroupRecord, GroupsAnswer, NameQuery, NoQuery
from schemas.messages.registry import ClientEntry, GroupEntry


class GroupOperations:
    def __init__(self, plane: Plane, views: Views) -> None:
        self._plane = plane
        self._views = views

    def register(self, operations: Operations) -> None:
        operations.add("group", "create", GroupCreate, self.create)
        operations.add("group", "show", NameQuery, self.show)
        operations.add("group", "list", NoQuery, self.list)
        operations.add("group", "delete", NameQuery, self.delete)

    async def create(self, caller: ClientEntry, request: GroupCreate) -> GroupRecord:
        name = check_name("a group", request.name)
        check_group(caller, name)
        await self._plane.registry.create_group(
            GroupEntry(name=name, created_at=self._plane.clock.now(), created_by=caller.name)
        )
        return self._views.group(name)

    async def show(self, caller: ClientEntry, query: NameQuery) -> GroupRecord:
        check_group(caller, query.name)
        return self._views.group(self._plane.registry.group(query.name).name)

    async def list(self, caller: ClientEntry, _query: NoQuery) -> GroupsAnswer:
        names = sorted(name for name in self._plane.registry.groups if may_see(caller, name))
        return GroupsAnswer(groups=[self._views.group(name) for name in names])

    async def delete(self, caller: ClientEntry, query: NameQuery) -> Done:
        check_group(caller, query.name)
        group = self._plane.registry.group(query.name)
        if self._plane.registry.has_agents(group.name):
            raise Refused("group_not_empty", f"group {group.name} still has agents")
        if self._plane.book.open_in(group.name):
            raise Refused("group_not_empty", f"group {group.name} still has open commands")
        await self._plane.registry.delete_group(group.name)
        return Done(message=f"group {group.name} deleted")

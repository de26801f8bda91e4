"""`group.*`: create, set, show, list, delete."""

from typing import Final

import msgspec

from broker_master.api.operations import Operations
from broker_master.core.pages import Rows
from broker_master.core.rights import check_group, may_see
from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas import limits
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import (
    Done,
    GroupCreate,
    GroupList,
    GroupRecord,
    GroupsAnswer,
    GroupSet,
    NameQuery,
)
from schemas.messages.registry import DEFAULT_POLICY, ClientEntry, GroupEntry, Policy
from schemas.verbs import GROUP_CREATE, GROUP_DELETE, GROUP_LIST, GROUP_SET, GROUP_SHOW

# Agents that `group.show` lists with their share of the work.
_SPREAD_MAX: Final = 1000


class GroupOperations:
    def __init__(self, plane: Plane, views: Views) -> None:
        self._plane = plane
        self._views = views

    def register(self, operations: Operations) -> None:
        operations.add(GROUP_CREATE, self.create)
        operations.add(GROUP_SET, self.set)
        operations.add(GROUP_SHOW, self.show)
        operations.add(GROUP_LIST, self.list)
        operations.add(GROUP_DELETE, self.delete)

    async def create(self, caller: ClientEntry, request: GroupCreate) -> GroupRecord:
        name = check_name("a group", request.name)
        check_group(caller, name)
        policy = _checked(request.policy)
        await self._plane.registry.create_group(
            GroupEntry(
                name=name,
                created_at=self._plane.clock.now(),
                created_by=caller.name,
                policy=policy,
            )
        )
        self._plane.dispatcher.set_policy(name, policy)
        return self._views.group(name)

    async def set(self, caller: ClientEntry, request: GroupSet) -> GroupRecord:
        """Change how the group shares its work, from the next command on."""
        check_group(caller, request.name)
        given = {
            name: value
            for name in Policy.__struct_fields__
            if (value := getattr(request, name)) is not None
        }
        if request.balance not in (None, "sticky") and request.sticky_label is None:
            given["sticky_label"] = ""

        def changed(entry: GroupEntry) -> GroupEntry:
            policy = _checked(msgspec.structs.replace(entry.policy, **given))
            return msgspec.structs.replace(entry, policy=policy)

        entry = await self._plane.registry.change_group(request.name, changed)
        self._plane.dispatcher.set_policy(entry.name, entry.policy)
        return self._views.group(request.name)

    async def show(self, caller: ClientEntry, query: NameQuery) -> GroupRecord:
        check_group(caller, query.name)
        name = self._plane.registry.group(query.name).name
        spread = self._views.spread(name)
        return msgspec.structs.replace(
            self._views.group(name),
            spread=spread[:_SPREAD_MAX],
            spread_left_out=max(0, len(spread) - _SPREAD_MAX),
        )

    async def list(self, caller: ClientEntry, wanted: GroupList) -> GroupsAnswer:
        names = [
            name
            for name in sorted(self._plane.registry.groups)
            if may_see(caller, name) and (wanted.cursor is None or name > wanted.cursor)
        ]
        rows = Rows[GroupRecord](wanted.limit, limits.WHOLE_LIST_BYTES)
        for record in self._views.groups(names[: wanted.limit + 1]):
            if not rows.add(record):
                return GroupsAnswer(groups=rows.taken, cursor=rows.taken[-1].group)
        return GroupsAnswer(groups=rows.taken)

    async def delete(self, caller: ClientEntry, query: NameQuery) -> Done:
        check_group(caller, query.name)
        group = self._plane.registry.group(query.name)
        if self._plane.registry.has_agents(group.name):
            raise Refused("group_not_empty", f"group {group.name} still has agents")
        if self._plane.book.open_in(group.name):
            raise Refused("group_not_empty", f"group {group.name} still has open commands")
        await self._plane.registry.delete_group(group.name)
        return Done(message=f"group {group.name} deleted")


def _checked(policy: Policy) -> Policy:
    """Check a policy; a default one becomes the very object that entries leave out."""
    if (policy.balance == "sticky") != bool(policy.sticky_label):
        raise Refused("field_invalid", "sticky_label: the balance sticky needs one, others none")
    return DEFAULT_POLICY if policy == DEFAULT_POLICY else policy

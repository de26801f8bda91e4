"""`agent.*`: create, token, show, list, enable, disable, revoke, delete."""

from collections.abc import Callable

import msgspec
import structlog

from broker_master.api.operations import Operations, check_group, may_see
from broker_master.ca.issuer import Issuer
from broker_master.ca.tokens import issue_token
from broker_master.plane import Plane
from broker_master.services.cancel import Canceller
from broker_master.services.presence import PresenceService
from broker_master.services.revoke import Revoker
from broker_master.services.views import Views
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import (
    AgentCreate,
    AgentDisable,
    AgentList,
    AgentRecord,
    AgentsAnswer,
    Done,
    NameQuery,
    TokenAnswer,
)
from schemas.messages.registry import AgentEntry, ClientEntry, TokenEntry
from schemas.moments import rfc3339
from schemas.states import Admin

log = structlog.get_logger()

Change = Callable[[AgentEntry], AgentEntry]


class AgentOperations:
    def __init__(
        self,
        plane: Plane,
        views: Views,
        issuer: Issuer,
        presence: PresenceService,
        canceller: Canceller,
        revoker: Revoker,
    ) -> None:
        self._plane = plane
        self._views = views
        self._issuer = issuer
        self._presence = presence
        self._canceller = canceller
        self._revoker = revoker

    def register(self, operations: Operations) -> None:
        operations.add("agent", "create", AgentCreate, self.create)
        operations.add("agent", "token", AgentCreate, self.token)
        operations.add("agent", "show", NameQuery, self.show)
        operations.add("agent", "list", AgentList, self.list)
        operations.add("agent", "enable", NameQuery, self.enable)
        operations.add("agent", "disable", AgentDisable, self.disable)
        operations.add("agent", "revoke", NameQuery, self.revoke)
        operations.add("agent", "delete", NameQuery, self.delete)

    # -- new agents

    async def create(self, caller: ClientEntry, request: AgentCreate) -> TokenAnswer:
        """Enter an agent, awaiting setup, and issue its activation token."""
        name = check_name("an agent", request.name)
        if request.group is None:
            raise Refused("field_invalid", "group is missing: an agent belongs to exactly one")
        group = self._plane.registry.group(request.group).name
        check_group(caller, group)
        self._plane.registry.check_free(name)
        answer, token = self._issue(name, group, request.ttl_s)
        entry = AgentEntry(
            name=name,
            group=group,
            created_at=self._plane.clock.now(),
            created_by=caller.name,
            token=token,
        )
        await self._plane.registry.create_agent(entry)
        self._track(entry)
        return answer

    async def token(self, caller: ClientEntry, request: AgentCreate) -> TokenAnswer:
        """A new token for an agent that exists; the one before it no longer works.

        A revoked agent is readmitted by it: its old keys stay refused, new ones are made.
        """
        agent = self._agent(caller, request.name)
        answer, token = self._issue(agent.name, agent.group, request.ttl_s)

        def renewed(entry: AgentEntry) -> AgentEntry:
            admin = Admin.ENABLED if entry.admin == Admin.REVOKED else entry.admin
            return msgspec.structs.replace(entry, token=token, admin=admin)

        await self._change(agent.name, renewed)
        return answer

    def _issue(self, name: str, group: str, ttl_s: float) -> tuple[TokenAnswer, TokenEntry]:
        expires_at = int(self._plane.clock.now() + ttl_s)
        issued = issue_token(self._issuer, name, group, self._plane.urls, expires_at=expires_at)
        answer = TokenAnswer(
            agent=name, group=group, token=issued.text, expires_at=rfc3339(issued.expires_at)
        )
        return answer, TokenEntry(hash=issued.secret_hash, expires_at=issued.expires_at)

    def _track(self, entry: AgentEntry) -> None:
        clock = self._plane.clock
        presence = self._plane.roster.add(
            entry.group, entry.name, connected=False, at=clock.now(), now_s=clock.elapsed()
        )
        self._presence.sync_member(presence)

    # -- looking

    async def show(self, caller: ClientEntry, query: NameQuery) -> AgentRecord:
        return self._views.agent(self._agent(caller, query.name))

    async def list(self, caller: ClientEntry, wanted: AgentList) -> AgentsAnswer:
        if wanted.group is not None:
            check_group(caller, self._plane.registry.group(wanted.group).name)
        records: list[AgentRecord] = []
        for name, entry in sorted(self._plane.registry.agents.items()):
            if wanted.cursor is not None and name <= wanted.cursor:
                continue
            if wanted.group not in (None, entry.group) or not may_see(caller, entry.group):
                continue
            if wanted.status not in (None, str(self._views.status_of(entry))):
                continue
            if len(records) == wanted.limit:
                return AgentsAnswer(agents=records, cursor=records[-1].agent)
            records.append(self._views.agent(entry))
        return AgentsAnswer(agents=records)

    # -- what an operator wants of it

    async def enable(self, caller: ClientEntry, query: NameQuery) -> Done:
        agent = self._agent(caller, query.name)
        if agent.admin == Admin.REVOKED:
            raise Refused("agent_revoked", f"agent {agent.name} is revoked")
        if agent.admin == Admin.ENABLED:
            return Done(changed=False, message=f"agent {agent.name} is enabled already")
        await self._set_admin(caller, agent.name, Admin.ENABLED)
        return Done(message=f"agent {agent.name} enabled")

    async def disable(self, caller: ClientEntry, request: AgentDisable) -> Done:
        """Give it nothing new. What runs there finishes, or with `now` is cancelled."""
        agent = self._agent(caller, request.name)
        if agent.admin == Admin.REVOKED:
            raise Refused("agent_revoked", f"agent {agent.name} is revoked")
        changed = agent.admin != Admin.DISABLED
        if changed:
            await self._set_admin(caller, agent.name, Admin.DISABLED)
        left = self._plane.dispatcher.load(agent.name)
        if request.now:
            await self._cancel_all(agent.name, caller.name)
        return Done(changed=changed, message=f"agent {agent.name} disabled, {left} tasks left")

    async def revoke(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Take its credentials away; they are refused everywhere from now on."""
        agent = self._agent(caller, query.name)
        await self._set_admin(caller, agent.name, Admin.REVOKED)
        await self._revoker.revoke(agent.name, agent.certificates)
        return Done(changed=agent.admin != Admin.REVOKED, message=f"agent {agent.name} revoked")

    async def delete(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Revoke it and forget it; its open attempts end as lost."""
        agent = self._agent(caller, query.name)
        await self._set_admin(caller, agent.name, Admin.REVOKED)
        await self._revoker.revoke(agent.name, agent.certificates)
        self._presence.give_up(agent.name)
        await self._plane.registry.delete_agent(agent.name)
        self._plane.roster.remove(agent.name)
        self._plane.dispatcher.remove_member(agent.name)
        return Done(message=f"agent {agent.name} deleted")

    async def _cancel_all(self, agent: str, by: str) -> None:
        for command in self._plane.book:
            attempt = command.open_attempt
            if attempt is not None and attempt.agent == agent and not command.settling:
                await self._canceller.cancel(command, by)

    async def _set_admin(self, caller: ClientEntry, name: str, admin: Admin) -> None:
        at = self._plane.clock.now()
        await self._change(
            name,
            lambda entry: msgspec.structs.replace(
                entry, admin=admin, admin_since=at, admin_by=caller.name
            ),
        )
        log.info("agent_admin_changed", agent=name, admin=admin, by=caller.name)

    async def _change(self, name: str, change: Change) -> None:
        changed = await self._plane.registry.change_agent(name, change)
        self._views.note_group(changed.group)
        presence = self._plane.roster.get(name)
        if presence is not None:
            self._presence.sync_member(presence)

    def _agent(self, caller: ClientEntry, name: str) -> AgentEntry:
        agent = self._plane.registry.agent(name)
        check_group(caller, agent.group)
        return agent

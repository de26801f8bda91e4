"""`agent.*`: create, token, set, show, list, enable, disable, pause, revoke, delete, forget."""

import msgspec
import structlog

from broker_client.runtime import failpoints
from broker_master.api.operations import Operations
from broker_master.ca.issuer import Issuer
from broker_master.ca.tokens import issue_token
from broker_master.core import admin, certificates
from broker_master.core.pages import Rows
from broker_master.core.phases import HELD
from broker_master.core.rights import check_group, may_see
from broker_master.plane import Plane
from broker_master.services.cancel import Canceller
from broker_master.services.orders import Orders
from broker_master.services.presence import PresenceService
from broker_master.services.revoke import Revoker
from broker_master.services.transitions import AdminTransitions, Change
from broker_master.services.views import Views
from schemas import limits
from schemas.counting import counted
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.listed import AGENTS, passes
from schemas.messages.api import (
    AgentCreate,
    AgentDisable,
    AgentForget,
    AgentList,
    AgentMove,
    AgentPause,
    AgentPing,
    AgentRecord,
    AgentsAnswer,
    AgentSet,
    Done,
    ForgetAnswer,
    NameQuery,
    PingAnswer,
    SilentRecord,
    TokenAnswer,
)
from schemas.messages.registry import DEFAULT_TRAITS, AgentEntry, ClientEntry, TokenEntry, Traits
from schemas.moments import rfc3339
from schemas.states import Admin, AgentStatus
from schemas.verbs import (
    AGENT_CREATE,
    AGENT_DELETE,
    AGENT_DISABLE,
    AGENT_ENABLE,
    AGENT_FORGET,
    AGENT_LIST,
    AGENT_MOVE,
    AGENT_PAUSE,
    AGENT_PING,
    AGENT_REVOKE,
    AGENT_SET,
    AGENT_SHOW,
    AGENT_TOKEN,
)

log = structlog.get_logger()


class AgentOperations:
    def __init__(
        self,
        plane: Plane,
        views: Views,
        issuer: Issuer,
        presence: PresenceService,
        canceller: Canceller,
        revoker: Revoker,
        transitions: AdminTransitions,
        orders: Orders,
    ) -> None:
        self._plane = plane
        self._views = views
        self._issuer = issuer
        self._presence = presence
        self._canceller = canceller
        self._revoker = revoker
        self._transitions = transitions
        self._orders = orders

    def register(self, operations: Operations) -> None:
        operations.add(AGENT_CREATE, self.create)
        operations.add(AGENT_TOKEN, self.token)
        operations.add(AGENT_SET, self.set)
        operations.add(AGENT_SHOW, self.show)
        operations.add(AGENT_LIST, self.list)
        operations.add(AGENT_PING, self.ping)
        operations.add(AGENT_ENABLE, self.enable)
        operations.add(AGENT_DISABLE, self.disable)
        operations.add(AGENT_PAUSE, self.pause)
        operations.add(AGENT_MOVE, self.move)
        operations.add(AGENT_FORGET, self.forget)
        operations.add(AGENT_REVOKE, self.revoke)
        operations.add(AGENT_DELETE, self.delete)

    # -- new agents

    async def create(self, caller: ClientEntry, request: AgentCreate) -> TokenAnswer:
        """Enter an agent that awaits setup, and issue its activation token."""
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
            traits=_traits(
                Traits(
                    tags=request.tags,
                    weight=request.weight,
                    priority=request.priority,
                    limit=request.limit,
                )
            ),
        )
        await self._plane.registry.create_agent(entry)
        self._track(entry)
        return answer

    async def token(self, caller: ClientEntry, request: AgentCreate) -> TokenAnswer:
        """Issue a new token for an existing agent; the earlier token no longer works.

        It readmits a revoked agent: the old keys stay refused, setup makes new ones.
        """
        agent = self._agent(caller, request.name)
        answer, token = self._issue(agent.name, agent.group, request.ttl_s)

        def renewed(entry: AgentEntry) -> AgentEntry:
            if entry.admin == Admin.DELETED:
                raise Refused("agent_leaving", f"agent {entry.name} is being deleted")
            if entry.admin != Admin.REVOKED:
                return msgspec.structs.replace(entry, token=token)
            old = certificates.all_retired(entry.certificates, self._plane.clock.now())
            return msgspec.structs.replace(
                entry, token=token, admin=Admin.ENABLED, certificates=old
            )

        await self._transitions.change(agent.name, renewed)
        return answer

    def _issue(self, name: str, group: str, ttl_s: float) -> tuple[TokenAnswer, TokenEntry]:
        expires_at = int(self._plane.clock.now() + ttl_s)
        issued = issue_token(
            self._issuer, name, group, self._plane.master.urls, expires_at=expires_at
        )
        answer = TokenAnswer(
            agent=name, group=group, token=issued.text, expires_at=rfc3339(issued.expires_at)
        )
        return answer, TokenEntry(
            hash=issued.secret_hash, expires_at=issued.expires_at, user=issued.user
        )

    def _track(self, entry: AgentEntry) -> None:
        clock = self._plane.clock
        presence = self._plane.roster.add(
            entry.group, entry.name, connected=False, at=clock.now(), now_s=clock.elapsed()
        )
        self._presence.sync_member(presence)

    async def set(self, caller: ClientEntry, request: AgentSet) -> AgentRecord:
        """Change the traits by which commands and policies choose an agent, from now on."""
        agent = self._agent(caller, request.name)
        given = {
            name: value
            for name in ("weight", "priority", "limit")
            if (value := getattr(request, name)) is not None
        }

        def changed(entry: AgentEntry) -> AgentEntry:
            tags = {**entry.traits.tags, **request.tags}
            tags = {name: value for name, value in tags.items() if name not in request.untag}
            if len(tags) > limits.TAGS:
                raise Refused("field_invalid", f"tags: more than {limits.TAGS}")
            traits = msgspec.structs.replace(entry.traits, tags=tags, **given)
            return msgspec.structs.replace(entry, traits=_traits(traits))

        await self._transitions.change(agent.name, changed)
        return self._views.agent(self._plane.registry.agent(agent.name))

    # -- reads

    async def show(self, caller: ClientEntry, query: NameQuery) -> AgentRecord:
        return self._views.agent(self._agent(caller, query.name))

    async def list(self, caller: ClientEntry, wanted: AgentList) -> AgentsAnswer:
        if wanted.group is not None:
            check_group(caller, self._plane.registry.group(wanted.group).name)
        now = self._plane.clock.now()
        words = AGENTS.parse(wanted.filter, now)
        rows = Rows[AgentRecord](wanted.limit)
        for name, entry in sorted(self._plane.registry.agents.items()):
            if wanted.cursor is not None and name <= wanted.cursor:
                continue
            if wanted.group not in (None, entry.group) or not may_see(caller, entry.group):
                continue
            if wanted.status not in (None, str(self._views.status_of(entry))):
                continue
            record = self._views.agent(entry)
            if words and not passes(words, record, now):
                continue
            if not rows.add(record):
                cursor = rows.taken[-1].agent
                return AgentsAnswer(agents=rows.taken, cursor=cursor, filter=wanted.filter)
        return AgentsAnswer(agents=rows.taken, filter=wanted.filter)

    async def ping(self, caller: ClientEntry, wanted: AgentPing) -> PingAnswer:
        """Send a ping; a silent agent gets one as well, since it may answer all the same."""
        agent = self._agent(caller, wanted.name)
        rtt_s = await self._orders.ping(agent.name, agent.group, wanted.timeout_s)
        record = self._views.agent(self._agent(caller, agent.name))
        reason = "" if rtt_s is not None else f"no answer in {wanted.timeout_s:g} s"
        if rtt_s is None and record.status != AgentStatus.ACTIVE:
            reason = record.reason
        return PingAnswer(agent=agent.name, status=record.status, rtt_s=rtt_s, reason=reason)

    # -- admin state

    async def enable(self, caller: ClientEntry, query: NameQuery) -> Done:
        agent = self._agent(caller, query.name)
        by, at = caller.name, self._plane.clock.now()
        changed = await self._move(agent.name, lambda entry: admin.enable(entry, by=by, at=at))
        already = "" if changed else " already"
        return Done(changed=changed, message=f"agent {agent.name} enabled{already}")

    async def disable(self, caller: ClientEntry, request: AgentDisable) -> Done:
        """Give an agent no new work. Its tasks finish, or are cancelled with `now`."""
        agent = self._agent(caller, request.name)
        by, at = caller.name, self._plane.clock.now()
        changed = await self._move(
            agent.name, lambda entry: admin.disable(entry, by=by, at=at, note=request.note)
        )
        return await self._drained(agent.name, caller, "disabled", changed=changed, now=request.now)

    async def pause(self, caller: ClientEntry, request: AgentPause) -> Done:
        """Disable an agent until a given time."""
        agent = self._agent(caller, request.name)
        by, at = caller.name, self._plane.clock.now()
        until = at + request.for_s
        changed = await self._move(
            agent.name,
            lambda entry: admin.pause(entry, by=by, at=at, until=until, note=request.note),
        )
        did = f"paused until {rfc3339(until)}"
        return await self._drained(agent.name, caller, did, changed=changed, now=request.now)

    async def _drained(
        self, name: str, caller: ClientEntry, did: str, *, changed: bool, now: bool
    ) -> Done:
        left = self._plane.dispatcher.load(name)
        if now:
            await self._cancel_all(name, caller.name)
        return Done(changed=changed, message=f"agent {name} {did}, {counted(left, 'task')} left")

    async def move(self, caller: ClientEntry, request: AgentMove) -> Done:
        """Move an agent to another group: it drains, then gets credentials of that group."""
        agent = self._agent(caller, request.name)
        group = self._plane.registry.group(request.group).name
        check_group(caller, group)
        changed = await self._move(agent.name, lambda entry: admin.move(entry, group))
        if group == agent.group:
            return Done(changed=changed, message=f"agent {agent.name} stays in group {group}")
        left = counted(self._plane.dispatcher.load(agent.name), "task")
        said = f"agent {agent.name} moves to group {group}, {left} left"
        return Done(changed=changed, message=said)

    async def revoke(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Revoke an agent's credentials: they are refused everywhere from now on."""
        agent = self._agent(caller, query.name)
        changed = await self._bar(caller, agent, Admin.REVOKED)
        return Done(changed=changed, message=f"agent {agent.name} revoked")

    async def delete(self, caller: ClientEntry, query: NameQuery) -> Done:
        """Revoke an agent and forget it: at once, or once none of its tasks can be running."""
        agent = self._agent(caller, query.name)
        changed = await self._bar(caller, agent, Admin.DELETED)
        if await self._transitions.depart(agent.name):
            return Done(changed=changed, message=f"agent {agent.name} deleted")
        left = counted(self._plane.dispatcher.load(agent.name), "task")
        said = f"agent {agent.name} is cut off, and gone once {left} of it cannot run any more"
        return Done(changed=changed, message=said)

    async def forget(self, caller: ClientEntry, wanted: AgentForget) -> ForgetAnswer:
        """Delete agents silent for longer than the given time, or only name them."""
        least_s = self._plane.timers.lost_s
        if wanted.silent_for_s < least_s:
            raise Refused("field_invalid", f"silent_for_s is less than lost_s, {least_s:g}")
        if wanted.group is not None:
            check_group(caller, self._plane.registry.group(wanted.group).name)
        records: list[SilentRecord] = []
        for name, entry in sorted(self._plane.registry.agents.items()):
            if wanted.cursor is not None and name <= wanted.cursor:
                continue
            if wanted.group not in (None, entry.group) or not may_see(caller, entry.group):
                continue
            record = self._silent(entry, wanted.silent_for_s)
            if record is None:
                continue
            if len(records) == wanted.limit:
                cursor = records[-1].agent
                return ForgetAnswer(agents=records, applied=wanted.apply, cursor=cursor)
            if wanted.apply:
                await self.delete(caller, NameQuery(name=name))
            records.append(record)
        return ForgetAnswer(agents=records, applied=wanted.apply)

    def _silent(self, entry: AgentEntry, for_s: float) -> SilentRecord | None:
        plane = self._plane
        at, presence = plane.clock.now(), plane.roster.get(entry.name)
        since = admin.silent_since(entry, presence, at=at, started_at=plane.master.started_at)
        if since is None or at - since < for_s or entry.admin == Admin.DELETED:
            return None
        return SilentRecord(
            agent=entry.name,
            group=entry.group,
            status=self._views.status_of(entry),
            silent_since=rfc3339(since),
            connected=entry.connected,
        )

    async def _cancel_all(self, agent: str, by: str) -> None:
        for command in self._plane.book:
            attempt = command.open_attempt
            if attempt is not None and attempt.agent == agent and command.phase in HELD:
                await self._canceller.cancel(command, by)

    async def _bar(self, caller: ClientEntry, agent: AgentEntry, state: Admin) -> bool:
        by, at = caller.name, self._plane.clock.now()
        changed = await self._move(agent.name, lambda entry: admin.bar(entry, state, by=by, at=at))
        failpoints.reach("master.barred")
        # Its certificates of this moment: one may have been renewed until just before.
        barred = self._plane.registry.agents.get(agent.name, agent)
        await self._revoker.revoke(agent.name, barred.certificates)
        return changed

    async def _move(self, name: str, move: Change) -> bool:
        """Change the admin state of an agent; False if it had that state already."""
        before = self._plane.registry.agent(name)
        after = await self._transitions.change(name, move)
        if after == before:
            return False
        log.info("agent_admin_changed", agent=name, admin=after.admin, by=after.admin_by)
        return True

    def _agent(self, caller: ClientEntry, name: str) -> AgentEntry:
        agent = self._plane.registry.agent(name)
        check_group(caller, agent.group)
        return agent


def _traits(traits: Traits) -> Traits:
    """The default object itself where the traits equal it: entries leave it out by identity."""
    return DEFAULT_TRAITS if traits == DEFAULT_TRAITS else traits

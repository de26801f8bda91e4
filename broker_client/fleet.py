"""Agents, groups, clients and events of the mesh, as a client reads them."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from broker_client.calls import Calls
from schemas.listed import AGENTS, passes
from schemas.messages.api import (
    AgentList,
    AgentPing,
    AgentRecord,
    ClientList,
    ClientRecord,
    ConnectionList,
    ConnectionRecord,
    ConnectionTest,
    ConnectionTestAnswer,
    EventList,
    EventRecord,
    GroupList,
    GroupRecord,
    NoQuery,
    PingAnswer,
    StatusAnswer,
)
from schemas.verbs import (
    AGENT_LIST,
    AGENT_PING,
    CLIENT_LIST,
    CONNECTION_LIST,
    CONNECTION_TEST,
    EVENTS_LIST,
    GROUP_LIST,
    MESH_STATUS,
)

# Seconds that the master holds a request of a reader of events; it does not answer these at its
# end, so that a reader takes so much longer to notice.
EVENTS_HOLD_S: Final = 5.0
# Seconds that the master adds to the time of a try, for the way to the agent and back.
TEST_AROUND_S: Final = 5.0


class FleetCalls(Calls):
    """Reads agents, groups, clients and events of the mesh."""

    async def agents(
        self, *, group: str | None = None, status: str | None = None, filter: str = ""
    ) -> Sequence[AgentRecord]:
        """Return all agents by name, of all pages.

        filter: words such as `web-* status:no_response expires:<14d tag:site=a`; raises as `list`.
        """
        request = AgentList(group=group, status=status, filter=filter)
        found: list[AgentRecord] = []
        while True:
            page = await self.ask(AGENT_LIST, request)
            found += page.agents
            if page.cursor is None:
                # A master of 0.1.0 has answered with all agents.
                return found if page.filter == filter else _passing(found, filter)
            request = msgspec.structs.replace(request, cursor=page.cursor)

    async def ping(self, agent: str, *, timeout_s: float = 5.0) -> PingAnswer:
        """Measure the round trip from the master to an agent; `rtt_s` is None after the timeout.

        Raises `agent_unknown`, or Unreachable if the master does not answer.
        """
        request = AgentPing(name=agent, timeout_s=timeout_s)
        return await self._asker.ask(AGENT_PING, request, wait_s=timeout_s)

    async def events(
        self, filter: str = "", *, since: float | None = None, follow: bool = False
    ) -> AsyncIterator[EventRecord]:
        """Yield events of agents, groups, commands and certificates, the oldest first.

        filter: words such as `kind:command what:failed,lost group:web`. since: unix time; without
        it all stored events, or with `follow` new events only. follow: continue without an end,
        also across outages of the master. An event of kind `gap` marks a place at which matching
        events may be missing. Raises `filter_invalid`, `rate_limited` if too many requests of this
        client wait for events, or Unreachable after a minute without an answer.
        """
        hold_s = EVENTS_HOLD_S if follow else 0.0
        request = EventList(
            filter=filter, since=since, from_now=follow and since is None, wait_s=hold_s
        )
        while True:
            answer = await self._asker.ask_until_answered(EVENTS_LIST, request, wait_s=hold_s)
            for event in answer.events:
                yield event
            if not answer.events and not follow:
                return
            request = msgspec.structs.replace(
                request, cursor=answer.cursor, since=None, from_now=False
            )

    async def groups(self) -> Sequence[GroupRecord]:
        """Return all groups by name, of all pages."""
        request = GroupList()
        found: list[GroupRecord] = []
        while True:
            page = await self.ask(GROUP_LIST, request)
            found += page.groups
            if page.cursor is None:
                return found
            request = msgspec.structs.replace(request, cursor=page.cursor)

    async def connections(self, *, group: str | None = None) -> Sequence[ConnectionRecord]:
        """Return all connections by name, of all pages."""
        request = ConnectionList(group=group)
        found: list[ConnectionRecord] = []
        while True:
            page = await self.ask_until_answered(CONNECTION_LIST, request)
            found += page.connections
            if page.cursor is None:
                return found
            request = msgspec.structs.replace(request, cursor=page.cursor)

    async def test_connection(self, request: ConnectionTest) -> ConnectionTestAnswer:
        """Try the way to the system from each active host; a failure is a row of the answer.

        Raises `connection_unknown`, `group_inactive` if no host is active, or Unreachable.
        """
        wait_s = request.timeout_s + TEST_AROUND_S
        return await self._asker.ask(CONNECTION_TEST, request, wait_s=wait_s)

    async def clients(self) -> Sequence[ClientRecord]:
        """Return all clients by name, of all pages."""
        request = ClientList()
        found: list[ClientRecord] = []
        while True:
            page = await self.ask(CLIENT_LIST, request)
            found += page.clients
            if page.cursor is None:
                return found
            request = msgspec.structs.replace(request, cursor=page.cursor)

    async def status(self) -> StatusAnswer:
        return await self.ask(MESH_STATUS, NoQuery())


def _passing(agents: Sequence[AgentRecord], filter: str) -> Sequence[AgentRecord]:
    now = time.time()
    words = AGENTS.parse(filter, now)
    return [agent for agent in agents if passes(words, agent, now)]

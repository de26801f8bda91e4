"""The SDK: submit commands to the mesh, wait for them, read their output.

    async with MeshClient.connect("ops.toml") as mesh:
        record = await mesh.run(["uname", "-a"], group="web")
        print(record.state, record.output.stdout)

All methods raise `schemas.faults.MeshError`: `code` names the fault, `retry` says whether a retry
can help, `effect` whether the request may have had its effect nevertheless.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from broker_client.asking import ANSWER_S, Asker
from broker_client.context import Context, load_context
from broker_client.fanouts import Fanouts
from broker_client.notices import Notices
from broker_client.output import Output, OutputPart
from broker_client.results import Reader, Results, Waiter
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.logs import keep_out_of_the_way
from broker_client.runtime.supervise import TaskSet
from broker_client.self_renewal import SelfRenewal
from schemas import codec
from schemas.faults import Expired, Misused, Refused
from schemas.ids import check_command_id
from schemas.listed import AGENTS, passes
from schemas.messages.actions import ActionArgs, ProcessArgs, action_of
from schemas.messages.api import (
    AgentList,
    AgentPing,
    AgentRecord,
    ClientList,
    ClientRecord,
    CommandList,
    CommandPage,
    CommandQuery,
    DecideRequest,
    EventList,
    EventRecord,
    GroupList,
    GroupRecord,
    Loss,
    NoQuery,
    OnInactive,
    OnLost,
    PingAnswer,
    RetryRequest,
    StatusAnswer,
    SubmitAnswer,
    SubmitRequest,
)
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL
from schemas.subjects import inbox_prefix
from schemas.verbs import (
    AGENT_LIST,
    AGENT_PING,
    CLIENT_LIST,
    COMMAND_CANCEL,
    COMMAND_DECIDE,
    COMMAND_LIST,
    COMMAND_RETRY,
    COMMAND_SHOW,
    COMMAND_SUBMIT,
    COMMAND_WAIT,
    DEADLETTER_LIST,
    DEADLETTER_RETRY,
    EVENTS_LIST,
    GROUP_LIST,
    MESH_STATUS,
    AnyVerb,
    Verb,
)

__all__ = ["MeshClient", "Output", "OutputPart", "SubmitFields", "Work"]

# Seconds of retries of a submission, with the same id.
SUBMIT_S: Final = 30.0
# Seconds that the master holds a `command.wait` before it answers "not yet"; it allows 60.
WAIT_HOLD_S: Final = 30.0
# Seconds that the master holds a request of a reader of events; it does not answer these at its
# end, so that a reader takes so much longer to notice.
EVENTS_HOLD_S: Final = 5.0
# Greatest page of commands that the master gives.
PAGE: Final = 500
RESULTS_UNREAD: Final = 10_000
# Each reader of output has one request in flight; the broker allows a client more than this.
READERS: Final = 512

M = TypeVar("M")
Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)
Work = ActionArgs | Sequence[str]


class SubmitFields(TypedDict, total=False):
    """Target and terms of a command. Exactly one of `group` and `agent`.

    id: for deduplication; the same id and body again is the same command. queue_ttl_s: longest
    wait for an agent. deadline: unix time after which the master refuses it. loss: policy of its
    agent while the master is silent: `kill`, `hold` (for `hold_s` seconds) or `continue`. on_lost:
    after the loss of its attempt `error`, `rerun` (for idempotent commands) or `wait` for a
    decision (`MeshClient.decide`). with_output: small output comes with the result. on_inactive:
    `queue`, or `refuse` while no agent of the target is active. priority: 0 to 4, a greater one
    goes first. tags: required of an agent of the group.
    """

    id: str | None
    group: str | None
    agent: str | None
    queue_ttl_s: float | None
    deadline: float | None
    loss: Loss
    hold_s: float | None
    on_lost: OnLost
    labels: dict[str, str]
    with_output: bool
    on_inactive: OnInactive
    priority: int
    tags: dict[str, str]


class MeshClient:
    """One client of the mesh on one connection. Belongs to the loop that it was connected in.

    notices: of a broker or master that does not answer; without `say` there are none.

    Any number of calls may be in flight at once; all results share one subscription. The client
    reconnects by itself, and then requests the results that it missed.
    """

    def __init__(self, link: Link, *, name: str, role: str, answer_s: float = ANSWER_S) -> None:
        """Use a connected link. `connect` is the usual way to a client."""
        self._link = link
        self._asker = Asker(link, name, role, answer_s=answer_s)
        self.notices = Notices(link, self._asker)
        self._results = Results(self._asker)
        self.fanouts = Fanouts(self._asker)
        self._tasks = TaskSet(f"mesh client {name}", limit=READERS)
        self._renewal: SelfRenewal | None = None
        # Ids must be unique, not secret: one random part per client, then a count.
        self._id_prefix = secrets.token_hex(8)
        self._submitted = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        context: Context | Path | str | None = None,
        *,
        timeout_s: float = ANSWER_S,
        say: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Self]:
        """Connect a client for the length of an `async with`.

        context: a `Context` of `load_context`, a file, a name, or None for `MESH_CONTEXT` or the
        default. timeout_s: of connecting, and of each answer of the master. say: gets a line
        when broker or master have not answered for some seconds, and when they answer again; see
        `notices`. Raises `context_invalid`, `state_unreadable` or another fault of the files
        before anything is sent, `credentials_rejected`, or `broker_unreachable` after `timeout_s`.
        """
        keep_out_of_the_way()
        if not isinstance(context, Context):
            context = load_context(context, os.environ)
        identity = _identity_of(context)
        # Unreadable files raise their own fault here, before the broker counts as unreachable.
        first = [identity()]
        link = Link(
            context.urls,
            lambda: first.pop() if first else identity(),
            f"client {context.name}",
            inbox_prefix(context.name),
        )
        try:
            client = cls(link, name=context.name, role=context.role, answer_s=timeout_s)
            client._renewal = SelfRenewal(context, link, client._asker)
            client.notices.say = say
            async with client.notices.told():
                link.start()
                await client.notices.connecting(timeout_s)
                # No flush: requests follow the subscriptions on the same connection.
                async with client.running():
                    yield client
        finally:
            # Each request has been answered or given up: nothing waits to be sent.
            await link.close(0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Receive all results for the length of the block; `connect` does this itself."""
        catch_up = self._tasks.spawn(self._results.catch_up())
        renewal = None if self._renewal is None else self._tasks.spawn(self._renewal.run())
        try:
            yield self
            if self._renewal is not None:
                await self._renewal.wait_idle()
        finally:
            catch_up.cancel()
            if renewal is not None:
                renewal.cancel()
            await self._tasks.aclose(0)

    @property
    def name(self) -> str:
        return self._asker.name

    @property
    def link(self) -> Link:
        """The connection: its state, counters and listeners."""
        return self._link

    async def renew(self) -> str:
        """Renew this client's own credentials now; returns the end of the new ones (RFC 3339).

        They are also renewed automatically after two thirds of their life. The files of the
        context are replaced, and the connection is handed over without a gap. Raises the fault
        that prevented it; nothing has changed then.
        """
        if self._renewal is None:
            raise Misused("context_invalid", "a client that was made without a context")
        return await self._renewal.renew(now=True)

    # commands

    async def submit(
        self, work: Work, *, timeout_s: float = SUBMIT_S, **fields: Unpack[SubmitFields]
    ) -> SubmitAnswer:
        """Submit a command that runs `work`. The command is durable when this returns.

        work: an argument list, which runs a program without a shell, or the arguments of an
        action. Without an answer it is retried with the same id (idempotent) for up to `timeout_s`
        seconds. Raises the master's refusal, in which case nothing was stored; or Unreachable, in
        which case it may have been accepted: `show` its id.
        """
        is_own_id = not fields.get("id")
        return await self._submit(self._request(work, fields), timeout_s, is_own_id=is_own_id)

    async def run(
        self, work: Work, *, timeout_s: float | None = None, **fields: Unpack[SubmitFields]
    ) -> CommandRecord:
        """Submit `work` and return its record after its end, whatever the result.

        Small output is in `record.output`; for larger output use `logs`. timeout_s: of this wait,
        None for no limit; it does not end the command. Raises as `submit`, or Expired
        (`wait_timeout`); the command continues then.
        """
        is_own_id = not fields.get("id")
        fields.setdefault("with_output", True)
        request = self._request(work, fields)
        waiter = self._results.expect(_id_of(request))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._submit(request, SUBMIT_S, is_own_id=is_own_id)
                if answer.duplicate:
                    await self._results.look_up(answer.id)
                return await waiter.record()
        except TimeoutError as error:
            raise _not_yet(_id_of(request), timeout_s) from error
        finally:
            self._results.forget(waiter)

    @contextlib.asynccontextmanager
    async def start(
        self, work: Work, **fields: Unpack[SubmitFields]
    ) -> AsyncIterator[tuple[SubmitAnswer, Waiter]]:
        """As `submit`, together with a waiter for the end: for callers with other work meanwhile.

        `await waiter.record()` gives the record; one task at a time may await it.
        """
        is_own_id = not fields.get("id")
        request = self._request(work, fields)
        waiter = self._results.expect(_id_of(request))
        try:
            answer = await self._submit(request, SUBMIT_S, is_own_id=is_own_id)
            if answer.duplicate:
                await self._results.look_up(answer.id)
            yield answer, waiter
        finally:
            self._results.forget(waiter)

    async def wait(
        self, id: str, *, timeout_s: float | None = None, with_output: bool = False
    ) -> CommandRecord:
        """Wait for the end of command `id` of any client, and return its record.

        timeout_s: None for no limit. Raises `command_unknown`; Expired (`wait_timeout`), the
        command continues then; or Unreachable after a minute without an answer.
        """
        query = CommandQuery(
            id=check_command_id(id), with_output=with_output, timeout_s=WAIT_HOLD_S
        )
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    record = await self._wait_once(query)
                    if record is not None:
                        return record
        except TimeoutError as error:
            raise _not_yet(id, timeout_s) from error

    async def show(self, id: str, *, with_output: bool = False) -> CommandRecord:
        """Return the present record of command `id`; `with_output` adds small output."""
        query = CommandQuery(id=check_command_id(id), with_output=with_output)
        return await self.ask(COMMAND_SHOW, query)

    async def list(self, query: CommandList | None = None) -> CommandPage:
        """Return a page of commands, newest first; `page.cursor` is the cursor of the next one.

        `query.filter`: words such as `state:failed,lost label:deploy=42 program:apt* since:1d`.
        Raises `filter_invalid`, or `filter_unsupported` if the master is too old for filters.
        """
        query = query or CommandList()
        page = await self.ask(COMMAND_LIST, query)
        _check_filtered(query.filter, page.filter)
        return page

    async def find(self, filter: str, *, limit: int = 1000) -> "Sequence[CommandRecord]":
        """Return the first `limit` commands that match all words of `filter`, as with `list`."""
        found: dict[str, CommandRecord] = {}
        query = CommandList(filter=filter, limit=min(limit, PAGE))
        while True:
            page = await self.list(query)
            for record in page.commands:
                # A command that ends between two pages may come twice.
                found.setdefault(record.id, record)
            if page.cursor is None or len(found) >= limit:
                return [*found.values()][:limit]
            query = msgspec.structs.replace(query, cursor=page.cursor)

    async def cancel(self, id: str) -> CommandRecord:
        """Request the end of command `id`; `wait` returns once it has ended.

        Raises `command_unknown`, or `command_ended` if it has ended already.
        """
        query = CommandQuery(id=check_command_id(id))
        return await self.ask(COMMAND_CANCEL, query)

    async def retry(self, id: str, *, new_id: str | None = None) -> SubmitAnswer:
        """Submit the ended command `id` again: the same body, an id of its own.

        The new command belongs to this client and has the label `retry-of`. Without an answer the
        request is retried with the same new id (idempotent). Raises `command_unknown`,
        `command_open`, `body_not_kept`, `id_conflict`, or a fault of `submit`.
        """
        chosen = check_command_id(new_id or secrets.token_hex(12))
        request = RetryRequest(id=check_command_id(id), new_id=chosen)
        answer = await self._asker.ask_until_answered(COMMAND_RETRY, request)
        # As with `submit`: an id of our own was not known before our first try.
        return answer if new_id else msgspec.structs.replace(answer, duplicate=False)

    async def decide(self, id: str, decision: Literal["fail", "rerun"]) -> CommandRecord:
        """Decide about command `id`, which waits since the loss of its attempt.

        `fail` ends it as lost, `rerun` queues it for a new attempt. Raises `command_unknown`, or
        `not_undecided` if it does not wait for a decision.
        """
        request = DecideRequest(id=check_command_id(id), decision=decision)
        return await self.ask(COMMAND_DECIDE, request)

    async def dead_letters(self, query: CommandList | None = None) -> CommandPage:
        """Return a page of commands that no agent has acknowledged, as with `list`."""
        return await self.ask(DEADLETTER_LIST, query or CommandList())

    async def retry_dead_letter(self, id: str, *, new_id: str | None = None) -> SubmitAnswer:
        """Submit a dead letter again, as a command of this client with an id of its own.

        Without an answer the request is retried with the same new id (idempotent). Raises
        `command_unknown` if there is no such dead letter, or `id_conflict`.
        """
        chosen = check_command_id(new_id or secrets.token_hex(12))
        request = RetryRequest(id=check_command_id(id), new_id=chosen)
        answer = await self._asker.ask_until_answered(DEADLETTER_RETRY, request)
        # As with `submit`: an id of our own was not known before our first try.
        return answer if new_id else msgspec.structs.replace(answer, duplicate=False)

    def logs(
        self, id: str, *, attempt: int | None = None, follow: bool = False, times: bool = False
    ) -> Output:
        """Return the output of command `id` from its first byte on, to be read with `async for`.

        attempt: its number; None: the newest, and with `follow` the later ones as well. follow:
        continue until the command has ended, across reconnects. Raises `command_unknown`,
        `attempt_unknown`, or Unreachable after a minute without an answer. times: parts have the
        times at which they were printed, unless the master is of 0.1.0. Call `aclose` when reading
        ends early.
        """
        return Output(
            self._asker,
            self._tasks,
            check_command_id(id),
            attempt=attempt,
            follow=follow,
            times=times,
        )

    @contextlib.contextmanager
    def results(self, *, unread: int = RESULTS_UNREAD) -> Iterator[Reader]:
        """Receive each result of this client's commands during the block, for `async for`.

        At most `unread` results are kept; the oldest are dropped and counted in `missed`. Results
        that are sent while the link is disconnected are not received: see `run`.
        """
        reader = self._results.open_reader(unread)
        try:
            yield reader
        finally:
            self._results.close_reader(reader)

    # the mesh

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

    @overload
    async def ask(self, noun: Verb[Q, A], verb: Q) -> A: ...

    @overload
    async def ask(self, noun: str, verb: str, request: msgspec.Struct, kind: type[M]) -> M: ...

    async def ask(
        self,
        noun: AnyVerb | str,
        verb: msgspec.Struct | str,
        request: msgspec.Struct | None = None,
        kind: type[object] = object,
    ) -> object:
        """Call any verb of docs/protocol.md: `ask(AGENT_SHOW, NameQuery(name="web-1"))`.

        The verbs are in `schemas.verbs`, each with the types of its request and its answer. A verb
        of a newer mesh is called by its names, `ask("agent", "show", request, kind)`. There is no
        retry: after Unreachable with effect `unknown`, check the state before calling again.
        """
        if isinstance(noun, AnyVerb) and isinstance(verb, msgspec.Struct):
            return await self._asker.ask_named(noun.noun, noun.verb, verb, noun.answer)
        if isinstance(noun, str) and isinstance(verb, str) and request is not None:
            return await self._asker.ask_named(noun, verb, request, kind)
        raise TypeError("ask(VERB, request) or ask(noun, verb, request, kind)")

    async def ask_until_answered(self, verb: Verb[Q, A], request: Q) -> A:
        """As `ask`, for reads and other idempotent requests: retried without an answer.

        Raises Unreachable after a minute without an answer.
        """
        return await self._asker.ask_until_answered(verb, request)

    # below

    def _request(self, work: Work, fields: SubmitFields) -> SubmitRequest:
        if not fields.get("id"):
            self._submitted += 1
            fields["id"] = f"{self._id_prefix}-{self._submitted}"
        args = _arguments_of(work)
        raw = msgspec.Raw(codec.encode_request(args))
        return SubmitRequest(action=action_of(args).name, args=raw, **fields)

    async def _submit(
        self, request: SubmitRequest, timeout_s: float, *, is_own_id: bool
    ) -> SubmitAnswer:
        answer = await self._asker.ask_for(timeout_s, COMMAND_SUBMIT, request)
        # The id is new, so a duplicate is an earlier try of this very submission.
        if is_own_id and answer.duplicate:
            return msgspec.structs.replace(answer, duplicate=False)
        return answer

    async def _wait_once(self, query: CommandQuery) -> CommandRecord | None:
        """Return the record once it is terminal; None after the master's timeout."""
        try:
            record = await self._asker.ask_until_answered(
                COMMAND_WAIT, query, wait_s=query.timeout_s
            )
        except Expired as error:
            if error.code == "wait_timeout":
                return None
            raise
        return record if record.state in TERMINAL else None


def _arguments_of(work: Work) -> ActionArgs:
    if isinstance(work, ActionArgs):
        return work
    if isinstance(work, str):
        raise Misused("field_invalid", "a list of arguments is needed, not one text: no shell runs")
    return ProcessArgs(argv=[*work])


def _id_of(request: SubmitRequest) -> str:
    if request.id is None:
        raise Misused("id_invalid", "a submission without an id")
    return check_command_id(request.id)


def _passing(agents: Sequence[AgentRecord], filter: str) -> Sequence[AgentRecord]:
    now = time.time()
    words = AGENTS.parse(filter, now)
    return [agent for agent in agents if passes(words, agent, now)]


def _check_filtered(wanted: str, obeyed: str) -> None:
    """Refuse an answer to which the master has not applied the filter."""
    if wanted != obeyed:
        raise Refused("filter_unsupported", "the master has not filtered what it answered")


def _not_yet(command: str, timeout_s: float | None) -> Expired:
    return Expired("wait_timeout", f"command {command} has not ended within {timeout_s or 0:g} s")


def _identity_of(context: Context) -> Callable[[], LinkIdentity]:
    """Return a function that reads the files of a context, so that renewed ones are picked up."""
    files = ContextFiles(context)

    def read() -> LinkIdentity:
        identity = files.identity()
        return LinkIdentity(tls=identity.context, jwt=identity.creds.jwt, seed=identity.creds.seed)

    return read

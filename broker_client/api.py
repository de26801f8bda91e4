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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack, cast

import msgspec

from broker_client.acts import Act, Work, encoded
from broker_client.asking import ANSWER_S, Asker
from broker_client.commands import CommandCalls, not_yet
from broker_client.connections import Connection, Doors
from broker_client.context import Context, load_context
from broker_client.fanouts import Fanouts
from broker_client.fleet import FleetCalls
from broker_client.notices import Notices
from broker_client.output import Output, OutputPart
from broker_client.results import Reader, Results, Waiter
from broker_client.runtime.context_files import ContextFiles
from broker_client.runtime.link import Link, LinkIdentity
from broker_client.runtime.logs import keep_out_of_the_way
from broker_client.runtime.supervise import TaskSet
from broker_client.self_renewal import SelfRenewal
from schemas.faults import Misused
from schemas.ids import check_command_id
from schemas.messages.actions import ProcessArgs
from schemas.messages.api import Loss, OnInactive, OnLost, SubmitAnswer, SubmitRequest
from schemas.messages.facts import CommandRecord
from schemas.subjects import inbox_prefix
from schemas.verbs import COMMAND_SUBMIT

__all__ = ["Act", "MeshClient", "Output", "OutputPart", "Stdin", "SubmitFields", "Work"]

# Seconds of retries of a submission, with the same id.
SUBMIT_S: Final = 30.0
RESULTS_UNREAD: Final = 10_000
# Each reader of output has one request in flight; the broker allows a client more than this.
READERS: Final = 512

Stdin = bytes | Path | AsyncIterable[bytes]


class SubmitFields(TypedDict, total=False):
    """Target and terms of a command. Exactly one of `group`, `agent` and `connection`.

    id: for deduplication; the same id and body again is the same command. queue_ttl_s: longest
    wait for an agent. deadline: unix time after which the master refuses it. loss: policy of its
    agent while the master is silent: `kill`, `hold` (for `hold_s` seconds) or `continue`. on_lost:
    after the loss of its attempt `error`, `rerun` (for idempotent commands) or `wait` for a
    decision (`MeshClient.decide`). with_output: small output comes with the result. on_inactive:
    `queue`, or `refuse` while no agent of the target is active. priority: 0 to 4, a greater one
    goes first. tags: required of an agent of the group. call_timeout_s, output_bytes: limits of a
    command through a connection, not above the connection's own.
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
    on_inactive: OnInactive | None
    priority: int
    tags: dict[str, str]
    connection: str | None
    call_timeout_s: float | None
    output_bytes: int | None


class MeshClient(CommandCalls, FleetCalls):
    """One client of the mesh on one connection. Belongs to the loop that it was connected in.

    notices: of a broker or master that does not answer; without `say` there are none.

    Any number of calls may be in flight at once; all results share one subscription. The client
    reconnects by itself, and then requests the results that it missed.
    """

    def __init__(self, link: Link, *, name: str, role: str, answer_s: float = ANSWER_S) -> None:
        """Use a connected link. `connect` is the usual way to a client."""
        super().__init__(
            Asker(link, name, role, answer_s=answer_s),
            TaskSet(f"mesh client {name}", limit=READERS),
        )
        self._link = link
        self.notices = Notices(link, self._asker)
        self._results = Results(self._asker)
        self.fanouts = Fanouts(self._asker)
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
        self,
        work: Work,
        *,
        timeout_s: float = SUBMIT_S,
        stdin: Stdin | None = None,
        **fields: Unpack[SubmitFields],
    ) -> SubmitAnswer:
        """Submit a command that runs `work`. The command is durable when this returns.

        work: an argument list, which runs a program without a shell, or the arguments of an
        action. stdin: of the program: bytes, a file, or an async iterable of bytes, of any size up
        to the master's limit; a large one is stored at the master before. Without an answer it is
        retried with the same id (idempotent) for up to `timeout_s` seconds. Raises the master's
        refusal, in which case nothing was stored; or Unreachable, in which case it may have been
        accepted: `show` its id.
        """
        is_own_id = not fields.get("id")
        work = await self._with_stdin(work, stdin)
        return await self._submit(self._request(work, fields), timeout_s, is_own_id=is_own_id)

    async def run(
        self,
        work: Work,
        *,
        timeout_s: float | None = None,
        stdin: Stdin | None = None,
        **fields: Unpack[SubmitFields],
    ) -> CommandRecord:
        """Submit `work` and return its record after its end, whatever the result.

        Small output is in `record.output`; for larger output use `logs`. timeout_s: of this wait,
        None for no limit; it does not end the command. stdin: as in `submit`. Raises as `submit`,
        or Expired (`wait_timeout`); the command continues then.
        """
        is_own_id = not fields.get("id")
        fields.setdefault("with_output", True)
        work = await self._with_stdin(work, stdin)
        request = self._request(work, fields)
        waiter = self._results.expect(_id_of(request))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._submit(request, SUBMIT_S, is_own_id=is_own_id)
                if answer.duplicate:
                    await self._results.look_up(answer.id)
                return await waiter.record()
        except TimeoutError as error:
            raise not_yet(_id_of(request), timeout_s) from error
        finally:
            self._results.forget(waiter)

    @contextlib.asynccontextmanager
    async def start(
        self, work: Work, *, stdin: Stdin | None = None, **fields: Unpack[SubmitFields]
    ) -> AsyncIterator[tuple[SubmitAnswer, Waiter]]:
        """As `submit`, together with a waiter for the end: for callers with other work meanwhile.

        `await waiter.record()` gives the record; one task at a time may await it.
        """
        is_own_id = not fields.get("id")
        work = await self._with_stdin(work, stdin)
        request = self._request(work, fields)
        waiter = self._results.expect(_id_of(request))
        try:
            answer = await self._submit(request, SUBMIT_S, is_own_id=is_own_id)
            if answer.duplicate:
                await self._results.look_up(answer.id)
            yield answer, waiter
        finally:
            self._results.forget(waiter)

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

    def connection(self, name: str) -> Connection:
        """Return the connection `name`, for calls through it; nothing is requested yet."""
        return Connection(name, Doors(self.start, self.logs, self.cancel))

    # below

    def _request(self, work: Work, fields: SubmitFields) -> SubmitRequest:
        if not fields.get("id"):
            self._submitted += 1
            fields["id"] = f"{self._id_prefix}-{self._submitted}"
        action, args = encoded(work)
        limit_s = fields.get("call_timeout_s")
        named = {name: value for name, value in fields.items() if name != "call_timeout_s"}
        request = SubmitRequest(action=action, args=args, **cast("Any", named))
        return msgspec.structs.replace(request, timeout_s=limit_s)

    async def _submit(
        self, request: SubmitRequest, timeout_s: float, *, is_own_id: bool
    ) -> SubmitAnswer:
        answer = await self._asker.ask_for(timeout_s, COMMAND_SUBMIT, request)
        # The id is new, so a duplicate is an earlier try of this very submission.
        if is_own_id and answer.duplicate:
            return msgspec.structs.replace(answer, duplicate=False)
        return answer

    async def _with_stdin(self, work: Work, stdin: Stdin | None) -> Work:
        """Return `work` with its input, which is stored at the master if it is large."""
        if stdin is None:
            return work
        if isinstance(work, str | Act) or (
            isinstance(work, msgspec.Struct) and not isinstance(work, ProcessArgs)
        ):
            raise Misused("field_invalid", "stdin is for a program, as a list of its arguments")
        args = work if isinstance(work, ProcessArgs) else ProcessArgs(argv=[*work])
        # Imported on demand: few calls have an input.
        from broker_client.inputs import stage

        found = await stage(self._asker, stdin)
        if isinstance(found, bytes):
            return msgspec.structs.replace(args, stdin=found)
        return msgspec.structs.replace(args, input=found)


def _id_of(request: SubmitRequest) -> str:
    if request.id is None:
        raise Misused("id_invalid", "a submission without an id")
    return check_command_id(request.id)


def _identity_of(context: Context) -> Callable[[], LinkIdentity]:
    """Return a function that reads the files of a context, so that renewed ones are picked up."""
    files = ContextFiles(context)

    def read() -> LinkIdentity:
        identity = files.identity()
        return LinkIdentity(tls=identity.context, jwt=identity.creds.jwt, seed=identity.creds.seed)

    return read

"""Commands of the mesh, as a client reads, waits for, cancels and retries them."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from broker_client.calls import Calls
from broker_client.output import Output
from schemas.faults import Expired, Refused
from schemas.ids import check_command_id
from schemas.messages.api import (
    CommandList,
    CommandPage,
    CommandQuery,
    DecideRequest,
    RetryRequest,
    SubmitAnswer,
)
from schemas.messages.facts import CommandRecord
from schemas.states import TERMINAL
from schemas.verbs import (
    COMMAND_CANCEL,
    COMMAND_DECIDE,
    COMMAND_LIST,
    COMMAND_RETRY,
    COMMAND_SHOW,
    COMMAND_WAIT,
    DEADLETTER_LIST,
    DEADLETTER_RETRY,
)

# Seconds that the master holds a `command.wait` before it answers "not yet"; it allows 60.
WAIT_HOLD_S: Final = 30.0
# Greatest page of commands that the master gives.
PAGE: Final = 500


class CommandCalls(Calls):
    """Reads, ends and repeats commands, of this client and of others."""

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
            raise not_yet(id, timeout_s) from error

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
        check_filtered(query.filter, page.filter)
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


def check_filtered(wanted: str, obeyed: str) -> None:
    """Refuse an answer to which the master has not applied the filter."""
    if wanted != obeyed:
        raise Refused("filter_unsupported", "the master has not filtered what it answered")


def not_yet(command: str, timeout_s: float | None) -> Expired:
    return Expired("wait_timeout", f"command {command} has not ended within {timeout_s or 0:g} s")

"""Fan-outs of a client: one command for many agents."""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, Unpack

import msgspec

from broker_client.asking import Asker
from schemas import codec
from schemas.faults import Expired, MeshError, Refused
from schemas.ids import check_command_id
from schemas.messages.actions import ActionArgs
from schemas.messages.api import Loss, OnLost, SubmitRequest
from schemas.messages.fanouts import (
    FanoutList,
    FanoutMember,
    FanoutQuery,
    FanoutRecord,
    FanoutRetry,
    FanoutSubmit,
)
from schemas.verbs import (
    FANOUT_CANCEL,
    FANOUT_LIST,
    FANOUT_RETRY,
    FANOUT_SHOW,
    FANOUT_SUBMIT,
    FANOUT_WAIT,
)

# Seconds that the master may hold a request; it allows 60.
HOLD_S: Final = 30.0


class FanoutFields(TypedDict, total=False):
    """Terms of each command of a fan-out; see `SubmitFields`."""

    queue_ttl_s: float | None
    loss: Loss
    hold_s: float | None
    on_lost: OnLost
    labels: dict[str, str]
    with_output: bool
    priority: int


class Fanouts:
    """Requests of a client about fan-outs. The master runs them, also without the client."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    async def submit(  # noqa: PLR0913  (what a fan-out is made of)
        self,
        action: str,
        args: ActionArgs,
        *,
        id: str | None = None,
        group: str | None = None,
        agents: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        at_once: int = 0,
        max_failures: int | None = None,
        batch_sleep_s: float = 0.0,
        **fields: Unpack[FanoutFields],
    ) -> FanoutRecord:
        """Submit a fan-out that runs an action on each agent that matches all of the choices.

        The fan-out is durable when this returns, and continues without this client. at_once:
        concurrency limit in agents, 0 for all. max_failures: failures after which no further
        command is started. Agents that do not respond are skipped, or waited for `queue_ttl_s`.
        batch_sleep_s: with `at_once`, seconds for which the slot of an ended agent stays empty;
        masters of 0.1.0 lack it (`filter_unsupported`). Without an answer the request is retried
        with the same id (idempotent).
        """
        command = SubmitRequest(
            action=action, args=msgspec.Raw(codec.encode_request(args)), **fields
        )
        request = FanoutSubmit(
            id=check_command_id(id or secrets.token_hex(8)),
            group=group,
            agents=[*agents],
            tags=dict(tags or {}),
            command=command,
            at_once=at_once,
            max_failures=max_failures,
            batch_sleep_s=batch_sleep_s,
        )
        answer = await self._asker.ask_until_answered(FANOUT_SUBMIT, request)
        if answer.batch_sleep_s != batch_sleep_s:
            await self._end_unobeyed(request.id or "")
        return answer if id else msgspec.structs.replace(answer, duplicate=False)

    async def _end_unobeyed(self, id: str) -> None:
        """Cancel a fan-out whose `batch_sleep_s` a master of 0.1.0 has ignored, and raise that."""
        with contextlib.suppress(MeshError):
            await self.cancel(id)
        raise Refused("filter_unsupported", f"{id} is cancelled: the master knows no batch_sleep_s")

    async def show(self, id: str) -> FanoutRecord:
        """Return the present record of a fan-out, with all members."""
        query = FanoutQuery(id=check_command_id(id))
        members: list[FanoutMember] = []
        while True:
            page = await self._asker.ask_until_answered(FANOUT_SHOW, query)
            members += page.members
            if page.cursor is None:
                return msgspec.structs.replace(page, members=members)
            query = msgspec.structs.replace(query, cursor=page.cursor)

    async def wait(self, id: str, *, timeout_s: float | None = None) -> FanoutRecord:
        """As `show`, once it has ended. Raises Expired (`wait_timeout`) after `timeout_s`."""
        query = FanoutQuery(id=check_command_id(id), timeout_s=HOLD_S)
        try:
            async with asyncio.timeout(timeout_s):
                while (await self.look(query)).state == "running":
                    pass
        except TimeoutError as error:
            raise Expired("wait_timeout", f"fan-out {id} goes on") from error
        return await self.show(id)

    async def look(self, query: FanoutQuery) -> FanoutRecord:
        """Return its record without members, after its end or `query.timeout_s`."""
        return await self._asker.ask_until_answered(FANOUT_WAIT, query, wait_s=query.timeout_s)

    async def cancel(self, id: str) -> FanoutRecord:
        """Start no more commands, cancel open ones. Raises `fanout_unknown` or `command_ended`."""
        query = FanoutQuery(id=check_command_id(id))
        return await self._asker.ask(FANOUT_CANCEL, query)

    async def retry(
        self, id: str, *, failed: bool = False, silent: bool = False, new_id: str | None = None
    ) -> FanoutRecord:
        """Run the ended fan-out `id` again, as a new one with the same body.

        failed: on agents without success; silent: on agents that were skipped; neither: on all.
        Raises `fanout_unknown`, `command_open` or `nothing_to_retry`.
        """
        request = FanoutRetry(
            id=check_command_id(id),
            new_id=check_command_id(new_id or secrets.token_hex(8)),
            failed=failed,
            silent=silent,
        )
        answer = await self._asker.ask_until_answered(FANOUT_RETRY, request)
        return answer if new_id else msgspec.structs.replace(answer, duplicate=False)

    async def list(self, *, limit: int = 50) -> Sequence[FanoutRecord]:
        """Return the newest fan-outs, without members."""
        answer = await self._asker.ask(FANOUT_LIST, FanoutList(limit=limit))
        return answer.fanouts

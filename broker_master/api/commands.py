"""`command.*`: show, list, wait, cancel and logs; `submit` goes straight to the intake."""

import asyncio
import contextlib

import msgspec

from broker_master.api.operations import Operations, check_group, may_see
from broker_master.core.book import Command
from broker_master.core.records import command_record
from broker_master.plane import Plane
from broker_master.services.cancel import Canceller
from broker_master.services.output import OutputReader
from broker_master.store.readmodel import Filter
from schemas.faults import Refused
from schemas.messages.api import CommandList, CommandPage, CommandQuery, LogsAnswer, LogsRequest
from schemas.messages.facts import CommandRecord
from schemas.messages.registry import ClientEntry
from schemas.states import TERMINAL, State

_OPEN_STATES = frozenset(str(state) for state in State) - {str(state) for state in TERMINAL}


class CommandOperations:
    def __init__(self, plane: Plane, canceller: Canceller, output: OutputReader) -> None:
        self._plane = plane
        self._canceller = canceller
        self._output = output

    def register(self, operations: Operations) -> None:
        operations.add("command", "show", CommandQuery, self.show)
        operations.add("command", "list", CommandList, self.find)
        operations.add("command", "wait", CommandQuery, self.wait)
        operations.add("command", "cancel", CommandQuery, self.cancel)
        operations.add("command", "logs", LogsRequest, self.logs)

    async def show(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        command = self._plane.book.get(query.id)
        if command is not None:
            check_group(caller, command.accepted.group)
            return command_record(command, self._plane.timers, with_output=query.with_output)
        history = await self._plane.readmodel.get(query.id)
        if history is None:
            raise Refused("command_unknown", f"no command {query.id}")
        check_group(caller, history.record.group)
        if not query.with_output:
            return msgspec.structs.replace(history.record, output=None)
        return history.record

    async def wait(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        """The record once the state is terminal, or as it stands after `timeout_s`."""
        command = self._plane.book.get(query.id)
        if command is not None and not command.is_terminal:
            check_group(caller, command.accepted.group)
            await self._wait_ended(command, query.timeout_s)
        return await self.show(caller, query)

    async def _wait_ended(self, command: Command, timeout_s: float) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._plane.waiters.setdefault(command.id, [])
        waiters.append(ended)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended, timeout_s)
        if ended in waiters:
            waiters.remove(ended)

    async def cancel(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        command = self._plane.book.get(query.id)
        if command is None:
            record = await self.show(caller, query)
            raise Refused("command_ended", f"command {query.id} has {record.state}")
        check_group(caller, command.accepted.group)
        await self._canceller.cancel(command, caller.name)
        return command_record(command, self._plane.timers)

    async def logs(self, caller: ClientEntry, request: LogsRequest) -> LogsAnswer:
        query = CommandQuery(id=request.id, with_output=True)
        return await self._output.read(lambda: self.show(caller, query), request)

    async def find(self, caller: ClientEntry, wanted: CommandList) -> CommandPage:
        """Open commands first, the newest first; then ended ones, the last ended first.

        A cursor names the part and the last row of the page before.
        """
        if wanted.group is not None:
            check_group(caller, wanted.group)
        part, _, position = (wanted.cursor or "open:").partition(":")
        records: list[CommandRecord] = []
        if part == "open":
            rows = self._open(caller, wanted, position)
            records = [command_record(command, self._plane.timers) for command in rows]
            if len(records) == wanted.limit:
                return CommandPage(commands=records, cursor=f"open:{rows[-1].order}")
            position = ""
        elif part != "ended" or not position.isdigit():
            raise Refused("field_invalid", "cursor: not one of ours")
        if wanted.state in _OPEN_STATES:
            return CommandPage(commands=records, cursor=None)
        return await self._ended(caller, wanted, records, int(position) if position else None)

    def _open(self, caller: ClientEntry, wanted: CommandList, before: str) -> list[Command]:
        limit = int(before) if before.isdigit() else None
        rows = [
            command
            for command in self._plane.book
            if (limit is None or command.order < limit)
            and wanted.group in (None, command.accepted.group)
            and wanted.state in (None, str(command.state))
            and may_see(caller, command.accepted.group)
            and wanted.agent in (None, _agent(command))
        ]
        rows.sort(key=lambda command: command.order, reverse=True)
        return rows[: wanted.limit]

    async def _ended(
        self,
        caller: ClientEntry,
        wanted: CommandList,
        records: list[CommandRecord],
        before: int | None,
    ) -> CommandPage:
        room = wanted.limit - len(records)
        rows = await self._plane.readmodel.find(
            Filter(
                group=wanted.group,
                agent=wanted.agent,
                state=wanted.state,
                groups=tuple(caller.groups) or None,
                before=before,
                limit=room,
            )
        )
        seen = {record.id for record in records}
        records += [
            msgspec.structs.replace(history.record, output=None)
            for _, history in rows
            if history.record.id not in seen
        ]
        cursor = f"ended:{rows[-1][0]}" if len(rows) == room and rows else None
        return CommandPage(commands=records, cursor=cursor)


def _agent(command: Command) -> str:
    attempt = command.attempt
    return attempt.agent if attempt is not None else command.accepted.agent

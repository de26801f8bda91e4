"""`command.*`: show, list, wait, cancel and logs; `submit` belongs to the intake."""

import asyncio
import contextlib
import re
from functools import partial

import msgspec

from broker_master.api.operations import Operations
from broker_master.core.commands import Command
from broker_master.core.facets import COSTLY, open_value
from broker_master.core.fit import fit_record
from broker_master.core.pages import Rows
from broker_master.core.phases import Phase
from broker_master.core.records import command_record, shown_record
from broker_master.core.rights import check_group, may_see
from broker_master.plane import Plane
from broker_master.services.cancel import Canceller
from broker_master.services.obstacles import Obstacles
from broker_master.services.output import OutputReader
from broker_master.services.permits import check_run, group_now
from broker_master.store.readmodel import Filter
from schemas import codec, limits
from schemas.faults import Refused
from schemas.filters import Word, holds
from schemas.listed import COMMANDS
from schemas.messages.api import (
    CommandList,
    CommandPage,
    CommandQuery,
    DecideRequest,
    LogsAnswer,
    LogsRequest,
)
from schemas.messages.facts import CommandRecord
from schemas.messages.registry import ClientEntry
from schemas.states import TERMINAL, State
from schemas.verbs import (
    COMMAND_CANCEL,
    COMMAND_DECIDE,
    COMMAND_LIST,
    COMMAND_LOGS,
    COMMAND_SHOW,
    COMMAND_WAIT,
)

# Sequences covered by one read of a search, and seconds that a request searches.
_WINDOW = 20_000
_SEARCH_S = 0.25
# Open commands matched against a filter before the loop serves others.
_SLICE = 1000
# Rows read from the read model at a time: each may be as large as a record can be.
_READ_ROWS = 50
_POSITION = re.compile("[0-9]{1,18}")
_OPEN_STATES = frozenset(str(state) for state in State) - {str(state) for state in TERMINAL}


class _Row(msgspec.Struct, frozen=True):
    """A record of a list, and the cursor of a page that ends with it."""

    cursor: str
    record: CommandRecord


class CommandOperations:
    def __init__(self, plane: Plane, canceller: Canceller, output: OutputReader) -> None:
        self._plane = plane
        self._canceller = canceller
        self._output = output

    def register(self, operations: Operations) -> None:
        operations.add(COMMAND_SHOW, self.show)
        operations.add(COMMAND_LIST, self.find)
        operations.add(COMMAND_WAIT, self.wait)
        operations.add(COMMAND_CANCEL, self.cancel)
        operations.add(COMMAND_LOGS, self.logs)
        operations.add(COMMAND_DECIDE, self.decide)

    async def show(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        command = self._plane.book.get(query.id)
        if command is not None:
            check_group(caller, command.accepted.group)
            record = command_record(
                command,
                self._plane.timers,
                with_output=query.with_output,
                with_arguments=True,
                waits_for=Obstacles(self._plane).waits_for,
            )
            if command.state is State.UNKNOWN:
                record.last_output_at = await self._output.last_at(record)
            return record
        history = await self._plane.readmodel.get(query.id)
        if history is None:
            if query.id in self._plane.fanouts.ids:
                raise Refused("command_unknown", f"{query.id} is a fan-out: see mesh fanout show")
            raise Refused("command_unknown", f"no command {query.id}")
        check_group(caller, history.record.group)
        record = shown_record(history, with_arguments=True)
        if query.with_output:
            record.output = history.record.output
        return fit_record(record)

    async def wait(self, caller: ClientEntry, query: CommandQuery) -> CommandRecord:
        """Return the record once its state is terminal, or as it is after `timeout_s`."""
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

    async def decide(self, caller: ClientEntry, request: DecideRequest) -> CommandRecord:
        """Carry out an operator's decision on a command with a lost attempt."""
        command = self._plane.book.get(request.id)
        if command is None or command.phase is not Phase.UNDECIDED:
            record = await self.show(caller, CommandQuery(id=request.id))
            raise Refused("not_undecided", f"command {request.id} is {record.state}")
        check_group(caller, command.accepted.group)
        if request.decision == "rerun":
            check_group(caller, group_now(self._plane, command.accepted))
            check_run(self._plane, command.accepted)
        await self._canceller.decide(command, request.decision, caller.name)
        return command_record(command, self._plane.timers)

    async def logs(self, caller: ClientEntry, request: LogsRequest) -> LogsAnswer:
        query = CommandQuery(id=request.id, with_output=True)
        return await self._output.read(lambda: self.show(caller, query), request)

    async def find(self, caller: ClientEntry, wanted: CommandList) -> CommandPage:
        """List open commands, the newest first; then ended ones, the last ended first.

        A cursor names the part and the last row of the page before. A page holds at most `limit`
        records, as many as fit into one message; with a filter, the matches found in a bounded
        time.
        """
        if wanted.group is not None:
            check_group(caller, wanted.group)
        words = self._words(wanted)
        part, _, position = (wanted.cursor or "open:").partition(":")
        if part not in ("open", "ended") or not (
            wanted.cursor is None or _POSITION.fullmatch(position)
        ):
            raise Refused("field_invalid", "cursor: not one of ours")
        rows: list[_Row] = []
        if part == "open":
            rows = await self._open(caller, wanted, words, int(position) if position else None)
            position = ""
        rest = ""
        if len(rows) <= wanted.limit and wanted.state not in _OPEN_STATES:
            seen = {row.record.id for row in rows}
            ended, rest = await self._ended(
                caller, wanted, words, int(position) if position else None
            )
            rows += [row for row in ended if row.record.id not in seen]
        page = _page(rows, wanted.limit)
        cursor = page.cursor or rest or None
        return msgspec.structs.replace(page, cursor=cursor, filter=wanted.filter)

    def _words(self, wanted: CommandList) -> tuple[Word, ...]:
        words = COMMANDS.parse(wanted.filter, self._plane.clock.now())
        # Filters that decode arguments come last: the others leave fewer commands to decode.
        return tuple(sorted(words, key=lambda word: word.field in COSTLY))

    async def _open(
        self,
        caller: ClientEntry,
        wanted: CommandList,
        words: tuple[Word, ...],
        before: int | None,
    ) -> list[_Row]:
        found = [
            command
            for command in self._plane.book
            if (before is None or command.order < before)
            and wanted.group in (None, command.accepted.group)
            and wanted.state in (None, str(command.state))
            and may_see(caller, command.accepted.group)
            and wanted.agent in (None, _agent(command))
        ]
        found.sort(key=lambda command: command.order, reverse=True)
        if words:
            found = await self._filtered(found, words, wanted.limit + 1)
        obstacles, timers = Obstacles(self._plane), self._plane.timers
        return [
            _Row(
                f"open:{command.order}",
                command_record(command, timers, waits_for=obstacles.waits_for),
            )
            for command in found[: wanted.limit + 1]
        ]

    async def _filtered(
        self, commands: list[Command], words: tuple[Word, ...], most: int
    ) -> list[Command]:
        """At most `most` commands that match all words; yields to the loop between two slices."""
        found: list[Command] = []
        for index, command in enumerate(commands):
            if index and index % _SLICE == 0:
                await asyncio.sleep(0)
            if holds(words, partial(open_value, command)):
                found.append(command)
                if len(found) == most:
                    break
        return found

    async def _ended(
        self,
        caller: ClientEntry,
        wanted: CommandList,
        words: tuple[Word, ...],
        before: int | None,
    ) -> tuple[list[_Row], str]:
        """Matching ended commands: more than fit into a page, where there are more.

        Large records are not read all at once. Also returns the cursor from where the search goes
        on, if a filter took too long.
        """
        rows: list[_Row] = []
        size_bytes, position = 0, before
        above = self._floor(position) if words else 0
        began_s = self._plane.clock.elapsed()
        while len(rows) <= wanted.limit and size_bytes <= limits.PAGE_BYTES:
            part = Filter(
                group=wanted.group,
                agent=wanted.agent,
                state=wanted.state,
                groups=tuple(caller.groups) or None,
                before=position,
                above=above,
                words=words,
                limit=min(_READ_ROWS, wanted.limit + 1 - len(rows)),
            )
            found = await self._plane.readmodel.find(part)
            for position, history in found:
                record = fit_record(shown_record(history))
                size_bytes += len(codec.encode(record))
                rows.append(_Row(f"ended:{position}", record))
            if len(found) == part.limit:
                continue
            if not above:
                break
            if self._plane.clock.elapsed() - began_s > _SEARCH_S:
                return rows, f"ended:{above + 1}"
            position, above = above + 1, self._floor(above + 1)
        return rows, ""

    def _floor(self, before: int | None) -> int:
        """Lowest sequence covered by one read of a search."""
        newest = self._plane.readmodel.position + 1 if before is None else before
        return max(0, newest - 1 - _WINDOW)


def _page(rows: list[_Row], limit: int) -> CommandPage:
    """A page of as many rows as fit; with a cursor where rows remain."""
    page = Rows[CommandRecord](limit)
    for row in rows:
        if not page.add(row.record):
            return CommandPage(commands=page.taken, cursor=rows[len(page.taken) - 1].cursor)
    return CommandPage(commands=page.taken, cursor=None)


def _agent(command: Command) -> str:
    attempt = command.attempt
    return attempt.agent if attempt is not None else command.accepted.agent

"""Staged inputs of commands: taken in parts from clients, and handed to agents part by part.

client ─▶ command.input ─▶ store ─▶ command.submit refers to it ─▶ agent asks for each part
                             └─ purged once the command has ended, or after `retention.input_s`
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from broker_client.runtime.streams import Streams
from broker_master.core.inputs import InputTable
from broker_master.plane import Plane
from broker_master.store.facts import INPUT
from schemas import codec, subjects
from schemas.faults import MeshError, Refused
from schemas.messages.actions import StagedInput
from schemas.messages.api.commands import InputAnswer, InputPart
from schemas.messages.facts import Accepted
from schemas.messages.registry import ClientEntry
from schemas.messages.work import InputReply, InputRequest

log = structlog.get_logger()

# Requests of agents that wait; more are dropped, and sent again by the agents.
_WAITING: Final = 1024
_WORKERS: Final = 8
# Ended commands whose input waits for its removal; the rest goes by age.
_ENDED: Final = 10_000
# Refused inputs that are remembered while parts of them may be under way.
_REFUSED: Final = 1024
# Seconds without a part, after which an input without a command is removed; interval of looks.
_IDLE_S: Final = 3600.0
_LOOK_S: Final = 60.0


class Inputs:
    """Stores parts, and answers requests of agents for them."""

    name = "inputs"

    def __init__(self, plane: Plane, streams: Streams) -> None:
        settings = plane.settings
        self._plane = plane
        self._streams = streams
        self._wanted: asyncio.Queue[tuple[subjects.Up, InputRequest]] = asyncio.Queue(_WAITING)
        self._ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_ENDED)
        self._refused: dict[tuple[str, str], None] = {}
        self.table = InputTable(
            total_bytes=settings.limits.input_bytes,
            most_bytes=settings.limits.input_bytes_per_command,
            kept_s=settings.retention.input_s,
        )

    async def run(self, ready: asyncio.Event) -> None:
        await self._load()
        ready.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._remove_ended())
            group.create_task(self._drop_abandoned())
            for _ in range(_WORKERS):
                group.create_task(self._answer_all())

    async def _load(self) -> None:
        """Note what is stored since an earlier start, and which of it open commands have."""
        for command in self._plane.book:
            self.claim(command.accepted)
        now_s = self._plane.clock.elapsed()
        stored = await self._streams.insist(
            lambda: self._streams.subjects(INPUT, subjects.INPUT_ALL)
        )
        for subject in stored:
            client, name, part = subject.split(".")[-3:]
            self.table.note((client, name), int(part), now_s=now_s)

    # -- clients

    async def take(self, caller: ClientEntry, request: InputPart) -> InputAnswer:
        """Store one part; it is durable when this returns."""
        key, size = (caller.name, request.input), len(request.data)
        try:
            self.table.check_room(key, request.part, size, now_s=self._plane.clock.elapsed())
        except Refused:
            self._refuse(key)
            raise
        subject = subjects.input_part(caller.name, request.input, request.part)
        await self._streams.store(subject, request.data)
        parts = self.table.note(key, request.part, now_s=self._plane.clock.elapsed())
        if key in self._refused:  # while this part was being stored
            self.drop(*key)
        return InputAnswer(input=request.input, parts=parts)

    def _refuse(self, key: tuple[str, str]) -> None:
        """Remove an input that will never be whole, with the parts of it that are under way."""
        self._refused[key] = None
        while len(self._refused) > _REFUSED:
            del self._refused[next(iter(self._refused))]
        self.drop(*key)

    def check(self, client: str, staged: StagedInput) -> None:
        """Raise Refused (`input_missing`) unless it is whole, and no open command has it."""
        if self.table.is_claimed((client, staged.id)):
            raise Refused("input_missing", f"input {staged.id} belongs to another command")
        self.table.check_whole(client, staged)

    def claim(self, accepted: Accepted) -> None:
        """Keep the input of a command until it has ended."""
        if accepted.input:
            self.table.claim((accepted.client, accepted.input))

    def release(self, accepted: Accepted) -> None:
        """Remove the input of a command that has ended, or could not be stored."""
        if accepted.input:
            self.table.release((accepted.client, accepted.input))
            self.drop(accepted.client, accepted.input)

    def drop(self, client: str, name: str) -> None:
        """Remove an input, unless an open command has it."""
        key = (client, name)
        if self.table.is_claimed(key) or not self.table.drop(key):
            return
        if not self._ended.full():
            self._ended.put_nowait(key)

    async def _drop_abandoned(self) -> None:
        """Remove inputs whose client has gone in mid-upload, or has never submitted a command."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for key in self.table.idle(self._plane.clock.elapsed(), _IDLE_S):
                self.drop(*key)

    async def _remove_ended(self) -> None:
        while True:
            client, name = await self._ended.get()
            purge = partial(self._streams.purge, INPUT, subjects.input_part(client, name, "*"))
            try:
                await self._streams.insist(purge)
            except MeshError as error:  # it goes by age
                log.warning("input_not_removed", client=client, input=name, error=str(error))

    # -- agents

    def on_wanted(self, up: subjects.Up, payload: bytes) -> None:
        """Queue the request of an agent. Raises Refused for one about an attempt of another."""
        request = codec.decode(InputRequest, payload)
        command = self._plane.book.get(request.command)
        attempt = command.attempt if command is not None else None
        if attempt is None or (attempt.agent, attempt.number) != (up.agent, request.attempt):
            raise Refused("attempt_stale", f"input of {request.command} for {up.agent}")
        if self._wanted.full():
            self._plane.count("shed", "rate")
            return
        self._wanted.put_nowait((up, request))

    async def _answer_all(self) -> None:
        while True:
            up, request = await self._wanted.get()
            command = self._plane.book.get(request.command)
            if command is None or not command.accepted.input:
                continue
            accepted = command.accepted
            subject = subjects.input_part(accepted.client, accepted.input, request.part)
            try:
                reply = await self._reply(request, subject)
                self._plane.link.publish_nowait(
                    subjects.down(up.group, up.agent, "input"), codec.encode(reply)
                )
            except MeshError as error:  # the agent asks again
                log.warning("input_not_sent", command_id=request.command, error=str(error))

    async def _reply(self, request: InputRequest, subject: str) -> InputReply:
        stored = await self._streams.get_last(INPUT, subject)
        if stored is None:  # a replica may be behind
            stored = await self._streams.get_last_agreed(INPUT, subject)
        reply = InputReply(command=request.command, attempt=request.attempt, part=request.part)
        if stored is None:
            return _missing(reply)
        return InputReply(
            command=reply.command, attempt=reply.attempt, part=reply.part, data=stored.data
        )


def _missing(reply: InputReply) -> InputReply:
    return InputReply(
        command=reply.command,
        attempt=reply.attempt,
        part=reply.part,
        code="input_missing",
        message=f"part {reply.part} of its input is not stored any more",
    )

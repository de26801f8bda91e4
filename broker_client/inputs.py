"""Input of a program: within its command if it is small, else stored at the master before."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Final

from broker_client.asking import Asker
from schemas.faults import Refused
from schemas.limits import INPUT_PART_BYTES, PAYLOAD_BYTES
from schemas.messages.actions import StagedInput
from schemas.messages.api.commands import InputPart
from schemas.verbs import COMMAND_INPUT

# Bytes that travel within a command, which leave room for the rest of it.
INLINE_BYTES: Final = PAYLOAD_BYTES - 32 * 1024
# Parts under way at the same time.
_AT_ONCE: Final = 4

Stdin = bytes | Path | AsyncIterable[bytes]


async def stage(asker: Asker, source: Stdin) -> bytes | StagedInput:
    """Read the whole source; return it if it is small, else store it in parts at the master.

    A part without an answer is sent again (idempotent), also across a restart of the master.
    Raises the master's refusal (`too_large`, `queue_full`), or Refused (`state_unreadable`) for a
    file that cannot be read.
    """
    parts = _parts(source)
    async with contextlib.aclosing(parts):
        first: list[bytes] = []
        async for part in parts:
            first.append(part)
            if sum(map(len, first)) > INLINE_BYTES:
                return await _store(asker, first, parts)
    return b"".join(first)


async def _store(asker: Asker, first: list[bytes], rest: AsyncIterator[bytes]) -> StagedInput:
    name, digest, size, number = secrets.token_hex(12), hashlib.sha256(), 0, 0
    places = asyncio.Semaphore(_AT_ONCE)

    async def send(part: InputPart) -> None:
        try:
            await asker.ask_until_answered(COMMAND_INPUT, part)
        finally:
            places.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for data in _all(first, rest):
                digest.update(data)
                size += len(data)
                await places.acquire()
                group.create_task(send(InputPart(input=name, part=number, data=data)))
                number += 1
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return StagedInput(id=name, size=size, sha256=digest.digest())


async def _all(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for part in first:
        yield part
    async for part in rest:
        yield part


async def _parts(source: Stdin) -> AsyncGenerator[bytes, None]:
    """Yield the source in parts of `INPUT_PART_BYTES`; the last one may be shorter."""
    held = b""
    async for data in _read(source):
        held += data
        while len(held) >= INPUT_PART_BYTES:
            yield held[:INPUT_PART_BYTES]
            held = held[INPUT_PART_BYTES:]
    if held:
        yield held


async def _read(source: Stdin) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        for at in range(0, len(source), INPUT_PART_BYTES):
            yield source[at : at + INPUT_PART_BYTES]
    elif isinstance(source, Path):
        try:
            with source.open("rb") as file:
                while data := await asyncio.to_thread(file.read, INPUT_PART_BYTES):
                    yield data
        except OSError as error:
            raise Refused("state_unreadable", f"cannot read {source}: {error.strerror}") from error
    else:
        async for data in source:
            yield data

"""Standard input of `mesh run`, of any size."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import Final

_STDIN: Final = 0
_READ_BYTES: Final = 64 * 1024


def read_first(most: int) -> bytes:
    """Read up to the end of stdin, or at least `most` bytes; Ctrl-C interrupts it."""
    data = b""
    while len(data) < most and (more := os.read(_STDIN, _READ_BYTES)):
        data += more
    return data


async def whole_stdin(first: bytes) -> AsyncIterator[bytes]:
    """Yield what was read before, then the rest of stdin. A slow writer blocks nothing else."""
    yield first
    if stat.S_ISREG(os.fstat(_STDIN).st_mode):
        while data := os.read(_STDIN, _READ_BYTES):
            yield data
        return
    was_blocking = os.get_blocking(_STDIN)
    os.set_blocking(_STDIN, False)
    try:
        while True:
            try:
                data = os.read(_STDIN, _READ_BYTES)
            except BlockingIOError:
                await _readable()
                continue
            if not data:
                return
            yield data
    finally:
        # Other processes may have the same file.
        os.set_blocking(_STDIN, was_blocking)


async def _readable() -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(_STDIN, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(_STDIN)

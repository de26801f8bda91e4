"""Keeps the word of this folder: a unit test opens no socket, starts no program and never sleeps.

Tests that need one of these belong to `tests/host` (this machine) or `tests/integration` (servers).
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

# Events of the interpreter's own audit, which no import and no alias goes round.
FORBIDDEN: Final = frozenset(
    {
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
    }
)
_seen: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN:
        _seen.append(event)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def keeps_its_word(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that has done one of `FORBIDDEN`, or has slept."""
    sleep, block = asyncio.sleep, time.sleep

    async def watched(delay: float, result: object = None) -> object:
        if delay > 0:
            _seen.append(f"asyncio.sleep({delay:g})")
        return await sleep(delay, result)

    def watched_block(seconds: float) -> None:
        _seen.append(f"time.sleep({seconds:g})")
        block(seconds)

    _seen.clear()
    monkeypatch.setattr(asyncio, "sleep", watched)
    monkeypatch.setattr(time, "sleep", watched_block)
    yield
    done, _seen[:] = [*_seen], []
    assert not done, f"no unit test: {done}"

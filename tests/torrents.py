"""One identity that sends as fast as it can over several connections, and comes back when cut.

async with pouring(mesh.nats_url, context_or_folder, "requests") as torrent: ...

It runs in a process of its own: `python -m tests.torrents …`.
"""

import asyncio
import contextlib
import json
import ssl
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from broker_client.runtime.context import context_identity, read_context
from broker_client.runtime.identity import Identity, read_identity
from schemas import subjects
from tests.rawlink import RawLink, pub
from tests.storms import LOUD, LOUD_GROUP

_ROOT: Final = Path(__file__).parents[1]
_BLOCK: Final = 64 * 1024
_PAUSE_S: Final = 0.05
CLIENT: Final = "loud"
CONNECTIONS: Final = 4


def _requests() -> bytes:
    return pub(subjects.api(CLIENT, "mesh", "status"), b"\x80", f"_INBOX_{CLIENT}.x")


def _large_requests() -> bytes:
    return pub(subjects.api(CLIENT, "command", "show"), b"\x90" * 200_000, f"_INBOX_{CLIENT}.x")


def _beats() -> bytes:
    return pub(subjects.up(LOUD_GROUP, LOUD, "beat"), b"\x80")


def _large_reports() -> bytes:
    return pub(subjects.up(LOUD_GROUP, LOUD, "report"), b"\x90" * 200_000)


def _chunks() -> bytes:
    return pub(subjects.log(LOUD_GROUP, LOUD, "endless", 1, "stdout"), b"x")


def _nothing() -> bytes:
    """Messages on a subject without subscribers."""
    return pub(subjects.up(LOUD_GROUP, LOUD, "nothing"), b"x")


OF_CLIENT: Final[dict[str, Callable[[], bytes]]] = {
    "requests": _requests,
    "large-requests": _large_requests,
}
OF_AGENT: Final[dict[str, Callable[[], bytes]]] = {
    "beats": _beats,
    "large-reports": _large_reports,
    "chunks": _chunks,
    "nothing": _nothing,
}


class Torrent:
    """Known when it is over: sent messages, and how often a connection was cut or refused."""

    sent = 0
    cuts = 0


@contextlib.asynccontextmanager
async def pouring(url: str, identity: Path, kind: str) -> AsyncIterator[Torrent]:
    """While the block runs. identity: the folder of an agent's, or the context of a client."""
    argv = [sys.executable, "-m", "tests.torrents", url, str(identity), kind]
    torrent = Torrent()
    process = await asyncio.create_subprocess_exec(*argv, cwd=_ROOT, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"pouring\n"
        yield torrent
        process.stdin.close()
        torrent.sent, torrent.cuts = json.loads(await process.stdout.read())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _identity(path: Path) -> Identity:
    return read_identity(path) if path.is_dir() else context_identity(read_context(path))


class _Pour:
    """One connection after the other."""

    def __init__(self, url: str, identity: Identity, frame: bytes) -> None:
        self._url = url
        self._identity = identity
        self._per_block = max(1, _BLOCK // len(frame))
        self._block = frame * self._per_block
        self.sent = 0
        self.cuts = 0

    async def run(self) -> None:
        creds = self._identity.creds
        while True:
            with contextlib.suppress(OSError, ssl.SSLError, EOFError, ValueError):
                link = await RawLink.open(self._url, self._identity.context, creds.jwt, creds.seed)
                try:
                    await self._fill(link)
                finally:
                    link.abort()
            self.cuts += 1
            await asyncio.sleep(_PAUSE_S)

    async def _fill(self, link: RawLink) -> None:
        await link.say(b"PING\r\n")
        reader = asyncio.ensure_future(_read(link))
        try:
            while not reader.done():
                await link.say(self._block)
                self.sent += self._per_block
                await asyncio.sleep(0)
        finally:
            reader.cancel()
            await asyncio.wait({reader})


async def _read(link: RawLink) -> None:
    """Read all answers, so that the broker never waits for us."""
    with contextlib.suppress(OSError, ssl.SSLError):
        while await link.reader.read(_BLOCK):
            pass


async def _main(url: str, path: Path, kind: str) -> None:
    """Until stdin ends; then sent messages and cuts are printed."""
    frame = {**OF_CLIENT, **OF_AGENT}[kind]()
    pours = [_Pour(url, _identity(path), frame) for _ in range(CONNECTIONS)]
    tasks = [asyncio.ensure_future(each.run()) for each in pours]
    sys.stdout.write("pouring\n")
    sys.stdout.flush()
    began = time.monotonic()
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sent = sum(each.sent for each in pours)
    sys.stderr.write(f"{kind}: {sent / (time.monotonic() - began):.0f} messages/s poured\n")
    json.dump([sent, sum(each.cuts for each in pours)], sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))

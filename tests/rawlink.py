"""A connection as an attacker makes it: everything of his in one write, without waiting."""

import asyncio
import json
import ssl
from urllib.parse import urlsplit

from broker_client.runtime.nkeys import KeyPair


class RawLink:
    """Opened, but not yet introduced: `say` sends CONNECT, and whatever else, in one write."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, introduction: bytes
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.introduction = introduction

    @classmethod
    async def open(cls, url: str, context: ssl.SSLContext, jwt: str, seed: str) -> "RawLink":
        """context: the certificate that is shown; jwt, seed: the token, and its key."""
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        await writer.start_tls(context, server_hostname=where.hostname)
        said = {
            "verbose": False,
            "pedantic": False,
            "tls_required": True,
            "name": "raw",
            "lang": "raw",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "jwt": jwt,
            "sig": KeyPair.from_seed(seed).sign_nonce(info["nonce"]).decode(),
        }
        return cls(reader, writer, b"CONNECT " + json.dumps(said).encode() + b"\r\n")

    async def say(self, *frames: bytes) -> None:
        self.writer.write(self.introduction + b"".join(frames))
        self.introduction = b""
        await self.writer.drain()

    async def until_closed(self, within_s: float) -> None:
        """Read what comes until the broker ends it; TimeoutError if it does not."""
        async with asyncio.timeout(within_s):
            try:
                while await self.reader.read(65_536):
                    pass
            except (ConnectionError, ssl.SSLError):
                return

    def abort(self) -> None:
        self.writer.transport.abort()


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    parts = [subject, *([reply] if reply else []), str(len(payload))]
    return f"PUB {' '.join(parts)}\r\n".encode() + payload + b"\r\n"

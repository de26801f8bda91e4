"""The socket of one connection, with and without TLS, below nats-py's handshake."""

import asyncio
import ssl
from typing import Final
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

from schemas.faults import Misused

READ_BYTES: Final = 256 * 1024


class WideTransport(TcpTransport):
    """TCP with a large read buffer, and an abort that does not wait for the peer."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._patience_s = patience_s
        self.is_encrypted = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        await super().connect(uri, READ_BYTES, int(connect_timeout))

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """As the stock method, with flow control: its reader lacks the transport."""
        if self._io_writer is None:
            raise Misused("internal", "TLS before TCP")
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = await loop.start_tls(
            self._io_writer.transport,
            protocol,
            ssl_context,
            server_hostname=uri if isinstance(uri, str) else uri.hostname,
            ssl_handshake_timeout=connect_timeout,
        )
        if transport is None:
            raise ConnectionResetError("closed during the TLS handshake")
        protocol.connection_made(transport)
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.is_encrypted = True
        await self._wait_for_alert(reader)

    async def _wait_for_alert(self, reader: asyncio.StreamReader) -> None:
        """Wait for a TLS alert of the broker about the client's certificate.

        With TLS 1.3 the client's side of the handshake ends before the broker has checked the
        certificate, and bytes sent to a closed connection destroy the alert.
        """
        until = asyncio.get_running_loop().time() + self._patience_s
        while asyncio.get_running_loop().time() < until and not reader.at_eof():
            error = reader.exception()
            if error is not None:
                raise error
            await asyncio.sleep(0.01)

    def write(self, payload: bytes) -> None:
        if self._io_writer is not None:
            self._io_writer.write(payload)

    async def drain(self) -> None:
        if self._io_writer is not None:
            await self._io_writer.drain()

    def abort(self) -> None:
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()

    def unsent_bytes(self) -> int:
        return 0 if self._io_writer is None else self._io_writer.transport.get_write_buffer_size()

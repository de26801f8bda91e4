"""Frames to be sent: frames of one turn of the loop are sent together, none is kept for later."""

import asyncio
from typing import Final

from broker_client.runtime.frames import check_subject, render_hpub, render_pub
from broker_client.runtime.link.transport import WideTransport
from schemas.faults import Refused, Unreachable

# Unsent bytes above which a publish is refused; bulk senders wait for `drained` before.
UNSENT_MAX_BYTES: Final = 16 * 1024 * 1024


class Outbox:
    """Sends between `open` and `close`; raises Unreachable (effect none) before and after."""

    def __init__(self, wire: WideTransport) -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._max_payload = 0
        self._is_congested = False
        self.is_open = False

    def open(self, max_payload: int) -> None:
        """Begin to send. max_payload: the broker's limit of headers and body, in bytes."""
        self._max_payload = max_payload
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        self._clear()

    def _clear(self) -> None:
        self._frames.clear()
        self._frames_bytes = 0

    def publish_nowait(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Queue one message, to be sent with all others of this turn of the loop.

        Raises Unreachable with effect none if there is no connection, or too many bytes wait.
        Nothing is kept for a later connection.
        """
        check_subject(subject)
        if reply:
            check_subject(reply)
        if len(payload) > self._max_payload:
            raise _too_large(subject, len(payload))
        self.send(render_pub(subject, payload, reply))

    def publish_headers_nowait(
        self, subject: str, header_block: bytes, payload: bytes, reply: str = ""
    ) -> None:
        """As `publish_nowait`, with a header block of `frames.render_headers`."""
        check_subject(subject)
        if reply:
            check_subject(reply)
        if len(payload) + len(header_block) > self._max_payload:
            raise _too_large(subject, len(payload))
        self.send(render_hpub(subject, header_block, payload, reply))

    def publish_block(self, block: bytes) -> None:
        """Send rendered frames, all of them or none."""
        self.send(block)

    def subscribe_nowait(self, sid: bytes, subject: str, queue: str = "") -> None:
        to = f"{subject} {queue}" if queue else subject
        self.send(b"SUB %b %b\r\n" % (to.encode(), sid))

    def unsubscribe_nowait(self, sid: bytes) -> None:
        self.send(b"UNSUB %b\r\n" % sid)

    def send(self, frame: bytes) -> None:
        """Send one frame after all others."""
        if not self.is_open:
            raise Unreachable("broker_unreachable", "not connected to the broker", effect="none")
        if self._is_congested and self.pending_bytes > UNSENT_MAX_BYTES:
            raise Unreachable(
                "broker_unreachable",
                f"{self.pending_bytes} bytes wait to be sent to the broker",
                effect="none",
            )
        out = self._frames
        if not out:
            self._loop.call_soon(self.flush_nowait)
        out.append(frame)
        self._frames_bytes += len(frame)
        # Flushes in a tight loop as well, which gives the event loop no turn.
        if self._frames_bytes > UNSENT_MAX_BYTES // 2:
            self.flush_nowait()

    def send_now(self, frame: bytes) -> None:
        """Send one frame ahead of all queued ones; without effect while it is closed."""
        if self.is_open:
            self._wire.write(frame)

    def flush_nowait(self) -> None:
        """Write all queued frames to the socket."""
        out = self._frames
        if not out or not self.is_open:
            self._clear()
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self._clear()
        self._wire.write(data)
        self._is_congested = self._wire.unsent_bytes() > UNSENT_MAX_BYTES // 2

    @property
    def pending_bytes(self) -> int:
        """Published bytes that the kernel has not taken yet."""
        return self._frames_bytes + self._wire.unsent_bytes()

    async def drained(self, timeout_s: float) -> None:
        """Wait until at most 64 KiB are left to be sent; raises Unreachable after the timeout."""
        self.flush_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.drain()
        except (TimeoutError, OSError) as error:
            raise Unreachable(
                "broker_unreachable",
                f"{self.pending_bytes} bytes not sent in {timeout_s:g} s",
            ) from error


def _too_large(subject: str, size_bytes: int) -> Refused:
    """Return the fault of a message for which the broker would close the connection."""
    return Refused("too_large", f"{subject}: {size_bytes} bytes are more than the broker takes")

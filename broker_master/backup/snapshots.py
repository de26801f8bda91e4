"""Snapshots of streams, made by the running broker: each is consistent by itself.

Source: the JetStream API reference of the NATS project, stream snapshot and restore.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec

from broker_client.runtime.frames import Msg
from broker_client.runtime.link import Link
from schemas.faults import Corrupt, Refused, Unreachable

CHUNK_BYTES: Final = 128 * 1024
# Longer than any chunk or answer may take; a large stream is read before it is acknowledged.
STEP_S: Final = 60.0
# Chunks in the queue to the writer. The broker sends no more before earlier ones are acknowledged.
_CHUNKS_MAX: Final = 4096


async def stream_names(link: Link) -> list[str]:
    """The streams of the mesh at this broker."""
    names: list[str] = []
    while True:
        query = msgspec.json.encode({"offset": len(names)})
        page = _answer(await link.request("$JS.API.STREAM.NAMES", query, STEP_S), "the list")
        found = page.get("streams") or []
        names += found
        if not found or len(names) >= page.get("total", 0):
            return names


async def take(link: Link, stream: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
    """Configuration and state of a stream, and its content in chunks. Read them to their end.

    Raises Unreachable (`store_unavailable`) if the broker stops answering.
    """
    chunks: asyncio.Queue[Msg] = asyncio.Queue(_CHUNKS_MAX)
    inbox, close = link.open_inbox(chunks.put_nowait)
    order = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES}
    subject = f"$JS.API.STREAM.SNAPSHOT.{stream}"
    try:
        answer = _answer(await link.request(subject, msgspec.json.encode(order), STEP_S), stream)
    except BaseException:
        close()
        raise

    async def read() -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(STEP_S):
                    msg = await chunks.get()
                if not msg.data:
                    return
                yield msg.data
                if msg.reply:
                    link.publish_nowait(msg.reply, b"")
        except TimeoutError as error:
            raise Unreachable(
                "store_unavailable", f"the broker sends no more of {stream}", effect="none"
            ) from error
        finally:
            close()

    return {"config": answer["config"], "state": answer["state"]}, read()


async def put(link: Link, stream: str, what: dict[str, Any], chunks: Iterable[bytes]) -> None:
    """Restore a stream from what `take` returned; durable when this returns. It must not exist."""
    subject = f"$JS.API.STREAM.RESTORE.{stream}"
    answer = _answer(await link.request(subject, msgspec.json.encode(what), STEP_S), stream)
    where = answer["deliver_subject"]
    for chunk in chunks:
        said = await link.request(where, chunk, STEP_S)
        if said.data:
            _answer(said, stream)
    _answer(await link.request(where, b"", STEP_S), stream)


def _answer(msg: Msg, stream: str) -> dict[str, Any]:
    try:
        body: dict[str, Any] = msgspec.json.decode(msg.data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Corrupt("store_unavailable", f"not an answer of JetStream: {stream}") from error
    if found := body.get("error"):
        text = f"{stream}: {found.get('description', 'refused')} ({found.get('err_code', 0)})"
        raise Refused("store_unavailable", text)
    return body

"""A key-value bucket over a stream in the format of NATS (ADR-8), without caches.

Any NATS tool can read such a bucket. State is read by requests, never by a watch: after a restart
of the broker a watch can be silent for many seconds, so it is only a hint to read again.
"""

import re
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from broker_client.runtime.frames import parse_headers
from broker_client.runtime.link import Msg, Subscription
from broker_client.runtime.stream_answers import SequenceConflict
from broker_client.runtime.stream_config import StreamConfig, StreamInfo
from broker_client.runtime.streams import Streams
from schemas.faults import MeshError, Misused

T = TypeVar("T")

_KEY: Final = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
_BUCKET: Final = re.compile(r"[a-zA-Z0-9_-]+")
_OPERATION: Final = "KV-Operation"


class BucketEntry(NamedTuple):
    """A stored value. revision: grows with every change in the bucket, for compare-and-set."""

    key: str
    value: bytes
    revision: int


class Found(NamedTuple, Generic[T]):
    """A decoded entry. value: of the newest valid revision, None if none. revision: the newest."""

    value: T | None
    revision: int


class Bucket:
    """Client of one bucket; call `ensure` first. Methods raise Unreachable without an answer."""

    def __init__(self, streams: Streams, name: str) -> None:
        if _BUCKET.fullmatch(name) is None:
            raise Misused("name_invalid", f"not a name for a bucket: {name!a}")
        self._streams = streams
        self.name = name
        self.stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def ensure(
        self, *, history: int = 1, replicas: int = 1, max_bytes: int = -1, max_age_s: float = 0
    ) -> StreamInfo:
        """Create the bucket, or update its configuration; check `is_new`, as with any stream."""
        return await self._streams.ensure_stream(
            StreamConfig(
                name=self.stream,
                subjects=(f"{self._prefix}>",),
                max_msgs_per_subject=history,
                max_bytes=max_bytes,
                max_age_s=max_age_s,
                replicas=replicas,
                allow_rollup=True,
                deny_delete=True,
            )
        )

    async def get(self, key: str) -> BucketEntry | None:
        """Return the entry, as the leader of the bucket has it; None if absent or deleted."""
        found = await self._last(key)
        return None if found is None or found[1] else found[0]

    async def create(self, key: str, value: bytes) -> int:
        """Create an entry; returns its revision. Raises SequenceConflict if the key exists."""
        try:
            return await self.update(key, value, 0)
        except SequenceConflict:
            found = await self._last(key)
            if found is None or not found[1]:
                raise
            return await self.update(key, value, found[0].revision)  # a deleted key

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Update an entry; returns the revision. SequenceConflict unless `revision` is the last."""
        return await self._streams.store(self._subject(key), value, expected=revision)

    async def put(self, key: str, value: bytes) -> int:
        return await self._streams.store(self._subject(key), value)

    async def delete(self, key: str, revision: int | None = None) -> int:
        """Delete an entry; returns the revision. Raises SequenceConflict as `update`."""
        headers = {_OPERATION: "DEL"}
        return await self._streams.store(
            self._subject(key), b"", expected=revision, headers=headers
        )

    async def items(self, keys: str = ">") -> dict[str, BucketEntry]:
        """Return all entries below `keys`, such as `agent.>`; retries during a broker's restart."""
        found: dict[str, BucketEntry] = {}
        async for stored in self._streams.replay(self.stream, subject=f"{self._prefix}{keys}"):
            key = stored.subject.removeprefix(self._prefix)
            if _is_deletion(stored.headers):
                found.pop(key, None)
            else:
                found[key] = BucketEntry(key, stored.data, stored.seq)
        return found

    async def read_all(
        self,
        decode: Callable[[str, bytes], T],
        skipped: Callable[[str, int, MeshError], object],
        keys: str = ">",
    ) -> dict[str, Found[T]]:
        """Return all entries, decoded; of an invalid one the newest valid revision, if any.

        decode: gets key and value, may raise a MeshError. skipped: gets key, revision and fault of
        each invalid revision.
        """
        found: dict[str, Found[T]] = {}
        async for stored in self._streams.replay(self.stream, subject=f"{self._prefix}{keys}"):
            key = stored.subject.removeprefix(self._prefix)
            if _is_deletion(stored.headers):
                found.pop(key, None)
                continue
            try:
                found[key] = Found(decode(key, stored.data), stored.seq)
            except MeshError as error:
                before = found.get(key)
                found[key] = Found(None if before is None else before.value, stored.seq)
                skipped(key, stored.seq, error)
        return found

    async def keys(self, keys: str = ">") -> list[str]:
        return sorted(await self.items(keys))

    def watch(self, hint: Callable[[str], None], keys: str = ">") -> Subscription:
        """Call `hint` with each written key; changes may be missed, so poll as well.

        A write that the broker refuses is a hint, too: the watch sees requests, not the stream.
        """

        def heard(msg: Msg) -> None:
            hint(msg.subject.removeprefix(self._prefix))

        return self._streams.link.subscribe(f"{self._prefix}{keys}", heard)

    async def _last(self, key: str) -> tuple[BucketEntry, bool] | None:
        """Return the newest entry, and whether it is a deletion."""
        found = await self._streams.get_last_agreed(self.stream, self._subject(key))
        if found is None:
            return None
        return BucketEntry(key, found.data, found.seq), _is_deletion(found.headers)

    def _subject(self, key: str) -> str:
        if _KEY.fullmatch(key) is None:
            raise Misused("name_invalid", f"not a key: {key!a}")
        return self._prefix + key


def _is_deletion(headers: bytes) -> bool:
    if not headers:
        return False
    return parse_headers(headers)[2].get(_OPERATION) in ("DEL", "PURGE")

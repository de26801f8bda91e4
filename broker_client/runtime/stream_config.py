"""Configuration and state of a stream, in our words and in JetStream's."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

_NS: Final = 1_000_000_000


class Republish(msgspec.Struct, frozen=True, kw_only=True):
    """Subject to which the broker republishes the headers of each stored message on `source`."""

    source: str
    destination: str

    def to_api(self) -> dict[str, Any]:
        return {"src": self.source, "dest": self.destination, "headers_only": True}


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a stream. Sizes and counts of -1 and an age of 0 are unlimited.

    no_ack: publishers get no acknowledgement. The broker would send it to any reply subject that
    they name, with its own rights, so streams that members of the mesh publish to must not have it.
    """

    name: str
    subjects: tuple[str, ...]
    max_bytes: int = -1
    max_msgs: int = -1
    max_age_s: float = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    duplicate_window_s: float = 120
    replicas: int = 1
    discard_new: bool = True
    allow_atomic: bool = False
    allow_direct: bool = True
    allow_rollup: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    no_ack: bool = False
    republish: Republish | None = None

    def to_api(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "new" if self.discard_new else "old",
            "max_bytes": self.max_bytes,
            "max_msgs": self.max_msgs,
            "max_age": int(self.max_age_s * _NS),
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "max_msg_size": self.max_msg_size,
            "duplicate_window": int(self.duplicate_window_s * _NS),
            "num_replicas": self.replicas,
            "allow_atomic": self.allow_atomic,
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup,
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "no_ack": self.no_ack,
            "republish": None if self.republish is None else self.republish.to_api(),
        }


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """State of a stream. is_new: this call has created it, so its former content is lost.

    created_at: in the broker's format; a change means another stream. first_seq: above last_seq
    when the stream is empty. max_msg_size: bytes of headers and body of one message, -1 for the
    broker's limit.
    """

    name: str
    created_at: str
    first_seq: int
    last_seq: int
    messages: int
    size_bytes: int
    is_new: bool = False
    max_msg_size: int = -1


def info_of(found: Mapping[str, Any], *, is_new: bool = False) -> StreamInfo:
    state = found["state"]
    return StreamInfo(
        name=found["config"]["name"],
        created_at=found["created"],
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        messages=state["messages"],
        size_bytes=state["bytes"],
        is_new=is_new,
        max_msg_size=found["config"].get("max_msg_size", -1),
    )

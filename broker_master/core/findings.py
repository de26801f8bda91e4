"""The last look at what a scrape must not wait for: the broker, its streams, the disk."""

from dataclasses import dataclass, field

import msgspec


class StreamSize(msgspec.Struct, frozen=True):
    messages: int
    size_bytes: int


@dataclass
class Findings:
    """What the last look has found. loop_lag_s: the worst since it was read; set it back then.

    disk_free: the share of the state directory's disk, 0 to 1; None if it was not looked at yet.
    """

    streams: dict[str, StreamSize] = field(default_factory=dict)
    broker_rtt_s: float | None = None
    readmodel_bytes: int = 0
    readmodel_rows: int | None = None
    loop_lag_s: float = 0.0
    disk_free: float | None = None

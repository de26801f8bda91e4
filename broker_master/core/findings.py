"""Latest measurements of the broker, its streams and the disk; a scrape does not wait for them."""

from dataclasses import dataclass, field

import msgspec


class StreamSize(msgspec.Struct, frozen=True):
    messages: int
    size_bytes: int


@dataclass
class Findings:
    """Latest measurements. loop_lag_s: the worst since it was read; set it back then.

    disk_free: free share of the state directory's disk, 0 to 1; None if not measured yet.
    """

    streams: dict[str, StreamSize] = field(default_factory=dict)
    broker_rtt_s: float | None = None
    readmodel_bytes: int = 0
    readmodel_rows: int | None = None
    loop_lag_s: float = 0.0
    disk_free: float | None = None

"""Decision whether this host has the resources for another task."""

from typing import Final, NamedTuple

from schemas.states import Lack

# A task needs five descriptors and briefly a few more; the rest is for link and journal.
FDS_PER_TASK: Final = 8
FDS_RESERVED: Final = 24
# Share of a bound from which on a warning is logged.
WARN_SHARE: Final = 0.8
MIB: Final = 1024 * 1024


class Reading(NamedTuple):
    """Measured resources. disk_free: free share of the file system, 0 to 1.

    fds_free: descriptors that can still be opened. journal_fault: reason why the last write of the
    journal failed, else empty.
    """

    spool_bytes: int = 0
    disk_free: float = 1.0
    fds_free: int = 1_000_000
    journal_fault: str = ""


class Bounds(NamedTuple):
    """Limits. spool_bytes: output that may wait for the broker. disk_free: share, 0 to 1."""

    spool_bytes: int
    disk_free: float


def lacks(reading: Reading, bounds: Bounds) -> dict[Lack, str]:
    """Return the resources that are short, each with a reason for people; else empty."""
    found: dict[Lack, str] = {}
    if reading.spool_bytes >= bounds.spool_bytes:
        kept, most = reading.spool_bytes // MIB, bounds.spool_bytes // MIB
        found[Lack.SPOOL] = f"{kept} MiB of output wait for the broker, of {most} at most"
    if reading.disk_free < bounds.disk_free:
        free, least = reading.disk_free * 100, bounds.disk_free * 100
        found[Lack.DISK] = f"{free:.1f} % of the disk are free, less than {least:g} %"
    if reading.fds_free < FDS_RESERVED + FDS_PER_TASK:
        found[Lack.FDS] = f"only {reading.fds_free} file descriptors are left"
    if reading.journal_fault:
        found[Lack.JOURNAL] = reading.journal_fault
    return found

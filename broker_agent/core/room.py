"""Whether this host has room for another task, and what it lacks if not."""

from typing import Final, NamedTuple

from schemas.states import Lack

# A task needs five descriptors and a few more for a moment; the rest keeps link and journal alive.
FDS_PER_TASK: Final = 8
FDS_RESERVED: Final = 24
# From here on it is worth a line in the log.
WARN_SHARE: Final = 0.8
MIB: Final = 1024 * 1024


class Reading(NamedTuple):
    """How things stand. disk_free: share of the file system that is free, 0 to 1.

    fds_free: descriptors that could still be opened. journal_fault: why the last write of the
    journal failed, empty if it did not.
    """

    spool_bytes: int = 0
    disk_free: float = 1.0
    fds_free: int = 1_000_000
    journal_fault: str = ""


class Bounds(NamedTuple):
    """spool_bytes: output that may wait for the broker. disk_free: share that must stay free."""

    spool_bytes: int
    disk_free: float


def lacks(reading: Reading, bounds: Bounds) -> dict[Lack, str]:
    """What there is no room for, each with a sentence for a person; empty if all is well."""
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

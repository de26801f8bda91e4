"""The statuses for the next master: one small file in the state directory.

No decision depends on it: it has the start times of statuses. A file that is missing, or damaged by
a loss of power, costs those times and no more.
"""

from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker_client.runtime.files import os_errors, read_bytes, write_passing
from broker_master.core.statuses import Past
from schemas import codec
from schemas.faults import MeshError
from schemas.states import GroupStatus

log = structlog.get_logger()

STATUSES_FILE: Final = "statuses.bin"


class Pasts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """By name: agents; and groups and connections, with the time since when they have their status.

    at: wall time of the writing; 0 in files of earlier releases.
    """

    at: float = 0.0
    agents: dict[str, Past] = {}
    groups: dict[str, tuple[GroupStatus, float]] = {}
    connections: dict[str, tuple[str, float]] = {}


NO_PASTS: Final = Pasts()


def read_pasts(state_dir: Path) -> Pasts:
    """Read the file; empty if it is missing or unreadable."""
    path = state_dir / STATUSES_FILE
    try:
        with os_errors(path, "read"):
            if not path.exists():
                return Pasts()
        return codec.decode_trusted(Pasts, read_bytes(path))
    except MeshError as error:
        log.warning("statuses_unreadable", error=str(error))
        return Pasts()


def write_pasts(state_dir: Path, pasts: Pasts) -> None:
    """Raises MeshError, with the old file untouched."""
    write_passing(state_dir / STATUSES_FILE, codec.encode(pasts))

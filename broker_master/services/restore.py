"""Notes that a state directory was restored: the next master on it begins a new generation."""

import time
from pathlib import Path

import msgspec
import structlog

from broker_client.runtime.clock import Clock
from broker_client.runtime.files import lock_directory
from broker_master.ca.marker import read_marker, refuse_foreign
from broker_master.ca.mesh import Mesh
from broker_master.core.epochs import EPOCH_MAX
from broker_master.store.registry import Registry
from broker_master.store.restored import Restored, read_restored, write_restored
from schemas.faults import Refused

log = structlog.get_logger()


def note_restore(state_dir: Path, *, above: int = 0, taken_at: float = 0.0) -> None:
    """Note a restore; idempotent. No master may run on the directory.

    above: an epoch that agents have obeyed. taken_at: when the copy was made, 0 if not known.
    Raises Refused: `state_missing`, `state_foreign`, `state_locked`, `settings_invalid`.
    """
    if not 0 <= above < EPOCH_MAX:
        raise Refused("settings_invalid", f"--above {above} is not an epoch below {EPOCH_MAX}")
    refuse_foreign(state_dir)
    if read_marker(state_dir) is None:
        raise Refused("state_missing", f"there is no mesh in {state_dir}")
    with lock_directory(state_dir):
        write_restored(state_dir, Restored(at=time.time(), taken_at=taken_at, above=above))


async def begin_epoch(
    registry: Registry, mesh: Mesh, clock: Clock
) -> tuple[int, int, Restored | None]:
    """The new epoch, the previous one, and the note of a restored state."""
    restored = read_restored(mesh.directory)
    is_first = restored is not None and not restored.epoch
    begun = await registry.begin_epoch(
        mesh.id,
        clock.now(),
        above=restored.above if restored is not None and is_first else 0,
        is_restored=is_first,
    )
    if restored is not None and is_first:
        restored = msgspec.structs.replace(restored, epoch=begun.epoch)
        write_restored(mesh.directory, restored)
        log.warning("state_was_restored", taken_at=restored.taken_at, earlier=begun.earlier)
    return begun.epoch, begun.earlier, restored

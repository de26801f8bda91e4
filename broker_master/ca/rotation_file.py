"""The file of rotations: replaced as a whole, so that a crash leaves the old or the new.

A stage's new key is on disk before the stage; its superfluous key is removed after it. The next
open of the folder completes an interrupted step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import read_bytes, write_private
from broker_master.core.rotation import Rotation
from schemas.faults import Corrupt
from schemas.wrong import told

FILE: Final = "rotation.json"


def read_rotations(folder: Path) -> dict[str, Rotation]:
    """The rotations of a folder by key; none for a key that was never rotated.

    Raises Corrupt (`state_corrupt`), or as `files.read_bytes`.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Rotation])
    except msgspec.MsgspecError as error:
        raise Corrupt("state_corrupt", f"{path}: {told(error, dict[str, Rotation])}") from error


def write_rotations(folder: Path, rotations: Mapping[str, Rotation]) -> None:
    write_private(folder / FILE, msgspec.json.encode(dict(rotations)))


def numbered(name: str, generation: int) -> str:
    """Name of a generation's file: the first has no number."""
    return name if generation == 1 else f"{name}-{generation}"

"""Where a rotation is kept: one file, replaced whole, so that a crash leaves the old or the new.

What a stage needs (a new key) is on disk before the stage is; what it makes needless (an old key)
goes after it. Whoever opens the folder brings the rest to what the file says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import read_bytes, write_private
from broker_master.core.rotation import Rotation
from schemas.faults import Corrupt

FILE: Final = "rotation.json"


def read_rotations(folder: Path) -> dict[str, Rotation]:
    """The rotations of a folder by what is rotated; nothing for those that never were.

    Raises Corrupt (`state_corrupt`), or as `files.read_bytes`.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Rotation])
    except msgspec.MsgspecError as error:
        raise Corrupt("state_corrupt", f"{path}: {error}") from error


def write_rotations(folder: Path, rotations: Mapping[str, Rotation]) -> None:
    write_private(folder / FILE, msgspec.json.encode(dict(rotations)))


def numbered(name: str, generation: int) -> str:
    """The name of a generation's file: the first has none of its own."""
    return name if generation == 1 else f"{name}-{generation}"

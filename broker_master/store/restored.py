"""The note that a state directory was restored, kept until every consequence is handled."""

from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import os_errors, read_bytes, write_private
from schemas.faults import Corrupt
from schemas.messages.fields import CommandId, Count, Text, Timestamp
from schemas.wrong import told

RESTORED_FILE: Final = "restored.json"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The note of a restore.

    at: time of the restore, and taken_at: of the backup, unix seconds; 0 if not known. above: an
    epoch that the next one must be above. epoch: the first one after it, 0 until a master has begun
    it. doubtful: the commands that were open in the backup and are not settled yet, None until a
    master has looked.
    """

    at: Timestamp
    taken_at: Timestamp = 0.0
    above: Count = 0
    epoch: Count = 0
    note: Text = ""
    doubtful: list[CommandId] | None = None


def read_restored(state_dir: Path) -> Restored | None:
    """None where the state was never restored, or all consequences are handled."""
    path = state_dir / RESTORED_FILE
    with os_errors(path, "read"):
        if not path.exists():
            return None
    try:
        return msgspec.json.decode(read_bytes(path), type=Restored)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            "state_corrupt", f"{path} is not a note of a restore: {told(error, Restored)}"
        ) from error


def write_restored(state_dir: Path, restored: Restored) -> None:
    """Durable when this returns."""
    write_private(state_dir / RESTORED_FILE, msgspec.json.encode(restored))


def remove_restored(state_dir: Path) -> None:
    """All consequences are handled: the state is like one that was never restored."""
    path = state_dir / RESTORED_FILE
    with os_errors(path, "delete"):
        path.unlink(missing_ok=True)

"""The marker file of a state directory: it protects foreign directories from being overwritten."""

import json
import secrets
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import LOCK_NAME, os_errors, read_text, write_private
from schemas.faults import Refused

MARKER: Final = "mesh.toml"
PROGRAM: Final = "broker-master"
FORMAT: Final = 1


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of the marker file."""

    program: str
    format: int
    mesh: str
    hosts: tuple[str, ...] = ()


def refuse_foreign(directory: Path) -> None:
    """Raise Refused (`state_foreign`) unless the directory is missing, empty or marked as ours."""
    with os_errors(directory, "open"):
        if not directory.exists():
            return
        names = {entry.name for entry in directory.iterdir()}
    if MARKER not in names and names - {LOCK_NAME, f".{MARKER}.new"}:
        raise Refused("state_foreign", f"{directory} holds files of something else")
    read_marker(directory)


def read_marker(directory: Path) -> Marker | None:
    """Read the marker, None if there is none; Refused (`state_foreign`) if it is not a mesh's."""
    path = directory / MARKER
    with os_errors(path, "read"):
        if not path.exists():
            return None
    try:
        marker = msgspec.convert(tomllib.loads(read_text(path)), Marker)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refused("state_foreign", f"{path} is not the mark of a mesh") from error
    if marker.program != PROGRAM:
        raise Refused("state_foreign", f"{directory} belongs to {marker.program}")
    if marker.format != FORMAT:
        raise Refused(
            "state_foreign",
            f"{directory} is of format {marker.format}; this release knows {FORMAT}",
        )
    return marker


def make_marker(directory: Path, hosts: Sequence[str], dropped: Sequence[str] = ()) -> Marker:
    """Mark an empty directory as that of a new mesh, or change the hosts of an existing marker.

    Raises Refused (`settings_invalid`) for a host in `dropped` that is not in the marker.
    """
    found = read_marker(directory)
    marker = found or Marker(program=PROGRAM, format=FORMAT, mesh=secrets.token_hex(8))
    for host in dropped:
        if host not in marker.hosts:
            known = ", ".join(marker.hosts) or "none"
            raise Refused("settings_invalid", f"{host[:80]!a} is no host of this mesh: {known}")
    kept = [host for host in marker.hosts if host not in dropped]
    marker = msgspec.structs.replace(marker, hosts=tuple(dict.fromkeys([*kept, *hosts])))
    if marker != found:
        values = msgspec.to_builtins(marker)
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        write_private(directory / MARKER, text.encode())
    return marker

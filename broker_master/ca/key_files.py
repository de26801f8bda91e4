"""Seeds of the mesh's NATS keys: their names, generations and files (`<name>.nk`, 0600).

Keys in rotation have one seed per generation; the operator has two, of its identity and of the key
that signs for it. The two accounts' own keys are names rather than keys: the broker accepts nothing
that they have signed, and what is stored belongs to them, so they are never replaced.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker_client.runtime.files import read_text, write_private
from broker_client.runtime.nkeys import KeyPair, Kind
from broker_master.ca.rotation_file import numbered
from broker_master.core.rotation import Rotation
from schemas.faults import Corrupt
from schemas.permissions import SCOPES

OPERATOR: Final = "nats-operator"
SYSTEM: Final = "system"
# Keys that can be rotated: of the roles, the masters', the system account's, the operator's.
ROTATED: Final = (*SCOPES, "master", SYSTEM, OPERATOR)
_SETTLED: Final = Rotation()
_LASTING: Final[dict[str, Kind]] = {"account": "account", "system": "account"}
_BASES: Final = {"master": "master", SYSTEM: "system-signing", OPERATOR: "operator-signing"}


def signer_name(key: str, generation: int) -> str:
    """Name of the signing key of a generation of `key`, one of ROTATED."""
    return numbered(_BASES.get(key, f"scope-{key}"), generation)


def root_name(generation: int) -> str:
    """Name of the operator's identity of a generation."""
    return numbered("operator", generation)


def make_missing(folder: Path, rotations: Mapping[str, Rotation]) -> None:
    """Make the seeds of all trusted generations that have none yet."""
    for name, kind in _names(rotations).items():
        _make(folder / f"{name}.nk", kind)


def make_generation(folder: Path, key: str, generation: int) -> None:
    for name, kind in _of_generation(key, generation).items():
        _make(folder / f"{name}.nk", kind)


def read_keys(folder: Path, rotations: Mapping[str, Rotation]) -> dict[str, KeyPair]:
    """All keys of the trusted generations, by name.

    Raises Refused (`state_missing`) for a missing seed, Corrupt for one of another kind.
    """
    keys = {}
    for name, kind in _names(rotations).items():
        key = KeyPair.from_seed(read_text(folder / f"{name}.nk").strip())
        if key.kind != kind:
            raise Corrupt("state_corrupt", f"{folder / name}.nk is a key of another kind")
        keys[name] = key
    return keys


def remove_former(folder: Path, rotations: Mapping[str, Rotation]) -> None:
    """Remove the seeds of generations that are trusted no more."""
    for key, rotation in rotations.items():
        for generation in range(1, rotation.newest):
            if generation not in rotation.trusted:
                for name in _of_generation(key, generation):
                    (folder / f"{name}.nk").unlink(missing_ok=True)


def _names(rotations: Mapping[str, Rotation]) -> dict[str, Kind]:
    found = dict(_LASTING)
    for key in ROTATED:
        for generation in rotations.get(key, _SETTLED).trusted:
            found |= _of_generation(key, generation)
    return found


def _of_generation(key: str, generation: int) -> dict[str, Kind]:
    if key == OPERATOR:
        return {root_name(generation): "operator", signer_name(key, generation): "operator"}
    return {signer_name(key, generation): "account"}


def _make(path: Path, kind: Kind) -> None:
    if not path.exists():
        write_private(path, f"{KeyPair.create(kind).seed}\n".encode())

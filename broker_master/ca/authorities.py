"""The certificate authority that signs, and the other one during a rotation.

ca.pem, ca.key        the first authority
ca-2.pem, ca-2.key    the next one, and so on
trusted.pem           the certificates of the trusted authorities: read by the broker
rotation.json         the stage of the rotation; missing until the first one
"""

from pathlib import Path
from typing import Final, Self

from broker_client.runtime import failpoints
from broker_client.runtime.files import (
    make_private_directory,
    read_bytes,
    write_private,
    write_public,
)
from broker_client.runtime.tls import certificate_facts, trust_digest
from broker_master.ca.authority import Authority
from broker_master.ca.rotation_file import numbered, read_rotations, write_rotations
from broker_master.core.rotation import Rotation, advance
from schemas.faults import Refused

AUTHORITY: Final = "authority"
TRUSTED: Final = "trusted.pem"


class Authorities:
    """Signs like one authority; trusts the certificates of both."""

    def __init__(self, folder: Path, mesh: str, rotation: Rotation) -> None:
        self._folder = folder
        self.mesh = mesh
        self.rotation = rotation
        self._loaded: dict[int, Authority] = {}
        self._apply()

    @classmethod
    def create(cls, folder: Path, mesh: str, *, now: int) -> Self:
        """Make the first authority unless it is there; a folder of any later state is opened."""
        make_private_directory(folder)
        if not read_rotations(folder):
            _make(folder, mesh, 1, now)
        return cls.load(folder, mesh)

    @classmethod
    def load(cls, folder: Path, mesh: str) -> Self:
        """Raises Refused (`state_missing`, `state_foreign`) or Corrupt (`state_corrupt`)."""
        return cls(folder, mesh, read_rotations(folder).get(AUTHORITY, Rotation()))

    @property
    def trusted_file(self) -> Path:
        return self._folder / TRUSTED

    @property
    def active(self) -> Authority:
        return self._loaded[self.rotation.active]

    @property
    def generation(self) -> int:
        """Generation of the authority that signs."""
        return self.rotation.active

    @property
    def ca_pem(self) -> bytes:
        """Certificates of all trusted authorities, the oldest first."""
        return b"".join(self._loaded[each].ca_pem for each in self.rotation.trusted)

    @property
    def digest(self) -> str:
        """Digest of `ca_pem`: a holder reports it to show that it has these authorities."""
        return trust_digest(self.ca_pem)

    @property
    def active_pem(self) -> bytes:
        return self.active.ca_pem

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate of the signing authority, in the broker's format."""
        return certificate_facts(self.active_pem).fingerprint

    @property
    def not_after(self) -> int:
        return self.active.not_after

    def of(self, generation: int) -> Authority:
        return self._loaded[generation]

    def sign_client(
        self, csr_pem: bytes, kind: str, name: str, *, not_before: int, not_after: int
    ) -> bytes:
        return self.active.sign_client(
            csr_pem, kind, name, not_before=not_before, not_after=not_after
        )

    def signer_of(self, cert_pem: bytes) -> int:
        """Generation of the authority that issued a certificate; 0 if it is unknown."""
        return next((n for n, each in self._loaded.items() if each.has_signed(cert_pem)), 0)

    def rotate(self, step: str, *, now: float) -> None:
        """Take one step; a repeated step changes nothing. Raises Refused (`step_refused`)."""
        rotation = advance(self.rotation, step, at=now)
        if rotation != self.rotation:
            if rotation.newest > self.rotation.newest:
                _make(self._folder, self.mesh, rotation.newest, int(now))
                failpoints.reach("master.ca_made")
            write_rotations(self._folder, {AUTHORITY: rotation})
            failpoints.reach("master.ca_stepped")
            self.rotation = rotation
        self._apply()

    def _apply(self) -> None:
        """Load the trusted authorities, write the broker's file, and remove the keys of others."""
        self._loaded = {each: self._load(each) for each in self.rotation.trusted}
        trusted = self.ca_pem
        path = self.trusted_file
        if not path.exists() or read_bytes(path) != trusted:
            write_public(path, trusted)
        for generation in range(1, self.rotation.newest):
            if generation not in self.rotation.trusted:
                (self._folder / f"{numbered('ca', generation)}.key").unlink(missing_ok=True)

    def _load(self, generation: int) -> Authority:
        cert, key = _files(self._folder, generation)
        authority = Authority.from_pem(read_bytes(cert), read_bytes(key))
        if authority.mesh != self.mesh:
            raise Refused("state_foreign", f"{cert} is the authority of mesh {authority.mesh}")
        return authority


def _make(folder: Path, mesh: str, generation: int, now: int) -> None:
    """Make an authority. Its certificate is written last: without it the key has signed nothing."""
    cert, key = _files(folder, generation)
    if cert.exists():
        return
    authority = Authority.create(mesh, now=now, generation=generation)
    write_private(key, authority.key_pem)
    write_public(cert, authority.ca_pem)


def _files(folder: Path, generation: int) -> tuple[Path, Path]:
    name = numbered("ca", generation)
    return folder / f"{name}.pem", folder / f"{name}.key"

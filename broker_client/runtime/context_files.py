"""Atomic replacement of a context's identity files: readers see all old or all new ones.

    user.creds.new/    key.pem, cert.pem, ca.pem, and user.creds last: from then on it is valid

Then the files are copied to the paths of the context, and the folder is deleted, its creds first:
from then on the equal files of the context are valid. After a crash readers use the folder, and the
next writer completes the replacement.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Final

import structlog

from broker_client.runtime import failpoints
from broker_client.runtime.context import Context, context_identity
from broker_client.runtime.creds import decode_creds
from broker_client.runtime.files import (
    Lock,
    lock_directory,
    make_private_directory,
    os_errors,
    read_bytes,
    write_private,
    write_public,
)
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    CREDS_FILE,
    KEY_FILE,
    Identity,
    NewIdentity,
    read_identity,
    write_identity,
)
from broker_client.runtime.nkeys import UserClaims, decode_user_jwt
from broker_client.runtime.tls import client_context_of
from schemas.faults import MeshError

# Part of the life of credentials after which clients renew them.
_DUE: Final = 2 / 3
_FAILURE_CHARS: Final = 500

log = structlog.get_logger(__name__)


class ContextFiles:
    """Identity files of one context."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._creds = Path(context.creds)
        self._stage = self._creds.with_name(f"{self._creds.name}.new")
        self._failed = self._creds.with_name(f"{self._creds.name}.not-renewed")

    def identity(self) -> Identity:
        """Load the identity, again during a replacement. Raises as `identity.read_identity`."""
        try:
            return self._read()
        except MeshError:
            return self._read()

    def _read(self) -> Identity:
        if (self._stage / CREDS_FILE).exists():
            return read_identity(self._stage)
        return context_identity(self._context)

    def claims(self) -> UserClaims:
        """Return the claims of the token in use."""
        staged = self._stage / CREDS_FILE
        creds = decode_creds(read_bytes(staged if staged.exists() else self._creds))
        return decode_user_jwt(creds.jwt)

    def is_due(self, claims: UserClaims, now: float) -> bool:
        """Whether two thirds of its life are over."""
        life_s = claims.expires_at - claims.not_before
        return claims.expires_at > 0 and now > claims.not_before + life_s * _DUE

    def pems(self) -> tuple[bytes, bytes]:
        """Return certificate and key, to sign a request; the caller holds the lock."""
        return read_bytes(Path(self._context.cert)), read_bytes(Path(self._context.key))

    def ca_pem(self) -> bytes:
        return read_bytes(Path(self._context.ca))

    # -- replacing

    def lock(self) -> Lock:
        """Take the lock of replacements. Raises Refused (`state_locked`, `state_unreadable`).

        Completes an interrupted replacement.
        """
        make_private_directory(self._stage)
        lock = lock_directory(self._stage)
        try:
            self._install()
        except BaseException:
            lock.release()
            raise
        return lock

    def store(self, keys: NewIdentity, *, cert_pem: bytes, ca_pem: bytes, jwt: str) -> None:
        """Replace the identity for all readers; the caller holds the lock."""
        write_identity(self._stage, keys, cert_pem=cert_pem, ca_pem=ca_pem, jwt=jwt)
        failpoints.reach("client.renewed_staged")
        self._install()

    def trust(self, ca_pem: bytes) -> None:
        """Trust these authorities. Raises Corrupt for invalid ones; nothing changes then."""
        client_context_of(ca_pem, *self.pems())
        write_public(Path(self._context.ca), ca_pem)

    def _install(self) -> None:
        if not (self._stage / CREDS_FILE).exists():
            return
        named = self._context
        write_private(Path(named.key), read_bytes(self._stage / KEY_FILE))
        failpoints.reach("client.renewed_half")
        write_public(Path(named.cert), read_bytes(self._stage / CERT_FILE))
        write_public(Path(named.ca), read_bytes(self._stage / CA_FILE))
        write_private(self._creds, read_bytes(self._stage / CREDS_FILE))
        with os_errors(self._stage, "clear"):
            (self._stage / CREDS_FILE).unlink()
            for name in (KEY_FILE, CERT_FILE, CA_FILE):
                (self._stage / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the empty folder; call it after the release of the lock."""
        if not (self._stage / CREDS_FILE).exists():
            shutil.rmtree(self._stage, ignore_errors=True)

    # -- the last renewal, if it failed

    @property
    def failure(self) -> str:
        """Why the last renewal failed; empty if it did not."""
        try:
            return self._failed.read_text(errors="replace").strip()[:_FAILURE_CHARS]
        except OSError:
            return ""

    def note_failure(self, reason: str) -> None:
        """Keep the reason for `mesh doctor`; an empty one is that of a success."""
        try:
            if reason:
                write_private(self._failed, f"{reason}\n".encode())
            else:
                self._failed.unlink(missing_ok=True)
        except (MeshError, OSError):
            log.info("renewal_not_noted", file=str(self._failed))

    # -- time of the last check for a renewal

    @property
    def looked_s_ago(self) -> float:
        """Seconds since the last check, by the time stamp of the file of authorities."""
        try:
            return max(0.0, time.time() - Path(self._context.ca).stat().st_mtime)
        except OSError:
            return 0.0

    def note_look(self) -> bool:
        """Note a check; False if this process may not change the files, nor renew them."""
        try:
            os.utime(self._context.ca)
        except OSError:
            return False
        return os.access(self._creds.parent, os.W_OK)

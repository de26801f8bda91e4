"""The files of a new client: its own keys, and the certificate and token of the mesh."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from broker_client.context import FILE_NAME
from broker_client.runtime.context import Context, write_context
from broker_client.runtime.creds import UserCreds, encode_creds
from broker_client.runtime.files import make_private_directory, os_errors, write_private
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    CREDS_FILE,
    KEY_FILE,
    new_identity,
)
from broker_client.runtime.proofs import key_proof
from schemas.faults import Refused
from schemas.ids import check_name
from schemas.messages.api import IdentityAnswer


class NewClient:
    """Keys for one new client, in memory until `reserved`, completely on disk after `store`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = check_name("a client", name)
        self._keys = new_identity(self._name)
        self._folder = folder

    @property
    def csr_pem(self) -> str:
        return self._keys.csr_pem.decode()

    @property
    def user_nkey(self) -> str:
        return self._keys.user

    def proof(self, mesh: str) -> bytes:
        """Return the proof of possession of the broker key, for a client of this mesh."""
        return key_proof("client", mesh, self._name, self._keys)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve the directory and write the key, before anything is requested.

        Raises Refused if it is in use (`state_foreign`) or cannot be written. A failure in the
        block leaves an empty directory.
        """
        with os_errors(self._folder, "use"):
            if self._folder.exists() and any(self._folder.iterdir()):
                raise Refused("state_foreign", f"{self._folder} is not empty")
        make_private_directory(self._folder)
        try:
            write_private(self._folder / KEY_FILE, self._keys.key_pem)
            yield
        except BaseException:
            for name in (KEY_FILE, CERT_FILE, CA_FILE, CREDS_FILE, FILE_NAME):
                (self._folder / name).unlink(missing_ok=True)
            raise

    def store(self, answer: IdentityAnswer) -> None:
        """Write the answer; the context last, so that a directory with a context is complete."""
        creds = encode_creds(UserCreds(jwt=answer.jwt, seed=self._keys.seed))
        write_private(self._folder / CERT_FILE, answer.cert_pem.encode())
        write_private(self._folder / CA_FILE, answer.ca_pem.encode())
        write_private(self._folder / CREDS_FILE, creds)
        path = self._folder / FILE_NAME
        urls = tuple(answer.urls)
        context = Context(mesh=answer.mesh, name=answer.name, role=answer.role, urls=urls)
        write_context(path, context)
        path.chmod(0o600)

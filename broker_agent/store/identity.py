"""Who this agent is: identity slots `<state>/identity/current/` and `next/`.

A slot holds the keys, what the master gave for them, and `identity.toml`, which is written last: a
slot without it is not whole. A new identity is made in `next` and takes the place of `current` by
renames; a crash between them leaves `next` whole, and it is taken from there.
"""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime.files import (
    make_private_directory,
    os_errors,
    read_bytes,
    read_text,
    sync_directory,
    write_private,
)
from broker_client.runtime.identity import (
    CA_FILE,
    KEY_FILE,
    Identity,
    NewIdentity,
    read_identity,
    write_identity,
)
from schemas.faults import Corrupt, Refused

FACTS_FILE: Final = "identity.toml"
_PENDING_FILE: Final = "request.json"


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`identity.toml`: who it is, where the brokers are, what the certificate says."""

    agent: str
    group: str
    mesh: str
    urls: tuple[str, ...]
    serial: str
    not_after: float


class Slots:
    """The identity slots of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "identity"
        self.current = self._root / "current"
        self.next = self._root / "next"

    def facts(self) -> AgentFacts | None:
        """Who the agent is; None if it was never set up. Raises Corrupt for what cannot be read."""
        slot = self._whole()
        return None if slot is None else _read_facts(slot / FACTS_FILE)

    def ca_pem(self) -> bytes:
        slot = self._whole()
        return b"" if slot is None else read_bytes(slot / CA_FILE)

    def identity(self) -> Identity:
        """The keys in use; raises Refused (`state_missing`) if there are none."""
        slot = self._whole()
        if slot is None:
            raise Refused("state_missing", f"{self._root} holds no identity")
        return read_identity(slot)

    def _whole(self) -> Path | None:
        for slot in (self.current, self.next):
            with os_errors(slot, "read"):
                if (slot / FACTS_FILE).exists():
                    return slot
        return None

    def pending(self) -> NewIdentity | None:
        """Keys that were made for a request whose answer never came, to be used again."""
        path = self.next / _PENDING_FILE
        if not path.exists() or (self.next / FACTS_FILE).exists():
            return None
        try:
            parts = msgspec.json.decode(read_bytes(path), type=dict[str, str])
            return NewIdentity(
                key_pem=read_bytes(self.next / KEY_FILE),
                csr_pem=parts["csr"].encode(),
                seed=parts["seed"],
                user=parts["user"],
            )
        except (msgspec.MsgspecError, KeyError) as error:
            raise Corrupt("state_corrupt", f"{path} is damaged") from error

    def begin(self, keys: NewIdentity) -> None:
        """Keep the keys before anybody is asked to sign them."""
        make_private_directory(self._root)
        self.settle()
        shutil.rmtree(self.next, ignore_errors=True)
        make_private_directory(self.next)
        write_private(self.next / KEY_FILE, keys.key_pem)
        parts = {"csr": keys.csr_pem.decode(), "seed": keys.seed, "user": keys.user}
        write_private(self.next / _PENDING_FILE, json.dumps(parts).encode())

    def complete(
        self, keys: NewIdentity, facts: AgentFacts, *, cert_pem: bytes, ca_pem: bytes, jwt: str
    ) -> None:
        """Make what was begun the identity in use."""
        write_identity(self.next, keys, cert_pem=cert_pem, ca_pem=ca_pem, jwt=jwt)
        lines = (
            f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
            for name, value in msgspec.to_builtins(facts).items()
        )
        write_private(self.next / FACTS_FILE, "".join(lines).encode())
        with os_errors(self.next, "write"):
            (self.next / _PENDING_FILE).unlink(missing_ok=True)
        self.settle()

    def settle(self) -> None:
        """Let a whole `next` become `current`; nothing to do otherwise."""
        if not (self.next / FACTS_FILE).exists():
            return
        old = self._root / "old"
        with os_errors(self.current, "replace"):
            shutil.rmtree(old, ignore_errors=True)
            if self.current.exists():
                self.current.rename(old)
            self.next.rename(self.current)
            sync_directory(self._root)
            shutil.rmtree(old, ignore_errors=True)


def _read_facts(path: Path) -> AgentFacts:
    try:
        return msgspec.convert(tomllib.loads(read_text(path)), AgentFacts, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Corrupt("state_corrupt", f"{path}: {error}") from error

"""Identity of the agent, in the slots `<state>/identity/current/`, `next/` and `old/`.

A slot holds the keys, their certificate and token, and `identity.toml`, which is written last: a
slot without it is incomplete. A new identity is made in `next` and replaces `current` by renames; a
crash between them leaves `next` complete, and the next start goes on from there.

A renewed identity is a candidate first, its facts in `candidate.toml`, until a connection with it
works. The replaced identity stays in `old` until the master has confirmed the new one.
"""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from broker_client.runtime import failpoints
from broker_client.runtime.files import (
    make_private_directory,
    os_errors,
    read_bytes,
    read_text,
    sync_directory,
    write_private,
    write_public,
)
from broker_client.runtime.identity import (
    CA_FILE,
    CERT_FILE,
    KEY_FILE,
    Identity,
    NewIdentity,
    read_identity,
    write_identity,
)
from broker_client.runtime.tls import client_context_of
from schemas.faults import Corrupt, Refused

FACTS_FILE: Final = "identity.toml"
CANDIDATE_FILE: Final = "candidate.toml"
_PENDING_FILE: Final = "request.json"


_ANSWERED: Final = (FACTS_FILE, CANDIDATE_FILE)


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `identity.toml`: names, addresses of brokers, facts of the certificate."""

    agent: str
    group: str
    mesh: str
    urls: tuple[str, ...]
    serial: str
    not_after: float


class IdentitySlots:
    """The identity slots of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "identity"
        self.current = self._root / "current"
        self.next = self._root / "next"
        self.old = self._root / "old"

    def facts(self) -> AgentFacts | None:
        """Read the agent's facts; None if it was never set up. Raises Corrupt."""
        slot = self._whole()
        return None if slot is None else _read_facts(slot / FACTS_FILE)

    def ca_pem(self) -> bytes:
        slot = self._whole()
        return b"" if slot is None else read_bytes(slot / CA_FILE)

    def identity(self) -> Identity:
        """Read the keys in use; raises Refused (`state_missing`) if there are none."""
        return read_identity(self.in_use())

    def _whole(self) -> Path | None:
        for slot in (self.current, self.next):
            with os_errors(slot, "read"):
                if (slot / FACTS_FILE).exists():
                    return slot
        return None

    def pending(self) -> NewIdentity | None:
        """Keys of a request whose answer never came, to be used again; None without."""
        path = self.next / _PENDING_FILE
        if not path.exists() or any((self.next / name).exists() for name in _ANSWERED):
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
        """Store the keys, before the request to sign them."""
        make_private_directory(self._root)
        self.swap_in()
        shutil.rmtree(self.next, ignore_errors=True)
        make_private_directory(self.next)
        write_private(self.next / KEY_FILE, keys.key_pem)
        parts = {"csr": keys.csr_pem.decode(), "seed": keys.seed, "user": keys.user}
        write_private(self.next / _PENDING_FILE, json.dumps(parts).encode())

    def complete(
        self, keys: NewIdentity, facts: AgentFacts, *, cert_pem: bytes, ca_pem: bytes, jwt: str
    ) -> None:
        """Make the stored keys the identity in use."""
        self._store(keys, facts, FACTS_FILE, cert_pem=cert_pem, ca_pem=ca_pem, jwt=jwt)
        self.swap_in()
        self.drop_old()

    def _store(
        self,
        keys: NewIdentity,
        facts: AgentFacts,
        name: str,
        *,
        cert_pem: bytes,
        ca_pem: bytes,
        jwt: str,
    ) -> None:
        write_identity(self.next, keys, cert_pem=cert_pem, ca_pem=ca_pem, jwt=jwt)
        _write_facts(self.next / name, facts)
        with os_errors(self.next, "write"):
            (self.next / _PENDING_FILE).unlink(missing_ok=True)

    def swap_in(self) -> None:
        """Move a complete `next` to `current`, and that to `old`; idempotent."""
        if not (self.next / FACTS_FILE).exists():
            return
        with os_errors(self.current, "replace"):
            if self.current.exists():
                shutil.rmtree(self.old, ignore_errors=True)
                self.current.rename(self.old)
            failpoints.reach("agent.renewal_settling")
            self.next.rename(self.current)
            sync_directory(self._root)

    # renewal

    def in_use(self) -> Path:
        """Path of the slot in use; raises Refused (`state_missing`) if there is none."""
        slot = self._whole()
        if slot is None:
            raise Refused("state_missing", f"{self._root} holds no identity")
        return slot

    def hold(
        self, keys: NewIdentity, facts: AgentFacts, *, cert_pem: bytes, ca_pem: bytes, jwt: str
    ) -> None:
        """Store the new identity as a candidate, to be tried."""
        self._store(keys, facts, CANDIDATE_FILE, cert_pem=cert_pem, ca_pem=ca_pem, jwt=jwt)

    def candidate(self) -> AgentFacts | None:
        path = self.next / CANDIDATE_FILE
        return _read_facts(path) if path.exists() else None

    def promote(self) -> None:
        """Make the candidate the identity in use, after a connection with it worked."""
        with os_errors(self.next, "replace"):
            (self.next / CANDIDATE_FILE).rename(self.next / FACTS_FILE)
            sync_directory(self.next)
        self.swap_in()

    def restore_old(self) -> None:
        """Return to the old identity, since the one in use is refused permanently."""
        with os_errors(self.old, "restore"):
            shutil.rmtree(self.current, ignore_errors=True)
            self.old.rename(self.current)
            sync_directory(self._root)

    def trust(self, ca_pem: bytes) -> None:
        """Trust these authorities, in all slots; raises Corrupt for other content."""
        slots = self.ways_in()
        key = read_bytes(slots[0] / KEY_FILE)
        client_context_of(ca_pem, read_bytes(slots[0] / CERT_FILE), key)
        for slot in slots:
            write_public(slot / CA_FILE, ca_pem)

    def look_at(self, urls: tuple[str, ...]) -> None:
        """Store these addresses of brokers, in all slots."""
        for slot in self.ways_in():
            for path in (slot / FACTS_FILE, slot / CANDIDATE_FILE):
                if path.exists():
                    _write_facts(path, msgspec.structs.replace(_read_facts(path), urls=urls))

    def discard_next(self) -> None:
        """Delete the candidate, or the keys for one."""
        shutil.rmtree(self.next, ignore_errors=True)

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the master may not yet have confirmed the identity in use."""
        return self.old.exists()

    def drop_old(self) -> None:
        shutil.rmtree(self.old, ignore_errors=True)

    def ways_in(self) -> list[Path]:
        """Slots that the broker may accept, the one in use first."""
        slots = [self.in_use()]
        if (self.old / FACTS_FILE).exists():
            slots.append(self.old)
        if (self.next / CANDIDATE_FILE).exists():
            slots.append(self.next)
        return slots


def _write_facts(path: Path, facts: AgentFacts) -> None:
    lines = (
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in msgspec.to_builtins(facts).items()
    )
    write_private(path, "".join(lines).encode())


def _read_facts(path: Path) -> AgentFacts:
    try:
        return msgspec.convert(tomllib.loads(read_text(path)), AgentFacts, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        from schemas.wrong import told  # for a file that is wrong only

        raise Corrupt("state_corrupt", f"{path}: {told(error, AgentFacts)}") from error

"""Issues certificate and NATS token together, with one end for both."""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from broker_client.runtime.nkeys import check_public, verify
from broker_client.runtime.tls import certificate_facts
from broker_master.ca.accounts import Accounts
from broker_master.ca.authorities import Authorities
from broker_master.ca.authority import BACKDATE_S, certified_digest
from broker_master.ca.claims import encode_jwt
from schemas.faults import Corrupt, Misused, Refused
from schemas.ids import check_name
from schemas.messages.registry import CertificateEntry
from schemas.messages.renewal import Purpose, RenewalRequest, key_proof_text, proof_text
from schemas.permissions import CLIENT_ROLES, SCOPES
from schemas.spans import DAY_S

# Of a client made without a master; one made by a master has `certificates.client_days`.
CLIENT_LIFETIME_S: Final = int(365 * DAY_S)


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a request for an identity. serial: lower-case hex; times: whole unix seconds.

    ca_pem: the authorities to trust. fingerprint: of the certificate. authority, signer:
    generations of the keys that signed certificate and token. key: as in the registry's entries.
    """

    cert_pem: bytes
    ca_pem: bytes
    jwt: str
    user: str
    serial: str
    not_before: int
    not_after: int
    fingerprint: str = ""
    authority: int = 1
    signer: int = 1
    key: str = ""

    def entry(self, at: float) -> CertificateEntry:
        """Entry of this certificate for the registry."""
        return CertificateEntry(
            serial=self.serial,
            not_after=self.not_after,
            user_nkey=self.user,
            issued_at=at,
            fingerprint=self.fingerprint,
            authority=self.authority,
            signer=self.signer,
            key=self.key,
        )


class Issuer:
    """Signs for one mesh. Checks every name and key before anything is built from it."""

    def __init__(
        self, authority: Authorities, accounts: Accounts, *, now: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._accounts = accounts
        self._now = now

    @property
    def ca_pem(self) -> bytes:
        """Authorities that the holder of new credentials has to trust."""
        return self._authority.ca_pem

    @property
    def broker_ca_pem(self) -> bytes:
        """The one authority of the broker's present certificate."""
        return self._authority.active_pem

    def trust_of(self, entry: CertificateEntry) -> str:
        """Digest of the trusted authorities sent with a certificate; empty if they have changed."""
        return self._authority.digest if entry.issued_at >= self._authority.rotation.since else ""

    def check_proof(self, role: str, name: str, request: RenewalRequest) -> str:
        """Check that `name` holds its certificate's key and its new keys; return the serial.

        role: as for `issue`. The caller checks that the serial is still valid. Raises Refused
        (`request_invalid`).
        """
        kind = "client" if role in CLIENT_ROLES else role
        cert_pem = request.cert_pem.encode()
        signer = self._authority.signer_of(cert_pem)
        if not signer:
            raise Refused("request_invalid", "not a certificate of this mesh")
        key = self._authority.of(signer).client_key(cert_pem, kind, name)
        text = proof_text(name, request.user_nkey, request.csr_pem.encode())
        _check_user(request.user_nkey)
        try:
            key.verify(request.signature, text, ECDSA(SHA256()))
        except InvalidSignature as error:
            raise Refused("request_invalid", "not signed by the certificate in use") from error
        if not verify(request.user_nkey, text, request.user_signature):
            raise Refused("request_invalid", "not signed by the new broker key")
        return certificate_facts(cert_pem).serial

    def check_key(
        self, purpose: Purpose, name: str, csr_pem: str, user_nkey: str, signature: bytes
    ) -> bool:
        """Check the proof of the broker key; False if there is none (0.1.0).

        Raises Refused (`request_invalid`) for a wrong proof.
        """
        _check_user(user_nkey)
        if not signature:
            return False
        text = key_proof_text(purpose, self._authority.mesh, name, user_nkey, csr_pem.encode())
        if not verify(user_nkey, text, signature):
            raise Refused("request_invalid", "not signed by the new broker key")
        return True

    def issue(
        self,
        role: str,
        name: str,
        csr_pem: bytes,
        user_nkey: str,
        not_after: int,
        group: str | None = None,
        *,
        not_before: int | None = None,
    ) -> Credentials:
        """Credentials of `name` in `role`, a key of schemas.permissions.SCOPES.

        group: an agent's group; empty for other roles. not_after: end of both, at most the
        authority's own end. not_before: start of both, by default a minute ago. Raises Refused
        (`name_invalid`, `request_invalid`).
        """
        check_name("client" if role in CLIENT_ROLES else "agent", name)
        if role not in SCOPES:
            raise Misused("internal", f"no such role: {role}")
        if (group is None) is (role == "agent"):
            raise Misused("internal", f"a group is for agents, and for each of them: {role} {name}")
        part: dict[str, Any] = {"issuer_account": self._accounts.account}
        if group is not None:
            part["tags"] = [f"group:{check_name('group', group)}"]
        kind = "client" if role in CLIENT_ROLES else role
        return self._issue(kind, role, name, csr_pem, user_nkey, (not_before, not_after), part)

    def issue_master(
        self, name: str, csr_pem: bytes, user_nkey: str, not_after: int
    ) -> Credentials:
        """Issue a master's credentials: all rights in the mesh's account, none in the system's."""
        check_name("master", name)
        part = {"issuer_account": self._accounts.account, **_UNLIMITED}
        return self._issue("master", "master", name, csr_pem, user_nkey, (None, not_after), part)

    def issue_system(
        self, name: str, csr_pem: bytes, user_nkey: str, not_after: int
    ) -> Credentials:
        """Issue the user that updates the account, lists connections and disconnects them."""
        check_name("system user", name)
        part = {
            "issuer_account": self._accounts.system_account,
            **_UNLIMITED,
            "pub": {"allow": ["$SYS.REQ.>"]},
            "sub": {"allow": ["$SYS.>", f"_INBOX_{name}.>"]},
        }
        return self._issue("system", "system", name, csr_pem, user_nkey, (None, not_after), part)

    def _issue(
        self,
        kind: str,
        role: str,
        name: str,
        csr_pem: bytes,
        user_nkey: str,
        span: tuple[int | None, int],
        part: dict[str, Any],
    ) -> Credentials:
        _check_user(user_nkey)
        now = int(self._now())
        not_before = now - BACKDATE_S if span[0] is None else span[0]
        not_after = min(span[1], self._authority.not_after)
        if not_after <= not_before:
            raise Misused("internal", f"credentials of {name} would end before they begin")
        cert_pem = self._authority.sign_client(
            csr_pem, kind, name, not_before=not_before, not_after=not_after
        )
        claims = {
            "sub": user_nkey,
            "name": name,
            "nbf": not_before,
            "exp": not_after,
            "nats": {"type": "user", "version": 2, **part},
        }
        facts = certificate_facts(cert_pem)
        return Credentials(
            cert_pem=cert_pem,
            ca_pem=self._authority.ca_pem,
            jwt=encode_jwt(claims, self._accounts.signing_key(role), issued_at=now),
            user=user_nkey,
            serial=facts.serial,
            not_before=not_before,
            not_after=not_after,
            fingerprint=facts.fingerprint,
            authority=self._authority.generation,
            signer=self._accounts.generation(role),
            key=certified_digest(cert_pem),
        )


_UNLIMITED: Final = {"subs": -1, "data": -1, "payload": -1}


def _check_user(user_nkey: str) -> None:
    try:
        check_public(user_nkey, "user")
    except Corrupt as error:
        raise Refused("request_invalid", "not the public key of a NATS user") from error

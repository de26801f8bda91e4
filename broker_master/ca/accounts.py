"""The broker's view of the mesh: operator, accounts, and one signing key per role.

    operator ──signs once──▶ operator token (names its signing keys, and is in the configuration)
    operator signing key ──▶ account tokens (an update revokes users)
    account ── scoped key per role ──▶ users of that role, inside that role's template
            └─ master key, unscoped ─▶ masters
    system account ── its signing key ─▶ the user that updates accounts and cuts connections

The broker accepts nothing that a root key has signed directly (`strict_signing_key_usage`), and
from a scoped key only users inside its template: a thief of the agents' key can make agents, and
nothing else. Keys can be rotated one by one (`rotation.json`): for a while both are trusted. The
broker takes account tokens at once, and the operator's token with its next start alone.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec

from broker_client.runtime import failpoints
from broker_client.runtime.files import (
    make_private_directory,
    read_bytes,
    read_text,
    write_private,
)
from broker_client.runtime.nkeys import KeyPair, check_public
from broker_master.ca.claims import Claims, decode_jwt, encode_jwt
from broker_master.ca.key_files import (
    OPERATOR,
    SYSTEM,
    make_generation,
    make_missing,
    read_keys,
    remove_former,
    root_name,
    signer_name,
)
from broker_master.ca.rotation_file import read_rotations, write_rotations
from broker_master.core.rotation import Rotation, advance
from schemas.faults import Corrupt
from schemas.permissions import SCOPES, Scope
from schemas.wrong import told

N = TypeVar("N", int, float)

_ENDS: Final = "revoked.json"
_ENDED_S: Final = 600.0
_SHUT_OUT: Final = "shut-out.json"
_NO_LIMITS: Final = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": 0,
    "disallow_bearer": True,
}
_STREAMS: Final = {
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
    "max_ack_pending": -1,
    "mem_max_stream_bytes": -1,
    "disk_max_stream_bytes": -1,
}


class Accounts:
    """Keys and tokens of one mesh, kept as files of `folder`, the keys 0600."""

    def __init__(self, folder: Path, mesh: str) -> None:
        self._folder = folder
        self._mesh = mesh
        self._rotations = read_rotations(folder)
        self._keys: dict[str, KeyPair] = {}
        # Refused for a while, beside the revoked ones.
        self._shut_out: dict[str, int] = {}
        self.operator_jwt = ""
        self.system_jwt = ""
        self.account_jwt = ""

    @classmethod
    def create(cls, folder: Path, *, mesh: str, now: int) -> Self:
        """Make missing files of `folder` and keep existing ones, also after a crash half-way."""
        make_private_directory(folder)
        accounts = cls(folder, mesh)
        make_missing(folder, accounts._rotations)
        accounts._complete(now)
        accounts._let_in(now)
        return accounts

    @classmethod
    def load(cls, folder: Path, *, mesh: str, now: int) -> Self:
        """Raises Refused (`state_missing`) if `create` never finished, Corrupt if damaged.

        Tokens are brought up to date with this release's permissions.
        """
        accounts = cls(folder, mesh)
        read_text(folder / "account.jwt")
        accounts._complete(now)
        accounts._let_in(now)
        return accounts

    @property
    def account(self) -> str:
        """The public key of the account to which all but the system user belong."""
        return self._keys["account"].public

    @property
    def system_account(self) -> str:
        return self._keys["system"].public

    @property
    def revocations(self) -> dict[str, int]:
        """Permanently refused user keys, each with the latest issue time of its refused tokens."""
        refused = decode_jwt(self.account_jwt)["nats"].get("revocations", {})
        return {user: at for user, at in refused.items() if self._shut_out.get(user) != at}

    @property
    def publics(self) -> set[str]:
        """Public halves of all keys of the mesh: operator, accounts, and signing keys."""
        return {key.public for key in self._keys.values()}

    @property
    def operator_signers(self) -> set[str]:
        """Public keys whose account tokens the broker should accept."""
        return set(self._signing_keys(OPERATOR))

    def signing_key(self, key: str) -> KeyPair:
        """The key that signs for `key`, one of ROTATED: users of that role, or account tokens."""
        return self._keys[signer_name(key, self.generation(key))]

    def generation(self, key: str) -> int:
        """Generation of the key that signs now."""
        return self.rotation(key).active

    def rotation(self, key: str) -> Rotation:
        return self._rotations.get(key, Rotation())

    def signer_of(self, role: str, public: str) -> int:
        """Generation of the key of `role` with this public half; 0 if it is unknown."""
        keys = {self._keys[signer_name(role, n)].public: n for n in self.rotation(role).trusted}
        return keys.get(public, 0)

    def rotate(self, key: str, step: str, *, now: float) -> list[str]:
        """Take one step with `key`, one of ROTATED; returns the account tokens that it concerns.

        The broker applies them once the system user publishes them, in this order; a changed
        `operator_jwt` with its next start. A repeated step changes nothing. Raises Refused
        (`step_refused`).
        """
        before = self.rotation(key)
        rotation = advance(before, step, at=now)
        if rotation != before:
            if rotation.newest > before.newest:
                make_generation(self._folder, key, rotation.newest)
                failpoints.reach("master.key_made")
            rotations = {**self._rotations, key: rotation}
            write_rotations(self._folder, rotations)
            failpoints.reach("master.key_stepped")
            self._rotations = rotations
        self._complete(int(now))
        tokens = [self.system_jwt] if key in (SYSTEM, OPERATOR) else []
        return [*tokens, self.account_jwt] if key != SYSTEM else tokens

    def set_revocations(self, revocations: Mapping[str, int], *, now: int) -> str:
        """Make and keep an account token that refuses exactly these users; returns it.

        revocations: public user key -> unix time; their tokens issued up to then are refused. The
        broker applies it once the system user publishes the token.
        """
        for user in revocations:
            check_public(user, "user")
        claims = self._account_claims(revocations)
        signer = self.signing_key(OPERATOR)
        self.account_jwt = self._replace("account", self.account_jwt, claims, signer, now)
        return self.account_jwt

    def revoke(self, ends: Mapping[str, float], *, now: float) -> str:
        """Refuse these users as well, and drop those whose credentials have expired.

        ends: public user key -> when its credentials end. Returns the account token, as
        `set_revocations` does; the ends are kept beside it, in `revoked.json`.
        """
        for user in ends:
            self._shut_out.pop(user, None)
        known = {**self._read_ends(), **ends}
        revoked = {**self.revocations, **dict.fromkeys(ends, int(now) + 1)}
        # Somewhat longer than their validity: clocks differ.
        kept = {user: at for user, at in revoked.items() if known.get(user, now) + _ENDED_S > now}
        ends = {user: known[user] for user in kept if user in known}
        write_private(self._folder / _ENDS, msgspec.json.encode(ends))
        return self.set_revocations(kept, now=int(now))

    def shut_out(self, users: Collection[str], *, now: float) -> str:
        """Refuse exactly these users for a while, beside the revoked; returns the account token.

        A list of its own, written first, holds them: after a crash the next master admits them
        again when it starts.
        """
        revoked, before = self.revocations, self._shut_out
        wanted = {user: before.get(user, int(now) + 1) for user in users if user not in revoked}
        path = self._folder / _SHUT_OUT
        if before or wanted:
            write_private(path, msgspec.json.encode({**before, **wanted}))
        self._shut_out = wanted
        token = self.set_revocations(revoked, now=int(now))
        if not wanted:
            path.unlink(missing_ok=True)
        return token

    def _let_in(self, now: int) -> None:
        """Lift all temporary refusals at a start, those of the previous master included."""
        path = self._folder / _SHUT_OUT
        if not path.exists():
            return
        self._shut_out = self._read_times(_SHUT_OUT, int)
        revoked, self._shut_out = self.revocations, {}
        self.set_revocations(revoked, now=now)
        path.unlink(missing_ok=True)

    def _read_ends(self) -> dict[str, float]:
        return self._read_times(_ENDS, float)

    def _read_times(self, name: str, kind: type[N]) -> dict[str, N]:
        path = self._folder / name
        wanted: Any = dict[str, kind]  # type: ignore[valid-type]
        if not path.exists():
            return {}
        try:
            found: dict[str, N] = msgspec.json.decode(read_bytes(path), type=wanted)
        except msgspec.MsgspecError as error:
            raise Corrupt("state_corrupt", f"{path}: {told(error, wanted)}") from error
        return found

    def _complete(self, now: int) -> None:
        """Read the tokens; make missing ones, and replace those with wrong contents.

        The seeds of former generations go last, when no token depends on them.
        """
        self._keys = read_keys(self._folder, self._rotations)
        # Already the next one's, so that a node restarts twice in a rotation, not three times.
        root = self._keys[root_name(self.rotation(OPERATOR).trusted[-1])]
        self.operator_jwt = self._token("operator", root, self._operator_claims(root), now)
        signer = self.signing_key(OPERATOR)
        self.system_jwt = self._token("system", signer, self._system_claims(), now)
        self.account_jwt = self._read_token("account")
        if not self.account_jwt:
            self.set_revocations({}, now=now)
        elif not self._says(self.account_jwt, signer, self._account_claims(self.revocations)):
            self.set_revocations(self.revocations, now=now)
        remove_former(self._folder, self._rotations)

    def _token(self, name: str, signer: KeyPair, claims: Claims, now: int) -> str:
        token = self._read_token(name)
        if token and self._says(token, signer, claims):
            return token
        return self._replace(name, token, claims, signer, now)

    def _replace(self, name: str, old: str, claims: Claims, signer: KeyPair, now: int) -> str:
        # The broker keeps the token issued last: each must be newer than the one before.
        issued_at = max(now, decode_jwt(old)["iat"] + 1) if old else now
        token = encode_jwt(claims, signer, issued_at=issued_at)
        write_private(self._folder / f"{name}.jwt", token.encode())
        return token

    def _read_token(self, name: str) -> str:
        path = self._folder / f"{name}.jwt"
        return read_text(path).strip() if path.exists() else ""

    def _says(self, token: str, signer: KeyPair, wanted: Claims) -> bool:
        """Whether a kept token is of `signer` and has the wanted claims.

        Raises Corrupt if it is for another key, or was signed by one that is trusted no more.
        """
        claims = decode_jwt(token)
        roots = {self._keys[root_name(each)].public for each in self.rotation(OPERATOR).trusted}
        is_root = wanted["sub"] in roots
        is_known = claims["sub"] in (roots if is_root else {wanted["sub"]})
        is_signed = claims["iss"] in (roots if is_root else self.operator_signers)
        if not is_known or not is_signed or _lost_keys(claims, wanted):
            raise Corrupt("state_corrupt", f"{self._folder}: a key is not that of its token")
        return {key: claims.get(key) for key in (*wanted, "iss")} == {
            **wanted,
            "iss": signer.public,
        }

    def _operator_claims(self, root: KeyPair) -> Claims:
        return {
            "sub": root.public,
            "name": f"mesh-{self._mesh}",
            "nats": {
                "type": "operator",
                "version": 2,
                "system_account": self.system_account,
                "signing_keys": self._signing_keys(OPERATOR),
                "strict_signing_key_usage": True,
            },
        }

    def _system_claims(self) -> Claims:
        return {
            "sub": self.system_account,
            "name": "system",
            "nats": {
                "type": "account",
                "version": 2,
                "limits": dict(_NO_LIMITS),
                "signing_keys": self._signing_keys(SYSTEM),
            },
        }

    def _signing_keys(self, key: str) -> list[str]:
        return [self._keys[signer_name(key, each)].public for each in self.rotation(key).trusted]

    def _account_claims(self, revocations: Mapping[str, int]) -> Claims:
        scoped = [
            {"kind": "user_scope", "key": key, "role": role, "template": _template(scope)}
            for role, scope in SCOPES.items()
            for key in self._signing_keys(role)
        ]
        nats: Claims = {
            "type": "account",
            "version": 2,
            "limits": {**_NO_LIMITS, **_STREAMS},
            "default_permissions": {"pub": {}, "sub": {}},
            "signing_keys": [*scoped, *self._signing_keys("master")],
        }
        refused = {**self._shut_out, **revocations}
        if refused:
            nats["revocations"] = refused
        return {"sub": self.account, "name": "mesh", "nats": nats}


def _template(scope: Scope) -> Claims:
    return {
        "pub": {"allow": list(scope.publish)},
        "sub": {"allow": list(scope.subscribe)},
        "subs": scope.subscriptions,
        "data": -1,
        "payload": scope.payload_bytes,
        "allowed_connection_types": ["STANDARD"],
    }


def _lost_keys(kept: Claims, wanted: Claims) -> bool:
    """Whether a key that signed users of a role is missing: its file was lost."""
    now = _keys_of_roles(wanted)
    return any(role in now and not keys & now[role] for role, keys in _keys_of_roles(kept).items())


def _keys_of_roles(claims: Claims) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for key in claims["nats"].get("signing_keys", []):
        if isinstance(key, dict):
            keys.setdefault(key["role"], set()).add(key["key"])
    return keys

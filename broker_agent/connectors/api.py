"""The interface of connectors, also for plug-ins.

A connector runs in a worker process and is synchronous: one call at a time, and `cancel` comes from
another thread. A plug-in is an entry point of the group `agent_mesh.connectors`, used only if the
agent's settings name it, that refers to a `Connector`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from broker_agent.core.references import Secret

__all__ = [
    "ENTRY_POINTS",
    "ActionSpec",
    "Call",
    "CallFailed",
    "Connector",
    "Effect",
    "Out",
    "Profile",
    "Result",
    "Secret",
    "Secrets",
    "Session",
]

ENTRY_POINTS: Final = "agent_mesh.connectors"
# On the system behind the connection, when a call has ended.
Effect: TypeAlias = Literal["none", "unknown", "done"]
# Names and values for people and for recipes: at most 32 KiB as msgpack.
Result: TypeAlias = Mapping[str, Any]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a connector, from a file of the host; base of each kind's own settings.

    Fields of the type `Secret` are references; their values are in `Secrets` by the field's name.
    """


# Values of secrets by the dotted name of their field: `password`, `auth.token`.
Secrets: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """An action of a connector. args: its arguments. effect: `reads` may be repeated safely."""

    args: type[msgspec.Struct]
    effect: Literal["reads", "writes"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call. id: the command's. key: idempotency key. deadline: reading of `time.monotonic`."""

    id: str
    key: str
    deadline: float


class Out(Protocol):
    """The output of a call, straight into the task's file; bounded by the command's limit."""

    @property
    def written(self) -> int:
        """Number of bytes so far."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, and wait while the agent's disk is short.

        Raises CallFailed (`result_too_large`) beyond the limit, which is told with it.
        """


class CallFailed(Exception):
    """End of a call that did not succeed.

    code: of `schemas.faults` or `docs/connections.md`. effect: of the call on the system. The
    message is shown to people; the worker removes values of secrets from it.
    """

    def __init__(self, code: str, message: str, *, effect: Effect = "unknown") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.effect = effect


class Session(Protocol):
    """An open session with the system, used for one call at a time."""

    # Of the session at the server, by which `Connector.kill` ends what a lost worker left; or "".
    server_id: str

    def call(self, action: str, args: Any, out: Out, call: Call) -> Result:  # noqa: ANN401
        """Carry out one action; args: of the type of its `ActionSpec`. Raises CallFailed.

        A session that cannot be used again says so by `is_broken`.
        """

    @property
    def is_broken(self) -> bool:
        """Whether the next call needs another session."""

    def test(self, step: Callable[[str], None]) -> str:
        """Try the way to the system; returns the server's name and version. Raises CallFailed.

        step: called after `resolve`, `connect`, `tls`, `login` and `query`, as far as the kind has
        them.
        """

    def cancel(self) -> None:
        """Interrupt the running call, if there is one; called from another thread."""

    def close(self) -> None:
        """Close it; never raises."""


class Connector(Protocol):
    """A kind of system. profile: type of its settings. capability: family of its actions."""

    kind: str
    capability: str
    profile: type[Profile]
    actions: Mapping[str, ActionSpec]

    def check(self, profile: Any) -> Sequence[str]:  # noqa: ANN401
        """Return what is wrong with settings that their type does not say, each as a sentence."""

    def open(self, profile: Any, secrets: Secrets) -> Session:  # noqa: ANN401
        """Connect and log in. Raises CallFailed with effect none.

        Codes: `connector_missing` (names the extra), `target_unreachable`, `login_refused`,
        `tls_failed`.
        """

    def kill(self, profile: Any, secrets: Secrets, server_id: str) -> None:  # noqa: ANN401
        """End what another session left running at the server, if the kind can."""

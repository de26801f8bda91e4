"""The action `connection.test`, through a connection of any kind."""

from typing import Final

from schemas.messages.actions.base import Action, Arguments


class ConnectionTestArgs(Arguments, frozen=True, kw_only=True):
    """Try the way to the system step by step.

    The result of its attempt has `steps`, a map from `resolve`, `connect`, `tls`, `login` and
    `query`, as far as it came, to seconds; and `server`, name and version of the system.
    """


CONNECTION_TEST: Final = Action(
    name="connection.test",
    args=ConnectionTestArgs,
    does="tries the way to the system behind a connection, step by step",
    summary=lambda _args: "connection test",
    effect="none",
    capability="any",
)

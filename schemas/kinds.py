"""Built-in kinds of connections: what each speaks, and what it takes.

A plug-in of an agent adds kinds of its own, which a master knows by the profiles of its agents.
"""

from types import MappingProxyType
from typing import Final

from schemas.messages.actions import ACTIONS

# Kind of a connection: the capability of its actions.
KINDS: Final = MappingProxyType(
    {
        "postgresql": "sql",
        "mysql": "sql",
        "sqlite": "sql",
        "http": "http",
        "directory": "file",
        "sftp": "file",
        "script": "script",
    }
)
# Capability of an action that works through a connection of each kind.
ANY_KIND: Final = "any"


def actions_of(kind: str) -> tuple[str, ...]:
    """Return the actions that connections of a built-in kind take; none for another kind."""
    capability = KINDS.get(kind)
    return tuple(
        action.name
        for action in ACTIONS.values()
        if capability and action.capability in (capability, ANY_KIND)
    )

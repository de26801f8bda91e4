"""Receives the profiles of agents' hosts."""

from collections.abc import Callable

import structlog

from broker_master.core.liveness import Presence
from broker_master.plane import Plane
from schemas import codec, subjects
from schemas.messages.liveness import Profiles

log = structlog.get_logger()


class ProfileReceiver:
    """on_change: called with the presence of an agent whose profiles have changed."""

    def __init__(self, plane: Plane, on_change: Callable[[Presence], None]) -> None:
        self._plane = plane
        self._on_change = on_change

    def on_profiles(self, up: subjects.Up, payload: bytes) -> None:
        """Take in all profiles of one agent; idempotent."""
        plane = self._plane
        entry = plane.registry.agents.get(up.agent)
        if entry is None or entry.group != up.group:
            plane.count("unknown_agent")
            return
        message = codec.decode(Profiles, payload)
        presence = plane.roster.get(up.agent)
        if presence is None or not plane.profiles.take(presence, message):
            return
        log.info("profiles_changed", agent=up.agent, profiles=len(message.items))
        self._on_change(presence)

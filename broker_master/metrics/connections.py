"""Series of connections: status, profiles of their hosts, commands through them."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from broker_master.core.call_measures import CallMeasures
from broker_master.core.connections import ConnectionStatus, ProfileState, profile_state
from broker_master.metrics import catalogue as c
from broker_master.metrics.text import family, histograms
from broker_master.plane import Plane
from schemas.messages.registry import ConnectionEntry
from schemas.states import TERMINAL

_OUTCOMES: Final = sorted(str(state) for state in TERMINAL)
# Faults that are shown from the start, as 0, so that the first one shows as a rise.
_FAULTS: Final = (
    "login_refused",
    "target_lost",
    "target_timeout",
    "target_unreachable",
    "tls_failed",
    "worker_lost",
)
Names = Mapping[str, str]


class _Hosts(NamedTuple):
    states: dict[ProfileState, int]
    broken: int
    hashes: int


class ConnectionSeries:
    """A part per family; empty parts are places to pause at."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def parts(self) -> Iterator[str]:
        self._sync_names()
        entries = sorted(self._plane.registry.connections.values(), key=lambda each: each.name)
        named = [(_names(entry), entry) for entry in entries]
        yield self._active(named)
        yield from self._hosts(named)
        yield from self._calls(named)

    def _sync_names(self) -> None:
        """The series of a deleted connection end; those of a new one begin with 0."""
        measures, registry = self._plane.telemetry.measures, self._plane.registry
        for name in measures.connections.keys() - registry.connections.keys():
            del measures.connections[name]

    def _active(self, named: list[tuple[Names, ConnectionEntry]]) -> str:
        statuses = self._plane.statuses
        return family(
            c.CONNECTION_ACTIVE,
            (
                (names, int(statuses.connection(entry.name) == ConnectionStatus.ACTIVE))
                for names, entry in named
                if entry.enabled
            ),
        )

    def _hosts(self, named: list[tuple[Names, ConnectionEntry]]) -> Iterator[str]:
        found: list[tuple[Names, _Hosts]] = []
        for names, entry in named:
            yield ""
            found.append((names, self._profiles(entry)))
        yield family(
            c.CONNECTION_HOSTS,
            (
                ({**names, "profile": state}, hosts.states.get(state, 0))
                for names, hosts in found
                for state in ProfileState
            ),
        )
        yield family(c.CONNECTION_BROKEN, ((names, hosts.broken) for names, hosts in found))
        yield family(c.CONNECTION_HASHES, ((names, hosts.hashes) for names, hosts in found))

    def _profiles(self, entry: ConnectionEntry) -> _Hosts:
        plane = self._plane
        states: dict[ProfileState, int] = {}
        broken, hashes = 0, set[str]()
        for agent in plane.dispatcher.pool(entry.group).members:
            profile = plane.profiles.find(plane.roster.get(agent), entry.name)
            state = profile_state(entry, profile)
            states[state] = states.get(state, 0) + 1
            if profile is not None:
                broken += bool(profile.problem) or profile.state != "ok"
                hashes.update([profile.hash] if profile.state == "ok" else [])
        return _Hosts(states, broken, len(hashes))

    def _calls(self, named: list[tuple[Names, ConnectionEntry]]) -> Iterator[str]:
        load = self._plane.dispatcher.ways.load
        yield family(c.CONNECTION_RUNNING, ((names, load(entry.name)) for names, entry in named))
        calls = [(names, self._measures(entry)) for names, entry in named]
        yield family(
            c.CONNECTION_FINISHED,
            (
                ({**names, "outcome": outcome}, each.finished.get(outcome, 0))
                for names, each in calls
                for outcome in _OUTCOMES
            ),
        )
        yield family(
            c.CONNECTION_FAULTS,
            (
                ({**names, "code": code}, each.faults.get(code, 0))
                for names, each in calls
                for code in sorted({*_FAULTS, *each.faults})
            ),
        )
        yield family(c.CONNECTION_BYTES, ((names, each.output_bytes) for names, each in calls))
        yield histograms(c.CONNECTION_SECONDS, ((names, each.seconds) for names, each in calls))

    def _measures(self, entry: ConnectionEntry) -> CallMeasures:
        return self._plane.telemetry.measures.connection(entry.name)


def _names(entry: ConnectionEntry) -> Names:
    return {"connection": entry.name, "group": entry.group, "kind": entry.kind}

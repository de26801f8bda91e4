"""A scrape: the plane's numbers as text, in slices, at most once a second.

Nothing is counted here but agents and open commands, which are there to be counted; all else has
been counted while it happened.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

from broker_client.runtime.exposition import labels, number
from broker_master import VERSION
from broker_master.core.measures import AUTH_REASONS, Histogram
from broker_master.metrics import catalogue as c
from broker_master.metrics.fleet import Fleet
from broker_master.metrics.survey import Findings
from broker_master.plane import Plane
from broker_master.store.facts import stream_configs
from schemas.messages.actions import ACTIONS
from schemas.states import TERMINAL, State

KEPT_S: Final = 1.0
# A slice of a scrape may hold the loop for about this long.
SLICE_S: Final = 0.004
COMMANDS_PER_SLICE: Final = 2000
_DAY_S: Final = 86_400.0
_PHASES: Final[Mapping[State, str]] = {
    State.QUEUED: "queued",
    State.SENT: "sent",
    State.ACCEPTED: "acknowledged",
    State.RUNNING: "running",
    State.UNKNOWN: "unknown",
    State.STOPPING: "stopping",
}
_OUTCOMES: Final = sorted(str(state) for state in TERMINAL)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a scrape shows beside the plane. ends: not_after by name, of authorities and servers."""

    findings: Findings
    history_lag_s: Callable[[], float]
    authorities: Mapping[str, float]
    servers: Callable[[], Mapping[str, float]]


class Scraper:
    """`page` gives the text; scrapers that come at once share one rendering."""

    def __init__(self, plane: Plane, surroundings: Surroundings) -> None:
        self._plane = plane
        self._around = surroundings
        self.fleet = Fleet(plane)
        self._own = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._own)
        GCCollector(registry=self._own)
        self._limits = {
            config.name: config.max_bytes
            for config in stream_configs(plane.settings)
            if config.max_bytes > 0
        }
        # Guards the two below: one renders, the others wait for it.
        self._rendering = asyncio.Lock()
        self._page = b""
        self._made_s = float("-inf")

    async def page(self) -> bytes:
        async with self._rendering:
            clock = self._plane.clock
            if clock.elapsed() - self._made_s < KEPT_S:
                return self._page
            parts = []
            began_s = clock.elapsed()
            for part in self._parts():
                parts.append(part)
                if clock.elapsed() - began_s > SLICE_S:
                    # Commands go first.
                    await asyncio.sleep(0)
                    began_s = clock.elapsed()
            self._page = "".join(parts).encode()
            self._made_s = clock.elapsed()
            return self._page

    def _parts(self) -> Iterator[str]:
        self.fleet.look()
        self._forget_groups()
        yield ""
        build = {"version": VERSION, "python": platform.python_version(), "role": "master"}
        yield _family(c.BUILD, [_sample(c.BUILD, build, 1)])
        if self._plane.settings.per_agent_metrics:
            yield from self.fleet.families()
        yield from self._group_states()
        yield from self._open_commands()
        yield from self._counts_of_groups()
        yield from self._histograms_of_groups()
        yield from self._broker()
        yield from self._stores()
        yield from self._trust()
        yield from self._http()
        yield from self._settings()
        yield generate_latest(self._own).decode()

    def _forget_groups(self) -> None:
        """The series of a deleted group end."""
        groups = self._plane.measures.groups
        for name in groups.keys() - self._plane.registry.groups.keys():
            del groups[name]
        for name in self._plane.registry.groups:
            self._plane.measures.group(name)

    # -- groups

    def _group_states(self) -> Iterator[str]:
        active, agents = [], []
        for group, counts in self.fleet.counts.items():
            inner = labels({"group": group})
            active.append(f"{c.GROUP_ACTIVE.name}{inner} {int(counts[_ACTIVE] > 0)}\n")
            for status, count in counts.items():
                agents.append(f'{c.GROUP_AGENTS.name}{inner[:-1]},status="{status}"}} {count}\n')
        yield _family(c.GROUP_ACTIVE, active)
        yield _family(c.GROUP_AGENTS, agents)
        yield _family(
            c.STATUS_CHANGES,
            [
                _sample(c.STATUS_CHANGES, {"group": group, "from": old, "to": new}, count)
                for group, measures in self._groups()
                for (old, new), count in measures.changes.items()
            ],
        )

    def _open_commands(self) -> Iterator[str]:
        phases = {name: dict.fromkeys(_PHASES, 0) for name in self._plane.registry.groups}
        oldest: dict[str, float] = {}
        for index, command in enumerate(self._plane.book):
            if index % COMMANDS_PER_SLICE == 0:
                yield ""
            accepted, state = command.accepted, command.state
            counts = phases.get(accepted.group)
            if counts is None or state not in counts:
                continue
            counts[state] += 1
            if state is State.QUEUED:
                known = oldest.get(accepted.group, accepted.submitted_at)
                oldest[accepted.group] = min(known, accepted.submitted_at)
        yield _family(
            c.IN_FLIGHT,
            [
                _sample(c.IN_FLIGHT, {"group": group, "phase": _PHASES[state]}, count)
                for group, counts in phases.items()
                for state, count in counts.items()
            ],
        )
        yield _family(
            c.OLDEST, [_sample(c.OLDEST, {"group": group}, at) for group, at in oldest.items()]
        )

    def _counts_of_groups(self) -> Iterator[str]:
        """Outcomes are there from the start, as 0: the first loss of all must show as a rise."""
        submitted, finished, sends, killed, beats, missed = [], [], [], [], [], []
        for group, measures in self._groups():
            of_group = {"group": group}
            for (action, source), count in measures.submitted.items():
                named = {**of_group, "action": action, "source": source}
                submitted.append(_sample(c.SUBMITTED, named, count))
            for action in ACTIONS:
                for outcome in _OUTCOMES:
                    named = {**of_group, "action": action, "outcome": outcome}
                    count = measures.finished.get((action, outcome), 0)
                    finished.append(_sample(c.FINISHED, named, count))
            for transmission, count in sorted(measures.sends.items()):
                named = {**of_group, "attempt": str(transmission)}
                sends.append(_sample(c.SENDS, named, count))
            for reason in _KILLS:
                named = {**of_group, "reason": reason}
                killed.append(_sample(c.KILLED, named, measures.killed.get(reason, 0)))
            beats.append(_sample(c.BEATS, of_group, measures.beats))
            missed.append(_sample(c.BEATS_MISSED, of_group, measures.beats_missed))
        yield _family(c.SUBMITTED, submitted)
        yield _family(c.FINISHED, finished)
        yield _family(c.SENDS, sends)
        yield _family(c.KILLED, killed)
        yield _family(c.BEATS, beats)
        yield _family(c.BEATS_MISSED, missed)

    def _histograms_of_groups(self) -> Iterator[str]:
        yield _histograms(
            c.ACKNOWLEDGE, (({"group": name}, m.acknowledge) for name, m in self._groups())
        )
        for family, attribute in ((c.QUEUE, "queue"), (c.DURATION, "duration")):
            yield _histograms(
                family,
                (
                    ({"group": name, "action": action}, histogram)
                    for name, measures in self._groups()
                    for action, histogram in getattr(measures, attribute).items()
                ),
            )
        yield _histograms(
            c.ROUND_TRIP, (({"group": name}, m.round_trip) for name, m in self._groups())
        )

    def _groups(self) -> Iterator[tuple[str, "GroupMeasures"]]:
        yield from self._plane.measures.groups.items()

    # -- the broker and the disk

    def _broker(self) -> Iterator[str]:
        link, found = self._plane.link, self._around.findings
        nats = {"broker": "nats"}
        yield _family(c.BROKER_UP, [_sample(c.BROKER_UP, nats, int(link.is_connected))])
        yield _family(c.BROKER_RECONNECTS, [_sample(c.BROKER_RECONNECTS, nats, link.reconnects)])
        errors = {
            "permission": link.permission_errors,
            "malformed": link.malformed + self._counted("malformed"),
            "publish": self._counted("publish_failed"),
            "callback": link.callback_failures,
        }
        yield _family(
            c.BROKER_ERRORS,
            [_sample(c.BROKER_ERRORS, {**nats, "kind": k}, count) for k, count in errors.items()],
        )
        if found.broker_rtt_s is not None:
            yield _family(c.BROKER_RTT, [_sample(c.BROKER_RTT, nats, found.broker_rtt_s)])
        sizes = found.streams.items()
        yield _family(
            c.STREAM_MESSAGES,
            [_sample(c.STREAM_MESSAGES, {"stream": name}, size.messages) for name, size in sizes],
        )
        yield _family(
            c.STREAM_BYTES,
            [_sample(c.STREAM_BYTES, {"stream": name}, size.size_bytes) for name, size in sizes],
        )
        yield _family(
            c.STREAM_LIMIT,
            [_sample(c.STREAM_LIMIT, {"stream": name}, most) for name, most in self._limits.items()],
        )

    def _counted(self, *first: str) -> int:
        """The sum of the plane's counters whose names begin so."""
        counters = self._plane.counters.items()
        return sum(count for name, count in counters if name[: len(first)] == first)

    def _stores(self) -> Iterator[str]:
        found, measures = self._around.findings, self._plane.measures
        yield _histograms(
            c.STORE_WRITE, (({"operation": name}, h) for name, h in measures.store_writes.items())
        )
        table = {"table": "commands"}
        yield _family(c.STORE_SIZE, [_sample(c.STORE_SIZE, table, found.readmodel_bytes)])
        if found.readmodel_rows is not None:
            yield _family(c.STORE_ROWS, [_sample(c.STORE_ROWS, table, found.readmodel_rows)])
        lag_s = self._around.history_lag_s()
        yield _family(c.HISTORY_LAG, [_sample(c.HISTORY_LAG, {}, lag_s)])
        yield _family(c.LOOP_LAG, [_sample(c.LOOP_LAG, {}, found.loop_lag_s)])
        found.loop_lag_s = 0.0

    # -- trust

    def _trust(self) -> Iterator[str]:
        refused = dict.fromkeys(AUTH_REASONS.values(), 0)
        enrolled: dict[str, int] = {"done": 0}
        for name, count in self._plane.counters.items():
            reason = AUTH_REASONS.get(name)
            if reason is not None:
                refused[reason] += count
            if name[0] == "enrolment":
                enrolled[name[1]] = count
            if name[0] == "duplicate":
                pass
        yield _family(
            c.AUTH_FAILURES,
            [_sample(c.AUTH_FAILURES, {"reason": r}, count) for r, count in refused.items()],
        )
        yield _family(
            c.ENROLMENTS,
            [_sample(c.ENROLMENTS, {"outcome": o}, count) for o, count in enrolled.items()],
        )
        duplicates = {_SUPPRESSED_HERE: 0, _REPLAYED_HERE: 0, _SUPPRESSED_THERE: 0}
        for (side, result) in duplicates:
            duplicates[side, result] = self._counted("duplicate", side, result)
        yield _family(
            c.DUPLICATES,
            [
                _sample(c.DUPLICATES, {"side": side, "result": result}, count)
                for (side, result), count in duplicates.items()
            ],
        )
        around = self._around
        for family, ends in ((c.CA_ENDS, around.authorities), (c.SERVER_ENDS, around.servers())):
            yield _family(family, [_sample(family, {"name": n}, end) for n, end in ends.items()])

    # -- HTTP and settings

    def _http(self) -> Iterator[str]:
        measures = self._plane.measures
        yield _family(
            c.HTTP_REQUESTS,
            [
                _sample(c.HTTP_REQUESTS, {"route": r, "method": m, "code": str(code)}, count)
                for (r, m, code), count in measures.answers.items()
            ],
        )
        yield _histograms(
            c.HTTP_SECONDS,
            (({"route": r, "method": m}, h) for (r, m), h in measures.requests.items()),
        )

    def _settings(self) -> Iterator[str]:
        settings = self._plane.settings
        values = {
            c.CONFIG_BEAT: settings.timers.beat_s,
            c.CONFIG_LOST: settings.timers.lost_s,
            c.CONFIG_WARNING: settings.certificates.warning_days * _DAY_S,
            c.CONFIG_OPEN: settings.limits.open_commands_per_group,
        }
        for family, value in values.items():
            yield _family(family, [_sample(family, {}, value)])

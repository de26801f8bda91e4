"""Series of groups: agents by status, open commands, counters."""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Final

from broker_client.runtime.exposition import labels
from broker_master.core.measures import KILLS, GroupMeasures
from broker_master.metrics import catalogue as c
from broker_master.metrics.fleet import Fleet
from broker_master.metrics.text import family, histograms, lines
from broker_master.plane import Plane
from schemas.messages.actions import COMMON
from schemas.states import TERMINAL, AgentStatus, State

COMMANDS_PER_SLICE: Final = 2000
PHASES: Final[Mapping[State, str]] = {
    State.QUEUED: "queued",
    State.SENT: "sent",
    State.ACCEPTED: "acknowledged",
    State.RUNNING: "running",
    State.UNKNOWN: "unknown",
    State.STOPPING: "stopping",
}
_OUTCOMES: Final = sorted(str(state) for state in TERMINAL)


class GroupSeries:
    """A part per family; empty parts are places to pause at."""

    def __init__(self, plane: Plane, fleet: Fleet) -> None:
        self._plane = plane
        self._fleet = fleet

    def parts(self) -> Iterator[str]:
        self._sync_names()
        yield from self._agents()
        yield from self._open_commands()
        yield from self._counts()
        yield from self._times()
        yield from self._programs()

    def _sync_names(self) -> None:
        """The series of a deleted group end; those of a new one begin with 0."""
        measures, registry = self._plane.telemetry.measures, self._plane.registry
        for name in measures.groups.keys() - registry.groups.keys():
            del measures.groups[name]
        for name in registry.groups:
            measures.group(name)

    def _agents(self) -> Iterator[str]:
        active, agents = [], []
        for group, counts in self._fleet.counts.items():
            inner = labels({"group": group})
            is_active = int(counts[AgentStatus.ACTIVE] > 0)
            active.append(f"{c.GROUP_ACTIVE.name}{inner} {is_active}\n")
            for status, count in counts.items():
                agents.append(f'{c.GROUP_AGENTS.name}{inner[:-1]},status="{status}"}} {count}\n')
        yield lines(c.GROUP_ACTIVE, active)
        yield lines(c.GROUP_AGENTS, agents)
        yield family(
            c.STATUS_CHANGES,
            (
                ({"group": group, "from": old, "to": new}, measures.changes.get((old, new), 0))
                for group, measures in self._measures()
                for old, new in permutations(AgentStatus, 2)
            ),
        )

    def _open_commands(self) -> Iterator[str]:
        phases = {name: dict.fromkeys(PHASES, 0) for name in self._plane.registry.groups}
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
        yield family(
            c.IN_FLIGHT,
            (
                ({"group": group, "phase": PHASES[state]}, count)
                for group, counts in phases.items()
                for state, count in counts.items()
            ),
        )
        yield family(c.OLDEST, (({"group": group}, at) for group, at in oldest.items()))

    def _counts(self) -> Iterator[str]:
        yield family(
            c.SUBMITTED,
            (
                ({"group": group, "action": action, "source": source}, count)
                for group, measures in self._measures()
                for (action, source), count in measures.submitted.items()
            ),
        )
        # Present from the start, as 0: the very first loss must show as a rise.
        yield family(
            c.FINISHED,
            (
                (
                    {"group": group, "action": action, "outcome": outcome},
                    measures.finished.get((action, outcome), 0),
                )
                for group, measures in self._measures()
                # Others begin with the first command: their groups are few.
                for action in sorted({*COMMON, *(action for action, _ in measures.submitted)})
                for outcome in _OUTCOMES
            ),
        )
        yield family(
            c.KILLED,
            (
                ({"group": group, "reason": reason}, measures.killed.get(reason, 0))
                for group, measures in self._measures()
                for reason in KILLS.values()
            ),
        )
        yield family(
            c.SENDS,
            (
                ({"group": group, "attempt": str(transmission)}, count)
                for group, measures in self._measures()
                for transmission, count in sorted(measures.sends.items())
            ),
        )
        yield self._count(c.BEATS, lambda measures: measures.beats)
        yield self._count(c.BEATS_MISSED, lambda measures: measures.beats_missed)

    def _count(self, of: c.Family, count: Callable[[GroupMeasures], int]) -> str:
        return family(of, (({"group": name}, count(each)) for name, each in self._measures()))

    def _times(self) -> Iterator[str]:
        yield histograms(
            c.ACKNOWLEDGE, (({"group": name}, each.acknowledge) for name, each in self._measures())
        )
        yield histograms(
            c.QUEUE,
            (
                ({"group": name, "action": action}, histogram)
                for name, each in self._measures()
                for action, histogram in each.queue.items()
            ),
        )
        yield histograms(
            c.DURATION,
            (
                ({"group": name, "action": action}, histogram)
                for name, each in self._measures()
                for action, histogram in each.duration.items()
            ),
        )
        yield histograms(
            c.ROUND_TRIP, (({"group": name}, each.round_trip) for name, each in self._measures())
        )

    def _programs(self) -> Iterator[str]:
        """A new series begins with 0, so that the first failure of a program shows as a rise."""
        finished: list[tuple[Mapping[str, str], float]] = []
        runs: list[tuple[Mapping[str, str], float]] = []
        seconds: list[tuple[Mapping[str, str], float]] = []
        for group, measures in self._measures():
            for program, counts in measures.programs.items():
                names = {"group": group, "program": program}
                is_new = not counts.told
                runs.append((names, 0 if is_new else counts.runs))
                seconds.append((names, 0 if is_new else counts.seconds))
                for outcome, count in counts.finished.items():
                    told = count if outcome in counts.told else 0
                    finished.append(({**names, "outcome": outcome}, told))
                    counts.told.add(outcome)
        yield family(c.PROGRAM_FINISHED, finished)
        yield family(c.PROGRAM_RUNS, runs)
        yield family(c.PROGRAM_SECONDS, seconds)

    def _measures(self) -> list[tuple[str, GroupMeasures]]:
        return list(self._plane.telemetry.measures.groups.items())

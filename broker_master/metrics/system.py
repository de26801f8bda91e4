"""Series of the master itself: broker, stores, trust, HTTP, and inputs of the alert rules."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker_master.core.findings import Findings
from broker_master.core.measures import AUTH_REASONS
from broker_master.core.tallies import LABELS
from broker_master.metrics import catalogue as c
from broker_master.metrics.text import family, histograms
from broker_master.plane import Plane
from broker_master.store.facts import FANOUTS, REGISTRY, stream_configs

_NATS: Final = {"broker": "nats"}
_TABLE: Final = {"table": "commands"}
# side and result; the agent answers a known id with its state.
_DUPLICATES: Final = (("master", "suppressed"), ("master", "replayed"), ("agent", "suppressed"))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Inputs of a scrape beside the plane.

    authorities, servers: when each certificate ends, by name.
    """

    findings: Findings
    history_lag_s: Callable[[], float]
    authorities: Mapping[str, float]
    servers: Mapping[str, float]


class MasterSeries:
    """A part per family."""

    def __init__(self, plane: Plane, around: Surroundings) -> None:
        self._plane = plane
        self._around = around
        self._limits = {
            config.name: config.max_bytes
            for config in stream_configs(plane.settings)
            if config.max_bytes > 0
        }

        streams = [config.name for config in stream_configs(plane.settings)]
        self._held = [*streams, *(f"KV_{name}" for name in (REGISTRY, FANOUTS))]

    def parts(self) -> Iterator[str]:
        yield from self._broker()
        yield from self._streams()
        yield from self._stores()
        yield from self._fanouts()
        yield from self._trust()
        yield from self._http()
        yield from self._settings()

    def _broker(self) -> Iterator[str]:
        tallied = self._plane.telemetry.tallied
        link, rtt_s = self._plane.link, self._around.findings.broker_rtt_s
        yield family(c.BROKER_UP, [(_NATS, int(link.is_connected))])
        yield family(c.BROKER_RECONNECTS, [(_NATS, link.reconnects)])
        errors = {
            "permission": link.permission_errors,
            "malformed": link.malformed + tallied("malformed"),
            "publish": tallied("publish_failed"),
            "callback": link.callback_failures,
        }
        yield family(
            c.BROKER_ERRORS, (({**_NATS, "kind": kind}, count) for kind, count in errors.items())
        )
        if rtt_s is not None:
            yield family(c.BROKER_RTT, [(_NATS, rtt_s)])

    def _streams(self) -> Iterator[str]:
        sizes = self._around.findings.streams.items()
        yield family(c.STREAM_MESSAGES, (({"stream": name}, size.messages) for name, size in sizes))
        yield family(c.STREAM_BYTES, (({"stream": name}, size.size_bytes) for name, size in sizes))
        counts = dict.fromkeys(self._held, 0) | self._plane.telemetry.strays.counts
        yield family(c.UNREADABLE, (({"stream": name}, count) for name, count in counts.items()))
        limits = self._limits.items()
        yield family(c.STREAM_LIMIT, (({"stream": name}, most) for name, most in limits))

    def _stores(self) -> Iterator[str]:
        tallied = self._plane.telemetry.tallied
        found = self._around.findings
        writes = self._plane.telemetry.measures.store_writes.items()
        yield histograms(c.STORE_WRITE, (({"operation": name}, each) for name, each in writes))
        yield family(c.STORE_SIZE, [(_TABLE, found.readmodel_bytes)])
        if found.readmodel_rows is not None:
            yield family(c.STORE_ROWS, [(_TABLE, found.readmodel_rows)])
        yield family(c.HISTORY_LAG, [({}, self._around.history_lag_s())])
        yield family(
            c.HISTORY_REFUSED,
            (({"result": how}, tallied("history", how)) for how in LABELS["history"]),
        )
        yield family(c.LOOP_LAG, [({}, found.loop_lag_s)])
        found.loop_lag_s = 0.0
        yield from self._restores()

    def _restores(self) -> Iterator[str]:
        tallied = self._plane.telemetry.tallied
        yield family(
            c.RESTORES, (({"how": how}, tallied("restore", how)) for how in LABELS["restore"])
        )
        yield family(c.RESTORE_DOUBTFUL, [({}, len(self._plane.doubtful))])
        yield family(
            c.RESTORED_ATTEMPTS,
            (({"result": result}, tallied("restored", result)) for result in LABELS["restored"]),
        )

    def _fanouts(self) -> Iterator[str]:
        running = self._plane.fanouts.running.values()
        yield family(c.FANOUTS_RUNNING, [({}, len(running))])
        yield family(c.FANOUT_AGENTS, [({}, sum(each.remaining for each in running))])
        yield family(
            c.FANOUTS_FINISHED,
            (
                ({"state": state}, self._plane.telemetry.tallied("fanout", state))
                for state in LABELS["fanout"]
            ),
        )

    def _trust(self) -> Iterator[str]:
        tallied = self._plane.telemetry.tallied
        refused = dict.fromkeys(AUTH_REASONS.values(), 0)
        enrolled = {"done": 0}
        renewed = {"signed": 0, "confirmed": 0}
        for name, count in self._plane.telemetry.counters.items():
            if name in AUTH_REASONS:
                refused[AUTH_REASONS[name]] += count
            if name[0] == "enrolment":
                enrolled[name[1]] = count
            if name[0] == "renewal":
                renewed[name[1]] = count
        yield family(c.AUTH_FAILURES, (({"reason": why}, n) for why, n in refused.items()))
        yield family(c.ENROLMENTS, (({"outcome": code}, n) for code, n in enrolled.items()))
        yield family(c.RENEWALS, (({"outcome": code}, n) for code, n in renewed.items()))
        yield family(c.AUDIT_LOST, [({}, tallied("audit", "lost"))])
        yield family(c.SHED, (({"reason": why}, tallied("shed", why)) for why in LABELS["shed"]))
        yield family(
            c.SHUT_OUT,
            (({"role": role}, tallied("shut_out", role)) for role in LABELS["shut_out"]),
        )
        yield family(
            c.DUPLICATES,
            (
                ({"side": side, "result": result}, tallied("duplicate", side, result))
                for side, result in _DUPLICATES
            ),
        )
        around = self._around
        for of, ends in ((c.CA_ENDS, around.authorities), (c.SERVER_ENDS, around.servers)):
            yield family(of, (({"name": name}, end) for name, end in ends.items()))

    def _http(self) -> Iterator[str]:
        measures = self._plane.telemetry.measures
        yield family(
            c.HTTP_REQUESTS,
            (
                ({"route": route, "method": method, "code": str(code)}, count)
                for (route, method, code), count in measures.answers.items()
            ),
        )
        yield histograms(
            c.HTTP_SECONDS,
            (
                ({"route": route, "method": method}, each)
                for (route, method), each in measures.requests.items()
            ),
        )

    def _settings(self) -> Iterator[str]:
        settings = self._plane.settings
        values = {
            c.CONFIG_BEAT: settings.timers.beat_s,
            c.CONFIG_LOST: settings.timers.lost_s,
            c.CONFIG_WARNING: settings.certificates.warning_s,
            c.CONFIG_OPEN: settings.limits.open_commands_per_group,
        }
        for of, value in values.items():
            yield family(of, [({}, value)])

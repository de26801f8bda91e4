"""What Prometheus sees: computed from the plane at each scrape, so nothing is counted twice."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker_master import VERSION
from broker_master.core.status import current_certificate
from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas.states import AgentStatus, GroupStatus, Liveness

_AGENT = ["agent", "group"]


def render_metrics(plane: Plane, views: Views) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_PlaneCollector(plane, views))
    return generate_latest(registry)


class _PlaneCollector(Collector):
    def __init__(self, plane: Plane, views: Views) -> None:
        self._plane = plane
        self._views = views

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("mesh_build_info", "This master", labels=["version", "role"])
        build.add_metric([VERSION, "master"], 1)
        yield build
        yield from self._agents()
        yield from self._groups()
        up = GaugeMetricFamily(
            "mesh_broker_up", "Whether the broker is connected", labels=["broker"]
        )
        up.add_metric(["nats"], float(self._plane.link.is_connected))
        yield up
        yield from self._commands()

    def _agents(self) -> Iterator[Metric]:
        status = GaugeMetricFamily(
            "mesh_agent_status", "1 for the status an agent has", labels=[*_AGENT, "status"]
        )
        uptime = GaugeMetricFamily(
            "mesh_agent_uptime_seconds", "By the last beat; absent while silent", labels=_AGENT
        )
        beat = GaugeMetricFamily(
            "mesh_agent_last_heartbeat_timestamp_seconds", "When it was last heard", labels=_AGENT
        )
        ends = GaugeMetricFamily(
            "mesh_agent_certificate_not_after_timestamp_seconds",
            "When the certificate in use ends",
            labels=_AGENT,
        )
        for entry in self._plane.registry.agents.values():
            labels = [entry.name, entry.group]
            presence = self._plane.roster.get(entry.name)
            shown = self._views.status_of(entry)
            for each in AgentStatus:
                status.add_metric([*labels, each], float(each is shown))
            certificate = current_certificate(entry, presence)
            if certificate is not None:
                ends.add_metric(labels, certificate.not_after)
            if presence is not None and presence.heard_at:
                beat.add_metric(labels, presence.heard_at)
                if presence.liveness is Liveness.LIVE:
                    uptime.add_metric(labels, presence.uptime_s)
        yield from (status, uptime, beat, ends)

    def _groups(self) -> Iterator[Metric]:
        active = GaugeMetricFamily("mesh_group_active", "1 if an agent is active", labels=["group"])
        agents = GaugeMetricFamily(
            "mesh_group_agents", "Agents by status", labels=["group", "status"]
        )
        for name in self._plane.registry.groups:
            record = self._views.group(name)
            active.add_metric([name], float(record.status == GroupStatus.ACTIVE))
            for status, count in record.agents.items():
                agents.add_metric([name, status], count)
        yield from (active, agents)

    def _commands(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "mesh_commands_finished", "Attempts that ended, by outcome", labels=["outcome"]
        )
        for name, count in self._plane.counters.items():
            if name[0] == "ended":
                ended.add_metric([name[1]], count)
        yield ended

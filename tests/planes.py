"""A master's plane without a broker, filled as one wants it, and what a scrape of it says.

Needs no pytest, so that benchmarks may use it as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from broker_client.runtime.clock import Clock
from broker_master.core.eventlog import EventLog
from broker_master.core.findings import Findings, StreamSize
from broker_master.core.liveness import Roster
from broker_master.metrics.scrape import Scraper
from broker_master.metrics.system import Surroundings
from broker_master.plane import MasterFacts, Plane
from broker_master.settings import MasterSettings
from broker_master.store.registry import Registry
from broker_master.telemetry import Telemetry
from schemas import limits
from schemas.faults import MeshError, Unreachable
from schemas.messages.liveness import Beat, Details, Hello
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry, GroupEntry

DAY_S = 86_400.0

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class FakeLink:
    is_connected: bool = True
    max_payload: int = limits.BROKER_PAYLOAD_BYTES
    reconnects: int = 0
    permission_errors: int = 0
    malformed: int = 0
    callback_failures: int = 0

    def __post_init__(self) -> None:
        self.comes: list[Callable[[], object]] = []
        self.goes: list[Callable[[MeshError], object]] = []

    def on_connected(self, listener: Callable[[], object]) -> None:
        self.comes.append(listener)

    def on_disconnected(self, listener: Callable[[MeshError], object]) -> None:
        self.goes.append(listener)

    def open_inbox(self, _callback: object) -> tuple[str, Callable[[], None]]:
        return "_INBOX_master.1", lambda: None

    def come(self) -> None:
        """Connected again: all who want to know are told."""
        self.is_connected = True
        for listener in self.comes:
            listener()

    def go(self) -> None:
        self.is_connected = False
        for listener in self.goes:
            listener(Unreachable("broker_unreachable", "cut"))


class NoHistory:
    """A list of ended commands with nothing in it."""

    def last_of(self, agent: str, limit: int) -> list[tuple[str, str]]:
        return []


def make_plane(clock: Clock, settings: MasterSettings | None = None) -> Plane:
    """A plane with an empty registry. What needs a broker or a disk is missing from it."""
    nothing = cast("Any", None)
    settings = settings or MasterSettings()
    return Plane(
        settings=settings,
        clock=clock,
        link=cast("Any", FakeLink()),
        facts=nothing,
        readmodel=cast("Any", NoHistory()),
        registry=Registry(nothing),
        roster=Roster(settings.timers, now_s=clock.elapsed()),
        tasks=nothing,
        master=MasterFacts(mesh="mesh-1", epoch=1, urls=[], started_at=clock.now()),
        telemetry=Telemetry(eventlog=EventLog(1, clock.now())),
    )


def add_group(plane: Plane, name: str) -> None:
    plane.registry.groups[name] = GroupEntry(name=name, created_at=plane.clock.now())


def add_client(plane: Plane, name: str, *groups: str, role: str = "operator") -> ClientEntry:
    """A client of these groups, or of all."""
    entry = ClientEntry(name=name, role=role, created_at=plane.clock.now(), groups=[*groups])
    plane.registry.clients[name] = entry
    return entry


def add_agent(plane: Plane, name: str, group: str, **fields: Any) -> AgentEntry:  # noqa: ANN401  of AgentEntry
    """A member that has been connected before, with a certificate for ninety days."""
    now = plane.clock.now()
    certificate = CertificateEntry(
        serial=f"serial-{name}", not_after=now + 90 * DAY_S, user_nkey="U", issued_at=now
    )
    made = {"connected": True, "certificates": [certificate], **fields}
    entry = AgentEntry(name=name, group=group, created_at=now, **made)
    plane.registry._put_agent(entry)
    plane.roster.add(group, name, connected=entry.connected, at=now, now_s=plane.clock.elapsed())
    return entry


def connect(plane: Plane, name: str, *, incarnation: str = "i1", uptime_s: float = 60.0) -> None:
    """Handshake and a first beat: the agent is live and reconciled."""
    now_s, at = plane.clock.elapsed(), plane.clock.now()
    hello = Hello(
        incarnation=incarnation,
        started_at=at - uptime_s,
        uptime_s=uptime_s,
        slots=8,
        details=Details(version="1.2.3", os="Linux", arch="x86_64"),
        certificate_serial=f"serial-{name}",
    )
    plane.roster.on_hello(name, hello, now_s=now_s, at=at)
    plane.roster.on_done(name, incarnation, now_s=now_s, at=at)
    beat(plane, name, incarnation=incarnation, uptime_s=uptime_s)


def beat(plane: Plane, name: str, *, incarnation: str = "i1", **fields: Any) -> None:  # noqa: ANN401  of Beat
    presence = plane.roster.get(name)
    assert presence is not None
    sent = Beat(
        incarnation=incarnation,
        seq=presence.beat_seq + 1,
        **{"slots": 8, "running": 3, "rtt_s": 0.002, "at": plane.clock.now(), **fields},
    )
    plane.roster.on_beat(name, sent, now_s=plane.clock.elapsed(), at=plane.clock.now())


def make_scraper(plane: Plane) -> Scraper:
    findings = Findings(
        streams={"MESH_EVENTS": StreamSize(5, 700)}, broker_rtt_s=0.001, readmodel_rows=3
    )
    return Scraper(
        plane,
        Surroundings(
            findings=findings,
            history_lag_s=lambda: 0.25,
            authorities={"mesh": plane.clock.now() + 900 * DAY_S},
            servers={"broker": plane.clock.now() + 400 * DAY_S},
        ),
    )


def samples_of(page: bytes) -> Samples:
    """Every sample by its name and labels; raises if the text is not what Prometheus reads."""
    found: Samples = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


async def scrape(plane: Plane) -> Samples:
    return samples_of((await make_scraper(plane).page()).body)

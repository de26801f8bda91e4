"""The settings of a master, with their defaults."""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas import limits
from schemas.addresses import listener_fault, place_to_listen, url_fault
from schemas.faults import Refused
from schemas.spans import DAY_S
from schemas.timers import Timers, check_timers

_WEB: Final = re.compile(r"https?://[A-Za-z0-9._~:/@!$&*+,;=%\[\]-]*[A-Za-z0-9._~\]-]")
Positive = Annotated[int, Meta(gt=0)]


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the broker and of requests to it.

    binary: an own nats-server for the embedded broker. go_memory_limit, go_gc: of that child.
    replicas: copies of each stream (3 in a cluster). request_s: timeout of one broker request.
    """

    binary: str = ""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    request_s: Annotated[float, Meta(gt=0)] = 5.0
    go_memory_limit: str = ""
    go_gc: str = "30"


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits; each gives a fault with its name when it is reached.

    input_bytes_per_command, input_bytes: of staged input, of one command and of all; one client
    gets a quarter of all. open_argument_bytes: of open commands, arguments above 4 KiB; one client
    gets a quarter of it.
    log_bytes_per_agent: of stored output, the quota of one agent; 0 for a tenth of log_bytes.
    log_look_s: period of the check of quotas. messages_per_s, bytes_per_s: rate limit of one
    identity in the long run, above which it is shut out for a while; 0 for no limit. An agent's
    output does not count as bytes.
    """

    open_commands_per_group: Positive = 100_000
    output_bytes_per_attempt: Positive = limits.OUTPUT_LIMIT_BYTES
    input_bytes_per_command: Annotated[int, Meta(gt=0, le=limits.INPUT_BYTES)] = 100 * 1024**2
    input_bytes: Positive = 2 * 1024**3
    open_argument_bytes: Positive = 128 * 1024**2
    event_bytes: Positive = 8 * 1024**3
    log_bytes: Positive = 10 * 1024**3
    http_connections: Positive = 256
    log_bytes_per_agent: Annotated[int, Meta(ge=0)] = 0
    log_look_s: Annotated[float, Meta(gt=0)] = 5.0
    messages_per_s: Annotated[int, Meta(ge=0)] = 25_000
    bytes_per_s: Annotated[int, Meta(ge=0)] = 64 * 1024**2


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Retention times. facts_s: of ended commands in the event stream.

    input_s: of the staged input of a command that does not end before.
    """

    input_s: Annotated[float, Meta(gt=0)] = DAY_S
    facts_s: Annotated[float, Meta(gt=0)] = 3600.0
    checkpoint_s: Annotated[float, Meta(gt=0)] = 60.0
    history_days: Annotated[float, Meta(gt=0)] = 90.0
    output_days: Annotated[float, Meta(gt=0)] = 14.0
    audit_days: Annotated[float, Meta(gt=0)] = 365.0


# Remaining part of the lifetime at which renewal is overdue: agents renew before 77 % of it is
# used.
_OVERDUE_SHARE: Final = 0.2


class CertificateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Lifetimes. warning_days: time before a certificate's end at which alerts begin, at most.

    agent_days, client_days: of newly issued certificates; parts of a day are fine. candidate_s:
    longest time until an agent uses a renewed certificate. compare_s: period of the comparison of
    each live connection with the registry. look_s: period of the check of the mesh's own
    certificates, which are renewed when due.
    """

    agent_days: Annotated[float, Meta(gt=0)] = 90.0
    client_days: Annotated[float, Meta(gt=0)] = 365.0
    warning_days: Annotated[float, Meta(gt=0)] = 30.0
    candidate_s: Annotated[float, Meta(gt=0)] = DAY_S
    compare_s: Annotated[float, Meta(gt=0)] = 30.0
    look_s: Annotated[float, Meta(gt=0)] = 3600.0

    @property
    def warning_s(self) -> float:
        """Not before renewal is overdue: a fleet that renews itself causes no alert."""
        return min(self.warning_days, _OVERDUE_SHARE * self.agent_days) * DAY_S


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    level: str = "info"


class LossSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Behaviour of agents at a connection loss.

    mode: `graceful` waits for the re-sends before tasks are ended, `strict` does not.
    """

    mode: Literal["graceful", "strict"] = "graceful"


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses that others reach, for links in alerts and dashboards; empty leaves the links out.

    public_url: of this master's pages. grafana_url: of the Grafana with the dashboards.
    runbooks_url: of the published `runbooks.md`.
    """

    public_url: str = ""
    grafana_url: str = ""
    runbooks_url: str = ""


class MasterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a master.

    nats_url: an own broker; empty starts the embedded one on nats_port (0: any free one). urls:
    addresses of the broker for agents and clients, in order of use; empty for the hosts that `init`
    was given, or nats_url. Changes reach agents and clients through the master. nats_host: address
    on which the embedded one listens; empty for all if `init` was given hosts, and for this machine
    alone otherwise. http_hosts: accepted names of the HTTP server, beside addresses, localhost and
    the name of this machine. metrics_http: HOST:PORT for `/metrics` alone; empty serves it on
    `http`. A PORT alone is of this machine. per_agent_metrics: off leaves the totals of groups, for
    very large fleets. programs_in_metrics: number of programs, by base name, with series of their
    own; 0: none, and no program is named in metrics and dashboards.
    """

    state_dir: str = "mesh"
    nats_url: str = ""
    nats_port: Annotated[int, Meta(ge=0, le=65535)] = 4222
    nats_host: str = ""
    urls: Annotated[tuple[str, ...], Meta(max_length=limits.URLS)] = ()
    http: str = "127.0.0.1:8080"
    http_hosts: tuple[str, ...] = ()
    metrics_http: str = ""
    per_agent_metrics: bool = True
    programs_in_metrics: Annotated[int, Meta(ge=0, le=1000)] = 50
    timers: Timers = msgspec.field(default_factory=Timers)
    loss: LossSettings = msgspec.field(default_factory=LossSettings)
    broker: BrokerSettings = msgspec.field(default_factory=BrokerSettings)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)
    retention: RetentionSettings = msgspec.field(default_factory=RetentionSettings)
    certificates: CertificateSettings = msgspec.field(default_factory=CertificateSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    console: ConsoleSettings = msgspec.field(default_factory=ConsoleSettings)


def check_settings(settings: MasterSettings) -> None:
    """Check combinations of values; raises Refused (`settings_invalid`)."""
    check_timers(settings.timers)
    why = url_fault(settings.nats_url) if settings.nats_url else ""
    if why:
        raise Refused("settings_invalid", f"nats_url {settings.nats_url[:80]!a}: {why}")
    for url in settings.urls:
        if why := url_fault(url):
            raise Refused("settings_invalid", f"urls: {url[:80]!a}: {why}")
    place_to_listen("http", settings.http)
    if settings.metrics_http:
        place_to_listen("metrics_http", settings.metrics_http)
    why = listener_fault(settings.nats_host) if settings.nats_host else ""
    if why:
        raise Refused("settings_invalid", f"nats_host {settings.nats_host[:80]!a}: {why}")
    for name in ConsoleSettings.__struct_fields__:
        url = getattr(settings.console, name)
        if url and not _WEB.fullmatch(url):
            example = "give it as https://mesh.example.net, without a slash at its end"
            raise Refused("settings_invalid", f"console.{name} {url[:80]!a}: {example}")

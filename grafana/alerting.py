"""Alerts, each with a story that tests it: a healthy master, a fault, and the recovery.

A story has series per step of time, healthy and faulty; counters by their increase. The rule and
its promtool tests are generated from the story, so neither exists without the other.
"""

from dataclasses import dataclass, field
from typing import Final

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of a story: healthy and faulty values, for a counter its increase per step.

    None: no sample. A list repeats.
    """

    name: str
    healthy: float | None
    faulty: float | list[float] | None
    counter: bool = False


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert. for_s: seconds that it must be true. keep_s: seconds that it fires afterwards.

    labels, value: labels of the story's firing alert, and the text of `$value` in it.
    step_s: interval of the samples in the story. fault_s: shortest duration of its fault.
    """

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    board: str
    story: tuple[Series, ...]
    labels: dict[str, str]
    for_s: int = 0
    keep_s: int = 0
    value: str = ""
    step_s: int = 15
    fault_s: int = 0
    settle_s: int = 0
    variables: dict[str, str] = field(default_factory=dict)


def gauge(name: str, healthy: float | None, faulty: float | list[float] | None) -> Series:
    return Series(name=name, healthy=healthy, faulty=faulty)


def counter(name: str, healthy: float, faulty: float) -> Series:
    return Series(name=name, healthy=healthy, faulty=faulty, counter=True)


JOB: Final = 'job="mesh-master",instance="m:8080"'
_BASE: Final = {"job": "mesh-master", "instance": "m:8080"}
_AGENT: Final = {**_BASE, "agent": "web-1", "group": "web"}
_GROUP: Final = {**_BASE, "group": "web"}
_CONNECTION: Final = {**_BASE, "connection": "erp-db", "group": "db", "kind": "postgresql"}
_UP: Final = gauge(f"up{{{JOB}}}", 1, 1)


def _agent(metric: str, more: str = "") -> str:
    return f'{metric}{{{JOB},agent="web-1",group="web"{more}}}'


def _group(metric: str, more: str = "") -> str:
    return f'{metric}{{{JOB},group="web"{more}}}'


def _status(status: str, healthy: float, faulty: float | list[float]) -> Series:
    return gauge(_agent("mesh_agent_status", f',status="{status}"'), healthy, faulty)


def _connection(metric: str, more: str = "") -> str:
    return f'{metric}{{{JOB},connection="erp-db",group="db",kind="postgresql"{more}}}'


def _members(status: str, healthy: float, faulty: float) -> Series:
    return gauge(_group("mesh_group_agents", f',status="{status}"'), healthy, faulty)


_THIS_AGENT: Final = {"var-agent": "{{ $labels.agent }}", "var-group": "{{ $labels.group }}"}
_THIS_GROUP: Final = {"var-group": "{{ $labels.group }}"}
_WHO: Final = "Agent {{ $labels.agent }} of group {{ $labels.group }}"
_ENDS: Final = _agent("mesh_agent_certificate_not_after_timestamp_seconds")
_WARNING: Final = gauge(f"mesh_config_certificate_warning_seconds{{{JOB}}}", 18 * DAY, 18 * DAY)

ALERTS: Final[tuple[Alert, ...]] = (
    Alert(
        name="MeshMasterDown",
        expr='absent(up{job="mesh-master"} == 1)',
        for_s=2 * MINUTE,
        severity="critical",
        summary="No master of the mesh can be scraped",
        description=(
            "Nobody accepts or gives out commands. Running tasks end once their leases run out."
        ),
        board="mesh-internals",
        story=(gauge(f"up{{{JOB}}}", 1, 0),),
        labels={},
    ),
    Alert(
        name="MeshBrokerDisconnected",
        expr="max_over_time(mesh_broker_up[2m]) == 0",
        for_s=1 * MINUTE,
        severity="critical",
        summary="The master has lost its {{ $labels.broker }} broker",
        description=(
            "No agent is judged meanwhile: their statuses stand as they were. Agents that have lost"
            " it too end their tasks when their leases run out."
        ),
        board="mesh-broker",
        story=(gauge(f'mesh_broker_up{{{JOB},broker="nats"}}', 1, 0), _UP),
        labels={**_BASE, "broker": "nats"},
        fault_s=4 * MINUTE,
    ),
    Alert(
        name="MeshGroupInactive",
        expr=(
            "mesh_group_active == 0\n"
            "and on (job, group) (\n"
            '  sum by (job, group) (mesh_group_agents{status!~"disabled|awaiting_setup"}) > 0\n'
            "  or sum by (job, group) (mesh_group_agents) == 0\n"
            ")"
        ),
        for_s=1 * MINUTE,
        severity="critical",
        summary="Group {{ $labels.group }} is inactive",
        description=(
            "No agent of group {{ $labels.group }} is active, or it has none at all. Its commands"
            " wait, and expire when their time in the queue is over."
        ),
        board="mesh-fleet",
        variables=_THIS_GROUP,
        story=(
            gauge(_group("mesh_group_active"), 1, 0),
            _members("active", 2, 0),
            _members("no_response", 0, 2),
            _members("disabled", 0, 0),
            _members("awaiting_setup", 0, 0),
            _UP,
        ),
        labels=_GROUP,
    ),
    Alert(
        name="MeshGroupNoRedundancy",
        expr=(
            'sum by (job, group) (mesh_group_agents{status="active"}) == 1\n'
            'and on (job, group) sum by (job, group) (mesh_group_agents{status!="disabled"}) > 1'
        ),
        for_s=10 * MINUTE,
        severity="warning",
        summary="Group {{ $labels.group }} hangs on a single agent",
        description=(
            "Only one agent of group {{ $labels.group }} is active although it has more. The next"
            " loss makes the group inactive."
        ),
        board="mesh-fleet",
        variables=_THIS_GROUP,
        story=(_members("active", 2, 1), _members("no_response", 0, 1), _UP),
        labels={"job": "mesh-master", "group": "web"},
    ),
    Alert(
        name="MeshAgentNoResponse",
        expr='mesh_agent_status{status="no_response"} == 1',
        for_s=1 * MINUTE,
        keep_s=5 * MINUTE,
        severity="warning",
        summary=f"{_WHO} does not respond",
        description=(
            f"{_WHO} has been silent for over a minute. It gets no new work; its tasks are given up"
            " as lost unless it returns in time."
        ),
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(_status("no_response", 0, 1), _UP),
        labels={**_AGENT, "status": "no_response"},
    ),
    Alert(
        name="MeshAgentFlapping",
        expr='changes(mesh_agent_status{status="active"}[30m]) > 6',
        severity="warning",
        summary=f"{_WHO} comes and goes",
        description=(
            f"{_WHO} has changed between active and another status more than six times in half an"
            " hour: look at its network, its host and its clock."
        ),
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(_status("active", 1, [0, 0, 0, 0, 1, 1, 1, 1]), _UP),
        labels={**_AGENT, "status": "active"},
        fault_s=25 * MINUTE,
        settle_s=30 * MINUTE,
    ),
    Alert(
        name="MeshAgentRestarting",
        expr="changes(mesh_agent_start_time_seconds[30m]) > 3",
        severity="warning",
        summary=f"{_WHO} restarts again and again",
        description=(
            f"The process of {_WHO[0].lower()}{_WHO[1:]} has started more than three times in half"
            " an hour; what it was running each time is lost."
        ),
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(
            gauge(_agent("mesh_agent_start_time_seconds"), 100, [*[200.0] * 8, *[300.0] * 8]),
            _UP,
        ),
        labels=_AGENT,
        fault_s=15 * MINUTE,
        settle_s=30 * MINUTE,
    ),
    Alert(
        name="MeshAgentAwaitingSetupLong",
        expr='mesh_agent_status{status="awaiting_setup"} == 1',
        for_s=DAY,
        severity="info",
        summary=f"{_WHO} was never set up",
        description=(
            f"{_WHO} was created over a day ago and has never connected. Its activation token has"
            " expired: issue a new one, or delete the agent."
        ),
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(_status("awaiting_setup", 0, 1), _UP),
        labels={**_AGENT, "status": "awaiting_setup"},
        step_s=HOUR,
    ),
    Alert(
        name="MeshAgentDisabledLong",
        expr='mesh_agent_status{status="disabled"} == 1',
        for_s=7 * DAY,
        severity="info",
        summary=f"{_WHO} has been disabled for a week",
        description=f"{_WHO} was disabled over a week ago: enable it, or delete it.",
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(_status("disabled", 0, 1), _UP),
        labels={**_AGENT, "status": "disabled"},
        step_s=HOUR,
    ),
    Alert(
        name="MeshAgentCertificateExpiresSoon",
        expr=(
            "(mesh:agent_certificate_remaining:seconds > 0)\n"
            "< on (job, instance) group_left () mesh_config_certificate_warning_seconds"
        ),
        for_s=HOUR,
        severity="warning",
        summary="The certificate of agent {{ $labels.agent }} ends soon",
        description=(
            f"{_WHO} cannot take part once its certificate has ended, which is"
            " {{ $value | humanizeDuration }} away."
        ),
        board="mesh-certificates",
        variables=_THIS_AGENT,
        story=(gauge(_ENDS, 90 * DAY, 15 * DAY), _WARNING, _UP),
        labels=_AGENT,
        value="14d 22h 37m 0s",
        step_s=MINUTE,
    ),
    Alert(
        name="MeshAgentCertificateExpiresVerySoon",
        expr=(
            "((mesh:agent_certificate_remaining:seconds > 0) < 3 * 86400)\n"
            "< on (job, instance) group_left () mesh_config_certificate_warning_seconds"
        ),
        for_s=15 * MINUTE,
        severity="critical",
        summary="The certificate of agent {{ $labels.agent }} ends in less than three days",
        description=f"{_WHO} cannot take part in {{{{ $value | humanizeDuration }}}} any more.",
        board="mesh-certificates",
        variables=_THIS_AGENT,
        story=(gauge(_ENDS, 90 * DAY, 2 * DAY), _WARNING, _UP),
        labels=_AGENT,
        value="1d 23h 39m 15s",
    ),
    Alert(
        name="MeshAgentCertificateExpired",
        expr=(
            "mesh:agent_certificate_remaining:seconds <= 0\n"
            'unless on (job, agent) mesh_agent_status{status="disabled"} == 1'
        ),
        severity="critical",
        summary="The certificate of agent {{ $labels.agent }} has ended",
        description=f"{_WHO} is turned away by the broker until it is set up again.",
        board="mesh-certificates",
        variables=_THIS_AGENT,
        story=(gauge(_ENDS, 90 * DAY, 0), _status("disabled", 0, 0), _UP),
        labels=_AGENT,
    ),
    Alert(
        name="MeshCACertificateExpiresSoon",
        expr="mesh_ca_certificate_not_after_timestamp_seconds - time() < 90 * 86400",
        for_s=HOUR,
        severity="critical",
        summary="The authority of the mesh ends soon",
        description=(
            "Authority {{ $labels.name }} ends in {{ $value | humanizeDuration }}; every"
            " certificate of the mesh ends with it."
        ),
        board="mesh-certificates",
        story=(
            gauge(
                f'mesh_ca_certificate_not_after_timestamp_seconds{{{JOB},name="mesh"}}',
                900 * DAY,
                60 * DAY,
            ),
            _UP,
        ),
        labels={**_BASE, "name": "mesh"},
        value="59d 22h 37m 0s",
        step_s=MINUTE,
    ),
    Alert(
        name="MeshClockSkew",
        expr="abs(mesh_agent_clock_skew_seconds) > 2",
        for_s=10 * MINUTE,
        severity="warning",
        summary="The clock of agent {{ $labels.agent }} is off",
        description=(
            f"{_WHO} tells a time that is {{{{ $value | humanizeDuration }}}} from the master's:"
            " its times in history are wrong, and its certificate may seem invalid to it."
        ),
        board="mesh-agent",
        variables=_THIS_AGENT,
        story=(gauge(_agent("mesh_agent_clock_skew_seconds"), 0.01, -8), _UP),
        labels=_AGENT,
        value="8s",
    ),
    Alert(
        name="MeshVersionSkew",
        expr="count by (job) (count by (job, version) (mesh_agent_info)) > 2",
        for_s=DAY,
        severity="info",
        summary="Agents of more than two versions are in use",
        description="{{ $value }} versions have been in use for a day: finish the upgrade.",
        board="mesh-fleet",
        story=(
            gauge(_agent("mesh_agent_info", ',version="1.0"'), 1, 1),
            gauge(_agent("mesh_agent_info", ',version="1.1"'), None, 1),
            gauge(_agent("mesh_agent_info", ',version="1.2"'), None, 1),
            _UP,
        ),
        labels={"job": "mesh-master"},
        value="3",
        step_s=HOUR,
    ),
    Alert(
        name="MeshCommandFailureRate",
        expr=(
            "group:mesh_commands_failed:ratio_rate5m > 0.10\n"
            "and group:mesh_commands_failed:ratio_rate1h > 0.05"
        ),
        for_s=5 * MINUTE,
        severity="warning",
        summary="Many commands of group {{ $labels.group }} fail",
        description=(
            "{{ $value | humanizePercentage }} of the commands of group {{ $labels.group }} have"
            " failed in the last five minutes, and over 5 % in the last hour."
        ),
        board="mesh-commands",
        variables=_THIS_GROUP,
        story=(
            counter(
                _group("mesh_commands_finished_total", ',action="process",outcome="succeeded"'),
                10,
                5,
            ),
            counter(
                _group("mesh_commands_finished_total", ',action="process",outcome="failed"'), 0, 5
            ),
            _UP,
        ),
        labels={"job": "mesh-master", "group": "web"},
        value="50%",
        fault_s=12 * MINUTE,
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshCommandsUndeliverable",
        expr=(
            "sum by (job, group, outcome) (\n"
            '  increase(mesh_commands_finished_total{outcome=~"undeliverable|lost"}[10m])\n'
            ") > 0"
        ),
        severity="critical",
        summary="Commands of group {{ $labels.group }} were {{ $labels.outcome }}",
        description=(
            "In the last ten minutes commands of group {{ $labels.group }} have ended as"
            " {{ $labels.outcome }}: whether they ran is uncertain. Look at each before it is"
            " given again."
        ),
        board="mesh-commands",
        variables=_THIS_GROUP,
        story=(
            counter(
                _group("mesh_commands_finished_total", ',action="process",outcome="lost"'), 0, 1
            ),
            _UP,
        ),
        labels={"job": "mesh-master", "group": "web", "outcome": "lost"},
        fault_s=2 * MINUTE,
        settle_s=11 * MINUTE,
    ),
    Alert(
        name="MeshCommandAckSlow",
        expr="group:mesh_command_ack_seconds:p95_5m > 2.5",
        for_s=10 * MINUTE,
        severity="warning",
        summary="Agents of group {{ $labels.group }} acknowledge slowly",
        description=(
            "One acknowledgement in twenty takes longer than {{ $value | humanizeDuration }}; each"
            " is due within 5 s. Hosts or network are overloaded."
        ),
        board="mesh-commands",
        variables=_THIS_GROUP,
        story=(
            counter(_group("mesh_command_acknowledge_seconds_bucket", ',le="0.01"'), 10, 0),
            counter(_group("mesh_command_acknowledge_seconds_bucket", ',le="2.5"'), 10, 0),
            counter(_group("mesh_command_acknowledge_seconds_bucket", ',le="5.0"'), 10, 10),
            counter(_group("mesh_command_acknowledge_seconds_bucket", ',le="+Inf"'), 10, 10),
            _UP,
        ),
        labels={"job": "mesh-master", "group": "web"},
        value="4.875s",
        fault_s=16 * MINUTE,
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshCommandResendsHigh",
        expr="mesh:command_resend:ratio_rate5m > 0.20",
        for_s=10 * MINUTE,
        severity="warning",
        summary="Many commands are sent again",
        description=(
            "{{ $value | humanizePercentage }} of all transmissions are repetitions: run requests"
            " or their acknowledgements are lost on the way."
        ),
        board="mesh-commands",
        story=(
            counter(_group("mesh_command_sends_total", ',attempt="1"'), 10, 10),
            counter(_group("mesh_command_sends_total", ',attempt="2"'), 0, 10),
            _UP,
        ),
        labels={"job": "mesh-master"},
        value="50%",
        fault_s=16 * MINUTE,
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshCommandQueueStuck",
        expr="time() - mesh_command_oldest_queued_timestamp_seconds > 300",
        for_s=5 * MINUTE,
        severity="warning",
        summary="Commands of group {{ $labels.group }} do not get an agent",
        description=(
            "The oldest command of group {{ $labels.group }} has been waiting for"
            " {{ $value | humanizeDuration }}: no agent is active, or all are busy."
        ),
        board="mesh-commands",
        variables=_THIS_GROUP,
        story=(gauge(_group("mesh_command_oldest_queued_timestamp_seconds"), None, 0), _UP),
        labels=_GROUP,
        value="10m 45s",
    ),
    Alert(
        name="MeshTasksKilledOnConnectionLoss",
        expr=(
            "sum by (job, group) (\n"
            '  increase(mesh_tasks_killed_total{reason="connection_lost"}[15m])\n'
            ") > 0"
        ),
        severity="warning",
        summary="Agents of group {{ $labels.group }} have ended tasks",
        description=(
            "Their connection was lost for longer than the lease holds, so they ended what they"
            " ran, as agreed."
        ),
        board="mesh-commands",
        variables=_THIS_GROUP,
        story=(counter(_group("mesh_tasks_killed_total", ',reason="connection_lost"'), 0, 1), _UP),
        labels={"job": "mesh-master", "group": "web"},
        fault_s=2 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshStreamNearLimit",
        expr=("mesh_stream_bytes / on (job, instance, stream) mesh_stream_limit_bytes > 0.8"),
        for_s=15 * MINUTE,
        severity="warning",
        summary="Stream {{ $labels.stream }} is nearly full",
        description=(
            "{{ $value | humanizePercentage }} of its limit is used. A full MESH_EVENTS refuses"
            " commands; a full MESH_LOGS drops the oldest output."
        ),
        board="mesh-broker",
        story=(
            gauge(f'mesh_stream_bytes{{{JOB},stream="MESH_EVENTS"}}', 100, 900),
            gauge(f'mesh_stream_limit_bytes{{{JOB},stream="MESH_EVENTS"}}', 1000, 1000),
            _UP,
        ),
        labels={**_BASE, "stream": "MESH_EVENTS"},
        value="90%",
    ),
    Alert(
        name="MeshAuthFailures",
        expr="sum by (job, reason) (rate(mesh_auth_failures_total[5m])) * 60 > 1",
        for_s=10 * MINUTE,
        severity="warning",
        summary="Somebody is turned away again and again ({{ $labels.reason }})",
        description=(
            "More than one attempt a minute is refused for reason {{ $labels.reason }}: an agent or"
            " client with wrong rights, or somebody who tries."
        ),
        board="mesh-certificates",
        story=(counter(f'mesh_auth_failures_total{{{JOB},reason="token"}}', 0, 1), _UP),
        labels={"job": "mesh-master", "reason": "token"},
        fault_s=16 * MINUTE,
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshHistoryRefused",
        # A label value begins with 0, so that each increase counts.
        expr="sum by (job, result) (increase(mesh_history_refused_total[15m])) > 0",
        for_s=0,
        severity="warning",
        summary="Records of ended commands were {{ $labels.result }}: too large for the broker",
        description=(
            "cut: only id and end of a command are kept; set_aside: not even these. The broker"
            " takes smaller messages than the mesh needs."
        ),
        board="mesh-broker",
        story=(counter(f'mesh_history_refused_total{{{JOB},result="cut"}}', 0, 1), _UP),
        labels={"job": "mesh-master", "result": "cut"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshAuditLost",
        expr="sum by (job) (increase(mesh_audit_lost_total[15m])) > 0",
        for_s=0,
        severity="critical",
        summary="Entries of the audit trail could not be stored",
        description=(
            "They are in the master's log only. The broker's disk is full or does not answer, or"
            " more happens than the trail can take."
        ),
        board="mesh-broker",
        story=(counter(f"mesh_audit_lost_total{{{JOB}}}", 0, 1), _UP),
        labels={"job": "mesh-master"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshStatePutBack",
        # An event at the start of a master precedes the first sample with 0.
        expr=(
            'sum by (job) (increase(mesh_restores_total{how="noticed"}[15m])) > 0 or'
            ' sum by (job) (mesh_restores_total{how="noticed"}'
            " unless mesh_restores_total offset 15m) > 0"
        ),
        for_s=0,
        severity="critical",
        summary="The master runs on an old copy of its state",
        description=(
            "Agents have obeyed a master that this state has never heard of: it was put back"
            " without broker-master restore, or two masters run on copies of one state."
        ),
        board="mesh-commands",
        story=(counter(f'mesh_restores_total{{{JOB},how="noticed"}}', 0, 1), _UP),
        labels={"job": "mesh-master"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshRestoreDoubtful",
        expr="mesh_restore_doubtful_commands > 0",
        for_s=15 * MINUTE,
        severity="warning",
        summary="{{ $value }} commands of a restored state wait for what agents say",
        description=(
            "They were open in the backup, and may have run since. Their agents are silent; what"
            " nobody speaks of ends as lost."
        ),
        board="mesh-commands",
        story=(gauge(f"mesh_restore_doubtful_commands{{{JOB}}}", 0, 3), _UP),
        labels=_BASE,
        value="3",
    ),
    Alert(
        name="MeshMessagesShed",
        expr="sum by (job, reason) (rate(mesh_messages_shed_total[5m])) > 10",
        for_s=2 * MINUTE,
        severity="warning",
        summary="Somebody says more than the mesh listens to ({{ $labels.reason }})",
        description=(
            "More than ten messages a second are not looked at, for reason {{ $labels.reason }}."
            " Others are not held up by it: one member floods, or somebody tries a stolen token."
        ),
        board="mesh-internals",
        story=(counter(f'mesh_messages_shed_total{{{JOB},reason="rate"}}', 0, 1500), _UP),
        labels={"job": "mesh-master", "reason": "rate"},
        fault_s=8 * MINUTE,
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshForeignCredentials",
        expr=(
            "sum by (job, reason) (increase("
            'mesh_auth_failures_total{reason=~"unregistered|certificate_mismatch"}[15m])) > 0'
        ),
        for_s=0,
        severity="critical",
        summary="Somebody is connected with credentials that do not belong to them",
        description=(
            "{{ $labels.reason }}: a token that this mesh has not issued, or one with the"
            " certificate of somebody else. A signing key or an agent's files may be stolen."
        ),
        board="mesh-certificates",
        story=(counter(f'mesh_auth_failures_total{{{JOB},reason="unregistered"}}', 0, 1), _UP),
        labels={"job": "mesh-master", "reason": "unregistered"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshUnreadableEntries",
        # Includes the ones found at a master's start, before the first sample with none.
        expr=(
            "sum by (job, stream) (increase(mesh_unreadable_entries_total[15m])) > 0 or"
            " sum by (job, stream) (mesh_unreadable_entries_total"
            " unless mesh_unreadable_entries_total offset 15m) > 0"
        ),
        for_s=0,
        severity="critical",
        summary="{{ $labels.stream }} holds entries that are not the mesh's",
        description=(
            "The master has skipped entries of {{ $labels.stream }} that it cannot read, or that"
            " are in another's place. Somebody writes there with a master's rights, or the disk of"
            " the broker is damaged."
        ),
        board="mesh-broker",
        story=(
            counter(f'mesh_unreadable_entries_total{{{JOB},stream="KV_mesh_registry"}}', 0, 1),
            _UP,
        ),
        labels={"job": "mesh-master", "stream": "KV_mesh_registry"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshConnectionInactive",
        expr="mesh_connection_active == 0\nunless on (job, group) mesh_group_active == 0",
        for_s=5 * MINUTE,
        severity="warning",
        summary="Connection {{ $labels.connection }} is inactive",
        description=(
            "Group {{ $labels.group }} is active, but none of its active hosts has a usable profile"
            " {{ $labels.connection }}: commands through it are refused."
        ),
        board="mesh-connections",
        variables=_THIS_GROUP,
        story=(
            gauge(_connection("mesh_connection_active"), 1, 0),
            gauge(f'mesh_group_active{{{JOB},group="db"}}', 1, 1),
            _UP,
        ),
        labels=_CONNECTION,
    ),
    Alert(
        name="MeshConnectionFaults",
        expr=(
            "increase(mesh_connection_faults_total"
            '{code=~"login_refused|target_lost|target_timeout|target_unreachable|tls_failed"}[15m])'
            " > 5"
        ),
        severity="warning",
        summary="Connection {{ $labels.connection }} fails: {{ $labels.code }}",
        description=(
            "More than five calls through {{ $labels.connection }} have ended with"
            " {{ $labels.code }} in a quarter of an hour: its system, or the way to it, is in"
            " trouble."
        ),
        board="mesh-connections",
        variables=_THIS_GROUP,
        story=(
            counter(_connection("mesh_connection_faults_total", ',code="login_refused"'), 0, 2),
            _UP,
        ),
        labels={**_CONNECTION, "code": "login_refused"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshConnectionWorkersLost",
        expr='increase(mesh_connection_faults_total{code="worker_lost"}[15m]) > 3',
        severity="warning",
        summary="Workers of connection {{ $labels.connection }} end in mid-call",
        description=(
            "More than three worker processes have ended during calls through"
            " {{ $labels.connection }} in a quarter of an hour: they ran out of memory, or a driver"
            " crashed."
        ),
        board="mesh-connections",
        variables=_THIS_GROUP,
        story=(
            counter(_connection("mesh_connection_faults_total", ',code="worker_lost"'), 0, 1),
            _UP,
        ),
        labels={**_CONNECTION, "code": "worker_lost"},
        fault_s=16 * MINUTE,
        settle_s=16 * MINUTE,
    ),
    Alert(
        name="MeshProfileProblem",
        expr="mesh_connection_profile_problems > 0",
        for_s=15 * MINUTE,
        severity="warning",
        summary="Profile {{ $labels.connection }} is broken on a host",
        description=(
            "The file of profile {{ $labels.connection }} has a problem on {{ $value }} hosts of"
            " group {{ $labels.group }}. The last good one stays in use until the agent restarts."
        ),
        board="mesh-connections",
        variables=_THIS_GROUP,
        story=(gauge(_connection("mesh_connection_profile_problems"), 0, 1), _UP),
        labels=_CONNECTION,
        value="1",
    ),
    Alert(
        name="MeshProfileDrift",
        expr="mesh_connection_profile_hashes > 1",
        for_s=1 * HOUR,
        severity="info",
        summary="Hosts have different profiles {{ $labels.connection }}",
        description=(
            "Group {{ $labels.group }} has {{ $value }} different profiles"
            " {{ $labels.connection }}: what a command finds depends on its host."
        ),
        board="mesh-connections",
        variables=_THIS_GROUP,
        story=(gauge(_connection("mesh_connection_profile_hashes"), 1, 2), _UP),
        labels=_CONNECTION,
        value="2",
    ),
    Alert(
        name="MeshEventLoopLag",
        expr="max_over_time(mesh_event_loop_lag_seconds[5m]) > 0.5",
        for_s=5 * MINUTE,
        severity="warning",
        summary="The master is late in what it does",
        description=(
            "Its event loop was held up for {{ $value | humanizeDuration }}: acknowledgements and"
            " heartbeats wait as long. The host is overloaded, or the fleet too large for one."
        ),
        board="mesh-internals",
        story=(gauge(f"mesh_event_loop_lag_seconds{{{JOB}}}", 0.002, 0.9), _UP),
        labels=_BASE,
        value="900ms",
        settle_s=6 * MINUTE,
    ),
    Alert(
        name="MeshScrapeTooLarge",
        expr='scrape_samples_scraped{job="mesh-master"} > 100000',
        for_s=30 * MINUTE,
        severity="info",
        summary="The master's scrape is very large",
        description=(
            "{{ $value }} samples a scrape: set per_agent_metrics = false, which leaves the totals"
            " of groups."
        ),
        board="mesh-internals",
        story=(gauge(f"scrape_samples_scraped{{{JOB}}}", 20_000, 120_000), _UP),
        labels=_BASE,
        value="120000",
    ),
)

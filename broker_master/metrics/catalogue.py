"""Every metric of a master: its name, kind, labels and meaning, in one place.

The page `docs/metrics.md` is generated from this table, and a scrape is checked against it.
"""

from typing import Final, Literal, NamedTuple

from broker_client.runtime.exposition import header

Kind = Literal["gauge", "counter", "histogram"]


class Family(NamedTuple):
    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str

    @property
    def head(self) -> str:
        return header(self.name, self.kind, self.meaning)


_AGENT: Final = ("agent", "group")
_GROUP: Final = ("group",)
_STATUS: Final = "awaiting_setup, active, no_response, disabled"

BUILD = Family(
    "mesh_build_info", "gauge", ("version", "python", "role"), "1; what runs here, and as what"
)
AGENT_INFO = Family(
    "mesh_agent_info",
    "gauge",
    (*_AGENT, "version", "os", "arch", "protocol"),
    "1; what an agent says of itself, for joins",
)
AGENT_STATUS = Family(
    "mesh_agent_status", "gauge", (*_AGENT, "status"), f"1 for the status it has, else 0: {_STATUS}"
)
AGENT_UPTIME = Family(
    "mesh_agent_uptime_seconds", "gauge", _AGENT, "By the newest heartbeat; absent while silent"
)
AGENT_START = Family(
    "mesh_agent_start_time_seconds", "gauge", _AGENT, "When its process started; a change: restart"
)
AGENT_HEARD = Family(
    "mesh_agent_last_heartbeat_timestamp_seconds", "gauge", _AGENT, "Time of its last heartbeat"
)
AGENT_RTT = Family(
    "mesh_agent_heartbeat_rtt_seconds",
    "gauge",
    _AGENT,
    "From a heartbeat to its echo, as the agent measured it last; absent while silent",
)
AGENT_SKEW = Family(
    "mesh_agent_clock_skew_seconds",
    "gauge",
    _AGENT,
    "The agent's wall clock less the master's; absent while silent",
)
AGENT_ENDS = Family(
    "mesh_agent_certificate_not_after_timestamp_seconds",
    "gauge",
    _AGENT,
    "When the certificate in use ends",
)
AGENT_BEGINS = Family(
    "mesh_agent_certificate_not_before_timestamp_seconds",
    "gauge",
    _AGENT,
    "When the certificate in use was issued",
)
AGENT_ROTATING = Family(
    "mesh_agent_certificate_rotation_pending",
    "gauge",
    _AGENT,
    "1 while a renewed certificate waits to replace the one in use: both keys are good",
)
AGENT_NOT_RENEWED = Family(
    "mesh_agent_certificate_renewal_failed",
    "gauge",
    _AGENT,
    "1 while an agent says that it could not renew its certificate; absent otherwise",
)
AGENT_RUNNING = Family(
    "mesh_agent_tasks_running", "gauge", _AGENT, "Tasks at its newest heartbeat; absent if silent"
)
AGENT_SLOTS = Family("mesh_agent_task_slots", "gauge", _AGENT, "Tasks that it takes at once")
AGENT_SPOOL = Family(
    "mesh_agent_log_buffer_bytes",
    "gauge",
    _AGENT,
    "Reports that wait at the agent; absent if silent",
)
AGENT_LACKS = Family(
    "mesh_agent_lacks",
    "gauge",
    (*_AGENT, "lack"),
    "1 while it has no room and takes no new task for want of: spool (output that waits), disk,"
    " descriptors, journal, reports (not stored yet), other; absent otherwise",
)
AGENT_LOSSES = Family(
    "mesh_agent_connection_losses_total",
    "counter",
    (*_AGENT, "outcome"),
    "Silences that ended as recovered or unrecoverable; from the first one on",
)
STATUS_CHANGES = Family(
    "mesh_agent_status_changes_total", "counter", ("group", "from", "to"), "Changes of status"
)
GROUP_ACTIVE = Family("mesh_group_active", "gauge", _GROUP, "1 while an agent of it is active")
GROUP_AGENTS = Family("mesh_group_agents", "gauge", ("group", "status"), "Agents by status")
BEATS = Family("mesh_heartbeats_received_total", "counter", _GROUP, "Heartbeats received")
BEATS_MISSED = Family(
    "mesh_heartbeats_missed_total",
    "counter",
    _GROUP,
    "Heartbeats that were due and did not come, until their agent became silent",
)
ROUND_TRIP = Family(
    "mesh_heartbeat_rtt_seconds", "histogram", _GROUP, "From a heartbeat to its echo"
)
SUBMITTED = Family(
    "mesh_commands_submitted_total",
    "counter",
    ("group", "action", "source"),
    "Commands that were made durable",
)
FINISHED = Family(
    "mesh_commands_finished_total",
    "counter",
    ("group", "action", "outcome"),
    "Commands by the terminal state that they reached",
)
_PROGRAM: Final = (
    "program: the base name of `argv[0]`; beyond the first `programs_in_metrics` of them, (others)"
)
PROGRAM_FINISHED = Family(
    "mesh_program_finished_total",
    "counter",
    ("group", "program", "outcome"),
    f"Processes by the terminal state that they reached; {_PROGRAM}",
)
PROGRAM_RUNS = Family(
    "mesh_program_runs_total",
    "counter",
    ("group", "program"),
    f"Processes that have run, by their last attempt; {_PROGRAM}",
)
PROGRAM_SECONDS = Family(
    "mesh_program_run_seconds_total",
    "counter",
    ("group", "program"),
    f"How long these ran, all together; {_PROGRAM}",
)
IN_FLIGHT = Family(
    "mesh_commands_in_flight",
    "gauge",
    ("group", "phase"),
    "Open commands: queued, sent, acknowledged, running, unknown, stopping",
)
OLDEST = Family(
    "mesh_command_oldest_queued_timestamp_seconds",
    "gauge",
    _GROUP,
    "When the oldest command that waits for an agent was submitted; absent if none waits",
)
SENDS = Family(
    "mesh_command_sends_total",
    "counter",
    ("group", "attempt"),
    "Transmissions of attempts; attempt: number of the transmission, from 1",
)
ACKNOWLEDGE = Family(
    "mesh_command_acknowledge_seconds",
    "histogram",
    _GROUP,
    "From the choice of an agent to its acknowledgement",
)
QUEUE = Family(
    "mesh_command_queue_seconds",
    "histogram",
    ("group", "action"),
    "From submission to the first transmission",
)
DURATION = Family(
    "mesh_command_duration_seconds", "histogram", ("group", "action"), "Run time of attempts"
)
DUPLICATES = Family(
    "mesh_command_duplicates_total",
    "counter",
    ("side", "result"),
    "Requests with a known id; suppressed: still open, replayed: its result was sent again",
)
FANOUTS_RUNNING = Family("mesh_fanouts_running", "gauge", (), "Fan-outs that have not ended")
FANOUT_AGENTS = Family(
    "mesh_fanout_agents_remaining",
    "gauge",
    (),
    "Agents of running fan-outs whose command has not ended, or is not submitted yet",
)
FANOUTS_FINISHED = Family(
    "mesh_fanouts_finished_total",
    "counter",
    ("state",),
    "Fan-outs that have ended: succeeded (on all agents), partial, failed, cancelled",
)
KILLED = Family(
    "mesh_tasks_killed_total",
    "counter",
    ("group", "reason"),
    "Tasks ended before their time: connection_lost, timeout, cancel",
)
BROKER_UP = Family("mesh_broker_up", "gauge", ("broker",), "1 while the broker is connected")
BROKER_RECONNECTS = Family(
    "mesh_broker_reconnects_total", "counter", ("broker",), "Connections after the first one"
)
BROKER_ERRORS = Family(
    "mesh_broker_errors_total",
    "counter",
    ("broker", "kind"),
    "permission: refused by the broker; malformed: skipped; publish: not sent; callback: a fault",
)
BROKER_RTT = Family(
    "mesh_broker_rtt_seconds", "gauge", ("broker",), "Round trip to the broker; absent while down"
)
STREAM_MESSAGES = Family("mesh_stream_messages", "gauge", ("stream",), "Messages of a stream")
STREAM_BYTES = Family("mesh_stream_bytes", "gauge", ("stream",), "Size of a stream")
STREAM_LIMIT = Family(
    "mesh_stream_limit_bytes", "gauge", ("stream",), "Its limit; absent if it has none"
)
STORE_WRITE = Family(
    "mesh_store_write_seconds",
    "histogram",
    ("operation",),
    "accept: submission until durable; history, readmodel: one batch of ended commands",
)
STORE_SIZE = Family("mesh_store_size_bytes", "gauge", ("table",), "Size on disk")
STORE_ROWS = Family("mesh_store_rows", "gauge", ("table",), "Rows, counted twice a minute")
HISTORY_LAG = Family(
    "mesh_history_lag_seconds",
    "gauge",
    (),
    "How long the oldest ended command waits for its record",
)
LOOP_LAG = Family(
    "mesh_event_loop_lag_seconds",
    "gauge",
    (),
    "Worst delay of a due callback since the last scrape",
)
AUTH_FAILURES = Family(
    "mesh_auth_failures_total",
    "counter",
    ("reason",),
    "Refused by the master: permission, name_mismatch, revoked, expired, token,"
    " certificate_mismatch (of token and certificate), unregistered (token not issued here),"
    " duplicate_identity (one identity in two places)",
)
ENROLMENTS = Family("mesh_enrolments_total", "counter", ("outcome",), "Requests to enrol")
RENEWALS = Family(
    "mesh_certificate_renewals_total",
    "counter",
    ("outcome",),
    "Steps of agents' renewals: signed, confirmed, or the code of a refusal",
)
AUDIT_LOST = Family(
    "mesh_audit_lost_total", "counter", (), "Audit entries that could not be stored"
)
HISTORY_REFUSED = Family(
    "mesh_history_refused_total",
    "counter",
    ("result",),
    "Records of ended commands that the broker refused for their size; cut: only their id and end"
    " are kept, set_aside: not even these",
)
RESTORES = Family(
    "mesh_restores_total",
    "counter",
    ("how",),
    "Restored states; announced: by broker-master restore, once at the first start on one;"
    " noticed: by the epoch that the agents of a group have obeyed since",
)
RESTORE_DOUBTFUL = Family(
    "mesh_restore_doubtful_commands",
    "gauge",
    (),
    "Commands that were open in a restored state, and that no agent has reported yet",
)
RESTORED_ATTEMPTS = Family(
    "mesh_restored_attempts_total",
    "counter",
    ("result",),
    "Attempts after a restore; adopted: not in the backup, and an agent has them; recalled: had"
    " ended since, as reported by their agent; lost: unknown to their agent",
)
SHED = Family(
    "mesh_messages_shed_total",
    "counter",
    ("reason",),
    "Messages and requests that were dropped. unproved: a connection of the sender was not"
    " compared in time, or turned out wrong; rate: above the rate limit of an agent; share: above"
    " one sender's share of a resource that all use",
)
SHUT_OUT = Family(
    "mesh_shut_out_total",
    "counter",
    ("role",),
    "Keys that were shut out for a while since they sent more than limits.messages_per_s or"
    " limits.bytes_per_s; role: agent, client, or token for one that sets an agent up",
)
UNREADABLE = Family(
    "mesh_unreadable_entries_total",
    "counter",
    ("stream",),
    "Entries of streams and buckets that were unreadable, or at a wrong subject: skipped",
)
CA_ENDS = Family(
    "mesh_ca_certificate_not_after_timestamp_seconds", "gauge", ("name",), "When an authority ends"
)
SERVER_ENDS = Family(
    "mesh_server_certificate_not_after_timestamp_seconds",
    "gauge",
    ("name",),
    "When a certificate of the broker or of the master ends",
)
HTTP_REQUESTS = Family(
    "mesh_http_requests_total", "counter", ("route", "method", "code"), "HTTP requests answered"
)
HTTP_SECONDS = Family(
    "mesh_http_request_seconds", "histogram", ("route", "method"), "Time to answer"
)
CONFIG_BEAT = Family("mesh_config_heartbeat_interval_seconds", "gauge", (), "timers.beat_s")
CONFIG_LOST = Family("mesh_config_lost_after_seconds", "gauge", (), "timers.lost_s")
CONFIG_WARNING = Family(
    "mesh_config_certificate_warning_seconds",
    "gauge",
    (),
    "certificates.warning_days, at the most a fifth of certificates.agent_days: what is left if"
    " a renewal is overdue",
)
CONFIG_OPEN = Family(
    "mesh_config_open_commands_limit", "gauge", (), "limits.open_commands_per_group"
)

_CONNECTION: Final = ("connection", "group", "kind")
CONNECTION_ACTIVE = Family(
    "mesh_connection_active",
    "gauge",
    _CONNECTION,
    "1 while its group is active and an active host has a usable profile; absent if disabled",
)
CONNECTION_HOSTS = Family(
    "mesh_connection_hosts",
    "gauge",
    (*_CONNECTION, "profile"),
    "Agents of its group by the state of their profile: ok, problem, missing, other_kind,"
    " not_pinned",
)
CONNECTION_BROKEN = Family(
    "mesh_connection_profile_problems",
    "gauge",
    _CONNECTION,
    "Hosts whose profile has a problem; the last good one may still be in use",
)
CONNECTION_HASHES = Family(
    "mesh_connection_profile_hashes",
    "gauge",
    _CONNECTION,
    "Different usable profiles of its hosts; more than 1: drift",
)
CONNECTION_RUNNING = Family(
    "mesh_connection_commands_running", "gauge", _CONNECTION, "Commands that agents have through it"
)
CONNECTION_FINISHED = Family(
    "mesh_connection_calls_total",
    "counter",
    (*_CONNECTION, "outcome"),
    "Commands through it by the terminal state that they reached",
)
CONNECTION_FAULTS = Family(
    "mesh_connection_faults_total",
    "counter",
    (*_CONNECTION, "code"),
    "Calls that ended with this fault; worker_lost: a worker process that ended in mid-call",
)
CONNECTION_BYTES = Family(
    "mesh_connection_output_bytes_total", "counter", _CONNECTION, "Output of its calls, in bytes"
)
CONNECTION_SECONDS = Family(
    "mesh_connection_call_duration_seconds", "histogram", _CONNECTION, "Run time of its calls"
)

FAMILIES: Final[dict[str, Family]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Family)
}
# Families that exist only with `per_agent_metrics`.
PER_AGENT: Final = tuple(
    name for name in FAMILIES if name.startswith("mesh_agent_") and "agent" in FAMILIES[name].labels
)

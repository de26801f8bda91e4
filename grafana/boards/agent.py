"""Dashboard of one agent, or a few."""

from grafana.boards.spec import AGENT, GROUP, STATUS_CODE, Board, Panel, Row, query, stat

_DURATION = f"mesh_command_duration_seconds_bucket{{{GROUP}}}[$__rate_interval]"
_ROW = "/d/mesh-agent?var-agent=${__data.fields.agent}"

BOARD = Board(
    uid="mesh-agent",
    title="Mesh / Agent",
    description="How one agent does: alive since when, busy with what, until when.",
    variables=("job", "group", "agent"),
    rows=(
        Row(
            title="Status",
            panels=(
                Panel(
                    kind="timeline",
                    title="Status",
                    description="What the mesh called it, over time",
                    queries=(query(STATUS_CODE, "{{agent}}"),),
                    width=15,
                    height=6,
                ),
                stat(
                    "Uptime",
                    "Of its process, by the newest heartbeat; the smallest of those chosen",
                    f"min(mesh_agent_uptime_seconds{{{AGENT}}})",
                    unit="s",
                    height=6,
                ),
                stat(
                    "Restarts (24 h)",
                    "Number of restarts of its process",
                    f"sum(changes(mesh_agent_start_time_seconds{{{AGENT}}}[24h]))",
                    steps=((None, "green"), (1, "orange"), (4, "red")),
                    height=6,
                    decimals=0,
                ),
                stat(
                    "Certificate ends in",
                    "Until the certificate in use ends; the soonest of those chosen",
                    f"min(mesh:agent_certificate_remaining:seconds{{{AGENT}}})",
                    unit="s",
                    steps=((None, "red"), (3 * 86_400, "orange"), (30 * 86_400, "green")),
                    height=6,
                ),
            ),
        ),
        Row(
            title="Heartbeats",
            panels=(
                Panel(
                    kind="lines",
                    title="Heartbeat age",
                    description="How long ago it was last heard",
                    queries=(query(f"mesh:agent_heartbeat_age:seconds{{{AGENT}}}", "{{agent}}"),),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Heartbeat round trip",
                    description="From a heartbeat to its echo",
                    queries=(query(f"mesh_agent_heartbeat_rtt_seconds{{{AGENT}}}", "{{agent}}"),),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Clock skew",
                    description="Its wall clock less the master's",
                    queries=(query(f"mesh_agent_clock_skew_seconds{{{AGENT}}}", "{{agent}}"),),
                    unit="s",
                ),
            ),
        ),
        Row(
            title="Work",
            panels=(
                Panel(
                    kind="lines",
                    title="Tasks and slots",
                    description="Tasks that run, and how many it takes at once",
                    queries=(
                        query(f"mesh_agent_tasks_running{{{AGENT}}}", "{{agent}} running"),
                        query(f"mesh_agent_task_slots{{{AGENT}}}", "{{agent}} slots"),
                    ),
                ),
                Panel(
                    kind="bars",
                    title="Commands of its group by outcome",
                    description="Ended commands of the group; outcomes are not kept per agent",
                    queries=(
                        query(
                            "sum by (outcome) (increase(mesh_commands_finished_total"
                            f"{{{GROUP}}}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    kind="lines",
                    title="Run times of its group",
                    description="Half, and 95 of 100, of the attempts took no longer",
                    queries=(
                        query(f"histogram_quantile(0.5, sum by (le) (rate({_DURATION})))", "half"),
                        query(
                            f"histogram_quantile(0.95, sum by (le) (rate({_DURATION})))",
                            "95 of 100",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="bars",
                    title="Connection losses",
                    description="Silences that ended as recovered or as unrecoverable",
                    queries=(
                        query(
                            "sum by (agent, outcome) (increase("
                            f"mesh_agent_connection_losses_total{{{AGENT}}}[$__rate_interval]))",
                            "{{agent}} {{outcome}}",
                        ),
                    ),
                    quiet=True,
                ),
                Panel(
                    kind="lines",
                    title="Reports kept at the agent",
                    description="What it has to tell and the master has not yet stored",
                    queries=(query(f"mesh_agent_log_buffer_bytes{{{AGENT}}}", "{{agent}}"),),
                    unit="bytes",
                ),
                Panel(
                    kind="table",
                    title="What it says of itself",
                    description="Version and host; a row leads to this board for one agent",
                    queries=(
                        query(
                            "max by (agent, group, version, os, arch, protocol) "
                            f"(mesh_agent_info{{{AGENT}}})",
                            "known",
                        ),
                    ),
                    link=_ROW,
                ),
            ),
        ),
    ),
)

"""All agents and groups at a glance."""

from grafana.boards.spec import (
    AGENT,
    GROUP,
    STATUS_CODE,
    STATUS_COLORS,
    Board,
    Panel,
    Row,
    query,
    stat,
)

_OUTCOMES = "failed|timed_out|lost|killed_fenced|undeliverable"


def _count(status: str, description: str) -> Panel:
    text, color, _ = STATUS_COLORS[status]
    steps = ((None, "green"),) if status == "active" else ((None, "green"), (1, color))
    expr = f'sum(mesh_group_agents{{{GROUP},status="{status}"}})'
    return stat(text, description, expr, steps=steps, decimals=0)


BOARD = Board(
    uid="mesh-fleet",
    title="Mesh / Fleet overview",
    description="Which agents and groups work, and where to look first.",
    rows=(
        Row(
            title="Now",
            panels=(
                _count("active", "Agents that beat, are reconciled and may be given work"),
                _count("no_response", "Agents that are silent, expired, or cannot hear the master"),
                _count("awaiting_setup", "Agents that have never completed a handshake"),
                _count("disabled", "Agents that an operator has taken out"),
                stat(
                    "Groups inactive",
                    "Groups without any active agent; their commands wait",
                    f"count(mesh_group_active{{{GROUP}}} == 0) or vector(0)",
                    steps=((None, "green"), (1, "red")),
                    decimals=0,
                ),
                stat(
                    "Commands per minute",
                    "Commands that were made durable, by the last minutes",
                    f"sum(rate(mesh_commands_submitted_total{{{GROUP}}}[$__rate_interval])) * 60",
                    decimals=1,
                ),
                stat(
                    "Failure ratio",
                    "Part of the ended commands that failed, timed out, were lost or never arrived",
                    f'sum(rate(mesh_commands_finished_total{{{GROUP},outcome=~"{_OUTCOMES}"}}'
                    "[$__rate_interval]))\n"
                    f"/ sum(rate(mesh_commands_finished_total{{{GROUP}}}[$__rate_interval]))",
                    unit="percentunit",
                    steps=((None, "green"), (0.05, "orange"), (0.1, "red")),
                ),
                stat(
                    "Soonest expiry",
                    "Until the first certificate of an agent ends",
                    f"min(mesh:agent_certificate_remaining:seconds{{{GROUP}}})",
                    unit="s",
                    steps=((None, "red"), (3 * 86_400, "orange"), (30 * 86_400, "green")),
                ),
            ),
        ),
        Row(
            title="Agents",
            panels=(
                Panel(
                    kind="timeline",
                    title="Status of agents",
                    description="The status of each agent over time",
                    queries=(query(STATUS_CODE.replace(AGENT, GROUP), "{{agent}}"),),
                    width=16,
                    height=10,
                    link="/d/mesh-agent?var-agent=${__field.labels.agent}&${__url_time_range}",
                ),
                Panel(
                    kind="table",
                    title="Groups",
                    description="Active and all agents, and the part of commands that fail",
                    queries=(
                        query(
                            f'sum by (group) (mesh_group_agents{{{GROUP},status="active"}})',
                            "active",
                        ),
                        query(f"sum by (group) (mesh_group_agents{{{GROUP}}})", "agents"),
                        query(
                            f"max by (group) (group:mesh_agents_active:ratio{{{GROUP}}})",
                            "of those meant to work",
                        ),
                        query(
                            f"max by (group) (group:mesh_commands_failed:ratio_rate1h{{{GROUP}}})",
                            "failed (1 h)",
                        ),
                    ),
                    join="group",
                    units=(
                        ("of those meant to work", "percentunit"),
                        ("failed (1 h)", "percentunit"),
                    ),
                    sort="active",
                    height=10,
                ),
                Panel(
                    kind="gauges",
                    title="Longest unheard agents",
                    description="How long ago each agent was last heard; ten of them",
                    queries=(
                        query(
                            "topk(10, max by (agent) ("
                            f"mesh:agent_heartbeat_age:seconds{{{GROUP}}}))",
                            "{{agent}}",
                        ),
                    ),
                    unit="s",
                    steps=((None, "green"), (10, "orange"), (50, "red")),
                ),
                Panel(
                    kind="heatmap",
                    title="Heartbeat round trips",
                    description="From a heartbeat to its echo, all agents of the groups",
                    queries=(
                        query(
                            "sum by (le) (increase(mesh_heartbeat_rtt_seconds_bucket"
                            f"{{{GROUP}}}[$__rate_interval]))",
                            "{{le}}",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="pie",
                    title="Versions",
                    description="Agents by the version that they run",
                    queries=(
                        query(f"count by (version) (mesh_agent_info{{{GROUP}}})", "{{version}}"),
                    ),
                    width=4,
                ),
                Panel(
                    kind="lines",
                    title="Heartbeats missed",
                    description="Heartbeats that were due and did not come",
                    queries=(
                        query(
                            "sum by (group) (rate(mesh_heartbeats_missed_total"
                            f"{{{GROUP}}}[$__rate_interval]))",
                            "{{group}}",
                        ),
                    ),
                    width=4,
                ),
            ),
        ),
        Row(
            title="Alerts",
            panels=(
                Panel(
                    kind="table",
                    title="Alerts",
                    description="Alerts of the mesh that fire or are about to",
                    queries=(
                        query(
                            "max by (alertname, severity, alertstate, group, agent) "
                            '(ALERTS{alertname=~"Mesh.*"})',
                            "now",
                        ),
                    ),
                    width=16,
                    quiet=True,
                ),
                Panel(
                    kind="lines",
                    title="Changes of status",
                    description="How often agents change from one status to another",
                    queries=(
                        query(
                            "sum by (from, to) (increase(mesh_agent_status_changes_total"
                            f"{{{GROUP}}}[$__rate_interval]))",
                            "{{from}} → {{to}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

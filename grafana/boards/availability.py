"""Dashboard of the availability in the last thirty days, for a report."""

from grafana.boards.spec import GROUP, Board, Panel, Row, query, stat

_RATIO = f"mesh:agent_availability:ratio_30d{{{GROUP}}}"
# Target availability: share of the time in which a group has an active agent.
_TARGET = 0.999

BOARD = Board(
    uid="mesh-availability",
    title="Mesh / Availability (30 days)",
    description="How much of the last thirty days agents and groups were active.",
    since="now-30d",
    rows=(
        Row(
            title="Groups",
            panels=(
                Panel(
                    kind="gauges",
                    title="Groups active",
                    description="Part of the time in which a group had an active agent",
                    queries=(
                        query(
                            f"avg by (group) (avg_over_time(mesh_group_active{{{GROUP}}}[30d]))",
                            "{{group}}",
                        ),
                    ),
                    unit="percentunit",
                    steps=((None, "red"), (0.99, "orange"), (_TARGET, "green")),
                    decimals=3,
                ),
                Panel(
                    kind="gauges",
                    title="Error budget left",
                    description=f"Of what a target of {_TARGET:.1%} allows; below 0 it is missed",
                    queries=(
                        query(
                            "1 - (1 - avg by (group) (avg_over_time("
                            f"mesh_group_active{{{GROUP}}}[30d]))) / {1 - _TARGET:.3f}",
                            "{{group}}",
                        ),
                    ),
                    unit="percentunit",
                    steps=((None, "red"), (0, "orange"), (0.5, "green")),
                ),
                stat(
                    "Commands lost",
                    "Ended as lost: whether they ran is uncertain",
                    f'sum(increase(mesh_commands_finished_total{{{GROUP},outcome="lost"}}[30d]))',
                    steps=((None, "green"), (1, "red")),
                    width=4,
                    height=8,
                    decimals=0,
                ),
                stat(
                    "Commands undeliverable",
                    "Sent six times and never acknowledged",
                    "sum(increase(mesh_commands_finished_total"
                    f'{{{GROUP},outcome="undeliverable"}}[30d]))',
                    steps=((None, "green"), (1, "red")),
                    width=4,
                    height=8,
                    decimals=0,
                ),
            ),
        ),
        Row(
            title="Agents",
            panels=(
                Panel(
                    kind="table",
                    title="Availability of agents",
                    description="Part of the time in which each was active, the worst first",
                    queries=(query(f"sum by (agent, group) ({_RATIO})", "active"),),
                    units=(("active", "percentunit"),),
                    sort="active",
                    width=12,
                    height=10,
                ),
                Panel(
                    kind="gauges",
                    title="Time out of service",
                    description="As a part of thirty days, the ten agents that were out longest",
                    queries=(
                        query(
                            f"topk(10, sum by (agent) ((1 - {_RATIO}) * 30 * 86400))",
                            "{{agent}}",
                        ),
                    ),
                    unit="s",
                    steps=((None, "green"), (3600, "orange"), (86_400, "red")),
                    width=12,
                    height=10,
                ),
            ),
        ),
    ),
)

"""Ends of certificates, and refused connections and requests."""

from grafana.boards.spec import GROUP, JOB, Board, Panel, Row, query, stat

_LEFT = f"mesh:agent_certificate_remaining:seconds{{{GROUP}}}"
_DAY = 86_400


def _within(title: str, description: str, low: int, high: int, color: str) -> Panel:
    expr = f"count(({_LEFT} > {low * _DAY}) <= {high * _DAY}) or vector(0)"
    steps = ((None, "green"), (1, color))
    return stat(title, description, expr, steps=steps, width=6, decimals=0)


BOARD = Board(
    uid="mesh-certificates",
    title="Mesh / Certificates",
    description="When the certificates of agents, broker and authority end.",
    rows=(
        Row(
            title="Agents",
            panels=(
                stat(
                    "Ended",
                    "Agents whose certificate has ended: the broker turns them away",
                    f"count({_LEFT} <= 0) or vector(0)",
                    steps=((None, "green"), (1, "red")),
                    width=6,
                    decimals=0,
                ),
                _within("Less than 3 days", "Agents that need a new certificate now", 0, 3, "red"),
                _within(
                    "3 to 30 days",
                    "They renew by themselves a good month before the end; some of them later",
                    3,
                    30,
                    "orange",
                ),
                stat(
                    "Agents with a certificate",
                    "Agents that have been enrolled",
                    f"count({_LEFT})",
                    width=6,
                    decimals=0,
                ),
                Panel(
                    kind="table",
                    title="Certificates by time left",
                    description="All agents, soonest end first; rotating: a new one waits for use",
                    queries=(
                        query(f"sum by (agent, group) ({_LEFT})", "left"),
                        query(
                            "sum by (agent) (mesh_agent_certificate_not_after_timestamp_seconds"
                            f"{{{GROUP}}}) * 1000",
                            "ends",
                        ),
                        query(
                            "sum by (agent) (mesh_agent_certificate_not_before_timestamp_seconds"
                            f"{{{GROUP}}}) * 1000",
                            "issued",
                        ),
                        query(
                            f'sum by (agent) (mesh_agent_status{{{GROUP},status="active"}})',
                            "active",
                        ),
                        query(
                            f"sum by (agent) (mesh_agent_certificate_rotation_pending{{{GROUP}}})",
                            "rotating",
                        ),
                    ),
                    join="agent",
                    units=(("left", "s"), ("ends", "dateTimeAsIso"), ("issued", "dateTimeAsIso")),
                    sort="left",
                    width=16,
                    height=10,
                    link="/d/mesh-agent?var-agent=${__data.fields.agent}",
                ),
                Panel(
                    kind="gauges",
                    title="Ends by week",
                    description="How many certificates end in each of the coming weeks",
                    queries=(
                        query(
                            f'sort(count_values("week", ceil(({_LEFT} > 0) / {7 * _DAY})))',
                            "week {{week}}",
                        ),
                    ),
                    height=10,
                    decimals=0,
                ),
            ),
        ),
        Row(
            title="Authority, broker and master",
            panels=(
                Panel(
                    kind="gauges",
                    title="Authorities end in",
                    description="Everything ends with its authority",
                    queries=(
                        query(
                            f"mesh_ca_certificate_not_after_timestamp_seconds{{{JOB}}} - time()",
                            "{{name}}",
                        ),
                    ),
                    unit="s",
                    steps=((None, "red"), (90 * _DAY, "green")),
                ),
                Panel(
                    kind="gauges",
                    title="Broker and master end in",
                    description="Renewed by the master once half of their life is over",
                    queries=(
                        query(
                            "mesh_server_certificate_not_after_timestamp_seconds"
                            f"{{{JOB}}} - time()",
                            "{{name}}",
                        ),
                    ),
                    unit="s",
                    steps=((None, "red"), (90 * _DAY, "green")),
                ),
                Panel(
                    kind="lines",
                    title="Turned away",
                    description="Requests refused by the master, by reason",
                    queries=(
                        query(
                            "sum by (reason) (increase(mesh_auth_failures_total"
                            f"{{{JOB}}}[$__rate_interval]))",
                            "{{reason}}",
                        ),
                    ),
                ),
                Panel(
                    kind="lines",
                    title="Renewals",
                    description="Steps of agents' renewals: signed, confirmed, or why refused",
                    queries=(
                        query(
                            "sum by (outcome) (increase(mesh_certificate_renewals_total"
                            f"{{{JOB}}}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    kind="lines",
                    title="Renewals that fail",
                    description="Agents that say they could not renew; mesh agent show has why",
                    queries=(
                        query(
                            f"count(mesh_agent_certificate_renewal_failed{{{GROUP}}}) or vector(0)",
                            "agents",
                        ),
                    ),
                ),
                Panel(
                    kind="lines",
                    title="Enrolments",
                    description="Requests of new agents, by what became of them",
                    queries=(
                        query(
                            "sum by (outcome) (increase(mesh_enrolments_total"
                            f"{{{JOB}}}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

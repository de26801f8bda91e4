"""Connections: their status, profiles of hosts, calls and faults."""

from grafana.boards.spec import GROUP, Board, Panel, Row, query, stat

_CALLS = f"mesh_connection_calls_total{{{GROUP}}}"
_FAULTS = f"mesh_connection_faults_total{{{GROUP}}}"
_SECONDS = f"mesh_connection_call_duration_seconds_bucket{{{GROUP}}}"

BOARD = Board(
    uid="mesh-connections",
    title="Mesh / Connections",
    description="Ways through groups to databases, files, HTTP services and scripts.",
    rows=(
        Row(
            title="Now",
            panels=(
                stat(
                    "Inactive",
                    "Connections through which commands are refused just now",
                    f"count(mesh_connection_active{{{GROUP}}} == 0) or vector(0)",
                    steps=((None, "green"), (1, "red")),
                    width=6,
                    decimals=0,
                ),
                stat(
                    "Broken profiles",
                    "Files of profiles with a problem, on all hosts",
                    f"sum(mesh_connection_profile_problems{{{GROUP}}}) or vector(0)",
                    steps=((None, "green"), (1, "orange")),
                    width=6,
                    decimals=0,
                ),
                stat(
                    "With drift",
                    "Connections whose hosts have different profiles",
                    f"count(mesh_connection_profile_hashes{{{GROUP}}} > 1) or vector(0)",
                    steps=((None, "green"), (1, "orange")),
                    width=6,
                    decimals=0,
                ),
                stat(
                    "Running",
                    "Commands that agents have through connections",
                    f"sum(mesh_connection_commands_running{{{GROUP}}}) or vector(0)",
                    width=6,
                    decimals=0,
                ),
                Panel(
                    kind="table",
                    title="Connections",
                    description="Each with its hosts that have a usable profile, and what runs",
                    queries=(
                        query(f"sum by (connection) (mesh_connection_active{{{GROUP}}})", "active"),
                        query(
                            f'sum by (connection) (mesh_connection_hosts{{{GROUP},profile="ok"}})',
                            "hosts",
                        ),
                        query(
                            f"sum by (connection) (mesh_connection_commands_running{{{GROUP}}})",
                            "running",
                        ),
                        query(f"sum by (connection) (rate({_CALLS}[5m]))", "calls"),
                    ),
                    join="connection",
                    units=(("calls", "ops"),),
                    sort="connection",
                    width=24,
                    height=8,
                ),
            ),
        ),
        Row(
            title="Calls",
            panels=(
                Panel(
                    kind="lines",
                    title="Calls",
                    description="Ended commands per second, by connection",
                    queries=(query(f"sum by (connection) (rate({_CALLS}[5m]))", "{{connection}}"),),
                    unit="ops",
                ),
                Panel(
                    kind="lines",
                    title="Failed calls",
                    description="Ended without success per second, by connection and end",
                    queries=(
                        query(
                            "sum by (connection, outcome) (rate(mesh_connection_calls_total"
                            f'{{{GROUP},outcome!="succeeded"}}[5m])) > 0',
                            "{{connection}} {{outcome}}",
                        ),
                    ),
                    unit="ops",
                    quiet=True,
                ),
                Panel(
                    kind="lines",
                    title="Faults",
                    description="Faults per second, by connection and code",
                    queries=(
                        query(
                            f"sum by (connection, code) (rate({_FAULTS}[5m])) > 0",
                            "{{connection}} {{code}}",
                        ),
                    ),
                    unit="ops",
                    quiet=True,
                ),
                Panel(
                    kind="lines",
                    title="Time of calls, median",
                    description="Half of the calls take longer; by kind",
                    queries=(
                        query(
                            f"histogram_quantile(0.5, sum by (kind, le) (rate({_SECONDS}[5m])))",
                            "{{kind}}",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Time of calls, p99",
                    description="One call in a hundred takes longer; by kind",
                    queries=(
                        query(
                            f"histogram_quantile(0.99, sum by (kind, le) (rate({_SECONDS}[5m])))",
                            "{{kind}}",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Output",
                    description="Bytes per second that calls have written, by connection",
                    queries=(
                        query(
                            "sum by (connection)"
                            f" (rate(mesh_connection_output_bytes_total{{{GROUP}}}[5m]))",
                            "{{connection}}",
                        ),
                    ),
                    unit="Bps",
                ),
            ),
        ),
    ),
)

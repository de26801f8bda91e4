"""The broker as the master sees it."""

from grafana.boards.spec import JOB, Board, Panel, Row, query, stat

BOARD = Board(
    uid="mesh-broker",
    title="Mesh / Broker",
    description="The connection to the broker, and the streams that hold the truth.",
    variables=("job",),
    rows=(
        Row(
            title="Connection",
            panels=(
                stat(
                    "Broker connected",
                    "1 while the master is connected",
                    f"min(mesh_broker_up{{{JOB}}})",
                    steps=((None, "red"), (1, "green")),
                    decimals=0,
                    width=4,
                    height=8,
                ),
                Panel(
                    kind="lines",
                    title="Broker round trip",
                    description="A ping and its answer, every few seconds",
                    queries=(query(f"mesh_broker_rtt_seconds{{{JOB}}}", "{{broker}}"),),
                    unit="s",
                    width=7,
                ),
                Panel(
                    kind="lines",
                    title="Reconnects",
                    description="Connections after the first one",
                    queries=(
                        query(
                            "sum by (broker) (increase(mesh_broker_reconnects_total"
                            f"{{{JOB}}}[$__rate_interval]))",
                            "{{broker}}",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    kind="lines",
                    title="Errors",
                    description="Refused by the broker, malformed, not sent, or our own fault",
                    queries=(
                        query(
                            "sum by (kind) (increase(mesh_broker_errors_total"
                            f"{{{JOB}}}[$__rate_interval]))",
                            "{{kind}}",
                        ),
                    ),
                    width=7,
                ),
            ),
        ),
        Row(
            title="Streams",
            panels=(
                Panel(
                    kind="lines",
                    title="Messages",
                    description="In each stream",
                    queries=(query(f"mesh_stream_messages{{{JOB}}}", "{{stream}}"),),
                ),
                Panel(
                    kind="lines",
                    title="Size",
                    description="Of each stream",
                    queries=(query(f"mesh_stream_bytes{{{JOB}}}", "{{stream}}"),),
                    unit="bytes",
                ),
                Panel(
                    kind="gauges",
                    title="Limit used",
                    description="Full, MESH_EVENTS refuses commands and MESH_LOGS drops output",
                    queries=(
                        query(
                            f"mesh_stream_bytes{{{JOB}}}\n"
                            "/ on (job, instance, stream) mesh_stream_limit_bytes",
                            "{{stream}}",
                        ),
                    ),
                    unit="percentunit",
                    steps=((None, "green"), (0.6, "orange"), (0.8, "red")),
                ),
            ),
        ),
    ),
)

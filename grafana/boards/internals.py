"""The master's own health."""

from grafana.boards.spec import JOB, Board, Panel, Row, query

_RATE = "[$__rate_interval]"


def _quantile(part: str, by: str, metric: str) -> str:
    return f"histogram_quantile({part}, sum by ({by}, le) (rate({metric}_bucket{{{JOB}}}{_RATE})))"


BOARD = Board(
    uid="mesh-internals",
    title="Mesh / Master internals",
    description="What the master costs, and whether it keeps up.",
    variables=("job",),
    rows=(
        Row(
            title="Process",
            panels=(
                Panel(
                    kind="lines",
                    title="CPU",
                    description="Cores in use",
                    queries=(
                        query(f"rate(process_cpu_seconds_total{{{JOB}}}{_RATE})", "{{instance}}"),
                    ),
                ),
                Panel(
                    kind="lines",
                    title="Memory",
                    description="Resident",
                    queries=(query(f"process_resident_memory_bytes{{{JOB}}}", "{{instance}}"),),
                    unit="bytes",
                ),
                Panel(
                    kind="lines",
                    title="Event loop lag",
                    description="Worst delay of a due callback between two scrapes",
                    queries=(query(f"mesh_event_loop_lag_seconds{{{JOB}}}", "{{instance}}"),),
                    unit="s",
                ),
            ),
        ),
        Row(
            title="Stores",
            panels=(
                Panel(
                    kind="lines",
                    title="Writes",
                    description="95 of 100 writes take no longer",
                    queries=(
                        query(
                            _quantile("0.95", "operation", "mesh_store_write_seconds"),
                            "{{operation}}",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Read model",
                    description="Size on disk of the ended commands",
                    queries=(query(f"mesh_store_size_bytes{{{JOB}}}", "{{table}}"),),
                    unit="bytes",
                ),
                Panel(
                    kind="lines",
                    title="Rows",
                    description="Ended commands that can be looked up",
                    queries=(query(f"mesh_store_rows{{{JOB}}}", "{{table}}"),),
                ),
                Panel(
                    kind="lines",
                    title="History lag",
                    description="How long the oldest ended command waits for its record",
                    queries=(query(f"mesh_history_lag_seconds{{{JOB}}}", "{{instance}}"),),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Open commands of the fullest group",
                    description="As a part of its limit",
                    queries=(
                        query(
                            "max by (job, instance) (sum by (job, instance, group) "
                            f"(mesh_commands_in_flight{{{JOB}}}))\n"
                            "/ on (job, instance) mesh_config_open_commands_limit",
                            "{{instance}}",
                        ),
                    ),
                    unit="percentunit",
                ),
            ),
        ),
        Row(
            title="HTTP and scrapes",
            panels=(
                Panel(
                    kind="lines",
                    title="HTTP requests",
                    description="By declared route and code",
                    queries=(
                        query(
                            "sum by (route, code) ("
                            f"rate(mesh_http_requests_total{{{JOB}}}{_RATE}))",
                            "{{route}} {{code}}",
                        ),
                    ),
                    unit="reqps",
                ),
                Panel(
                    kind="lines",
                    title="HTTP times",
                    description="95 of 100 requests take no longer",
                    queries=(
                        query(_quantile("0.95", "route", "mesh_http_request_seconds"), "{{route}}"),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Scrape time",
                    description="How long a scrape of the master takes",
                    queries=(query(f"scrape_duration_seconds{{{JOB}}}", "{{instance}}"),),
                    unit="s",
                    width=4,
                ),
                Panel(
                    kind="lines",
                    title="Scrape size",
                    description="Samples per scrape",
                    queries=(query(f"scrape_samples_scraped{{{JOB}}}", "{{instance}}"),),
                    width=4,
                ),
            ),
        ),
    ),
)

"""Outcomes, latencies and queues of commands."""

from grafana.boards.spec import GROUP, JOB, Board, Panel, Row, query, stat

_FAILED = "failed|timed_out|lost|killed_fenced|undeliverable"


def _sum(by: str, metric: str, function: str = "rate", more: str = "") -> str:
    return f"sum by ({by}) ({function}({metric}{{{GROUP}{more}}}[$__rate_interval]))"


BOARD = Board(
    uid="mesh-commands",
    title="Mesh / Commands",
    description="Commands from submission to their end.",
    rows=(
        Row(
            title="Flow",
            panels=(
                Panel(
                    kind="lines",
                    title="Submitted by source",
                    description="Commands that were made durable",
                    queries=(query(_sum("source", "mesh_commands_submitted_total"), "{{source}}"),),
                    unit="cps",
                ),
                Panel(
                    kind="lines",
                    title="In flight by phase",
                    description="Open commands and where they stand",
                    queries=(
                        query(f"sum by (phase) (mesh_commands_in_flight{{{GROUP}}})", "{{phase}}"),
                    ),
                    stacked=True,
                ),
                Panel(
                    kind="bars",
                    title="Outcomes",
                    description="Ended commands by their terminal state",
                    queries=(
                        query(
                            _sum("outcome", "mesh_commands_finished_total", "increase"),
                            "{{outcome}}",
                        ),
                    ),
                    stacked=True,
                ),
            ),
        ),
        Row(
            title="Times",
            panels=(
                Panel(
                    kind="lines",
                    title="Acknowledgement",
                    description="From the choice of an agent to its acknowledgement; slowest group",
                    queries=(
                        query(
                            f"max(group:mesh_command_ack_seconds:p50_5m{{{GROUP}}})", "50 of 100"
                        ),
                        query(
                            f"max(group:mesh_command_ack_seconds:p95_5m{{{GROUP}}})", "95 of 100"
                        ),
                        query(
                            f"max(group:mesh_command_ack_seconds:p99_5m{{{GROUP}}})", "99 of 100"
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="lines",
                    title="Time in the queue",
                    description="From submission to the first transmission, 95 of 100",
                    queries=(
                        query(
                            "histogram_quantile(0.95, "
                            + _sum("group, le", "mesh_command_queue_seconds_bucket")
                            + ")",
                            "{{group}}",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    kind="heatmap",
                    title="Run times",
                    description="How long attempts ran",
                    queries=(
                        query(
                            _sum("le", "mesh_command_duration_seconds_bucket", "increase"),
                            "{{le}}",
                        ),
                    ),
                    unit="s",
                ),
            ),
        ),
        Row(
            title="Delivery",
            panels=(
                Panel(
                    kind="bars",
                    title="Transmissions",
                    description="The first of an attempt, and those that repeat it",
                    queries=(
                        query(
                            _sum("attempt", "mesh_command_sends_total", "increase"),
                            "number {{attempt}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    kind="lines",
                    title="Duplicates",
                    description="Known ids that came again, and did not run again",
                    queries=(
                        query(
                            "sum by (side, result) (increase("
                            f"mesh_command_duplicates_total{{{JOB}}}[$__rate_interval]))",
                            "{{side}} {{result}}",
                        ),
                    ),
                ),
                Panel(
                    kind="bars",
                    title="Tasks ended before their time",
                    description="By the reason for which they were ended",
                    queries=(
                        query(_sum("reason", "mesh_tasks_killed_total", "increase"), "{{reason}}"),
                    ),
                ),
                stat(
                    "Oldest in the queue",
                    "How long the oldest command that waits for an agent has been waiting",
                    f"max(time() - mesh_command_oldest_queued_timestamp_seconds{{{GROUP}}})",
                    unit="s",
                    steps=((None, "green"), (60, "orange"), (300, "red")),
                    width=8,
                    quiet=True,
                ),
            ),
        ),
        Row(
            title="Programs",
            panels=(
                Panel(
                    kind="table",
                    title="Most failing programs",
                    description="Failed, timed out, lost or undelivered in the time shown",
                    queries=(
                        query(
                            "topk(10, sum by (group, program) (increase("
                            f'mesh_program_finished_total{{{GROUP},outcome=~"{_FAILED}"}}'
                            "[$__range])) > 0)",
                            "failures",
                        ),
                    ),
                    sort="failures",
                    descending=True,
                    width=12,
                    quiet=True,
                ),
                Panel(
                    kind="table",
                    title="Slowest programs",
                    description="Mean run time in the time shown",
                    queries=(
                        query(
                            "topk(10, sum by (group, program) (increase("
                            f"mesh_program_run_seconds_total{{{GROUP}}}[$__range]))\n"
                            "/ (sum by (group, program) (increase("
                            f"mesh_program_runs_total{{{GROUP}}}[$__range])) > 0))",
                            "mean",
                        ),
                    ),
                    units=(("mean", "s"),),
                    sort="mean",
                    descending=True,
                    width=12,
                ),
            ),
        ),
    ),
)

"""Recording rules: expressions that several dashboards and alerts share."""

from typing import Final

FAILED: Final = "failed|timed_out|lost|killed_fenced|undeliverable"


def _failed_ratio(window: str) -> str:
    return (
        "sum by (job, group) (\n"
        f'  rate(mesh_commands_finished_total{{outcome=~"{FAILED}"}}[{window}])\n'
        ")\n"
        f"/ (sum by (job, group) (rate(mesh_commands_finished_total[{window}])) > 0)"
    )


def _acknowledge(quantile: str) -> str:
    return (
        f"histogram_quantile({quantile},\n"
        "  sum by (job, group, le) (rate(mesh_command_acknowledge_seconds_bucket[5m])))"
    )


RULES: Final[dict[str, str]] = {
    "mesh:agent_heartbeat_age:seconds": ("time() - mesh_agent_last_heartbeat_timestamp_seconds"),
    "mesh:agent_certificate_remaining:seconds": (
        "mesh_agent_certificate_not_after_timestamp_seconds - time()"
    ),
    "group:mesh_agents_active:ratio": (
        'sum by (job, group) (mesh_group_agents{status="active"})\n'
        '/ (sum by (job, group) (mesh_group_agents{status!~"disabled|awaiting_setup"}) > 0)'
    ),
    "group:mesh_commands_failed:ratio_rate5m": _failed_ratio("5m"),
    "group:mesh_commands_failed:ratio_rate1h": _failed_ratio("1h"),
    "group:mesh_command_ack_seconds:p50_5m": _acknowledge("0.5"),
    "group:mesh_command_ack_seconds:p95_5m": _acknowledge("0.95"),
    "group:mesh_command_ack_seconds:p99_5m": _acknowledge("0.99"),
    "mesh:command_resend:ratio_rate5m": (
        'sum by (job) (rate(mesh_command_sends_total{attempt!="1"}[5m]))\n'
        "/ (sum by (job) (rate(mesh_command_sends_total[5m])) > 0)"
    ),
    "mesh:agent_availability:ratio_30d": ('avg_over_time(mesh_agent_status{status="active"}[30d])'),
}

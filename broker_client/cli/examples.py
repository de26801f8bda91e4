"""Three examples of each command of `broker-master` and `broker-agent`; those of `mesh`: table.py.

A test parses all of them.
"""

from typing import Final

EXAMPLES: Final[dict[tuple[str, str], tuple[str, str, str]]] = {
    ("broker-master", "init"): (
        "broker-master init --state-dir mesh",
        "broker-master init --state-dir mesh --host broker.example.net",
        "broker-master init --state-dir mesh --host broker.example.net --host 192.0.2.7",
    ),
    ("broker-master", "serve"): (
        "broker-master serve --state-dir mesh",
        "broker-master serve --state-dir mesh --nats tls://broker.example.net:4222",
        "broker-master serve --state-dir mesh --config master.toml --print-config",
    ),
    ("broker-master", "backup"): (
        "broker-master backup --state-dir mesh --out mesh.backup",
        "broker-master backup --state-dir mesh --out /backup/mesh",
        "broker-master backup --state-dir mesh --out mesh.tar --nats tls://broker:4222",
    ),
    ("broker-master", "restore"): (
        "broker-master restore --state-dir new --backup mesh.backup",
        "broker-master restore --state-dir mesh",
        "broker-master restore --state-dir new --backup mesh.tar --nats tls://b:4222",
    ),
    ("broker-master", "broker-config"): (
        "broker-master broker-config --state-dir mesh",
        "broker-master broker-config --state-dir mesh --out broker --monitor 8222",
        "broker-master broker-config --state-dir mesh --listen 0.0.0.0:4222",
    ),
    ("broker-master", "monitoring"): (
        "broker-master monitoring --out monitoring",
        "broker-master monitoring --out monitoring --console https://mesh.example.net",
        "broker-master monitoring --out monitoring --grafana https://g.example.net",
    ),
    ("broker-master", "check"): (
        "broker-master check",
        "broker-master check --http 8080",
        "broker-master check --http master.example.net:8080",
    ),
    ("broker-agent", "setup"): (
        "broker-agent setup --state-dir web-1 --token -",
        "broker-agent setup --state-dir web-1 --token TOKEN",
        "broker-agent setup --state-dir /var/lib/mesh-agent --token -",
    ),
    ("broker-agent", "run"): (
        "broker-agent run --state-dir web-1",
        "broker-agent run --state-dir web-1 --slots 8",
        "broker-agent run --state-dir web-1 --token-file /run/token",
    ),
    ("broker-agent", "status"): (
        "broker-agent status --state-dir web-1",
        "broker-agent status --state-dir web-1 --check",
        "broker-agent status --state-dir web-1 --output json",
    ),
    ("broker-agent", "doctor"): (
        "broker-agent doctor --state-dir web-1",
        "broker-agent doctor --state-dir web-1 --timeout 3",
        "broker-agent doctor --state-dir web-1 --output json",
    ),
    ("broker-agent", "profile"): (
        "broker-agent profile list --state-dir web-1",
        "broker-agent profile check erp-db --state-dir web-1",
        "broker-agent profile test erp-db --state-dir web-1 --timeout 10",
    ),
}


def shown(noun: str, verb: str) -> str:
    """Return the examples of a command as lines below its help; empty if it has none."""
    lines = EXAMPLES.get((noun, verb), ())
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else ""

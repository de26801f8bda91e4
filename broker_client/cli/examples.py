"""Three examples of each command for its `--help`; a test parses all of them."""

from typing import Final

EXAMPLES: Final[dict[tuple[str, str], tuple[str, str, str]]] = {
    ("run", ""): (
        "mesh run --group web -- uname -a",
        "mesh run --agent web-1 --timeout 60 -- sh -c 'df -h | tail -3'",
        "mesh run --all 'web-*' tag:site=a --batch 25% -- systemctl restart nginx",
    ),
    ("top", ""): ("mesh top", "mesh top --once", "mesh top --every 5"),
    ("ping", ""): ("mesh ping", "mesh ping web-1 web-2", "mesh ping 'web-*' tag:site=a --wait 1"),
    ("events", ""): (
        "mesh events --since 10m",
        "mesh events --follow kind:agent,group",
        "mesh events --follow kind:command what:failed,lost group:web --output jsonl",
    ),
    ("completion", ""): (
        "mesh completion bash",
        "mesh completion zsh",
        "mesh completion fish",
    ),
    ("status", ""): ("mesh status", "mesh status --output json", "mesh status --context ops"),
    ("doctor", ""): ("mesh doctor", "mesh doctor --timeout 3", "mesh doctor --output json"),
    ("command", "list"): (
        "mesh command list state:failed,lost since:1d",
        "mesh command list 'program:apt*' 'exit:!=0' --sort -took",
        "mesh command list label:deploy=42 --output csv",
    ),
    ("command", "show"): (
        "mesh command show backup-7",
        "mesh command show backup-7 --output json",
        "mesh command show backup-7 --no-color",
    ),
    ("command", "wait"): (
        "mesh command wait backup-7",
        "mesh command wait backup-7 --timeout 600",
        "mesh command wait backup-7 --output json",
    ),
    ("command", "cancel"): (
        "mesh command cancel backup-7",
        "mesh command cancel label:deploy=42 --dry-run",
        "mesh command cancel state:queued group:web --yes",
    ),
    ("command", "retry"): (
        "mesh command retry backup-7",
        "mesh command retry backup-7 --id backup-8",
        "mesh command retry state:failed label:deploy=42 --yes",
    ),
    ("fanout", "retry"): (
        "mesh fanout retry patch --failed",
        "mesh fanout retry patch --failed --silent",
        "mesh fanout retry patch --id patch-2",
    ),
    ("command", "logs"): (
        "mesh command logs backup-7 --follow",
        "mesh command logs backup-7 --tail 20 --timestamps",
        "mesh command logs backup-7 --since 10m",
    ),
    ("command", "decide"): (
        "mesh command decide backup-7 rerun",
        "mesh command decide backup-7 fail",
        "mesh command decide backup-7 fail --output json",
    ),
    ("fanout", "list"): (
        "mesh fanout list",
        "mesh fanout list --limit 5",
        "mesh fanout list --output jsonl",
    ),
    ("fanout", "show"): (
        "mesh fanout show patch",
        "mesh fanout show patch --output json",
        "mesh fanout show patch --no-color",
    ),
    ("fanout", "wait"): (
        "mesh fanout wait patch",
        "mesh fanout wait patch --timeout 600",
        "mesh fanout wait patch --output json",
    ),
    ("fanout", "cancel"): (
        "mesh fanout cancel patch",
        "mesh fanout cancel patch --output json",
        "mesh fanout cancel patch --context ops",
    ),
    ("deadletter", "list"): (
        "mesh deadletter list",
        "mesh deadletter list --limit 5",
        "mesh deadletter list --output csv",
    ),
    ("deadletter", "show"): (
        "mesh deadletter show backup-7",
        "mesh deadletter show backup-7 --output json",
        "mesh deadletter show backup-7 --no-color",
    ),
    ("deadletter", "retry"): (
        "mesh deadletter retry backup-7",
        "mesh deadletter retry backup-7 --output json",
        "mesh deadletter retry backup-7 --context ops",
    ),
    ("group", "create"): (
        "mesh group create web",
        "mesh group create web --output json",
        "mesh group create db --context ops",
    ),
    ("group", "set"): (
        "mesh group set web --balance round_robin",
        "mesh group set web --limit 20",
        "mesh group set web --queue-limit 1000",
    ),
    ("group", "list"): (
        "mesh group list",
        "mesh group list --output csv",
        "mesh group list --output json",
    ),
    ("group", "show"): (
        "mesh group show web",
        "mesh group show web --output json",
        "mesh group show web --no-color",
    ),
    ("group", "rotate"): (
        "mesh group rotate web",
        "mesh group rotate web --timeout 60",
        "mesh group rotate web --output json",
    ),
    ("group", "delete"): (
        "mesh group delete web",
        "mesh group delete web --output json",
        "mesh group delete web --context ops",
    ),
    ("agent", "create"): (
        "mesh agent create web-1 --group web",
        "mesh agent create web-1 --group web --tag site=berlin --tag gpu=1",
        "mesh agent create web-1 --group web --weight 2 --limit 4",
    ),
    ("agent", "token"): (
        "mesh agent token web-1",
        "mesh agent token web-1 --output json",
        "mesh agent token web-1 --context ops",
    ),
    ("agent", "set"): (
        "mesh agent set web-1 --tag site=berlin",
        "mesh agent set web-1 --untag gpu",
        "mesh agent set web-1 --weight 2 --priority 3",
    ),
    ("agent", "list"): (
        "mesh agent list",
        "mesh agent list 'status:no_response' group:web --sort=-since",
        "mesh agent list --columns agent,status,running --output csv",
    ),
    ("agent", "show"): (
        "mesh agent show web-1",
        "mesh agent show web-1 --output json",
        "mesh agent show web-1 --no-color",
    ),
    ("agent", "enable"): (
        "mesh agent enable web-1",
        "mesh agent enable web-1 --output json",
        "mesh agent enable web-1 --context ops",
    ),
    ("agent", "disable"): (
        "mesh agent disable web-1 --note 'new disk'",
        "mesh agent disable web-1 web-2 --wait",
        "mesh agent disable 'web-*' tag:site=a --yes",
    ),
    ("agent", "pause"): (
        "mesh agent pause web-1 --for 2h",
        "mesh agent pause web-1 --for 30m --note 'new disk'",
        "mesh agent pause web-1 --for 2h --wait",
    ),
    ("agent", "rotate"): (
        "mesh agent rotate web-1",
        "mesh agent rotate web-1 --timeout 60",
        "mesh agent rotate web-1 --output json",
    ),
    ("agent", "move"): (
        "mesh agent move web-1 --group db",
        "mesh agent move web-1 --group db --output json",
        "mesh agent move web-1 --group db --context ops",
    ),
    ("agent", "revoke"): (
        "mesh agent revoke web-1",
        "mesh agent revoke web-1 --output json",
        "mesh agent revoke web-1 --context ops",
    ),
    ("agent", "delete"): (
        "mesh agent delete web-1",
        "mesh agent delete web-1 --output json",
        "mesh agent delete web-1 --context ops",
    ),
    ("agent", "forget"): (
        "mesh agent forget --silent-for 30d",
        "mesh agent forget --silent-for 30d --output json",
        "mesh agent forget --silent-for 12h --context ops",
    ),
    ("audit", "list"): (
        "mesh audit list",
        "mesh audit list --result alarm",
        "mesh audit list --output json",
    ),
    ("certificate", "list"): (
        "mesh certificate list",
        "mesh certificate list --expiring 30d",
        "mesh certificate list --output json",
    ),
    ("ca", "show"): ("mesh ca show", "mesh ca show --output json", "mesh ca show --no-color"),
    ("ca", "rotate"): (
        "mesh ca rotate prepare",
        "mesh ca rotate activate",
        "mesh ca rotate revoke --output json",
    ),
    ("client", "create"): (
        "mesh client create ann --role operator --group web --out ann",
        "mesh client create grafana --role viewer --out grafana",
        "mesh client create root --role admin --out root",
    ),
    ("context", "ls"): ("mesh context ls", "mesh context ls -o json", "mesh context ls -o csv"),
    ("context", "use"): (
        "mesh context use ops",
        "mesh context use ./ann",
        "mesh context use ops --output json",
    ),
    ("client", "list"): (
        "mesh client list",
        "mesh client list --output csv",
        "mesh client list --output json",
    ),
    ("client", "renew"): (
        "mesh client renew",
        "mesh client renew --context ops",
        "mesh client renew --output json",
    ),
    ("client", "revoke"): (
        "mesh client revoke ann",
        "mesh client revoke ann --output json",
        "mesh client revoke ann --context ops",
    ),
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
        "broker-master backup --state-dir mesh --out mesh.backup --nats tls://broker:4222",
    ),
    ("broker-master", "restore"): (
        "broker-master restore --state-dir new --backup mesh.backup",
        "broker-master restore --state-dir mesh",
        "broker-master restore --state-dir new --backup mesh.backup --nats tls://broker:4222",
    ),
    ("broker-master", "broker-config"): (
        "broker-master broker-config --state-dir mesh",
        "broker-master broker-config --state-dir mesh --out broker --monitor 8222",
        "broker-master broker-config --state-dir mesh --listen 0.0.0.0:4222",
    ),
    ("broker-master", "monitoring"): (
        "broker-master monitoring --out monitoring",
        "broker-master monitoring --out monitoring --console https://mesh.example.net",
        "broker-master monitoring --out monitoring --grafana https://grafana.example.net",
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
}


def shown(noun: str, verb: str) -> str:
    """Return the examples of a command as lines below its help; empty if it has none."""
    lines = EXAMPLES.get((noun, verb), ())
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else ""

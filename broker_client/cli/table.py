"""The commands of `mesh`: one row each, with its function, its line of help, and three examples.

Functions are named here and imported on use. A test parses all examples.
"""

from typing import Final, NamedTuple


class Row(NamedTuple):
    """One command. noun: or the command itself, with an empty verb. target: MODULE:FUNCTION.

    does: its line of help. examples: three command lines.
    """

    noun: str
    verb: str
    target: str
    does: str
    examples: str

    @property
    def lines(self) -> list[str]:
        """The examples, each a command line."""
        return [line.strip() for line in self.examples.strip().splitlines()]


# fmt: off
COMMANDS: Final = (
    Row("run", "", "run.program:run",
        "Run a program on an agent, or on many, and show its output.", """
        mesh run --group web -- uname -a
        mesh run --agent web-1 --timeout 60 -- sh -c 'df -h | tail -3'
        mesh run --all 'web-*' tag:site=a --batch 25% -- systemctl restart nginx"""),

    Row("do", "", "connection.do:do",
        "Carry out one action: a query, a request, a file, a script.", """
        mesh do erp-db sql.query --arg sql='select * from item' --arg format=csv
        mesh do crm http.request --arg method=POST --arg path=/v1/note --body a.json
        mesh do inbox file.list --arg pattern='*.csv' --timeout 30"""),

    Row("top", "", "mesh.top:top", "Show mesh, groups, agents and open commands, live.", """
        mesh top
        mesh top --once
        mesh top --every 5"""),

    Row("completion", "", "shell.completion:completion",
        "Print what a shell needs to complete `mesh`.", """
        mesh completion bash
        mesh completion zsh
        mesh completion fish"""),

    Row("ping", "", "agent.ping:ping", "See which agents answer, and how fast.", """
        mesh ping
        mesh ping web-1 web-2
        mesh ping 'web-*' tag:site=a --wait 1"""),

    Row("events", "", "mesh.events:events",
        "Show what happened, and what happens, a line each.", """
        mesh events --since 10m
        mesh events --follow kind:agent,group
        mesh events --follow kind:command what:failed,lost group:web --output jsonl"""),

    Row("status", "", "mesh.status:status", "Show the mesh at a glance.", """
        mesh status
        mesh status --output json
        mesh status --context ops"""),

    Row("doctor", "", "doctor.client:doctor",
        "Check the way from here to the master, step by step.", """
        mesh doctor
        mesh doctor --timeout 3
        mesh doctor --output json"""),

    Row("command", "list", "command.manage:list_", "List commands, newest first.", """
        mesh command list state:failed,lost since:1d
        mesh command list 'program:apt*' 'exit:!=0' --sort -took
        mesh command list label:deploy=42 --output csv"""),
    Row("command", "show", "command.manage:show",
        "Show a command and the timeline of its attempts.", """
        mesh command show backup-7
        mesh command show backup-7 --output json
        mesh command show backup-7 --no-color"""),
    Row("command", "wait", "command.manage:wait", "Wait until a command has ended.", """
        mesh command wait backup-7
        mesh command wait backup-7 --timeout 600
        mesh command wait backup-7 --output json"""),
    Row("command", "cancel", "command.many:cancel",
        "Ask for the end of commands, by id or by filter.", """
        mesh command cancel backup-7
        mesh command cancel label:deploy=42 --dry-run
        mesh command cancel state:queued group:web --yes"""),
    Row("command", "retry", "command.many:retry", "Submit commands again, under new ids.", """
        mesh command retry backup-7
        mesh command retry backup-7 --id backup-8
        mesh command retry state:failed label:deploy=42 --yes"""),
    Row("command", "logs", "command.logs:logs", "Write a command's output as it was printed.", """
        mesh command logs backup-7 --follow
        mesh command logs backup-7 --tail 20 --timestamps
        mesh command logs backup-7 --since 10m"""),
    Row("command", "decide", "command.manage:decide",
        "Say what becomes of a command that waits for it.", """
        mesh command decide backup-7 rerun
        mesh command decide backup-7 fail
        mesh command decide backup-7 fail --output json"""),

    Row("fanout", "list", "fanout.manage:list_", "List fan-outs, newest first.", """
        mesh fanout list
        mesh fanout list --limit 5
        mesh fanout list --output jsonl"""),
    Row("fanout", "show", "fanout.manage:show",
        "Show a fan-out and what became of it on each agent.", """
        mesh fanout show patch
        mesh fanout show patch --output json
        mesh fanout show patch --no-color"""),
    Row("fanout", "wait", "fanout.manage:wait", "Wait until a fan-out has ended.", """
        mesh fanout wait patch
        mesh fanout wait patch --timeout 600
        mesh fanout wait patch --output json"""),
    Row("fanout", "cancel", "fanout.manage:cancel", "Ask no more agents, and end what runs.", """
        mesh fanout cancel patch
        mesh fanout cancel patch --output json
        mesh fanout cancel patch --context ops"""),
    Row("fanout", "retry", "fanout.manage:retry",
        "Run a fan-out again, where it failed or everywhere.", """
        mesh fanout retry patch --failed
        mesh fanout retry patch --failed --silent
        mesh fanout retry patch --id patch-2"""),

    Row("deadletter", "list", "command.deadletter:list_",
        "List dead letters, the last one first.", """
        mesh deadletter list
        mesh deadletter list --limit 5
        mesh deadletter list --output csv"""),
    Row("deadletter", "show", "command.deadletter:show", "Show a dead letter and its timeline.", """
        mesh deadletter show backup-7
        mesh deadletter show backup-7 --output json
        mesh deadletter show backup-7 --no-color"""),
    Row("deadletter", "retry", "command.deadletter:retry",
        "Submit a dead letter again, under a new id.", """
        mesh deadletter retry backup-7
        mesh deadletter retry backup-7 --output json
        mesh deadletter retry backup-7 --context ops"""),

    Row("group", "create", "group.manage:create", "Create a group.", """
        mesh group create web
        mesh group create web --output json
        mesh group create db --context ops"""),
    Row("group", "set", "group.manage:set_", "Change how a group shares its work.", """
        mesh group set web --balance round_robin
        mesh group set web --limit 20
        mesh group set web --queue-limit 1000"""),
    Row("group", "list", "group.manage:list_", "List groups.", """
        mesh group list
        mesh group list --output csv
        mesh group list --output json"""),
    Row("group", "show", "group.manage:show", "Show one group and its agents.", """
        mesh group show web
        mesh group show web --output json
        mesh group show web --no-color"""),
    Row("group", "rotate", "agent.rotate:group", "Renew the certificates of a group's agents.", """
        mesh group rotate web
        mesh group rotate web --timeout 60
        mesh group rotate web --output json"""),
    Row("group", "delete", "group.manage:delete", "Delete a group that has no agents.", """
        mesh group delete web
        mesh group delete web --output json
        mesh group delete web --context ops"""),

    Row("connection", "create", "connection.manage:create",
        "Make a connection through a group.", """
        mesh connection create erp-db --group db --kind postgresql
        mesh connection create inbox --group files --kind directory --action file.list
        mesh connection create crm --group web --kind http --at-once 4"""),
    Row("connection", "set", "connection.manage:set_",
        "Change a connection's limits, actions or note.", """
        mesh connection set erp-db --at-once 10
        mesh connection set erp-db --action sql.query --note 'reads only'
        mesh connection set erp-db --all-actions"""),
    Row("connection", "list", "connection.manage:list_", "List connections.", """
        mesh connection list
        mesh connection list --group db --columns connection,status,next
        mesh connection list --output json"""),
    Row("connection", "show", "connection.manage:show",
        "Show one connection, and the profile of each host.", """
        mesh connection show erp-db
        mesh connection show erp-db --output json
        mesh connection show erp-db --no-color"""),
    Row("connection", "pin", "connection.manage:pin",
        "Use only hosts whose profile has this hash.", """
        mesh connection pin erp-db 9f3c21ab00112233
        mesh connection pin erp-db --none
        mesh connection pin erp-db 9f3c21ab00112233 --output json"""),
    Row("connection", "enable", "connection.manage:enable",
        "Take commands through a connection again.", """
        mesh connection enable erp-db
        mesh connection enable erp-db --output json
        mesh connection enable erp-db --context ops"""),
    Row("connection", "disable", "connection.manage:disable",
        "Start no more commands through a connection.", """
        mesh connection disable erp-db
        mesh connection disable erp-db --output json
        mesh connection disable erp-db --context ops"""),
    Row("connection", "test", "connection.manage:try_",
        "Try the way to the system from each active host.", """
        mesh connection test erp-db
        mesh connection test erp-db --agent db-1 --try-for 3
        mesh connection test erp-db --output json"""),
    Row("connection", "delete", "connection.manage:delete",
        "Delete a connection without open commands.", """
        mesh connection delete erp-db
        mesh connection delete erp-db --output json
        mesh connection delete erp-db --context ops"""),

    Row("agent", "create", "agent.manage:create",
        "Create an agent and print its activation token.", """
        mesh agent create web-1 --group web
        mesh agent create web-1 --group web --tag site=berlin --tag gpu=1
        mesh agent create web-1 --group web --weight 2 --limit 4"""),
    Row("agent", "token", "agent.manage:token", "Print a new activation token for an agent.", """
        mesh agent token web-1
        mesh agent token web-1 --output json
        mesh agent token web-1 --context ops"""),
    Row("agent", "set", "agent.manage:set_",
        "Change an agent's tags, weight, priority or limit.", """
        mesh agent set web-1 --tag site=berlin
        mesh agent set web-1 --untag gpu
        mesh agent set web-1 --weight 2 --priority 3"""),
    Row("agent", "list", "agent.listing:list_", "List agents, with status and reason.", """
        mesh agent list
        mesh agent list 'status:no_response' group:web --sort=-since
        mesh agent list --columns agent,status,running --output csv"""),
    Row("agent", "show", "agent.manage:show", "Show one agent.", """
        mesh agent show web-1
        mesh agent show web-1 --output json
        mesh agent show web-1 --no-color"""),
    Row("agent", "enable", "agent.manage:enable", "Let an agent take commands again.", """
        mesh agent enable web-1
        mesh agent enable web-1 --output json
        mesh agent enable web-1 --context ops"""),
    Row("agent", "disable", "agent.drain:disable", "Give an agent no new commands.", """
        mesh agent disable web-1 --note 'new disk'
        mesh agent disable web-1 web-2 --wait
        mesh agent disable 'web-*' tag:site=a --yes"""),
    Row("agent", "pause", "agent.drain:pause", "Give an agent no new commands for a while.", """
        mesh agent pause web-1 --for 2h
        mesh agent pause web-1 --for 30m --note 'new disk'
        mesh agent pause web-1 --for 2h --wait"""),
    Row("agent", "rotate", "agent.rotate:agent", "Renew an agent's certificate now.", """
        mesh agent rotate web-1
        mesh agent rotate web-1 --timeout 60
        mesh agent rotate web-1 --output json"""),
    Row("agent", "move", "agent.drain:move", "Move an agent to another group once it is empty.", """
        mesh agent move web-1 --group db
        mesh agent move web-1 --group db --output json
        mesh agent move web-1 --group db --context ops"""),
    Row("agent", "revoke", "agent.manage:revoke", "Refuse an agent's credentials from now on.", """
        mesh agent revoke web-1
        mesh agent revoke web-1 --output json
        mesh agent revoke web-1 --context ops"""),
    Row("agent", "delete", "agent.manage:delete",
        "Remove an agent; its credentials are refused.", """
        mesh agent delete web-1
        mesh agent delete web-1 --output json
        mesh agent delete web-1 --context ops"""),
    Row("agent", "forget", "agent.forget:forget",
        "Delete agents that have been silent for long.", """
        mesh agent forget --silent-for 30d
        mesh agent forget --silent-for 30d --output json
        mesh agent forget --silent-for 12h --context ops"""),

    Row("audit", "list", "mesh.audit:list_", "List who did what to what, from where, when.", """
        mesh audit list
        mesh audit list --result alarm
        mesh audit list --output json"""),

    Row("certificate", "list", "ca.certificate:list_", "List certificates by when they end.", """
        mesh certificate list
        mesh certificate list --expiring 30d
        mesh certificate list --output json"""),

    Row("ca", "show", "ca.manage:show",
        "Show the authority, the signing keys and who holds them up.", """
        mesh ca show
        mesh ca show --output json
        mesh ca show --no-color"""),
    Row("ca", "rotate", "ca.manage:rotate",
        "Replace the authority or a NATS key, step by step.", """
        mesh ca rotate prepare
        mesh ca rotate activate
        mesh ca rotate revoke --output json"""),

    Row("client", "create", "client.manage:create",
        "Make keys and credentials for a new client.", """
        mesh client create ann --role operator --group web --out ann
        mesh client create grafana --role viewer --out grafana
        mesh client create root --role admin --out root"""),
    Row("client", "list", "client.manage:list_", "List clients.", """
        mesh client list
        mesh client list --output csv
        mesh client list --output json"""),
    Row("client", "renew", "client.manage:renew",
        "Renew the credentials of the context in use.", """
        mesh client renew
        mesh client renew --context ops
        mesh client renew --output json"""),

    Row("context", "ls", "client.contexts:ls", "List the contexts of this account.", """
        mesh context ls
        mesh context ls -o json
        mesh context ls -o csv"""),
    Row("context", "use", "client.contexts:use_", "Mean a context where none is named.", """
        mesh context use ops
        mesh context use ./ann
        mesh context use ops --output json"""),

    Row("client", "revoke", "client.manage:revoke",
        "Refuse a client's credentials from now on.", """
        mesh client revoke ann
        mesh client revoke ann --output json
        mesh client revoke ann --context ops"""),
)
# fmt: on


def examples_of(noun: str, verb: str) -> list[str]:
    """The examples of a command; empty if there is no such command."""
    return next((row.lines for row in COMMANDS if (row.noun, row.verb) == (noun, verb)), [])

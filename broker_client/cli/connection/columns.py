"""Tables of connections: the list, the hosts of one, and what a test found."""

from typing import Final

from broker_client.cli.screen.columns import Columns, Trait, count, moment, text
from broker_client.cli.screen.size import screen_width
from broker_client.cli.screen.tables import Column, Table, facts, fit, local_and_utc
from schemas.messages.api import ConnectionRecord, ConnectionTestAnswer

_STEPS: Final = ("resolve", "connect", "tls", "login", "query")
# Characters of a hash in a table; `--output json` has all of it.
_HASH: Final = 8

_TRAITS: Final[dict[str, Trait[ConnectionRecord]]] = {
    "connection": text("CONNECTION", lambda c: c.connection),
    "status": text("STATUS", lambda c: c.status),
    "kind": text("KIND", lambda c: c.kind, rank=2),
    "group": text("GROUP", lambda c: c.group, rank=1),
    "since": moment("SINCE", lambda c: c.since),
    "running": count("RUNNING", lambda c: c.running, rank=3),
    "queued": count("QUEUED", lambda c: c.queued, rank=4),
    "usable": Trait(
        Column("HOSTS", right=True, rank=3),
        lambda c, _: f"{c.usable}/{c.agents}",
        lambda c, _: float(c.usable),
    ),
    "at_once": count("AT ONCE", lambda c: c.at_once, rank=5),
    "pin": text("PIN", lambda c: c.pin[:_HASH], rank=5),
    "badges": text("BADGES", lambda c: ", ".join(c.badges), rank=5, least=12),
    "note": text("NOTE", lambda c: c.note, rank=6, least=12),
    "next": text("NEXT", lambda c: c.next, rank=5, least=16),
    "reason": text("REASON", lambda c: "; ".join([c.reason, *c.badges]), rank=1, least=16),
}
CONNECTIONS: Final = Columns(
    _TRAITS,
    usual=("connection", "status", "kind", "group", "running", "usable", "reason"),
    wide=(
        "connection",
        "status",
        "kind",
        "group",
        "since",
        "running",
        "queued",
        "usable",
        "reason",
    ),
    other={"name": "connection", "hosts": "usable"},
)


def described(record: ConnectionRecord) -> list[str]:
    """Return a connection as lines of names and values."""
    return facts(
        [
            ("connection", record.connection),
            ("kind", record.kind),
            ("group", record.group),
            ("status", f"{record.status} since {local_and_utc(record.since)}"),
            ("reason", record.reason),
            ("next", record.next),
            ("badges", ", ".join(record.badges)),
            ("hosts", f"{record.usable} of {record.agents} usable"),
            ("running", str(record.running)),
            ("queued", str(record.queued)),
            ("at once", str(record.at_once or "no limit")),
            ("timeout", f"{record.timeout_s:g} s"),
            ("output", f"at most {record.output_bytes} bytes"),
            ("actions", ", ".join(record.actions) or f"all of {record.kind}"),
            ("pin", record.pin),
            ("note", record.note),
            ("created", f"{local_and_utc(record.created_at)} by {record.created_by}"),
        ]
    )


def members_table(record: ConnectionRecord) -> Table:
    columns = (
        Column("AGENT"),
        Column("STATUS", rank=3),
        Column("PROFILE"),
        Column("HASH", rank=1),
        Column("SETTINGS", rank=4, least=20),
        Column("PROBLEM", rank=2, least=16),
    )
    rows = [
        (
            each.agent,
            each.status,
            each.state.replace("_", " "),
            each.hash[:_HASH],
            each.shape,
            each.problem,
        )
        for each in record.members
    ]
    return fit(columns, rows, screen_width())


def trials_table(answer: ConnectionTestAnswer) -> Table:
    """Return one line for each host; steps that no host has are left out."""
    steps = [step for step in _STEPS if any(step in each.steps for each in answer.members)]
    columns = (
        Column("AGENT"),
        Column("RESULT"),
        *(Column(step.upper(), right=True, rank=5) for step in steps),
        Column("SERVER", rank=4, least=10),
        Column("PROFILE", rank=3),
        Column("REASON", rank=1, least=20),
    )
    rows = [
        (
            each.agent,
            each.result,
            *(_milliseconds(each.steps.get(step)) for step in steps),
            each.server,
            each.profile[:_HASH],
            f"{each.code}: {each.reason}" if each.code else each.reason,
        )
        for each in answer.members
    ]
    return fit(columns, rows, screen_width())


def _milliseconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"

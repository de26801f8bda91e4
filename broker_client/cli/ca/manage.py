"""`mesh ca …`: rotation of the mesh's authority, or of a NATS key, in four steps."""

from typing import Annotated, Literal

from cyclopts import Parameter

from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.report import print_json, print_list, say, screen_width
from broker_client.cli.screen.tables import Column, fit, local_time
from broker_client.cli.session import call
from schemas.messages.api import CaAnswer, CaRotate, NoQuery, RotationRecord
from schemas.verbs import CA_ROTATE, CA_SHOW

Step = Literal["prepare", "activate", "taint", "revoke"]
Key = Literal[
    "authority",
    "agent",
    "enrol",
    "viewer",
    "operator",
    "admin",
    "master",
    "system",
    "nats-operator",
]


def show(*, shared: Listing = LISTING) -> None:
    """Show the authority and the NATS keys, the step that is due, and who holds it up."""
    _print(shared, call(shared, lambda mesh: mesh.ask(CA_SHOW, NoQuery())))


def rotate(
    step: Annotated[Step, Parameter(help="The step; the same again completes it.")],
    /,
    *,
    key: Annotated[
        Key,
        Parameter(
            help="What is replaced: the authority, the signing key of a role, that of the system"
            " account, or the NATS operator's."
        ),
    ] = "authority",
    force: Annotated[
        bool, Parameter(negative="", help="Even if agents or clients are cut off.")
    ] = False,
    shared: Shared = SHARED,
) -> None:
    """Replace the mesh's authority or a NATS key, step by step.

    prepare: all trust the new one as well. activate: it signs from now on. taint: holders of
    certificates of the old one renew them. revoke: the old one is no longer trusted.
    """
    request = CaRotate(step=step, key=key, force=force)
    _print(shared, call(shared, lambda mesh: mesh.ask(CA_ROTATE, request)))


def _print(shared: Shared, answer: CaAnswer) -> None:
    if shared.output == "json":
        print_json(answer)
        return
    columns = (
        Column("KEY"),
        Column("STAGE"),
        Column("SINCE", 2),
        Column("SIGNS"),
        Column("BESIDE", 1),
        Column("NEXT STEP"),
        Column("HELD UP BY", least=12),
    )
    print_list(
        shared,
        RotationRecord,
        answer.rotations,
        lambda: fit(columns, [_row(each) for each in answer.rotations], screen_width()),
        nothing="no keys",
    )
    if answer.note:
        say(answer.note)


def _row(each: RotationRecord) -> tuple[str, ...]:
    beside = f"#{each.other}" if each.other else ""
    more = each.waiting - len(each.waiting_for)
    held_up = ", ".join(each.waiting_for) + (f" and {more} more" if more else "")
    since = local_time(each.since)
    return (each.key, each.stage, since, f"#{each.active}", beside, each.next, held_up)

"""`mesh ca …`: rotation of the mesh's authority, or of a NATS key, in four steps."""

from typing import Annotated, Final, Literal

from cyclopts import Parameter

from broker_client.cli.options import LISTING, SHARED, Listing, Shared
from broker_client.cli.screen.columns import COLUMNS_HELP, Columns, Trait, print_columns, text
from broker_client.cli.screen.report import print_json, say
from broker_client.cli.screen.tables import Column, local_time
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


def _held_up(each: RotationRecord) -> str:
    more = each.waiting - len(each.waiting_for)
    return ", ".join(each.waiting_for) + (f" and {more} more" if more else "")


_TRAITS: Final[dict[str, Trait[RotationRecord]]] = {
    "key": text("KEY", lambda r: r.key),
    "stage": text("STAGE", lambda r: r.stage),
    "since": text("SINCE", lambda r: r.since or "", rank=2, shown=local_time),
    "signs": Trait(Column("SIGNS"), lambda r, _: f"#{r.active}", lambda r, _: float(r.active)),
    "beside": Trait(
        Column("BESIDE", 1),
        lambda r, _: f"#{r.other}" if r.other else "",
        lambda r, _: float(r.other) if r.other else None,
    ),
    "next": text("NEXT STEP", lambda r: r.next),
    "waiting": text("HELD UP BY", _held_up, least=12),
}
ROTATIONS: Final = Columns(_TRAITS)


def show(
    *,
    columns: Annotated[str | None, Parameter(help=COLUMNS_HELP, validator=ROTATIONS.check)] = None,
    shared: Listing = LISTING,
) -> None:
    """Show the authority and the NATS keys, the step that is due, and who holds it up."""
    _print(shared, call(shared, lambda mesh: mesh.ask(CA_SHOW, NoQuery())), columns)


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


def _print(shared: Shared, answer: CaAnswer, columns: str | None = None) -> None:
    if shared.output == "json":
        print_json(answer)
        return
    rotations = answer.rotations
    print_columns(shared, ROTATIONS, RotationRecord, rotations, names=columns, nothing="no keys")
    if answer.note:
        say(answer.note)

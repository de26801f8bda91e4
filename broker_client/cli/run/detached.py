"""Submission without waiting for the end, as `mesh run` and `mesh do` make it with --detach."""

from collections.abc import Coroutine
from typing import Any, Final

from msgspec import structs

from broker_client.cli.options import Common
from broker_client.cli.run.attend import interrupts, until_submitted
from broker_client.cli.screen.report import print_submitted, say
from broker_client.cli.screen.tables import in_local_time
from broker_client.cli.words import INTERRUPTED
from schemas.messages.api import SubmitAnswer

SHOW: Final = "mesh command show"


async def submit_only(
    submitting: Coroutine[Any, Any, SubmitAnswer], id: str, common: Common, *, is_own_id: bool
) -> int:
    """Await `submitting` and print the id; returns the exit code. is_own_id: a person chose it."""
    with interrupts() as interrupted:
        answer = await until_submitted(submitting, id, interrupted, see=SHOW)
    if answer is None:
        return INTERRUPTED
    answer = answer if is_own_id else structs.replace(answer, duplicate=False)
    print_submitted(answer.id, answer, common.output)
    if common.output != "json":
        say_why_it_waits(answer)
    return 0


def say_why_it_waits(answer: SubmitAnswer) -> None:
    """Print that the command waits, as no agent or host is active or all lack a resource."""
    if answer.next:
        say(f"{answer.id} {in_local_time(answer.next)}")

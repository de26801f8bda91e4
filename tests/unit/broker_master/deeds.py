"""Facts of a command for tests, and the book that they make."""

import copy
from typing import Any

import msgspec

from broker_master.core.book import CommandBook
from broker_master.core.commands import Command
from schemas import subjects
from schemas.messages.facts import (
    Accepted,
    Assigned,
    CancelAsked,
    Decided,
    Fact,
    Outcome,
    Started,
    Terms,
)
from schemas.states import State
from tests.fake_clock import EPOCH

Deed = tuple[subjects.Fact, Fact]
_TERMS = Terms.__struct_fields__
NO_ARGS = msgspec.Raw(msgspec.msgpack.encode({}))


def accepted(command_id: str = "c1", **fields: Any) -> Deed:  # noqa: ANN401  of Accepted or Terms
    made = {"client": "ops", "group": "web", "action": "noop", "args": NO_ARGS}
    terms = Terms(**{name: fields.pop(name) for name in (*fields,) if name in _TERMS})
    body = Accepted(id=command_id, **{**made, "submitted_at": EPOCH, "terms": terms, **fields})
    return subjects.Fact(command_id, 0, "accepted"), body


def assigned(command_id: str = "c1", attempt: int = 1, agent: str = "web-1") -> Deed:
    body = Assigned(agent=agent, at=EPOCH + attempt, epoch=1, why="least loaded")
    return subjects.Fact(command_id, attempt, "assigned"), body


def started(command_id: str = "c1", attempt: int = 1, agent: str = "web-1") -> Deed:
    body = Started(agent=agent, accepted_at=EPOCH + 2, started_at=EPOCH + 3, pid=7, sent=1)
    return subjects.Fact(command_id, attempt, "started"), body


def ended(
    command_id: str = "c1",
    attempt: int = 1,
    state: State = State.SUCCEEDED,
    **fields: Any,  # noqa: ANN401  fields of Outcome
) -> Deed:
    body = Outcome(state=state, **{"at": EPOCH + 9, "agent": "web-1" if attempt else "", **fields})
    return subjects.Fact(command_id, attempt, "outcome"), body


def late(command_id: str = "c1", attempt: int = 1, state: State = State.SUCCEEDED) -> Deed:
    body = Outcome(state=state, at=EPOCH + 20, agent="web-1", exit_code=0, late=True)
    return subjects.Fact(command_id, attempt, "late"), body


def cancel_asked(command_id: str = "c1", by: str = "ops") -> Deed:
    return subjects.Fact(command_id, 0, "cancel"), CancelAsked(by=by, at=EPOCH + 5)


def decided(command_id: str = "c1", attempt: int = 1, what: str = "rerun") -> Deed:
    body = Decided(by="ops", at=EPOCH + 9, what=what)
    return subjects.Fact(command_id, attempt, "decided"), body


def replayed(*deeds: Deed) -> CommandBook:
    """The book after these facts, which stand in the stream from sequence 1 on."""
    book = CommandBook()
    for sequence, (fact, body) in enumerate(deeds, 1):
        book.replay(fact, body, sequence)
    book.end_replay()
    return book


def command_of(*deeds: Deed) -> Command:
    """The command that these facts are about."""
    command = replayed(*deeds).get(deeds[0][0].command)
    assert command is not None
    return command


def shape(command: Command) -> object:
    """State of a command by its facts, without their places in the stream."""
    body = msgspec.structs.replace(command.accepted, args=msgspec.Raw())
    bare = msgspec.structs.replace(command, accepted=body, facts={}, order=0)
    return copy.deepcopy(msgspec.structs.asdict(bare))

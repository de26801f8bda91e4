"""A terminal shows one line for each kind of wait while a command does not go on."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from broker_client.cli.run.waits import told
from schemas.messages.facts import AttemptRecord, CommandRecord
from schemas.moments import parse_rfc3339
from schemas.states import STATES, State

SINCE = "2025-11-21T20:00:05.000Z"
THEN = "given up at 2025-11-21T20:00:45.000Z unless the agent returns"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(state: str, sent: int = 1, **fields: object) -> CommandRecord:
    made = CommandRecord(
        id="c1",
        group="web",
        agent=None,
        action="process",
        state=state,
        attempts=[AttemptRecord(attempt=1, agent="web-1", state=state, sent=sent)],
        submitted_at=SINCE,
        client="ann",
        since=SINCE,
    )
    return msgspec.structs.replace(made, **fields)


def test_unknown_command_says_since_when_why_and_what_happens_when() -> None:
    unknown = record("unknown", reason="web-1 does not respond; it was running before", next=THEN)
    assert told(unknown, parse_rfc3339(SINCE) + 10) == (
        "c1 is unknown since 2025-11-21 20:00:05: web-1 does not respond; it was running before;"
        " given up at 2025-11-21 20:00:45 (in 30s) unless the agent returns"
    )


def test_queued_command_says_what_it_waits_for() -> None:
    queued = record("queued", reason="waits for web-1 to be active", next="expires soon")
    assert told(queued) == "c1 is queued: waits for web-1 to be active; expires soon"
    assert told(record("queued")) == "c1 is queued: no agent is free"


def test_command_that_is_not_acknowledged_says_so_from_the_second_transmission_on() -> None:
    assert told(record("sent")) == ""
    why = "web-1 has acknowledged none of 2 transmissions"
    again = "sent again each 5 s, up to 5 times"
    assert told(record("sent", sent=2, reason=why, next=again)) == (
        "c1 is not acknowledged: web-1 has acknowledged none of 2 transmissions;"
        " sent again each 5 s, up to 5 times"
    )


@pytest.mark.parametrize("state", sorted(set(STATES) - {"queued", "unknown", "stopping", "sent"}))
def test_command_that_goes_on_or_has_ended_has_nothing_to_say(state: str) -> None:
    assert told(record(State(state), reason="for some reason")) == ""

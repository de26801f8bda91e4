"""Results as readers get them: each once, also where the master repeats them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker_client import results as module
from broker_client.results import Results
from broker_client.runtime.frames import Msg
from schemas import codec, subjects
from schemas.messages.facts import CommandRecord


class Pushed:
    """A link on which results come when the test says so."""

    def __init__(self) -> None:
        self.note: Callable[[Msg], None] = lambda _: None
        self.results = Results(cast("Any", SimpleNamespace(name="ann", link=self)))

    def subscribe(self, _subject: str, callback: Callable[[Msg], None]) -> None:
        self.note = callback

    def on_connected(self, _listener: object) -> None:
        return None

    def push(self, command: str, reason: str = "") -> None:
        record = CommandRecord(
            id=command,
            client="ann",
            group="web",
            action="noop",
            agent="web-1",
            attempts=[],
            state="succeeded",
            reason=reason,
            submitted_at="",
            since="",
        )
        self.note(Msg(subjects.result("ann", command), "", codec.encode(record)))


async def test_repeated_result_is_read_once_and_an_amended_one_again() -> None:
    link = Pushed()
    reader = link.results.open_reader(10)
    link.push("c1")
    link.push("c2")
    link.push("c1")
    link.push("c1", "late result")
    link.push("c1", "late result")
    read = [await anext(reader) for _ in range(3)]
    assert [(record.id, record.reason) for record in read] == [
        ("c1", ""),
        ("c2", ""),
        ("c1", "late result"),
    ]
    assert not reader._unread


async def test_memory_of_what_was_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEATED_MAX", 2)
    link = Pushed()
    link.results.open_reader(10)
    for number in range(5):
        link.push(f"c{number}")
    assert list(link.results._read) == [subjects.result("ann", f"c{each}") for each in (3, 4)]

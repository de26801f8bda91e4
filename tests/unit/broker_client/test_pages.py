"""Lists that fill more than one page are read to their end, or to what was asked for."""

import msgspec
import pytest

from broker_client.api import MeshClient
from broker_client.cli.command.listing import read_pages
from schemas.messages.api import (
    AgentList,
    AgentRecord,
    AgentsAnswer,
    CommandList,
    CommandPage,
    DetailsRecord,
)
from schemas.messages.facts import CommandRecord
from schemas.verbs import AGENT_LIST


class Book:
    """A master with `count` commands, of which a page holds at most `room`."""

    def __init__(self, count: int, room: int) -> None:
        self.names = [f"c{number}" for number in range(count)]
        self.room = room
        self.asked: list[int] = []

    async def ask(self, query: CommandList) -> CommandPage:
        self.asked.append(query.limit)
        first = int(query.cursor or "0")
        after = first + min(query.limit, self.room)
        return CommandPage(
            commands=[command(name) for name in self.names[first:after]],
            cursor=str(after) if after < len(self.names) else None,
        )


def command(name: str) -> CommandRecord:
    return CommandRecord(
        id=name,
        group="web",
        agent=None,
        action="noop",
        state="queued",
        attempts=[],
        submitted_at="",
        client="ann",
    )


@pytest.mark.parametrize(
    ("count", "room", "limit", "got", "is_more"),
    [
        (0, 10, 50, 0, False),
        (7, 3, 50, 7, False),
        (7, 3, 5, 5, True),
        (6, 3, 6, 6, False),
        (1200, 500, 1100, 1100, True),
    ],
)
async def test_pages_are_followed_up_to_the_limit(
    count: int, room: int, limit: int, got: int, is_more: bool
) -> None:
    book = Book(count, room)
    found, there_is_more = await read_pages(book.ask, CommandList(), limit)
    assert [each.id for each in found] == book.names[:got]
    assert there_is_more is is_more
    assert max(book.asked) <= 500


async def test_command_that_ends_between_two_pages_is_shown_once() -> None:
    pages = [
        CommandPage(commands=[command("a"), command("b")], cursor="next"),
        CommandPage(commands=[command("b"), command("c")], cursor=None),
    ]

    async def ask(_query: CommandList) -> CommandPage:
        return pages.pop(0)

    found, _ = await read_pages(ask, CommandList(), 50)
    assert [each.id for each in found] == ["a", "b", "c"]


class Agents(MeshClient):
    """Answers `agent.list` from memory, two to a page."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.asked: list[AgentList] = []

    async def ask(self, noun: object, verb: AgentList) -> AgentsAnswer:  # type: ignore[override]
        assert noun is AGENT_LIST
        self.asked.append(verb)
        first = int(verb.cursor or "0")
        after = first + 2
        cursor = str(after) if after < len(self.names) else None
        return AgentsAnswer(agents=[agent(name) for name in self.names[first:after]], cursor=cursor)


def agent(name: str) -> AgentRecord:
    return AgentRecord(
        agent=name,
        group="web",
        status="active",
        reason="",
        since="",
        next="",
        admin="enabled",
        liveness="live",
        certificate=None,
        details=DetailsRecord(id=""),
        running=0,
        slots=1,
    )


async def test_agents_of_all_pages_are_given_with_the_filter_on_each() -> None:
    client = Agents([f"web-{number}" for number in range(5)])
    found = await client.agents(group="web", status="active")
    assert [each.agent for each in found] == client.names
    filters = {msgspec.structs.replace(request, cursor=None) for request in client.asked}
    assert filters == {AgentList(group="web", status="active")}
    assert len(client.asked) == 3

"""Agents are chosen by the actions that they have announced."""

from broker_master.services.obstacles import Obstacles
from schemas.messages.registry import Policy
from schemas.states import State
from tests.unit.broker_master.stage import Stage, states


async def test_command_goes_to_the_agent_that_has_its_action() -> None:
    stage = Stage("old", "new")
    await stage.hello("old")
    await stage.hello("new", actions=["noop", "process", "sleep"])
    commands = [await stage.submit(f"c{n}", action="sleep") for n in range(4)]
    assert [command.attempts[0].agent for command in commands] == ["new"] * 4
    usual = await stage.submit("usual")
    assert usual.attempts[0].agent == "old", "an agent that announces none has the usual ones"


async def test_command_waits_with_the_reason_until_an_agent_has_its_action() -> None:
    stage = Stage("web-1")
    await stage.hello("web-1")
    command = await stage.submit(action="sleep")
    assert states(command) == [State.QUEUED]
    waits_for = Obstacles(stage.plane).waits_for(command.accepted)
    assert waits_for.endswith("no agent of web has the action sleep")
    await stage.hello("web-1", incarnation="i2", actions=["sleep"])
    await stage.later(0.1)
    assert states(command) == [State.SENT, State.SENT]


async def test_actions_are_forgotten_with_the_incarnation_that_had_them() -> None:
    stage = Stage("web-1")
    await stage.hello("web-1", actions=["sleep"])
    await stage.hello("web-1", incarnation="i2")
    assert states(await stage.submit(action="sleep")) == [State.QUEUED]


async def test_command_that_the_limit_of_its_group_holds_back_says_so() -> None:
    stage = Stage("web-1")
    await stage.hello("web-1")
    stage.plane.dispatcher.set_policy("web", Policy(limit=1))
    await stage.submit("first")
    waiting = await stage.submit("second")
    assert states(waiting) == [State.QUEUED]
    waits_for = Obstacles(stage.plane).waits_for(waiting.accepted)
    assert waits_for == (
        "waits for a command of group web to end: its limit of 1 at once is reached"
    )
    stage.plane.dispatcher.set_policy("web", Policy())
    assert Obstacles(stage.plane).waits_for(waiting.accepted).startswith("waits for a free slot")

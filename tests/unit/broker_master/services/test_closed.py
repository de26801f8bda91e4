"""An agent whose connection has ended is passed over at once, and goes on when it is heard."""

from broker_master.services.obstacles import Obstacles
from schemas.states import State
from tests.unit.broker_master.stage import Stage, states


async def test_member_without_a_connection_is_not_chosen() -> None:
    stage = Stage("web-1", "web-2")
    await stage.hello("web-1")
    await stage.hello("web-2")
    stage.presence.on_closed("web-1")
    for number in range(3):
        command = await stage.submit(f"c{number}")
        assert command.attempts[0].agent == "web-2"


async def test_command_for_an_agent_without_a_connection_waits_and_goes_on_with_a_beat() -> None:
    stage = Stage("web-1")
    await stage.hello("web-1")
    stage.presence.on_closed("web-1")
    command = await stage.submit("c1")
    assert states(command) == [State.QUEUED]
    assert Obstacles(stage.plane).waits_for(command.accepted) == (
        "waits for an agent of web to take work again:"
        " no agent of web takes new work: 1 not connected"
    )
    await stage.beat("web-1")
    assert states(command) == [State.SENT, State.SENT]

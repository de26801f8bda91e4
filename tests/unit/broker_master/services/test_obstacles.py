"""Words about a command that waits for a target which is not active: why, and what to do."""

import pytest

from broker_master.services.obstacles import Obstacles
from schemas.messages.registry import AdminTerm
from schemas.states import Admin
from tests.planes import add_agent
from tests.unit.broker_master.stage import Stage

END = "1970-01-01T01:00:00.000Z"


async def waits_for(stage: Stage, **fields: object) -> str:
    command = await stage.submit("c1", **fields)
    return Obstacles(stage.plane).waits_for(command.accepted)


@pytest.mark.parametrize(
    ("admin", "why"),
    [
        (Admin.DISABLED, "disabled by ann, silent; mesh agent enable web-1"),
        (
            Admin.PAUSED,
            f"paused by ann, silent; enabled at {END}, or before: mesh agent enable web-1",
        ),
        (Admin.REVOKED, "revoked by ann; set it up again: mesh agent token web-1"),
    ],
)
async def test_command_for_an_agent_that_is_held_says_by_whom_and_how_to_go_on(
    admin: Admin, why: str
) -> None:
    stage = Stage()
    term = AdminTerm(until=3600.0 if admin is Admin.PAUSED else 0.0)
    add_agent(stage.plane, "web-1", "web", admin=admin, admin_by="ann", admin_term=term)
    assert await waits_for(stage, agent="web-1") == f"waits for web-1 to be active: {why}"


async def test_command_for_a_group_that_is_inactive_has_the_reason_of_the_group() -> None:
    stage = Stage()
    for name in ("web-1", "web-2"):
        add_agent(stage.plane, name, "web", admin=Admin.DISABLED, admin_by="ann")
    assert await waits_for(stage) == (
        "waits for an agent of web to be active: all agents are disabled; mesh agent enable NAME"
    )


async def test_command_for_a_group_without_agents_says_that_there_is_none() -> None:
    assert await waits_for(Stage()) == (
        "waits for an agent of web to be active: no agents; mesh agent create NAME --group GROUP"
    )
